//! The machine's interrupt controller: GICv3, and GICv2 through its CPU
//! interface page.
//!
//! Interrupts are dropped in priority when acknowledged as done and stay active
//! until deactivated (EOImode=1), so that a guest's own end-of-interrupt can
//! deactivate the ones it was given.

use crate::cpu::{self, MAX_CPUS};
use crate::machine::{Gic, Machine, Registers};
use crate::memory;
use arch::gic as icc;
use arch::mmio::Mmio;
use base::{Lock, rank};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::Once;

/// SGI that makes another CPU look at its run queue.
pub const SGI_RESCHEDULE: u32 = 0;
/// SGI that stops a CPU for good.
pub const SGI_STOP: u32 = 1;

/// SGI that makes a CPU put the vCPU that is loaded there.
pub const SGI_PUT: u32 = 2;

const SPURIOUS: u32 = 1020;

#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Controller {
    V3 { distributor: Mmio, frames: [AtomicU64; MAX_CPUS], regions: [Option<Registers>; 4] },
    /// `masks`: by CPU, the bit of its CPU interface in GICD_ITARGETSR.
    V2 { distributor: Mmio, cpu: Mmio, masks: [AtomicU32; MAX_CPUS] },
}

static CONTROLLER: Once<Controller> = Once::new();
/// The CPU interface is system registers: one load tells the usual case, a GICv3.
static HAS_REGISTERS: AtomicBool = AtomicBool::new(false);

// Distributor registers (GICv3 12.9).
const GICD_CTLR: u64 = 0x0;
const GICD_TYPER: u64 = 0x4;
const GICD_IIDR: u64 = 0x8;
const GICD_IGROUPR: u64 = 0x80;
const GICD_ISENABLER: u64 = 0x100;
const GICD_ICENABLER: u64 = 0x180;
const GICD_ISACTIVER: u64 = 0x300;
const GICD_ICACTIVER: u64 = 0x380;
const GICD_IPRIORITYR: u64 = 0x400;
const GICD_ITARGETSR: u64 = 0x800;
const GICD_ICFGR: u64 = 0xc00;
const GICD_SGIR: u64 = 0xf00;
const GICD_IROUTER: u64 = 0x6000;
/// A redistributor's second 64 KiB frame has the distributor's layout for the
/// private interrupts.
const GICR_SGI_BASE: u64 = 0x1_0000;
const GICR_CTLR: u64 = 0x0;
const GICR_TYPER: u64 = 0x8;
const GICR_WAKER: u64 = 0x14;
/// GICv2 CPU interface.
const GICC_CTLR: u64 = 0x0;
const GICC_PMR: u64 = 0x4;
const GICC_IAR: u64 = 0xc;
const GICC_EOIR: u64 = 0x10;
const GICC_DIR: u64 = 0x1000;

/// QEMU's GICv2, and the Cortex-A15's, whose CPU isn't ours.
const IIDR_QEMU: u32 = 0x0000_043b;

const PRIORITY: u32 = 0xa0a0_a0a0;

/// Finds the controller and sets up its distributor and the boot CPU's part.
pub fn init(machine: &Machine) {
    let controller = match &machine.gic {
        Some(Gic::V3 { distributor, redistributors }) => {
            let mut regions = [None; 4];
            for (slot, region) in regions.iter_mut().zip(redistributors) {
                *slot = Some(*region);
            }
            let distributor = memory::mmio(*distributor);
            Controller::V3 { distributor, frames: [const { AtomicU64::new(0) }; MAX_CPUS], regions }
        }
        Some(Gic::V2 { distributor, cpu, .. }) => Controller::V2 {
            distributor: memory::mmio(*distributor),
            cpu: memory::mmio(*cpu),
            masks: [const { AtomicU32::new(0) }; MAX_CPUS],
        },
        None => {
            log::error!("The device tree names no GIC this kernel can drive: no interrupts");
            return;
        }
    };
    let controller = CONTROLLER.call_once(|| controller);
    HAS_REGISTERS.store(is_v3(), Ordering::Relaxed);
    controller.init_distributor();
    init_cpu();
}

/// Sets up this CPU's part.
pub fn init_cpu() {
    if let Some(controller) = CONTROLLER.get() {
        controller.init_cpu();
        enable(arch::timer::host_intid());
    }
}

/// Enables an interrupt: a private one on this CPU, a shared one towards the
/// boot CPU.
pub fn enable(intid: u32) {
    if let Some(controller) = CONTROLLER.get() {
        controller.set_bit(GICD_ISENABLER, intid);
    }
}

/// Enables a shared interrupt towards CPU `target`, edge-triggered or not.
pub fn hand_on(intid: u32, edge: bool, target: usize) {
    /// Sixteen interrupts share a GICD_ICFGR.
    static TRIGGERS: Lock<()> = Lock::new(rank::INODE, ());
    let Some(controller) = CONTROLLER.get() else { return };
    let (Controller::V3 { distributor, .. } | Controller::V2 { distributor, .. }) = controller;
    let intid = intid.max(32);
    controller.set_bit(GICD_ICENABLER, intid);
    if is_v3() {
        // What is enabled must not change (GICv3 12.9.9).
        wait_for_writes(distributor, GICD_CTLR, 1 << 31);
    }
    {
        let _alone = TRIGGERS.lock();
        let at = GICD_ICFGR.wrapping_add(u64::from(intid / 16).wrapping_mul(4));
        let mask = 2u32 << (intid % 16).wrapping_mul(2);
        let others = distributor.read32(at) & !mask;
        distributor.write32(at, others | if edge { mask } else { 0 });
    }
    route(intid, target);
    controller.set_bit(GICD_ICACTIVER, intid);
    controller.set_bit(GICD_ISENABLER, intid);
}

/// Sends a shared interrupt to CPU `target` from now on.
pub fn route(intid: u32, target: usize) {
    let Some(controller) = CONTROLLER.get() else { return };
    let (Controller::V3 { distributor, .. } | Controller::V2 { distributor, .. }) = controller;
    let intid = intid.max(32);
    match controller {
        Controller::V3 { .. } => {
            let id = cpu::get(target).map_or(0, |cpu| cpu.hardware_id.load(Ordering::Relaxed));
            let at = GICD_IROUTER.wrapping_add(u64::from(intid).wrapping_mul(8));
            distributor.write64(at, id);
        }
        Controller::V2 { masks, .. } => {
            let mask = masks.get(target).map_or(0, |mask| mask.load(Ordering::Relaxed));
            let at = GICD_ITARGETSR.wrapping_add(u64::from(intid));
            distributor.write8(at, mask as u8);
        }
    }
}

/// Disables an interrupt.
pub fn disable(intid: u32) {
    if let Some(controller) = CONTROLLER.get() {
        controller.set_bit(GICD_ICENABLER, intid);
    }
}

/// Marks an interrupt, a private one of this CPU's or a shared one, active or not: an active
/// one does not fire again. It is active when this returns: a guest's end of interrupt, which
/// deactivates it, comes after.
pub fn set_active(intid: u32, active: bool) {
    let Some(controller) = CONTROLLER.get() else { return };
    if !active {
        return controller.set_bit(GICD_ICACTIVER, intid);
    }
    controller.set_bit(GICD_ISACTIVER, intid);
    // A write may be acknowledged on its way (Device-nGnRE); what a read returns
    // comes from where both go.
    controller.read_bits(GICD_ISACTIVER, intid);
    arch::barrier::dsb_sy();
}

/// Takes the most urgent pending interrupt, dropping the priority again at
/// once; it stays active until [`deactivate`].
#[inline]
pub fn acknowledge() -> Option<u32> {
    if !HAS_REGISTERS.load(Ordering::Relaxed) {
        return acknowledge_gicc();
    }
    let taken = icc::acknowledge();
    if intid(taken) >= SPURIOUS {
        return None;
    }
    icc::drop_priority(taken);
    Some(taken)
}

#[cold]
fn acknowledge_gicc() -> Option<u32> {
    let cpu = gicc()?;
    let taken = cpu.read32(GICC_IAR);
    if intid(taken) >= SPURIOUS {
        return None;
    }
    cpu.write32(GICC_EOIR, taken);
    Some(taken)
}

/// The INTID in what [`acknowledge`] gave: a GICv2 says who sent an SGI, too.
#[inline]
pub fn intid(taken: u32) -> u32 {
    taken & 0x3ff
}

/// The interrupt may fire again. Takes what [`acknowledge`] gave.
#[inline]
pub fn deactivate(taken: u32) {
    if HAS_REGISTERS.load(Ordering::Relaxed) {
        icc::deactivate(taken);
    } else if let Some(cpu) = gicc() {
        cpu.write32(GICC_DIR, taken);
    }
}

/// A GICv2's CPU interface.
fn gicc() -> Option<&'static Mmio> {
    match CONTROLLER.get() {
        Some(Controller::V2 { cpu, .. }) => Some(cpu),
        _ => None,
    }
}

/// Sends a software-generated interrupt to another CPU.
pub fn send_sgi(target: usize, sgi: u32) {
    let Some(hardware_id) = cpu::get(target).map(|cpu| cpu.hardware_id.load(Ordering::Relaxed)) else {
        return;
    };
    match CONTROLLER.get() {
        Some(Controller::V3 { .. }) => icc::send_sgi(hardware_id, sgi),
        Some(Controller::V2 { distributor, masks, .. }) => {
            let mask = masks.get(target).map_or(0, |mask| mask.load(Ordering::Relaxed));
            arch::barrier::dsb_ishst();
            distributor.write32(GICD_SGIR, mask << 16 | sgi);
        }
        None => {}
    }
}

/// Whether a guest's end of interrupt, where a list register names a physical
/// interrupt, leaves that ready to fire. QEMU's GICv2 (up to 10.0 at least)
/// forgets to look at the line then: a timer that is due already would be silent
/// until something else happens.
pub fn deactivates() -> bool {
    match CONTROLLER.get() {
        Some(Controller::V2 { distributor, .. }) => distributor.read32(GICD_IIDR) != IIDR_QEMU,
        _ => true,
    }
}

/// Whether the controller is a GICv3.
pub fn is_v3() -> bool {
    matches!(CONTROLLER.get(), Some(Controller::V3 { .. }))
}

/// How many INTIDs the controller has.
pub fn lines() -> u32 {
    CONTROLLER.get().map_or(0, Controller::lines)
}

impl Controller {
    fn lines(&self) -> u32 {
        let (Controller::V3 { distributor, .. } | Controller::V2 { distributor, .. }) = self;
        (distributor.read32(GICD_TYPER) & 31).saturating_add(1).saturating_mul(32).min(1020)
    }

    fn init_distributor(&self) {
        let (Controller::V3 { distributor, .. } | Controller::V2 { distributor, .. }) = self;
        distributor.write32(GICD_CTLR, 0);
        if matches!(self, Controller::V3 { .. }) {
            wait_for_writes(distributor, GICD_CTLR, 1 << 31);
        }
        let lines = self.lines();
        for first in (32..lines).step_by(32) {
            let at = u64::from(first / 8);
            distributor.write32(GICD_ICENABLER.wrapping_add(at), u32::MAX);
            distributor.write32(GICD_ICACTIVER.wrapping_add(at), u32::MAX);
            if matches!(self, Controller::V3 { .. }) {
                // GICv2 without security keeps group 0, which its one enable
                // bit enables.
                distributor.write32(GICD_IGROUPR.wrapping_add(at), u32::MAX);
            }
        }
        for first in (32..lines).step_by(4) {
            distributor.write32(GICD_IPRIORITYR.wrapping_add(u64::from(first)), PRIORITY);
        }
        match self {
            Controller::V3 { .. } => {
                let target = arch::cpu::hardware_id();
                wait_for_writes(distributor, GICD_CTLR, 1 << 31);
                // ARE_NS, EnableGrp1NS; routing to the boot CPU.
                distributor.write32(GICD_CTLR, 1 << 4 | 2 | 1);
                for intid in 32..lines {
                    let at = u64::from(intid).wrapping_mul(8);
                    distributor.write64(GICD_IROUTER.wrapping_add(at), target);
                }
            }
            Controller::V2 { .. } => {
                let mine = interface_mask(distributor);
                for first in (32..lines).step_by(4) {
                    let at = GICD_ITARGETSR.wrapping_add(u64::from(first));
                    distributor.write32(at, mine.wrapping_mul(0x0101_0101));
                }
                distributor.write32(GICD_CTLR, 1);
            }
        }
    }

    fn init_cpu(&self) {
        match self {
            Controller::V3 { frames, regions, .. } => {
                let Some(address) = find_redistributor(regions) else {
                    log::error!("CPU{}: no GIC redistributor names it", cpu::index());
                    return;
                };
                if let Some(slot) = frames.get(cpu::index()) {
                    slot.store(address, Ordering::Relaxed);
                }
                let frame = memory::mmio(Registers { base: address, len: 0x2_0000 });
                // Wake: clear ProcessorSleep, wait for ChildrenAsleep to clear.
                let waker = frame.read32(GICR_WAKER);
                frame.write32(GICR_WAKER, waker & !2);
                for _ in 0..1_000_000 {
                    if frame.read32(GICR_WAKER) & 4 == 0 {
                        break;
                    }
                }
            }
            Controller::V2 { distributor, masks, .. } => {
                if let Some(mask) = masks.get(cpu::index()) {
                    mask.store(interface_mask(distributor), Ordering::Relaxed);
                }
            }
        }
        let private = |offset, value| self.private().write32(offset, value);
        private(GICD_ICENABLER, u32::MAX);
        private(GICD_ICACTIVER, u32::MAX);
        if let Controller::V3 { frames, .. } = self {
            let frame = frames.get(cpu::index()).map_or(0, |slot| slot.load(Ordering::Relaxed));
            wait_for_writes(&memory::mmio(Registers { base: frame, len: 0x1_0000 }), GICR_CTLR, 1 << 3);
            private(GICD_IGROUPR, u32::MAX);
        }
        for first in (0..32).step_by(4) {
            private(GICD_IPRIORITYR.wrapping_add(first), PRIORITY);
        }
        // SGIs are always there for us.
        private(GICD_ISENABLER, 0xffff);
        match self {
            Controller::V3 { .. } => icc::enable_cpu_interface(),
            Controller::V2 { cpu, .. } => {
                cpu.write32(GICC_PMR, 0xf0);
                // The group we see is enabled by bit 0; EOImode is bit 9.
                cpu.write32(GICC_CTLR, 1 | 1 << 9);
            }
        }
    }

    /// The registers of this CPU's private interrupts.
    fn private(&self) -> Mmio {
        match self {
            Controller::V3 { frames, .. } => {
                let base = frames.get(cpu::index()).map_or(0, |slot| slot.load(Ordering::Relaxed));
                // A CPU without a redistributor has no such registers.
                let len = if base == 0 { 0 } else { 0x1_0000 };
                memory::mmio(Registers { base: base.wrapping_add(GICR_SGI_BASE), len })
            }
            Controller::V2 { distributor, .. } => *distributor,
        }
    }

    /// Writes one bit to a register where zeros do nothing.
    fn set_bit(&self, register: u64, intid: u32) {
        let (registers, at) = self.bits(register, intid);
        registers.write32(at, 1 << (intid % 32));
    }

    /// Reads the register that [`Controller::set_bit`] writes.
    fn read_bits(&self, register: u64, intid: u32) -> u32 {
        let (registers, at) = self.bits(register, intid);
        registers.read32(at)
    }

    /// Where an array of registers with a bit for each interrupt has this one's.
    fn bits(&self, register: u64, intid: u32) -> (Mmio, u64) {
        let (Controller::V3 { distributor, .. } | Controller::V2 { distributor, .. }) = self;
        let registers = if intid < 32 { self.private() } else { *distributor };
        (registers, register.wrapping_add(u64::from(intid / 32).wrapping_mul(4)))
    }
}

/// Waits until the writes so far have taken effect: RWP, `bit` of the control
/// register, clears (GICv3 12.9.4, 12.11.2). A stuck one must not hold the boot.
fn wait_for_writes(registers: &Mmio, control: u64, bit: u32) {
    for _ in 0..1_000_000 {
        if registers.read32(control) & bit == 0 {
            break;
        }
    }
}

/// GICD_ITARGETSR0 as read by this CPU: the bit of its own CPU interface. Zero
/// where there is but one.
fn interface_mask(distributor: &Mmio) -> u32 {
    match distributor.read32(GICD_ITARGETSR) & 0xff {
        0 => 1,
        mask => mask,
    }
}

/// The redistributor whose GICR_TYPER names this CPU.
fn find_redistributor(regions: &[Option<Registers>; 4]) -> Option<u64> {
    let id = arch::cpu::hardware_id();
    // GICR_TYPER.Affinity_Value has Aff3 next to Aff2.
    let wanted = (id & 0xff_ffff) | (id >> 8) & 0xff00_0000;
    for region in regions.iter().flatten() {
        let mut at = region.base;
        let end = region.base.saturating_add(region.len);
        while at < end {
            let frame = memory::mmio(Registers { base: at, len: 0x2_0000 });
            let typer = frame.read64(GICR_TYPER);
            if typer >> 32 == wanted {
                return Some(at);
            }
            // Last in its region.
            if typer & 1 << 4 != 0 {
                break;
            }
            // VLPIS: two more frames.
            at = at.saturating_add(if typer & 2 != 0 { 0x4_0000 } else { 0x2_0000 });
        }
    }
    None
}
