//! One console for many VMs.
//!
//! Output goes by whole lines, each with its VM's name in front. The VM that has
//! the input may show a line before it is whole, so that its prompt and its echo
//! are seen; a line of another VM's interrupts that line, which is shown again.
//!
//! Each VM has a budget of bytes that refills with time: of what it prints, and of what
//! that brings to the port beyond it: names, line ends, lines that are shown again. What goes
//! beyond is dropped and counted: a guest never waits for the console, and one that floods it
//! leaves time for the others.

use crate::queue::Queue;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// How much a VM may print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes in the long run.
    pub per_second: u32,
    /// Bytes at once.
    pub burst: u32,
}

impl Rate {
    /// A budget that nothing was taken of.
    fn full(self) -> i64 {
        i64::from(self.burst).saturating_mul(SECOND)
    }
}

impl Default for Rate {
    /// Room for a verbose boot, then about what a fast serial line takes.
    fn default() -> Self {
        Rate { per_second: 64 << 10, burst: 256 << 10 }
    }
}

/// What became of a byte that was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It was swallowed, or nobody listens.
    Nothing,
    /// This VM gets `before` times Ctrl-a, then the byte.
    To {
        /// The VM.
        vm: usize,
        /// Ctrl-a that wasn't three times.
        before: u8,
        /// The byte.
        byte: u8,
    },
    /// Three times Ctrl-a: this VM has the input now, and [`Mux::next`] says so.
    Switched(usize),
}

/// Ctrl-a.
pub const SWITCH: u8 = 1;
const TIMES: u8 = 3;
/// Longer lines are shown in pieces.
const LINE: usize = 256;
/// Bytes of each VM that wait for the port.
const WAITING: usize = 4096;
/// There must be room for so many before a VM that was cut off goes on.
const RESUME: usize = 512;
/// The most of a VM's name that is shown.
const NAME: usize = 32;
/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

/// The console.
#[derive(Debug)]
pub struct Mux {
    vms: Vec<Source>,
    rate: Rate,
    /// Which VM has the input.
    input: Option<usize>,
    /// How many times Ctrl-a was typed.
    switches: u8,
    /// Whose line stands on the port without its end.
    open: Option<usize>,
    /// Whose turn it is to print.
    turn: usize,
    /// Bytes on their way to the port, and how many of them are there.
    out: Vec<u8>,
    sent: usize,
}

/// One VM's output.
#[derive(Debug)]
struct Source {
    /// `[domU1] `.
    prefix: String,
    /// What the guest printed and the port has not.
    waiting: Queue<WAITING>,
    /// How many line ends are in it.
    ends: usize,
    /// The last byte that went in was no line end.
    midline: bool,
    /// What was printed of a line that isn't whole.
    line: Vec<u8>,
    /// A carriage return came behind that.
    returned: bool,
    /// Another's words stand behind that: it is shown again, which costs nothing.
    interrupted: bool,
    /// What it may print: bytes times [`SECOND`], so that no part of one is lost. Below zero it
    /// has put more on the port than it was to.
    budget: i64,
    /// Up to when that was counted.
    refilled: u64,
    dropped: u64,
    /// It runs: the input can go to it.
    on: bool,
}

impl Mux {
    /// A console for VMs that are added later.
    pub fn new(rate: Rate) -> Mux {
        Mux {
            vms: Vec::new(),
            rate,
            input: None,
            switches: 0,
            open: None,
            turn: 0,
            out: Vec::with_capacity(4 * LINE),
            sent: 0,
        }
    }

    /// Adds a VM of this name; its number. The first one gets the input.
    pub fn add(&mut self, name: &str) -> usize {
        let vm = self.vms.len();
        let short: String = name.chars().take(NAME).collect();
        self.vms.push(Source {
            prefix: format!("[{short}] "),
            waiting: Queue::new(),
            ends: 0,
            midline: false,
            line: Vec::with_capacity(LINE),
            returned: false,
            interrupted: false,
            budget: self.rate.full(),
            refilled: 0,
            dropped: 0,
            on: true,
        });
        if self.input.is_none() {
            self.input = Some(vm);
        }
        vm
    }

    /// The VM runs, or is off for good. The input passes by what is off, and goes on from
    /// there; [`Mux::next`] says so.
    pub fn set_on(&mut self, vm: usize, on: bool) {
        if let Some(source) = self.vms.get_mut(vm) {
            source.on = on;
        }
        let had = self.input;
        if on && had.is_none() {
            self.input = Some(vm);
        } else if !on && had == Some(vm) {
            self.input = self.next_input();
        }
        if self.input != had && self.vms.len() > 1 {
            self.announce();
        }
    }

    /// Which VM has the input.
    pub fn has_input(&self) -> Option<usize> {
        self.input
    }

    /// Lets [`Mux::next`] say who has the input.
    pub fn announce(&mut self) {
        self.break_line(None);
        let source = self.input.and_then(|vm| self.vms.get(vm));
        let text = match source {
            Some(source) => {
                format!("Console input: {} (Ctrl-a three times: the next)\r\n", source.name())
            }
            None => "Console input: nobody\r\n".into(),
        };
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Somebody else printed whole lines on the port.
    pub fn interrupted(&mut self) {
        if let Some(source) = self.open.take().and_then(|vm| self.vms.get_mut(vm)) {
            source.interrupted = true;
        }
    }

    /// A VM transmits a byte at `now` (nanoseconds by any clock that goes up).
    pub fn put(&mut self, vm: usize, byte: u8, now: u64) {
        let rate = self.rate;
        if let Some(source) = self.vms.get_mut(vm) {
            source.put(byte, now, rate);
        }
    }

    /// A byte came in at the port.
    pub fn typed(&mut self, byte: u8) -> Input {
        if byte == SWITCH {
            self.switches = self.switches.saturating_add(1);
            if self.switches < TIMES {
                return Input::Nothing;
            }
            self.switches = 0;
            let Some(vm) = self.next_input() else { return Input::Nothing };
            self.input = Some(vm);
            self.announce();
            return Input::Switched(vm);
        }
        let before = core::mem::take(&mut self.switches);
        match self.input {
            Some(vm) => Input::To { vm, before, byte },
            None => Input::Nothing,
        }
    }

    /// The next VM that runs; this one if there's no other.
    fn next_input(&self) -> Option<usize> {
        let after = self.input.map_or(0, |vm| vm.saturating_add(1));
        let mut vms = (after..self.vms.len()).chain(0..after);
        vms.find(|vm| self.vms.get(*vm).is_some_and(|source| source.on))
    }

    /// The next byte for the port. None: there is nothing to print.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it goes on later")]
    pub fn next(&mut self) -> Option<u8> {
        loop {
            if let Some(byte) = self.out.get(self.sent) {
                self.sent = self.sent.saturating_add(1);
                return Some(*byte);
            }
            self.out.clear();
            self.sent = 0;
            let vm = self.ready()?;
            self.print(vm);
        }
    }

    /// Who prints next: VMs take turns, a line each.
    fn ready(&self) -> Option<usize> {
        let turn = self.turn.min(self.vms.len());
        (turn..self.vms.len()).chain(0..turn).find(|vm| {
            let has_input = self.input == Some(*vm);
            self.vms.get(*vm).is_some_and(|source| source.is_ready(has_input))
        })
    }

    /// Prints a VM's next line, or what there is of it.
    fn print(&mut self, vm: usize) {
        if self.open != Some(vm) {
            self.break_line(Some(vm));
        }
        let raw = self.input == Some(vm);
        let Some(source) = self.vms.get_mut(vm) else { return };
        let waited = source.waiting.len();
        let mut before = self.out.len();
        if self.open != Some(vm) {
            self.out.extend_from_slice(source.prefix.as_bytes());
            self.out.extend_from_slice(&source.line);
        }
        if core::mem::take(&mut source.interrupted) {
            before = self.out.len();
        }
        let whole = source.print(raw, &mut self.out);
        let came = self.out.len().saturating_sub(before);
        // Those are paid for.
        let went = waited.saturating_sub(source.waiting.len());
        source.spend(came.saturating_sub(went));
        self.open = if whole { None } else { Some(vm) };
        self.turn = vm.saturating_add(1);
    }

    /// Ends the line that stands on the port without its end. Who does that pays for it, and
    /// for that the line is shown again.
    fn break_line(&mut self, by: Option<usize>) {
        let Some(open) = self.open else { return };
        self.out.extend_from_slice(b"\r\n");
        let shown = |source: &Source| source.prefix.len().saturating_add(source.line.len());
        let again = self.vms.get(open).map_or(0, shown);
        if let Some(source) = by.and_then(|vm| self.vms.get_mut(vm)) {
            source.spend(again.saturating_add(2));
        }
        self.interrupted();
    }
}

impl Source {
    fn name(&self) -> &str {
        self.prefix.trim_end_matches("] ").trim_start_matches('[')
    }

    fn put(&mut self, byte: u8, now: u64, rate: Rate) {
        self.refill(now, rate);
        let room = WAITING.saturating_sub(self.waiting.len());
        let resumes = (RESUME as i64).saturating_mul(SECOND);
        if self.dropped > 0 && room >= RESUME && self.budget >= resumes {
            self.resume();
        }
        if self.budget >= SECOND && self.dropped == 0 && room > 0 {
            self.spend(1);
            self.push(byte);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    fn spend(&mut self, bytes: usize) {
        self.budget = self.budget.saturating_sub((bytes as i64).saturating_mul(SECOND));
    }

    fn refill(&mut self, now: u64, rate: Rate) {
        let elapsed = now.saturating_sub(self.refilled);
        // If this saturates, it is full anyway.
        let gain = elapsed.saturating_mul(u64::from(rate.per_second)).min(i64::MAX as u64) as i64;
        self.budget = self.budget.saturating_add(gain).min(rate.full());
        self.refilled = self.refilled.max(now);
    }

    /// Says how much is missing.
    fn resume(&mut self) {
        let end = if self.midline { "\n" } else { "" };
        let dropped = core::mem::take(&mut self.dropped);
        for byte in format!("{end}({dropped} bytes dropped)\n").bytes() {
            self.spend(1);
            self.push(byte);
        }
    }

    fn push(&mut self, byte: u8) {
        if self.waiting.push(byte) {
            self.midline = byte != b'\n';
            self.ends = self.ends.saturating_add(usize::from(!self.midline));
        }
    }

    fn is_ready(&self, has_input: bool) -> bool {
        self.ends > 0 || self.waiting.len() >= LINE || has_input && !self.waiting.is_empty()
    }

    /// Goes on with the line; true if it ends.
    ///
    /// Whoever has not the input can't move the cursor or change colours: neither by C0's
    /// control characters nor by C1's (ECMA-48), which a terminal may take as one byte or
    /// in UTF-8. That costs the characters whose UTF-8 has such a byte in it.
    fn print(&mut self, raw: bool, out: &mut Vec<u8>) -> bool {
        while let Some(byte) = self.waiting.pop() {
            let returned = core::mem::replace(&mut self.returned, byte == b'\r');
            match byte {
                b'\n' => {
                    self.ends = self.ends.saturating_sub(1);
                    return self.end_line(out);
                }
                b'\r' => continue,
                b'\t' | 0x20..=0x7e | 0xa0.. => {}
                _ if raw => {}
                _ => continue,
            }
            if returned && raw {
                // Over what is there, but not over the name.
                out.push(b'\r');
                out.extend_from_slice(self.prefix.as_bytes());
                self.line.clear();
            }
            self.line.push(byte);
            out.push(byte);
            if self.line.len() >= LINE {
                return self.end_line(out);
            }
        }
        false
    }

    fn end_line(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(b"\r\n");
        self.line.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = super::SECOND as u64;
    use proptest::prelude::*;
    use std::string::String;

    fn mux(names: &[&str]) -> Mux {
        let mut mux = Mux::new(Rate::default());
        for name in names {
            mux.add(name);
        }
        mux
    }

    fn puts(mux: &mut Mux, vm: usize, text: &str) {
        text.bytes().for_each(|byte| mux.put(vm, byte, 0));
    }

    fn drain(mux: &mut Mux) -> String {
        String::from_utf8(core::iter::from_fn(|| mux.next()).collect()).unwrap()
    }

    #[test]
    fn whole_lines_with_names() {
        let mut mux = mux(&["a", "b"]);
        puts(&mut mux, 1, "one\r\ntw");
        puts(&mut mux, 0, "first\n");
        assert_eq!(drain(&mut mux), "[a] first\r\n[b] one\r\n");
        puts(&mut mux, 1, "o\n");
        assert_eq!(drain(&mut mux), "[b] two\r\n");
        assert_eq!(drain(&mut mux), "");
    }

    #[test]
    fn the_owner_of_the_input_is_seen_at_once_and_again_after_others() {
        let mut mux = mux(&["a", "b"]);
        puts(&mut mux, 0, "login: ");
        assert_eq!(drain(&mut mux), "[a] login: ");
        puts(&mut mux, 0, "ro");
        assert_eq!(drain(&mut mux), "ro");
        puts(&mut mux, 1, "news\n");
        assert_eq!(drain(&mut mux), "\r\n[b] news\r\n");
        puts(&mut mux, 0, "ot");
        assert_eq!(drain(&mut mux), "[a] login: root");
        mux.interrupted();
        puts(&mut mux, 0, "\n");
        assert_eq!(drain(&mut mux), "[a] login: root\r\n");
    }

    #[test]
    fn lines_are_taken_in_turn() {
        let mut mux = mux(&["a", "b", "c"]);
        puts(&mut mux, 0, "1\n2\n3\n");
        puts(&mut mux, 2, "x\ny\n");
        assert_eq!(drain(&mut mux), "[a] 1\r\n[c] x\r\n[a] 2\r\n[c] y\r\n[a] 3\r\n");
    }

    #[test]
    fn three_times_control_a() {
        let mut mux = mux(&["a", "b", "c"]);
        mux.set_on(1, false);
        assert_eq!(mux.typed(b'x'), Input::To { vm: 0, before: 0, byte: b'x' });
        assert_eq!(mux.typed(SWITCH), Input::Nothing);
        assert_eq!(mux.typed(SWITCH), Input::Nothing);
        assert_eq!(mux.typed(b'e'), Input::To { vm: 0, before: 2, byte: b'e' });
        puts(&mut mux, 0, "$ ");
        drain(&mut mux);
        mux.typed(SWITCH);
        mux.typed(SWITCH);
        assert_eq!(mux.typed(SWITCH), Input::Switched(2));
        assert!(drain(&mut mux).starts_with("\r\nConsole input: c "));
        assert_eq!(mux.typed(b'y'), Input::To { vm: 2, before: 0, byte: b'y' });
        for _ in 0..3 {
            mux.typed(SWITCH);
        }
        assert_eq!(mux.has_input(), Some(0));
    }

    #[test]
    fn a_flood_is_cut_off_and_the_others_are_heard() {
        let mut mux = Mux::new(Rate { per_second: 1000, burst: 2000 });
        mux.add("quiet");
        mux.add("flood");
        for i in 0..100_000u64 {
            mux.put(1, if i % 50 == 49 { b'\n' } else { b'#' }, 1);
        }
        puts(&mut mux, 0, "here\n");
        let shown = drain(&mut mux);
        assert_eq!(shown.matches("[flood]").count(), 40);
        assert!(shown.find("here").unwrap() < 200);
        // A second later there is room for a second's worth, less what names and line ends cost.
        let told = "(98000 bytes dropped)\n".len();
        let left = 1000 - 40 * ("[flood] \r\n".len() - 1) - told;
        for _ in 0..10_000 {
            mux.put(1, b'!', SECOND + 1);
        }
        mux.put(1, b'\n', 2 * SECOND + 1);
        let shown = drain(&mut mux);
        assert!(shown.contains("(98000 bytes dropped)\r\n"), "{shown}");
        assert_eq!(shown.matches('!').count(), left);
        assert!(shown.contains(&format!("({} bytes dropped)\r\n", 10_000 - left)), "{shown}");
    }

    /// Short lines, returns to the line's start and lines that others interrupt put more on the
    /// port than was printed.
    #[test]
    fn what_comes_with_bytes_is_paid_for() {
        let rate = Rate { per_second: 10_000, burst: 5000 };
        for (first, second) in [("\n", ""), ("\rX", ""), ("x", "\n"), ("", "\n")] {
            let mut mux = Mux::new(rate);
            mux.add("a");
            mux.add("a-long-name-of-a-vm");
            puts(&mut mux, 0, &"y".repeat(200));
            let mut port = 0;
            for millisecond in 1..=20_000 {
                for _ in 0..50 {
                    for (vm, text) in [(0, first), (1, second)] {
                        text.bytes().for_each(|byte| mux.put(vm, byte, millisecond * 1_000_000));
                    }
                    port += core::iter::from_fn(|| mux.next()).count();
                }
            }
            // Of each that prints; the last line may go beyond that.
            let each = 5000 + 20 * 10_000 + 300;
            let all = if first.is_empty() || second.is_empty() { 1 } else { 2 } * each;
            assert!(port <= all + 300, "{first:?}, {second:?}: {port} of {all}");
            assert!(port >= each * 9 / 10, "{first:?}, {second:?}: {port} of {all}");
        }
    }

    #[test]
    fn who_breaks_anothers_line_pays_for_that() {
        let mut mux = Mux::new(Rate { per_second: 10_000, burst: 5000 });
        mux.add("calm");
        mux.add("flood");
        let mut port = Vec::new();
        for millisecond in 0..20_000u64 {
            // A fifth of what it may.
            for _ in 0..2 {
                mux.put(
                    0,
                    if millisecond % 40 == 39 { b'\n' } else { b'c' },
                    millisecond * 1_000_000,
                );
                "f\n".bytes().for_each(|byte| mux.put(1, byte, millisecond * 1_000_000));
                port.extend(core::iter::from_fn(|| mux.next()));
            }
        }
        let port = String::from_utf8(port).unwrap();
        assert!(port.contains("[flood] ("), "the flood isn't cut off");
        assert!(!port.contains("[calm] ("), "who is calm loses something");
    }

    #[test]
    fn a_burst_is_one_burst_however_late_it_comes() {
        let mut mux = Mux::new(Rate { per_second: 1000, burst: 2000 });
        mux.add("flood");
        // At any time, and with what was left of a budget that was touched long before.
        for at in [100, 200, 300].map(|second| second * SECOND) {
            for _ in 0..100_000 {
                mux.put(0, b'#', at);
            }
            assert_eq!(drain(&mut mux).matches('#').count(), 2000);
            // What comes by and by goes through, one byte a millisecond.
            for i in 600..1600 {
                mux.put(0, b'.', at + i * 1_000_000);
            }
            assert_eq!(drain(&mut mux).matches('.').count(), 1000);
        }
    }

    proptest! {
        /// In no span of time does anybody print more than a burst and what the span adds.
        #[test]
        fn the_budget_holds(steps in proptest::collection::vec((0u64..10_000_000, 1usize..300), 1..50)) {
            let mut mux = Mux::new(Rate { per_second: 10_000, burst: 1000 });
            mux.add("a");
            let mut now = 5 * SECOND;
            let mut printed = std::vec![];
            for (gap, count) in steps {
                now += gap;
                for _ in 0..count {
                    mux.put(0, b'#', now);
                }
                printed.push((now, drain(&mut mux).matches('#').count() as u64));
            }
            for from in 0..printed.len() {
                let mut sum = 0;
                for (at, count) in &printed[from..] {
                    sum += count;
                    prop_assert!(sum <= 1000 + (at - printed[from].0) / 100_000 + 1);
                }
            }
        }
    }

    #[test]
    fn the_input_goes_on_when_its_vm_goes_off() {
        let mut mux = mux(&["a", "b", "c"]);
        mux.set_on(1, false);
        assert_eq!(drain(&mut mux), "");
        puts(&mut mux, 0, "# ");
        drain(&mut mux);
        mux.set_on(0, false);
        assert_eq!(drain(&mut mux), "\r\nConsole input: c (Ctrl-a three times: the next)\r\n");
        assert_eq!(mux.typed(b'x'), Input::To { vm: 2, before: 0, byte: b'x' });
        mux.set_on(2, false);
        assert_eq!(drain(&mut mux), "Console input: nobody\r\n");
        assert_eq!(mux.typed(b'x'), Input::Nothing);
        mux.set_on(1, true);
        assert_eq!(mux.has_input(), Some(1));
    }

    #[test]
    fn only_the_owner_moves_the_cursor() {
        let mut mux = mux(&["a", "b"]);
        puts(&mut mux, 1, "x\x1b[2J\ry\n");
        assert_eq!(drain(&mut mux), "[b] x[2Jy\r\n");
        // C1's CSI, in UTF-8, in an overlong form of it, and as one byte.
        for bytes in [&b"\xc2\x9b"[..], b"\xe0\x82\x9b", b"\x9b", b"\x9b\xc2\x9b\x9b"] {
            bytes.iter().chain(b"1A\n").for_each(|byte| mux.put(1, *byte, 0));
            let shown: std::vec::Vec<u8> = core::iter::from_fn(|| mux.next()).collect();
            assert!(!shown.iter().any(|byte| (0x80..0xa0).contains(byte)), "{shown:x?}");
        }
        puts(&mut mux, 1, "\u{e9}\n");
        assert_eq!(drain(&mut mux), "[b] \u{e9}\r\n");
        puts(&mut mux, 0, "\x1b[1mp\rq\r\n");
        assert_eq!(drain(&mut mux), "[a] \x1b[1mp\r[a] q\r\n");
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces() {
        let mut mux = mux(&["a", "b"]);
        puts(&mut mux, 1, &"z".repeat(600));
        let shown = drain(&mut mux);
        assert_eq!(shown.matches("[b] ").count(), 2);
        assert_eq!(shown.matches('z').count(), 512);
    }

    proptest! {
        /// Every line on the port begins with the name of whose it is, and what
        /// each VM printed comes out in order.
        #[test]
        fn no_line_is_anybody_elses(
            steps in proptest::collection::vec((0usize..3, "[a-z\n]{0,8}", any::<bool>()), 0..60)
        ) {
            let mut mux = mux(&["0", "1", "2"]);
            let mut port = String::new();
            let mut sent = [const { String::new() }; 3];
            for (vm, text, drains) in steps {
                puts(&mut mux, vm, &text);
                sent[vm].push_str(&text);
                if drains {
                    port.push_str(&drain(&mut mux));
                }
            }
            for (vm, sent) in sent.iter_mut().enumerate() {
                puts(&mut mux, vm, "\n");
                sent.push('\n');
            }
            port.push_str(&drain(&mut mux));
            for (vm, sent) in sent.iter().enumerate() {
                let prefix = std::format!("[{vm}] ");
                let mut got: std::vec::Vec<&str> =
                    port.split("\r\n").filter_map(|line| line.strip_prefix(&prefix)).collect();
                // Pieces of a line that was shown again.
                let mut at = 0;
                let want: std::vec::Vec<&str> = sent.split_terminator('\n').collect();
                got.retain(|line| {
                    let whole = want.get(at) == Some(line);
                    at += usize::from(whole);
                    whole
                });
                prop_assert_eq!(got, want);
            }
            for line in port.split_terminator("\r\n") {
                prop_assert!(["[0] ", "[1] ", "[2] "].iter().any(|p| line.starts_with(p)));
            }
        }
    }
}
