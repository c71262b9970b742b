//! The state of 32 interrupts, whichever GIC version presents them.
//!
//! A bank holds INTIDs `32 * n` to `32 * n + 31`, one bit each: the shape that
//! the GIC's own registers have. Bank 0 exists once per vCPU (SGIs and PPIs),
//! the others are shared (SPIs). See the crate's README for the states.

use crate::lr::{
    ICH_LR_ACTIVE, ICH_LR_EOI, ICH_LR_GROUP, ICH_LR_PENDING, Lr, SENDER_SHIFT, intid,
    lr_of_physical, lr_of_priority,
};
use crate::vgic::{Config, Version};

/// "No vCPU", in [`Bank`]'s routing.
pub(crate) const NO_CPU: u16 = u16::MAX;

/// SGIs, in bank 0.
pub(crate) const SGIS: u32 = 0xffff;

/// Priority bits that exist: 5, so 32 levels (GICv3, 4.8 "Interrupt
/// prioritization").
pub(crate) const PRIORITY_MASK: u8 = 0xf8;

/// Which groups GICD_CTLR lets through: all ones, or zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub group0: u32,
    pub group1: u32,
}

/// What list registers say of a bank's interrupts, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LrBits {
    /// Those that are in a list register.
    pub held: u32,
    pub pending: u32,
    pub active: u32,
    /// Their end is the physical interrupt's.
    pub hw: u32,
    /// Their end is told.
    pub eoi: u32,
}

impl LrBits {
    /// What list register `lr` says.
    #[inline]
    pub fn add(&mut self, lr: u64) {
        let lr = Lr::decode(lr);
        let at = |on: bool| u32::from(on).wrapping_shl(lr.intid);
        self.held |= at(true);
        self.pending |= at(lr.pending);
        self.active |= at(lr.active);
        self.hw |= at(lr.hw.is_some());
        self.eoi |= at(lr.eoi);
    }
}

/// 32 interrupts.
#[derive(Clone)]
pub(crate) struct Bank {
    /// Forwarding is enabled (ISENABLER).
    pub enabled: u32,
    /// The pending latch: an edge came, an SGI was sent, or ISPENDR was written.
    pub latch: u32,
    /// The input line.
    pub line: u32,
    /// Acknowledged and not yet deactivated, as far as is known here.
    pub active: u32,
    /// Group 1 (IGROUPR).
    pub group: u32,
    /// Edge-triggered (ICFGR).
    pub edge: u32,
    /// In a list register of `holder`.
    pub inflight: u32,
    /// In a list register, and put there as pending.
    lr_pending: u32,
    /// Stands for a physical interrupt, `pintid`.
    pub mapped: u32,
    /// The physical interrupt is active on the guest's behalf, so that it
    /// cannot fire again before it is deactivated.
    pub forwarded: u32,
    /// ICPENDR was written while in flight: what the list register says of
    /// "pending" no longer counts.
    drop_pending: u32,
    /// The latch was set while in flight: an acknowledge doesn't clear it.
    relatched: u32,
    /// I[SC]ACTIVER was written while in flight: `active` counts, not the list
    /// register.
    active_forced: u32,
    /// The physical interrupt fired again while in flight: the guest has ended
    /// the one in the list register.
    refired: u32,
    /// Somebody awaits the end of the interrupt (KVM_IRQFD_FLAG_RESAMPLE).
    pub resample: u32,
    /// IPRIORITYR.
    pub priority: [u8; 32],
    /// While in flight or active: the vCPU that has it.
    pub holder: [u16; 32],
    /// The vCPU that IROUTER names.
    pub target: [u16; 32],
    /// IROUTER's Aff2.Aff1.Aff0.
    pub route: [u32; 32],
    /// The physical INTIDs of those mapped.
    pub pintid: [u16; 32],
    /// ICH_LR.HW can be used.
    deactivates: bool,
    /// SGIs know their senders: GICv2's.
    pub from_cpus: bool,
    /// With `from_cpus`, who sent each SGI, a bit for a vCPU. Not zero where the
    /// latch is set; whoever is in the list register isn't here.
    senders: [u8; 16],
    /// With `from_cpus`, who sent the one that is active.
    active_sender: [u8; 16],
}

/// The positions of the bits set in `mask`.
pub(crate) fn bits(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let at = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        Some(at as usize)
    })
}

/// Bit `i`.
#[inline]
pub(crate) const fn bit(i: usize) -> u32 {
    1u32.wrapping_shl(i as u32)
}

fn set(word: &mut u32, mask: u32, on: bool) {
    if on {
        *word |= mask;
    } else {
        *word &= !mask;
    }
}

impl Bank {
    /// SGIs and PPIs of `cpu` after reset: SGIs are enabled and edge-triggered,
    /// PPIs level-sensitive. As in Linux everything is in group 1 of a GICv3, and
    /// in group 0 of a GICv2.
    pub fn private(cpu: u16, config: &Config) -> Bank {
        let v2 = config.version == Version::V2;
        let mut bank = Bank::shared(cpu, v2);
        bank.from_cpus = v2;
        bank.deactivates = config.deactivates;
        bank.enabled = SGIS;
        bank.edge = SGIS;
        bank.holder = [cpu; 32];
        bank
    }

    /// SPIs after reset, routed to vCPU `target`.
    pub fn shared(target: u16, v2: bool) -> Bank {
        Bank {
            enabled: 0,
            latch: 0,
            line: 0,
            active: 0,
            group: if v2 { 0 } else { u32::MAX },
            edge: 0,
            inflight: 0,
            lr_pending: 0,
            drop_pending: 0,
            relatched: 0,
            active_forced: 0,
            mapped: 0,
            forwarded: 0,
            refired: 0,
            resample: 0,
            priority: [0; 32],
            holder: [NO_CPU; 32],
            target: [target; 32],
            route: [0; 32],
            pintid: [0; 32],
            deactivates: true,
            from_cpus: false,
            senders: [0; 16],
            active_sender: [0; 16],
        }
    }

    /// Pending by latch or by line, leaving aside what list registers hold.
    pub fn asserted(&self) -> u32 {
        self.latch | (self.line & !self.edge)
    }

    /// What a guest reads from ISPENDR. For interrupts in flight this is how
    /// they went there; syncing the vCPU that has them makes it exact.
    pub fn pending(&self) -> u32 {
        self.asserted() | (self.inflight & self.lr_pending & !self.drop_pending)
    }

    /// Those that would interrupt a vCPU now, if they weren't in flight.
    pub fn deliverable(&self, gate: Gate) -> u32 {
        let groups = (self.group & gate.group1) | (!self.group & gate.group0);
        self.asserted() & self.enabled & groups
    }

    /// Whether all of `mask` would interrupt a vCPU if they were asserted.
    #[inline]
    pub fn passes(&self, mask: u32, gate: Gate) -> bool {
        let groups = (self.group & gate.group1) | (!self.group & gate.group0);
        mask & !(self.enabled & groups) == 0
    }

    /// Those that belong in a list register and are in none.
    pub fn candidates(&self, gate: Gate) -> u32 {
        (self.deliverable(gate) | self.active) & !self.inflight
    }

    /// The vCPU that interrupt `i` is for: an active one stays where it was
    /// acknowledged.
    #[inline]
    pub fn cpu_of(&self, i: usize) -> u16 {
        let from =
            if (self.active | self.inflight) & bit(i) != 0 { &self.holder } else { &self.target };
        from.get(i).copied().unwrap_or(NO_CPU)
    }

    /// Of `mask`, those for `cpu`.
    pub fn of_cpu(&self, mask: u32, cpu: u16) -> u32 {
        bits(mask).filter(|&i| self.cpu_of(i) == cpu).fold(0, |all, i| all | bit(i))
    }

    /// Priority of interrupt `i`.
    #[inline]
    pub fn priority_of(&self, i: usize) -> u8 {
        self.priority.get(i).copied().unwrap_or(u8::MAX)
    }

    /// Sets the latches of `mask`.
    pub fn set_latch(&mut self, mask: u32) {
        self.latch |= mask;
        self.relatched |= mask & self.inflight;
    }

    /// Clears the latches of `mask`, and pending states on their way.
    pub fn clear_latch(&mut self, mask: u32) {
        self.latch &= !mask;
        self.relatched &= !mask;
        self.drop_pending |= mask & self.inflight;
    }

    /// Makes `mask` active (or not), whatever the list registers say.
    pub fn force_active(&mut self, mask: u32, active: bool) {
        self.active_forced |= mask & self.inflight;
        for i in bits(mask & !self.active & !self.inflight) {
            let target = self.target.get(i).copied().unwrap_or(NO_CPU);
            if let Some(holder) = self.holder.get_mut(i) {
                *holder = target;
            }
        }
        set(&mut self.active, mask, active);
    }

    /// The input line of interrupt `i` moves. Says whether anything changed.
    pub fn set_line(&mut self, i: usize, level: bool) -> bool {
        let mask = bit(i);
        if self.edge & mask != 0 {
            // An edge is a latch; the way down means nothing.
            if level {
                self.set_latch(mask);
            }
            return level;
        }
        if level && self.mapped & mask != 0 {
            // The physical interrupt was acknowledged: it is active.
            self.refired |= mask & self.inflight;
            self.forwarded |= mask;
            self.line |= mask;
            return true;
        }
        let changed = (self.line & mask != 0) != level;
        set(&mut self.line, mask, level);
        changed
    }

    /// Puts the candidates `mine` in list registers: what these say, but for
    /// what [`lr`](Self::lr) adds.
    #[inline]
    pub fn fill(&mut self, mine: u32, gate: Gate) -> LrBits {
        let active = self.active & mine;
        let asserted = self.deliverable(gate) & mine;
        // An active interrupt that was made pending by software needs its end
        // to be noticed, which excludes the HW bit: we deactivate for it then.
        let by_latch = active & self.latch;
        let hw = if self.deactivates { self.forwarded & mine & !by_latch } else { 0 };
        let sent = if self.from_cpus { SGIS } else { 0 };
        // Level-sensitive interrupts are not put in as active and pending:
        // only their end tells whether the line is still up. Nor are GICv2's
        // SGIs: a list register has room for one sender.
        let pending = asserted & !(active & (hw | !self.edge | sent));
        let awaited = self.line | self.resample | self.forwarded | by_latch;
        let eoi = mine & awaited & !hw & !self.edge;
        self.latch &= !(pending & self.edge);
        // The notes on what happens in flight are clear before.
        self.lr_pending = self.lr_pending & !mine | pending;
        self.inflight |= mine;
        LrBits { held: mine, pending, active, hw, eoi }
    }

    /// The list register of `cpu` that interrupt `i` was put in
    /// ([`fill`](Self::fill)); of its INTID the lower five bits.
    #[inline]
    pub fn lr(&mut self, i: usize, cpu: u16, bits: &LrBits) -> u64 {
        if self.from_cpus && SGIS & bit(i) != 0 {
            return self.lr_of_sender(i, bits);
        }
        if let Some(holder) = self.holder.get_mut(i) {
            *holder = cpu;
        }
        self.encode(i, bits)
    }

    #[inline(always)]
    fn encode(&self, i: usize, bits: &LrBits) -> u64 {
        let on = |word: u32, lr: u64| if word & bit(i) != 0 { lr } else { 0 };
        let physical = match bits.hw & bit(i) {
            0 => on(bits.eoi, ICH_LR_EOI),
            _ => lr_of_physical(self.pintid.get(i).copied().unwrap_or(0)),
        };
        i as u64
            | on(bits.pending, ICH_LR_PENDING)
            | on(bits.active, ICH_LR_ACTIVE)
            | on(self.group, ICH_LR_GROUP)
            | physical
            | lr_of_priority(self.priority_of(i))
    }

    /// A GICv2's SGI.
    #[cold]
    fn lr_of_sender(&mut self, i: usize, bits: &LrBits) -> u64 {
        let pending = bits.pending & bit(i) != 0;
        let (sender, more) = self.take_sender(i, pending);
        if pending && more {
            self.latch |= bit(i);
        }
        // The next sender's goes in when this one is ended.
        let eoi = if more { bit(i) } else { 0 };
        self.encode(i, &LrBits { eoi, ..*bits }) | u64::from(sender) << SENDER_SHIFT
    }

    /// Who is named in the list register of SGI `i`: the first of those who sent
    /// it, who is taken, or whose is active; and whether there are others.
    fn take_sender(&mut self, i: usize, pending: bool) -> (u8, bool) {
        let active = self.active_sender.get(i).copied().unwrap_or(0);
        let Some(senders) = self.senders.get_mut(i) else { return (0, false) };
        if !pending {
            return (active, *senders != 0);
        }
        let first = senders.trailing_zeros() as u8 & 7;
        *senders &= senders.wrapping_sub(1);
        (first, *senders != 0)
    }

    /// GICv2: these vCPUs send SGI `i` (GICD_SGIR, GICD_SPENDSGIR).
    pub fn send_from(&mut self, i: usize, senders: u8) {
        if senders != 0
            && let Some(slot) = self.senders.get_mut(i)
        {
            *slot |= senders;
            self.set_latch(bit(i));
        }
    }

    /// GICv2: what these vCPUs sent of SGI `i` is taken back (GICD_CPENDSGIR).
    pub fn unsend_from(&mut self, i: usize, senders: u8) {
        if let Some(slot) = self.senders.get_mut(i) {
            *slot &= !senders;
            if *slot == 0 {
                self.latch &= !bit(i);
            }
        }
    }

    /// GICv2: who sent SGI `i`, leaving aside the one in a list register.
    pub fn senders(&self, i: usize) -> u8 {
        self.senders.get(i).copied().unwrap_or(0)
    }

    /// Whether a list register of `cpu` has interrupt `i`, as far as is known here.
    pub fn is_with(&self, i: usize, cpu: u16) -> bool {
        self.inflight & bit(i) != 0 && self.holder.get(i) == Some(&cpu)
    }

    /// Takes interrupts back from the list registers that say `told` of them.
    /// Nothing happens to those that aren't in flight. Those that the guest ended
    /// and whose end somebody awaits.
    #[inline]
    pub fn fold(&mut self, told: &LrBits) -> u32 {
        let mine = told.held & self.inflight;
        let (pending, active) = (told.pending & mine, told.active & mine);
        let ended = mine & !(pending | active);
        // An edge comes back if it wasn't acknowledged. With others that clears
        // the latch; the line speaks for itself.
        let back = pending & self.edge & !self.drop_pending;
        let taken = mine & self.lr_pending & !pending & !self.edge & !self.relatched;
        self.latch = self.latch & !taken | back;
        self.inflight &= !mine;
        self.lr_pending &= !mine;
        let known = mine & !self.active_forced;
        self.active = self.active & !known | active & known;
        // The guest's end of interrupt deactivated the physical one. If its line
        // is still up it fires again and comes back here.
        let deactivated = ended & told.hw & !self.refired;
        // Whoever awaits the end raises the line again if need be.
        let resampled = ended & told.eoi & self.resample;
        self.forwarded &= !deactivated;
        self.line &= !(deactivated | resampled);
        if (self.drop_pending | self.relatched | self.active_forced | self.refired) & mine != 0 {
            self.drop_pending &= !mine;
            self.relatched &= !mine;
            self.active_forced &= !mine;
            self.refired &= !mine;
        }
        resampled
    }

    /// The guest ended interrupts that were active and in no list register. Those
    /// whose end somebody awaits.
    pub fn end_spilled(&mut self, mine: u32) -> u32 {
        self.active &= !mine;
        let resampled = mine & self.resample & self.line & !self.edge;
        self.line &= !resampled;
        resampled
    }

    /// Before [`fold`](Self::fold): notes the sender that list register `lr`
    /// names, if it holds a GICv2's SGI.
    pub fn fold_sender(&mut self, lr: u64) {
        let lr = Lr::decode(lr);
        let i = intid(lr.intid.into()) as usize;
        if !self.from_cpus || self.inflight & bit(i) & SGIS == 0 {
            return;
        }
        if lr.pending
            && self.drop_pending & bit(i) == 0
            && let Some(senders) = self.senders.get_mut(i)
        {
            *senders |= 1u8.wrapping_shl(lr.sender().into());
        }
        if let Some(sender) = self.active_sender.get_mut(i) {
            *sender = lr.sender();
        }
    }

    /// Looks again at the lines of mapped interrupts that aren't in flight.
    /// `level` holds the lines' states. Returns those to deactivate in the
    /// physical GIC: their lines fell before the guest saw them.
    pub fn resample_mapped(&mut self, level: u32) -> u32 {
        let here = self.mapped & !self.inflight;
        // One that hasn't fired can have a line by KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO
        // only, which mustn't outlast the real one.
        let (fired, restored) = (here & self.forwarded, here & !self.forwarded);
        self.line = (self.line & !here) | (level & fired) | (self.line & level & restored);
        let gone = fired & !level & !self.active;
        self.forwarded &= !gone;
        gone
    }

    /// Routes interrupt `i` to `target`.
    pub fn set_route(&mut self, i: usize, route: u32, target: u16) {
        if let (Some(slot), Some(old)) = (self.route.get_mut(i), self.target.get_mut(i)) {
            *slot = route;
            *old = target;
        }
    }
}
