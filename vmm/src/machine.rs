//! A machine: the VM with everything in it, from power-on to its stop.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek};
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSubscriber, Events, SubscriberOps};
use linux_loader::loader::{KernelLoader, PE};
use vm_memory::{Bytes, GuestAddress, ReadVolatile};
use vmm_sys_util::epoll::EventSet;

use crate::args::{Console, Feature, Run};
use crate::bus::Bus;
use crate::control::{self, Control, Stop};
use crate::devices::rtc::RtcDevice;
use crate::devices::serial::SerialDevice;
use crate::error::{Context, Error, Result};
use crate::image::{self, Header};
use crate::input::{Consumer, Input};
use crate::kvm::{Host, Running, Vcpu, Vm};
use crate::layout::{self, Placement};
use crate::memory::Ram;
use crate::output::Output;
use crate::virtio::VirtioDevice;
use crate::virtio::block::Block;
use crate::virtio::console::{Console as VirtioConsole, ConsoleInput};
use crate::virtio::mmio::{QUEUE_NOTIFY, VirtioMmio};
use crate::virtio::rng::Rng;
use crate::{fdt, initrd, random};

/// How much of a kernel the header and the section table take.
const HEAD: u64 = 64 << 10;

/// What outlives a reset.
pub struct Surroundings {
    /// /dev/kvm.
    pub host: Host,
    /// Guest RAM.
    pub ram: Ram,
    /// Standard output.
    pub output: Output,
    /// Standard input.
    pub input: Arc<Input>,
    /// Where stops are announced.
    pub control: Arc<Control>,
}

/// A machine that is ready to start.
pub struct Machine {
    // Dropped first: the vCPUs go before the VM.
    vcpus: Vec<Vcpu>,
    bus: Arc<Bus>,
    virtio: Vec<Arc<VirtioMmio>>,
    // Held for `Input`, which does not keep whom it tells alive.
    _consumer: Arc<dyn Consumer>,
    _vm: Vm,
}

impl Machine {
    /// Makes the machine and loads what it boots. Guest RAM is all zero.
    pub fn new(run: &Run, around: &Surroundings) -> Result<Machine> {
        let placement = load(run, &around.ram)?;
        let (vm, vcpus) = Vm::new(&around.host, run, &around.ram)?;
        let mut bus = Bus::new();
        let on_serial = run.console == Console::Serial;
        let input = |wanted: bool| wanted.then(|| around.input.clone());

        let serial = Arc::new(SerialDevice::new(
            vm.irq(layout::SERIAL_SPI)?,
            around.output.clone(),
            input(on_serial),
        ));
        bus.insert(layout::SERIAL_BASE, layout::SERIAL_SIZE, serial.clone())?;
        bus.insert(layout::RTC_BASE, layout::RTC_SIZE, Arc::new(RtcDevice::default()))?;

        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for (index, disk) in run.disks.iter().enumerate() {
            devices.push(Box::new(Block::open(&disk.path, disk.read_only, index)?));
        }
        devices.push(Box::new(Rng));
        let console = VirtioConsole::new(around.output.clone(), input(!on_serial));
        devices.push(Box::new(console));
        let virtio = (0u32..)
            .zip(devices)
            .map(|(slot, device)| insert_virtio(&vm, &mut bus, around, slot, device))
            .collect::<Result<Vec<_>>>()?;

        let consumer: Arc<dyn Consumer> = match virtio.last() {
            Some(console) if !on_serial => Arc::new(ConsoleInput::new(console)),
            _ => serial,
        };
        around.input.attach(&consumer);

        let mpidrs = vcpus.iter().map(Vcpu::mpidr).collect::<Result<Vec<_>>>()?;
        let dtb = device_tree(run, &vm, &mpidrs, placement)?;
        write_guest(&around.ram, placement.fdt, &dtb)?;
        if let Some(path) = &run.dump_dtb {
            fs::write(path, &dtb).context(&format!("cannot write {}", path.display()))?;
        }
        if let Some(boot) = vcpus.first() {
            boot.set_entry(placement.kernel, placement.fdt)?;
        }
        Ok(Machine { vcpus, bus: Arc::new(bus), virtio, _consumer: consumer, _vm: vm })
    }

    /// Runs it to its stop. This thread serves the virtio queues meanwhile.
    pub fn run(self, control: &Arc<Control>) -> Result<Stop> {
        let mut events: EventManager<Arc<dyn EventSubscriber + Send + Sync>> =
            EventManager::new().context("epoll")?;
        for device in &self.virtio {
            events.add_subscriber(device.clone());
        }
        events.add_subscriber(Arc::new(StopWatch(control.clone())));

        let running = Running::start(self.vcpus, &self.bus, control)?;
        loop {
            // Before the wait: the signal may have come when nobody was waiting, and its event be taken.
            if let Some(signal) = control::caught_signal() {
                control.stop(Stop::Signal(signal));
            }
            if control.stopping() {
                break;
            }
            match events.run() {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                Err(e) => {
                    control.stop(Stop::Failed(Error::new(format!("waiting for events: {e}"))));
                }
            }
        }
        let stopped = running.stop();
        let stop = control.take().unwrap_or(Stop::Quit);
        if stop == Stop::Reset && !stopped {
            return Err(Error::new("a vCPU does not stop, so that the guest cannot restart"));
        }
        Ok(stop)
    }
}

/// Ends the wait for events when a stop is announced or a signal came.
struct StopWatch(Arc<Control>);

impl EventSubscriber for StopWatch {
    fn process(&self, _events: Events, _ops: &mut EventOps) {}

    fn init(&self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(self.0.event(), EventSet::IN)) {
            self.0.stop(Stop::Failed(Error::new(format!("waiting for events: {e}"))));
        }
    }
}

fn insert_virtio(
    vm: &Vm,
    bus: &mut Bus,
    around: &Surroundings,
    slot: u32,
    device: Box<dyn VirtioDevice>,
) -> Result<Arc<VirtioMmio>> {
    let base = layout::virtio_base(slot);
    let irq = vm.irq(layout::virtio_spi(slot))?;
    let device = Arc::new(VirtioMmio::new(device, around.ram.memory().clone(), irq)?);
    for (queue, kick) in (0u32..).zip(device.kicks()) {
        vm.watch(base.saturating_add(QUEUE_NOTIFY), queue, kick)?;
    }
    bus.insert(base, layout::VIRTIO_SIZE, device.clone())?;
    Ok(device)
}

fn device_tree(run: &Run, vm: &Vm, mpidrs: &[u64], placement: Placement) -> Result<Vec<u8>> {
    let mut seed = [0; 72];
    random::fill(&mut seed).context("entropy for the guest")?;
    let (kaslr_seed, rng_seed) = seed.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    fdt::build(&fdt::Machine {
        mpidrs,
        ram_size: placement.ram_end.saturating_sub(layout::RAM_BASE),
        gic: vm.gic(),
        pmu: run.features.contains(&Feature::Pmu),
        virtio_slots: run.virtio_slots()?,
        cmdline: &run.cmdline,
        initrd: placement.initrd,
        rng_seed,
        kaslr_seed: u64::from_le_bytes(*kaslr_seed),
    })
}

/// Loads kernel and initrd, and says where they are.
fn load(run: &Run, ram: &Ram) -> Result<Placement> {
    let ramdisk = match &run.initrd {
        Some(path) => {
            let file = fs::read(path).map_err(|e| unreadable("initrd", path, &e))?;
            initrd::check(&file)?;
            Some(file)
        }
        None => None,
    };
    let ramdisk_size = ramdisk.as_ref().map(|file| u64::try_from(file.len()).unwrap_or(u64::MAX));
    let place = |header: Header| {
        layout::place(ram.size(), header.text_offset, header.memory_size, ramdisk_size)
    };

    let path = &run.kernel;
    let cannot = |e: io::Error| unreadable("kernel", path, &e);
    let mut file = File::open(path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?.len();
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head).map_err(cannot)?;
    file.rewind().map_err(cannot)?;
    let placement = if image::is_gzip(&head) {
        head.clear();
        file.read_to_end(&mut head).map_err(cannot)?;
        let kernel = initrd::decompress(&head, ram.size())?;
        let size = u64::try_from(kernel.len()).unwrap_or(u64::MAX);
        let placement = place(image::parse(&kernel, size)?)?;
        load_image(ram, &mut Cursor::new(kernel))?;
        placement
    } else {
        let placement = place(image::parse(&head, size)?)?;
        load_image(ram, &mut file)?;
        placement
    };
    if let (Some(file), Some((start, _))) = (&ramdisk, placement.initrd) {
        write_guest(ram, start, file)?;
    }
    Ok(placement)
}

/// Puts an Image where its header, which was checked, says: `text_offset` behind the start of RAM.
fn load_image<F: Read + ReadVolatile + Seek>(ram: &Ram, image: &mut F) -> Result<()> {
    let start = GuestAddress(layout::RAM_BASE);
    PE::load(ram.memory(), Some(start), image, None).context("loading the kernel")?;
    Ok(())
}

fn unreadable(what: &str, path: &std::path::Path, e: &io::Error) -> Error {
    Error::new(format!("cannot read the {what} {}: {e}", path.display())).cure("check the path")
}

fn write_guest(ram: &Ram, addr: u64, bytes: &[u8]) -> Result<()> {
    ram.memory().write_slice(bytes, GuestAddress(addr)).context("writing to guest RAM")
}
