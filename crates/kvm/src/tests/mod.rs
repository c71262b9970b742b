mod mock;

use crate::vcpu::HCR_VSE;
use crate::*;
use base::{BLOCK_SIZE, Errno, Result, UserMemExt};
use core::sync::atomic::Ordering;
use frame::{Size, sim};
use kvm_abi as abi;
use kvm_abi::run::offset;
use kvm_abi::{cap, ioctl, reg, run as page};
use mock::*;
use proptest::prelude::*;
use regime::HostRegime;
use std::boxed::Box;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::vec;
use std::vec::Vec;
use traps::esr::{IL, ec};
use traps::sysreg::SysReg;
use vcpu_context::El1;

/// A VMM.
struct Vmm {
    host: Arc<MockHost>,
    kvm: Kvm,
    user: User,
    regime: HostRegime,
}

impl Vmm {
    fn new() -> Vmm {
        let host = MockHost::new();
        let kvm = Kvm::new(host.clone());
        Vmm { host, kvm, user: User::new(), regime: HostRegime::hosted() }
    }

    fn put<T: zerocopy_like::Plain>(&self, value: &T) -> u64 {
        self.user.write_obj(USER, value).unwrap();
        USER
    }

    fn vm(&mut self) -> Arc<Vm> {
        match self.kvm.ioctl(&mut self.regime, &self.user, ioctl::CREATE_VM, 0).unwrap() {
            Done::Vm(vm) => vm,
            _ => panic!("no VM"),
        }
    }

    fn on_vm<T: zerocopy_like::Plain>(
        &mut self,
        vm: &Arc<Vm>,
        request: u32,
        arg: &T,
    ) -> Result<i64> {
        let at = self.put(arg);
        value(vm.ioctl(&mut self.regime, &self.user, request, at))
    }

    fn on_vcpu<T: zerocopy_like::Plain>(
        &mut self,
        vcpu: &Vcpu,
        request: u32,
        arg: &T,
    ) -> Result<i64> {
        let at = self.put(arg);
        value(vcpu.ioctl(&mut self.regime, &self.user, request, at))
    }

    fn vcpu(&mut self, vm: &Arc<Vm>, id: u64) -> Result<Arc<Vcpu>> {
        match vm.ioctl(&mut self.regime, &self.user, ioctl::CREATE_VCPU, id)? {
            Done::Vcpu(vcpu) => Ok(vcpu),
            _ => panic!("no vCPU"),
        }
    }

    fn init(&mut self, vcpu: &Vcpu, features: u32) -> Result<i64> {
        let init = abi::VcpuInit { target: 5, features: [features, 0, 0, 0, 0, 0, 0] };
        self.on_vcpu(vcpu, ioctl::ARM_VCPU_INIT, &init)
    }

    fn ready(&mut self, vm: &Arc<Vm>, id: u64) -> Arc<Vcpu> {
        let vcpu = self.vcpu(vm, id).unwrap();
        self.init(&vcpu, 4).unwrap();
        vcpu
    }

    fn run(&mut self, vcpu: &Vcpu) -> Result<Done> {
        self.host.signal.store(false, Ordering::Relaxed);
        vcpu.ioctl(&mut self.regime, &self.user, ioctl::RUN, 0)
    }

    fn memory(
        &mut self,
        vm: &Arc<Vm>,
        slot: u32,
        gpa: u64,
        len: u64,
        hva: u64,
        flags: u32,
    ) -> Result<i64> {
        let region = abi::UserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: hva,
        };
        self.on_vm(vm, ioctl::SET_USER_MEMORY_REGION, &region)
    }

    fn get(&mut self, vcpu: &Vcpu, id: u64) -> Result<u64> {
        self.user.write_obj(USER + 256, &0u64).unwrap();
        self.on_vcpu(vcpu, ioctl::GET_ONE_REG, &abi::OneReg { id, addr: USER + 256 })?;
        self.user.read_obj(USER + 256)
    }

    fn set(&mut self, vcpu: &Vcpu, id: u64, value: u64) -> Result<i64> {
        self.user.write_obj(USER + 256, &value).unwrap();
        self.on_vcpu(vcpu, ioctl::SET_ONE_REG, &abi::OneReg { id, addr: USER + 256 })
    }

    /// A vGIC with its frames, initialised.
    fn gic(&mut self, vm: &Arc<Vm>) -> Arc<Device> {
        let at = self.put(&abi::CreateDevice { type_: abi::DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 });
        let done = vm.ioctl(&mut self.regime, &self.user, ioctl::CREATE_DEVICE, at).unwrap();
        let Done::Device { device, fd_at } = done else { panic!("no device") };
        assert_eq!(fd_at, USER + 4);
        for (attr, base) in [(2u64, GICD), (3, GICR)] {
            self.user.write_obj(USER + 256, &base).unwrap();
            self.attr(&device, abi::vgic::GRP_ADDR, attr).unwrap();
        }
        self.attr(&device, abi::vgic::GRP_CTRL, 0).unwrap();
        device
    }

    fn attr(&mut self, device: &Device, group: u32, attr: u64) -> Result<i64> {
        let at = self.put(&abi::DeviceAttr { flags: 0, group, attr, addr: USER + 256 });
        value(device.ioctl(&mut self.regime, &self.user, ioctl::SET_DEVICE_ATTR, at))
    }
}

const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;

/// What `write_obj` takes.
mod zerocopy_like {
    pub trait Plain: zerocopy::IntoBytes + zerocopy::Immutable {}
    impl<T: zerocopy::IntoBytes + zerocopy::Immutable> Plain for T {}
}

fn value(done: Result<Done>) -> Result<i64> {
    match done? {
        Done::Value(value) => Ok(value),
        Done::Wait => panic!("would wait"),
        _ => panic!("a descriptor"),
    }
}

fn errno(done: Result<Done>) -> Errno {
    done.err().expect("no error")
}

fn reason(vcpu: &Vcpu) -> u32 {
    vcpu.run_page().atomic_u32(offset::EXIT_REASON as u64).unwrap().load(Ordering::Relaxed)
}

fn word(vcpu: &Vcpu, at: usize) -> u64 {
    vcpu.run_page().atomic_u64(at as u64).unwrap().load(Ordering::Relaxed)
}

fn half(vcpu: &Vcpu, at: usize) -> u32 {
    vcpu.run_page().atomic_u32(at as u64).unwrap().load(Ordering::Relaxed)
}

/// A data abort's syndrome: size as log2.
fn dabt(size: u64, rt: u64, write: bool, dfsc: u64) -> u64 {
    u64::from(ec::DABT_LOWER) << 26
        | IL
        | 1 << 24
        | size << 22
        | rt << 16
        | u64::from(write) << 6
        | dfsc
}

fn abort(state: &mut VcpuState, esr: u64, ipa: u64) -> Exit {
    state.context.esr_el2 = esr;
    state.context.hpfar_el2 = (ipa >> 12) << 4;
    state.context.far_el2 = 0xffff_8000_0000_0000 | ipa & 0xfff;
    Exit::Sync
}

fn hvc(state: &mut VcpuState, args: [u64; 4]) -> Exit {
    state.context.esr_el2 = u64::from(ec::HVC64) << 26 | IL;
    for (n, arg) in (0u8..).zip(args) {
        state.context.set_x(n, arg);
    }
    Exit::Sync
}

fn trap(reg: SysReg, rt: u64, read: bool) -> u64 {
    u64::from(ec::SYSREG) << 26 | IL | u64::from(reg.0) | rt << 5 | u64::from(read)
}

#[test]
fn what_descriptors_hold_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Kvm>();
    shared::<Vm>();
    shared::<Vcpu>();
    shared::<Device>();
    shared::<VcpuCore>();
}

#[test]
fn the_system_answers() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let mut ask = |request, arg| vmm.kvm.ioctl(&mut vmm.regime, &vmm.user, request, arg);
    assert_eq!(value(ask(ioctl::GET_API_VERSION, 0)), Ok(12));
    assert_eq!(errno(ask(ioctl::GET_API_VERSION, 1)), Errno::EINVAL);
    assert_eq!(value(ask(ioctl::GET_VCPU_MMAP_SIZE, 0)), Ok(4096));
    assert_eq!(value(ask(ioctl::CHECK_EXTENSION, cap::ARM_VM_IPA_SIZE.into())), Ok(44));
    assert_eq!(value(ask(ioctl::CHECK_EXTENSION, cap::MAX_VCPUS.into())), Ok(512));
    assert_eq!(value(ask(ioctl::CHECK_EXTENSION, cap::NR_VCPUS.into())), Ok(2));
    assert_eq!(value(ask(ioctl::CHECK_EXTENSION, cap::ARM_SVE.into())), Ok(0));
    assert_eq!(value(ask(ioctl::CHECK_EXTENSION, u64::MAX)), Ok(0));
    assert_eq!(errno(ask(ioctl::CREATE_VM, 20)), Errno::EINVAL);
    assert_eq!(errno(ask(ioctl::CREATE_VM, 48)), Errno::EINVAL);
    assert_eq!(errno(ask(ioctl::CREATE_VM, 1 << 31)), Errno::EINVAL);
    assert_eq!(errno(ask(0x1234, 0)), Errno::EINVAL);
}

impl Vmm {
    /// On a machine with a GICv2, whose GICV is at 0x0804_0000.
    fn on_gicv2() -> Vmm {
        let host = MockHost::with(Facts {
            ich_vtr: Some(0x9000_0003),
            gicv: paging::GuestDevice::hosted(0x0804_0000, 0x2000),
            ..facts()
        });
        let kvm = Kvm::new(host.clone());
        Vmm { host, kvm, user: User::new(), regime: HostRegime::hosted() }
    }

    fn create(&mut self, vm: &Arc<Vm>, type_: u32, flags: u32) -> Result<Done> {
        let at = self.put(&abi::CreateDevice { type_, fd: 0, flags });
        vm.ioctl(&mut self.regime, &self.user, ioctl::CREATE_DEVICE, at)
    }

    fn irqchip(&mut self, vm: &Arc<Vm>) -> Result<i64> {
        value(vm.ioctl(&mut self.regime, &self.user, ioctl::CREATE_IRQCHIP, 0))
    }

    fn device_addr(&mut self, vm: &Arc<Vm>, id: u64, addr: u64) -> Result<i64> {
        self.on_vm(vm, ioctl::ARM_SET_DEVICE_ADDR, &abi::ArmDeviceAddr { id, addr })
    }
}

#[test]
fn a_machine_gives_its_own_gic() {
    let _ram = sim::ram(8);
    let (v2, v3) = (abi::DEV_TYPE_ARM_VGIC_V2, abi::DEV_TYPE_ARM_VGIC_V3);
    let mut on_v3 = Vmm::new();
    let vm = on_v3.vm();
    assert_eq!(errno(on_v3.create(&vm, v2, 0)), Errno::ENODEV);
    assert_eq!(on_v3.irqchip(&vm), Err(Errno::ENODEV));
    assert_eq!(on_v3.device_addr(&vm, 0, 0x1000), Err(Errno::ENODEV));

    let mut on_v2 = Vmm::on_gicv2();
    let vm = on_v2.vm();
    assert_eq!(errno(on_v2.create(&vm, v3, 0)), Errno::ENODEV);
    assert_eq!(errno(on_v2.create(&vm, v3, 1)), Errno::ENODEV);
    assert_eq!(value(on_v2.create(&vm, v2, 1)), Ok(0));
    assert!(matches!(on_v2.create(&vm, v2, 0), Ok(Done::Device { .. })));
    assert_eq!(errno(on_v2.create(&vm, v2, 0)), Errno::EEXIST);
    assert_eq!(on_v2.irqchip(&vm), Err(Errno::EEXIST));
    // Eight vCPUs; and the guest sees no GICv3 (ID_AA64PFR0_EL1.GIC).
    let cap = cap::MAX_VCPUS.into();
    assert_eq!(value(vm.ioctl(&mut on_v2.regime, &on_v2.user, ioctl::CHECK_EXTENSION, cap)), Ok(8));
    let last = on_v2.ready(&vm, 7);
    assert_eq!(on_v2.vcpu(&vm, 8).err(), Some(Errno::EINVAL));
    let pfr0 = on_v2.get(&last, reg::sysreg(3, 0, 0, 4, 0)).unwrap();
    assert_eq!(pfr0 >> 24 & 0xf, 0);
}

#[test]
fn the_legacy_irqchip_and_its_pages() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::on_gicv2();
    let vm = vmm.vm();
    let (dist, cpu) = (0u64, 1u64);
    assert_eq!(vmm.device_addr(&vm, dist, 0x1000), Err(Errno::ENODEV));
    let vcpu = vmm.ready(&vm, 0);
    assert_eq!(vmm.irqchip(&vm), Ok(0));
    assert_eq!(vmm.device_addr(&vm, 1 << 16, 0x1000), Err(Errno::ENODEV));
    assert_eq!(vmm.device_addr(&vm, 2, 0x1000), Err(Errno::ENODEV));
    assert_eq!(vmm.device_addr(&vm, dist, 0x1234), Err(Errno::EINVAL));
    assert_eq!(vmm.device_addr(&vm, dist, 0x0800_0000), Ok(0));
    assert_eq!(vmm.device_addr(&vm, dist, 0x0900_0000), Err(Errno::EEXIST));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::ENXIO);
    assert_eq!(vmm.device_addr(&vm, cpu, 0x0801_0000), Ok(0));
    // The guest reads GICC_IAR, then GICC_DIR's page, then GICD_TYPER.
    for at in [0x0801_000cu64, 0x0801_1000] {
        vmm.host.push(move |state, _| abort(state, dabt(2, 3, false, 4), at));
    }
    vmm.host.push(|state, entry| {
        state.context.esr_el2 = dabt(2, 4, false, 4);
        state.context.hpfar_el2 = 0x0800_0004 >> 12 << 4;
        state.context.far_el2 = 0x4;
        assert_eq!(fast(&mut state.context, entry), Fast::Resume);
        assert_eq!(state.context.x(4), 7);
        Exit::Interrupt
    });
    // An instruction is never fetched from there.
    vmm.host.push(|state, _| {
        let esr = u64::from(ec::IABT_LOWER) << 26 | IL | 4;
        abort(state, esr, 0x0801_0000)
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(0x0801_0000), Some((0x0804_0000, 4096, true)));
    assert_eq!(vm.memory.lookup(0x0801_1000), Some((0x0804_1000, 4096, true)));
    assert_eq!(vm.memory.lookup(0x0801_2000), None);
    assert_eq!(vmm.vcpu(&vm, 1).err(), Some(Errno::EBUSY));
}

#[test]
fn vcpus_are_made_once_and_initialised() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.vcpu(&vm, 3).unwrap();
    assert_eq!(vmm.vcpu(&vm, 3).err(), Some(Errno::EEXIST));
    assert_eq!(vmm.vcpu(&vm, 512).err(), Some(Errno::EINVAL));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::ENOEXEC);
    assert_eq!(vmm.get(&vcpu, reg::sysreg(3, 0, 0, 0, 5)), Err(Errno::ENOEXEC));
    assert_eq!(vmm.init(&vcpu, 1 << 9), Err(Errno::ENOENT));
    assert_eq!(vmm.init(&vcpu, 1 << abi::ARM_VCPU_SVE), Err(Errno::EINVAL));
    assert_eq!(vmm.init(&vcpu, 4), Ok(0));
    let other = vmm.vcpu(&vm, 17).unwrap();
    assert_eq!(vmm.init(&other, 0), Err(Errno::EINVAL));
    assert_eq!(vmm.init(&other, 5), Ok(0));
    assert_eq!(vmm.get(&vcpu, reg::sysreg(3, 0, 0, 0, 5)), Ok(0x8000_0003));
    assert_eq!(vmm.get(&other, reg::sysreg(3, 0, 0, 0, 5)), Ok(0x8000_0101));
    assert_eq!(vmm.get(&vcpu, reg::sysreg(3, 0, 0, 0, 0)), Ok(0x413f_d0c1));
}

#[test]
fn registers_round_trip() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::GET_REG_LIST, &abi::RegList { n: 0 }), Err(Errno::E2BIG));
    let n: u64 = vmm.user.read_obj(USER).unwrap();
    assert_eq!(
        vmm.on_vcpu(&vcpu, ioctl::GET_REG_LIST, &abi::RegList { n: n - 1 }),
        Err(Errno::E2BIG)
    );
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::GET_REG_LIST, &abi::RegList { n }), Ok(0));
    let ids: Vec<u64> = vmm.user.read_vec(USER + 8, n as usize).unwrap();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), ids.len(), "each once");
    for id in ids {
        let addr = USER + 0x8000;
        let one = abi::OneReg { id, addr };
        assert_eq!(vmm.on_vcpu(&vcpu, ioctl::GET_ONE_REG, &one), Ok(0), "get {id:#x}");
        let was: u128 = vmm.user.read_obj(addr).unwrap();
        assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_ONE_REG, &one), Ok(0), "set {id:#x}");
        assert_eq!(vmm.on_vcpu(&vcpu, ioctl::GET_ONE_REG, &one), Ok(0));
        assert_eq!(vmm.user.read_obj::<u128>(addr), Ok(was), "{id:#x}");
    }
    // What is written is read.
    for id in [
        reg::core_reg(reg::SIZE_U64, reg::core::X0 + 60),
        reg::sysreg(3, 0, 2, 0, 0),
        reg::TIMER_CVAL,
    ] {
        vmm.set(&vcpu, id, 0x1234_5678_9abc).unwrap();
        assert_eq!(vmm.get(&vcpu, id), Ok(0x1234_5678_9abc));
    }
    // The counter shows what it was set to.
    vmm.set(&vcpu, reg::TIMER_CNT, 77).unwrap();
    assert_eq!(vmm.get(&vcpu, reg::TIMER_CNT), Ok(77));
    let pstate = reg::core_reg(reg::SIZE_U64, reg::core::PSTATE);
    assert_eq!(vmm.get(&vcpu, pstate), Ok(0x3c5));
    assert_eq!(vmm.set(&vcpu, pstate, 0x3c9), Err(Errno::EINVAL));
    assert_eq!(vmm.set(&vcpu, pstate, 0x10), Err(Errno::EINVAL));
    assert_eq!(vmm.get(&vcpu, reg::core_reg(reg::SIZE_U32, 0)), Err(Errno::EINVAL));
    assert_eq!(vmm.get(&vcpu, reg::core_reg(reg::SIZE_U64, 1)), Err(Errno::EINVAL));
    assert_eq!(vmm.get(&vcpu, reg::sysreg(3, 7, 15, 7, 7)), Err(Errno::ENOENT));
    assert_eq!(vmm.get(&vcpu, 0x4030_0000_0013_c000), Err(Errno::EINVAL));
    assert_eq!(vmm.get(&vcpu, 0x6030_0001_0013_c000), Err(Errno::EINVAL));
    assert_eq!(vmm.get(&vcpu, 0x6030_0000_1013_c000), Err(Errno::ENOENT));
    // Beyond struct kvm_regs there is nothing; its padding is no register.
    assert_eq!(vmm.get(&vcpu, reg::core_reg(reg::SIZE_U64, 0x800)), Err(Errno::ENOENT));
    assert_eq!(vmm.get(&vcpu, reg::core_reg(reg::SIZE_U32, 215)), Err(Errno::ENOENT));
    assert_eq!(vmm.get(&vcpu, reg::core_reg(reg::SIZE_U32, 214)), Err(Errno::EINVAL));
    assert_eq!(vmm.set(&vcpu, reg::sysreg(3, 0, 0, 0, 0), 1), Err(Errno::EINVAL));
    assert_eq!(vmm.set(&vcpu, reg::PSCI_VERSION, 0x10000), Ok(0));
    assert_eq!(vmm.get(&vcpu, reg::PSCI_VERSION), Ok(0x10000));
    assert_eq!(vmm.set(&vcpu, reg::PSCI_VERSION, 0x20000), Err(Errno::EINVAL));
}

#[test]
fn id_registers_shrink_before_the_first_run_only() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    vmm.gic(&vm);
    let pfr0 = reg::sysreg(3, 0, 0, 4, 0);
    let shown = vmm.get(&vcpu, pfr0).unwrap();
    assert_eq!(shown >> 24 & 0xf, 1);
    assert_eq!(vmm.set(&vcpu, pfr0, shown | 0xf << 32), Err(Errno::EINVAL));
    assert_eq!(vmm.set(&vcpu, pfr0, shown & !(0xf << 28)), Ok(0));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.set(&vcpu, pfr0, shown), Err(Errno::EBUSY));
    assert_eq!(vmm.set(&vcpu, pfr0, shown & !(0xf << 28)), Ok(0));
}

#[test]
fn signals_and_immediate_exit() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(reason(&vcpu), page::EXIT_INTR);
    vcpu.run_page().write(1, &[1]).unwrap();
    vmm.host.push(|_, _| panic!("entered"));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(errno(vcpu.ioctl(&mut vmm.regime, &vmm.user, ioctl::RUN, 1)), Errno::EINVAL);
}

#[test]
fn mmio_goes_to_the_vmm_and_back() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    vmm.host.push(|state, _| {
        state.context.pc = 0x1000;
        state.context.set_x(5, 0xffff_ffff_1234_5678);
        abort(state, dabt(2, 5, true, 7), 0x900_0004)
    });
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_MMIO);
    assert_eq!(word(&vcpu, offset::MMIO_PHYS_ADDR), 0x900_0004);
    assert_eq!(word(&vcpu, offset::MMIO_DATA), 0x1234_5678);
    assert_eq!(half(&vcpu, offset::MMIO_LEN), 4);
    assert_eq!(half(&vcpu, offset::MMIO_IS_WRITE), 1);
    // The access ends when the guest goes on.
    assert_eq!(vcpu.core().state.lock().context.pc, 0x1000);
    // A signed byte.
    vmm.host.push(|state, _| {
        assert_eq!(state.context.pc, 0x1004);
        abort(state, dabt(0, 6, false, 7) | 1 << 21 | 1 << 15, 0x900_0000)
    });
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(half(&vcpu, offset::MMIO_IS_WRITE), 0);
    vcpu.run_page().write(offset::MMIO_DATA as u64, &[0x80]).unwrap();
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(6), 0xffff_ffff_ffff_ff80);
        assert_eq!(state.context.pc, 0x1008);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.host.windows.load(Ordering::Relaxed), 2);
}

#[test]
fn accesses_without_a_syndrome() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let blind = |state: &mut VcpuState, _: &Entry<'_>| {
        abort(state, u64::from(ec::DABT_LOWER) << 26 | IL | 0x47, 0x900_0008)
    };
    vmm.host.push(blind);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::ENOSYS);
    let enable = abi::EnableCap { cap: cap::ARM_NISV_TO_USER, ..Default::default() };
    assert_eq!(vmm.on_vm(&vm, ioctl::ENABLE_CAP, &enable), Ok(0));
    vmm.host.push(blind);
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_ARM_NISV);
    assert_eq!(word(&vcpu, offset::ARM_NISV_ESR_ISS), 0x47);
    assert_eq!(word(&vcpu, offset::ARM_NISV_FAULT_IPA), 0x900_0008);
    // The VMM answers with an abort.
    let events = abi::VcpuEvents { ext_dabt_pending: 1, ..Default::default() };
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_VCPU_EVENTS, &events), Ok(0));
    vmm.host.push(|state, _| {
        assert_eq!(state.context.el1(El1::ESR_EL1) >> 26, 0x25);
        assert_eq!(state.context.pc, 0x200);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
}

/// An SError with this AET, DFSC 0x11; whether the guest got one of its own.
fn guest_hears_of_serror(aet: u64) -> bool {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let esr = u64::from(ec::SERROR) << 26 | IL | aet << 10 | 0x11;
    vmm.host.push(move |_, _| Exit::SError(esr));
    vmm.host.push(|_, _| Exit::Interrupt);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    vcpu.core().state.lock().context.hcr_el2 & HCR_VSE != 0
}

#[test]
fn serrors_of_guests() {
    assert!(guest_hears_of_serror(1)); // unrecoverable
    assert!(guest_hears_of_serror(3)); // recoverable
    assert!(!guest_hears_of_serror(2)); // restartable
    assert!(!guest_hears_of_serror(6)); // corrected
}

#[test]
#[should_panic(expected = "fatal: SError in a guest, ESR 0xbe000011")]
fn an_uncontained_serror_is_not_the_guests_alone() {
    guest_hears_of_serror(0);
}

impl Vmm {
    fn filter(&mut self, vm: &Arc<Vm>, base: u32, nr_functions: u32, action: u8) -> Result<i64> {
        let filter = abi::SmcccFilter { base, nr_functions, action, pad: [0; 15] };
        self.user.write_obj(USER + 256, &filter).unwrap();
        self.vm_attr(vm, ioctl::SET_DEVICE_ATTR, 0, USER + 256)
    }

    fn vm_attr(&mut self, vm: &Arc<Vm>, request: u32, attr: u64, addr: u64) -> Result<i64> {
        self.on_vm(vm, request, &abi::DeviceAttr { flags: 0, group: 0, attr, addr })
    }
}

fn smc(state: &mut VcpuState, args: [u64; 4]) -> Exit {
    hvc(state, args);
    state.context.esr_el2 = u64::from(ec::SMC64) << 26 | IL;
    Exit::Sync
}

#[test]
fn a_filter_is_made_before_the_first_run() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    assert_eq!(vmm.vm_attr(&vm, ioctl::HAS_DEVICE_ATTR, 0, 0), Ok(0));
    assert_eq!(vmm.vm_attr(&vm, ioctl::HAS_DEVICE_ATTR, 1, 0), Err(Errno::ENXIO));
    assert_eq!(vmm.vm_attr(&vm, ioctl::SET_DEVICE_ATTR, 1, 0), Err(Errno::ENXIO));
    assert_eq!(vmm.vm_attr(&vm, ioctl::SET_DEVICE_ATTR, 0, 8), Err(Errno::EFAULT));
    assert_eq!(vmm.vm_attr(&vm, ioctl::GET_DEVICE_ATTR, 0, 0), Err(Errno::EINVAL));
    let other = abi::DeviceAttr { group: 1, ..Default::default() };
    assert_eq!(vmm.on_vm(&vm, ioctl::HAS_DEVICE_ATTR, &other), Err(Errno::ENXIO));
    assert_eq!(vmm.filter(&vm, 0x8400_0000, 0, 1), Err(Errno::EINVAL));
    assert_eq!(vmm.filter(&vm, 0x8000_0000, 1, 1), Err(Errno::EEXIST));
    // Nothing that KVM wouldn't do anyway.
    assert_eq!(vmm.filter(&vm, 0x8400_0000, 4, 0), Ok(0));
    assert!(!vm.memory.snapshot().policy.filtered);
    assert_eq!(vmm.filter(&vm, 0x8400_0003, 4, 1), Err(Errno::EEXIST));
    assert!(!vm.memory.snapshot().policy.filtered);
    assert_eq!(vmm.filter(&vm, 0x8400_0004, 4, 1), Ok(0));
    assert!(vm.memory.snapshot().policy.filtered);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.filter(&vm, 0x8600_0000, 1, 1), Err(Errno::EBUSY));
    assert_eq!(vmm.filter(&vm, 0x8600_0000, 1, 3), Err(Errno::EINVAL));
}

#[test]
fn calls_are_denied_or_forwarded() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    // PSCI_VERSION; CPU_OFF; a range of the vendor's and AFFINITY_INFO.
    for (base, nr_functions, action) in
        [(0x8400_0000, 1, 1), (0x8400_0002, 1, 1), (0xc600_ff00, 2, 2), (0xc400_0004, 1, 2)]
    {
        assert_eq!(vmm.filter(&vm, base, nr_functions, action), Ok(0));
    }
    vmm.host.push(|state, entry| {
        // Nothing is answered before the filter is asked.
        for function in [0x8400_0000, 0xc600_ff00, 0xc600_ff02, 0xc400_0004, 0x8000_0000] {
            hvc(state, [function, 0, 0, 0]);
            assert_eq!(fast(&mut state.context, entry), Fast::NeedsHost, "{function:#x}");
        }
        state.context.pc = 0x1000;
        // The upper half of x0 doesn't matter.
        hvc(state, [0x1234_5678_8400_0000, 1, 2, 3])
    });
    vmm.host.push(|state, _| {
        assert_eq!((state.context.x(0), state.context.pc), (psci::NOT_SUPPORTED, 0x1000));
        smc(state, [0x8400_0002, 0, 0, 0])
    });
    vmm.host.push(|state, _| {
        assert_eq!((state.context.x(0), state.context.pc), (psci::NOT_SUPPORTED, 0x1004));
        // What the filter doesn't name, fast by itself or not, is done.
        hvc(state, [0xc600_ff02, 0, 0, 0])
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(0), psci::NOT_SUPPORTED);
        smc(state, [0x8400_0006, 0, 0, 0])
    });
    vmm.host.push(|state, _| {
        assert_eq!((state.context.x(0), state.context.pc), (2, 0x1008));
        hvc(state, [0xffff_ffff_c600_ff01, 7, 8, 9])
    });
    vcpu.run_page().atomic_u64(offset::HYPERCALL_ARGS as u64).unwrap().store(5, Ordering::Relaxed);
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    let told = |vcpu: &Vcpu| (reason(vcpu), word(vcpu, offset::HYPERCALL_NR));
    let core = |n: u64| reg::core_reg(reg::SIZE_U64, n * 2);
    assert_eq!(told(&vcpu), (page::EXIT_HYPERCALL, 0xc600_ff01));
    assert_eq!(word(&vcpu, offset::HYPERCALL_FLAGS), 0);
    assert_eq!(word(&vcpu, offset::HYPERCALL_ARGS), 0);
    assert_eq!(vmm.get(&vcpu, core(3)), Ok(9));
    assert_eq!(vmm.get(&vcpu, core(32)), Ok(0x1008));
    assert_eq!(vmm.set(&vcpu, core(0), 0x77), Ok(0));
    vmm.host.push(|state, _| {
        assert_eq!((state.context.x(0), state.context.pc), (0x77, 0x1008));
        smc(state, [0xc400_0004, 0, 0, 0])
    });
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(told(&vcpu), (page::EXIT_HYPERCALL, 0xc400_0004));
    assert_eq!(word(&vcpu, offset::HYPERCALL_FLAGS), page::HYPERCALL_EXIT_SMC);
    assert_eq!(vmm.get(&vcpu, core(32)), Ok(0x100c));
    vmm.host.push(|state, _| {
        // Nobody wrote x0.
        assert_eq!((state.context.x(0), state.context.pc), (0xc400_0004, 0x100c));
        // An immediate: no call at all.
        smc(state, [0xc400_0004, 0, 0, 0]);
        state.context.esr_el2 |= 1;
        Exit::Sync
    });
    vmm.host.push(|state, _| {
        assert_eq!((state.context.x(0), state.context.pc), (psci::NOT_SUPPORTED, 0x1010));
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
}

/// A register and a capability that both change the policy, on two threads.
#[test]
fn no_change_of_the_policy_is_lost() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let done = core::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let user = User::new();
            user.write_obj(USER, &abi::OneReg { id: reg::PSCI_VERSION, addr: USER + 64 }).unwrap();
            for version in [psci::PSCI_1_0, psci::PSCI_1_1].into_iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                user.write_obj(USER + 64, &u64::from(version)).unwrap();
                let regime = &mut HostRegime::hosted();
                assert_eq!(value(vcpu.ioctl(regime, &user, ioctl::SET_ONE_REG, USER)), Ok(0));
            }
        });
        let (mut lost, mut failed) = (0, 0);
        for n in 0..4_000 {
            let suspend = n % 2 == 0;
            let set = |new: &mut VmSnapshot| {
                new.policy.system_suspend = suspend;
                Ok(())
            };
            failed += u32::from(vm.change(set).is_err());
            std::thread::yield_now();
            lost += u32::from(vm.memory.snapshot().policy.system_suspend != suspend);
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!((lost, failed), (0, 0));
    });
}

#[test]
fn fetches_and_table_walks_from_nowhere_abort() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    vmm.host.push(|state, _| abort(state, u64::from(ec::IABT_LOWER) << 26 | IL | 7, 0x900_0000));
    vmm.host.push(|state, _| {
        assert_eq!(state.context.el1(El1::ESR_EL1), 0x21 << 26 | IL | 0x10);
        abort(state, dabt(3, 1, false, 7) | 1 << 7, 0x900_0000)
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.el1(El1::ESR_EL1), 0x25 << 26 | IL | 0x10);
        // Beyond the VM's addresses, but not the machine's.
        abort(state, dabt(3, 1, false, 4), 1 << 41)
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.el1(El1::ESR_EL1), 0x25 << 26 | IL | 0x10);
        // Beyond both.
        abort(state, dabt(3, 1, false, 4), 1 << 45)
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.el1(El1::ESR_EL1), 0x25 << 26 | IL);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
}

#[test]
fn the_system_goes_off() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    vmm.host.push(|state, _| hvc(state, [0x8400_0008, 0, 0, 0]));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_SYSTEM_EVENT);
    assert_eq!(half(&vcpu, offset::SYSTEM_EVENT_TYPE), page::SYSTEM_EVENT_SHUTDOWN);
    assert_eq!(half(&vcpu, offset::SYSTEM_EVENT_NDATA), 1);
    assert_eq!(vcpu.core().state.lock().context.x(0), psci::INTERNAL_FAILURE);
    assert!(matches!(vmm.run(&vcpu), Ok(Done::Wait)), "stopped");
    assert_eq!(vmm.init(&vcpu, 4), Ok(0));
    vmm.host.push(|state, _| hvc(state, [0xc400_0012, 0, 0, 0]));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(half(&vcpu, offset::SYSTEM_EVENT_TYPE), page::SYSTEM_EVENT_RESET);
    assert_eq!(word(&vcpu, offset::SYSTEM_EVENT_DATA), 1);
}

#[test]
fn one_vcpu_turns_another_on() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let first = vmm.ready(&vm, 0);
    let second = vmm.vcpu(&vm, 1).unwrap();
    vmm.init(&second, 5).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    second.wait_queue().register(&waker).unwrap();
    assert!(matches!(vmm.run(&second), Ok(Done::Wait)));
    let mp: i64 = vmm.on_vcpu(&second, ioctl::GET_MP_STATE, &abi::MpState::default()).unwrap();
    assert_eq!((mp, vmm.user.read_obj::<u32>(USER)), (0, Ok(abi::MP_STATE_STOPPED)));
    vmm.host.push(|state, _| hvc(state, [0xc400_0004, 1, 0, 0]));
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(0), 1, "off");
        hvc(state, [0xc400_0003, 1, 0x4008_0000, 0x77])
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(0), 0);
        hvc(state, [0xc400_0003, 1, 0, 0])
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(0), psci::ALREADY_ON);
        hvc(state, [0xc400_0003, 9, 0, 0])
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(0), psci::INVALID_PARAMETERS);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&first)), Errno::EINTR);
    assert!(woken.0.load(Ordering::Relaxed) > 0);
    vmm.host.push(|state, entry| {
        assert_eq!((state.context.pc, state.context.x(0)), (0x4008_0000, 0x77));
        assert_eq!(entry.core.id, 1);
        hvc(state, [0x8400_0002, 0, 0, 0])
    });
    assert!(matches!(vmm.run(&second), Ok(Done::Wait)), "off again");
}

#[derive(Default)]
struct Woken(core::sync::atomic::AtomicU32);
impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn faults_map_pages_and_blocks() {
    let _ram = sim::ram(32);
    let before = frame::stats();
    let mut vmm = Vmm::new();
    let space = vmm.host.space.clone();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let hva = 0x7000_0000;
    vmm.memory(&vm, 0, 0x4000_0000, 8 * BLOCK_SIZE, hva, 0).unwrap();
    // A page read-only for now, a block, a block that the slots misalign.
    space.back(hva + 0x3000, Size::Page, false);
    let block = space.back(hva + BLOCK_SIZE, Size::Block, true);
    vmm.memory(&vm, 1, 0x8000_1000, 2 * BLOCK_SIZE, hva + BLOCK_SIZE, 0).unwrap();
    let map = |vm: &Vm, gpa: u64| vm.memory.lookup(gpa);

    vmm.host.push(|state, _| abort(state, dabt(3, 1, false, 7), 0x4000_3008));
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 6), 0x4020_1000));
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 7), 0x8000_3000));
    // Read-only slots and frames: the frame says no.
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 0xf), 0x4000_3008));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EFAULT);
    assert_eq!(map(&vm, 0x4000_3000).map(|leaf| (leaf.1, leaf.2)), Some((4096, false)));
    assert_eq!(map(&vm, 0x4020_0000), Some((block, BLOCK_SIZE, true)));
    assert_eq!(map(&vm, 0x8000_3000), Some((block + 0x2000, 4096, true)));
    assert_eq!(map(&vm, 0x8000_2000), None);

    // Copy on write: a new frame, writable.
    let new = space.back(hva + 0x3000, Size::Page, true);
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 0xf), 0x4000_3008));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(map(&vm, 0x4000_3000), Some((new, 4096, true)));
    let flushed = vmm.host.flushed.lock().unwrap().clone();
    let covers = |&(start, len): &(u64, u64)| (start..start + len).contains(&0x4000_3000);
    assert!(flushed.iter().any(covers), "break before make");

    // munmap of half of the block: it goes, all of it may.
    space.invalidate(hva + BLOCK_SIZE, hva + BLOCK_SIZE + 0x10_0000);
    assert_eq!(map(&vm, 0x4020_0000), None);
    assert_eq!(map(&vm, 0x8000_3000), None);
    assert!(map(&vm, 0x4000_3000).is_some());

    // The slot goes.
    vmm.memory(&vm, 0, 0, 0, 0, 0).unwrap();
    assert_eq!(map(&vm, 0x4000_3000), None);
    vmm.host.push(|state, _| abort(state, dabt(3, 1, false, 7), 0x4000_3008));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_MMIO);

    // All is given back.
    space.frames.lock().unwrap().clear();
    let weak = Arc::downgrade(&vm);
    vm.release(&vmm.regime);
    drop((vm, vcpu, vmm));
    assert!(weak.upgrade().is_none());
    drop(space);
    assert_eq!(frame::stats().free, before.free);
}

/// Memory management calls the notifier while the VM ends, and drops its
/// reference last, under the memory map's lock.
#[test]
fn who_drops_the_notifier_last_drops_nothing_else() {
    let _ram = sim::ram(16);
    let mut vmm = Vmm::new();
    let space = vmm.host.space.clone();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let hva = 0x7000_0000;
    vmm.memory(&vm, 0, 0x4000_0000, BLOCK_SIZE, hva, 0).unwrap();
    space.back(hva, Size::Page, true);
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 7), 0x4000_0000));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    let event = vmm.host.add_eventfd(3);
    let io = abi::Ioeventfd { addr: 0x900_0000, len: 4, fd: 3, ..Default::default() };
    assert_eq!(vmm.on_vm(&vm, ioctl::IOEVENTFD, &io), Ok(0));
    let events = Arc::strong_count(&event);

    let called = space.notifiers.lock().unwrap()[0].upgrade().unwrap();
    vm.release(&vmm.regime);
    drop((vm, vcpu));
    assert_eq!(space.frames.lock().unwrap()[&hva].0.ref_count(), 1);
    assert_eq!(Arc::strong_count(&event), events - 1);
    let before = frame::stats();
    called.invalidate(hva, hva + BLOCK_SIZE);
    drop(called);
    // Its root table.
    assert_eq!(frame::stats().used_for(frame::Use::GuestTable), 0);
    assert!(frame::stats().free > before.free);
}

/// A VM's memory where it lies, as Type-1 mode has it.
struct Banks(Vec<Bank>);

impl AddressSpace for Banks {
    fn id(&self) -> u64 {
        1
    }
    fn sequence(&self) -> u64 {
        0
    }
    fn is_current(&self, _: u64) -> bool {
        true
    }
    fn get_frame(&self, _: &HostRegime, addr: u64, _: bool) -> Result<HostFrame> {
        let frame = self.0.iter().find_map(|bank| bank.mapped(addr)).ok_or(Errno::EFAULT)?;
        Ok(HostFrame { frame, writable: true })
    }
    fn gigabyte(&self, addr: u64) -> Option<&[frame::Frame]> {
        self.0.iter().find_map(|bank| bank.gigabyte(addr))
    }
    fn register(&self, _: std::sync::Weak<dyn MmuNotifier>) -> Result<()> {
        Ok(())
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes a GiB")]
fn a_gigabyte_is_mapped_whole_where_guest_and_machine_have_one() {
    let _ram = sim::ram(16);
    let mut frames = sim::gigabyte().to_vec();
    frames.push(frame::Frame::alloc(Size::Block, frame::Fill::Stale).unwrap());
    let first = frames[0].addr().get();
    let host: Arc<dyn Host> = MockHost::new();
    let mut regime = HostRegime::hosted();
    // The guest's address, and whether its slot is read-only.
    let cases = [(0x4000_0000u64, 0, 1), (0x4020_0000, 0, 0), (0x4000_0000, abi::MEM_READONLY, 0)];
    for (start, flags, expected) in cases {
        let bank = Bank::new(start, frames.clone());
        assert_eq!(bank.gigabyte(start).is_some(), start == 0x4000_0000);
        assert!(bank.gigabyte(start + BLOCK_SIZE).is_none());
        assert!(bank.gigabyte(start - 1).is_none() && bank.gigabyte(start + (1 << 30)).is_none());
        let vm = Vm::new(&host, Arc::new(Banks(vec![bank])), 40).unwrap();
        let slot = abi::UserspaceMemoryRegion {
            flags,
            guest_phys_addr: start,
            memory_size: 513 * BLOCK_SIZE,
            userspace_addr: start,
            ..Default::default()
        };
        vm.set_memory(&mut regime, &slot).unwrap();
        assert_eq!(vm.populate(&mut regime), Ok(expected));
        let leaf = if expected == 1 { 1 << 30 } else { BLOCK_SIZE };
        assert_eq!(vm.memory.lookup(start), Some((first, leaf, flags == 0)));
        let last = vm.memory.lookup(start + (1 << 30)).unwrap();
        assert_eq!((last.0, last.1), (frames[512].addr().get(), BLOCK_SIZE));
        vm.release(&regime);
    }
    assert!(frames.iter().all(|frame| frame.ref_count() <= 2));
}

#[test]
fn a_block_is_the_same_memory_at_any_address() {
    let _ram = sim::ram(16);
    let block = frame::Frame::alloc(Size::Block, frame::Fill::Stale).unwrap();
    let (first, host) = (block.addr().get(), MockHost::new());
    let host: Arc<dyn Host> = host;
    let mut regime = HostRegime::hosted();
    for start in [0x4000_0000u64, 0x4000_3000, 0x401f_f000] {
        let bank = Bank::new(start, vec![block.clone()]);
        assert_eq!((bank.start, bank.bytes()), (start, BLOCK_SIZE));
        assert_eq!(bank.at(start + 0x1234), Some((&block, 0x1234)));
        assert!(bank.at(start - 1).is_none() && bank.at(start + BLOCK_SIZE).is_none());
        let vm = Vm::new(&host, Arc::new(Banks(vec![bank])), 40).unwrap();
        let slot = abi::UserspaceMemoryRegion {
            guest_phys_addr: start,
            memory_size: BLOCK_SIZE,
            userspace_addr: start,
            ..Default::default()
        };
        vm.set_memory(&mut regime, &slot).unwrap();
        vm.populate(&mut regime).unwrap();
        for at in (0..BLOCK_SIZE).step_by(0x1000) {
            let (addr, len, _) = vm.memory.lookup(start + at).unwrap();
            assert_eq!(addr + (at & (len - 1)), first + at, "{start:#x} + {at:#x}");
            assert_eq!(len == BLOCK_SIZE, start % BLOCK_SIZE == 0);
        }
        vm.release(&regime);
    }
}

#[test]
fn a_fetch_that_sets_an_access_flag_writes() {
    // TCR_EL1.HA, and a page table that is read-only in stage 2 for now.
    let _ram = sim::ram(16);
    let mut vmm = Vmm::new();
    let space = vmm.host.space.clone();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let (gpa, hva) = (0x4000_0000, 0x7000_0000);
    vmm.memory(&vm, 0, gpa, BLOCK_SIZE, hva, 0).unwrap();
    let walk = |fsc: u64| u64::from(ec::IABT_LOWER) << 26 | IL | 1 << 7 | fsc;
    space.back(hva, Size::Page, false);
    vmm.host.push(move |state, _| abort(state, walk(7), gpa));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(gpa).map(|leaf| leaf.2), Some(false));
    let own = space.back(hva, Size::Page, true);
    vmm.host.push(move |state, _| abort(state, walk(0xf), gpa));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(gpa), Some((own, 4096, true)));
}

#[test]
fn a_fault_that_races_starts_over() {
    let _ram = sim::ram(16);
    let mut vmm = Vmm::new();
    let space = vmm.host.space.clone();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let hva = 0x7000_0000;
    vmm.memory(&vm, 0, 0x4000_0000, BLOCK_SIZE, hva, 0).unwrap();
    space.back(hva, Size::Page, true);
    // The frame leaves between its lookup and its mapping.
    *space.race.lock().unwrap() = Some(Box::new(move |space| space.invalidate(hva, hva + 4096)));
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 7), 0x4000_0000));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(0x4000_0000), None);
    // The slot leaves there.
    let deleter = vm.clone();
    *space.race.lock().unwrap() = Some(Box::new(move |_| {
        // On another CPU.
        let other = std::thread::spawn(move || {
            let gone = abi::UserspaceMemoryRegion::default();
            let gone = abi::UserspaceMemoryRegion { slot: 0, ..gone };
            deleter.set_memory(&mut HostRegime::hosted(), &gone).unwrap();
        });
        other.join().unwrap();
    }));
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 7), 0x4000_0000));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(0x4000_0000), None);
}

#[test]
fn a_slot_that_leaves_still_hears_of_its_memory() {
    // Unmapping it takes a while, with windows; meanwhile the VMM forks, say:
    // when the notifier returns, the guest can't write there any more.
    const PAGES: u64 = 2100;
    let _ram = sim::ram(32);
    let mut vmm = Vmm::new();
    let space = vmm.host.space.clone();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let (gpa, hva) = (0x4000_0000, 0x7000_0000);
    vmm.memory(&vm, 0, gpa, PAGES << 12, hva, 0).unwrap();
    for page in 0..PAGES {
        space.back(hva + (page << 12), Size::Page, true);
        vmm.host.push(move |state, _| abort(state, dabt(3, 1, true, 7), gpa + (page << 12)));
    }
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    let last = PAGES - 1;
    assert!(vm.memory.lookup(gpa + (last << 12)).is_some());
    let memory = vm.memory.clone();
    let seen = Arc::new(core::sync::atomic::AtomicBool::new(false));
    let told = seen.clone();
    *vmm.host.in_window.lock().unwrap() = Some(Box::new(move |host| {
        if !told.swap(true, Ordering::Relaxed) {
            assert!(memory.lookup(gpa + (last << 12)).is_some(), "in steps");
            host.space.invalidate(hva + (last << 12), hva + (PAGES << 12));
            assert_eq!(memory.lookup(gpa + (last << 12)), None);
        }
    }));
    vmm.memory(&vm, 0, 0, 0, 0, 0).unwrap();
    assert!(seen.load(Ordering::Relaxed), "a window");
    *vmm.host.in_window.lock().unwrap() = None;
    assert!((0..PAGES).all(|page| vm.memory.lookup(gpa + (page << 12)).is_none()));
}

#[test]
fn a_load_takes_no_permission_back() {
    // Two vCPUs fault on a page; the one that only loads comes second.
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let space = vmm.host.space.clone();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let hva = 0x7000_0000;
    vmm.memory(&vm, 0, 0x4000_0000, BLOCK_SIZE, hva, 0).unwrap();
    let frame = space.back(hva, Size::Page, true);
    vmm.host.push(|state, _| abort(state, dabt(3, 1, true, 7), 0x4000_0000));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    if let Some((_, writable)) = space.frames.lock().unwrap().get_mut(&hva) {
        *writable = false;
    }
    vmm.host.push(|state, _| abort(state, dabt(3, 1, false, 7), 0x4000_0000));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(0x4000_0000), Some((frame, 4096, true)));
}

#[test]
fn a_vm_has_only_so_many_irqfds() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let _vcpu = vmm.ready(&vm, 0);
    let _gic = vmm.gic(&vm);
    // Each eventfd is closed after: the VM alone keeps it.
    let mut add = |fd: u32| {
        vmm.host.add_eventfd(fd as i32);
        let args = abi::Irqfd { fd, gsi: 8, flags: 0, resamplefd: 0, pad: [0; 16] };
        let done = vmm.on_vm(&vm, ioctl::IRQFD, &args);
        vmm.host.eventfds.lock().unwrap().clear();
        done
    };
    for fd in 0..4096 {
        assert_eq!(add(fd), Ok(0));
    }
    assert_eq!(add(4096), Err(Errno::ENOSPC));
}

/// A VM with so many irqfds, from SPI 40 on, edge-triggered and enabled.
fn with_irqfds(vmm: &mut Vmm, count: u32) -> (Arc<Vm>, Arc<Vcpu>, Arc<Device>) {
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let gic = vmm.gic(&vm);
    let vgic = vm.vgic().unwrap();
    vgic.mmio_write(0, vgic::Region::Dist, 0, 4, 2);
    for reg in 0..8 {
        vgic.mmio_write(0, vgic::Region::Dist, 0x104 + 4 * reg, 4, u64::from(u32::MAX));
        for half in [0xc08, 0xc0c] {
            vgic.mmio_write(0, vgic::Region::Dist, half + 8 * reg, 4, u64::from(u32::MAX));
        }
    }
    for n in 0..count {
        vmm.host.add_eventfd(n as i32);
        let irqfd = abi::Irqfd { fd: n, gsi: 8 + n, ..Default::default() };
        assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &irqfd), Ok(0));
    }
    (vm, vcpu, gic)
}

/// GICD_ISPENDR`n`, as a VMM saves it.
fn saved_pending(vmm: &mut Vmm, gic: &Device, n: u64) -> u32 {
    let addr = USER + 256;
    let attr =
        abi::DeviceAttr { flags: 0, group: abi::vgic::GRP_DIST_REGS, attr: 0x200 + 4 * n, addr };
    let at = vmm.put(&attr);
    gic.ioctl(&mut vmm.regime, &vmm.user, ioctl::GET_DEVICE_ATTR, at).unwrap();
    vmm.user.read_obj(addr).unwrap()
}

#[test]
fn what_irqfds_were_signalled_for_is_saved() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let (vm, _vcpu, gic) = with_irqfds(&mut vmm, 200);
    let signal = |vmm: &Vmm, n: i32| vmm.host.eventfds.lock().unwrap()[&n].signal(1);
    assert_eq!(saved_pending(&mut vmm, &gic, 1), 0);
    // No vCPU runs that could inject it.
    signal(&vmm, 3);
    assert_eq!(saved_pending(&mut vmm, &gic, 1), 1 << 11);
    // What was signalled before an irqfd goes isn't lost.
    signal(&vmm, 4);
    let irqfd =
        abi::Irqfd { fd: 4, gsi: 12, flags: abi::IRQFD_FLAG_DEASSIGN, ..Default::default() };
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &irqfd), Ok(0));
    assert_eq!(vm.vgic().unwrap().mmio_read(0, vgic::Region::Dist, 0x204, 4), 3 << 11);
    // Many: with windows between.
    let before = vmm.host.windows.load(Ordering::Relaxed);
    (0..200).filter(|n| *n != 4).for_each(|n| signal(&vmm, n));
    let pending: Vec<u32> = (1..8).map(|n| saved_pending(&mut vmm, &gic, n)).collect();
    assert_eq!(pending, [0xffff_ff00, !0, !0, !0, !0, !0, 0xffff]);
    assert!(vmm.host.windows.load(Ordering::Relaxed) >= before + 3);
}

#[test]
fn a_vcpu_takes_many_irqfds_with_windows_between() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let (vm, vcpu, _gic) = with_irqfds(&mut vmm, 200);
    (0..200).for_each(|n| vmm.host.eventfds.lock().unwrap()[&n].signal(1));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert!(vmm.host.windows.load(Ordering::Relaxed) >= 3);
    let vgic = vm.vgic().unwrap();
    let pending = |n: u32| vgic.mmio_read(0, vgic::Region::Dist, 0x200 + 4 * n, 4) as u32;
    assert_eq!((pending(1), pending(4), pending(7)), (0xffff_ff00, !0, 0xffff));
}

#[test]
fn gsis_go_where_they_are_routed() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let (vm, _vcpu, gic) = with_irqfds(&mut vmm, 4);
    let route = |vmm: &mut Vmm, routes: &[(u32, u32)]| {
        let mut words = Vec::from([routes.len() as u32, 0]);
        for (gsi, pin) in routes {
            words.extend([*gsi, abi::IRQ_ROUTING_IRQCHIP, 0, 0, 0, *pin, 0, 0, 0, 0, 0, 0]);
        }
        for (n, word) in words.iter().enumerate() {
            vmm.user.write_obj(USER + 4 * n as u64, word).unwrap();
        }
        value(vm.ioctl(&mut vmm.regime, &vmm.user, ioctl::SET_GSI_ROUTING, USER))
    };
    let signal = |vmm: &Vmm, n: i32| vmm.host.eventfds.lock().unwrap()[&n].signal(1);
    // Signalled before: where it went before.
    signal(&vmm, 0);
    // In no order; 9 isn't there.
    assert_eq!(route(&mut vmm, &[(11, 17), (8, 16), (10, 20)]), Ok(0));
    assert_eq!(saved_pending(&mut vmm, &gic, 1), 1 << 8);
    (0..4).for_each(|n| signal(&vmm, n));
    assert_eq!(saved_pending(&mut vmm, &gic, 1), 1 << 8 | 1 << 16 | 1 << 17 | 1 << 20);
    // One pin for each.
    assert_eq!(route(&mut vmm, &[(8, 16), (9, 1), (8, 17)]), Err(Errno::EINVAL));
}

#[test]
fn without_an_interrupt_controller_there_is_no_gicv3() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let pfr0 = 0x6030_0000_0013_c020;
    let gic = |value: u64| value >> 24 & 0xf;
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    // It may come yet.
    assert_eq!(vmm.get(&vcpu, pfr0).map(gic), Ok(1));
    vmm.host.push(|state, _| {
        assert_eq!(state.lrs.hcr, vgic::ICH_HCR_TRAP_ALL);
        state.context.esr_el2 = trap(SysReg::new(3, 0, 4, 6, 0), 5, true);
        Exit::Sync
    });
    vmm.host.push(move |state, entry| {
        assert_eq!(state.context.el1(El1::ESR_EL1) >> 26, 0, "ICC_PMR_EL1 is UNDEFINED");
        assert_eq!(gic(entry.snapshot.id.get(4, 0)), 0);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.get(&vcpu, pfr0).map(gic), Ok(0));
    // With one, it stays.
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    vmm.gic(&vm);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.get(&vcpu, pfr0).map(gic), Ok(1));
    assert_eq!(vcpu.core().state.lock().lrs.hcr & vgic::ICH_HCR_TRAP_ALL, 0);
}

#[test]
fn read_only_slots_tell_the_vmm_of_writes() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let space = vmm.host.space.clone();
    space.back(0x7000_0000, Size::Page, true);
    vmm.memory(&vm, 0, 0, 4096, 0x7000_0000, abi::MEM_READONLY).unwrap();
    vmm.host.push(|state, _| abort(state, dabt(2, 1, false, 7), 0x10));
    vmm.host.push(|state, _| abort(state, dabt(2, 1, true, 0xf), 0x10));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_MMIO);
    assert_eq!(half(&vcpu, offset::MMIO_IS_WRITE), 1);
    assert_eq!(vm.memory.lookup(0).map(|leaf| leaf.2), Some(false));
}

#[test]
fn interrupts_reach_the_list_registers() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let _gic = vmm.gic(&vm);
    vcpu.core().state.lock().open();
    // WFI with nothing pending.
    vmm.host.push(|state, _| {
        state.context.esr_el2 = u64::from(ec::WFX) << 26 | IL;
        Exit::Sync
    });
    assert!(matches!(vmm.run(&vcpu), Ok(Done::Wait)));
    // The guest had enabled the distributor and SPI 40, group 1.
    let vgic = vm.vgic().unwrap();
    vgic.mmio_write(0, vgic::Region::Dist, 0, 4, 2);
    vgic.mmio_write(0, vgic::Region::Dist, 0x104, 4, 1 << 8);
    assert!(matches!(vmm.run(&vcpu), Ok(Done::Wait)));
    assert_eq!(
        vmm.on_vm(&vm, ioctl::IRQ_LINE, &abi::IrqLevel { irq: 1 << 24 | 40, level: 1 }),
        Ok(0)
    );
    vmm.host.push(|state, _| {
        assert_eq!(state.lrs.in_use().len(), 1);
        assert_eq!(state.lrs.in_use()[0] as u32, 40);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    for (irq, error) in [
        (40, Errno::ENXIO),
        (1 << 24 | 31, Errno::EINVAL),
        (2 << 24 | 40, Errno::EINVAL),
        (2 << 24 | 5 << 16 | 20, Errno::EINVAL),
        (9 << 24, Errno::EINVAL),
    ] {
        assert_eq!(vmm.on_vm(&vm, ioctl::IRQ_LINE, &abi::IrqLevel { irq, level: 1 }), Err(error));
    }
}

#[test]
fn the_virtual_timer_wakes_and_interrupts() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let _gic = vmm.gic(&vm);
    vcpu.core().state.lock().open();
    let vgic = vm.vgic().unwrap();
    vgic.mmio_write(0, vgic::Region::Dist, 0, 4, 2);
    vgic.mmio_write(0, vgic::Region::Redist(0), 0x1_0100, 4, 1 << 27);
    vmm.host.push(|state, _| {
        state.context.timer.cntv_ctl = 1;
        state.context.timer.cntv_cval = 500;
        state.context.esr_el2 = u64::from(ec::WFX) << 26 | IL;
        Exit::Sync
    });
    assert!(matches!(vmm.run(&vcpu), Ok(Done::Wait)));
    // The VM was made at 1000: its counter is 0 there.
    let plan = vcpu.core().state.lock().put_plan(vcpu.core(), 1000);
    assert_eq!(plan, PutPlan { deactivate: false, deadline: Some(1500) });
    vmm.host.now.store(1500, Ordering::Relaxed);
    vcpu.core().timer_due();
    // Its interrupt is there when it goes in: one entry.
    vmm.host.push(|state, entry| {
        assert!(state.load_plan(entry.core));
        let lr = state.lrs.in_use()[0];
        assert_eq!(lr as u32, 27);
        assert_ne!(lr & vgic::ICH_LR_HW, 0);
        // The guest ends it and asks for the next, which fires while it is live.
        entry.core.live_in.store(0, Ordering::Relaxed);
        state.lrs.lr[0] &= !(vgic::ICH_LR_PENDING | vgic::ICH_LR_ACTIVE);
        state.context.timer.cntv_cval = 600;
        Exit::Interrupt
    });
    let clock = vmm.host.clone();
    vmm.host.push(move |_, entry| {
        clock.now.store(1600, Ordering::Relaxed);
        entry.core.vtimer_fired();
        Exit::Interrupt
    });
    vmm.host.push(|state, entry| {
        assert_eq!(state.lrs.in_use()[0] as u32, 27);
        entry.core.live_in.store(u32::MAX, Ordering::Relaxed);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    let mut state = vcpu.core().state.lock();
    assert!(state.load_plan(vcpu.core()));
    assert_eq!(state.put_plan(vcpu.core(), 1600), PutPlan { deactivate: true, deadline: None });
}

#[test]
fn the_physical_timer_is_emulated() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let _gic = vmm.gic(&vm);
    let write = |reg: SysReg, value: u64| {
        move |state: &mut VcpuState, _: &Entry<'_>| {
            state.context.set_x(4, value);
            state.context.esr_el2 = trap(reg, 4, false);
            Exit::Sync
        }
    };
    vmm.host.push(write(SysReg::CNTP_CVAL_EL0, 3000));
    vmm.host.push(write(SysReg::CNTP_CTL_EL0, 1));
    vmm.host.push(|state, _| {
        state.context.esr_el2 = trap(SysReg::CNTP_TVAL_EL0, 7, true);
        Exit::Sync
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(7), 2000);
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(*vmm.host.timer.lock().unwrap(), Some(3000));
}

#[test]
fn eventfds_in_and_out() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let event = vmm.host.add_eventfd(5);
    let irqfd = abi::Irqfd { fd: 5, gsi: 8, ..Default::default() };
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &irqfd), Err(Errno::EAGAIN));
    let _gic = vmm.gic(&vm);
    vcpu.core().state.lock().open();
    let vgic = vm.vgic().unwrap();
    vgic.mmio_write(0, vgic::Region::Dist, 0, 4, 2);
    vgic.mmio_write(0, vgic::Region::Dist, 0x104, 4, 1 << 8);
    // Edge-triggered.
    vgic.mmio_write(0, vgic::Region::Dist, 0xc08, 4, 2 << 16);
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &irqfd), Ok(0));
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &irqfd), Err(Errno::EBUSY));
    let bad = abi::Irqfd { fd: 6, ..irqfd };
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &bad), Err(Errno::EBADF));
    let bad = abi::Irqfd { flags: abi::IRQFD_FLAG_RESAMPLE, ..irqfd };
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &bad), Err(Errno::EINVAL));
    vmm.host.push(move |_, _| {
        event.signal(1);
        Exit::Interrupt
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.lrs.in_use().first().map(|lr| *lr as u32), Some(40));
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(*vmm.host.kicks.lock().unwrap(), [0], "it was in the guest");
    let off = abi::Irqfd { flags: abi::IRQFD_FLAG_DEASSIGN, ..irqfd };
    assert_eq!(vmm.on_vm(&vm, ioctl::IRQFD, &off), Ok(0));
    assert!(vmm.host.eventfds.lock().unwrap()[&5].queue.is_empty());

    let bell = vmm.host.add_eventfd(9);
    let io =
        abi::Ioeventfd { datamatch: 3, addr: 0xa00_0050, len: 4, fd: 9, flags: 1, pad: [0; 9] };
    assert_eq!(vmm.on_vm(&vm, ioctl::IOEVENTFD, &io), Ok(0));
    assert_eq!(vmm.on_vm(&vm, ioctl::IOEVENTFD, &io), Err(Errno::EEXIST));
    for bad in [
        abi::Ioeventfd { len: 3, ..io },
        abi::Ioeventfd { len: 0, ..io },
        abi::Ioeventfd { flags: 8, ..io },
        abi::Ioeventfd { addr: u64::MAX, ..io },
    ] {
        assert_eq!(vmm.on_vm(&vm, ioctl::IOEVENTFD, &bad), Err(Errno::EINVAL));
    }
    let ring = |value: u64| {
        move |state: &mut VcpuState, _: &Entry<'_>| {
            state.context.set_x(2, value);
            abort(state, dabt(2, 2, true, 7), 0xa00_0050)
        }
    };
    vmm.host.push(ring(3));
    vmm.host.push(ring(4));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_MMIO);
    assert_eq!(word(&vcpu, offset::MMIO_DATA), 4);
    assert!(bell.take());
    let off = abi::Ioeventfd { flags: 5, ..io };
    assert_eq!(vmm.on_vm(&vm, ioctl::IOEVENTFD, &off), Ok(0));
    assert_eq!(vmm.on_vm(&vm, ioctl::IOEVENTFD, &off), Err(Errno::ENOENT));
}

#[test]
fn devices_are_made_once() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let create = |type_, flags| abi::CreateDevice { type_, fd: 0, flags };
    assert_eq!(vmm.on_vm(&vm, ioctl::CREATE_DEVICE, &create(7, 1)), Ok(0));
    assert_eq!(vmm.on_vm(&vm, ioctl::CREATE_DEVICE, &create(5, 1)), Err(Errno::ENODEV));
    assert_eq!(vmm.on_vm(&vm, ioctl::CREATE_DEVICE, &create(0, 0)), Err(Errno::ENODEV));
    let vcpu = vmm.ready(&vm, 0);
    let device = vmm.gic(&vm);
    assert_eq!(vmm.on_vm(&vm, ioctl::CREATE_DEVICE, &create(7, 0)), Err(Errno::EEXIST));
    assert_eq!(vmm.vcpu(&vm, 1).err(), Some(Errno::EBUSY));
    // ICC_PMR_EL1, by MPIDR 0.
    vmm.user.write_obj(USER + 256, &0xf0u64).unwrap();
    vmm.attr(&device, abi::vgic::GRP_CPU_SYSREGS, 0xc230).unwrap();
    assert_eq!(vcpu.core().state.lock().lrs.vmcr >> 24, 0xf0);
    // Without frames it doesn't run.
    let other = vmm.vm();
    let vcpu = vmm.ready(&other, 0);
    let at = vmm.put(&create(7, 0));
    assert!(other.ioctl(&mut vmm.regime, &vmm.user, ioctl::CREATE_DEVICE, at).is_ok());
    assert_eq!(errno(vmm.run(&vcpu)), Errno::ENXIO);
}

#[test]
fn fast_answers_need_no_host() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let other = vmm.ready(&vm, 1);
    let _gic = vmm.gic(&vm);
    let other_core = other.core().clone();
    vmm.host.push(move |state, entry| {
        let context = &mut state.context;
        context.pc = 0x1000;
        // An unknown call, SMCCC_VERSION, one that isn't fast.
        for (function, x0, how) in [
            (0xdead_beef, u64::MAX, Fast::Resume),
            (0x8000_0000, 0x1_0001, Fast::Resume),
            (0x8400_0008, 0x8400_0008, Fast::NeedsHost),
        ] {
            context.esr_el2 = u64::from(ec::HVC64) << 26 | IL;
            context.set_x(0, function);
            assert_eq!(fast(context, entry), how);
            assert_eq!((context.x(0), context.pc), (x0, 0x1000));
        }
        // AFFINITY_INFO of the second vCPU, of none.
        for (target, answer) in [(other_core.mpidr() & psci::MPIDR_AFFINITY, 0), (9, u64::MAX - 1)]
        {
            context.set_x(0, 0xc400_0004);
            context.set_x(1, target);
            context.set_x(2, 0);
            assert_eq!(fast(context, entry), Fast::Resume);
            assert_eq!((context.x(0), context.pc), (answer, 0x1000));
        }
        // Four results: the vendor's UID; TRNG_RND needs the host's entropy.
        context.set_x(0, 0x8600_ff01);
        assert_eq!(fast(context, entry), Fast::Resume);
        assert_eq!(context.regs[..4], [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]);
        context.set_x(0, 0x8400_0053);
        context.set_x(1, 32);
        assert_eq!(fast(context, entry), Fast::NeedsHost);
        // ID_AA64PFR0_EL1.
        context.esr_el2 = trap(SysReg::new(3, 0, 0, 4, 0), 3, true);
        assert_eq!(fast(context, entry), Fast::Resume);
        assert_eq!((context.x(3), context.pc), (entry.snapshot.id.get(4, 0), 0x1004));
        // GICD_TYPER, then a write and a pending register, which aren't fast.
        context.esr_el2 = dabt(2, 4, false, 7);
        context.hpfar_el2 = (GICD >> 12) << 4;
        context.far_el2 = 4;
        assert_eq!(fast(context, entry), Fast::Resume);
        assert_eq!(context.x(4) & 0x1f, 7);
        context.esr_el2 = dabt(2, 4, true, 7);
        assert_eq!(fast(context, entry), Fast::NeedsHost);
        context.esr_el2 = dabt(2, 4, false, 7);
        context.far_el2 = 0x200;
        assert_eq!(fast(context, entry), Fast::NeedsHost);
        // An SGI to a vCPU that is in the guest, one to one that isn't, to oneself.
        context.esr_el2 = trap(SysReg::ICC_SGI1R_EL1, 5, false);
        context.set_x(5, 1 << 24 | 2);
        other_core.enter_mode(1);
        assert_eq!(fast(context, entry), Fast::Resume);
        other_core.leave_mode();
        context.set_x(5, 2 << 24 | 2);
        assert_eq!(fast(context, entry), Fast::Done);
        entry.vcpus.wake_sleepers();
        context.set_x(5, 1 << 24 | 1);
        assert_eq!(fast(context, entry), Fast::Refill);
        assert!(entry.core.gic_has_news());
        state.refill(entry.core, |_| panic!("no timer's line is up"));
        assert!(!entry.core.gic_has_news() && !entry.core.has_requests());
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(*vmm.host.kicks.lock().unwrap(), [1]);
}

#[test]
fn undefined_instructions_are_the_guests() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    vmm.host.push(|state, _| {
        state.context.pc = 0x4000;
        state.context.set_el1(El1::VBAR_EL1, 0x8_0000);
        // PMCR_EL0, without a PMU.
        state.context.esr_el2 = trap(SysReg::new(3, 3, 9, 12, 0), 1, true);
        Exit::Sync
    });
    vmm.host.push(|state, _| {
        assert_eq!((state.context.pc, state.context.el1(El1::ELR_EL1)), (0x8_0200, 0x4000));
        // OSLAR_EL1 locks, OSLSR_EL1 tells.
        state.context.set_x(1, 1);
        state.context.esr_el2 = trap(SysReg::OSLAR_EL1, 1, false);
        Exit::Sync
    });
    vmm.host.push(|state, _| {
        state.context.esr_el2 = trap(SysReg::OSLSR_EL1, 2, true);
        Exit::Sync
    });
    vmm.host.push(|state, _| {
        assert_eq!(state.context.x(2), 10);
        // A debugger's breakpoint in the host would be news.
        state.context.esr_el2 = u64::from(ec::BRK64) << 26;
        Exit::Sync
    });
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_INTERNAL_ERROR);
}

#[test]
fn another_thread_waits_for_its_turn() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let again = vcpu.clone();
    vmm.host.push(move |_, _| {
        let mut regime = HostRegime::hosted();
        let done = again.ioctl(&mut regime, &User::new(), ioctl::GET_MP_STATE, USER);
        assert!(matches!(done, Ok(Done::Wait)));
        assert!(matches!(again.run(&mut regime), Ok(Done::Wait)));
        Exit::Interrupt
    });
    let offset = abi::ArmCounterOffset { counter_offset: 5, reserved: 0 };
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.on_vm(&vm, ioctl::ARM_SET_COUNTER_OFFSET, &offset), Ok(0));
    assert_eq!(vmm.get(&vcpu, reg::TIMER_CNT), Ok(995));
}

#[test]
fn another_process_may_not_touch_it() {
    // A child has the descriptors by fork, but not the memory.
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let gic = vmm.gic(&vm);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    vmm.host.elsewhere.store(true, Ordering::Relaxed);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EIO);
    let busy = vcpu.ioctl(&mut vmm.regime, &vmm.user, ioctl::RUN, 1);
    assert_eq!(errno(busy), Errno::EIO);
    assert_eq!(vmm.get(&vcpu, reg::PSCI_VERSION), Err(Errno::EIO));
    assert_eq!(vmm.memory(&vm, 0, 0, 0x1000, 0x1000, 0), Err(Errno::EIO));
    assert_eq!(vmm.attr(&gic, abi::vgic::GRP_CTRL, 0), Err(Errno::EIO));
}

#[test]
fn what_a_vmm_restores_is_taken() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    // Linux on a CPU with FEAT_RAS says has_esr even where nothing is pending.
    let none = abi::VcpuEvents { serror_has_esr: 1, ..Default::default() };
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_VCPU_EVENTS, &none), Ok(0));
    let with_esr = abi::VcpuEvents { serror_pending: 1, serror_has_esr: 1, ..Default::default() };
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_VCPU_EVENTS, &with_esr), Err(Errno::EINVAL));
    // A virtual SError ends WFI, masked or not.
    let wfi = |state: &mut VcpuState, _: &Entry<'_>| {
        state.context.esr_el2 = u64::from(ec::WFX) << 26 | IL;
        Exit::Sync
    };
    vmm.host.push(wfi);
    assert!(matches!(vmm.run(&vcpu), Ok(Done::Wait)));
    let serror = abi::VcpuEvents { serror_pending: 1, ..Default::default() };
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_VCPU_EVENTS, &serror), Ok(0));
    vmm.host.push(wfi);
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
}

#[test]
fn a_reset_forgets_who_was_turned_on() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let first = vmm.ready(&vm, 0);
    let second = vmm.vcpu(&vm, 1).unwrap();
    vmm.init(&second, 4 | 1).unwrap();
    // CPU_ON, and the machine is reset before the other runs.
    vmm.host.push(|state, _| hvc(state, [0xc400_0003, 1, 0xdead_0000, 7]));
    assert_eq!(errno(vmm.run(&first)), Errno::EINTR);
    vmm.init(&second, 4).unwrap();
    let pc = reg::core_reg(reg::SIZE_U64, reg::core::PC);
    vmm.set(&second, pc, 0x8000_0000).unwrap();
    vmm.host.push(|state, _| {
        assert_eq!((state.context.pc, state.context.x(0)), (0x8000_0000, 0));
        Exit::Interrupt
    });
    assert_eq!(errno(vmm.run(&second)), Errno::EINTR);
}

#[test]
fn nobody_is_turned_on_when_the_vms_life_is_over() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let first = vmm.ready(&vm, 0);
    let second = vmm.ready(&vm, 1);
    // The life ends while the first one's CPU_ON of the second is under way.
    let ended = vm.clone();
    vmm.host.push(move |state, _| {
        ended.stop();
        hvc(state, [0xc400_0003, 1, 0xdead_0000, 7])
    });
    for _ in 0..2 {
        assert!(matches!(vmm.run(&first), Ok(Done::Wait)));
        assert!(matches!(vmm.run(&second), Ok(Done::Wait)));
    }
}

#[test]
fn who_is_asked_all_the_time_still_sees_signals() {
    // Other vCPUs send interrupts faster than they are put in list registers:
    // the CPU must not stay in there with interrupts masked.
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let _gic = vmm.gic(&vm);
    vmm.host.pestered.store(true, Ordering::Relaxed);
    let mut windows = 3;
    *vmm.host.in_window.lock().unwrap() = Some(Box::new(move |host| {
        windows -= 1;
        host.signal.store(windows == 0, Ordering::Relaxed);
    }));
    vcpu.core().timer_due();
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vmm.host.windows.load(Ordering::Relaxed), 3);
    // Once they stop, the guest runs.
    vmm.host.pestered.store(false, Ordering::Relaxed);
    *vmm.host.in_window.lock().unwrap() = None;
    vmm.host.push(|state, _| hvc(state, [0x8400_0008, 0, 0, 0]));
    assert_eq!(value(vmm.run(&vcpu)).unwrap(), 0);
}

#[test]
fn suspended_vcpus_wake() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let enable = abi::EnableCap { cap: cap::ARM_SYSTEM_SUSPEND, ..Default::default() };
    assert_eq!(vmm.on_vm(&vm, ioctl::ENABLE_CAP, &enable), Ok(0));
    vmm.host.push(|state, _| hvc(state, [0xc400_000e, 0x1000, 2, 0]));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(half(&vcpu, offset::SYSTEM_EVENT_TYPE), page::SYSTEM_EVENT_SUSPEND);
    let suspended = abi::MpState { mp_state: abi::MP_STATE_SUSPENDED };
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_MP_STATE, &suspended), Ok(0));
    assert!(matches!(vmm.run(&vcpu), Ok(Done::Wait)));
    {
        let mut state = vcpu.core().state.lock();
        state.context.timer.cntv_ctl = 1;
        state.context.timer.cntv_cval = 0;
    }
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(half(&vcpu, offset::SYSTEM_EVENT_TYPE), page::SYSTEM_EVENT_WAKEUP);
    let bad = abi::MpState { mp_state: 3 };
    assert_eq!(vmm.on_vcpu(&vcpu, ioctl::SET_MP_STATE, &bad), Err(Errno::EINVAL));
}

struct Unpark(std::thread::Thread);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Two vCPUs on two threads send an SGI to and fro, each waiting in WFI. Any
/// wake-up that gets lost stops it.
#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u64 = 3000;
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpus = [vmm.ready(&vm, 0), vmm.ready(&vm, 1)];
    let _gic = vmm.gic(&vm);
    for vcpu in &vcpus {
        vcpu.core().state.lock().open();
    }
    let vgic = vm.vgic().unwrap();
    vgic.mmio_write(0, vgic::Region::Dist, 0, 4, 2);
    let rounds = Arc::new(core::sync::atomic::AtomicU64::new(0));
    let counted = rounds.clone();
    let _ = vmm.host.guest.set(Box::new(move |state, entry| {
        let mut send = 0;
        if counted.load(Ordering::Relaxed) == 0 && entry.core.id == 0 {
            counted.store(1, Ordering::Relaxed);
            send = 1;
        }
        let used = state.lrs.in_use().len();
        for lr in &mut state.lrs.lr[..used] {
            if *lr & vgic::ICH_LR_PENDING != 0 {
                // Acknowledged and ended.
                *lr &= !(vgic::ICH_LR_PENDING | vgic::ICH_LR_ACTIVE);
                send += 1;
                if counted.fetch_add(1, Ordering::Relaxed) >= ROUNDS {
                    return hvc(state, [0x8400_0008, 0, 0, 0]);
                }
            }
        }
        assert!(send <= 1, "one ball");
        if send == 1 {
            state.context.set_x(5, 3 << 24 | 2 >> entry.core.id);
            state.context.esr_el2 = trap(SysReg::ICC_SGI1R_EL1, 5, false);
            match fast(&mut state.context, entry) {
                // There is more to do before WFI, as in an interrupt handler
                // that is interrupted: WFI comes at the next entry.
                Fast::Done => return Exit::Done,
                Fast::Resume => {}
                Fast::Refill => {
                    state.refill(entry.core, |_| 0);
                }
                Fast::NeedsHost => panic!("SGIs are fast"),
            }
        }
        if entry.core.has_requests() {
            // The kick is taken before anything else.
            return Exit::Interrupt;
        }
        state.context.esr_el2 = u64::from(ec::WFX) << 26 | IL;
        Exit::Sync
    }));
    let threads = vcpus.map(|vcpu| {
        let host = vmm.host.clone();
        std::thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let (mut regime, user) = (HostRegime::hosted(), User::new());
            vcpu.wait_queue().register(&waker).unwrap();
            let done = loop {
                match vcpu.ioctl(&mut regime, &user, ioctl::RUN, 0) {
                    Ok(Done::Wait) => std::thread::park_timeout(std::time::Duration::from_secs(20)),
                    done => break done,
                }
            };
            vcpu.wait_queue().unregister(&waker);
            // The other is stopped: a signal ends it.
            host.signal.store(true, Ordering::Relaxed);
            for core in vcpu.vm().vcpus().iter() {
                core.wait_queue().wake_all();
            }
            done.map(|_| ())
        })
    });
    let begun = std::time::Instant::now();
    let ends: Vec<_> = threads.map(|thread| thread.join().unwrap()).into_iter().collect();
    assert!(ends.contains(&Ok(())) && ends.contains(&Err(Errno::EINTR)), "{ends:?}");
    assert!(rounds.load(Ordering::Relaxed) > ROUNDS);
    assert!(begun.elapsed().as_secs() < 15, "a wake-up was lost and the time-out saved it");
}

const REQUESTS: [u32; 36] = [
    ioctl::GET_API_VERSION,
    ioctl::CHECK_EXTENSION,
    ioctl::GET_VCPU_MMAP_SIZE,
    ioctl::GET_DIRTY_LOG,
    ioctl::SET_USER_MEMORY_REGION,
    ioctl::SET_USER_MEMORY_REGION2,
    ioctl::CREATE_IRQCHIP,
    ioctl::IRQ_LINE,
    ioctl::SET_GSI_ROUTING,
    ioctl::IRQFD,
    ioctl::IOEVENTFD,
    ioctl::SIGNAL_MSI,
    ioctl::ARM_SET_DEVICE_ADDR,
    ioctl::ARM_PREFERRED_TARGET,
    ioctl::ARM_SET_COUNTER_OFFSET,
    ioctl::ARM_GET_REG_WRITABLE_MASKS,
    ioctl::CREATE_DEVICE,
    ioctl::ENABLE_CAP,
    ioctl::SET_DEVICE_ATTR,
    ioctl::GET_DEVICE_ATTR,
    ioctl::HAS_DEVICE_ATTR,
    ioctl::RUN,
    ioctl::SET_SIGNAL_MASK,
    ioctl::GET_MP_STATE,
    ioctl::SET_MP_STATE,
    ioctl::SET_GUEST_DEBUG,
    ioctl::GET_VCPU_EVENTS,
    ioctl::SET_VCPU_EVENTS,
    ioctl::GET_ONE_REG,
    ioctl::SET_ONE_REG,
    ioctl::ARM_VCPU_INIT,
    ioctl::GET_REG_LIST,
    ioctl::ARM_VCPU_FINALIZE,
    ioctl::GET_STATS_FD,
    ioctl::CREATE_VCPU,
    ioctl::REGISTER_COALESCED_MMIO,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random requests with random structures on all kinds of descriptors,
    /// and random exits: answers, not panics.
    #[test]
    fn nothing_panics(
        calls in proptest::collection::vec(
            (0usize..4, 0usize..REQUESTS.len(), any::<u32>(), proptest::collection::vec(any::<u8>(), 96), 0u64..0x10200),
            1..40,
        ),
        exits in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<[u64; 4]>()), 0..40),
        gic: bool,
    ) {
        let _ram = sim::ram(32);
        let mut vmm = Vmm::new();
        vmm.host.add_eventfd(0);
        let vm = vmm.vm();
        let vcpu = vmm.ready(&vm, 0);
        let device = gic.then(|| vmm.gic(&vm));
        for (esr, ipa, args) in exits {
            vmm.host.push(move |state, entry| {
                hvc(state, args);
                abort(state, esr & 0xffff_ffff, ipa >> 20);
                match fast(&mut state.context, entry) {
                    Fast::Resume => Exit::Interrupt,
                    Fast::Refill => {
                        state.refill(entry.core, |_| 0);
                        Exit::Interrupt
                    }
                    Fast::Done => Exit::Done,
                    Fast::NeedsHost => Exit::Sync,
                }
            });
        }
        for (which, request, raw, bytes, near) in calls {
            vmm.host.signal.store(false, Ordering::Relaxed);
            // Mostly well-formed: small numbers in the words.
            let mut bytes = bytes;
            if raw & 1 == 0 {
                bytes.iter_mut().enumerate().for_each(|(at, byte)| {
                    *byte = if at % 4 == 0 { *byte % 9 } else { 0 };
                });
            }
            let arg = if raw & 6 == 0 { near } else { USER + (near & 0x7ff8) };
            vmm.user.0.lock().unwrap()[(arg.max(USER) - USER) as usize & 0x7ff8..][..96]
                .copy_from_slice(&bytes);
            let request = if raw & 0x70 == 0 { raw } else { REQUESTS[request] };
            let (regime, user) = (&mut vmm.regime, &vmm.user);
            let _ = match (which, &device) {
                (0, _) => vmm.kvm.ioctl(regime, user, request, arg),
                (1, _) => vm.ioctl(regime, user, request, arg),
                (2, Some(device)) => device.ioctl(regime, user, request, arg),
                _ => vcpu.ioctl(regime, user, request, if request == ioctl::RUN { 0 } else { arg }),
            };
        }
    }
}

/// A thread that waits in the kernel and keeps its CPU is interrupted there.
#[test]
fn who_sleeps_on_its_cpu_is_kicked_there() {
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let core = vcpu.core();
    assert_eq!(core.timer_due(), None);
    core.take_requests();
    core.sleep_mode(3);
    assert_eq!(core.timer_due(), Some(3));
    core.ask(&*vmm.host, crate::vcpu::request::POWER);
    assert_eq!(*vmm.host.kicks.lock().unwrap(), [3]);
    // Once is enough.
    core.ask(&*vmm.host, crate::vcpu::request::POWER);
    assert_eq!(*vmm.host.kicks.lock().unwrap(), [3]);
    assert!(core.has_requests());
    core.leave_mode();
}

/// In the guest's world only news of interrupts are taken, and a kick after that
/// comes as another interrupt.
#[test]
fn news_are_taken_alone() {
    use crate::vcpu::request;
    let _ram = sim::ram(8);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let core = vcpu.core();
    core.take_requests();
    core.enter_mode(1);
    assert!(!core.take_news());
    core.ask(&*vmm.host, request::VGIC);
    assert!(core.take_news());
    assert!(!core.has_requests());
    core.ask(&*vmm.host, request::VGIC | request::POWER);
    assert_eq!(*vmm.host.kicks.lock().unwrap(), [1, 1]);
    assert!(!core.take_news());
    assert_eq!(core.take_requests(), request::VGIC | request::POWER);
    core.leave_mode();
}

/// A vCPU's thread where there is no VMM; to sleep, there must be a wake-up.
struct Thread<'a> {
    vmm: &'a mut Vmm,
    vcpu: &'a Vcpu,
    over: Arc<core::sync::atomic::AtomicBool>,
    woken: Arc<Woken>,
    exits: Vec<u32>,
}

impl Driver for Thread<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn run(&mut self) -> Result<Done> {
        self.vcpu.run(&mut self.vmm.regime)
    }

    fn wait(&mut self) {
        assert_ne!(self.woken.0.swap(0, Ordering::SeqCst), 0, "it would sleep for good");
    }

    fn exited(&mut self, result: Result<Done>) {
        value(result).unwrap();
        self.exits.push(reason(self.vcpu));
    }
}

/// The other vCPU resets the VM, at each point of this one's run.
#[test]
fn a_vcpu_ends_whenever_its_vm_does() {
    let _ram = sim::ram(32);
    for point in 0..4 {
        let mut vmm = Vmm::new();
        let vm = vmm.vm();
        let vcpu = vmm.ready(&vm, 0);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        vcpu.wait_queue().register(&waker).unwrap();
        let over = Arc::new(core::sync::atomic::AtomicBool::new(false));
        let (end, ended) = (over.clone(), vm.clone());
        let reset = move || {
            // As SYSTEM_RESET does, before the thread that called it says so.
            ended.stop();
            end.store(true, Ordering::SeqCst);
            ended.stop();
        };
        match point {
            // Before it ran; in the guest; in a window; where the VMM would look.
            0 => reset(),
            1 => vmm.host.push(move |_, _| {
                reset();
                Exit::Interrupt
            }),
            2 => {
                vmm.host.push(|_, _| Exit::Interrupt);
                let mut reset = Some(reset);
                let window: Window = Box::new(move |_| {
                    if let Some(reset) = reset.take() {
                        reset();
                    }
                });
                *vmm.host.in_window.lock().unwrap() = Some(window);
            }
            _ => {
                vmm.host.push(|state, _| abort(state, dabt(2, 1, false, 6), 0x1000));
                vmm.host.push(move |_, _| {
                    reset();
                    Exit::Done
                });
            }
        }
        let mut thread = Thread { vmm: &mut vmm, vcpu: &vcpu, over, woken, exits: Vec::new() };
        drive(&mut thread);
        assert_eq!(thread.exits.len(), usize::from(point == 3));
        vcpu.wait_queue().unregister(&waker);
    }
}

#[test]
fn a_device_is_passed_through_page_by_page() {
    let _ram = sim::ram(32);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let device = paging::GuestDevice::hosted(0x0a00_0000, 0x2000).unwrap();
    assert_eq!(vm.pass_through(0x1234, device), Err(Errno::EINVAL));
    vm.pass_through(0x0b00_0000, device).unwrap();
    vmm.host.push(|state, _| abort(state, dabt(2, 1, true, 7), 0x0b00_1008));
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(0x0b00_1000), Some((0x0a00_1000, 0x1000, true)));
    assert_eq!(vm.memory.lookup(0x0b00_0000), None);
    // Behind its end there is nothing.
    vmm.host.push(|state, _| abort(state, dabt(2, 1, false, 7), 0x0b00_2000));
    assert_eq!(value(vmm.run(&vcpu)), Ok(0));
    assert_eq!(reason(&vcpu), page::EXIT_MMIO);
    // Nothing is fetched from it.
    vmm.host.push(|state, _| {
        let fetch = u64::from(ec::IABT_LOWER) << 26 | IL | 7;
        abort(state, fetch, 0x0b00_0000)
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    assert_eq!(vm.memory.lookup(0x0b00_0000), None);
}

/// As the kernel does in the guest's world, with a hardware that has what is written.
#[test]
fn an_sgi_to_oneself_needs_no_flush() {
    let _ram = sim::ram(32);
    let mut vmm = Vmm::new();
    let vm = vmm.vm();
    let vcpu = vmm.ready(&vm, 0);
    let other = vmm.ready(&vm, 1);
    let _gic = vmm.gic(&vm);
    vcpu.core().state.lock().open();
    // By the other one: who writes flushes by himself.
    vm.vgic().unwrap().mmio_write(1, vgic::Region::Dist, 0, 4, 2);
    vmm.host.push(|state, entry| {
        let pc = state.context.pc;
        let mut try_it = |value: u64| {
            state.context.set_x(5, value);
            state.context.esr_el2 = trap(SysReg::ICC_SGI1R_EL1, 5, false);
            let lr = state.lrs.lr;
            state.send_to_self(entry.core, |slot| lr[slot])
        };
        let (slot, value) = try_it(3 << 24 | 1).expect("it is enabled");
        assert_eq!((slot, value & 0x3ff), (0, 3));
        // To another, to both, to all others, to another cluster.
        for value in [3 << 24 | 2, 3 << 24 | 3, 3 << 24 | 1 << 40, 3 << 24 | 1 | 1 << 16] {
            assert_eq!(try_it(value), None);
        }
        assert_eq!(state.context.pc, pc + 4, "once");
        state.context.esr_el2 = trap(SysReg::ICC_SGI1R_EL1, 5, true);
        assert_eq!(state.send_to_self(entry.core, |_| 0), None, "a read");
        Exit::Done
    });
    assert_eq!(errno(vmm.run(&vcpu)), Errno::EINTR);
    drop(other);
}
