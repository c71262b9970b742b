//! The whole command line, typed.

use crate::mode::{KvmMode, ModeRequest, mode_requested, vhe_hidden};
use crate::values::{leading_int, parse_int, parse_size};
use crate::words::{Param, Params};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Something on the command line that the kernel cannot follow. For the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub(crate) String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootArgs {
    /// `console=`, in order, with options (`ttyAMA0,115200`); the last one
    /// becomes /dev/console.
    pub consoles: Vec<String>,
    /// `earlycon`: empty if it names no device (then `stdout-path` does).
    pub earlycon: Option<String>,
    /// `rdinit=`: the program to start from the initramfs.
    pub rdinit: Option<String>,
    /// `init=`.
    pub init: Option<String>,
    /// `root=`.
    pub root: Option<String>,
    /// `loglevel=`, or 4 for `quiet` and 10 for `debug`: messages of a lower
    /// level go to the console.
    pub loglevel: Option<u8>,
    /// `quiet` was given.
    pub quiet: bool,
    /// `maxcpus=`, and 0 for `nosmp`: how many CPUs to start; 0 means one.
    pub maxcpus: Option<u32>,
    /// `mem=`: ignore memory beyond so many bytes.
    pub mem: Option<u64>,
    /// `panic=`: reboot after so many seconds; at once if negative; never if 0.
    pub panic: i32,
    /// `kvm-arm.mode=`, if it is one that exists.
    pub kvm_mode: Option<KvmMode>,
    /// `id_aa64mmfr1.vh=0`: pretend that the CPU has no VHE.
    pub hide_vhe: bool,
    /// `hypha.KEY=VALUE`: our own parameters, without their prefix.
    pub hypha: Vec<(String, String)>,
    /// Unknown words without a value, and those after `--`: init's arguments.
    pub init_args: Vec<String>,
    /// `HOME=/`, `TERM=linux`, and unknown parameters with a value: init's
    /// environment.
    pub init_env: Vec<String>,
    /// What to tell the user.
    pub warnings: Vec<Warning>,
}

/// Linux's limit on init's arguments and on its environment
/// (CONFIG_INIT_ENV_ARG_LIMIT), where it panics; here the rest is left out.
const INIT_LIMIT: usize = 32;

impl BootArgs {
    /// Reads a command line. It always succeeds: see [`BootArgs::warnings`].
    pub fn parse(line: &str) -> BootArgs {
        let mut params = Params::new(line);
        let mut args = BootArgs {
            consoles: Vec::new(),
            earlycon: None,
            rdinit: None,
            init: None,
            root: None,
            loglevel: None,
            quiet: false,
            maxcpus: None,
            mem: None,
            panic: 0,
            kvm_mode: None,
            hide_vhe: vhe_hidden(&params),
            hypha: Vec::new(),
            init_args: Vec::new(),
            init_env: vec!["HOME=/".to_owned(), "TERM=linux".to_owned()],
            warnings: Vec::new(),
        };
        match mode_requested(params.clone()) {
            ModeRequest::Absent => {}
            ModeRequest::Mode(mode) => args.kvm_mode = Some(mode),
            ModeRequest::Unknown(value) => {
                let known = KvmMode::KNOWN;
                args.warn(format!("kvm-arm.mode={value}: unknown mode; known are {known}"));
            }
        }
        for param in params.by_ref() {
            args.take(param);
        }
        for word in params.init_words() {
            args.init_arg(word);
        }
        args
    }

    /// The last value of `hypha.KEY`.
    pub fn hypha(&self, key: &str) -> Option<&str> {
        let found = self.hypha.iter().rev().find(|(name, _)| crate::same_key(name, key));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a switch `hypha.KEY` is on: given bare, or as 1, y, yes, on or
    /// true.
    pub fn hypha_flag(&self, key: &str) -> bool {
        matches!(self.hypha(key), Some("" | "1" | "y" | "yes" | "on" | "true"))
    }

    fn take(&mut self, param: Param<'_>) {
        let value = param.value.unwrap_or("");
        if param.is("console") {
            // `console=` and `console=null` ask for no console at all.
            self.consoles.push(value.to_owned());
        } else if param.is("earlycon") {
            self.earlycon = Some(value.to_owned());
        } else if param.is("rdinit") {
            self.rdinit = self.path(param).or(self.rdinit.take());
            self.init_args.clear();
        } else if param.is("init") {
            // As on Linux, what came before belongs to another init.
            self.init = self.path(param).or(self.init.take());
            self.init_args.clear();
        } else if param.is("root") {
            self.root = self.path(param).or(self.root.take());
        } else if param.is("quiet") && param.value.is_none() {
            self.quiet = true;
            self.loglevel = Some(4);
        } else if param.is("debug") && param.value.is_none() {
            self.loglevel = Some(10);
        } else if param.is("loglevel") {
            match parse_int(value) {
                Some(level) => self.loglevel = Some(u8::try_from(level).unwrap_or(15).min(15)),
                None => self.bad(param, "a number from 0 to 15"),
            }
        } else if param.is("maxcpus") {
            match parse_int(value).and_then(|count| u32::try_from(count).ok()) {
                Some(count) => self.maxcpus = Some(count),
                None => self.bad(param, "a number"),
            }
        } else if param.is("nosmp") {
            self.maxcpus = Some(0);
        } else if param.is("mem") {
            match parse_size(value) {
                Some(size) if size > 0 => self.mem = Some(size),
                _ => self.bad(param, "a size such as 512M"),
            }
        } else if param.is("panic") {
            match parse_signed(value) {
                Some(seconds) => self.panic = seconds,
                None => self.bad(param, "a number of seconds"),
            }
        } else if param.is("kvm-arm.mode") || param.is("id_aa64mmfr1.vh") {
            // Taken already.
        } else if let Some(key) = param.key.strip_prefix("hypha.") {
            self.hypha.push((key.to_owned(), value.to_owned()));
        } else {
            self.unknown(param);
        }
    }

    /// What Linux does with a parameter that nobody asked for: those with a dot
    /// belong to modules, others are init's.
    fn unknown(&mut self, param: Param<'_>) {
        if KNOWN_UNUSED.iter().any(|name| param.is(name)) || param.key.contains('.') {
            return;
        }
        if param.value.is_none() {
            self.init_arg(param.word);
            return;
        }
        // A later setting of the same variable replaces an earlier one.
        let same = |old: &&mut String| old.split('=').next() == Some(param.key);
        if let Some(old) = self.init_env.iter_mut().find(same) {
            *old = param.word.to_owned();
        } else if self.init_env.len() < INIT_LIMIT {
            self.init_env.push(param.word.to_owned());
        } else {
            self.warn(format!("{}: too many boot variables", param.word));
        }
    }

    fn init_arg(&mut self, word: &str) {
        if self.init_args.len() < INIT_LIMIT {
            self.init_args.push(word.to_owned());
        } else {
            self.warn(format!("{word}: too many arguments for init"));
        }
    }

    fn path(&mut self, param: Param<'_>) -> Option<String> {
        match param.value {
            Some(value) if !value.is_empty() => Some(value.to_owned()),
            _ => {
                self.bad(param, "a path");
                None
            }
        }
    }

    fn bad(&mut self, param: Param<'_>, wanted: &str) {
        self.warn(format!("{}: ignored, wants {wanted}", param.word));
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(Warning(text));
    }
}

/// Linux's own parameters that change nothing here: neither warned about nor
/// passed to init, as on Linux.
const KNOWN_UNUSED: &[&str] = &[
    "ro",
    "rw",
    "rootwait",
    "rootdelay",
    "rootfstype",
    "rootflags",
    "initrd",
    "nokaslr",
    "nohlt",
    "ignore_loglevel",
    "noinitrd",
    "keep_bootcon",
    "log_buf_len",
    "printk_time",
    "nowatchdog",
    "nmi_watchdog",
    "reboot",
    "reserve_mem",
    "memblock",
    "cma",
    "hugepages",
    "hugepagesz",
    "default_hugepagesz",
    "transparent_hugepage",
    "isolcpus",
    "nohz",
    "nohz_full",
    "rcu_nocbs",
    "mitigations",
    "kpti",
    "ssbd",
    "nospectre_v2",
    "nospectre_bhb",
    "spec_store_bypass_disable",
    "init_on_alloc",
    "init_on_free",
    "audit",
    "selinux",
    "apparmor",
    "lsm",
    "security",
    "acpi",
    "efi",
    "clk_ignore_unused",
    "pd_ignore_unused",
    "nr_cpus",
    "possible_cpus",
    "crashkernel",
    "oops",
    "randomize_va_space",
    "norandmaps",
    "swiotlb",
    "iommu",
    "pci",
    "net.ifnames",
    "fsck.mode",
];

/// The kernel's simple_strtol() for `panic=`.
fn parse_signed(text: &str) -> Option<i32> {
    let (text, negative) = match text.strip_prefix('-') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (number, rest) = leading_int(text)?;
    if !rest.is_empty() {
        return None;
    }
    let number = i32::try_from(number).ok()?;
    if negative { number.checked_neg() } else { Some(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn typed() {
        let args = BootArgs::parse(
            "console=ttyS0 console=ttyAMA0,115200 earlycon=pl011,0x9000000 rdinit=/bin/sh \
             root=/dev/vda maxcpus=2 mem=1G panic=-1 loglevel=7 kvm-arm.mode=nvhe \
             id_aa64mmfr1.vh=0 hypha.stats hypha.log-ring=64K",
        );
        assert_eq!(args.consoles, ["ttyS0", "ttyAMA0,115200"]);
        assert_eq!(args.earlycon.as_deref(), Some("pl011,0x9000000"));
        assert_eq!(args.rdinit.as_deref(), Some("/bin/sh"));
        assert_eq!(args.root.as_deref(), Some("/dev/vda"));
        assert_eq!(args.maxcpus, Some(2));
        assert_eq!(args.mem, Some(1 << 30));
        assert_eq!(args.panic, -1);
        assert_eq!(args.loglevel, Some(7));
        assert_eq!(args.kvm_mode, Some(KvmMode::Nvhe));
        assert!(args.hide_vhe);
        assert!(args.hypha_flag("stats"));
        assert_eq!(args.hypha("log_ring"), Some("64K"));
        assert!(!args.hypha_flag("other"));
        assert!(args.warnings.is_empty());
        assert_eq!(args.init_env, ["HOME=/", "TERM=linux"]);
        assert!(args.init_args.is_empty());
    }

    #[test]
    fn defaults() {
        let args = BootArgs::parse("");
        assert_eq!((args.panic, args.loglevel, args.quiet, args.kvm_mode), (0, None, false, None));
    }

    #[test]
    fn quiet_lowers_the_level_and_the_last_word_counts() {
        assert_eq!(BootArgs::parse("quiet").loglevel, Some(4));
        assert_eq!(BootArgs::parse("quiet loglevel=8").loglevel, Some(8));
        assert_eq!(BootArgs::parse("loglevel=99").loglevel, Some(15));
    }

    #[test]
    fn what_init_gets() {
        let args = BootArgs::parse(
            "dropped init=/sbin/init single FOO=bar TERM=vt100 ro mod.p=1 -- -x FOO=2",
        );
        assert_eq!(args.init_args, ["single", "-x", "FOO=2"]);
        assert_eq!(args.init_env, ["HOME=/", "TERM=vt100", "FOO=bar"]);
    }

    #[test]
    fn warnings_name_what_is_wrong() {
        let args = BootArgs::parse("kvm-arm.mode=turbo mem=lots panic=soon init= maxcpus=-1");
        let text: Vec<_> = args.warnings.iter().map(|warning| warning.to_string()).collect();
        assert_eq!(
            text,
            [
                "kvm-arm.mode=turbo: unknown mode; known are vhe, nvhe, protected, nested, type1, none",
                "mem=lots: ignored, wants a size such as 512M",
                "panic=soon: ignored, wants a number of seconds",
                "init=: ignored, wants a path",
                "maxcpus=-1: ignored, wants a number",
            ]
        );
        assert_eq!(args.kvm_mode, None);
        assert_eq!(args.panic, 0);
    }

    #[test]
    fn init_limits() {
        let mut line = String::new();
        for index in 0..40 {
            line.push_str(&format!("V{index}=1 w{index} "));
        }
        let args = BootArgs::parse(&line);
        assert_eq!(args.init_env.len(), 32);
        assert_eq!(args.init_args.len(), 32);
        assert_eq!(args.warnings.len(), 18);
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in ".{0,200}") {
            let _ = BootArgs::parse(&line);
        }

        #[test]
        fn likely_lines_are_survived(
            words in prop::collection::vec(
                "(mem|panic|init|console|loglevel|kvm-arm.mode|hypha.x|--|a)(=[-0-9a-zKMG\"]{0,6})?",
                0..20,
            )
        ) {
            let _ = BootArgs::parse(&words.join(" "));
        }
    }
}
