//! The GICv3's distributor and redistributor frames, and registers that a GICv2's
//! distributor (`mmio_v2.rs`) shares with them.
//!
//! One security state (GICD_CTLR.DS), affinity routing always, 5 priority bits,
//! no LPIs. What isn't there, and accesses of a width that a register doesn't
//! have, read as zero and ignore writes.

use crate::bank::{Bank, PRIORITY_MASK, SGIS, bit, bits};
use crate::vgic::{Cpu, FIRST_SPECIAL, GICD_CTLR_GRP0, GICD_CTLR_GRP1, Live, Region, Vgic};
use core::sync::atomic::Ordering;

pub(crate) const GICD_CTLR: u32 = 0x0;
pub(crate) const GICD_TYPER: u32 = 0x4;
pub(crate) const GICD_IIDR: u32 = 0x8;
const GICR_CTLR: u32 = 0x0;
const GICR_IIDR: u32 = 0x4;
const GICR_TYPER: u32 = 0x8;
const GICR_TYPER_HIGH: u32 = 0xc;
const GICR_WAKER: u32 = 0x14;
const GICR_PROPBASER: u32 = 0x70;
const GICR_PENDBASER: u32 = 0x78;
const STATUSR: u32 = 0x10;
const IROUTER: u32 = 0x6000;
const IROUTER_END: u32 = 0x8000;
const PIDR2: u32 = 0xffe8;
/// SGI_base, in a redistributor.
const SGI_FRAME: u32 = 0x1_0000;

/// GICD_CTLR.ARE: affinity routing, the only kind.
const CTLR_ARE: u32 = 1 << 4;
/// GICD_CTLR.DS: one security state.
const CTLR_DS: u32 = 1 << 6;
/// GICD_TYPER.IDbits: 10 bits of INTID.
const TYPER_IDBITS: u32 = 9 << 19;
/// GICD_TYPER.No1N: an SPI goes to the one PE that IROUTER names.
const TYPER_NO1N: u32 = 1 << 25;
/// GICD_IIDR, less its Revision: product 'K', implementer Arm, as KVM's.
const IIDR: u32 = 0x4b00_043b;
/// GICD_PIDR2: ArchRev 3.
const PIDR2_GICV3: u32 = 0x3b;

/// InnerCache, Shareability, Physical_Address, OuterCache, IDbits.
const PROPBASER_MASK: u64 = 0x070f_ffff_ffff_ff9f;
/// The same without IDbits, 64 KiB-aligned. PTZ reads as zero.
const PENDBASER_MASK: u64 = 0x070f_ffff_ffff_0f80;

/// Registers with fields for each INTID, at the same offsets in GICD and in a
/// redistributor's SGI_base frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    Priority,
    Config,
}

/// Such a register: which, and the first INTID in it.
pub(crate) fn per_intid(offset: u32) -> Option<(Kind, u32)> {
    let word = |kind, base: u32| (kind, offset.wrapping_sub(base).wrapping_mul(8));
    Some(match offset {
        0x080..=0x0ff => word(Kind::Group, 0x080),
        0x100..=0x17f => word(Kind::SetEnable, 0x100),
        0x180..=0x1ff => word(Kind::ClearEnable, 0x180),
        0x200..=0x27f => word(Kind::SetPending, 0x200),
        0x280..=0x2ff => word(Kind::ClearPending, 0x280),
        0x300..=0x37f => word(Kind::SetActive, 0x300),
        0x380..=0x3ff => word(Kind::ClearActive, 0x380),
        0x400..=0x7ff => (Kind::Priority, offset.wrapping_sub(0x400)),
        0xc00..=0xcff => (Kind::Config, offset.wrapping_sub(0xc00).wrapping_mul(4)),
        _ => return None,
    })
}

/// Who accesses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A vCPU.
    Guest(usize),
    /// KVM_{GET,SET}_DEVICE_ATTR: words only; pending registers show latches.
    User,
}

impl By {
    pub fn vcpu(self) -> Option<usize> {
        match self {
            By::Guest(vcpu) => Some(vcpu),
            By::User => None,
        }
    }
}

/// The `len` bytes at `offset` of a 64-bit register: all, or a word.
fn part64(value: u64, offset: u32, len: u32) -> u64 {
    match (offset & 7, len) {
        (0, 8) => value,
        (0, 4) => value & 0xffff_ffff,
        (4, 4) => value >> 32,
        _ => 0,
    }
}

fn merge64(old: u64, offset: u32, len: u32, value: u64) -> u64 {
    match (offset & 7, len) {
        (0, 8) => value,
        (0, 4) => (old & !0xffff_ffff) | (value & 0xffff_ffff),
        (4, 4) => (old & 0xffff_ffff) | value << 32,
        _ => old,
    }
}

impl Vgic {
    /// A guest's read. `len` is 1, 2, 4 or 8 bytes. Where
    /// [`Vgic::needs_sync`], the vCPU's list registers are folded back first.
    pub fn mmio_read(&self, vcpu: usize, region: Region, offset: u32, len: u32) -> u64 {
        let Some(live) = self.live() else { return 0 };
        match region {
            Region::Dist => match (offset, len) {
                // Read in loops by measuring guests: no locks.
                (GICD_IIDR, 4) => u64::from(self.iidr()),
                (GICD_TYPER, 4) => u64::from(self.typer(live)),
                _ => self.dist_read(live, offset, len, By::Guest(vcpu)),
            },
            Region::DistV2 => match live.cpu(vcpu) {
                Some(cpu) => self.dist_read_v2(live, cpu, offset, len, By::Guest(vcpu)),
                None => 0,
            },
            Region::Redist(cpu) => match live.cpu(usize::from(cpu)) {
                Some(cpu) => self.redist_read(live, cpu, offset, len, By::Guest(vcpu)),
                None => 0,
            },
        }
    }

    /// A guest's write; see [`Vgic::mmio_read`].
    pub fn mmio_write(&self, vcpu: usize, region: Region, offset: u32, len: u32, value: u64) {
        let Some(live) = self.live() else { return };
        match region {
            Region::Dist => self.dist_write(live, offset, len, value, By::Guest(vcpu)),
            Region::DistV2 => {
                if let Some(cpu) = live.cpu(vcpu) {
                    self.dist_write_v2(live, cpu, offset, len, value, By::Guest(vcpu));
                }
            }
            Region::Redist(cpu) => {
                if let Some(cpu) = live.cpu(usize::from(cpu)) {
                    self.redist_write(live, cpu, offset, len, value, By::Guest(vcpu));
                }
            }
        }
    }

    pub(crate) fn iidr(&self) -> u32 {
        IIDR | self.revision.load(Ordering::Relaxed) << 12
    }

    fn typer(&self, live: &Live) -> u32 {
        (live.nr_irqs >> 5).saturating_sub(1) | TYPER_IDBITS | TYPER_NO1N
    }

    #[inline(never)]
    pub(crate) fn dist_read(&self, live: &Live, offset: u32, len: u32, by: By) -> u64 {
        match (offset, len) {
            (GICD_CTLR, 4) => u64::from(live.ctlr() | CTLR_ARE | CTLR_DS),
            (GICD_TYPER, 4) => u64::from(self.typer(live)),
            (GICD_IIDR, 4) => u64::from(self.iidr()),
            (PIDR2, 4) => u64::from(PIDR2_GICV3),
            (IROUTER..IROUTER_END, 4 | 8) => self.read_irouter(live, offset, len),
            _ => match per_intid(offset) {
                // With affinity routing, the private ones are in GICR.
                Some((kind, intid)) if intid >= 32 => {
                    self.read_bank(live, None, kind, intid, len, by)
                }
                _ => 0,
            },
        }
    }

    pub(crate) fn dist_write(&self, live: &Live, offset: u32, len: u32, value: u64, by: By) {
        match (offset, len) {
            (GICD_CTLR, 4) => {
                let groups = value as u32 & (GICD_CTLR_GRP0 | GICD_CTLR_GRP1);
                self.set_ctlr(live, groups, by.vcpu());
            }
            (IROUTER..IROUTER_END, 4 | 8) => self.write_irouter(live, offset, len, value, by),
            _ => {
                if let Some((kind, intid)) = per_intid(offset)
                    && intid >= 32
                {
                    self.write_bank(live, None, kind, intid, len, value, by);
                }
            }
        }
    }

    #[inline(never)]
    pub(crate) fn redist_read(&self, live: &Live, cpu: &Cpu, offset: u32, len: u32, by: By) -> u64 {
        match (offset, len) {
            // No LPIs: nothing to enable.
            (GICR_CTLR | GICR_WAKER, 4) => 0,
            (GICR_IIDR, 4) => u64::from(self.iidr()),
            (GICR_TYPER, 4 | 8) | (GICR_TYPER_HIGH, 4) => {
                let last = u64::from(cpu.last.load(Ordering::Relaxed)) << 4;
                let processor = u64::from(cpu.id() & 0xffff) << 8;
                part64(u64::from(cpu.affinity()) << 32 | processor | last, offset, len)
            }
            (GICR_PROPBASER..0x78, 4 | 8) => {
                part64(cpu.propbaser.load(Ordering::Relaxed), offset, len)
            }
            (GICR_PENDBASER..0x80, 4 | 8) => {
                part64(cpu.pendbaser.load(Ordering::Relaxed), offset, len)
            }
            (PIDR2, 4) => u64::from(PIDR2_GICV3),
            (SGI_FRAME.., _) => match per_intid(offset.wrapping_sub(SGI_FRAME)) {
                Some((kind, intid)) if intid < 32 => {
                    self.read_bank(live, Some(cpu), kind, intid, len, by)
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    pub(crate) fn redist_write(
        &self,
        live: &Live,
        cpu: &Cpu,
        offset: u32,
        len: u32,
        value: u64,
        by: By,
    ) {
        match (offset, len) {
            (GICR_PROPBASER..0x78, 4 | 8) => {
                let old = cpu.propbaser.load(Ordering::Relaxed);
                let new = merge64(old, offset, len, value) & PROPBASER_MASK;
                cpu.propbaser.store(new, Ordering::Relaxed);
            }
            (GICR_PENDBASER..0x80, 4 | 8) => {
                let old = cpu.pendbaser.load(Ordering::Relaxed);
                let new = merge64(old, offset, len, value) & PENDBASER_MASK;
                cpu.pendbaser.store(new, Ordering::Relaxed);
            }
            (SGI_FRAME.., _) => {
                if let Some((kind, intid)) = per_intid(offset.wrapping_sub(SGI_FRAME))
                    && intid < 32
                {
                    self.write_bank(live, Some(cpu), kind, intid, len, value, by);
                }
            }
            _ => {}
        }
    }

    /// Reads fields of `intid` and up; `cpu` for the private ones.
    pub(crate) fn read_bank(
        &self,
        live: &Live,
        cpu: Option<&Cpu>,
        kind: Kind,
        intid: u32,
        len: u32,
        by: By,
    ) -> u64 {
        if !width_fits(kind, intid, len) {
            return 0;
        }
        let n = (intid >> 5) as usize;
        let Some(cpu) = cpu.or(live.cpu(0)) else { return 0 };
        let Some(bank) = live.lock_bank(cpu, n) else { return 0 };
        let first = (intid & 31) as usize;
        u64::from(match kind {
            Kind::Group => bank.group,
            Kind::SetEnable | Kind::ClearEnable => bank.enabled,
            // GICv3's lines are saved apart (LEVEL_INFO); GICv2's are in here.
            Kind::SetPending if by == By::User && !self.is_v2() => bank.latch,
            Kind::ClearPending if by == By::User && !self.is_v2() => 0,
            Kind::SetPending | Kind::ClearPending => {
                return self.read_state(live, bank, n, by, Bank::pending);
            }
            Kind::SetActive | Kind::ClearActive => {
                return self.read_state(live, bank, n, by, |bank| bank.active);
            }
            Kind::Priority => {
                let mut value = 0;
                for at in (0..len as usize).rev() {
                    value = value << 8 | u32::from(bank.priority_of(first.wrapping_add(at)));
                }
                value
            }
            Kind::Config => {
                let edge = bank.edge >> first & 0xffff;
                bits(edge).fold(0, |all, i| all | bit(i.wrapping_mul(2).wrapping_add(1)))
            }
        })
    }

    /// Reads a state that list registers may have changed. Where another vCPU
    /// has such interrupts it is asked to fold them back: what is read now may
    /// be as of its last exit, but whoever polls sees the change.
    fn read_state(
        &self,
        live: &Live,
        bank: base::LockGuard<'_, Bank>,
        n: usize,
        by: By,
        get: impl FnOnce(&Bank) -> u32,
    ) -> u64 {
        let value = get(&bank);
        let mut pokes = crate::vgic::Pokes::new();
        if by != By::User {
            for i in bits(bank.inflight) {
                pokes.add(bank.cpu_of(i));
            }
        }
        drop(bank);
        self.poke_all(live, &pokes, n, by.vcpu());
        u64::from(value)
    }

    #[expect(clippy::too_many_arguments, reason = "a register access has that many parts")]
    pub(crate) fn write_bank(
        &self,
        live: &Live,
        cpu: Option<&Cpu>,
        kind: Kind,
        intid: u32,
        len: u32,
        value: u64,
        by: By,
    ) {
        if !width_fits(kind, intid, len) {
            return;
        }
        let n = (intid >> 5) as usize;
        let Some(cpu) = cpu.or(live.cpu(0)) else { return };
        let word = value as u32 & existing(n);
        let first = (intid & 31) as usize;
        // A GICv2's SGIs are pending by sender: GICD_{C,S}PENDSGIR.
        let sgis = if n == 0 && self.is_v2() { SGIS } else { 0 };
        self.change(live, cpu, n, by.vcpu(), |bank| match kind {
            Kind::Group
                if by == By::User
                    && self.is_v2()
                    && !self.groups_from_user.load(Ordering::Relaxed) =>
            {
                0
            }
            Kind::Group => {
                let changed = bank.group ^ word;
                bank.group = word;
                changed
            }
            Kind::SetEnable => {
                bank.enabled |= word;
                word
            }
            Kind::ClearEnable => {
                bank.enabled &= !word;
                word
            }
            Kind::SetPending if by == By::User && self.is_v2() => {
                // Nobody says who sent those SGIs: the CPU itself, as in Linux.
                for i in bits(word & sgis) {
                    bank.send_from(i, 1u8.wrapping_shl(cpu.index() as u32));
                }
                bank.set_latch(word & !sgis);
                word
            }
            Kind::ClearPending if by == By::User && self.is_v2() => {
                for i in bits(word & sgis) {
                    bank.unsend_from(i, u8::MAX);
                }
                bank.clear_latch(word & !sgis);
                word
            }
            Kind::SetPending if by == By::User => {
                bank.clear_latch(!word);
                bank.set_latch(word);
                u32::MAX
            }
            Kind::SetPending => {
                bank.set_latch(word & !sgis);
                word
            }
            Kind::ClearPending if by == By::User => 0,
            Kind::ClearPending => {
                bank.clear_latch(word & !sgis);
                word
            }
            Kind::SetActive => {
                bank.force_active(word, true);
                word
            }
            Kind::ClearActive => {
                bank.force_active(word, false);
                word
            }
            Kind::Priority => {
                for (at, byte) in value.to_le_bytes().iter().take(len as usize).enumerate() {
                    if let Some(priority) = bank.priority.get_mut(first.wrapping_add(at)) {
                        *priority = byte & PRIORITY_MASK;
                    }
                }
                // In force when it is next put in a list register.
                0
            }
            Kind::Config => {
                let mut edge = 0;
                for i in 0..16usize {
                    if value & u64::from(bit(i.wrapping_mul(2).wrapping_add(1))) != 0 {
                        edge |= bit(i);
                    }
                }
                // SGIs are edge-triggered and, as in KVM, PPIs level-sensitive.
                let mask = if n == 0 { 0 } else { 0xffff << first };
                let new = (bank.edge & !mask) | (edge << first & mask);
                let changed = bank.edge ^ new;
                bank.edge = new;
                changed
            }
        });
    }

    fn read_irouter(&self, live: &Live, offset: u32, len: u32) -> u64 {
        let intid = offset.wrapping_sub(IROUTER) >> 3;
        let (n, i) = ((intid >> 5) as usize, (intid & 31) as usize);
        if n == 0 || !offset.is_multiple_of(len) {
            return 0;
        }
        let bank = live.cpu(0).and_then(|cpu| live.lock_bank(cpu, n));
        let route = bank.and_then(|bank| bank.route.get(i).copied()).unwrap_or(0);
        part64(u64::from(route), offset, len)
    }

    fn write_irouter(&self, live: &Live, offset: u32, len: u32, value: u64, by: By) {
        let intid = offset.wrapping_sub(IROUTER) >> 3;
        let (n, i) = ((intid >> 5) as usize, (intid & 31) as usize);
        // The upper word holds Aff3, which isn't supported (no A3V).
        if n == 0 || !offset.is_multiple_of(len) || offset & 7 == 4 {
            return;
        }
        let Some(any) = live.cpu(0) else { return };
        // Interrupt_Routing_Mode is RAZ/WI: GICD_TYPER.No1N.
        let route = value as u32 & 0x00ff_ffff;
        let target = live.find(route).map_or(crate::bank::NO_CPU, |cpu| cpu.index() as u16);
        self.change(live, any, n, by.vcpu(), |bank| {
            bank.set_route(i, route, target);
            bit(i)
        });
    }

    /// KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO: the lines of INTIDs `first` to
    /// `first + 31`. SGIs have none.
    pub(crate) fn lines(&self, live: &Live, cpu: &Cpu, first: u32) -> u32 {
        let n = (first >> 5) as usize;
        let sgis = if n == 0 { SGIS } else { 0 };
        live.lock_bank(cpu, n).map_or(0, |bank| bank.line & !sgis)
    }

    pub(crate) fn set_lines(&self, live: &Live, cpu: &Cpu, first: u32, lines: u32) {
        let n = (first >> 5) as usize;
        let sgis = if n == 0 { SGIS } else { 0 };
        self.change(live, cpu, n, None, |bank| {
            bank.line = (bank.line & sgis) | (lines & !sgis & existing(n));
            !sgis
        });
    }
}

/// The interrupts of bank `n` that can be: INTIDs from 1020 on are special
/// (GICv3 2.2.1), and a list register that holds one is UNPREDICTABLE.
fn existing(n: usize) -> u32 {
    if n == (FIRST_SPECIAL >> 5) as usize {
        bit((FIRST_SPECIAL & 31) as usize).wrapping_sub(1)
    } else {
        u32::MAX
    }
}

/// IPRIORITYR takes bytes and words, the others words.
fn width_fits(kind: Kind, intid: u32, len: u32) -> bool {
    match (kind, len) {
        (Kind::Priority, 1) => true,
        (Kind::Priority, 4) => intid.is_multiple_of(4),
        (Kind::Config, 4) => intid.is_multiple_of(16),
        (_, 4) => intid.is_multiple_of(32),
        _ => false,
    }
}

/// Whether the distributor has a register at this offset, for HAS_DEVICE_ATTR.
pub(crate) fn is_dist_register(offset: u32) -> bool {
    offset.is_multiple_of(4)
        && (matches!(offset, GICD_CTLR..=STATUSR | 0x800..=0xbff | 0xd00..=0xdff | 0xf00..=0xf2f)
            || matches!(offset, IROUTER..IROUTER_END | 0xffd0..=0xffff)
            || per_intid(offset).is_some())
}

/// The same for a redistributor.
pub(crate) fn is_redist_register(offset: u32) -> bool {
    offset.is_multiple_of(4)
        && match offset {
            GICR_CTLR..=GICR_WAKER | GICR_PROPBASER..0x80 | 0xffd0..=0xffff => true,
            SGI_FRAME.. => match per_intid(offset.wrapping_sub(SGI_FRAME)) {
                Some((_, intid)) => intid < 32,
                None => matches!(offset.wrapping_sub(SGI_FRAME), 0xd00 | 0xe00 | 0xe04),
            },
            _ => false,
        }
}
