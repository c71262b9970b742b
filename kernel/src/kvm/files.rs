//! What stands behind KVM's file descriptors.

mod process;

pub use process::{address_space, eventfd};

use crate::boot::BootPlan;
use crate::syscall::{Failure, SysResult, path::install};
use crate::user::CurrentUser;
use crate::process::credentials::resource;
use crate::{process as processes, sched, vcpu};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use base::{Errno, Result, UserMemExt, room};
use core::any::Any;
use core::task::Waker;
use frame::Frame;
use kvm::{Device, Done, Kvm, Vcpu, Vm};
use kvm_abi::ioctl::{CREATE_VCPU, RUN};
use signal::Restart;
use spin::Once;
use vfs::device::{self, DeviceRegistry};
use vfs::{File, OpenFile, VmObject, abi::OpenFlags};

static KVM: Once<Arc<Kvm>> = Once::new();

/// Makes /dev/kvm, if there is a hypervisor and the machine can run guests.
pub fn init(plan: &BootPlan, devices: &DeviceRegistry) {
    let Some(host) = super::hypervisor(plan) else { return };
    let kvm = KVM.call_once(|| Arc::new(Kvm::new(host)));
    let file: Arc<dyn File> = Arc::new(KvmFile(kvm.clone()));
    devices.register_file(device::KVM, "kvm", 0o600, file);
}

/// /dev/kvm.
struct KvmFile(Arc<Kvm>);

/// KVM_CREATE_VM's.
struct VmFile(Arc<Vm>);

/// KVM_CREATE_VCPU's: empty until the vCPU is made.
struct VcpuFile(Once<Arc<Vcpu>>);

/// KVM_CREATE_DEVICE's.
struct DeviceFile(Arc<Device>);

macro_rules! file {
    ($kind:ident, $name:literal) => {
        impl File for $kind {
            fn as_any(&self) -> &dyn Any {
                self
            }
            fn describe(&self) -> Cow<'static, str> {
                Cow::Borrowed(concat!("anon_inode:", $name))
            }
        }
    };
}

file!(KvmFile, "kvm");
file!(VmFile, "kvm-vm");
file!(DeviceFile, "[kvm-device]");

impl File for VcpuFile {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("anon_inode:kvm-vcpu")
    }

    fn mmap(&self) -> Result<Arc<dyn VmObject>> {
        let vcpu = self.0.get().ok_or(Errno::EIO)?;
        Ok(Arc::new(RunPage(vcpu.run_page().clone())))
    }
}

/// What mmap of a vCPU's descriptor gives: `struct kvm_run`. It keeps the page,
/// not the vCPU: that would close a circle with the memory that the VM maps.
struct RunPage(Frame);

impl VmObject for RunPage {
    fn frame(&self, index: u64, _for_write: bool) -> Result<Frame> {
        if index == 0 { Ok(self.0.clone()) } else { Err(Errno::EFAULT) }
    }

    fn len(&self) -> u64 {
        base::PAGE_SIZE
    }
}

impl Drop for VmFile {
    fn drop(&mut self) {
        vcpu::with_host_regime(|regime| self.0.release(regime));
    }
}

impl Drop for VcpuFile {
    fn drop(&mut self) {
        if let Some(vcpu) = self.0.get() {
            vcpu::with_host_regime(|regime| vcpu.vm().release(regime));
        }
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        vcpu::with_host_regime(|regime| self.0.vm().release(regime));
    }
}

/// An ioctl, if `file` is one of KVM's.
pub fn ioctl(file: &OpenFile, request: u32, arg: u64) -> Option<SysResult> {
    let user = &CurrentUser;
    let done = if let Some(vcpu) = file.downcast::<VcpuFile>() {
        return vcpu.0.get().map(|vcpu| vcpu_ioctl(vcpu, request, arg));
    } else if let Some(vm) = file.downcast::<VmFile>() {
        if request == CREATE_VCPU {
            return Some(create_vcpu(&vm.0, arg));
        }
        vcpu::with_host_regime(|regime| vm.0.ioctl(regime, user, request, arg))
    } else if let Some(device) = file.downcast::<DeviceFile>() {
        vcpu::with_host_regime(|regime| device.0.ioctl(regime, user, request, arg))
    } else if let Some(kvm) = file.downcast::<KvmFile>() {
        vcpu::with_host_regime(|regime| kvm.0.ioctl(regime, user, request, arg))
    } else {
        return None;
    };
    Some(done.map_err(Failure::Errno).and_then(finish))
}

/// KVM_CREATE_VCPU. The descriptor comes first: a VM never loses a vCPU again, so
/// that nothing may fail once it has it.
fn create_vcpu(vm: &Arc<Vm>, id: u64) -> SysResult {
    let process = processes::current()?;
    let reserved = process.files()?.reserve(process.limit(resource::NOFILE))?;
    let vcpu = room::try_arc(VcpuFile(Once::new()))?;
    let file = OpenFile::anonymous(vcpu.clone(), OpenFlags::RDWR)?;
    match vcpu::with_host_regime(|regime| vm.ioctl(regime, &CurrentUser, CREATE_VCPU, id)) {
        Ok(Done::Vcpu(made)) => {
            vcpu.0.call_once(|| made);
            Ok(i64::from(reserved.install(file, true)))
        }
        other => finish(other?),
    }
}

/// How often KVM_RUN tries again for memory: what it lacks may be something
/// that nobody's end gives back, such as pages in a row.
const PATIENCE: usize = 1000;

/// An ioctl on a vCPU: the only kind that waits.
fn vcpu_ioctl(vcpu: &Arc<Vcpu>, request: u32, arg: u64) -> SysResult {
    let attempt = || {
        let once = || {
            vcpu::come_home(vcpu.core());
            vcpu::with_host_regime(|regime| vcpu.ioctl(regime, &CurrentUser, request, arg))
        };
        for _ in 0..PATIENCE {
            match once() {
                // As if the VMM itself had touched the page.
                Err(Errno::ENOMEM) if request == RUN && processes::oom::relieve() => {}
                other => return other,
            }
        }
        once()
    };
    let done = attempt()?;
    if matches!(done, Done::Wait) {
        let waker = Waker::from(sched::current());
        vcpu.wait_queue().register(&waker)?;
        let result = loop {
            match attempt() {
                // KVM_RUN answers a signal itself, with EINTR whatever the
                // handler's SA_RESTART says; others wait for their turn only.
                Ok(Done::Wait) if request != RUN && processes::signal_pending() => {
                    break Err(Failure::Restart(Restart::Sys));
                }
                Ok(Done::Wait) => {
                    sched::park();
                    // Who is woken all the time never sleeps.
                    sched::breathe();
                }
                Ok(done) => break finish(done),
                Err(errno) => break Err(Failure::Errno(errno)),
            }
        };
        vcpu.wait_queue().unregister(&waker);
        return result;
    }
    finish(done)
}

fn finish(done: Done) -> SysResult {
    let open = |file: Arc<dyn File>| install(OpenFile::anonymous(file, OpenFlags::RDWR)?, true);
    match done {
        Done::Value(value) => Ok(value),
        Done::Vm(vm) => open(room::try_arc(VmFile(vm))?),
        Done::Device { device, fd_at } => {
            let fd = open(room::try_arc(DeviceFile(device))?)?;
            CurrentUser.write_obj(fd_at, &(fd as u32))?;
            Ok(0)
        }
        // [`create_vcpu`] and [`vcpu_ioctl`] deal with these.
        Done::Vcpu(_) | Done::Wait => Err(Errno::EAGAIN.into()),
    }
}
