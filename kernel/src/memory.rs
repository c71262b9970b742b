//! The kernel's view of memory: its final translation tables, and the frames.
#![expect(unsafe_code, reason = "the kernel's own translation tables")]

use crate::boot::{BootPlan, take_table};
use crate::machine::{Gic, Machine, Registers};
use crate::{console, panic, stack};
use arch::map::{MapError, Mapper};
use arch::mmio::Mmio;
use arch::regime::{Attributes, Regime};
use base::PhysAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use domain::Region;
use fdt::Fdt;
use frame::RamRange;
use mode::Hypervisor;
use spin::Once;

static OFFSET: AtomicU64 = AtomicU64::new(0);
static MACHINE: Once<Machine> = Once::new();
static KERNEL_MAP: Once<KernelMap> = Once::new();

/// The kernel's own translation tables.
pub struct KernelMap {
    pub regime: Regime,
    root: u64,
}

impl KernelMap {
    /// A way to change them.
    ///
    /// # Safety
    /// Nobody else changes the same addresses' meanwhile, and `tables` gives
    /// zeroed pages of the linear map that are nobody else's.
    pub unsafe fn mapper<'a>(&self, tables: &'a mut dyn FnMut() -> Option<u64>) -> Mapper<'a> {
        // SAFETY: the tables stand in the linear map; the rest is the caller's.
        unsafe { Mapper::new(self.root, phys_to_virt(0), self.regime, tables) }
    }
}

/// The kernel's own translation tables, once boot has moved onto them.
pub fn kernel_map() -> Option<&'static KernelMap> {
    KERNEL_MAP.get()
}

/// Whether the kernel's map has something at `virt`.
pub fn is_mapped(virt: u64) -> bool {
    let mut no_tables = || None;
    // SAFETY: to look changes nothing; tables are never freed.
    kernel_map().is_some_and(|map| unsafe { map.mapper(&mut no_tables) }.lookup(virt).is_some())
}

/// Where the linear map has physical address `phys`.
pub fn phys_to_virt(phys: u64) -> u64 {
    phys.wrapping_add(OFFSET.load(Ordering::Relaxed))
}

/// The physical address behind `virt`, an address of the linear map or of the
/// Image (which is reached through the linear map).
pub fn virt_to_phys(virt: u64) -> u64 {
    virt.wrapping_sub(OFFSET.load(Ordering::Relaxed))
}

/// The machine, once boot has read the device tree.
pub fn machine() -> Option<&'static Machine> {
    MACHINE.get()
}

/// The registers of a device that [`init`] mapped.
pub fn mmio(registers: Registers) -> Mmio {
    // SAFETY: `init` maps every device of `Machine` for good, as Device memory;
    // none of them (UART, GIC) does DMA except the GIC's LPI tables, which
    // are not used.
    unsafe { Mmio::new(phys_to_virt(registers.base), registers.len) }
}

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;

    /// head.s: puts the tables at `root` in the place of the kernel's map, with
    /// the MMU off in between.
    fn __replace_map(regime: u64, root: u64, offset: u64);
}

/// Where the Image lies, virtual: start, end of text, end of constants, end.
pub fn image() -> [u64; 4] {
    [
        (&raw const __image_start) as u64,
        (&raw const __text_end) as u64,
        (&raw const __rodata_end) as u64,
        (&raw const __image_end) as u64,
    ]
}

/// Reads the machine, builds the final map, moves onto it, and hands the RAM
/// to the frame allocator. Once, on the boot CPU.
pub fn init(plan: &mut BootPlan, device_tree: u64, tree: &Option<Fdt<'_>>) -> &'static Machine {
    OFFSET.store(plan.offset, Ordering::Relaxed);
    // Without a device tree there is nowhere to say so.
    let Some(tree) = tree else { crate::power::hang() };
    let tree_at = RamRange::new(device_tree & !0xfff, (tree.data().len() as u64).saturating_add(0x1fff) & !0xfff);
    let mut machine = Machine::from_tree(tree, tree_at);
    machine.tree_address = device_tree;
    crate::log::set(&machine.arguments);
    speak_early(plan, &machine);
    let [start, _, _, end] = image().map(virt_to_phys);
    let image = RamRange::new(start, end.wrapping_sub(start));
    machine.settle(image);
    machine.reserved.push(image);
    if plan.choice.hypervisor == Hypervisor::Type1 {
        machine.reserve_domains(tree, image);
    }

    let Some(root) = take_table() else { panic::fatal(format_args!("no room for the kernel's map")) };
    if let Err(error) = map_all(plan, root, &machine) {
        panic::fatal(format_args!("the kernel's map can't be built: {error:?}"));
    }
    // SAFETY: the new tables map the Image, its stack and data as the old did
    // (text becomes read-only, data not executable), and all RAM; the identity
    // map of boot still holds the Image.
    unsafe {
        __replace_map(plan.regime as u64, root, plan.offset);
        if plan.regime == Regime::El2 {
            plan.ttbr0 = root;
        } else {
            plan.ttbr1 = root;
        }
        frame::init(plan.offset, &machine.memory, &machine.reserved)
            .unwrap_or_else(|_| panic::fatal(format_args!("there is no RAM that could be used")));
    }
    KERNEL_MAP.call_once(|| KernelMap { regime: plan.regime, root });
    if plan.regime != Regime::El2 {
        close_lower_half();
    }
    MACHINE.call_once(|| machine)
}

/// The physical address of a translation table that maps nothing.
pub fn empty_table() -> u64 {
    static EMPTY: Once<u64> = Once::new();
    *EMPTY.call_once(|| take_table().unwrap_or(0))
}

/// Points TTBR0 at an empty table: nothing below the upper half is mapped until
/// a process is.
pub fn close_lower_half() {
    // SAFETY: the kernel runs in the upper half.
    unsafe { arch::host::set_ttbr0(empty_table()) };
    arch::barrier::isb();
    arch::tlb::flush_all();
}

/// Maps a port in boot's tables, so that what goes wrong from here on can be told.
fn speak_early(plan: &BootPlan, machine: &Machine) {
    let Some(registers) = machine.first_port().map(|port| port.registers) else { return };
    let root = if plan.regime == Regime::El2 { plan.ttbr0 } else { plan.ttbr1 };
    let (start, len) = whole_pages(&registers);
    let mut pages = take_table;
    // SAFETY: boot's tables stand in the Image's bss, which they map.
    let mut mapper = unsafe { Mapper::new(root, plan.offset, plan.regime, &mut pages) };
    if mapper.map(phys_to_virt(start), start, len, Attributes::Device).is_ok() {
        // The walks of this CPU see the new entries (Arm ARM D8.2.6).
        arch::barrier::dsb_ishst();
        arch::barrier::isb();
        console::early(machine);
    }
}

/// The pages that a device's registers are in.
fn whole_pages(registers: &Registers) -> (u64, u64) {
    let start = registers.base & !0xfff;
    let end = registers.base.wrapping_add(registers.len).wrapping_add(0xfff) & !0xfff;
    (start, end.wrapping_sub(start))
}

fn map_all(plan: &BootPlan, root: u64, machine: &Machine) -> Result<(), MapError> {
    let mut pages = take_table;
    // SAFETY: the pages come from the Image's bss, mapped since boot.
    let mut mapper = unsafe { Mapper::new(root, plan.offset, plan.regime, &mut pages) };
    let mut map = |start: u64, end: u64, attributes| {
        let (start, end) = (start & !0xfff, end.wrapping_add(0xfff) & !0xfff);
        mapper.map(phys_to_virt(start), start, end.wrapping_sub(start), attributes)
    };
    let [start, text_end, rodata_end, end] = image().map(virt_to_phys);
    map(start, text_end, Attributes::Code)?;
    map(text_end, rodata_end, Attributes::ReadOnly)?;
    let (guard, stack) = stack::boot_guard();
    map(rodata_end, virt_to_phys(guard), Attributes::Data)?;
    map(virt_to_phys(stack), end, Attributes::Data)?;
    for range in &machine.memory {
        // The Image is mapped already: RAM is what lies around it.
        let (from, to) = (range.start.get(), range.end());
        if from < end && start < to {
            map(from, start.max(from), Attributes::Data)?;
            map(end.min(to), to, Attributes::Data)?;
        } else {
            map(from, to, Attributes::Data)?;
        }
    }
    let mut device = |registers: &Registers| {
        // Two devices may share a page.
        match map(registers.base, registers.base.wrapping_add(registers.len), Attributes::Device) {
            Err(MapError::Occupied) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    };
    for serial in machine.serials.iter().chain(&machine.early) {
        device(&serial.registers)?;
    }
    if let Some(rtc) = &machine.rtc {
        device(rtc)?;
    }
    match &machine.gic {
        Some(Gic::V3 { distributor, redistributors }) => {
            device(distributor)?;
            for region in redistributors {
                device(region)?;
            }
        }
        Some(Gic::V2 { distributor, cpu, hypervisor, guest: _ }) => {
            device(distributor)?;
            device(cpu)?;
            if let Some(hypervisor) = hypervisor {
                device(hypervisor)?;
            }
        }
        None => {}
    }
    Ok(())
}

/// The device tree, where the boot loader put it.
pub fn device_tree() -> Option<Fdt<'static>> {
    let machine = machine()?;
    // SAFETY: `init` reserved its frames, which stay in the linear map; nobody
    // writes to them.
    unsafe { crate::machine::read(machine.tree_address, OFFSET.load(Ordering::Relaxed)) }
}

/// What the boot loader put at `region` for a virtual machine. In Type-1 mode
/// alone, and only for what the device tree names so.
pub fn module(region: Region) -> Option<&'static [u8]> {
    let start = PhysAddr::new(region.start);
    let machine = machine()?;
    let within = |ram: &RamRange| ram.start <= start && region.end() <= ram.end();
    let reserved = machine.reserved.iter().any(within);
    if !reserved || !machine.memory.iter().any(within) {
        return None;
    }
    let start = phys_to_virt(region.start) as usize;
    // SAFETY: in RAM, which the linear map covers; reserved, so nobody's; and
    // nobody writes to it (what a device tree gives to guests is no module:
    // `domain::claims`).
    Some(unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start), region.size as usize)
    })
}

/// The initrd, in the linear map, until [`release_initrd`].
pub fn initrd() -> Option<&'static [u8]> {
    let range = machine()?.initrd?;
    if INITRD_RELEASED.load(Ordering::Relaxed) {
        return None;
    }
    let start = phys_to_virt(range.start.get()) as usize;
    // SAFETY: the boot loader put it there, `init` reserved its frames, and
    // nobody writes to them until they are released; only boot calls this, and
    // is done with it before.
    Some(unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start), range.size as usize)
    })
}

static INITRD_RELEASED: AtomicBool = AtomicBool::new(false);

/// Gives the initrd's memory to the frame allocator. Boot calls it once it is
/// done with what [`initrd`] gave.
pub fn release_initrd() {
    if let Some(range) = machine().and_then(|machine| machine.initrd)
        && !INITRD_RELEASED.swap(true, Ordering::Relaxed)
    {
        // SAFETY: reserved at `init`, released once, unused from here on.
        unsafe { frame::release(range) };
    }
}

/// Says in the log what there is.
pub fn report() {
    if let Some(lost) = machine().and_then(|machine| machine.lost_initrd) {
        log::error!("The initrd at {:#x}..{:#x} is not in RAM: ignored", lost.start.get(), lost.end());
    }
    let stats = frame::stats();
    log::info!(
        "Memory: {} KiB, {} KiB free, {} KiB the frame table",
        stats.total / 1024,
        stats.free / 1024,
        stats.table / 1024
    );
}
