//! ioctl numbers: `_IOC(direction, 0xae, number, size)`.

use crate::*;
use core::mem::size_of;

const KVMIO: u32 = 0xae;
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn ioc(direction: u32, number: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (KVMIO << 8) | number
}
const fn io(number: u32) -> u32 {
    ioc(NONE, number, 0)
}
const fn iow<T>(number: u32) -> u32 {
    ioc(WRITE, number, size_of::<T>())
}
const fn ior<T>(number: u32) -> u32 {
    ioc(READ, number, size_of::<T>())
}
const fn iowr<T>(number: u32) -> u32 {
    ioc(READ | WRITE, number, size_of::<T>())
}

// On /dev/kvm.
pub const GET_API_VERSION: u32 = io(0x00);
pub const CREATE_VM: u32 = io(0x01);
/// Also on a VM's fd.
pub const CHECK_EXTENSION: u32 = io(0x03);
pub const GET_VCPU_MMAP_SIZE: u32 = io(0x04);

// On a VM's fd.
pub const CREATE_VCPU: u32 = io(0x41);
pub const GET_DIRTY_LOG: u32 = iow::<DirtyLog>(0x42);
pub const SET_USER_MEMORY_REGION: u32 = iow::<UserspaceMemoryRegion>(0x46);
pub const SET_USER_MEMORY_REGION2: u32 = iow::<UserspaceMemoryRegion2>(0x49);
pub const CREATE_IRQCHIP: u32 = io(0x60);
pub const IRQ_LINE: u32 = iow::<IrqLevel>(0x61);
pub const REGISTER_COALESCED_MMIO: u32 = iow::<CoalescedMmioZone>(0x67);
pub const UNREGISTER_COALESCED_MMIO: u32 = iow::<CoalescedMmioZone>(0x68);
pub const SET_GSI_ROUTING: u32 = iow::<IrqRouting>(0x6a);
pub const IRQFD: u32 = iow::<Irqfd>(0x76);
pub const IOEVENTFD: u32 = iow::<Ioeventfd>(0x79);
pub const SIGNAL_MSI: u32 = iow::<Msi>(0xa5);
pub const ARM_SET_DEVICE_ADDR: u32 = iow::<ArmDeviceAddr>(0xab);
pub const ARM_PREFERRED_TARGET: u32 = ior::<VcpuInit>(0xaf);
pub const ARM_SET_COUNTER_OFFSET: u32 = iow::<ArmCounterOffset>(0xb5);
pub const ARM_GET_REG_WRITABLE_MASKS: u32 = ior::<RegMaskRange>(0xb6);
pub const CREATE_DEVICE: u32 = iowr::<CreateDevice>(0xe0);
/// Also on a vCPU's fd.
pub const ENABLE_CAP: u32 = iow::<EnableCap>(0xa3);

// On the fds of devices, VMs and vCPUs.
pub const SET_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xe1);
pub const GET_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xe2);
pub const HAS_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xe3);

// On a vCPU's fd.
pub const RUN: u32 = io(0x80);
pub const SET_SIGNAL_MASK: u32 = iow::<SignalMask>(0x8b);
pub const GET_MP_STATE: u32 = ior::<MpState>(0x98);
pub const SET_MP_STATE: u32 = iow::<MpState>(0x99);
pub const SET_GUEST_DEBUG: u32 = iow::<GuestDebug>(0x9b);
pub const GET_VCPU_EVENTS: u32 = ior::<VcpuEvents>(0x9f);
pub const SET_VCPU_EVENTS: u32 = iow::<VcpuEvents>(0xa0);
pub const GET_ONE_REG: u32 = iow::<OneReg>(0xab);
pub const SET_ONE_REG: u32 = iow::<OneReg>(0xac);
pub const ARM_VCPU_INIT: u32 = iow::<VcpuInit>(0xae);
pub const GET_REG_LIST: u32 = iowr::<RegList>(0xb0);
pub const ARM_VCPU_FINALIZE: u32 = iow::<i32>(0xc2);
pub const GET_STATS_FD: u32 = io(0xce);

/// Linux's name of an ioctl of KVM, for the log of those that aren't there.
pub const fn name(request: u32) -> &'static str {
    match request {
        GET_DIRTY_LOG => "KVM_GET_DIRTY_LOG",
        REGISTER_COALESCED_MMIO => "KVM_REGISTER_COALESCED_MMIO",
        SIGNAL_MSI => "KVM_SIGNAL_MSI",
        ARM_GET_REG_WRITABLE_MASKS => "KVM_ARM_GET_REG_WRITABLE_MASKS",
        SET_SIGNAL_MASK => "KVM_SET_SIGNAL_MASK",
        SET_GUEST_DEBUG => "KVM_SET_GUEST_DEBUG",
        ARM_VCPU_FINALIZE => "KVM_ARM_VCPU_FINALIZE",
        GET_STATS_FD => "KVM_GET_STATS_FD",
        _ => "KVM ioctl",
    }
}
