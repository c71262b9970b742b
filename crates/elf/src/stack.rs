//! What a new program finds on its stack (System V ABI for the Arm 64-bit
//! Architecture, "Process initialization"; getauxval(3)).
//!
//! From the top down, as Linux lays it: eight zero bytes; the path of the
//! executable; the environment's strings; the arguments' strings; the
//! platform's name and 16 random bytes; then, 16-byte aligned at the stack
//! pointer, argc, argv and its NULL, envp and its NULL, the auxiliary vector.

use crate::PAGE_SIZE;
use crate::header::Header;
use alloc::vec::Vec;
use base::{Errno, Result, Room, UserMem, UserMemExt};

/// The tags of the auxiliary vector (linux/auxvec.h, asm/auxvec.h).
#[expect(missing_docs, reason = "getauxval(3) has them")]
pub mod aux {
    pub const AT_NULL: u64 = 0;
    pub const AT_PHDR: u64 = 3;
    pub const AT_PHENT: u64 = 4;
    pub const AT_PHNUM: u64 = 5;
    pub const AT_PAGESZ: u64 = 6;
    pub const AT_BASE: u64 = 7;
    pub const AT_FLAGS: u64 = 8;
    pub const AT_ENTRY: u64 = 9;
    pub const AT_UID: u64 = 11;
    pub const AT_EUID: u64 = 12;
    pub const AT_GID: u64 = 13;
    pub const AT_EGID: u64 = 14;
    pub const AT_PLATFORM: u64 = 15;
    pub const AT_HWCAP: u64 = 16;
    pub const AT_CLKTCK: u64 = 17;
    pub const AT_SECURE: u64 = 23;
    pub const AT_RANDOM: u64 = 25;
    pub const AT_HWCAP2: u64 = 26;
    pub const AT_EXECFN: u64 = 31;
    pub const AT_SYSINFO_EHDR: u64 = 33;
    pub const AT_MINSIGSTKSZ: u64 = 51;
}

/// The longest single string, with its NUL (MAX_ARG_STRLEN).
const MAX_STRING: usize = 32 * PAGE_SIZE as usize;
/// What arguments and environment may always take (ARG_MAX) ...
const ARG_MIN: u64 = 128 << 10;
/// ... and what they may never exceed: three quarters of the usual 8 MiB.
const ARG_MAX: u64 = (8 << 20) / 4 * 3;
const PLATFORM: &[u8] = b"aarch64\0";
const POINTER: u64 = 8;

/// NUL-terminated strings, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Strings {
    bytes: Vec<u8>,
    count: usize,
}

impl Strings {
    fn push(&mut self, string: &[u8]) -> Result<()> {
        let size = string.len().saturating_add(1);
        self.bytes.make_room(size)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split_inclusive(|&byte| byte == 0)
    }
}

/// The arguments and the environment of a new program, within Linux's limits
/// (execve(2), "Limits on size of arguments and environment").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    argv: Strings,
    envp: Strings,
    /// What is left for strings and the pointers to them.
    room: u64,
}

impl Args {
    /// No strings yet; `stack_limit` is RLIMIT_STACK's soft limit.
    pub fn new(stack_limit: u64) -> Args {
        let room = (stack_limit / 4).clamp(ARG_MIN, ARG_MAX);
        Args { argv: Strings::default(), envp: Strings::default(), room }
    }

    /// Copies both vectors from user memory; a NULL vector is empty, as on
    /// Linux. `E2BIG` if there is too much, `EFAULT` if it is not there.
    pub fn from_user(
        memory: &impl UserMem,
        argv: u64,
        envp: u64,
        stack_limit: u64,
    ) -> Result<Args> {
        let mut args = Args::new(stack_limit);
        each_user_string(memory, argv, |string| args.push_arg(string))?;
        each_user_string(memory, envp, |string| args.push_env(string))?;
        Ok(args)
    }

    /// Adds an argument: `E2BIG` beyond the limits.
    pub fn push_arg(&mut self, arg: &[u8]) -> Result<()> {
        self.take_room(arg)?;
        self.argv.push(arg)
    }

    /// Adds a `NAME=value`: `E2BIG` beyond the limits.
    pub fn push_env(&mut self, variable: &[u8]) -> Result<()> {
        self.take_room(variable)?;
        self.envp.push(variable)
    }

    /// How many arguments there are.
    pub fn argc(&self) -> usize {
        self.argv.count
    }

    /// The arguments with the NULs between them: what /proc/PID/cmdline shows
    /// at first.
    pub fn argv_bytes(&self) -> &[u8] {
        &self.argv.bytes
    }

    /// What starting a script does: argument 0 becomes the interpreter, its
    /// argument if there is one, and the script's path.
    pub fn prepend_script(&mut self, script: &crate::Script<'_>, path: &[u8]) -> Result<()> {
        let mut argv = Strings::default();
        for string in [Some(script.interpreter), script.argument, Some(path)].into_iter().flatten()
        {
            self.take_room(string)?;
            argv.push(string)?;
        }
        for string in self.argv.iter().skip(1) {
            argv.push(string.strip_suffix(b"\0").unwrap_or(string))?;
        }
        if let Some(replaced) = self.argv.iter().next() {
            let given_back = (replaced.len() as u64).saturating_add(POINTER);
            self.room = self.room.saturating_add(given_back);
        }
        self.argv = argv;
        Ok(())
    }

    fn take_room(&mut self, string: &[u8]) -> Result<()> {
        let size = string.len().checked_add(1).ok_or(Errno::E2BIG)?;
        if size > MAX_STRING {
            return Err(Errno::E2BIG);
        }
        let size = (size as u64).saturating_add(POINTER);
        self.room = self.room.checked_sub(size).ok_or(Errno::E2BIG)?;
        Ok(())
    }
}

fn each_user_string(
    memory: &impl UserMem,
    vector: u64,
    mut push: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if vector == 0 {
        return Ok(());
    }
    // Ends by E2BIG: every string takes at least nine bytes of the room.
    let mut at = vector;
    loop {
        let pointer: u64 = memory.read_obj(at)?;
        if pointer == 0 {
            return Ok(());
        }
        let string = memory.read_cstr(pointer, MAX_STRING).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            other => other,
        })?;
        push(&string)?;
        at = at.checked_add(POINTER).ok_or(Errno::EFAULT)?;
    }
}

/// The values of the auxiliary vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuxValues {
    /// `AT_PHDR`: [`Image::phdr`](crate::Image::phdr).
    pub phdr: u64,
    /// `AT_PHNUM`: [`Image::phnum`](crate::Image::phnum).
    pub phnum: u16,
    /// `AT_BASE`: where the dynamic linker is loaded; 0 without one.
    pub base: u64,
    /// `AT_ENTRY`: the program's own entry point.
    pub entry: u64,
    /// `AT_UID`
    pub uid: u32,
    /// `AT_EUID`
    pub euid: u32,
    /// `AT_GID`
    pub gid: u32,
    /// `AT_EGID`
    pub egid: u32,
    /// `AT_HWCAP`
    pub hwcap: u64,
    /// `AT_HWCAP2`
    pub hwcap2: u64,
    /// `AT_SECURE`: whether to distrust the environment.
    pub secure: bool,
    /// `AT_SYSINFO_EHDR`: where the vDSO is mapped, if there is one.
    pub sysinfo_ehdr: Option<u64>,
    /// `AT_MINSIGSTKSZ`: the smallest alternate signal stack.
    pub minsigstksz: u64,
    /// What `AT_RANDOM` points to.
    pub random: [u8; 16],
}

/// Where things are on the stack: what /proc/PID/{cmdline,environ,stat} need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackLayout {
    /// Start of the arguments' strings.
    pub arg_start: u64,
    /// Their end.
    pub arg_end: u64,
    /// Start of the environment's strings.
    pub env_start: u64,
    /// Their end.
    pub env_end: u64,
    /// Where the auxiliary vector is.
    pub auxv: u64,
}

/// The initial stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackImage {
    /// SP_EL0 at the start: 16-byte aligned. [`bytes`](Self::bytes) go here.
    pub sp: u64,
    /// What to write there; it ends at the top of the stack.
    pub bytes: Vec<u8>,
    /// Where its parts are.
    pub layout: StackLayout,
}

impl StackImage {
    /// Lays the stack out below `top`, which is 16-byte aligned. `path` is the
    /// file name as given to execve (`AT_EXECFN`). `E2BIG` if it does not fit
    /// above address 0.
    pub fn build(top: u64, args: &Args, path: &[u8], values: &AuxValues) -> Result<StackImage> {
        let mut addr = Below(top);
        addr.take(8)?;
        let execfn = addr.take(path.len().saturating_add(1))?;
        let env_end = execfn;
        let env_start = addr.take(args.envp.bytes.len())?;
        // A program is never started without argv[0]: it gets an empty one.
        let empty = Strings { bytes: Vec::from([0]), count: 1 };
        let argv = if args.argv.count == 0 { &empty } else { &args.argv };
        let arg_start = addr.take(argv.bytes.len())?;
        let strings = arg_start;
        let platform = addr.take(PLATFORM.len())?;
        let random = addr.take(values.random.len())?;

        let vector = auxiliary_vector(values, platform, random, execfn);
        let used = vector.iter().filter(|&&(tag, _)| tag != UNUSED).count();
        // argc, two NULLs, the pointers, two words for each auxiliary value.
        let words = [argv.count, args.envp.count, used, used, 3]
            .into_iter()
            .try_fold(0usize, usize::checked_add)
            .ok_or(Errno::E2BIG)?;
        let size = words.checked_mul(POINTER as usize).ok_or(Errno::E2BIG)?;
        addr.take(size)?;
        let sp = addr.0 & !15;

        let total = top.checked_sub(sp).and_then(|size| usize::try_from(size).ok());
        let mut image = Writer { sp, bytes: Vec::new() };
        image.bytes.make_room(total.ok_or(Errno::E2BIG)?)?;
        image.word(argv.count as u64);
        image.pointers(arg_start, argv);
        image.pointers(env_start, &args.envp);
        let auxv = image.here();
        for (tag, value) in vector {
            if tag != UNUSED {
                image.word(tag);
                image.word(value);
            }
        }
        image.bytes_at(random, &values.random);
        image.bytes_at(platform, PLATFORM);
        image.bytes_at(strings, &argv.bytes);
        image.bytes_at(env_start, &args.envp.bytes);
        image.bytes_at(execfn, path);
        image.fill_to(top);
        let layout = StackLayout { arg_start, arg_end: env_start, env_start, env_end, auxv };
        Ok(StackImage { sp, bytes: image.bytes, layout })
    }
}

/// Marks a place in the vector that is left out; Linux's AT_IGNORE.
const UNUSED: u64 = 1;

fn auxiliary_vector(
    values: &AuxValues,
    platform: u64,
    random: u64,
    execfn: u64,
) -> [(u64, u64); 21] {
    let vdso = values.sysinfo_ehdr;
    [
        (if vdso.is_some() { aux::AT_SYSINFO_EHDR } else { UNUSED }, vdso.unwrap_or(0)),
        (aux::AT_MINSIGSTKSZ, values.minsigstksz),
        (aux::AT_HWCAP, values.hwcap),
        (aux::AT_PAGESZ, PAGE_SIZE),
        // USER_HZ: what times(2) and /proc count in.
        (aux::AT_CLKTCK, 100),
        (aux::AT_PHDR, values.phdr),
        (aux::AT_PHENT, u64::from(Header::PHENT)),
        (aux::AT_PHNUM, u64::from(values.phnum)),
        (aux::AT_BASE, values.base),
        (aux::AT_FLAGS, 0),
        (aux::AT_ENTRY, values.entry),
        (aux::AT_UID, u64::from(values.uid)),
        (aux::AT_EUID, u64::from(values.euid)),
        (aux::AT_GID, u64::from(values.gid)),
        (aux::AT_EGID, u64::from(values.egid)),
        (aux::AT_SECURE, u64::from(values.secure)),
        (aux::AT_RANDOM, random),
        (aux::AT_HWCAP2, values.hwcap2),
        (aux::AT_EXECFN, execfn),
        (aux::AT_PLATFORM, platform),
        (aux::AT_NULL, 0),
    ]
}

/// Hands out addresses from the top down.
struct Below(u64);

impl Below {
    fn take(&mut self, size: usize) -> Result<u64> {
        self.0 = self.0.checked_sub(size as u64).ok_or(Errno::E2BIG)?;
        Ok(self.0)
    }
}

/// Writes bytes at ascending addresses.
struct Writer {
    sp: u64,
    bytes: Vec<u8>,
}

impl Writer {
    fn here(&self) -> u64 {
        self.sp.saturating_add(self.bytes.len() as u64)
    }

    fn word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    /// The addresses of `strings`, which begin at `start`, and a NULL.
    fn pointers(&mut self, start: u64, strings: &Strings) {
        let mut at = start;
        for string in strings.iter() {
            self.word(at);
            at = at.saturating_add(string.len() as u64);
        }
        self.word(0);
    }

    fn fill_to(&mut self, addr: u64) {
        let size = addr.saturating_sub(self.sp);
        if size > self.bytes.len() as u64 {
            self.bytes.resize(size as usize, 0);
        }
    }

    fn bytes_at(&mut self, addr: u64, bytes: &[u8]) {
        self.fill_to(addr);
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Script;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;

    const TOP: u64 = 0x7fff_f000;
    const STACK: u64 = 8 << 20;

    /// Reads a stack image as a program's start-up code does.
    struct Program<'a>(&'a StackImage);

    type Strings = Vec<Vec<u8>>;

    impl Program<'_> {
        fn word(&self, addr: u64) -> u64 {
            let at = (addr - self.0.sp) as usize;
            u64::from_le_bytes(self.0.bytes[at..at + 8].try_into().unwrap())
        }
        fn string(&self, addr: u64) -> Vec<u8> {
            let at = (addr - self.0.sp) as usize;
            self.0.bytes[at..].split(|&byte| byte == 0).next().unwrap().to_vec()
        }
        fn strings(&self, at: &mut u64) -> Strings {
            let mut found = vec![];
            loop {
                let pointer = self.word(*at);
                *at += 8;
                if pointer == 0 {
                    return found;
                }
                found.push(self.string(pointer));
            }
        }
        fn all(&self) -> (Strings, Strings, BTreeMap<u64, u64>) {
            let mut at = self.0.sp;
            let argc = self.word(at);
            at += 8;
            let argv = self.strings(&mut at);
            assert_eq!(argv.len() as u64, argc);
            let envp = self.strings(&mut at);
            assert_eq!(at, self.0.layout.auxv);
            let mut auxv = BTreeMap::new();
            while self.word(at) != aux::AT_NULL {
                assert!(auxv.insert(self.word(at), self.word(at + 8)).is_none());
                at += 16;
            }
            (argv, envp, auxv)
        }
    }

    fn args(argv: &[&[u8]], envp: &[&[u8]]) -> Args {
        let mut args = Args::new(STACK);
        argv.iter().for_each(|arg| args.push_arg(arg).unwrap());
        envp.iter().for_each(|variable| args.push_env(variable).unwrap());
        args
    }

    #[test]
    fn as_a_program_sees_it() {
        let values = AuxValues {
            phdr: 0x400_040,
            phnum: 6,
            entry: 0x400_5c0,
            uid: 1,
            secure: true,
            hwcap: 0xff,
            minsigstksz: 4720,
            random: *b"0123456789abcdef",
            ..AuxValues::default()
        };
        let args = args(&[b"sh", b"-c", b""], &[b"HOME=/"]);
        let image = StackImage::build(TOP, &args, b"/bin/sh", &values).unwrap();
        assert_eq!(image.sp % 16, 0);
        assert_eq!(image.sp + image.bytes.len() as u64, TOP);
        assert_eq!(image.bytes[image.bytes.len() - 8..], [0; 8]);
        let program = Program(&image);
        let (argv, envp, auxv) = program.all();
        assert_eq!(argv, [b"sh".to_vec(), b"-c".to_vec(), vec![]]);
        assert_eq!(envp, [b"HOME=/".to_vec()]);
        assert_eq!(program.string(auxv[&aux::AT_EXECFN]), b"/bin/sh");
        assert_eq!(program.string(auxv[&aux::AT_PLATFORM]), b"aarch64");
        let random = (auxv[&aux::AT_RANDOM] - image.sp) as usize;
        assert_eq!(&image.bytes[random..random + 16], b"0123456789abcdef");
        assert_eq!((auxv[&aux::AT_PHENT], auxv[&aux::AT_PHNUM]), (56, 6));
        assert_eq!((auxv[&aux::AT_PAGESZ], auxv[&aux::AT_CLKTCK]), (4096, 100));
        assert_eq!((auxv[&aux::AT_SECURE], auxv[&aux::AT_UID]), (1, 1));
        assert_eq!(auxv[&aux::AT_MINSIGSTKSZ], 4720);
        assert!(!auxv.contains_key(&aux::AT_SYSINFO_EHDR));
        let layout = image.layout;
        assert_eq!(layout.arg_end - layout.arg_start, 7);
        assert_eq!(layout.env_end - layout.env_start, 7);
        let at = (layout.arg_start - image.sp) as usize;
        assert_eq!(&image.bytes[at..at + 7], b"sh\0-c\0\0");
    }

    #[test]
    fn nobody_starts_without_a_name() {
        let image = StackImage::build(TOP, &args(&[], &[]), b"/x", &AuxValues::default()).unwrap();
        assert_eq!(Program(&image).all().0, [b"".to_vec()]);
    }

    #[test]
    fn scripts() {
        let mut args = args(&[b"run", b"a", b""], &[]);
        let script = Script { interpreter: b"/bin/sh", argument: Some(b"-e x") };
        args.prepend_script(&script, b"/tmp/run").unwrap();
        assert_eq!(args.argv_bytes(), b"/bin/sh\0-e x\0/tmp/run\0a\0\0");
        assert_eq!(args.argc(), 5);
        let mut none = self::args(&[], &[]);
        none.prepend_script(&Script { interpreter: b"i", argument: None }, b"p").unwrap();
        assert_eq!(none.argv_bytes(), b"i\0p\0");
    }

    #[test]
    fn limits() {
        let mut args = Args::new(STACK);
        assert_eq!(args.push_arg(&vec![b'a'; MAX_STRING]), Err(Errno::E2BIG));
        args.push_arg(&vec![b'a'; MAX_STRING - 1]).unwrap();
        // A quarter of the stack's limit, 2 MiB here.
        let mut total = MAX_STRING + 8;
        while args.push_env(&[b'b'; 999]).is_ok() {
            total += 1008;
        }
        assert!(((2 << 20) - 1008..=2 << 20).contains(&total));
        // Never less than 128 KiB, never more than 6 MiB.
        assert_eq!(Args::new(0).room, 128 << 10);
        assert_eq!(Args::new(u64::MAX).room, 6 << 20);
        let low = StackImage::build(64, &Args::new(0), b"/x", &AuxValues::default());
        assert_eq!(low, Err(Errno::E2BIG));
    }

    struct Flat(Vec<u8>);

    impl UserMem for Flat {
        fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
            let at = addr.checked_sub(4096).ok_or(Errno::EFAULT)? as usize;
            out.copy_from_slice(self.0.get(at..at + out.len()).ok_or(Errno::EFAULT)?);
            Ok(())
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<()> {
            Err(Errno::EFAULT)
        }
    }

    #[test]
    fn from_user_memory() {
        let mut memory = vec![0; 4096];
        for (at, word) in [(0, 4096 + 64), (8, 4096 + 67), (16, 0), (24, 1)] {
            memory[at..at + 8].copy_from_slice(&(word as u64).to_le_bytes());
        }
        memory[64..70].copy_from_slice(b"ls\0-l\0");
        let memory = Flat(memory);
        let args = Args::from_user(&memory, 4096, 0, STACK).unwrap();
        assert_eq!(args.argv_bytes(), b"ls\0-l\0");
        assert_eq!(Args::from_user(&memory, 4096, 4096 + 24, STACK), Err(Errno::EFAULT));
        assert_eq!(Args::from_user(&memory, 1, 0, STACK), Err(Errno::EFAULT));
    }

    #[test]
    fn vectors_without_end_are_too_big() {
        // Every word points at the first one, an empty string: 0x1000.
        let mut memory = vec![];
        for _ in 0..(1 << 20) {
            memory.extend_from_slice(&0x1000u64.to_le_bytes());
        }
        let result = Args::from_user(&Flat(memory), 4096, 0, STACK);
        assert_eq!(result, Err(Errno::E2BIG));
    }

    proptest! {
        #[test]
        fn round_trip(
            argv in prop::collection::vec("[a-z]{0,20}", 1..8),
            envp in prop::collection::vec("[A-Z]=[a-z]{0,20}", 0..8),
            path in "/[a-z]{0,15}",
            vdso in any::<Option<u64>>(),
        ) {
            let mut args = Args::new(STACK);
            argv.iter().for_each(|arg| args.push_arg(arg.as_bytes()).unwrap());
            envp.iter().for_each(|variable| args.push_env(variable.as_bytes()).unwrap());
            let values = AuxValues { sysinfo_ehdr: vdso, ..AuxValues::default() };
            let image = StackImage::build(TOP, &args, path.as_bytes(), &values).unwrap();
            prop_assert_eq!(image.sp % 16, 0);
            prop_assert_eq!(image.sp + image.bytes.len() as u64, TOP);
            let (got_argv, got_envp, auxv) = Program(&image).all();
            prop_assert!(got_argv.iter().map(|arg| arg.as_slice()).eq(argv.iter().map(|a| a.as_bytes())));
            prop_assert!(got_envp.iter().map(|arg| arg.as_slice()).eq(envp.iter().map(|a| a.as_bytes())));
            prop_assert_eq!(auxv.get(&aux::AT_SYSINFO_EHDR).copied(), vdso);
        }
    }
}
