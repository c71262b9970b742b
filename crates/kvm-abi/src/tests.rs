//! Against `kvm-bindings`. On a developer's machine that is x86's: what differs
//! on arm64 is checked against literals from its headers.

use crate::{run::offset, *};
use core::mem::{offset_of, size_of};
use kvm_bindings as kb;

macro_rules! same {
    ($ours:ident = $theirs:ident { $($field:ident = $their_field:ident),* $(,)? }) => {
        assert_eq!(size_of::<$ours>(), size_of::<kb::$theirs>(), stringify!($ours));
        $(assert_eq!(
            offset_of!($ours, $field),
            offset_of!(kb::$theirs, $their_field),
            concat!(stringify!($ours), ".", stringify!($field)),
        );)*
    };
}

#[test]
fn structures() {
    same!(UserspaceMemoryRegion = kvm_userspace_memory_region {
        slot = slot, flags = flags, guest_phys_addr = guest_phys_addr, memory_size = memory_size,
        userspace_addr = userspace_addr,
    });
    same!(UserspaceMemoryRegion2 = kvm_userspace_memory_region2 {
        slot = slot, flags = flags, guest_phys_addr = guest_phys_addr, memory_size = memory_size,
        userspace_addr = userspace_addr, guest_memfd_offset = guest_memfd_offset,
        guest_memfd = guest_memfd,
    });
    same!(OneReg = kvm_one_reg { id = id, addr = addr });
    same!(RegList = kvm_reg_list { n = n });
    same!(Irqfd = kvm_irqfd { fd = fd, gsi = gsi, flags = flags, resamplefd = resamplefd });
    same!(Ioeventfd = kvm_ioeventfd {
        datamatch = datamatch, addr = addr, len = len, fd = fd, flags = flags,
    });
    same!(CreateDevice = kvm_create_device { type_ = type_, fd = fd, flags = flags });
    same!(DeviceAttr = kvm_device_attr { flags = flags, group = group, attr = attr, addr = addr });
    same!(IrqLevel = kvm_irq_level { level = level });
    same!(IrqRouting = kvm_irq_routing { nr = nr, flags = flags });
    same!(IrqRoutingEntry = kvm_irq_routing_entry {
        gsi = gsi, type_ = type_, flags = flags, u = u,
    });
    same!(Msi = kvm_msi { address_lo = address_lo, data = data, flags = flags, devid = devid });
    same!(MpState = kvm_mp_state { mp_state = mp_state });
    same!(EnableCap = kvm_enable_cap { cap = cap, flags = flags, args = args });
    same!(DirtyLog = kvm_dirty_log { slot = slot });
    same!(CoalescedMmioZone = kvm_coalesced_mmio_zone { addr = addr, size = size });
    same!(SignalMask = kvm_signal_mask { len = len });
}

#[test]
fn structures_of_arm64() {
    assert_eq!(size_of::<VcpuInit>(), 32);
    assert_eq!(size_of::<VcpuEvents>(), 64);
    assert_eq!(offset_of!(VcpuEvents, serror_esr), 8);
    assert_eq!(size_of::<ArmDeviceAddr>(), 16);
    assert_eq!(size_of::<ArmCounterOffset>(), 16);
    assert_eq!(size_of::<GuestDebug>(), 520);
    assert_eq!(size_of::<RegMaskRange>(), 64);
    assert_eq!(size_of::<SmcccFilter>(), 24);
    assert_eq!((offset_of!(SmcccFilter, action), offset_of!(SmcccFilter, pad)), (8, 9));
}

#[test]
fn the_run_page() {
    use kb::{kvm_run, kvm_run__bindgen_ty_1 as exits};
    assert_eq!(run::SIZE, size_of::<kvm_run>());
    assert_eq!(offset::IMMEDIATE_EXIT, offset_of!(kvm_run, immediate_exit));
    assert_eq!(offset::EXIT_REASON, offset_of!(kvm_run, exit_reason));
    assert_eq!(offset::FLAGS, offset_of!(kvm_run, flags));
    let union_at = offset_of!(kvm_run, __bindgen_anon_1);
    assert_eq!(union_at, 32);
    assert_eq!(size_of::<exits>(), 256);
    assert_eq!(offset::KVM_VALID_REGS, offset_of!(kvm_run, kvm_valid_regs));
    assert_eq!(offset::KVM_DIRTY_REGS, offset_of!(kvm_run, kvm_dirty_regs));
    assert_eq!(offset::SYNC_REGS, offset_of!(kvm_run, s));
    let hypercall = |field: usize| union_at + field;
    assert_eq!(
        offset::HYPERCALL_NR,
        hypercall(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_8, nr))
    );
    assert_eq!(
        offset::HYPERCALL_ARGS,
        hypercall(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_8, args))
    );
    assert_eq!(
        offset::HYPERCALL_FLAGS,
        hypercall(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_8, __bindgen_anon_1))
    );
    let mmio = |field: usize| union_at + field;
    assert_eq!(
        offset::MMIO_PHYS_ADDR,
        mmio(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_6, phys_addr))
    );
    assert_eq!(offset::MMIO_DATA, mmio(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_6, data)));
    assert_eq!(offset::MMIO_LEN, mmio(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_6, len)));
    assert_eq!(
        offset::MMIO_IS_WRITE,
        mmio(offset_of!(kb::kvm_run__bindgen_ty_1__bindgen_ty_6, is_write))
    );
}

#[test]
fn numbers() {
    // As in a trace of a real VMM.
    assert_eq!(ioctl::GET_API_VERSION, 0xae00);
    assert_eq!(ioctl::RUN, 0xae80);
    assert_eq!(ioctl::SET_USER_MEMORY_REGION, 0x4020_ae46);
    assert_eq!(ioctl::SET_USER_MEMORY_REGION2, 0x40a0_ae49);
    assert_eq!(ioctl::IRQ_LINE, 0x4008_ae61);
    assert_eq!(ioctl::IRQFD, 0x4020_ae76);
    assert_eq!(ioctl::IOEVENTFD, 0x4040_ae79);
    assert_eq!(ioctl::GET_ONE_REG, 0x4010_aeab);
    assert_eq!(ioctl::SET_ONE_REG, 0x4010_aeac);
    assert_eq!(ioctl::ARM_VCPU_INIT, 0x4020_aeae);
    assert_eq!(ioctl::ARM_PREFERRED_TARGET, 0x8020_aeaf);
    assert_eq!(ioctl::GET_REG_LIST, 0xc008_aeb0);
    assert_eq!(ioctl::CREATE_DEVICE, 0xc00c_aee0);
    assert_eq!(ioctl::SET_DEVICE_ATTR, 0x4018_aee1);
    assert_eq!(ioctl::GET_MP_STATE, 0x8004_ae98);
    assert_eq!(ioctl::SET_GSI_ROUTING, 0x4008_ae6a);
    assert_eq!(ioctl::ENABLE_CAP, 0x4068_aea3);
    assert_eq!(ioctl::ARM_SET_COUNTER_OFFSET, 0x4010_aeb5);
}

#[test]
fn constants() {
    assert_eq!(run::EXIT_HYPERCALL, kb::KVM_EXIT_HYPERCALL);
    assert_eq!(run::EXIT_MMIO, kb::KVM_EXIT_MMIO);
    assert_eq!(run::EXIT_SYSTEM_EVENT, kb::KVM_EXIT_SYSTEM_EVENT);
    assert_eq!(run::EXIT_ARM_NISV, kb::KVM_EXIT_ARM_NISV);
    assert_eq!(run::EXIT_INTERNAL_ERROR, kb::KVM_EXIT_INTERNAL_ERROR);
    assert_eq!(run::EXIT_MEMORY_FAULT, kb::KVM_EXIT_MEMORY_FAULT);
    assert_eq!(DEV_TYPE_ARM_VGIC_V3, kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3);
    assert_eq!(MP_STATE_STOPPED, kb::KVM_MP_STATE_STOPPED);
    assert_eq!(IOEVENTFD_FLAG_DEASSIGN, 1 << kb::kvm_ioeventfd_flag_nr_deassign);
    let find = |name| cap::ALL.iter().find(|(n, _)| *n == name).map(|(_, number)| *number);
    assert_eq!(find("COUNTER_OFFSET"), Some(kb::KVM_CAP_COUNTER_OFFSET));
    assert_eq!(find("USER_MEMORY2"), Some(kb::KVM_CAP_USER_MEMORY2));
    assert_eq!(find("ARM_VM_IPA_SIZE"), Some(kb::KVM_CAP_ARM_VM_IPA_SIZE));
    assert_eq!(find("ARM_NISV_TO_USER"), Some(kb::KVM_CAP_ARM_NISV_TO_USER));
    assert_eq!(find("IMMEDIATE_EXIT"), Some(kb::KVM_CAP_IMMEDIATE_EXIT));
    assert_eq!(find("VCPU_ATTRIBUTES"), Some(kb::KVM_CAP_VCPU_ATTRIBUTES));
    assert_eq!(find("READONLY_MEM"), Some(kb::KVM_CAP_READONLY_MEM));
    assert_eq!(find("ARM_SYSTEM_SUSPEND"), Some(kb::KVM_CAP_ARM_SYSTEM_SUSPEND));
}

#[test]
fn register_ids() {
    // From the survey of real VMMs: MPIDR_EL1, CNTPCT_EL0, CLIDR_EL1.
    assert_eq!(reg::sysreg(3, 0, 0, 0, 5), 0x6030_0000_0013_c005);
    assert_eq!(reg::sysreg(3, 3, 14, 0, 1), 0x6030_0000_0013_df01);
    assert_eq!(reg::sysreg(3, 1, 0, 0, 1), 0x6030_0000_0013_c801);
    assert_eq!(reg::encoding(0x6030_0000_0013_df01), (3, 3, 14, 0, 1));
    assert_eq!(reg::core_reg(reg::SIZE_U64, reg::core::PC), 0x6030_0000_0010_0040);
    assert_eq!(reg::core_reg(reg::SIZE_U64, reg::core::PSTATE), 0x6030_0000_0010_0042);
    assert_eq!(reg::core_reg(reg::SIZE_U128, reg::core::V0), 0x6040_0000_0010_0054);
    assert_eq!(reg::core_reg(reg::SIZE_U32, reg::core::FPCR), 0x6020_0000_0010_00d5);
    assert_eq!(reg::size(reg::PSCI_VERSION), 8);
    assert_eq!(reg::PSCI_VERSION, 0x6030_0000_0014_0000);
}
