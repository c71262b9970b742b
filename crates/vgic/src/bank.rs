//! The state of 32 interrupts, whichever GIC version presents them.
//!
//! A bank holds INTIDs `32 * n` to `32 * n + 31`, one bit each: the shape that
//! the GIC's own registers have. Bank 0 exists once per vCPU (SGIs and PPIs),
//! the others are shared (SPIs). See the crate's README for the states.

use crate::lr::{Lr, SENDER_SHIFT};
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

/// What folding a list register back told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// The guest ended a level-sensitive interrupt whose end somebody awaits.
    pub resample: bool,
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
    /// ICPENDR was written while in flight: what the list register says of
    /// "pending" no longer counts.
    drop_pending: u32,
    /// The latch was set while in flight: an acknowledge doesn't clear it.
    relatched: u32,
    /// I[SC]ACTIVER was written while in flight: `active` counts, not the list
    /// register.
    active_forced: u32,
    /// Stands for a physical interrupt, `pintid`.
    pub mapped: u32,
    /// The physical interrupt is active on the guest's behalf, so that it
    /// cannot fire again before it is deactivated.
    pub forwarded: u32,
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
    from_cpus: bool,
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

    /// Puts candidate `i` in a list register of `cpu`.
    pub fn fill(&mut self, i: usize, cpu: u16, gate: Gate) -> Lr {
        let mask = bit(i);
        let on = |word: u32| word & mask != 0;
        let active = on(self.active);
        let asserted = on(self.deliverable(gate));
        let edge = on(self.edge);
        // An active interrupt that was made pending by software needs its end
        // to be noticed, which excludes the HW bit: we deactivate for it then.
        let by_latch = active && on(self.latch);
        let hw = on(self.forwarded) && !by_latch && self.deactivates;
        let sent = self.from_cpus && on(SGIS);
        // Level-sensitive interrupts are not put in as active and pending:
        // only their end tells whether the line is still up. Nor are GICv2's
        // SGIs: a list register has room for one sender.
        let pending = asserted && !(active && (hw || !edge || sent));
        let awaited = self.line | self.resample | self.forwarded;
        let mut eoi = !hw && !edge && (on(awaited) || by_latch);

        if pending && edge {
            self.latch &= !mask;
        }
        let mut sender = 0;
        if sent {
            let more;
            (sender, more) = self.take_sender(i, pending);
            if pending && more {
                self.latch |= mask;
            }
            // The next sender's goes in when this one is ended.
            eoi = more;
        }
        // The notes on what happens in flight are clear before.
        set(&mut self.lr_pending, mask, pending);
        self.inflight |= mask;
        if let Some(holder) = self.holder.get_mut(i) {
            *holder = cpu;
        }
        Lr {
            intid: u32::from(sender) << SENDER_SHIFT,
            pending,
            active,
            hw: hw.then(|| self.pintid.get(i).copied().unwrap_or(0)),
            eoi,
            group1: on(self.group),
            priority: self.priority_of(i),
        }
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

    /// Takes interrupt `i` back from list register `lr` of `cpu`. Nothing
    /// happens if that vCPU doesn't have it.
    pub fn fold(&mut self, i: usize, cpu: u16, lr: &Lr) -> Folded {
        let mask = bit(i);
        let on = |word: u32| word & mask != 0;
        if !on(self.inflight) || self.holder.get(i) != Some(&cpu) {
            return Folded::default();
        }
        self.inflight &= !mask;
        let ended = !lr.pending && !lr.active;
        let noted = self.drop_pending | self.relatched | self.active_forced | self.refired;
        let (drop_pending, relatched, active_forced, refired) = if on(noted) {
            (on(self.drop_pending), on(self.relatched), on(self.active_forced), on(self.refired))
        } else {
            (false, false, false, false)
        };
        if on(self.edge) {
            if lr.pending && !drop_pending {
                self.latch |= mask;
                if self.from_cpus
                    && let Some(senders) = self.senders.get_mut(i)
                {
                    *senders |= 1u8.wrapping_shl(lr.sender().into());
                }
            }
        } else if on(self.lr_pending) && !lr.pending && !relatched {
            // Acknowledged: that clears the latch, the line speaks for itself.
            self.latch &= !mask;
        }
        self.lr_pending &= !mask;
        if !active_forced {
            set(&mut self.active, mask, lr.active);
        }
        if self.from_cpus
            && let Some(sender) = self.active_sender.get_mut(i)
        {
            *sender = lr.sender();
        }
        if lr.hw.is_some() && ended && !refired {
            // The guest's end of interrupt deactivated the physical one. If
            // its line is still up it fires again and comes back here.
            self.forwarded &= !mask;
            self.line &= !mask;
        }
        let resample = lr.eoi && ended && on(self.resample);
        if resample {
            // Whoever awaits the end raises the line again if need be.
            self.line &= !mask;
        }
        if on(noted) {
            self.drop_pending &= !mask;
            self.relatched &= !mask;
            self.active_forced &= !mask;
            self.refired &= !mask;
        }
        Folded { resample }
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
