//! A vCPU and the thread that runs it.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ, KVM_ARM_VCPU_SVE,
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_device_attr,
    kvm_vcpu_init,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::Bus;
use crate::control::{Control, Stop};
use crate::error::{Context, Error, Result};

// Register identifiers (Documentation/virt/kvm/api.rst, 4.68): 64-bit, core registers by offset in words, and
// MPIDR_EL1 by its encoding.
const X0: u64 = 0x6030_0000_0010_0000;
const PC: u64 = 0x6030_0000_0010_0040;
const PSTATE: u64 = 0x6030_0000_0010_0042;
const MPIDR_EL1: u64 = 0x6030_0000_0013_c005;

/// EL1h, with D, A, I and F masked: how the boot protocol enters a kernel.
const PSTATE_BOOT: u64 = 0x3c5;

/// The PMU's private peripheral interrupt, as the device tree says: PPI 7 is INTID 23.
const PMU_INTID: u32 = 23;

/// How long vCPUs get to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

thread_local! {
    /// Where this thread's vCPU has its immediate_exit.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let immediate_exit = IMMEDIATE_EXIT.get();
    if !immediate_exit.is_null() {
        // SAFETY: it is set to the byte in this thread's kvm_run, and to null before that is unmapped. The kernel
        // reads the byte too, hence volatile.
        unsafe { immediate_exit.write_volatile(1) };
    }
}

/// A vCPU that does not run yet.
pub struct Vcpu {
    id: u32,
    fd: VcpuFd,
}

impl Vcpu {
    /// Creates vCPU `id`.
    pub fn create(vm: &VmFd, id: u32, init: &kvm_vcpu_init, sve: bool) -> Result<Vcpu> {
        let fd = vm.create_vcpu(id.into()).context(&format!("KVM_CREATE_VCPU {id}"))?;
        fd.vcpu_init(init).context(&format!("KVM_ARM_VCPU_INIT {id}"))?;
        if sve {
            let feature = i32::try_from(KVM_ARM_VCPU_SVE).unwrap_or(0);
            fd.vcpu_finalize(&feature).context("KVM_ARM_VCPU_FINALIZE")?;
        }
        Ok(Vcpu { id, fd })
    }

    /// Gives the PMU its interrupt.
    pub fn init_pmu(&self) -> Result<()> {
        let pointer: *const u32 = &PMU_INTID;
        for (attr, addr) in [
            (KVM_ARM_VCPU_PMU_V3_IRQ, u64::try_from(pointer.expose_provenance()).unwrap_or(0)),
            (KVM_ARM_VCPU_PMU_V3_INIT, 0),
        ] {
            let attribute = kvm_device_attr {
                flags: 0,
                group: KVM_ARM_VCPU_PMU_V3_CTRL,
                attr: attr.into(),
                addr,
            };
            self.fd.set_device_attr(&attribute).context("setting up the PMU")?;
        }
        Ok(())
    }

    /// Its MPIDR_EL1.
    pub fn mpidr(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fd.get_one_reg(MPIDR_EL1, &mut bytes).context("KVM_GET_ONE_REG MPIDR_EL1")?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Has it start at `entry` with the device tree at `fdt`, as the boot protocol says.
    pub fn set_entry(&self, entry: u64, fdt: u64) -> Result<()> {
        // X1 to X3 are zero from reset on.
        for (register, value) in [(PC, entry), (X0, fdt), (PSTATE, PSTATE_BOOT)] {
            self.fd
                .set_one_reg(register, &value.to_le_bytes())
                .context(&format!("KVM_SET_ONE_REG {register:#x}"))?;
        }
        Ok(())
    }

    /// Runs until the guest or `control` says stop.
    fn run(mut self, bus: &Bus, control: &Control) {
        IMMEDIATE_EXIT.set(&raw mut self.fd.get_kvm_run().immediate_exit);
        // The kick may have come before that was set; what it announces came before the kick.
        while !control.stopping() {
            if let Some(stop) = self.step(bus) {
                control.stop(stop);
                break;
            }
        }
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }

    /// Enters the guest once and handles its exit.
    fn step(&mut self, bus: &Bus) -> Option<Stop> {
        let id = self.id;
        let failed = |what: String| Some(Stop::Failed(Error::new(format!("vCPU {id}: {what}"))));
        match self.fd.run() {
            Ok(VcpuExit::MmioRead(addr, data)) => bus.read(addr, data),
            Ok(VcpuExit::MmioWrite(addr, data)) => bus.write(addr, data),
            Ok(VcpuExit::SystemEvent(kind, _)) => {
                return match kind {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Some(Stop::Off),
                    KVM_SYSTEM_EVENT_RESET => Some(Stop::Reset),
                    KVM_SYSTEM_EVENT_CRASH => Some(Stop::Crash),
                    other => failed(format!("system event {other}, which nobody asked for")),
                };
            }
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return failed(format!(
                    "the host could not enter the guest on CPU {cpu}, reason {reason:#x}"
                ));
            }
            Ok(VcpuExit::Unsupported(kvm_bindings::KVM_EXIT_ARM_NISV)) => {
                return failed(
                    "the guest used an instruction on a device that KVM cannot decode (KVM_EXIT_ARM_NISV)".into(),
                );
            }
            Ok(exit) => return failed(format!("the guest cannot go on: exit {exit:?}")),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(e) => return failed(format!("KVM_RUN: {e}")),
        }
        None
    }
}

/// vCPUs on their threads.
pub struct Running {
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts a thread for each vCPU.
    pub fn start(vcpus: Vec<Vcpu>, bus: &Arc<Bus>, control: &Arc<Control>) -> Result<Running> {
        register_signal_handler(SIGRTMIN(), on_kick).context("sigaction")?;
        let mut running = Running { threads: Vec::new() };
        for vcpu in vcpus {
            let (bus, for_thread) = (bus.clone(), control.clone());
            let thread = thread::Builder::new()
                .name(format!("vcpu{}", vcpu.id))
                .spawn(move || vcpu.run(&bus, &for_thread));
            match thread {
                Ok(thread) => running.threads.push(thread),
                Err(e) => {
                    control.stop(Stop::Failed(Error::new(format!(
                        "cannot start a vCPU's thread: {e}"
                    ))));
                    break;
                }
            }
        }
        Ok(running)
    }

    /// Stops them, after a stop was announced. False if one does not react, which it must within seconds.
    pub fn stop(self) -> bool {
        let deadline = Instant::now().checked_add(STOP_TIMEOUT);
        loop {
            // A second kick does no harm, and helps a vCPU that is in the middle of a blocked write.
            let mut busy = false;
            for thread in self.threads.iter().filter(|t| !t.is_finished()) {
                busy = true;
                let _ = thread.kill(SIGRTMIN());
            }
            if !busy {
                break;
            }
            if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        true
    }
}
