//! The structures that ioctls copy.

macro_rules! abi {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[cfg_attr(
                feature = "user-space",
                derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)
            )]
            #[repr(C)]
            pub struct $name { $(pub $field: $type),* }

            #[cfg(feature = "user-space")]
            impl Default for $name {
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )+
    };
}

abi! {
    /// `struct kvm_userspace_memory_region`.
    UserspaceMemoryRegion {
        slot: u32, flags: u32, guest_phys_addr: u64, memory_size: u64, userspace_addr: u64,
    }
    /// `struct kvm_userspace_memory_region2`.
    UserspaceMemoryRegion2 {
        slot: u32, flags: u32, guest_phys_addr: u64, memory_size: u64, userspace_addr: u64,
        guest_memfd_offset: u64, guest_memfd: u32, pad1: u32, pad2: [u64; 14],
    }
    /// `struct kvm_one_reg`.
    OneReg { id: u64, addr: u64 }
    /// The head of `struct kvm_reg_list`: `n` ids follow.
    RegList { n: u64 }
    /// `struct kvm_irqfd`.
    Irqfd { fd: u32, gsi: u32, flags: u32, resamplefd: u32, pad: [u8; 16] }
    /// `struct kvm_ioeventfd`.
    Ioeventfd { datamatch: u64, addr: u64, len: u32, fd: i32, flags: u32, pad: [u32; 9] }
    /// `struct kvm_create_device`.
    CreateDevice { type_: u32, fd: u32, flags: u32 }
    /// `struct kvm_device_attr`.
    DeviceAttr { flags: u32, group: u32, attr: u64, addr: u64 }
    /// `struct kvm_smccc_filter`.
    SmcccFilter { base: u32, nr_functions: u32, action: u8, pad: [u8; 15] }
    /// `struct kvm_vcpu_init`.
    VcpuInit { target: u32, features: [u32; 7] }
    /// `struct kvm_irq_level`.
    IrqLevel { irq: u32, level: u32 }
    /// The head of `struct kvm_irq_routing`: `nr` entries follow.
    IrqRouting { nr: u32, flags: u32 }
    /// `struct kvm_irq_routing_entry`; for [`crate::IRQ_ROUTING_IRQCHIP`] the
    /// first words of `u` are the chip and the pin.
    IrqRoutingEntry { gsi: u32, type_: u32, flags: u32, pad: u32, u: [u32; 8] }
    /// `struct kvm_msi`.
    Msi { address_lo: u32, address_hi: u32, data: u32, flags: u32, devid: u32, pad: [u8; 12] }
    /// `struct kvm_arm_device_addr`.
    ArmDeviceAddr { id: u64, addr: u64 }
    /// `struct kvm_arm_counter_offset`.
    ArmCounterOffset { counter_offset: u64, reserved: u64 }
    /// `struct kvm_mp_state`.
    MpState { mp_state: u32 }
    /// `struct kvm_vcpu_events`.
    VcpuEvents {
        serror_pending: u8, serror_has_esr: u8, ext_dabt_pending: u8, pad: [u8; 5],
        serror_esr: u64, reserved: [u32; 12],
    }
    /// `struct kvm_enable_cap`.
    EnableCap { cap: u32, flags: u32, args: [u64; 4], pad: [u8; 64] }
    /// `struct kvm_dirty_log`.
    DirtyLog { slot: u32, padding1: u32, dirty_bitmap: u64 }
    /// `struct kvm_coalesced_mmio_zone`.
    CoalescedMmioZone { addr: u64, size: u32, pio: u32 }
    /// The head of `struct kvm_signal_mask`: `len` bytes of mask follow.
    SignalMask { len: u32 }
    /// `struct reg_mask_range`.
    RegMaskRange { addr: u64, range: u32, reserved: [u32; 13] }
    /// `struct kvm_guest_debug` of arm64.
    GuestDebug {
        control: u32, pad: u32,
        dbg_bcr: [u64; 16], dbg_bvr: [u64; 16], dbg_wcr: [u64; 16], dbg_wvr: [u64; 16],
    }
}
