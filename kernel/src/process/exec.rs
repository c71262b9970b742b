//! execve(): another program in the same process; and the first program.

use super::credentials::{Credentials, Limits, resource};
use super::space::{Mm, MmUser};
use super::{Parts, Process, Thread, clone, exit, signals, space, start_frame, table};
use crate::syscall::{self, Failure};
use crate::task::Task;
use crate::wait::Ended;
use crate::{el0, random, sched};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::trap::TrapFrame;
use base::{Errno, Lock, PAGE_SIZE, Result, UserMem, room};
use core::sync::atomic::Ordering::*;
use elf::{
    Args, AuxValues, Header, Image, LoadStep, MAX_SCRIPT_DEPTH, Protection,
    SCRIPT_HEAD, Script, StackImage, StackLayout,
};
use frame::Frame;
use mm::abi::*;
use mm::{Layout, Map, MapObject, ObjectId, VmObject};
use signal::{Restart, SigSet, Signal};
use vfs::{Caller, FdTable, FdTableUser, FsContext, Namespace, OpenFile, OpenFlags, Place};

/// A program, loaded into an address space of its own.
struct Program {
    mm: Mm,
    entry: u64,
    sp: u64,
    stack: StackLayout,
    exe: Option<Place>,
    comm: Vec<u8>,
}

/// How [`load`] opens files.
type Open<'a> = &'a dyn Fn(&[u8]) -> Result<Arc<OpenFile>>;

/// Loads the program at `path`; `first` is the opened file if it has no path
/// that another process could use (execveat() on a descriptor).
fn load(
    path: &[u8],
    first: Option<Arc<OpenFile>>,
    open: Open<'_>,
    mut args: Args,
    limits: &Limits,
) -> Result<Program> {
    let caller = super::caller();
    let comm = room::try_copy(path.rsplit(|&byte| byte == b'/').next().unwrap_or(path))?;
    let mut program = room::try_copy(path)?;
    let mut file = match first {
        Some(file) => file,
        None => open(path)?,
    };
    for _ in 0..=MAX_SCRIPT_DEPTH {
        let mut head = [0; SCRIPT_HEAD];
        let len = read_some(&file, &caller, 0, &mut head)?;
        let head = head.get(..len).ok_or(Errno::EIO)?;
        let Some(script) = Script::parse(head) else {
            return load_elf(path, &file, head, comm, open, &args, limits);
        };
        let script = script?;
        args.prepend_script(&script, &program)?;
        program = room::try_copy(script.interpreter)?;
        file = open(&program)?;
    }
    Err(Errno::ELOOP)
}

/// Reads until `out` is full or the file ends.
fn read_some(file: &OpenFile, caller: &Caller, offset: u64, out: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.checked_add(done as u64).ok_or(Errno::ENOEXEC)?;
        let at = i64::try_from(at).map_err(|_| Errno::ENOEXEC)?;
        match file.read_at(caller, at, rest)? {
            0 => break,
            len => done = done.saturating_add(len),
        }
    }
    Ok(done)
}

fn read_exactly(file: &OpenFile, caller: &Caller, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = room::try_zeros(len)?;
    match read_some(file, caller, offset, &mut bytes)? == len {
        true => Ok(bytes),
        false => Err(Errno::ENOEXEC),
    }
}

fn parse_image(file: &OpenFile, caller: &Caller, head: &[u8], task_size: u64) -> Result<Image> {
    let header = Header::parse(head)?;
    let headers = read_exactly(file, caller, header.phoff, header.phdr_size())?;
    Image::parse(&header, &headers, task_size)
}

/// How much stack there is below the arguments before it has to grow.
const STACK_ROOM: u64 = 128 << 10;

fn load_elf(
    path: &[u8],
    file: &Arc<OpenFile>,
    head: &[u8],
    comm: Vec<u8>,
    open: Open<'_>,
    args: &Args,
    limits: &Limits,
) -> Result<Program> {
    let caller = super::caller();
    let layout = Layout::new(48, random::word(), limits.soft(resource::STACK));
    let image = parse_image(file, &caller, head, layout.task_size)?;
    let interpreter = match image.interpreter() {
        None => None,
        Some((offset, len)) => {
            let path = read_exactly(file, &caller, offset, len)?;
            let file = open(Image::interpreter_path(&path)?)?;
            let head = read_exactly(&file, &caller, 0, Header::SIZE)?;
            Some((parse_image(&file, &caller, &head, layout.task_size)?, file))
        }
    };

    let mm = Mm::new(layout)?;
    // As Linux: two thirds up, moved by up to 4 GiB.
    let wanted = (layout.task_size / 3).wrapping_mul(2);
    let moved = (random::word() & 0xf_ffff).wrapping_mul(PAGE_SIZE);
    let bias = image.bias_for(wanted.saturating_add(moved));
    map_image(&mm, &image, bias, file, layout.task_size)?;
    mm.set_brk_start(image.brk(bias));
    let (entry, base) = match &interpreter {
        None => (image.entry(bias), 0),
        Some((image, file)) => {
            let base = place_interpreter(&mm, image)?;
            map_image(&mm, image, base, file, layout.task_size)?;
            (image.entry(base), base)
        }
    };
    let (vdso, sigreturn) = crate::vdso::map(&mm)?;
    mm.trampoline.store(sigreturn, Relaxed);

    let (hwcap, hwcap2) = hwcaps();
    let values = AuxValues {
        phdr: image.phdr(bias),
        phnum: image.phnum(),
        base,
        entry: image.entry(bias),
        hwcap,
        hwcap2,
        minsigstksz: signal::MIN_STACK_AUX,
        random: random::array(),
        sysinfo_ehdr: Some(vdso),
        ..AuxValues::default()
    };
    let top = layout.stack_top & !15;
    let stack = StackImage::build(top, args, path, &values)?;
    let bottom = stack.sp.checked_sub(STACK_ROOM).ok_or(Errno::ENOMEM)? & !(PAGE_SIZE - 1);
    let executable = if image.executable_stack() { PROT_EXEC } else { 0 };
    mm.mmap(Map {
        addr: bottom,
        len: layout.stack_top.saturating_sub(bottom),
        prot: PROT_READ | PROT_WRITE | executable,
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN | MAP_STACK,
        object: None,
    })?;
    mm.write(stack.sp, &stack.bytes)?;
    let exe = file.place().cloned();
    Ok(Program { mm, entry, sp: stack.sp, stack: stack.layout, exe, comm })
}

fn prot(protection: Protection) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    bit(protection.read, PROT_READ)
        | bit(protection.write, PROT_WRITE)
        | bit(protection.execute, PROT_EXEC)
}

fn map_image(mm: &Mm, image: &Image, bias: u64, file: &Arc<OpenFile>, task_size: u64) -> Result<()> {
    let object = FileObject::of(file)?;
    for step in image.plan(bias, task_size)? {
        match step {
            LoadStep::File { addr, len, offset, protection } => {
                let object = Some(MapObject { object: object.clone(), offset, may_write: false });
                let flags = MAP_PRIVATE | MAP_FIXED;
                mm.mmap(Map { addr, len, prot: prot(protection), flags, object })?;
            }
            LoadStep::Anonymous { addr, len, protection } => {
                let flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS;
                mm.mmap(Map { addr, len, prot: prot(protection), flags, object: None })?;
            }
            LoadStep::Zero { addr, len, writable } => {
                // Not on the stack, which is small.
                static ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
                let zeros = ZEROS.get(..len as usize).ok_or(Errno::ENOEXEC)?;
                let cleared = mm.write(addr, zeros);
                if writable {
                    cleared?;
                }
            }
        }
    }
    Ok(())
}

/// Where the dynamic linker goes: its load bias.
fn place_interpreter(mm: &Mm, image: &Image) -> Result<u64> {
    let (_, len) = image.span();
    let room = len.saturating_add(image.align());
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    let start = mm.mmap(Map { addr: 0, len: room, prot: PROT_NONE, flags, object: None })?;
    mm.munmap(start, room)?;
    Ok(image.bias_for(start.saturating_add(image.align().saturating_sub(PAGE_SIZE))))
}

/// A file as memory management maps it.
pub struct FileObject {
    object: Arc<dyn vfs::VmObject>,
    id: ObjectId,
    name: alloc::string::String,
    /// Shared mappings may write to it: the file counts these.
    writable: bool,
}

impl FileObject {
    /// The object that an open file maps as; `ENODEV` or `EACCES` if it can't.
    pub fn of(file: &Arc<OpenFile>) -> Result<Arc<dyn VmObject>> {
        Self::make(file, false)
    }

    /// The same for a shared mapping that may be written, now or later; `EPERM`
    /// if seals forbid it.
    pub fn writable(file: &Arc<OpenFile>) -> Result<Arc<dyn VmObject>> {
        Self::make(file, true)
    }

    fn make(file: &Arc<OpenFile>, writable: bool) -> Result<Arc<dyn VmObject>> {
        let object = file.file().mmap()?;
        let stat = file.stat()?;
        let name = match (file.place(), super::namespace()) {
            (Some(place), Ok(namespace)) => {
                alloc::string::String::from_utf8_lossy(&place.path_shown(&namespace.root())?).into()
            }
            _ => file.file().describe().into(),
        };
        let id = ObjectId { dev: stat.dev.encode(), ino: stat.ino };
        if writable {
            object.map_writable()?;
        }
        let object = FileObject { object, id, name, writable };
        Ok(room::try_arc(object)?)
    }
}

impl Drop for FileObject {
    fn drop(&mut self) {
        if self.writable {
            self.object.unmap_writable();
        }
    }
}

impl VmObject for FileObject {
    fn frame(&self, index: u64, for_write: bool) -> Result<Frame> {
        self.object.frame(index, for_write)
    }

    fn id(&self) -> ObjectId {
        self.id
    }

    fn name(&self) -> alloc::string::String {
        self.name.clone()
    }
}

/// AT_HWCAP and AT_HWCAP2 (Linux's Documentation/arch/arm64/elf_hwcaps.rst):
/// what EL0 may use on all CPUs, and no more: no SVE, no pointer authentication yet.
pub fn hwcaps() -> (u64, u64) {
    use arch::cpu::field;
    use traps::id::*;
    let id = crate::features::common().id;
    let (isar0, isar1, pfr0) = (id.at(ID_AA64ISAR0), id.at(ID_AA64ISAR1), id.at(ID_AA64PFR0));
    let isar0 = |shift, least, bit: u32| u64::from(field(isar0, shift) >= least) << bit;
    let isar1 = |shift, least, bit: u32| u64::from(field(isar1, shift) >= least) << bit;
    let (fp, simd) = (field(pfr0, 16), field(pfr0, 20));
    let mut hwcap = 0;
    if fp != 15 {
        hwcap |= 1 | u64::from(fp == 1) << 9; // FP, FPHP
    }
    if simd != 15 {
        hwcap |= 1 << 1 | u64::from(simd == 1) << 10; // ASIMD, ASIMDHP
    }
    hwcap |= isar0(4, 1, 3) // AES
        | isar0(4, 2, 4) // PMULL
        | isar0(8, 1, 5) // SHA1
        | isar0(12, 1, 6) // SHA2
        | isar0(16, 1, 7) // CRC32
        | isar0(20, 2, 8) // ATOMICS
        | isar0(28, 1, 12) // ASIMDRDM
        | isar1(12, 1, 13) // JSCVT
        | isar1(16, 1, 14) // FCMA
        | isar1(20, 1, 15) // LRCPC
        | isar1(0, 1, 16) // DCPOP
        | isar0(32, 1, 17) // SHA3
        | isar0(36, 1, 18) // SM3
        | isar0(40, 1, 19) // SM4
        | isar0(44, 1, 20) // ASIMDDP
        | isar0(12, 2, 21) // SHA512
        | isar0(48, 1, 23) // ASIMDFHM
        | u64::from(field(pfr0, 48) != 0) << 24 // DIT
        | isar1(20, 2, 26) // ILRCPC
        | isar0(52, 1, 27); // FLAGM
    let hwcap2 = isar1(0, 2, 0) // DCPODP
        | isar0(52, 2, 7) // FLAGM2
        | isar1(32, 1, 8) // FRINT
        | isar1(52, 1, 13) // I8MM
        | isar1(44, 1, 14); // BF16
    (hwcap, hwcap2)
}

/// execve(), execveat(): `frame` becomes the new program's. `first` is what
/// execveat() was given for an empty path.
pub fn exec(
    frame: &mut TrapFrame,
    path: &[u8],
    first: Option<Arc<OpenFile>>,
    open: Open<'_>,
    args: Args,
) -> Result<(), Failure> {
    let task = sched::current();
    let thread = task.thread.get().ok_or(Errno::ESRCH)?;
    let limits = thread.process.limits();
    let program = load(path, first, open, args, &limits)?;
    thread.process.unshare_files()?;
    become_only_thread(&task, thread)?;
    // Nothing fails from here on.
    *frame = switch(thread, program);
    task.fp.write(&arch::fp::FpState::new());
    arch::sysreg::set_tpidr_el0(0);
    Ok(())
}

/// Ends all other threads of the process, and takes its ID.
fn become_only_thread(task: &Arc<Task>, thread: &Thread) -> Result<(), Failure> {
    let process = &thread.process;
    {
        let mut signals = process.signals.lock();
        // Somebody else is at it, and this thread is to end.
        if signals.exiting.is_some() || signals.exec.is_some() {
            return Err(Failure::Restart(Restart::Always));
        }
        signals.exec = Some(thread.tid());
    }
    let threads = process.threads.lock();
    threads.iter().filter(|other| !Arc::ptr_eq(other, task)).for_each(signals::alert);
    drop(threads);
    let gone = || if process.threads.lock().len() == 1 { Ok(()) } else { Err(Errno::EAGAIN) };
    let waited = super::until_killed(&process.thread_gone, gone);
    process.signals.lock().exec = None;
    match waited {
        Ok(()) => {}
        // Nobody interrupted it: a restart would be left for a later call.
        Err(Ended::Errno(errno)) => return Err(errno.into()),
        Err(_) => return Err(Failure::Restart(Restart::Always)),
    }
    if thread.tid() != process.pid {
        table::take_process_id(thread, task);
    }
    Ok(())
}

/// Puts the program in the process's place; where it begins.
fn switch(thread: &Thread, program: Program) -> TrapFrame {
    let process = &thread.process;
    let pid = process.pid;
    syscall::futex::thread_exits(thread);
    let Program { mm, entry, sp, stack, exe, comm } = program;
    let mm = Arc::new(mm);
    let (old, old_exe) = {
        let mut parts = process.parts.lock();
        parts.stack = Some(stack);
        (parts.mm.replace(MmUser::new(mm.clone())), core::mem::replace(&mut parts.exe, exe))
    };
    space::activate(Some(&mm));
    // A parent in vfork() has its memory back.
    clone::release_parent(thread);
    drop(old_exe);
    if let Some(old) = old {
        old.leave();
    }

    if let Ok(files) = process.files() {
        // Its own since `exec`, which could still fail.
        files.exec();
    }
    process.signals.lock().actions.reset_for_exec();
    thread.signals.lock().reset_for_exec();
    thread.set_comm(&comm);
    table::note_exec(pid);
    start_frame(entry, sp)
}

/// Starts process 1: `program` with `args` and `environment`, in `namespace`.
pub fn start_init(
    namespace: Arc<Namespace>,
    programs: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
) -> Result<()> {
    let pid = table::new_id()?;
    let fs = FsContext::new(&namespace);
    super::set_namespace(namespace);
    let parts = Parts {
        mm: None,
        files: Some(FdTableUser::new(Arc::new(FdTable::new()))),
        fs: Some(Arc::new(Lock::new(super::LEAF, fs))),
        exe: None,
        stack: None,
        limits: Limits::new(),
        credentials: Credentials::default(),
    };
    let process = Arc::new(Process::new(pid, parts, Box::default()));
    process.signals.lock().unkillable = true;
    let task = Task::new(pid, move || {
        let registers = first_program(&programs, &args, &environment);
        // What the closure owns is dropped here, since it does not return.
        drop((programs, args, environment));
        match registers {
            Some(registers) => el0::enter(&registers),
            None => exit::thread(),
        }
    })?;
    let thread = Thread::new(process.clone(), pid, SigSet::EMPTY, *b"init\0\0\0\0\0\0\0\0\0\0\0\0");
    task.thread.call_once(|| thread);
    process.threads.lock().push(task.clone());
    table::add_process(&process, 0, Signal::SIGCHLD.number())?;
    table::add_thread(&task);
    sched::start(&task);
    Ok(())
}

/// In process 1: opens the console three times and loads the first program
/// that there is.
fn first_program(
    programs: &[Vec<u8>],
    args: &[Vec<u8>],
    environment: &[Vec<u8>],
) -> Option<TrapFrame> {
    if let Err(errno) = open_console() {
        log::warn!("init: /dev/console: {errno}: init has no terminal");
    }
    let task = sched::current();
    let thread = task.thread.get()?;
    let limits = thread.process.limits();
    for path in programs {
        let loaded = first_args(path, args, environment, &limits)
            .and_then(|args| load(path, None, &open_program, args, &limits));
        match loaded {
            Ok(program) => {
                log::info!("Run {} as init process", path.escape_ascii());
                return Some(switch(thread, program));
            }
            Err(errno) => log::error!("init: {}: {errno}", path.escape_ascii()),
        }
    }
    let names = programs.iter().map(|path| path.escape_ascii());
    let names: Vec<_> = names.map(|name| alloc::format!("{name}")).collect();
    crate::panic::fatal(format_args!("no init found: tried {}", names.join(", ")))
}

fn first_args(
    path: &[u8],
    args: &[Vec<u8>],
    environment: &[Vec<u8>],
    limits: &Limits,
) -> Result<Args> {
    let mut all = Args::new(limits.soft(resource::STACK));
    all.push_arg(path)?;
    args.iter().try_for_each(|arg| all.push_arg(arg))?;
    environment.iter().try_for_each(|variable| all.push_env(variable))?;
    Ok(all)
}

/// Opens a program by its path, as the current process sees it.
pub fn open_program(path: &[u8]) -> Result<Arc<OpenFile>> {
    let caller = super::caller();
    let fs = super::current()?.fs()?.lock().clone();
    fs.files(super::namespace()?, &caller).open_exec(path, 0)
}

fn open_console() -> Result<()> {
    let caller = super::caller();
    let process = super::current()?;
    let fs = process.fs()?.lock().clone();
    let files = process.files()?;
    let open = fs.files(super::namespace()?, &caller);
    let console = open.open(b"/dev/console", OpenFlags::RDWR, 0)?;
    for _ in 0..3 {
        files.install(console.clone(), false, process.limit(resource::NOFILE))?;
    }
    Ok(())
}
