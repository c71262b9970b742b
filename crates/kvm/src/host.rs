//! What the kernel gives to KVM.

use crate::vcpu::{Entry, MAX_VCPUS, VcpuCore, VcpuState};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Result, WaitQueue};
use frame::Frame;
use paging::{GuestDevice, Id};
use psci::Workaround;
use regime::HostRegime;
use traps::id::ID_AA64PFR0;
use traps::{GuestFeatures, IdRegs};

/// What is true of the machine, read once at boot over all CPUs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// ID_AA64*_EL1, the features that all CPUs have.
    pub id: IdRegs,
    /// What bears on a guest's view of them. `gicv3` is set by KVM.
    pub features: GuestFeatures,
    /// MIDR_EL1.
    pub midr: u64,
    /// REVIDR_EL1.
    pub revidr: u64,
    /// AIDR_EL1.
    pub aidr: u64,
    /// CTR_EL0.
    pub ctr: u64,
    /// CLIDR_EL1.
    pub clidr: u64,
    /// ACTLR_EL1.
    pub actlr: u64,
    /// CCSIDR_EL1 by CSSELR_EL1.
    pub ccsidr: Vec<(u8, u32)>,
    /// ICH_VTR_EL2, if there is a GIC with virtualisation; of a GICv2, GICH_VTR.
    pub ich_vtr: Option<u64>,
    /// Guests' ends of interrupts deactivate physical ones: see [`vgic::Config`].
    pub gic_deactivates: bool,
    /// GICV, if that is a GICv2.
    pub gicv: Option<GuestDevice>,
    /// The widest guest physical address that stage 2 can translate, 32 to 48.
    pub ipa_bits: u8,
    /// CPUs online.
    pub cpus: u32,
    /// The INTID of the physical interrupt of CNTV, 27 by recommendation.
    pub vtimer_intid: u16,
    /// HCR_EL2 for guests.
    pub hcr_el2: u64,
    /// Stage 2 makes guests' memory cacheable, whatever they say (FEAT_S2FWB).
    pub stage2_fwb: bool,
    /// Spectre variant 2, speculative store bypass, Spectre-BHB.
    pub workarounds: [Workaround; 3],
}

impl Facts {
    /// The interrupt controller that guests can have: the machine's own kind.
    pub fn gic(&self) -> Option<vgic::Config> {
        let version = if self.gicv.is_some() { vgic::Version::V2 } else { vgic::Version::V3 };
        let (ipa_bits, deactivates) = (self.ipa_bits, self.gic_deactivates);
        self.ich_vtr.map(|vtr| vgic::Config { version, vtr, ipa_bits, deactivates })
    }

    /// Whether guests can have a GICv3.
    pub fn has_gicv3(&self) -> bool {
        self.ich_vtr.is_some() && self.gicv.is_none()
    }

    /// FEAT_RAS.
    pub fn has_ras(&self) -> bool {
        self.id.at(ID_AA64PFR0) >> 28 & 0xf != 0
    }

    /// How many vCPUs a VM can have.
    pub fn max_vcpus(&self) -> usize {
        self.gic().map_or(MAX_VCPUS, |gic| gic.max_vcpus().min(MAX_VCPUS))
    }
}

/// Why the guest stopped running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A synchronous exception that [`crate::fast`] didn't answer; ESR_EL2 and
    /// friends are in the context.
    Sync,
    /// An interrupt of the host's is pending.
    Interrupt,
    /// The guest caused an SError, with this ESR_EL2.
    SError(u64),
    /// [`crate::fast`] answered and said [`crate::Fast::Done`].
    Done,
    /// The CPU couldn't enter the guest: KVM_EXIT_FAIL_ENTRY with this reason.
    FailEntry(u64),
}

/// The kernel, as KVM needs it. One object for the machine; "the current task"
/// and "this CPU" are those of the caller.
pub trait Host: Send + Sync {
    /// What is true of the machine.
    fn facts(&self) -> &Facts;

    /// The machine's counter, CNTPCT_EL0.
    fn now(&self) -> u64;

    /// Three random words, if nobody can guess them.
    fn entropy(&self) -> Option<[u64; 3]>;

    /// Whether the current task has a signal to take.
    fn signal_pending(&self) -> bool;

    /// The current task's address space.
    fn address_space(&self) -> Arc<dyn AddressSpace>;

    /// [`AddressSpace::id`] of the current task's, without a reference to it:
    /// every call asks.
    fn address_space_id(&self) -> u64;

    /// The eventfd behind a file descriptor of the current task: `EBADF` if it
    /// isn't open, `EINVAL` if it is something else.
    fn eventfd(&self, fd: i32) -> Result<Arc<dyn EventFd>>;

    /// Makes `cpu` leave the guest, by an interrupt. Needs no host regime, takes
    /// no lock, never waits.
    fn kick(&self, cpu: u32);

    /// Runs the vCPU until [`crate::fast`] can't go on. If its registers aren't
    /// live in this CPU they are loaded first (see README, "Load and put"). If
    /// others want the CPU it is [`Exit::Interrupt`] at once, for nothing else
    /// may interrupt the guest: a [`Host::window`] follows.
    /// `PC`, `PSTATE`, x0-x30 and the syndromes are in the context on return.
    fn enter(&self, regime: &mut HostRegime, entry: &Entry<'_>, state: &mut VcpuState) -> Exit;

    /// Makes memory the truth of a vCPU's registers, wherever they are live, and
    /// lets go of every reference to it. The caller holds no lock.
    fn pull(&self, regime: &HostRegime, core: &Arc<VcpuCore>);

    /// If the vCPU is live in this CPU: copies what it holds of list registers
    /// (`lr[..used]`, VMCR, HCR.EOIcount) and CNTV_CTL/CVAL into `state`.
    fn read_live(&self, core: &VcpuCore, state: &mut VcpuState);

    /// If the vCPU is live in this CPU: writes list registers `..write` and
    /// ICH_HCR_EL2 from `state`, and deactivates the virtual timer's physical
    /// interrupt if `deactivate`.
    fn write_live(&self, core: &VcpuCore, state: &VcpuState, write: u8, deactivate: bool);

    /// This CPU's number.
    fn this_cpu(&self) -> u32;

    /// Takes the interrupts that are pending; may run other tasks meanwhile.
    /// The caller holds no lock.
    fn window(&self, regime: &mut HostRegime);

    /// Waits on this CPU until [`VcpuCore::has_requests`], a signal or anything
    /// else that is to be looked at. `false` if others want the CPU: the caller
    /// is to give it up ([`crate::Done::Wait`]). The caller holds no lock.
    fn rest(&self, _regime: &mut HostRegime, _core: &VcpuCore) -> bool {
        false
    }

    /// At the machine's count `deadline` calls [`VcpuCore::timer_due`]; replaces
    /// what was asked before. `None`: never mind.
    fn set_timer(&self, core: &Arc<VcpuCore>, deadline: Option<u64>);

    /// Makes all CPUs forget what they know of a guest's stage 2 in a range
    /// (all of it where `len` is `u64::MAX`), and of stage 1 that depends on it.
    fn invalidate_stage2(&self, vmid: &Id, start: u64, len: u64, last_level: bool);

    /// Before a guest sees a frame: cleans it to the point of coherency (not
    /// with FEAT_S2FWB) and makes instruction fetches see it.
    fn make_coherent(&self, frame: &Frame);

    /// A guest has ended SPI `intid` of a device of the machine's that it has
    /// ([`vgic::Kick::ended`]): the physical one may fire again. As for `kick`.
    fn interrupt_ended(&self, _intid: u32) {}

    /// Something worth a line in the log, rate-limited.
    fn note(&self, regime: &HostRegime, what: core::fmt::Arguments<'_>);

    /// The machine can't be trusted any more: the end of everything. The caller holds no
    /// lock.
    fn fatal(&self, what: core::fmt::Arguments<'_>) -> !;
}

/// The memory that backs a guest.
pub trait AddressSpace: Send + Sync {
    /// Tells address spaces apart.
    fn id(&self) -> u64;

    /// Counts what is invalidated. Read before [`AddressSpace::get_frame`].
    fn sequence(&self) -> u64;

    /// Whether nothing was or is being invalidated since `sequence` was read;
    /// asked under the stage-2 lock.
    fn is_current(&self, sequence: u64) -> bool;

    /// The frame at `addr`, faulted in: a page, or the block that holds `addr`.
    /// `EFAULT` if there is none or it doesn't allow the access.
    fn get_frame(&self, regime: &HostRegime, addr: u64, write: bool) -> Result<HostFrame>;

    /// The blocks of the GiB at `addr`, a multiple of that, if they are one
    /// ([`frame::is_gigabyte`]), and stay where they are and writable while the VM lives.
    fn gigabyte(&self, _addr: u64) -> Option<&[Frame]> {
        None
    }

    /// From now on `notifier` hears of every range before its frames are freed
    /// or write-protected, as long as it lives.
    fn register(&self, notifier: Weak<dyn MmuNotifier>) -> Result<()>;
}

/// A frame of an address space.
#[derive(Debug)]
pub struct HostFrame {
    /// The page at the address, or the 2 MiB block that holds it.
    pub frame: Frame,
    /// The guest may write it.
    pub writable: bool,
}

/// Who maps an address space's frames elsewhere.
pub trait MmuNotifier: Send + Sync {
    /// `start..end` is about to change: unmap it (or more), and return once no
    /// CPU can reach it. Called under the memory map's lock.
    fn invalidate(&self, start: u64, end: u64);
}

/// An eventfd.
pub trait EventFd: Send + Sync {
    /// Adds to the counter, and wakes who waits.
    fn signal(&self, count: u64);
    /// Takes the counter, if it isn't zero. Who waits isn't woken: an irqfd does.
    fn take(&self) -> bool;
    /// Who waits.
    fn wait_queue(&self) -> &WaitQueue;
    /// Whether both are the same.
    fn same(&self, other: &dyn EventFd) -> bool {
        core::ptr::eq(
            core::ptr::from_ref(self.wait_queue()),
            core::ptr::from_ref(other.wait_queue()),
        )
    }
}
