//! Small virtual machines, and the counter and marks of whoever watches.

use kvm_bindings::{KVM_ARM_VCPU_PSCI_0_2, kvm_userspace_memory_region, kvm_vcpu_init};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io::Error;

/// Where the guest's code is, its memory, and nothing: a store there exits.
const CODE: u64 = 0x4000_0000;
pub const RAM: u64 = 0x8000_0000;
const NOWHERE: u64 = 0x0900_0000;
pub const PAGE: usize = 4096;

pub type Result<T> = std::result::Result<T, Error>;

core::arch::global_asm!(
    r#"
    .balign 4096
measure_code:
    // Exits, again and again.
measure_exit:
    str     x6, [x4]
    b       measure_exit
    // Stores to x10 pages from x9; exits with the ticks that it took.
measure_touch:
    isb
    mrs     x5, cntvct_el0
1:  str     x9, [x9]
    add     x9, x9, #4096
    subs    x10, x10, #1
    b.ne    1b
    isb
    mrs     x6, cntvct_el0
    sub     x6, x6, x5
    str     x6, [x4]
    b       measure_touch
    // The same, each between marks (x0 and x1 hold the name).
measure_marked:
    movz    xzr, #0x6801
    str     x9, [x9]
    movz    xzr, #0x6803
    add     x9, x9, #4096
    subs    x10, x10, #1
    b.ne    measure_marked
    str     x6, [x4]
    b       measure_marked
    .balign 4096
"#
);

unsafe extern "C" {
    fn measure_code();
    fn measure_exit();
    fn measure_touch();
    fn measure_marked();
}

/// What a guest does.
#[derive(Clone, Copy)]
pub enum Code {
    Exit,
    Touch,
    Marked,
}

impl Code {
    fn address(self) -> u64 {
        let label = match self {
            Code::Exit => measure_exit as *const (),
            Code::Touch => measure_touch as *const (),
            Code::Marked => measure_marked as *const (),
        };
        CODE + (label as u64 - measure_code as *const () as u64)
    }
}

/// Anonymous memory in pages of 4 KiB, given back at the end.
pub struct Memory {
    at: *mut libc::c_void,
    len: usize,
}

impl Memory {
    pub fn new(len: usize) -> Result<Self> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, wherever there is room.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        // A kernel that knows no huge pages may refuse: it gives none.
        // SAFETY: our own memory.
        unsafe { libc::madvise(at, len, libc::MADV_NOHUGEPAGE) };
        Ok(Self { at, len })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by us; VMs that had it are gone, or find nothing there.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

pub struct Machine {
    pub vcpu: VcpuFd,
    vm: VmFd,
}

impl Machine {
    /// One vCPU that will run this; memory from [`RAM`] on.
    pub fn new(kvm: &Kvm, code: Code, memory: Option<&Memory>) -> Result<Self> {
        let vm = kvm.create_vm()?;
        slot(&vm, 0, CODE, measure_code as *const () as u64, PAGE)?;
        if let Some(memory) = memory {
            slot(&vm, 1, RAM, memory.at as u64, memory.len)?;
        }
        let vcpu = vm.create_vcpu(0)?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        vcpu.vcpu_init(&init)?;
        let machine = Self { vcpu, vm };
        machine.set(4, NOWHERE)?;
        machine.go(code)?;
        Ok(machine)
    }

    /// Sets x0 to x30.
    pub fn set(&self, x: u64, value: u64) -> Result<()> {
        self.set_core(x, value)
    }

    /// Sets the PC.
    pub fn go(&self, code: Code) -> Result<()> {
        self.set_core(32, code.address())
    }

    /// A register of kvm_regs by its index in 64-bit words.
    fn set_core(&self, index: u64, value: u64) -> Result<()> {
        let id = 0x6030_0000_0010_0000 | (index * 2);
        self.vcpu.set_one_reg(id, &value.to_le_bytes())?;
        Ok(())
    }

    /// Runs to the next store to nowhere; what was stored.
    pub fn exit(&mut self) -> Result<u64> {
        match self.vcpu.run()? {
            VcpuExit::MmioWrite(_, data) => {
                let mut bytes = [0; 8];
                bytes[..data.len()].copy_from_slice(data);
                Ok(u64::from_le_bytes(bytes))
            }
            other => Err(Error::other(format!("exit {other:?}"))),
        }
    }

    /// Keeps the VM until here.
    pub fn end(self) {
        drop(self.vcpu);
        drop(self.vm);
    }
}

fn slot(vm: &VmFd, slot: u32, gpa: u64, at: u64, len: usize) -> Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: len as u64,
        userspace_addr: at,
    };
    // SAFETY: the program's text, which the guest only reads, or memory that nobody
    // else looks at.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(())
}

/// The virtual counter.
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads a register that EL0 may read.
    unsafe { core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

/// Its frequency.
pub fn frequency() -> u64 {
    let hz: u64;
    // SAFETY: as above.
    unsafe { core::arch::asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nostack)) };
    hz
}

/// A name as marks carry it.
pub fn words(name: &str) -> [u64; 2] {
    let mut bytes = [0; 16];
    for (to, byte) in bytes.iter_mut().zip(name.bytes()) {
        *to = byte;
    }
    let value = u128::from_le_bytes(bytes);
    [value as u64, (value >> 64) as u64]
}

macro_rules! mark {
    ($($(#[$doc:meta])* $name:ident = $n:literal;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name([x0, x1]: [u64; 2]) {
            // SAFETY: changes no register or memory (xtask/plugin says what it is).
            unsafe {
                core::arch::asm!(concat!("movz xzr, #", $n), in("x0") x0, in("x1") x1,
                    options(nostack))
            };
        }
    )+};
}

mark! {
    /// Opens a window of a name ([`words`]).
    open = 0x6801;
    /// Asks for the count of instructions since power-on.
    count = 0x6805;
}

/// Closes the window.
#[inline(always)]
pub fn close() {
    // SAFETY: as above.
    unsafe { core::arch::asm!("movz xzr, #0x6803", options(nostack)) };
}
