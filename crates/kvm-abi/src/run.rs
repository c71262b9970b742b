//! `struct kvm_run`: the page that a vCPU's fd maps. The VMM can write it at
//! any time: it is reached by offset, field by field, never as a `&`.

/// Offsets of the fields.
pub mod offset {
    pub const REQUEST_INTERRUPT_WINDOW: usize = 0;
    pub const IMMEDIATE_EXIT: usize = 1;
    pub const EXIT_REASON: usize = 8;
    pub const READY_FOR_INTERRUPT_INJECTION: usize = 12;
    pub const IF_FLAG: usize = 13;
    pub const FLAGS: usize = 14;

    pub const HYPERCALL_NR: usize = 32;
    /// Six arguments and a result, which aren't used on arm64.
    pub const HYPERCALL_ARGS: usize = 40;
    pub const HYPERCALL_FLAGS: usize = 96;

    pub const MMIO_PHYS_ADDR: usize = 32;
    pub const MMIO_DATA: usize = 40;
    pub const MMIO_LEN: usize = 48;
    pub const MMIO_IS_WRITE: usize = 52;

    pub const SYSTEM_EVENT_TYPE: usize = 32;
    pub const SYSTEM_EVENT_NDATA: usize = 36;
    pub const SYSTEM_EVENT_DATA: usize = 40;

    pub const ARM_NISV_ESR_ISS: usize = 32;
    pub const ARM_NISV_FAULT_IPA: usize = 40;

    pub const FAIL_ENTRY_REASON: usize = 32;
    pub const FAIL_ENTRY_CPU: usize = 40;

    pub const INTERNAL_SUBERROR: usize = 32;
    pub const INTERNAL_NDATA: usize = 36;
    pub const INTERNAL_DATA: usize = 40;

    pub const MEMORY_FAULT_FLAGS: usize = 32;
    pub const MEMORY_FAULT_GPA: usize = 40;
    pub const MEMORY_FAULT_SIZE: usize = 48;

    pub const KVM_VALID_REGS: usize = 288;
    pub const KVM_DIRTY_REGS: usize = 296;
    pub const SYNC_REGS: usize = 304;
}

/// The size of `struct kvm_run`.
pub const SIZE: usize = 2352;

/// KVM_GET_VCPU_MMAP_SIZE: the run page. (Linux adds a page for the ring of
/// coalesced MMIO, which this host does not offer.)
pub const MMAP_SIZE: i64 = 4096;

pub const EXIT_UNKNOWN: u32 = 0;
pub const EXIT_HYPERCALL: u32 = 3;
pub const EXIT_DEBUG: u32 = 4;
pub const EXIT_MMIO: u32 = 6;
pub const EXIT_FAIL_ENTRY: u32 = 9;
pub const EXIT_INTR: u32 = 10;
pub const EXIT_INTERNAL_ERROR: u32 = 17;
pub const EXIT_SYSTEM_EVENT: u32 = 24;
pub const EXIT_ARM_NISV: u32 = 28;
pub const EXIT_MEMORY_FAULT: u32 = 39;

/// The guest used SMC, not HVC.
pub const HYPERCALL_EXIT_SMC: u64 = 1;

pub const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
pub const SYSTEM_EVENT_RESET: u32 = 2;
pub const SYSTEM_EVENT_CRASH: u32 = 3;
pub const SYSTEM_EVENT_WAKEUP: u32 = 4;
pub const SYSTEM_EVENT_SUSPEND: u32 = 5;
pub const SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2: u64 = 1;

pub const INTERNAL_ERROR_EMULATION: u32 = 1;
pub const INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;
