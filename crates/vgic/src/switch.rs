//! The world switch: filling list registers, and folding them back.
//!
//! List registers may stay where they are, in the hardware, over any number of
//! exits. They are folded back when there is news for the vCPU
//! ([`Cpu::needs_flush`]), when the guest's use of them asks for it (a
//! maintenance interrupt), when the vCPU's state is looked at (MMIO to pending
//! or active registers: [`Vgic::needs_sync`]), and when it is put.

use crate::bank::{Bank, Gate, LrBits, bit, bits};
use crate::lr::{
    ICH_HCR_EN, ICH_HCR_EOICOUNT_MASK, ICH_HCR_EOICOUNT_SHIFT, ICH_HCR_LRENPIE, ICH_HCR_NPIE,
    ICH_HCR_TDIR, ICH_HCR_UIE, ICH_LR_ACTIVE, ICH_LR_PENDING, ListRegisters, Lr, MAX_LRS, intid,
};
use crate::sysreg::{VMCR_VEOIM, interface_passes};
use crate::vgic::{Cpu, Live, Vgic, WORK_BANKS, WORK_SGI_SHIFT};
use core::sync::atomic::Ordering;

/// What a flush or a sync leaves to its caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// PPIs, by INTID, whose physical interrupts must be deactivated now
    /// (ICC_DIR_EL1): their lines fell before the guest took them.
    pub deactivate: u32,
    /// How many list registers changed: write `lr[..write]`, and ICH_HCR_EL2.
    pub write: u8,
}

/// An interrupt chosen for a list register.
#[derive(Clone, Copy, Default)]
struct Pick {
    /// Active ones first, then by priority.
    key: u16,
    bank: u8,
    i: u8,
}

const KEY_PENDING: u16 = 0x100;

/// The best `room` candidates seen.
struct Picks {
    picks: [Pick; MAX_LRS],
    count: usize,
    room: usize,
    /// Banks of those that found no room.
    backlog: u32,
    /// The best one pending among those.
    best_pending: Option<Pick>,
    /// Whether one that is active is among those.
    spilled_active: bool,
}

impl Picks {
    fn new(room: usize) -> Self {
        Picks {
            picks: [Pick::default(); MAX_LRS],
            count: 0,
            room: room.clamp(1, MAX_LRS),
            backlog: 0,
            best_pending: None,
            spilled_active: false,
        }
    }

    fn offer_all(&mut self, bank: &Bank, n: usize, cpu: u16, gate: Gate) {
        let candidates = bank.candidates(gate);
        for i in bits(candidates) {
            if bank.cpu_of(i) == cpu {
                let class = if bank.active & bit(i) != 0 { 0 } else { KEY_PENDING };
                let key = class | u16::from(bank.priority_of(i));
                self.offer(Pick { key, bank: n as u8, i: i as u8 });
            }
        }
    }

    fn offer(&mut self, pick: Pick) {
        let at = self
            .picks
            .iter()
            .take(self.count)
            .position(|other| pick.key < other.key)
            .unwrap_or(self.count);
        if self.count < self.room {
            self.count = self.count.saturating_add(1);
        } else {
            let last = self.room.saturating_sub(1);
            let loser = if at > last { pick } else { self.get(last) };
            self.spill(loser);
            if at > last {
                return;
            }
        }
        // Make room at `at`.
        if let Some(tail) = self.picks.get_mut(at..self.count) {
            tail.rotate_right(1);
            if let Some(slot) = tail.first_mut() {
                *slot = pick;
            }
        }
    }

    fn get(&self, at: usize) -> Pick {
        self.picks.get(at).copied().unwrap_or_default()
    }

    fn spill(&mut self, pick: Pick) {
        self.backlog |= bit(usize::from(pick.bank));
        if pick.key & KEY_PENDING == 0 {
            self.spilled_active = true;
        } else if self.best_pending.is_none_or(|best| pick.key < best.key) {
            self.best_pending = Some(pick);
        }
    }

    /// Active interrupts may take all list registers but one while others are
    /// pending: those preempt, or the guest would never get on.
    fn settle(&mut self) {
        let last = self.room.saturating_sub(1);
        let worst = self.get(last);
        if self.count == self.room
            && worst.key & KEY_PENDING == 0
            && let Some(best) = self.best_pending
            && let Some(slot) = self.picks.get_mut(last)
        {
            *slot = best;
            self.spill(worst);
        }
    }

    /// Puts those chosen from bank `n` into list registers.
    fn claim(&self, bank: &mut Bank, n: usize, cpu: u16, gate: Gate, lrs: &mut ListRegisters) {
        for pick in self.picks.iter().take(self.count).filter(|p| usize::from(p.bank) == n) {
            let i = usize::from(pick.i);
            // The lock was let go since: it may have become another's.
            if bank.candidates(gate) & bit(i) == 0 || bank.cpu_of(i) != cpu {
                continue;
            }
            put_all(lrs, bank, n, bit(i), cpu, gate);
        }
    }

    /// Whether any was chosen from bank `n`.
    fn has(&self, n: usize) -> bool {
        self.picks.iter().take(self.count).any(|pick| usize::from(pick.bank) == n)
    }
}

impl Vgic {
    /// Before the guest runs on, if [`Cpu::needs_flush`] or a maintenance
    /// interrupt came: folds the list registers back and fills them anew. The
    /// vCPU's hardware state must be in `lrs` (`lr[..used]`; `hcr` where it has
    /// LRENPIE). `lines` holds the levels of the lines of mapped PPIs, by INTID.
    #[inline]
    pub fn flush(&self, vcpu: usize, lrs: &mut ListRegisters, lines: u32) -> Outcome {
        self.flush_fired(vcpu, lrs, 0, &mut || lines)
    }

    /// [`flush`](Self::flush), and the physical interrupts of the PPIs `fired`
    /// have just been acknowledged. The guest may have ended the ones before:
    /// those are folded back first, or their end would end these. `lines` is
    /// asked only if a mapped PPI's line is known to be up.
    pub fn flush_fired(
        &self,
        vcpu: usize,
        lrs: &mut ListRegisters,
        fired: u32,
        lines: &mut dyn FnMut() -> u32,
    ) -> Outcome {
        let mut out = Outcome::default();
        let Some(live) = self.live() else { return out };
        let Some(cpu) = live.cpu(vcpu) else { return out };
        if lrs.hcr >> ICH_HCR_EOICOUNT_SHIFT & ICH_HCR_EOICOUNT_MASK != 0 {
            self.end_spilled(live, cpu, lrs);
        }
        let me = cpu.index() as u16;
        let before = lrs.used;
        let mut banks = core::mem::take(&mut lrs.backlog);
        let (told, spis) = told_of_private(lrs);
        if spis {
            banks |= self.fold_shared(live, cpu, lrs);
        }
        let gate;
        let mut fits;
        {
            let mut private = cpu.lock_raw();
            let work = cpu.work.swap(0, Ordering::SeqCst);
            // Not before the work is taken: who changes it adds work after.
            gate = live.gate();
            private.set_latch((work >> WORK_SGI_SHIFT) as u32 & 0xffff);
            banks |= (work & WORK_BANKS) as u32;
            out.deactivate = fold_private(&mut private, lrs, &told, fired, lines);
            // Not cleared: what isn't filled again is, below.
            lrs.used = 0;
            let mine = private.candidates(gate);
            // One always fits; the instruction set counts bits in FP registers only.
            fits = mine & mine.wrapping_sub(1) == 0 || self.has_room(mine);
            if fits {
                put_all(lrs, &mut private, 0, mine, me, gate);
            }
        }
        // A timer tick or an SGI, and one lock, is the common case.
        if banks >> 1 != 0 {
            fits = fits && put_shared(live, cpu, lrs, banks & !1, self.config.nr_lrs(), gate);
        }
        if fits {
            lrs.hcr = ICH_HCR_EN;
        } else {
            out.deactivate |= self.choose(live, cpu, lrs, banks | 1, lines, gate);
        }
        let stale = usize::from(lrs.used)..usize::from(before);
        for stale in lrs.lr.get_mut(stale).into_iter().flatten() {
            *stale = 0;
        }
        out.write = before.max(lrs.used);
        out
    }

    /// Whether there are list registers for all of `mine`.
    #[inline(never)]
    fn has_room(&self, mine: u32) -> bool {
        mine.count_ones() as usize <= self.config.nr_lrs()
    }

    /// More interrupts than list registers: fills them with those that matter
    /// most, and asks to hear when there is room. The PPIs to deactivate.
    #[cold]
    #[inline(never)]
    fn choose(
        &self,
        live: &Live,
        cpu: &Cpu,
        lrs: &mut ListRegisters,
        banks: u32,
        lines: &mut dyn FnMut() -> u32,
        gate: Gate,
    ) -> u32 {
        let me = cpu.index() as u16;
        // What was put in before there were too many: the guest hasn't run.
        let (told, _) = told_of_private(lrs);
        let deactivate = fold_private(&mut cpu.lock_raw(), lrs, &told, 0, lines);
        let banks = banks | self.fold_shared(live, cpu, lrs);
        clear(lrs);
        let mut picks = Picks::new(self.config.nr_lrs());
        for n in bits(banks) {
            if let Some(bank) = live.lock_bank(cpu, n) {
                picks.offer_all(&bank, n, me, gate);
            }
        }
        picks.settle();
        for n in bits(banks) {
            if picks.has(n)
                && let Some(mut bank) = live.lock_bank(cpu, n)
            {
                picks.claim(&mut bank, n, me, gate, lrs);
            }
        }
        if usize::from(lrs.used) < picks.count && picks.backlog != 0 {
            // Somebody else took what we chose: there is room for the others.
            cpu.work.fetch_or(u64::from(picks.backlog), Ordering::SeqCst);
        }
        self.set_hcr(lrs, &picks);
        deactivate
    }

    /// A vCPU sends SGI `sgi` to itself (ICC_SGI1R_EL1), and its CPU interface is in
    /// the hardware: fills its list register at once, if nothing else has to be looked
    /// at. Which one is to be written; `None`: nothing was done, and
    /// [`Vgic::send_sgi`] and a flush do it. `read` gives a list register.
    #[inline]
    pub fn send_to_self(
        &self,
        vcpu: usize,
        sgi: usize,
        lrs: &mut ListRegisters,
        read: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        let live = self.live()?;
        let cpu = live.cpu(vcpu)?;
        if cpu.needs_flush() || lrs.backlog != 0 || lrs.hcr != ICH_HCR_EN {
            return None;
        }
        let (mask, gate) = (bit(sgi), live.gate());
        let mut bank = cpu.lock_raw();
        if bank.from_cpus || !bank.passes(mask, gate) || bank.active & mask != 0 {
            return None;
        }
        let slot = if bank.inflight & mask == 0 {
            usize::from(lrs.used)
        } else {
            let slot = lrs.in_use().iter().position(|&lr| intid(lr) as usize == sgi)?;
            if read(slot) & (ICH_LR_PENDING | ICH_LR_ACTIVE) != 0 {
                return None;
            }
            bank.fold(&LrBits { held: mask, ..LrBits::default() });
            slot
        };
        if slot >= self.config.nr_lrs() {
            return None;
        }
        bank.set_latch(mask);
        let filled = bank.fill(mask, gate);
        let lr = bank.lr(sgi, vcpu as u16, &filled);
        *lrs.lr.get_mut(slot)? = lr;
        lrs.used = lrs.used.max((slot as u8).wrapping_add(1));
        Some(slot)
    }

    /// Folds the list registers back without filling them: when the vCPU is
    /// put, or its pending and active states are looked at. A `flush` must
    /// follow before the guest runs on; [`Cpu::needs_flush`] says so then.
    #[inline]
    pub fn sync(&self, vcpu: usize, lrs: &mut ListRegisters, lines: u32) -> Outcome {
        if lrs.used == 0 && lrs.backlog == 0 && lrs.held == 0 {
            return Outcome::default();
        }
        self.sync_used(vcpu, lrs, lines)
    }

    fn sync_used(&self, vcpu: usize, lrs: &mut ListRegisters, lines: u32) -> Outcome {
        let mut out = Outcome { write: lrs.used, ..Outcome::default() };
        let Some(live) = self.live() else { return out };
        let Some(cpu) = live.cpu(vcpu) else { return out };
        self.end_spilled(live, cpu, lrs);
        let mut banks = core::mem::take(&mut lrs.backlog);
        let (told, spis) = told_of_private(lrs);
        if spis {
            banks |= self.fold_shared(live, cpu, lrs);
        }
        {
            let mut private = cpu.lock_raw();
            out.deactivate = fold_private(&mut private, lrs, &told, 0, &mut || lines);
            if private.candidates(live.gate()) != 0 {
                banks |= 1;
            }
        }
        clear(lrs);
        if banks != 0 {
            cpu.work.fetch_or(u64::from(banks), Ordering::SeqCst);
        }
        lrs.hcr = ICH_HCR_EN;
        out
    }

    /// Whether a guest's access to this register needs the vCPU's list
    /// registers folded back first: pending and active states.
    #[inline]
    pub fn needs_sync(region: crate::Region, offset: u32) -> bool {
        let at = match region {
            crate::Region::Dist => offset,
            // GICD_CPENDSGIR, GICD_SPENDSGIR.
            crate::Region::DistV2 if (0xf10..0xf30).contains(&offset) => return true,
            crate::Region::DistV2 => offset,
            crate::Region::Redist(_) => offset.wrapping_sub(0x1_0000),
        };
        (0x200..0x400).contains(&at)
    }

    /// Folds SPIs back. Returns the banks that still have something for `cpu`.
    fn fold_shared(&self, live: &Live, cpu: &Cpu, lrs: &mut ListRegisters) -> u32 {
        let mut banks = 0;
        let me = cpu.index() as u16;
        for at in 0..usize::from(lrs.used) {
            let Some(lr) = lrs.lr.get(at).filter(|&&lr| is_spi(lr)) else { continue };
            let intid = intid(*lr);
            let (n, i) = ((intid >> 5) as usize, (intid & 31) as usize);
            let mut told = LrBits::default();
            told.add(*lr);
            let mut rerouted = None;
            let ended;
            {
                let Some(mut bank) = live.lock_bank(cpu, n) else { continue };
                ended = bank.is_with(i, me) && bank.fold(&told) != 0;
                if bank.candidates(live.gate()) & bit(i) != 0 {
                    if bank.cpu_of(i) == me {
                        banks |= bit(n);
                    } else {
                        rerouted = Some(bank.cpu_of(i));
                    }
                }
            }
            if ended {
                self.ended(intid);
            }
            if let Some(other) = rerouted {
                self.poke(live, other, n, Some(cpu.index()));
            }
        }
        banks
    }

    /// The guest wrote ICC_DIR_EL1 and it was trapped (ICH_HCR_EL2.TDIR):
    /// deactivates `intid`. Sync the vCPU first, flush it after.
    pub fn deactivate(&self, vcpu: usize, intid: u32) {
        let Some(live) = self.live() else { return };
        let Some(cpu) = live.cpu(vcpu) else { return };
        let (n, mask) = ((intid >> 5) as usize, bit((intid & 31) as usize));
        self.change(live, cpu, n, Some(vcpu), |bank| {
            let mine = bank.of_cpu(mask & bank.active, cpu.index() as u16);
            bank.force_active(mine, false);
            mine
        });
    }

    /// The guest ended interrupts that were active and in no list register. The
    /// hardware counts them (ICH_HCR_EL2.EOIcount); with EOImode 0 ends come in
    /// order of priority.
    fn end_spilled(&self, live: &Live, cpu: &Cpu, lrs: &mut ListRegisters) {
        let count = (lrs.hcr >> ICH_HCR_EOICOUNT_SHIFT) & ICH_HCR_EOICOUNT_MASK;
        lrs.hcr &= !(ICH_HCR_EOICOUNT_MASK << ICH_HCR_EOICOUNT_SHIFT);
        for _ in 0..count {
            let mut best: Option<(u8, usize, usize)> = None;
            for n in bits(lrs.backlog) {
                let Some(bank) = live.lock_bank(cpu, n) else { continue };
                for i in bits(spilled(&bank, cpu)) {
                    let priority = bank.priority_of(i);
                    if best.is_none_or(|(other, ..)| priority < other) {
                        best = Some((priority, n, i));
                    }
                }
            }
            let Some((_, n, i)) = best else { return };
            let ended = match live.lock_bank(cpu, n) {
                Some(mut bank) => {
                    let mine = bit(i) & spilled(&bank, cpu);
                    bank.end_spilled(mine)
                }
                None => 0,
            };
            if ended != 0 {
                self.ended((n as u32).wrapping_shl(5) | i as u32);
            }
        }
    }

    fn set_hcr(&self, lrs: &mut ListRegisters, picks: &Picks) {
        lrs.backlog = picks.backlog;
        lrs.hcr = ICH_HCR_EN;
        if picks.backlog == 0 {
            return;
        }
        let (mut pending, mut two) = (false, 0u32);
        for lr in lrs.in_use().iter().map(|&lr| Lr::decode(lr)) {
            pending |= lr.pending && !lr.active;
            two = two.saturating_add(1);
        }
        // Each only where it doesn't fire at once.
        if pending && picks.best_pending.is_some() {
            lrs.hcr |= ICH_HCR_NPIE;
        }
        if two > 1 {
            lrs.hcr |= ICH_HCR_UIE;
        }
        if picks.spilled_active {
            lrs.hcr |= ICH_HCR_LRENPIE;
            if self.config.tds() && lrs.vmcr & VMCR_VEOIM != 0 {
                // Deactivations come in any order here: see them one by one.
                lrs.hcr |= ICH_HCR_TDIR;
            }
        }
    }

    /// Whether the guest could take an interrupt: whether WFI ends, whether a
    /// blocked vCPU must run. `lrs` is the vCPU's, `vmcr` in it up to date.
    pub fn has_deliverable(&self, vcpu: usize, lrs: &ListRegisters) -> bool {
        let waiting = lrs.in_use().iter().map(|&lr| Lr::decode(lr)).any(|lr| {
            lr.pending && !lr.active && interface_passes(lrs.vmcr, lr.priority, lr.group1)
        });
        if waiting {
            return true;
        }
        let Some(live) = self.live() else { return false };
        let Some(cpu) = live.cpu(vcpu) else { return false };
        let work = cpu.work.load(Ordering::SeqCst);
        if work == 0 && lrs.backlog == 0 {
            return false;
        }
        let mut banks = (work & WORK_BANKS) as u32 | lrs.backlog;
        if work >> WORK_SGI_SHIFT != 0 {
            banks |= 1;
        }
        let me = cpu.index() as u16;
        bits(banks).any(|n| {
            let Some(bank) = live.lock_bank(cpu, n) else { return false };
            let ready = bank.deliverable(live.gate()) & !bank.active & !bank.inflight;
            bits(ready).any(|i| {
                bank.cpu_of(i) == me
                    && interface_passes(lrs.vmcr, bank.priority_of(i), bank.group & bit(i) != 0)
            })
        })
    }
}

/// Puts all of `mine`, candidates of bank `n`, in the next list registers. There
/// is room for them.
#[inline(always)]
fn put_all(lrs: &mut ListRegisters, bank: &mut Bank, n: usize, mine: u32, me: u16, gate: Gate) {
    let filled = bank.fill(mine, gate);
    for i in bits(mine) {
        if let Some(slot) = lrs.lr.get_mut(usize::from(lrs.used)) {
            *slot = bank.lr(i, me, &filled) | (n as u64).wrapping_shl(5);
            lrs.used = lrs.used.wrapping_add(1);
        }
    }
}

/// Puts all SPIs of `banks` in list registers; `false` as soon as they don't
/// fit.
#[inline(never)]
fn put_shared(
    live: &Live,
    cpu: &Cpu,
    lrs: &mut ListRegisters,
    banks: u32,
    room: usize,
    gate: Gate,
) -> bool {
    let me = cpu.index() as u16;
    for n in bits(banks) {
        let Some(mut bank) = live.lock_bank(cpu, n) else { continue };
        let mine = bank.of_cpu(bank.candidates(gate), me);
        if usize::from(lrs.used).saturating_add(mine.count_ones() as usize) > room {
            return false;
        }
        put_all(lrs, &mut bank, n, mine, me, gate);
    }
    true
}

/// Whether a list register holds an SPI.
fn is_spi(lr: u64) -> bool {
    intid(lr) >= 32
}

/// Forgets what has been folded back.
fn clear(lrs: &mut ListRegisters) {
    for stale in lrs.lr.iter_mut().take(usize::from(lrs.used)) {
        *stale = 0;
    }
    lrs.used = 0;
}

/// What the list registers say of SGIs and PPIs, and whether there are SPIs.
#[inline]
fn told_of_private(lrs: &ListRegisters) -> (LrBits, bool) {
    let (mut told, mut spis) = (LrBits::default(), false);
    for &lr in lrs.in_use() {
        if is_spi(lr) {
            spis = true;
        } else {
            told.add(lr);
        }
    }
    (told, spis)
}

/// Folds SGIs and PPIs back; then looks at the lines of mapped PPIs: their
/// levels, and those that fired. The PPIs to deactivate.
#[inline(always)]
fn fold_private(
    bank: &mut Bank,
    lrs: &mut ListRegisters,
    told: &LrBits,
    fired: u32,
    lines: &mut dyn FnMut() -> u32,
) -> u32 {
    if bank.from_cpus {
        for &lr in lrs.in_use().iter().filter(|lr| !is_spi(**lr)) {
            bank.fold_sender(lr);
        }
    }
    bank.fold(told);
    for i in bits(fired) {
        bank.set_line(i, true);
    }
    let deactivate = if bank.mapped & (bank.forwarded | bank.line) != 0 {
        bank.resample_mapped(lines())
    } else {
        0
    };
    lrs.held = bank.forwarded;
    deactivate
}

/// Interrupts of `cpu` that are active without a list register.
fn spilled(bank: &Bank, cpu: &Cpu) -> u32 {
    bank.of_cpu(bank.active & !bank.inflight, cpu.index() as u16)
}
