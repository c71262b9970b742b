//! VMs' consoles, on the machine's one.

use super::plan::{self, Plan};
use crate::{console, gic, log, memory, time};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Lock, rank};
use domain::layout;
use kvm::{MmioDevice, Vm};
use regime::HostRegime;
use spin::Once;
use vgic::Vgic;
use vpl011::{Input, Mux, Rate, Vpl011, register};

/// The machine's port, shared.
struct Port {
    mux: Mux,
    /// Lines of our own that were shown when the port was last written.
    log_lines: u64,
}

/// Ctrl-a, as it was typed.
const SWITCH: u8 = 1;

/// VMs' consoles, by [`Mux`]'s numbers.
static UARTS: Once<Vec<(Arc<str>, Arc<Uart>)>> = Once::new();
static PORT: Once<Lock<Port>> = Once::new();

/// One VM's console. It outlives its VM, which may start anew.
struct Uart {
    number: usize,
    state: Lock<State>,
}

struct State {
    registers: Vpl011,
    /// The interrupt's line, as the VM's controller was told.
    line: bool,
    vgic: Weak<Vgic>,
    vm: Weak<Vm>,
}

/// A console for each VM that wants one.
pub fn init(plans: &[Plan]) {
    let mut mux = Mux::new(Rate::default());
    let mut uarts = Vec::new();
    for plan in plans.iter().filter(|plan| plan.domain.console) {
        let name = plan.domain.name.as_str();
        uarts.push((Arc::from(name), Arc::new(Uart::new(mux.add(name)))));
    }
    let several = uarts.len() > 1;
    if several {
        mux.announce();
    }
    UARTS.call_once(|| uarts);
    PORT.call_once(|| Lock::new(rank::INODE, Port { mux, log_lines: log::shown() }));
    leave_exclusive_cpus(plans);
    // The others may be a VM's.
    console::enable_input(|port| console::main() == Some(port), input);
}

/// What is typed goes to a CPU that no VM has to itself, if there is one.
fn leave_exclusive_cpus(plans: &[Plan]) {
    let serials = memory::machine().map_or(&[][..], |machine| &machine.serials);
    let serial = console::main().and_then(|port| serials.get(port));
    let Some(intid) = serial.and_then(|serial| serial.intid) else { return };
    match domain::cpus::for_the_host(plan::online_cpus(), plan::exclusive_cpus(plans)) {
        // The boot CPU has it.
        Some(0) => {}
        Some(cpu) => {
            ::log::info!("Type-1: what is typed at the console interrupts CPU {cpu}");
            gic::route(intid, cpu);
        }
        None => ::log::warn!(
            "Type-1: exclusive VMs have all CPUs: what is typed at the console interrupts CPU 0"
        ),
    }
}

/// The console of a VM that starts (anew).
pub fn device(name: &str, vm: &Arc<Vm>) -> Option<Arc<dyn MmioDevice>> {
    let uart = find(name)?;
    uart.attach(vm);
    set_on(uart.number, true);
    Some(uart.clone())
}

/// The VM has ended for good.
pub fn off(name: &str) {
    if let Some(uart) = find(name) {
        set_on(uart.number, false);
    }
}

fn find(name: &str) -> Option<&'static Arc<Uart>> {
    UARTS.get()?.iter().find(|(other, _)| **other == *name).map(|(_, uart)| uart)
}

fn set_on(number: usize, on: bool) {
    if let Some(port) = PORT.get() {
        let mut port = port.lock();
        port.mux.set_on(number, on);
        port.drain();
    }
}

/// Bytes came in at the machine's port. In an interrupt handler.
fn input(_: usize, bytes: &[u8]) {
    for &byte in bytes {
        let what = PORT.get().map(|port| {
            let mut port = port.lock();
            let what = port.mux.typed(byte);
            port.drain();
            what
        });
        if let Some(Input::To { vm, before, byte }) = what
            && let Some((_, uart)) = UARTS.get().and_then(|uarts| uarts.get(vm))
        {
            for _ in 0..before {
                uart.receive(SWITCH);
            }
            uart.receive(byte);
        }
    }
}

impl Port {
    /// Writes what is to be written.
    fn drain(&mut self) {
        let shown = log::shown();
        if shown != self.log_lines {
            self.log_lines = shown;
            self.mux.interrupted();
        }
        let mut line = [0u8; 64];
        loop {
            let mut len = 0usize;
            for (slot, byte) in line.iter_mut().zip(core::iter::from_fn(|| self.mux.next())) {
                *slot = byte;
                len = len.saturating_add(1);
            }
            if len == 0 {
                return;
            }
            if let Some(port) = console::main() {
                console::write(port, line.get(..len).unwrap_or_default());
            }
        }
    }
}

impl Uart {
    fn new(number: usize) -> Uart {
        let state = State {
            registers: Vpl011::new(),
            line: false,
            vgic: Weak::new(),
            vm: Weak::new(),
        };
        Uart { number, state: Lock::new(rank::INODE, state) }
    }

    fn attach(&self, vm: &Arc<Vm>) {
        let vgic = vm.vgic().map_or_else(Weak::new, |vgic| Arc::downgrade(&vgic));
        let mut state = self.state.lock();
        state.registers.reset();
        state.line = false;
        state.vgic = vgic;
        state.vm = Arc::downgrade(vm);
    }

    /// A byte for the guest. In an interrupt handler.
    fn receive(&self, byte: u8) {
        let vm = {
            let mut state = self.state.lock();
            state.registers.receive(byte);
            state.tell();
            state.vm.upgrade()
        };
        // Dropped unlocked: it may be the last reference.
        if let Some(vm) = vm {
            vm.vcpus().wake_sleepers();
        }
    }
}

impl State {
    /// Tells the VM's interrupt controller of the line, if it has moved.
    fn tell(&mut self) {
        let line = self.registers.line();
        if line != self.line {
            self.line = line;
            if let Some(vgic) = self.vgic.upgrade() {
                // There is such an interrupt: every VM has SPI 0.
                let _ = vgic.inject_spi(layout::PL011_INTID, line);
            }
        }
    }
}

impl MmioDevice for Uart {
    /// All but the data register, which moves the interrupt's line.
    fn read_fast(&self, at: u64, _: u8) -> Option<u64> {
        if at & !3 == register::DR {
            return None;
        }
        Some(u64::from(self.state.try_lock()?.registers.read(at)))
    }

    fn read(&self, _: &HostRegime, at: u64, _: u8) -> u64 {
        let mut state = self.state.lock();
        let value = state.registers.read(at);
        state.tell();
        u64::from(value)
    }

    fn write(&self, _: &HostRegime, at: u64, _: u8, value: u64) {
        let byte = {
            let mut state = self.state.lock();
            let byte = state.registers.write(at, value as u32);
            state.tell();
            byte
        };
        if let (Some(byte), Some(port)) = (byte, PORT.get()) {
            let mut port = port.lock();
            port.mux.put(self.number, byte, time::now());
            port.drain();
        }
    }
}
