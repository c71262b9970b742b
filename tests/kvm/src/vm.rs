//! A small machine to test with: a page of code, a page that guest and test
//! speak through, and memory that the test plays with.

use el0_tests::util::{Map, PAGE, gettid, handle, until};
use el0_tests::{Errno, Fail, Outcome, sys};
use kvm_bindings::{KVM_ARM_VCPU_PSCI_0_2, kvm_userspace_memory_region, kvm_vcpu_init};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

/// Where the code is.
pub const CODE: u64 = 0x4000_0000;
/// Where the mailbox is.
pub const MAIL: u64 = 0x4010_0000;
/// Where the memory is.
pub const RAM: u64 = 0x8000_0000;
/// Where nothing is: accesses exit.
pub const NOWHERE: u64 = 0x0900_0000;

/// KVM's errors as ours.
pub fn e(e: kvm_ioctls::Error) -> Errno {
    Errno(e.errno())
}

core::arch::global_asm!(
    r#"
    .balign 4
guest_code:
    // Loads from x1, puts it into the mailbox at x2, counts at x2 + 8.
guest_load:
    ldr     x3, [x1]
    str     x3, [x2]
    add     x4, x4, #1
    dmb     sy
    str     x4, [x2, #8]
    b       guest_load
    // Stores a count to x1, and to the mailbox.
guest_store:
    add     x4, x4, #1
    str     x4, [x1]
    dmb     sy
    str     x4, [x2, #8]
    b       guest_store
    // Nothing at all.
guest_spin:
    b       guest_spin
    // A load, a store, a load of a byte and a store of a half from and to x1; then off.
guest_mmio:
    ldr     w5, [x1]
    str     w5, [x1, #4]
    ldrb    w6, [x1, #8]
    strh    w6, [x1, #10]
    str     xzr, [x1, #16]
    mov     w0, #0x84000000
    orr     w0, w0, #8
    hvc     #0
    b       .
    // Stores 1, 2, 3, ... to x1, 32 bits.
guest_notify:
    add     w4, w4, #1
    str     w4, [x1]
    b       guest_notify
    // Walks x3 bytes from x1 in pages, storing the address; again and again.
guest_walk:
    mov     x5, x1
    add     x6, x1, x3
1:  str     x5, [x5]
    ldr     x7, [x5]
    add     x5, x5, #4096
    cmp     x5, x6
    b.lo    1b
    add     x4, x4, #1
    str     x4, [x2, #8]
    b       guest_walk
    // Opens the CPU interface, enables INTID 40 at the distributor (x1, configuration x3) and waits:
    // counts what comes at x2 + 8, the last one's number at x2.
guest_irq:
    mov     w5, #0x12
    str     w5, [x1]                    // GICD_CTLR: group 1, affinity routing
    mov     w5, #0x100
    str     w5, [x1, #0x84]             // GICD_IGROUPR1
    str     w3, [x1, #0xc08]            // GICD_ICFGR2: level or edge
    str     w5, [x1, #0x104]            // GICD_ISENABLER1
    mrs     x5, S3_0_C12_C12_5          // ICC_SRE_EL1
    orr     x5, x5, #1
    msr     S3_0_C12_C12_5, x5
    isb
    mov     x5, #0xf0
    msr     S3_0_C4_C6_0, x5            // ICC_PMR_EL1
    mov     x5, #1
    msr     S3_0_C12_C12_7, x5          // ICC_IGRPEN1_EL1
    isb
    str     x5, [x2, #16]               // Ready.
1:  wfi
    mrs     x5, S3_0_C12_C12_0          // ICC_IAR1_EL1
    dsb     sy
    cmp     w5, #1020
    b.hs    1b
    add     x4, x4, #1
    str     x5, [x2]
    str     x4, [x2, #8]
    msr     S3_0_C12_C12_1, x5          // ICC_EOIR1_EL1
    isb
    b       1b
    // DISR_EL1 goes to x1, x3 to DISR_EL1; again and again.
guest_disr:
    mrs     x5, S3_0_C12_C1_1
    str     x5, [x1]
    msr     S3_0_C12_C1_1, x3
    b       guest_disr
    // Calls x20 by HVC and by SMC, and shows x0 at x19 and behind it; again and again.
    // (Calls may change x0 to x17.)
guest_call:
    mov     x0, x20
    hvc     #0
    str     x0, [x19]
    mov     x0, x20
    smc     #0
    str     x0, [x19, #8]
    b       guest_call
    // The physical count goes to x1, the virtual one behind it.
guest_counters:
    isb
    mrs     x5, CNTPCT_EL0
    str     x5, [x1]
    isb
    mrs     x5, CNTVCT_EL0
    str     x5, [x1, #8]
    b       guest_counters
    // With the MMU on by the table at x1, hardware setting access flags and dirty
    // state: when x2 + 16 says so, fetches from the page at 0xc0000000, which is
    // this one, stores a count to the page behind it, and shows it.
guest_flags:
    mov     x5, #0xff00                 // 1: normal, write-back
    msr     mair_el1, x5
    movz    x5, #0x3519                 // T0SZ 25, WBWA, inner shareable, 4 KiB
    movk    x5, #0x8080, lsl #16        // EPD1
    movk    x5, #0x182, lsl #32         // HD, HA, 40 bits
    msr     tcr_el1, x5
    msr     ttbr0_el1, x1
    isb
    tlbi    vmalle1
    dsb     sy
    isb
    movz    x5, #0x1805                 // RES1 bits, I, C, M
    movk    x5, #0x30d0, lsl #16
    msr     sctlr_el1, x5
    isb
    movz    x7, #0xc000, lsl #16
    adr     x6, 3f
    and     x6, x6, #0xfff
    orr     x6, x6, x7
    add     x7, x7, #4096
1:  ldr     x5, [x2, #16]
    cbz     x5, 1b
    str     xzr, [x2, #16]
    tlbi    vmalle1
    dsb     sy
    isb
    blr     x6
    add     x4, x4, #1
    str     x4, [x7]
    dsb     sy
    str     x4, [x2, #8]
    b       1b
3:  ret
    // With vectors at x2, shows ID_AA64PFR0_EL1 and how many of nine accesses to a
    // GICv3's CPU interface were UNDEFINED. (Not ICC_SRE_EL1: where
    // ICC_SRE_EL2.Enable is RAO/WI, as in QEMU, nothing traps it.)
guest_icc:
    msr     vbar_el1, x2
    isb
    mov     x4, #0
    mrs     x5, id_aa64pfr0_el1
    str     x5, [x2]
    mrs     x5, S3_0_C4_C6_0            // ICC_PMR_EL1
    mrs     x5, S3_0_C12_C8_0           // ICC_IAR0_EL1
    mrs     x5, S3_0_C12_C11_3          // ICC_RPR_EL1
    mrs     x5, S3_0_C12_C12_0          // ICC_IAR1_EL1
    mrs     x5, S3_0_C12_C12_4          // ICC_CTLR_EL1
    msr     S3_0_C12_C11_1, xzr         // ICC_DIR_EL1
    msr     S3_0_C12_C11_5, xzr         // ICC_SGI1R_EL1
    msr     S3_0_C12_C12_1, xzr         // ICC_EOIR1_EL1
    msr     S3_0_C12_C12_7, xzr         // ICC_IGRPEN1_EL1
    str     x4, [x2, #16]
    mov     x5, #1
    dmb     sy
    str     x5, [x2, #8]
    b       .
    // Has x3 in registers that EL0 might see; stores it to x1, then what differs.
guest_threads:
    msr     tpidr_el0, x3
    msr     tpidrro_el0, x3
    msr     tpidr_el1, x3
    msr     far_el1, x3
    str     x3, [x1]
    mrs     x4, tpidr_el0
    mrs     x5, tpidrro_el0
    mrs     x6, tpidr_el1
    mrs     x7, far_el1
    eor     x4, x4, x3
    eor     x5, x5, x3
    eor     x6, x6, x3
    eor     x7, x7, x3
    orr     x4, x4, x5
    orr     x6, x6, x7
    orr     x4, x4, x6
    str     x4, [x1]
    add     x3, x3, #1
    b       guest_threads
guest_skip:
    mrs     x5, elr_el1
    add     x5, x5, #4
    msr     elr_el1, x5
    add     x4, x4, #1
    eret
guest_end:
"#
);

macro_rules! program {
    ($($(#[$doc:meta])* $name:ident, $label:ident;)+) => {$(
        $(#[$doc])*
        pub fn $name() -> u64 {
            unsafe extern "C" {
                fn $label();
                fn guest_code();
            }
            CODE + ($label as *const () as u64 - guest_code as *const () as u64)
        }
    )+};
}

program! {
    /// Loads and shows.
    load_loop, guest_load;
    /// Stores a count.
    store_loop, guest_store;
    /// Spins.
    spin, guest_spin;
    /// Accesses of several widths, then off.
    mmio, guest_mmio;
    /// Stores of a growing number.
    notify, guest_notify;
    /// Stores all over.
    walk, guest_walk;
    /// Waits for interrupts.
    irq, guest_irq;
    /// Shows and changes DISR_EL1.
    disr, guest_disr;
    /// Calls its firmware.
    call, guest_call;
    /// Shows its counters.
    counters, guest_counters;
    /// Fetches and stores where hardware sets access flag and dirty state.
    flags, guest_flags;
    /// Tries the registers of a GICv3.
    icc, guest_icc;
    /// Keeps a growing number in registers that EL0 might see.
    threads, guest_threads;
    /// Counts an exception in x4 and goes on behind what caused it.
    skip, guest_skip;
}

/// A page with all programs, for [`CODE`].
pub fn code_page() -> Result<Map, Errno> {
    let page = Map::anon(PAGE)?;
    for (i, b) in code().into_iter().enumerate() {
        page.set(i, b);
    }
    Ok(page)
}

fn code() -> Vec<u8> {
    unsafe extern "C" {
        fn guest_code();
        fn guest_end();
    }
    let (a, b) = (guest_code as *const () as usize, guest_end as *const () as usize);
    (a..b).map(el0_tests::util::peek).collect()
}

/// The machine.
pub struct Vm {
    pub kvm: Kvm,
    pub fd: VmFd,
    pub mail: Map,
    pub ram: Map,
    code: Map,
}

impl Vm {
    /// With so much memory, aligned to 2 MiB.
    pub fn new(ram: usize) -> Result<Self, Fail> {
        let kvm = Kvm::new().map_err(e)?;
        let fd = kvm.create_vm().map_err(e)?;
        let vm =
            Self { kvm, fd, mail: Map::anon(PAGE)?, ram: Map::aligned(ram)?, code: code_page()? };
        let _ = sys!(libc::SYS_madvise, vm.ram.at, vm.ram.len, libc::MADV_HUGEPAGE);
        vm.slot(0, CODE, vm.code, 0)?;
        vm.slot(1, MAIL, vm.mail, 0)?;
        vm.slot(2, RAM, vm.ram, 0)?;
        Ok(vm)
    }

    /// Gives the memory back as well, after the machine.
    pub fn close(self) {
        let (code, mail, ram) = (self.code, self.mail, self.ram);
        drop(self);
        [code, mail, ram].into_iter().for_each(Map::unmap);
    }

    /// Sets a slot.
    pub fn slot(&self, slot: u32, gpa: u64, m: Map, flags: u32) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: m.len as u64,
            userspace_addr: m.at as u64,
        };
        // SAFETY: the memory is the test's; what the guest does to it is the test.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(e)
    }

    /// A vCPU that will start at `pc` with x1, x2 and x3.
    pub fn vcpu(&self, id: u64, pc: u64, x: [u64; 3]) -> Result<VcpuFd, Errno> {
        let v = self.fd.create_vcpu(id).map_err(e)?;
        let mut init = kvm_vcpu_init::default();
        self.fd.get_preferred_target(&mut init).map_err(e)?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        v.vcpu_init(&init).map_err(e)?;
        set(&v, core_reg(32), pc)?;
        for (i, x) in x.into_iter().enumerate() {
            set(&v, core_reg(i as u64 + 1), x)?;
        }
        Ok(v)
    }

    /// A vCPU that runs.
    pub fn start(&self, id: u64, pc: u64, x: [u64; 3]) -> Result<Running, Fail> {
        let v = self.vcpu(id, pc, x)?;
        Ok(Running::new(v)?)
    }

    /// The mailbox's count.
    pub fn count(&self) -> usize {
        self.mail.word(8).load(SeqCst)
    }

    /// Waits until the guest has gone round twice: what it shows now, it saw since.
    pub fn rounds(&self, r: &Running) -> Result<usize, Fail> {
        let c = self.count();
        if !until(|| self.count() >= c + 2 || r.fault() != 0) || r.fault() != 0 {
            let why = format!("the guest stands still at {c}, KVM_RUN gave {:?}", Errno(r.fault()));
            return Err(Fail::new(why));
        }
        Ok(self.mail.word(0).load(SeqCst))
    }
}

/// Whether a machine can have such a device; none is made.
pub fn can_make(vm: i32, kind: u32) -> bool {
    let mut d = [kind, 0, kvm_bindings::KVM_CREATE_DEVICE_TEST];
    // KVM_CREATE_DEVICE.
    sys!(libc::SYS_ioctl, vm, 0xc00c_aee0usize, d.as_mut_ptr()).is_ok()
}

/// A machine that has a GICv2 and no GICv3 for its guests: what it takes to skip.
pub fn needs_gicv3(vm: &Vm) -> Outcome {
    let can = |kind| can_make(vm.fd.as_raw_fd(), kind);
    let v3 = kvm_bindings::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3;
    let v2 = kvm_bindings::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2;
    if can(v2) && !can(v3) {
        return Err(Fail::skip("a GICv3"));
    }
    Ok(())
}

/// The id of the core register at word `i` (of 64 bits) of kvm_regs.
pub fn core_reg(i: u64) -> u64 {
    0x6030_0000_0010_0000 | (i * 2)
}

/// Sets a 64-bit register.
pub fn set(v: &VcpuFd, id: u64, value: u64) -> Result<(), Errno> {
    v.set_one_reg(id, &value.to_le_bytes()).map(|_| ()).map_err(e)
}

/// Reads a 64-bit register.
pub fn get(v: &VcpuFd, id: u64) -> Result<u64, Errno> {
    let mut b = [0; 8];
    v.get_one_reg(id, &mut b).map_err(e)?;
    Ok(u64::from_le_bytes(b))
}

#[derive(Default)]
struct Shared {
    tid: AtomicUsize,
    stop: AtomicBool,
    resume: AtomicBool,
    fault: AtomicI32,
    interrupted: AtomicU64,
    mmio: AtomicU64,
    last_mmio: AtomicU64,
}

/// A vCPU in a thread of its own.
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<VcpuFd>>,
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Running {
    /// Starts a thread that runs it.
    pub fn new(mut v: VcpuFd) -> Result<Self, Errno> {
        handle(libc::SIGUSR1, nothing, 0, &[])?;
        let shared = Arc::new(Shared::default());
        let s = shared.clone();
        let thread = std::thread::spawn(move || {
            s.tid.store(gettid(), SeqCst);
            while !s.stop.load(SeqCst) {
                let errno = match v.run() {
                    Ok(VcpuExit::MmioRead(at, _) | VcpuExit::MmioWrite(at, _)) => {
                        s.last_mmio.store(at, SeqCst);
                        s.mmio.fetch_add(1, SeqCst);
                        continue;
                    }
                    Ok(_) => continue,
                    Err(e) => e.errno(),
                };
                if errno == libc::EINTR {
                    s.interrupted.fetch_add(1, SeqCst);
                    continue;
                }
                s.fault.store(errno, SeqCst);
                while !s.resume.swap(false, SeqCst) && !s.stop.load(SeqCst) {
                    std::thread::yield_now();
                }
            }
            v
        });
        let r = Self { shared, thread: Some(thread) };
        until(|| r.tid() != 0);
        Ok(r)
    }

    fn tid(&self) -> usize {
        self.shared.tid.load(SeqCst)
    }

    /// The errno that KVM_RUN ended with, for as long as the vCPU stands.
    pub fn fault(&self) -> i32 {
        self.shared.fault.load(SeqCst)
    }

    /// How often KVM_RUN was interrupted.
    pub fn interrupted(&self) -> u64 {
        self.shared.interrupted.load(SeqCst)
    }

    /// How many MMIO exits came, and the last one's address.
    pub fn mmio(&self) -> (u64, u64) {
        (self.shared.mmio.load(SeqCst), self.shared.last_mmio.load(SeqCst))
    }

    /// Waits until KVM_RUN fails with this.
    pub fn faults_with(&self, errno: i32) -> bool {
        until(|| self.fault() == errno)
    }

    /// Goes on after a failure.
    pub fn resume(&self) {
        self.shared.fault.store(0, SeqCst);
        self.shared.resume.store(true, SeqCst);
    }

    /// Interrupts KVM_RUN.
    pub fn kick(&self) {
        let _ = sys!(libc::SYS_tgkill, std::process::id(), self.tid(), libc::SIGUSR1);
    }

    /// Ends it and gives the vCPU back.
    pub fn stop(mut self) -> Result<VcpuFd, Fail> {
        self.shared.stop.store(true, SeqCst);
        let Some(thread) = self.thread.take() else {
            return Err(Fail::new("stopped twice"));
        };
        while !thread.is_finished() {
            self.kick();
            std::thread::yield_now();
        }
        thread.join().map_err(|_| Fail::new("the vCPU's thread panicked"))
    }
}
