//! The part that talks to /dev/kvm, with no more calls than a small KVM has.

mod gic;
mod vcpu;

pub use vcpu::{Running, Vcpu};

use std::sync::Arc;

use kvm_bindings::{
    KVM_API_VERSION, KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_ARM_VCPU_PMU_V3,
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, DeviceFd, IoEventAddress, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::args::{Facility, Feature, GicChoice, Run};
use crate::error::{Context, Error, Result};
use crate::fdt::Gic;
use crate::irq::Irq;
use crate::layout;
use crate::memory::Ram;

/// The size of guest-physical addresses that a VM of type 0 has (KVM_CREATE_VM).
const DEFAULT_IPA_BITS: u32 = 40;

/// /dev/kvm.
pub struct Host(Kvm);

impl Host {
    /// Opens it, and checks that it has what we cannot do without.
    pub fn open() -> Result<Host> {
        let kvm = Kvm::new().map_err(|e| {
            let error = Error::new(format!("cannot open /dev/kvm: {e}"));
            match e.errno() {
                libc::ENOENT | libc::ENODEV | libc::ENXIO => error.cure(
                    "the host kernel must be entered at EL2 and have KVM on: look for kvm-arm.mode=none on its \
                     command line and for \"kvm\" in dmesg (in QEMU: -M virt,virtualization=on; on Linux: CONFIG_KVM)",
                ),
                libc::EACCES | libc::EPERM => {
                    error.cure("run as root or as a member of the group that owns /dev/kvm (often kvm)")
                }
                _ => error,
            }
        })?;
        let version = u32::try_from(kvm.get_api_version()).unwrap_or(0);
        if version != KVM_API_VERSION {
            return Err(Error::new(format!(
                "/dev/kvm speaks version {version} of the API, not {KVM_API_VERSION}"
            )));
        }
        for (cap, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::DeviceCtrl, "KVM_CAP_DEVICE_CTRL"),
            (Cap::OneReg, "KVM_CAP_ONE_REG"),
            (Cap::ArmPsci02, "KVM_CAP_ARM_PSCI_0_2"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(Error::new(format!("the host's KVM lacks {name}"))
                    .cure("use a newer host kernel"));
            }
        }
        Ok(Host(kvm))
    }

    /// The type of VM whose guest-physical addresses reach `end`.
    fn vm_type(&self, end: u64) -> Result<u64> {
        let need = u64::BITS.saturating_sub(end.saturating_sub(1).leading_zeros());
        let limit = match self.0.check_extension_int(Cap::ArmVmIPASize) {
            n @ 1.. => u32::try_from(n).unwrap_or(DEFAULT_IPA_BITS),
            _ => DEFAULT_IPA_BITS,
        };
        if need > limit {
            let most = (1u64 << limit.min(63)).saturating_sub(layout::RAM_BASE) / layout::MIB;
            return Err(Error::new(format!(
                "the host's guests have {limit}-bit physical addresses: not enough for so much RAM"
            ))
            .cure(format!("give --mem {most} or less")));
        }
        if need <= DEFAULT_IPA_BITS && DEFAULT_IPA_BITS <= limit {
            Ok(0)
        } else {
            Ok(u64::from(need.max(32)))
        }
    }
}

/// A virtual machine.
pub struct Vm {
    fd: Arc<VmFd>,
    gic: Gic,
    // Closing it would not remove the GIC; it is kept for order's sake.
    _gic_fd: DeviceFd,
    irqfd: bool,
    ioeventfd: bool,
}

impl Vm {
    /// Makes the VM that `run` asks for, with its RAM, its interrupt controller and its vCPUs.
    pub fn new(host: &Host, run: &Run, ram: &Ram) -> Result<(Vm, Vec<Vcpu>)> {
        let kvm = &host.0;
        let most = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
        if run.cpus > most {
            return Err(Error::new(format!(
                "--cpus {}: the host's KVM has at most {most}",
                run.cpus
            ))
            .cure(format!("give --cpus {most} or less")));
        }
        let vm_type = host.vm_type(layout::RAM_BASE.saturating_add(ram.size()))?;
        let fd = kvm.create_vm_with_type(vm_type).context("KVM_CREATE_VM")?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: layout::RAM_BASE,
            memory_size: ram.size(),
            userspace_addr: ram.host_address(),
        };
        // SAFETY: the slot is guest RAM, which stays mapped until the process ends and holds nothing of ours.
        unsafe { fd.set_user_memory_region(slot) }.map_err(|e| {
            Error::new(format!("KVM does not take {} MiB of guest RAM: {e}", run.mem))
                .cure("give a smaller --mem")
        })?;
        let (gic, gic_fd) = gic::create(&fd, run.gic, run.cpus)?;
        let vcpus = create_vcpus(&fd, run)?;
        gic::init(&gic_fd, gic, run.cpus, layout::gic_irqs(run.virtio_slots()?))?;
        // The PMU's interrupt goes to the GIC, which has to be ready.
        if run.features.contains(&Feature::Pmu) {
            vcpus.iter().try_for_each(Vcpu::init_pmu)?;
        }
        let wanted = |facility| !run.without.contains(&facility);
        let vm = Vm {
            irqfd: wanted(Facility::Irqfd) && kvm.check_extension(Cap::Irqfd),
            ioeventfd: wanted(Facility::Ioeventfd) && kvm.check_extension(Cap::Ioeventfd),
            fd: Arc::new(fd),
            gic,
            _gic_fd: gic_fd,
        };
        Ok((vm, vcpus))
    }

    /// The interrupt controller that it got.
    pub fn gic(&self) -> Gic {
        self.gic
    }

    /// Shared peripheral interrupt `spi`, edge-triggered.
    pub fn irq(&self, spi: u32) -> Result<Arc<dyn Irq>> {
        if self.irqfd {
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("eventfd")?;
            self.fd.register_irqfd(&event, spi).context("KVM_IRQFD")?;
            return Ok(Arc::new(event));
        }
        Ok(Arc::new(Line {
            fd: self.fd.clone(),
            irq: KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT
                | spi.saturating_add(layout::SPI_INTID),
        }))
    }

    /// Has KVM signal `event` when the guest stores the word `value` at `addr`, if it can.
    pub fn watch(&self, addr: u64, value: u32, event: &EventFd) -> Result<()> {
        if self.ioeventfd {
            self.fd
                .register_ioevent(event, &IoEventAddress::Mmio(addr), value)
                .context("KVM_IOEVENTFD")?;
        }
        Ok(())
    }
}

/// An interrupt line without an eventfd (KVM_IRQ_LINE).
struct Line {
    fd: Arc<VmFd>,
    irq: u32,
}

impl Irq for Line {
    fn raise(&self) {
        // An edge is all that an edge-triggered interrupt needs. It fails for wrong numbers only.
        for level in [true, false] {
            if let Err(e) = self.fd.set_irq_line(self.irq, level) {
                eprintln!("hypha-vmm: KVM_IRQ_LINE {:#x}: {e}", self.irq);
            }
        }
    }
}

fn create_vcpus(fd: &VmFd, run: &Run) -> Result<Vec<Vcpu>> {
    let mut init = kvm_vcpu_init::default();
    fd.get_preferred_target(&mut init).context("KVM_ARM_PREFERRED_TARGET")?;
    let mut features = 1u32 << KVM_ARM_VCPU_PSCI_0_2;
    for feature in &run.features {
        let (caps, bits, name): (&[Cap], u32, _) = match feature {
            Feature::Sve => (&[Cap::ArmSve], 1 << KVM_ARM_VCPU_SVE, "SVE"),
            Feature::Ptrauth => (
                &[Cap::ArmPtrAuthAddress, Cap::ArmPtrAuthGeneric],
                1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << KVM_ARM_VCPU_PTRAUTH_GENERIC,
                "pointer authentication",
            ),
            Feature::Pmu => (&[Cap::ArmPmuV3], 1 << KVM_ARM_VCPU_PMU_V3, "a PMU"),
        };
        if !caps.iter().all(|cap| fd.check_extension(*cap)) {
            return Err(Error::new(format!("the host's KVM cannot give guests {name}"))
                .cure("leave it out of --feature"));
        }
        features |= bits;
    }
    (0..run.cpus)
        .map(|id| {
            let boot = id == 0;
            let off = if boot { 0 } else { 1 << KVM_ARM_VCPU_POWER_OFF };
            if let Some(word) = init.features.first_mut() {
                *word = features | off;
            }
            Vcpu::create(fd, id, &init, run.features.contains(&Feature::Sve))
        })
        .collect()
}

/// Which versions to try, best first.
fn candidates(choice: GicChoice) -> &'static [Gic] {
    match choice {
        GicChoice::Auto => &[Gic::V3, Gic::V2],
        GicChoice::V2 => &[Gic::V2],
        GicChoice::V3 => &[Gic::V3],
    }
}
