//! `hypha-vmm run`: from the arguments to the exit status.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use crate::args::Run;
use crate::control::{self, Control, Stop};
use crate::error::{Context, Error, Result};
use crate::input::{self, Input};
use crate::kvm::Host;
use crate::layout::MIB;
use crate::machine::{Machine, Surroundings};
use crate::memory::{self, Ram};
use crate::output::Output;
use crate::terminal::{self, RawMode};

/// Runs the guest until it is done, through its resets. The exit status.
pub fn run(run: &Run) -> Result<u8> {
    run.virtio_slots()?;
    let host = Host::open()?;
    let size = run.mem.saturating_mul(MIB);
    check_host_memory(run, size)?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().context("standard output")?;
    let around = Surroundings {
        host,
        ram: Ram::new(size)?,
        output: Output::new(Box::new(File::from(stdout))).context("cannot start a thread")?,
        input: Input::new(),
        control: Control::new()?,
    };
    let mut machine = Machine::new(run, &around)?;
    control::catch_signals(around.control.event())?;
    let raw_mode = RawMode::enter();
    read_stdin(&around)?;
    let status = loop {
        let stop = machine.run(&around.control)?;
        around.output.drain();
        if stop != Stop::Reset || run.no_reboot {
            break finish(stop, raw_mode);
        }
        around.ram.clear()?;
        machine = Machine::new(run, &around)?;
    };
    Ok(status)
}

/// Restores the terminal and says what happened if that is not plain.
fn finish(stop: Stop, raw_mode: Option<RawMode>) -> u8 {
    let on_terminal = raw_mode.is_some();
    drop(raw_mode);
    let status = stop.exit_status();
    match stop {
        Stop::Off => {}
        Stop::Quit if on_terminal => eprintln!("\nhypha-vmm: ended by Ctrl-a x"),
        Stop::Quit => eprintln!("hypha-vmm: ended by Ctrl-a x"),
        Stop::Reset => eprintln!("hypha-vmm: the guest asked for a reset"),
        Stop::Crash => eprintln!("hypha-vmm: the guest says that it crashed"),
        Stop::Signal(n) => eprintln!("hypha-vmm: ended by signal {n}"),
        Stop::Failed(e) => eprintln!("hypha-vmm: {e}"),
    }
    status
}

/// The host gives memory as the guest touches it, so that too much is noticed late and by the wrong program.
fn check_host_memory(run: &Run, size: u64) -> Result<()> {
    let total = fs::read_to_string("/proc/meminfo").ok();
    match total.as_deref().and_then(memory::host_total) {
        Some(total) if size > total && !run.overcommit => {
            Err(Error::new(format!("--mem {}: the host has {} MiB in all", run.mem, total / MIB))
                .cure("give less, or --overcommit if you mean it"))
        }
        _ => Ok(()),
    }
}

/// Starts the thread that reads standard input, through all resets.
fn read_stdin(around: &Surroundings) -> Result<()> {
    let (input, control) = (around.input.clone(), Arc::clone(&around.control));
    // Someone who types must always get through with Ctrl-a x; a pipe is rather made to wait than cut.
    let wait = !terminal::stdin_is_terminal();
    thread::Builder::new()
        .name("stdin".into())
        .spawn(move || input::pump(io::stdin().lock(), &input, wait, || control.stop(Stop::Quit)))
        .context("cannot start a thread")?;
    Ok(())
}
