//! A running machine and its console.

use crate::machine::Machine;
use crate::proc;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Who types on the console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keyboard {
    Nobody,
    /// Whoever types into us. QEMU makes the terminal raw and takes Ctrl-a x.
    Us,
    /// [`Console::send`].
    Test,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// What was waited for was printed.
    Seen,
    /// The machine is off.
    Ended,
    TimedOut,
    /// A kernel complained.
    Trouble,
}

pub struct Console {
    child: Child,
    keyboard: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// Everything printed so far.
    log: Vec<u8>,
    /// Where [`Console::expect`] goes on.
    cursor: usize,
    /// Where the search for trouble goes on (a line's start).
    checked: usize,
    trouble: Option<String>,
    /// Somebody else's kernel may stall while the machine under it is busy.
    pub forgives_stalls: bool,
    /// A guest's kernel is meant to panic.
    pub forgives_panics: bool,
    echo: bool,
    /// The terminal's settings, which QEMU changes.
    terminal: Option<String>,
}

impl Console {
    pub fn start(machine: &Machine, keyboard: Keyboard, echo: bool) -> Result<Self> {
        let mut command = machine.command();
        command.stdout(Stdio::piped());
        command.stdin(match keyboard {
            Keyboard::Nobody => Stdio::null(),
            Keyboard::Us => Stdio::inherit(),
            Keyboard::Test => Stdio::piped(),
        });
        let terminal = (keyboard == Keyboard::Us).then(terminal_settings).flatten();
        let mut child =
            command.spawn().with_context(|| format!("cannot run {}", proc::show(&command)))?;
        let keyboard = child.stdin.take();
        let mut stdout = child.stdout.take().context("QEMU without a console")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            keyboard,
            output,
            log: Vec::new(),
            cursor: 0,
            checked: 0,
            trouble: None,
            forgives_stalls: false,
            forgives_panics: false,
            echo,
            terminal,
        })
    }

    /// Waits until `text` is printed after what was last waited for.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Wait {
        let deadline = Instant::now() + limit;
        // What was looked through isn't again: a guest may print much, byte by byte.
        let mut from = self.cursor;
        loop {
            if let Some(at) = find(&self.log[from..], text.as_bytes()) {
                self.cursor = from + at + text.len();
                return Wait::Seen;
            }
            from = self.cursor.max((self.log.len() + 1).saturating_sub(text.len()));
            // Who prints all the time doesn't keep it from ending.
            if Instant::now() > deadline {
                return Wait::TimedOut;
            }
            match self.pump(deadline) {
                Wait::Seen => {}
                other => return other,
            }
        }
    }

    /// As `wait_for`, and anything else is an error.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<()> {
        match self.wait_for(text, limit) {
            Wait::Seen => Ok(()),
            Wait::Ended => bail!("the machine went off before it printed {text:?}"),
            Wait::TimedOut => {
                bail!("{text:?} was not printed within {} seconds", limit.as_secs())
            }
            Wait::Trouble => bail!("before {text:?}: {}", self.trouble().unwrap_or_default()),
        }
    }

    /// Waits until all of these were printed, in any order, since the start.
    pub fn expect_all(&mut self, texts: &[String], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut missing: Vec<&String> = texts.iter().collect();
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        let mut from = 0;
        loop {
            missing.retain(|text| find(&self.log[from..], text.as_bytes()).is_none());
            if missing.is_empty() {
                return Ok(());
            }
            from = (self.log.len() + 1).saturating_sub(longest);
            match self.pump(deadline) {
                Wait::Seen => {}
                Wait::Ended => bail!("the machine went off before it printed {missing:?}"),
                Wait::TimedOut => {
                    bail!("{missing:?} were not printed within {} seconds", limit.as_secs())
                }
                Wait::Trouble => {
                    bail!("before {missing:?}: {}", self.trouble().unwrap_or_default())
                }
            }
        }
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let keyboard = self.keyboard.as_mut().context("nobody types here")?;
        keyboard.write_all(text.as_bytes())?;
        keyboard.flush()?;
        Ok(())
    }

    /// Waits until the machine is off.
    pub fn wait_end(&mut self, limit: Option<Duration>) -> Wait {
        // A day, where nobody set a limit.
        let deadline = Instant::now() + limit.unwrap_or(Duration::from_secs(86400));
        loop {
            match self.pump(deadline) {
                Wait::Seen => {}
                other => return other,
            }
        }
    }

    /// QEMU's exit status once it has ended by itself.
    pub fn status(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log).replace('\r', "")
    }

    /// Takes in what was printed. `Seen`: there was something.
    fn pump(&mut self, deadline: Instant) -> Wait {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.output.recv_timeout(left) {
            Ok(bytes) => {
                self.take(&bytes);
                if self.trouble.is_some() && self.terminal.is_none() {
                    self.last_words();
                    return Wait::Trouble;
                }
                Wait::Seen
            }
            Err(RecvTimeoutError::Timeout) => Wait::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Wait::Ended,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.echo {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
        self.log.extend_from_slice(bytes);
        while let Some(length) = self.log[self.checked..].iter().position(|byte| *byte == b'\n') {
            let line = &self.log[self.checked..self.checked + length];
            let line = String::from_utf8_lossy(line);
            let forgiven = self.forgives_panics && line.starts_with("[dom");
            let counts = is_trouble(&line) && !forgiven || !self.forgives_stalls && is_stall(&line);
            if self.trouble.is_none() && counts {
                self.trouble = Some(line.trim_end().to_string());
            }
            self.checked += length + 1;
        }
    }

    /// What a kernel still says after the first line of its complaint.
    fn last_words(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while let Ok(bytes) =
            self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.take(&bytes);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(settings) = &self.terminal {
            let _ = std::process::Command::new("stty").arg(settings.trim()).status();
        }
    }
}

fn terminal_settings() -> Option<String> {
    let out = std::process::Command::new("stty").arg("-g").stdin(Stdio::inherit()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

/// Lines that no healthy run prints, on either kernel.
fn is_trouble(line: &str) -> bool {
    const SIGNS: &[&str] = &[
        "BUG:",
        "Kernel panic",
        "hypha: panic",
        "Internal error: Oops",
        "Unable to handle kernel",
    ];
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// Lines of a kernel that waited too long for something.
fn is_stall(line: &str) -> bool {
    const SIGNS: &[&str] =
        &["rcu: INFO", "soft lockup", "hard LOCKUP", "blocked for more than", "detected stall"];
    let stalled = line
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|word| word == "stall" || word == "stalls" || word == "stalled");
    stalled || SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::{is_stall, is_trouble};

    #[test]
    fn trouble() {
        for line in [
            "[   63.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "[    1.0] Kernel panic - not syncing: Attempted to kill init!",
            "[    0.1] hypha: panic at kernel/src/main.rs:1",
        ] {
            assert!(is_trouble(line) || is_stall(line), "{line}");
        }
        for line in ["busybox --install -s /bin", "installed", "debug", "hypha-guest: ready"] {
            assert!(!is_trouble(line) && !is_stall(line), "{line}");
        }
    }
}
