//! What executes between two marks: exception levels and system instructions,
//! for `./x bench` and `./x trace`.
//!
//!     qemu-system-aarch64 ... -plugin libbench_plugin.so,out=FILE
//!
//! A mark is an instruction that does nothing, `movz xzr, #n`:
//!
//! | n | |
//! | --- | --- |
//! | 0x6801 | opens a window; x0 and x1 hold its name (16 characters, little-endian) |
//! | 0x6802 | the same; the window ends with the next time stamp instead of a close |
//! | 0x6803 | closes the window |
//! | 0x6804 | a time stamp was taken (an interrupt handler's third instruction) |
//! | 0x6805 | x0 and x1 hold a name: how many instructions has the machine executed so far, how often did guests exit? |
//! | 0x6806 | as 0x6802, but the window begins anew whenever all CPUs have come to rest in WFI |
//!
//! Of all windows of one name the one of the fewest instructions is kept: nothing
//! else got into that one. It is written when QEMU ends, a line for each event:
//!
//!     window NAME INSTRUCTIONS
//!     in CPU LANE INSTRUCTIONS         executed there
//!     own CPU INSTRUCTIONS             executed by it
//!     to CPU AT OWN LANE FROM          the CPU changed its exception level
//!     op CPU AT OWN LANE OPCODE        it executes a system instruction
//!     count NAME INSTRUCTIONS          executed since power-on
//!     since NAME INSTRUCTIONS          executed since a guest was first entered
//!     exit NAME VECTOR SYNDROME FUNCTION TIMES  exits from guests until then
//!     end                              the last line: nothing is missing
//!
//! VECTOR is the vector's offset, SYNDROME ESR_EL2 without what differs from one access to
//! the next (which register of the guest's), FUNCTION a call's w0. AT counts the machine's instructions since the window was opened, OWN the CPU's. Lanes: 0 EL0,
//! 1 EL1 of the host, 2 EL2, 3 EL1 of a guest, 4 EL0 of a guest.

mod current;
mod decode;
mod qemu;

use decode::*;
use qemu::*;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// A longer window is an operation that nobody wants to look at event by event.
const EVENTS: usize = 400_000;
const LANES: usize = 5;

/// The version of the interface that we are written for.
// SAFETY: QEMU looks it up by this name, and wants an int.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 4;

/// Instructions that each CPU has executed, in whole blocks. (QEMU's own way, inline
/// operations on scoreboards, crashes QEMU 10.0 with more than one CPU.)
static COUNTS: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
/// The same when the CPU last executed WFI: it still waits if they are equal.
static ASLEEP: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
/// Is a window open?
static ARMED: AtomicBool = AtomicBool::new(false);
/// Was a guest entered?
static ENTERED: AtomicBool = AtomicBool::new(false);
static STATE: Mutex<State> = Mutex::new(State::new());

struct Registers {
    x0: *mut Register,
    x1: *mut Register,
    cpsr: *mut Register,
    hcr: *mut Register,
    esr: *mut Register,
    /// SPSR_EL2.
    spsr: *mut Register,
    /// VBAR_EL2.
    vbar: *mut Register,
    /// ELR_EL1 and ELR_EL2.
    elr: [*mut Register; 2],
}

struct Cpu {
    registers: Registers,
    lane: Option<u8>,
    /// Its count of instructions when its lane was last looked at.
    seen: u64,
    /// Its count when the window was opened.
    start: u64,
    /// QEMU counts whole blocks: so many instructions of them did not execute,
    /// for an exception came before.
    cut: u64,
    /// The block that it executes, while a window is open.
    block: Option<Block>,
    lanes: [u64; LANES],
}

struct State {
    out: String,
    buffer: *mut GArray<u8>,
    /// QEMU doesn't name all registers as we do: what they say is wrong.
    blind: bool,
    cpus: Vec<Cpu>,
    window: Option<Window>,
    best: BTreeMap<String, Window>,
    counts: Vec<Count>,
    /// How often guests have exited for what.
    exits: BTreeMap<Exit, u64>,
    /// The machine's instructions when one was entered first.
    first_entry: Option<u64>,
}

/// What is known when a program asks.
struct Count {
    name: String,
    instructions: u64,
    since: Option<u64>,
    exits: BTreeMap<Exit, u64>,
}

// SAFETY: the handles are QEMU's, for any of its threads; the buffer is ours.
unsafe impl Send for State {}

struct Window {
    name: String,
    until: Until,
    /// The machine's instructions when it was opened; then how many it took.
    start: u64,
    instructions: u64,
    lanes: Vec<[u64; LANES]>,
    own: Vec<u64>,
    events: Vec<Event>,
    overflow: bool,
}

/// What ends a window, and what begins it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Close,
    Stamp,
    /// All CPUs' rest, and then as [`Until::StampFromRest`].
    Rest,
    /// The time stamp; or all CPUs' rest, which begins it anew.
    StampFromRest,
}

enum Event {
    Level { cpu: u32, at: u64, own: u64, lane: u8, from: u8 },
    System { cpu: u32, at: u64, own: u64, lane: u8, opcode: u32 },
}

impl State {
    const fn new() -> Self {
        Self {
            out: String::new(),
            buffer: std::ptr::null_mut(),
            blind: false,
            cpus: Vec::new(),
            window: None,
            best: BTreeMap::new(),
            counts: Vec::new(),
            exits: BTreeMap::new(),
            first_entry: None,
        }
    }

    /// A register of the CPU that calls back, 0 if it has none of this name.
    fn read(&mut self, register: *mut Register) -> u64 {
        if register.is_null() {
            return 0;
        }
        // SAFETY: a handle that QEMU gave, in a call back that may read registers;
        // the buffer is a GByteArray of ours, and `len` bytes of it are there.
        let bytes = unsafe {
            if self.buffer.is_null() {
                self.buffer = g_byte_array_new();
            }
            g_byte_array_set_size(self.buffer, 0);
            if qemu_plugin_read_register(register, self.buffer) <= 0 {
                return 0;
            }
            std::slice::from_raw_parts((*self.buffer).data, (*self.buffer).len as usize)
        };
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Where the CPU that calls back is.
    fn lane(&mut self, cpu: usize) -> u8 {
        let Some(registers) = self.cpus.get(cpu).map(|cpu| &cpu.registers) else { return 0 };
        let (cpsr, hcr) = (registers.cpsr, registers.hcr);
        let level = exception_level(self.read(cpsr));
        if level >= 2 {
            return 2;
        }
        let guest = is_guests(self.read(hcr));
        match (level, guest) {
            (1, false) => 1,
            (1, true) => 3,
            (_, true) => 4,
            (_, false) => 0,
        }
    }

    fn name(&mut self, cpu: usize) -> String {
        let Some(registers) = self.cpus.get(cpu).map(|cpu| &cpu.registers) else {
            return String::new();
        };
        let (x0, x1) = (registers.x0, registers.x1);
        let bytes = [self.read(x0).to_le_bytes(), self.read(x1).to_le_bytes()].concat();
        let bytes: Vec<_> = bytes.into_iter().take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Instructions executed by a CPU.
    fn count(&self, cpu: usize) -> u64 {
        count_of(cpu) - self.cpus[cpu].cut
    }

    /// By all CPUs.
    fn count_all(&self) -> u64 {
        (0..self.cpus.len()).map(|cpu| self.count(cpu)).sum()
    }

    fn open(&mut self, cpu: usize, until: Until, place: Place) {
        let name = self.name(cpu);
        self.begin(name, cpu, until, place);
    }

    fn begin(&mut self, name: String, cpu: usize, until: Until, place: Place) {
        // What comes after the mark in its block has been counted already.
        let after = place.left() - 1;
        for i in 0..self.cpus.len() {
            self.cpus[i].seen = self.count(i) - if i == cpu { after } else { 0 };
            self.cpus[i].start = self.cpus[i].seen;
            self.cpus[i].lane = None;
            self.cpus[i].block = None;
            self.cpus[i].lanes = [0; LANES];
        }
        let lane = self.lane(cpu);
        if let Some(cpu) = self.cpus.get_mut(cpu) {
            cpu.lane = Some(lane);
        }
        self.window = Some(Window {
            name,
            until,
            start: self.count_all() - after,
            instructions: 0,
            lanes: Vec::new(),
            own: Vec::new(),
            events: Vec::new(),
            overflow: false,
        });
        ARMED.store(true, Relaxed);
    }

    fn close(&mut self, cpu: usize, place: Place) {
        ARMED.store(false, Relaxed);
        let Some(mut window) = self.window.take() else { return };
        window.instructions = self.count_all() - place.left() - window.start;
        for i in 0..self.cpus.len() {
            self.charge(i, if i == cpu { place.left() } else { 0 });
        }
        window.lanes = self.cpus.iter().map(|cpu| cpu.lanes).collect();
        // As far as they were looked at: to the end, or to their last block.
        window.own = self.cpus.iter().map(|cpu| cpu.seen - cpu.start).collect();
        let best = self.best.get(&window.name);
        if best.is_none_or(|best| window.instructions < best.instructions) {
            self.best.insert(window.name.clone(), window);
        }
    }

    /// A CPU executes WFI. Is it the last, and a window waits for that?
    fn rest(&mut self, cpu: usize, place: Place) {
        let mut others = (0..self.cpus.len()).filter(|i| *i != cpu);
        if !others.all(|i| count_of(i) == ASLEEP[i].load(Relaxed)) {
            return;
        }
        let waits = |w: &mut Window| matches!(w.until, Until::Rest | Until::StampFromRest);
        if let Some(window) = self.window.take_if(waits) {
            self.begin(window.name, cpu, Until::StampFromRest, place);
        }
    }

    /// An ERET. Is it the first into a guest?
    fn entry(&mut self, cpu: usize, place: Place) {
        let Some(registers) = self.cpus.get(cpu).map(|cpu| &cpu.registers) else { return };
        let (cpsr, hcr, spsr) = (registers.cpsr, registers.hcr, registers.spsr);
        if enters_guest(self.read(cpsr), self.read(spsr), self.read(hcr)) {
            let now = self.count_all() - (place.left() - 1);
            self.first_entry.get_or_insert(now);
            ENTERED.store(true, Relaxed);
        }
    }

    /// A block that may be a vector for lower levels. Is it, and was it a guest?
    fn exit(&mut self, cpu: usize, block: Block) {
        let Some(registers) = self.cpus.get(cpu).map(|cpu| &cpu.registers) else { return };
        let (x0, cpsr, hcr) = (registers.x0, registers.cpsr, registers.hcr);
        let (esr, vbar) = (registers.esr, registers.vbar);
        let vector = block.offset_from(self.read(vbar));
        if !Exit::is_vector(vector)
            || exception_level(self.read(cpsr)) != 2
            || !is_guests(self.read(hcr))
        {
            return;
        }
        let (esr, w0) = (self.read(esr) as u32, self.read(x0) as u32);
        *self.exits.entry(Exit::new(vector as u16, esr, w0)).or_default() += 1;
    }

    /// What the CPU executed since it was last looked at, it executed in its lane.
    fn charge(&mut self, cpu: usize, left: u64) {
        let now = self.count(cpu) - left;
        let cpu_ = &mut self.cpus[cpu];
        if let Some(lane) = cpu_.lane {
            cpu_.lanes[usize::from(lane)] += now - cpu_.seen;
        }
        cpu_.seen = now;
    }

    fn event(&mut self, event: Event) {
        if let Some(window) = &mut self.window {
            if window.events.len() < EVENTS {
                window.events.push(event);
            } else {
                window.overflow = true;
            }
        }
    }

    fn at(&self, left: u64) -> u64 {
        self.window.as_ref().map_or(0, |window| self.count_all() - left - window.start)
    }

    /// A block of instructions begins (and is not counted yet).
    fn block(&mut self, cpu: usize, block: Block) {
        if self.window.is_none() {
            return;
        }
        let lane = self.lane(cpu);
        let before = self.cpus[cpu].block.replace(block);
        let from = self.cpus[cpu].lane;
        if from == Some(lane) {
            return;
        }
        if level(lane) > from.map_or(3, level) {
            let elr = self.cpus[cpu].registers.elr[usize::from(lane == 2)];
            let elr = self.read(elr);
            self.cpus[cpu].cut += before.map_or(0, |before| before.cut(elr));
        }
        if from.is_none() {
            // Seen for the first time: it was there all along.
            self.cpus[cpu].lane = Some(lane);
        }
        self.charge(cpu, 0);
        self.cpus[cpu].lane = Some(lane);
        if let Some(from) = from {
            let own = self.count(cpu) - self.cpus[cpu].start;
            let event = Event::Level { cpu: cpu as u32, at: self.at(0), own, lane, from };
            self.event(event);
        }
    }

    fn system(&mut self, cpu: usize, place: Place) {
        let lane = self.cpus.get(cpu).and_then(|cpu| cpu.lane).unwrap_or_default();
        let at = self.at(place.left());
        let own = self.count(cpu) - place.left() - self.cpus[cpu].start;
        self.event(Event::System { cpu: cpu as u32, at, own, lane, opcode: place.what() });
    }

    fn write(&self) -> std::io::Result<()> {
        let mut text = String::new();
        for window in self.best.values().filter(|window| !window.overflow) {
            let _ = writeln!(text, "window {} {}", window.name, window.instructions);
            for (cpu, lanes) in window.lanes.iter().enumerate() {
                for (lane, count) in lanes.iter().enumerate().filter(|(_, count)| **count > 0) {
                    let _ = writeln!(text, "in {cpu} {lane} {count}");
                }
            }
            for (cpu, own) in window.own.iter().enumerate() {
                let _ = writeln!(text, "own {cpu} {own}");
            }
            for event in &window.events {
                let _ = match event {
                    Event::Level { cpu, at, own, lane, from } => {
                        writeln!(text, "to {cpu} {at} {own} {lane} {from}")
                    }
                    Event::System { cpu, at, own, lane, opcode } => {
                        writeln!(text, "op {cpu} {at} {own} {lane} {opcode:08x}")
                    }
                };
            }
        }
        for Count { name, instructions, since, exits } in &self.counts {
            let _ = writeln!(text, "count {name} {instructions}");
            if let Some(since) = since {
                let _ = writeln!(text, "since {name} {since}");
            }
            for (Exit { vector, syndrome, function }, times) in exits {
                let _ =
                    writeln!(text, "exit {name} {vector:x} {syndrome:08x} {function:08x} {times}");
            }
        }
        text += "end\n";
        std::fs::write(&self.out, text)
    }
}

/// A lane's exception level.
fn level(lane: u8) -> u8 {
    match lane {
        0 | 4 => 0,
        2 => 2,
        _ => 1,
    }
}

fn state() -> MutexGuard<'static, State> {
    // Nothing here leaves it half done.
    STATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn count_of(cpu: usize) -> u64 {
    COUNTS.get(cpu).map_or(0, |count| count.load(Relaxed))
}

extern "C" fn on_cpu(_: Id, _: c_uint) {
    let mut cpu = Registers {
        x0: std::ptr::null_mut(),
        x1: std::ptr::null_mut(),
        cpsr: std::ptr::null_mut(),
        hcr: std::ptr::null_mut(),
        esr: std::ptr::null_mut(),
        spsr: std::ptr::null_mut(),
        vbar: std::ptr::null_mut(),
        elr: [std::ptr::null_mut(); 2],
    };
    // SAFETY: called where it may be: when the CPU is made.
    let list = unsafe { qemu_plugin_get_registers() };
    // SAFETY: a GArray of descriptors, or null.
    if let Some(list) = unsafe { list.as_ref() } {
        for i in 0..list.len as usize {
            // SAFETY: one of the array's elements, with a name that ends in 0.
            let (handle, name) = unsafe {
                let descriptor = &*list.data.add(i);
                (descriptor.handle, CStr::from_ptr(descriptor.name))
            };
            match name.to_bytes() {
                b"x0" => cpu.x0 = handle,
                b"x1" => cpu.x1 = handle,
                b"cpsr" => cpu.cpsr = handle,
                b"HCR_EL2" => cpu.hcr = handle,
                b"ESR_EL2" => cpu.esr = handle,
                b"SPSR_EL2" => cpu.spsr = handle,
                b"VBAR_EL2" => cpu.vbar = handle,
                b"ELR_EL1" => cpu.elr[0] = handle,
                b"ELR_EL2" => cpu.elr[1] = handle,
                _ => {}
            }
        }
    }
    let missing = |registers: &[*mut Register]| registers.iter().filter(|r| r.is_null()).count();
    // A machine without EL2 has none of its registers.
    let el2 = missing(&[cpu.hcr, cpu.esr, cpu.spsr, cpu.vbar, cpu.elr[1]]);
    let mut state = state();
    state.blind |= missing(&[cpu.x0, cpu.x1, cpu.cpsr, cpu.elr[0]]) > 0 || !matches!(el2, 0 | 5);
    state.cpus.push(Cpu {
        registers: cpu,
        lane: None,
        seen: 0,
        start: 0,
        cut: 0,
        block: None,
        lanes: [0; LANES],
    });
}

extern "C" fn on_block(cpu: c_uint, block: *mut c_void) {
    let (cpu, block) = (current::cpu(cpu), Block(block as u64));
    if ARMED.load(Relaxed) {
        state().block(cpu, block);
    }
    if let Some(count) = COUNTS.get(cpu) {
        count.fetch_add(block.instructions(), Relaxed);
    }
}

extern "C" fn on_system(cpu: c_uint, place: *mut c_void) {
    let (cpu, place) = (current::cpu(cpu), Place(place as u64));
    if ARMED.load(Relaxed) {
        state().system(cpu, place);
    }
}

extern "C" fn on_wfi(cpu: c_uint, place: *mut c_void) {
    let (cpu, place) = (current::cpu(cpu), Place(place as u64));
    if let Some(asleep) = ASLEEP.get(cpu) {
        asleep.store(count_of(cpu), Relaxed);
    }
    if ARMED.load(Relaxed) {
        let mut state = state();
        state.system(cpu, place);
        state.rest(cpu, place);
    }
}

extern "C" fn on_eret(cpu: c_uint, place: *mut c_void) {
    if !ENTERED.load(Relaxed) {
        state().entry(current::cpu(cpu), Place(place as u64));
    }
    on_system(cpu, place);
}

extern "C" fn on_vector(cpu: c_uint, block: *mut c_void) {
    state().exit(current::cpu(cpu), Block(block as u64));
}

extern "C" fn on_mark(cpu: c_uint, place: *mut c_void) {
    let mut state = state();
    let cpu = current::cpu(cpu);
    let place = Place(place as u64);
    match place.what() as u16 {
        OPEN => state.open(cpu, Until::Close, place),
        OPEN_TO_STAMP => state.open(cpu, Until::Stamp, place),
        OPEN_ASLEEP => state.open(cpu, Until::Rest, place),
        CLOSE => state.close(cpu, place),
        STAMP => match state.window.as_ref().map(|window| window.until) {
            Some(Until::Stamp | Until::StampFromRest) => state.close(cpu, place),
            // There was no rest to begin with.
            Some(Until::Rest) => {
                ARMED.store(false, Relaxed);
                state.window = None;
            }
            _ => {}
        },
        COUNT => {
            let name = state.name(cpu);
            let instructions = state.count_all() - place.left();
            let since = state.first_entry.map(|first| instructions - first);
            let exits = state.exits.clone();
            state.counts.push(Count { name, instructions, since, exits });
        }
        _ => {}
    }
}

extern "C" fn on_translate(_: Id, tb: *mut Tb) {
    // SAFETY: QEMU's own handles, for as long as this call; the call backs are of
    // the types that the declarations want, and their data are numbers.
    unsafe {
        let n = qemu_plugin_tb_n_insns(tb);
        let block = Block::new(qemu_plugin_tb_vaddr(tb), n).0 as *mut c_void;
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, CB_R_REGS, block);
        // Vectors are aligned to 2 KiB.
        if Exit::is_vector(qemu_plugin_tb_vaddr(tb) & 0x7ff) {
            qemu_plugin_register_vcpu_tb_exec_cb(tb, on_vector, CB_R_REGS, block);
        }
        for i in 0..n {
            let insn = qemu_plugin_tb_get_insn(tb, i);
            let mut opcode = [0; 4];
            if qemu_plugin_insn_data(insn, (&raw mut opcode).cast(), 4) != 4 {
                continue;
            }
            let opcode = u32::from_le_bytes(opcode);
            if let Some(number) = mark(opcode) {
                let data = Place::new(number.into(), n - i).0 as *mut c_void;
                qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, CB_R_REGS, data);
            } else if is_interesting(opcode) {
                let data = Place::new(opcode, n - i).0 as *mut c_void;
                let (call, flags) = match opcode {
                    WFI => (on_wfi as _, CB_R_REGS),
                    ERET | ERETAA | ERETAB => (on_eret as _, CB_R_REGS),
                    _ => (on_system as _, CB_NO_REGS),
                };
                qemu_plugin_register_vcpu_insn_exec_cb(insn, call, flags, data);
            }
        }
    }
}

extern "C" fn on_exit(_: Id, _: *mut c_void) {
    let state = state();
    if state.blind {
        eprintln!("bench-plugin: this QEMU doesn't show all registers by their names");
        return;
    }
    if let Err(error) = state.write() {
        eprintln!("bench-plugin: cannot write {}: {error}", state.out);
    }
}

/// QEMU calls it once.
///
/// # Safety
/// `argv` has `argc` C strings.
// SAFETY: QEMU looks it up by this name and calls it with these arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    for i in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: the caller's promise.
        let argument = unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy();
        match argument.strip_prefix("out=") {
            Some(file) => state().out = file.into(),
            None => eprintln!("bench-plugin: unknown argument {argument}"),
        }
    }
    if state().out.is_empty() {
        eprintln!("bench-plugin: out=FILE is missing");
        return -1;
    }
    // SAFETY: call backs of the right types that stay where they are.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, on_cpu);
        qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
        qemu_plugin_register_atexit_cb(id, on_exit, std::ptr::null_mut());
    }
    0
}
