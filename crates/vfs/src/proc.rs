//! procfs (proc(5)): the kernel gives facts through [`ProcSource`], the text is
//! made here.
//!
//! No locks of its own but those of [`crate::synth`]; the source is called with
//! none held.

use crate::abi::{DevId, FileType, Stat, StatFs};
use crate::device::DeviceRegistry;
use crate::fdtable::{FdTable, NR_OPEN};
use crate::file::{Caller, File, Io, OpenFile, Position};
use crate::inode::{FileSystem, Inode, InodeRef, OpenRequest};
use crate::ops::FsContext;
use crate::path::{Namespace, Place};
use crate::pipe::{Pipe, PipeEnd};
use crate::synth::{Dir, Link, Listed, Lister, Look, OpenList, SynthFs, Text, look, make_room};
use crate::sysfs::{mask, ranges};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Errno, Nanos, Result, Room, room};
use core::any::Any;
use core::fmt::Write;

/// PROC_SUPER_MAGIC.
const MAGIC: u64 = 0x9fa0;
/// Process times are in hundredths of a second (USER_HZ).
const TICK: Nanos = 10_000_000;
/// Positions in the root from here on are processes.
const FIRST_PID: u64 = 1 << 16;

/// What is known about a process or thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process (thread group).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Parent.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// The terminal and its foreground group.
    pub tty: Option<(DevId, u32)>,
    /// The name (at most 15 bytes).
    pub comm: Vec<u8>,
    /// `R`, `S`, `D`, `T`, `t`, `Z` or `X`.
    pub state: u8,
    /// PF_* flags.
    pub flags: u32,
    /// Threads in the process.
    pub threads: u32,
    /// Real, effective, saved, file-system user.
    pub uids: [u32; 4],
    /// The same for groups.
    pub gids: [u32; 4],
    /// Page faults without and with I/O, own and of waited-for children.
    pub faults: [u64; 4],
    /// Time in user space, in the kernel, and both of waited-for children.
    pub times: [Nanos; 4],
    /// Priority as `stat` shows it: 20 plus nice.
    pub priority: i32,
    /// Nice.
    pub nice: i32,
    /// Real-time priority.
    pub rt_priority: u32,
    /// SCHED_*.
    pub policy: u32,
    /// Start, since boot.
    pub started: Nanos,
    /// Address space: bytes now, bytes at most, resident pages now, at most.
    pub vsize: u64,
    /// Peak of `vsize`.
    pub vpeak: u64,
    /// Resident anonymous pages.
    pub rss_anon: u64,
    /// Resident file pages.
    pub rss_file: u64,
    /// Resident shared memory pages.
    pub rss_shmem: u64,
    /// Peak of the resident pages.
    pub rss_peak: u64,
    /// Bytes of data, stack, program, libraries, page tables.
    pub data: u64,
    /// Bytes of stack.
    pub stack: u64,
    /// Bytes of program text.
    pub text: u64,
    /// Page tables' bytes.
    pub tables: u64,
    /// start_code, end_code, start_stack.
    pub code: [u64; 3],
    /// start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end.
    pub areas: [u64; 7],
    /// Pending for the thread, for the process; blocked; ignored; caught.
    pub signals: [u64; 5],
    /// What the parent gets at the end.
    pub exit_signal: u32,
    /// As `wait` shows it.
    pub exit_code: u32,
    /// The CPU it ran on last.
    pub cpu: u32,
    /// Where it may run, in order.
    pub allowed_cpus: Vec<u32>,
    /// Switches, voluntary and not.
    pub switches: [u64; 2],
    /// Permission bits that new files don't get.
    pub umask: u32,
    /// Who traces it.
    pub tracer: u32,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// Signals queued, and the limit.
    pub signal_queue: [u64; 2],
}

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// First address.
    pub start: u64,
    /// After the last.
    pub end: u64,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub exec: bool,
    /// Shared.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// The file's device and inode.
    pub file: (DevId, u64),
    /// The file's path, `[heap]`, `[stack]`, `[vdso]` or nothing.
    pub name: Vec<u8>,
}

/// The machine's memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// All that the kernel manages.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Free or easily made so.
    pub available: u64,
    /// Pages of files (tmpfs).
    pub cached: u64,
    /// Of these, shared memory and tmpfs.
    pub shmem: u64,
    /// Anonymous pages that are mapped.
    pub anon: u64,
    /// File pages that are mapped.
    pub mapped: u64,
    /// The kernel's heap.
    pub slab: u64,
    /// Kernel stacks.
    pub kernel_stacks: u64,
    /// Page tables.
    pub page_tables: u64,
    /// Page tables of guests: stage 2.
    pub guest_tables: u64,
    /// Anonymous memory in 2 MiB blocks.
    pub huge: u64,
    /// Address space promised (Committed_AS).
    pub committed: u64,
}

/// One CPU's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuInfo {
    /// Its number.
    pub cpu: u32,
    /// MIDR_EL1.
    pub midr: u64,
    /// Names of its features (AT_HWCAP's), separated by blanks.
    pub features: String,
    /// The counter's frequency.
    pub timer_hz: u64,
}

/// Where one CPU's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Its number.
    pub cpu: u32,
    /// Programs.
    pub user: Nanos,
    /// Programs with nice above 0.
    pub nice: Nanos,
    /// The kernel.
    pub system: Nanos,
    /// Nothing.
    pub idle: Nanos,
    /// Interrupts.
    pub irq: Nanos,
    /// Guests.
    pub guest: Nanos,
}

/// Facts about the system as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemInfo {
    /// `/proc/version` without its newline.
    pub version_line: String,
    /// uname's release.
    pub release: String,
    /// uname's version.
    pub version: String,
    /// The boot parameters.
    pub cmdline: String,
    /// Since boot.
    pub uptime: Nanos,
    /// When it booted, in seconds since 1970.
    pub boot_time: u64,
    /// Load averages, in hundredths.
    pub load: [u64; 3],
    /// Threads that can run; all threads.
    pub runnable: u32,
    /// All threads.
    pub threads: u32,
    /// The newest process.
    pub last_pid: u32,
    /// Processes ever made.
    pub forks: u64,
    /// Context switches.
    pub switches: u64,
    /// Interrupts.
    pub interrupts: u64,
    /// The highest process number plus one.
    pub pid_max: u32,
}

/// What the kernel knows. Every call is a snapshot; `None` and `ESRCH`: there
/// is no such process (any more).
pub trait ProcSource: Send + Sync + 'static {
    /// All processes, in order.
    fn pids(&self) -> Result<Vec<u32>>;
    /// How many there are.
    fn processes(&self) -> u32;
    /// A process's threads, in order.
    fn threads(&self, pid: u32) -> Result<Vec<u32>>;
    /// A process, or one of its threads.
    fn process(&self, pid: u32, tid: Option<u32>) -> Option<ProcessInfo>;
    /// Its arguments, each with a NUL after it; empty for a zombie.
    fn cmdline(&self, pid: u32) -> Result<Vec<u8>>;
    /// Its environment at the start.
    fn environ(&self, pid: u32) -> Result<Vec<u8>>;
    /// Its auxiliary vector.
    fn auxv(&self, pid: u32) -> Result<Vec<u8>>;
    /// Its mappings, in order.
    fn maps(&self, pid: u32) -> Result<Vec<MapInfo>>;
    /// RLIMIT_*: soft and hard.
    fn limits(&self, pid: u32) -> Result<[(u64, u64); 16]>;
    /// Its descriptors.
    fn files(&self, pid: u32) -> Option<Arc<FdTable>>;
    /// Its root and working directory.
    fn context(&self, pid: u32) -> Option<FsContext>;
    /// Its program.
    fn exe(&self, pid: u32) -> Option<Place>;
    /// How likely it is to be killed when memory runs out, 0 to 2000.
    fn oom_score(&self, pid: u32) -> Result<u64>;
    /// What shifts that.
    fn oom_score_adj(&self, pid: u32) -> Result<i32>;
    /// Shifts it: `EINVAL` out of -1000 to 1000.
    fn set_oom_score_adj(&self, pid: u32, value: i32) -> Result<()>;
    /// How many allocations a thread has until one fails: `fail-nth`.
    fn fail_nth(&self, pid: u32, tid: u32) -> Result<u32>;
    /// Sets it.
    fn set_fail_nth(&self, pid: u32, tid: u32, nth: u32) -> Result<()>;
    /// Renames a thread.
    fn set_comm(&self, pid: u32, tid: u32, name: &[u8]) -> Result<()>;
    /// Memory.
    fn memory(&self) -> MemInfo;
    /// CPUs that are online.
    fn cpus(&self) -> Vec<CpuInfo>;
    /// The same CPUs' times.
    fn cpu_times(&self) -> Vec<CpuTimes>;
    /// The system.
    fn system(&self) -> SystemInfo;
    /// `/proc/interrupts`.
    fn interrupts(&self) -> Vec<u8>;
    /// `/proc/hypha`: every page by its use, and how many there are of what
    /// must not be left over.
    fn accounts(&self) -> Vec<u8>;
    /// The host's name.
    fn hostname(&self) -> Vec<u8>;
    /// Sets it.
    fn set_hostname(&self, name: &[u8]) -> Result<()>;
    /// The log levels of `/proc/sys/kernel/printk`.
    fn printk(&self) -> [u32; 4];
}

/// A procfs.
pub struct Proc {
    source: Arc<dyn ProcSource>,
    /// The namespace holds this procfs: it isn't held in turn.
    ns: Weak<Namespace>,
    look: Look,
}

impl Proc {
    /// Builds a procfs. The returned directory takes more files, such as
    /// further ones below `sys`.
    pub fn build(
        source: Arc<dyn ProcSource>,
        ns: &Arc<Namespace>,
    ) -> (Arc<dyn FileSystem>, Arc<Dir>) {
        let look = look(0, ns.clock().realtime());
        let proc = Arc::new(Proc { source, ns: Arc::downgrade(ns), look });
        let fixed = Dir::root(look);
        proc.system_files(&fixed);
        proc.sysctls(&fixed);
        let root = Arc::new(Root { proc, fixed: fixed.clone() });
        (SynthFs::new("proc", MAGIC, look, root), fixed)
    }

    fn text(
        self: &Arc<Self>,
        dir: &Dir,
        path: &str,
        make: impl Fn(&Proc) -> String + Send + Sync + 'static,
    ) {
        let proc = self.clone();
        dir.file(path, move |_| Ok(make(&proc).into_bytes()));
    }

    fn system_files(self: &Arc<Self>, dir: &Dir) {
        self.text(dir, "meminfo", |proc| meminfo(&proc.source.memory()));
        self.text(dir, "uptime", |proc| {
            uptime(proc.source.system().uptime, &proc.source.cpu_times())
        });
        self.text(dir, "loadavg", |proc| loadavg(&proc.source.system()));
        self.text(dir, "stat", |proc| stat(&proc.source.system(), &proc.source.cpu_times()));
        self.text(dir, "cpuinfo", |proc| cpuinfo(&proc.source.cpus()));
        self.text(dir, "version", |proc| format!("{}\n", proc.source.system().version_line));
        self.text(dir, "cmdline", |proc| format!("{}\n", proc.source.system().cmdline));
        self.text(dir, "filesystems", |proc| {
            proc.ns
                .upgrade()
                .iter()
                .flat_map(|ns| ns.fs_types())
                .map(|name| format!("nodev\t{name}\n"))
                .collect()
        });
        self.text(dir, "devices", |proc| {
            proc.ns.upgrade().map_or_else(String::new, |ns| devices(ns.devices()))
        });
        dir.fixed("partitions", "major minor  #blocks  name\n\n");
        dir.fixed("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
        let proc = self.clone();
        dir.file("interrupts", move |_| Ok(proc.source.interrupts()));
        let proc = self.clone();
        dir.file("hypha", move |_| Ok(proc.source.accounts()));
        dir.link("mounts", |_| Ok(b"self/mounts".to_vec()));
        dir.link("self", |caller| Ok(format!("{}", caller.pid).into_bytes()));
        dir.link("thread-self", |caller| {
            Ok(format!("{}/task/{}", caller.pid, caller.tid).into_bytes())
        });
    }

    fn sysctls(self: &Arc<Self>, dir: &Dir) {
        dir.fixed("sys/kernel/ostype", "Linux\n");
        self.text(dir, "sys/kernel/osrelease", |proc| {
            format!("{}\n", proc.source.system().release)
        });
        self.text(dir, "sys/kernel/version", |proc| format!("{}\n", proc.source.system().version));
        self.text(dir, "sys/kernel/pid_max", |proc| format!("{}\n", proc.source.system().pid_max));
        self.text(dir, "sys/kernel/printk", |proc| {
            let [console, default, minimum, boot] = proc.source.printk();
            format!("{console}\t{default}\t{minimum}\t{boot}\n")
        });
        let (get, set) = (self.clone(), self.clone());
        dir.setting(
            "sys/kernel/hostname",
            move |_| {
                let mut name = get.source.hostname();
                name.push(b'\n');
                Ok(name)
            },
            move |_, text| {
                set.source
                    .set_hostname(text.split(|byte| *byte == b'\n').next().unwrap_or_default())
            },
        );
        dir.fixed("sys/kernel/domainname", "(none)\n");
        dir.fixed("sys/kernel/cap_last_cap", "40\n");
        dir.fixed("sys/kernel/ngroups_max", "65536\n");
        dir.fixed("sys/kernel/overflowuid", "65534\n");
        dir.fixed("sys/kernel/overflowgid", "65534\n");
        dir.fixed("sys/fs/nr_open", format!("{NR_OPEN}\n"));
        dir.fixed("sys/fs/pipe-max-size", format!("{}\n", crate::pipe::MAX_SIZE));
        // What the address spaces do: memory is promised freely and found when
        // it is touched.
        dir.fixed("sys/vm/overcommit_memory", "1\n");
        dir.fixed("sys/vm/max_map_count", "65530\n");
        dir.fixed("sys/vm/swappiness", "0\n");
    }

    /// The root that a process sees, for the paths it is shown.
    fn root_of(&self, caller: &Caller) -> Result<Place> {
        match self.source.context(caller.pid) {
            Some(context) => Ok(context.root),
            None => Ok(self.ns.upgrade().ok_or(Errno::ENOENT)?.root()),
        }
    }
}

fn kib(bytes: u64) -> u64 {
    bytes / 1024
}

fn pages_kib(pages: u64) -> u64 {
    pages.saturating_mul(4)
}

/// `/proc/meminfo`.
pub fn meminfo(memory: &MemInfo) -> String {
    let active = memory.anon.saturating_add(memory.cached.saturating_sub(memory.shmem));
    let lines = [
        ("MemTotal:", memory.total),
        ("MemFree:", memory.free),
        ("MemAvailable:", memory.available),
        ("Buffers:", 0),
        ("Cached:", memory.cached),
        ("SwapCached:", 0),
        ("Active:", active),
        ("Inactive:", memory.shmem),
        ("Active(anon):", memory.anon),
        ("Inactive(anon):", memory.shmem),
        ("Active(file):", memory.cached.saturating_sub(memory.shmem)),
        ("Inactive(file):", 0),
        ("Unevictable:", 0),
        ("Mlocked:", 0),
        ("SwapTotal:", 0),
        ("SwapFree:", 0),
        ("Dirty:", 0),
        ("Writeback:", 0),
        ("AnonPages:", memory.anon),
        ("Mapped:", memory.mapped),
        ("Shmem:", memory.shmem),
        ("KReclaimable:", 0),
        ("Slab:", memory.slab),
        ("SReclaimable:", 0),
        ("SUnreclaim:", memory.slab),
        ("KernelStack:", memory.kernel_stacks),
        ("PageTables:", memory.page_tables),
        ("SecPageTables:", memory.guest_tables),
        ("CommitLimit:", memory.total),
        ("Committed_AS:", memory.committed),
        ("AnonHugePages:", memory.huge),
        ("HugePages_Total:", 0),
        ("HugePages_Free:", 0),
        ("Hugepagesize:", 2048),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        let unit = if name.starts_with("HugePages_") { "" } else { " kB" };
        let _ = writeln!(text, "{name:<16}{value:>8}{unit}");
    }
    text
}

/// `/proc/uptime`: since boot, and idle over all CPUs.
pub fn uptime(up: Nanos, times: &[CpuTimes]) -> String {
    let idle = times.iter().fold(0u64, |sum, cpu| sum.saturating_add(cpu.idle));
    let show = |nanos: Nanos| format!("{}.{:02}", nanos / 1_000_000_000, nanos / TICK % 100);
    format!("{} {}\n", show(up), show(idle))
}

/// `/proc/loadavg`.
pub fn loadavg(system: &SystemInfo) -> String {
    let mut text = String::new();
    for load in system.load {
        let _ = write!(text, "{}.{:02} ", load / 100, load % 100);
    }
    let _ = writeln!(text, "{}/{} {}", system.runnable, system.threads, system.last_pid);
    text
}

/// `/proc/stat`.
pub fn stat(system: &SystemInfo, times: &[CpuTimes]) -> String {
    let line = |name: &str, cpu: &CpuTimes| {
        let ticks = [cpu.user, cpu.nice, cpu.system, cpu.idle, 0, cpu.irq, 0, 0, cpu.guest, 0]
            .map(|time| time / TICK);
        let mut text = String::from(name);
        for value in ticks {
            let _ = write!(text, " {value}");
        }
        text.push('\n');
        text
    };
    let mut all = CpuTimes::default();
    for cpu in times {
        all.user = all.user.saturating_add(cpu.user);
        all.nice = all.nice.saturating_add(cpu.nice);
        all.system = all.system.saturating_add(cpu.system);
        all.idle = all.idle.saturating_add(cpu.idle);
        all.irq = all.irq.saturating_add(cpu.irq);
        all.guest = all.guest.saturating_add(cpu.guest);
    }
    // Two blanks after the sum's name.
    let mut text = line("cpu ", &all);
    for cpu in times {
        text.push_str(&line(&format!("cpu{}", cpu.cpu), cpu));
    }
    let _ = writeln!(text, "intr {}", system.interrupts);
    let _ = writeln!(text, "ctxt {}", system.switches);
    let _ = writeln!(text, "btime {}", system.boot_time);
    let _ = writeln!(text, "processes {}", system.forks);
    let _ = writeln!(text, "procs_running {}", system.runnable);
    let _ = writeln!(text, "procs_blocked 0");
    let _ = writeln!(text, "softirq 0 0 0 0 0 0 0 0 0 0 0");
    text
}

/// `/proc/cpuinfo` as on arm64.
pub fn cpuinfo(cpus: &[CpuInfo]) -> String {
    let mut text = String::new();
    for cpu in cpus {
        // BogoMIPS is what the delay loop's timer makes of HZ: twice its rate.
        let bogo = cpu.timer_hz.saturating_mul(2) / 10_000;
        let (implementer, variant) = (cpu.midr >> 24 & 0xff, cpu.midr >> 20 & 0xf);
        let (part, revision) = (cpu.midr >> 4 & 0xfff, cpu.midr & 0xf);
        let _ = write!(
            text,
            "processor\t: {}\nBogoMIPS\t: {}.{:02}\nFeatures\t: {}\nCPU implementer\t: {implementer:#04x}\n\
             CPU architecture: 8\nCPU variant\t: {variant:#x}\nCPU part\t: {part:#05x}\nCPU revision\t: {revision}\n\n",
            cpu.cpu,
            bogo / 100,
            bogo % 100,
            cpu.features,
        );
    }
    text
}

fn devices(registry: &DeviceRegistry) -> String {
    let mut text = String::from("Character devices:\n");
    let mut last = None;
    for (dev, name, _) in registry.list() {
        if last == Some(dev.major) {
            continue;
        }
        last = Some(dev.major);
        let name = match dev.major {
            1 => "mem",
            4 => "ttyS",
            5 => "/dev/tty",
            10 => "misc",
            204 => "ttyAMA",
            _ => name,
        };
        let _ = writeln!(text, "{:3} {name}", dev.major);
    }
    text.push_str("\nBlock devices:\n");
    text
}

fn tick(time: Nanos) -> u64 {
    time / TICK
}

/// `/proc/<pid>/stat`: 52 fields.
pub fn process_stat(p: &ProcessInfo, rss_limit: u64) -> Vec<u8> {
    let mut text = format!("{} (", p.tid).into_bytes();
    text.extend_from_slice(&p.comm);
    let (tty, foreground) = p.tty.map_or((0, -1), |(dev, group)| (dev.encode(), i64::from(group)));
    let rss = p.rss_anon.saturating_add(p.rss_file).saturating_add(p.rss_shmem);
    let [min, maj, child_min, child_maj] = p.faults;
    let [utime, stime, cutime, cstime] = p.times.map(tick);
    let [pending, _, blocked, ignored, caught] = p.signals.map(|set| set & 0x7fff_ffff);
    let [start_code, end_code, start_stack] = p.code;
    let [start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end] = p.areas;
    let rest = format!(
        ") {} {} {} {} {tty} {foreground} {} {min} {child_min} {maj} {child_maj} {utime} {stime} {cutime} {cstime} \
         {} {} {} 0 {} {} {rss} {rss_limit} {start_code} {end_code} {start_stack} 0 0 {pending} {blocked} {ignored} {caught} \
         0 0 0 {} {} {} {} 0 0 0 {start_data} {end_data} {start_brk} {arg_start} {arg_end} {env_start} {env_end} {}\n",
        char::from(p.state),
        p.ppid,
        p.pgid,
        p.sid,
        p.flags,
        p.priority,
        p.nice,
        p.threads,
        tick(p.started),
        p.vsize,
        p.exit_signal,
        p.cpu,
        p.rt_priority,
        p.policy,
        p.exit_code,
    );
    text.extend_from_slice(rest.as_bytes());
    text
}

fn state_name(state: u8) -> &'static str {
    match state {
        b'R' => "R (running)",
        b'S' => "S (sleeping)",
        b'D' => "D (disk sleep)",
        b'T' => "T (stopped)",
        b't' => "t (tracing stop)",
        b'Z' => "Z (zombie)",
        _ => "X (dead)",
    }
}

/// `/proc/<pid>/status`.
pub fn process_status(p: &ProcessInfo, fd_size: usize, cpus: u32) -> Vec<u8> {
    let mut text = Vec::from(&b"Name:\t"[..]);
    for &byte in &p.comm {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\\' => text.extend_from_slice(b"\\\\"),
            _ => text.push(byte),
        }
    }
    let mut rest = String::new();
    let ids = |ids: [u32; 4]| {
        let [a, b, c, d] = ids;
        format!("{a}\t{b}\t{c}\t{d}")
    };
    let _ = write!(
        rest,
        "\nUmask:\t{:04o}\nState:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t{}\nUid:\t{}\nGid:\t{}\n\
         FDSize:\t{fd_size}\nGroups:\t \nNStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\nKthread:\t0\n",
        p.umask,
        state_name(p.state),
        p.pid,
        p.tid,
        p.ppid,
        p.tracer,
        ids(p.uids),
        ids(p.gids),
        p.pid,
        p.tid,
        p.pgid,
        p.sid,
    );
    if p.state != b'Z' && p.state != b'X' {
        let rss = p.rss_anon.saturating_add(p.rss_file).saturating_add(p.rss_shmem);
        for (name, value) in [
            ("VmPeak:", kib(p.vpeak)),
            ("VmSize:", kib(p.vsize)),
            ("VmLck:", 0),
            ("VmPin:", 0),
            ("VmHWM:", pages_kib(p.rss_peak.max(rss))),
            ("VmRSS:", pages_kib(rss)),
            ("RssAnon:", pages_kib(p.rss_anon)),
            ("RssFile:", pages_kib(p.rss_file)),
            ("RssShmem:", pages_kib(p.rss_shmem)),
            ("VmData:", kib(p.data)),
            ("VmStk:", kib(p.stack)),
            ("VmExe:", kib(p.text)),
            ("VmLib:", 0),
            ("VmPTE:", kib(p.tables)),
            ("VmSwap:", 0),
            ("HugetlbPages:", 0),
        ] {
            let _ = writeln!(rest, "{name}\t{value:>8} kB");
        }
        rest.push_str("CoreDumping:\t0\nTHP_enabled:\t1\n");
    }
    let [queued, queue_limit] = p.signal_queue;
    let _ = writeln!(rest, "Threads:\t{}\nSigQ:\t{queued}/{queue_limit}", p.threads);
    for (name, set) in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"].iter().zip(p.signals) {
        let _ = writeln!(rest, "{name}:\t{set:016x}");
    }
    for (name, set) in [
        ("CapInh", 0),
        ("CapPrm", ALL_CAPS),
        ("CapEff", ALL_CAPS),
        ("CapBnd", ALL_CAPS),
        ("CapAmb", 0),
    ] {
        let _ = writeln!(rest, "{name}:\t{set:016x}");
    }
    let [voluntary, forced] = p.switches;
    let _ = write!(
        rest,
        "NoNewPrivs:\t{}\nSeccomp:\t0\nSeccomp_filters:\t0\nCpus_allowed:\t{}\nCpus_allowed_list:\t{}\n\
         Mems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{voluntary}\n\
         nonvoluntary_ctxt_switches:\t{forced}\n",
        u8::from(p.no_new_privs),
        mask(&p.allowed_cpus, cpus),
        ranges(&p.allowed_cpus),
    );
    text.extend_from_slice(rest.as_bytes());
    text
}

/// Everybody is root and has all capabilities.
const ALL_CAPS: u64 = 0x1ff_ffff_ffff;

/// `/proc/<pid>/statm`, in pages.
pub fn process_statm(p: &ProcessInfo) -> String {
    let shared = p.rss_file.saturating_add(p.rss_shmem);
    let rss = p.rss_anon.saturating_add(shared);
    let data = p.data.saturating_add(p.stack) / 4096;
    format!("{} {rss} {shared} {} 0 {data} 0\n", p.vsize / 4096, p.text.div_ceil(4096))
}

/// `/proc/<pid>/maps`. How many there are and their names are EL0's: `ENOMEM`
/// if the text finds no room.
pub fn process_maps(maps: &[MapInfo]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for (at, map) in maps.iter().enumerate() {
        if at.is_multiple_of(64) {
            crate::tmpfs::breathe();
        }
        make_room(&mut text, map.name.len())?;
        let flag = |set: bool, name: char| if set { name } else { '-' };
        let (dev, ino) = map.file;
        let line = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {ino} ",
            map.start,
            map.end,
            flag(map.read, 'r'),
            flag(map.write, 'w'),
            flag(map.exec, 'x'),
            if map.shared { 's' } else { 'p' },
            map.offset,
            dev.major,
            dev.minor,
        );
        text.extend_from_slice(line.as_bytes());
        if !map.name.is_empty() {
            // Names start in column 73.
            text.extend(core::iter::repeat_n(b' ', 73usize.saturating_sub(line.len())));
            for &byte in &map.name {
                if byte == b'\n' {
                    text.extend_from_slice(b"\\012");
                } else {
                    text.push(byte);
                }
            }
        }
        text.push(b'\n');
    }
    Ok(text)
}

/// `/proc/<pid>/limits`.
pub fn process_limits(limits: &[(u64, u64); 16]) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let mut text =
        format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let show =
        |limit: u64| if limit == u64::MAX { String::from("unlimited") } else { format!("{limit}") };
    for ((name, unit), (soft, hard)) in NAMES.iter().zip(limits) {
        let (soft, hard) = (show(*soft), show(*hard));
        let _ = writeln!(text, "{name:<25} {soft:<20} {hard:<20} {unit:<10}");
    }
    text
}

/// The top directory: fixed files and a directory for each process.
struct Root {
    proc: Arc<Proc>,
    fixed: Arc<Dir>,
}

impl Inode for Root {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.fixed.ino()
    }
    fn kind(&self) -> FileType {
        FileType::Dir
    }
    fn stat(&self) -> Stat {
        let processes = self.proc.source.processes();
        let stat = self.fixed.stat();
        Stat { nlink: stat.nlink.saturating_add(processes), ..stat }
    }
    fn lookup(&self, caller: &Caller, name: &[u8]) -> Result<InodeRef> {
        if let Some(pid) = number(name) {
            self.proc.source.process(pid, None).ok_or(Errno::ENOENT)?;
            let (proc, root) = (self.proc.clone(), self.fixed.clone());
            return Ok(room::try_arc(Process { proc, root, pid, tid: None })?);
        }
        self.fixed.lookup(caller, name)
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        OpenList::open(self)
    }
}

impl Lister for Root {
    fn list(&self, caller: &Caller, from: u64) -> Result<Vec<Listed>> {
        // Processes come last, at positions that stay theirs.
        let mut all = if from < FIRST_PID { self.fixed.list(caller, from)? } else { Vec::new() };
        for pid in self.proc.source.pids()? {
            let at = FIRST_PID.saturating_add(u64::from(pid));
            if at >= from {
                all.make_room(1)?;
                all.push((
                    at,
                    room::try_text(format_args!("{pid}"))?.into(),
                    ino(pid, None, 0),
                    FileType::Dir,
                ));
            }
        }
        Ok(all)
    }
}

/// A number without leading zeros.
fn number(name: &[u8]) -> Option<u32> {
    let starts_well =
        name.first().is_some_and(|digit| (b'1'..=b'9').contains(digit)) || name == b"0";
    let digits = starts_well && name.iter().all(u8::is_ascii_digit);
    core::str::from_utf8(name).ok().filter(|_| digits)?.parse().ok()
}

/// An inode number for something of a process: above all fixed ones.
fn ino(pid: u32, tid: Option<u32>, what: u64) -> u64 {
    let tid = tid.map_or(0, |tid| u64::from(tid).saturating_add(1));
    1 << 63 | (u64::from(pid) & 0x3f_ffff) << 41 | (tid & 0xf_ffff) << 21 | what & 0x1f_ffff
}

/// `/proc/<pid>` or `/proc/<pid>/task/<tid>`.
#[derive(Clone)]
struct Process {
    proc: Arc<Proc>,
    root: Arc<Dir>,
    pid: u32,
    tid: Option<u32>,
}

const NAMES: [(&str, FileType); 20] = [
    ("auxv", FileType::Regular),
    ("cgroup", FileType::Regular),
    ("cmdline", FileType::Regular),
    ("comm", FileType::Regular),
    ("cwd", FileType::Symlink),
    ("environ", FileType::Regular),
    ("exe", FileType::Symlink),
    ("fail-nth", FileType::Regular),
    ("fd", FileType::Dir),
    ("fdinfo", FileType::Dir),
    ("limits", FileType::Regular),
    ("maps", FileType::Regular),
    ("mounts", FileType::Regular),
    ("oom_score", FileType::Regular),
    ("oom_score_adj", FileType::Regular),
    ("root", FileType::Symlink),
    ("stat", FileType::Regular),
    ("statm", FileType::Regular),
    ("status", FileType::Regular),
    ("task", FileType::Dir),
];

impl Process {
    fn info(&self) -> Result<ProcessInfo> {
        self.proc.source.process(self.pid, self.tid).ok_or(Errno::ESRCH)
    }

    fn ino_of(&self, what: usize) -> u64 {
        ino(self.pid, self.tid, (what as u64).saturating_add(1))
    }

    fn entries(&self) -> impl Iterator<Item = (usize, &'static str, FileType)> {
        let thread = self.tid.is_some();
        let names = NAMES.iter().enumerate().map(|(at, (name, kind))| (at, *name, *kind));
        names.filter(move |(_, name, _)| !(thread && *name == "task"))
    }

    fn text(&self, name: &str) -> Result<Vec<u8>> {
        let source = &self.proc.source;
        Ok(match name {
            "auxv" => source.auxv(self.pid)?,
            "cgroup" => b"0::/\n".to_vec(),
            "cmdline" => source.cmdline(self.pid)?,
            "comm" => {
                let mut name = self.info()?.comm;
                name.push(b'\n');
                name
            }
            "environ" => source.environ(self.pid)?,
            "limits" => process_limits(&source.limits(self.pid)?).into_bytes(),
            "maps" => process_maps(&source.maps(self.pid)?)?,
            "mounts" => {
                let context = source.context(self.pid).ok_or(Errno::EINVAL)?;
                self.proc.ns.upgrade().ok_or(Errno::EINVAL)?.mounts_text(&context.root)?
            }
            "oom_score" => format!("{}\n", source.oom_score(self.pid)?).into_bytes(),
            "oom_score_adj" => format!("{}\n", source.oom_score_adj(self.pid)?).into_bytes(),
            "stat" => {
                let limit = source
                    .limits(self.pid)
                    .map_or(u64::MAX, |limits| limits.get(5).map_or(u64::MAX, |l| l.0));
                process_stat(&self.info()?, limit)
            }
            "statm" => process_statm(&self.info()?).into_bytes(),
            "status" => {
                let fds = source.files(self.pid).map_or(0, |files| files.capacity());
                process_status(&self.info()?, fds, source.cpus().len() as u32)
            }
            _ => return Err(Errno::ENOENT),
        })
    }

    fn store(&self, name: &str, data: &[u8]) -> Result<()> {
        match name {
            "comm" => {
                let name =
                    data.split(|byte| *byte == b'\n' || *byte == 0).next().unwrap_or_default();
                let name = name.get(..15).unwrap_or(name);
                self.proc.source.set_comm(self.pid, self.tid.unwrap_or(self.pid), name)
            }
            "oom_score_adj" => {
                let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
                let value: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
                self.proc.source.set_oom_score_adj(self.pid, value)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn file(&self, at: usize, name: &'static str) -> InodeRef {
        let (reader, writer) = (self.clone(), self.clone());
        let writable = matches!(name, "comm" | "oom_score_adj");
        let mode = match name {
            "comm" | "oom_score_adj" => 0o644,
            "auxv" | "environ" => 0o400,
            _ => 0o444,
        };
        let store: Option<Arc<crate::synth::Store>> = if writable {
            Some(Arc::new(move |_: &Caller, data: &[u8]| writer.store(name, data)))
        } else {
            None
        };
        Text::inode(
            self.proc.look,
            self.ino_of(at),
            mode,
            Arc::new(move |_: &Caller| reader.text(name)),
            store,
        )
    }

    fn link(&self, at: usize, name: &'static str) -> InodeRef {
        let to = move |process: &Process| -> Result<Place> {
            let source = &process.proc.source;
            match name {
                "exe" => source.exe(process.pid).ok_or(Errno::ENOENT),
                "cwd" => {
                    source.context(process.pid).map(|context| context.cwd).ok_or(Errno::ENOENT)
                }
                _ => source.context(process.pid).map(|context| context.root).ok_or(Errno::ENOENT),
            }
        };
        let (reader, follower) = (self.clone(), self.clone());
        Link::magic(
            self.proc.look,
            self.ino_of(at),
            move |caller| to(&reader)?.path_shown(&reader.proc.root_of(caller)?),
            move |_| to(&follower),
        )
    }
}

impl Inode for Process {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        ino(self.pid, self.tid, 0)
    }
    fn kind(&self) -> FileType {
        FileType::Dir
    }
    fn stat(&self) -> Stat {
        let stat = self.proc.look.stat(self.ino(), FileType::Dir, 0o555);
        Stat { nlink: 9, ..stat }
    }
    fn lookup(&self, _caller: &Caller, name: &[u8]) -> Result<InodeRef> {
        self.info().map_err(|_| Errno::ENOENT)?;
        let found = self.entries().find(|(_, entry, _)| entry.as_bytes() == name);
        let (at, name, kind) = found.ok_or(Errno::ENOENT)?;
        Ok(match kind {
            FileType::Symlink => self.link(at, name),
            FileType::Dir => room::try_arc(SubDir { of: self.clone(), at, name })?,
            _ if name == "fail-nth" => room::try_arc(FailNth { of: self.clone(), at })?,
            _ => self.file(at, name),
        })
    }
    fn parent(&self) -> Option<(InodeRef, Box<[u8]>)> {
        let name = |number: u32| format!("{number}").into_bytes().into();
        match self.tid {
            None => {
                let root = Root { proc: self.proc.clone(), fixed: self.root.clone() };
                Some((Arc::new(root), name(self.pid)))
            }
            Some(tid) => {
                let of = Process { tid: None, ..self.clone() };
                let at =
                    of.entries().find(|(_, name, _)| *name == "task").map_or(0, |(at, _, _)| at);
                Some((Arc::new(SubDir { of, at, name: "task" }), name(tid)))
            }
        }
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        OpenList::open(self)
    }
}

impl Lister for Process {
    fn list(&self, _caller: &Caller, from: u64) -> Result<Vec<Listed>> {
        self.info().map_err(|_| Errno::ENOENT)?;
        let mut listed = room::try_vec(NAMES.len())?;
        for (at, name, kind) in self.entries() {
            let position = (at as u64).saturating_add(2);
            if position >= from {
                let name = room::try_copy(name.as_bytes())?.into();
                listed.push((position, name, self.ino_of(at), kind));
            }
        }
        Ok(listed)
    }
}

/// `fail-nth`, open or not. To read and to write it allocates nothing: that
/// would be counted.
struct FailNth {
    of: Process,
    at: usize,
}

impl FailNth {
    fn tid(&self) -> u32 {
        self.of.tid.unwrap_or(self.of.pid)
    }
}

impl Inode for FailNth {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.of.ino_of(self.at)
    }
    fn kind(&self) -> FileType {
        FileType::Regular
    }
    fn stat(&self) -> Stat {
        self.of.proc.look.stat(Inode::ino(self), FileType::Regular, 0o644)
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        Ok(self)
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
}

impl File for FailNth {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        let nth = self.of.proc.source.fail_nth(self.of.pid, self.tid())?;
        let mut text = Short::default();
        let _ = writeln!(text, "{nth}");
        let from = usize::try_from(io.offset).unwrap_or(usize::MAX);
        let rest = text.bytes().get(from..).unwrap_or_default();
        for (to, from) in buf.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(rest.len().min(buf.len()))
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let nth = text.parse().map_err(|_| Errno::EINVAL)?;
        self.of.proc.source.set_fail_nth(self.of.pid, self.tid(), nth)?;
        Ok(data.len())
    }
    fn position(&self) -> Position {
        Position::Loose
    }
    fn stat(&self) -> Result<Stat> {
        Ok(Inode::stat(self))
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
}

/// A line of a number.
#[derive(Default)]
struct Short {
    text: [u8; 16],
    len: usize,
}

impl Short {
    fn bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len.saturating_add(text.len());
        self.text.get_mut(self.len..end).ok_or(core::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// `task`, `fd` or `fdinfo`.
#[derive(Clone)]
struct SubDir {
    of: Process,
    at: usize,
    name: &'static str,
}

/// How many entries one listing takes at a time.
const LIST_CHUNK: usize = 256;

impl SubDir {
    fn fd(&self, fd: u32) -> Result<Arc<OpenFile>> {
        let files = self.of.proc.source.files(self.of.pid).ok_or(Errno::ENOENT)?;
        files.get(i32::try_from(fd).map_err(|_| Errno::ENOENT)?).map_err(|_| Errno::ENOENT)
    }

    fn fd_ino(&self, fd: u32) -> u64 {
        let group = if self.name == "fd" { 1u64 << 20 } else { 1 << 19 };
        ino(self.of.pid, self.of.tid, group.wrapping_add(u64::from(fd) & 0x7_ffff))
    }

    fn fd_link(&self, fd: u32) -> InodeRef {
        let (reader, follower) = (self.clone(), self.clone());
        Link::magic(
            self.of.proc.look,
            self.fd_ino(fd),
            move |caller| {
                let file = reader.fd(fd)?;
                Ok(match file.place() {
                    Some(place) => place.path_shown(&reader.of.proc.root_of(caller)?)?,
                    None => room::try_copy(file.file().describe().as_bytes())?,
                })
            },
            move |_| {
                let file = follower.fd(fd)?;
                match file.place() {
                    Some(place) => Ok(place.clone()),
                    None => Place::detached(room::try_arc(Nameless { file })?),
                }
            },
        )
    }

    fn fd_info(&self, fd: u32) -> InodeRef {
        let dir = self.clone();
        let generate = move |_: &Caller| {
            let file = dir.fd(fd)?;
            let position = file.seek(0, crate::abi::SEEK_CUR).unwrap_or(0);
            let mount = file.place().map_or(0, |place| place.mount.id());
            let (flags, ino) = (file.flags().bits(), file.stat()?.ino);
            Ok(format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{ino}\n")
                .into_bytes())
        };
        Text::inode(self.of.proc.look, self.fd_ino(fd), 0o444, Arc::new(generate), None)
    }
}

impl Inode for SubDir {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.of.ino_of(self.at)
    }
    fn kind(&self) -> FileType {
        FileType::Dir
    }
    fn stat(&self) -> Stat {
        let mode = if self.name == "fd" { 0o500 } else { 0o555 };
        self.of.proc.look.stat(self.ino(), FileType::Dir, mode)
    }
    fn lookup(&self, _caller: &Caller, name: &[u8]) -> Result<InodeRef> {
        let number = number(name).ok_or(Errno::ENOENT)?;
        if self.name == "task" {
            self.of.proc.source.process(self.of.pid, Some(number)).ok_or(Errno::ENOENT)?;
            return Ok(room::try_arc(Process { tid: Some(number), ..self.of.clone() })?);
        }
        self.fd(number)?;
        Ok(if self.name == "fd" { self.fd_link(number) } else { self.fd_info(number) })
    }
    fn parent(&self) -> Option<(InodeRef, Box<[u8]>)> {
        Some((Arc::new(self.of.clone()), self.name.as_bytes().into()))
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        OpenList::open(self)
    }
}

impl Lister for SubDir {
    fn list(&self, _caller: &Caller, from: u64) -> Result<Vec<Listed>> {
        let first = u32::try_from(from.saturating_sub(2)).unwrap_or(u32::MAX);
        let mut listed = Vec::new();
        let mut add = |number: u32, ino: u64, kind: FileType| -> Result<()> {
            let name = room::try_text(format_args!("{number}"))?.into();
            listed.make_room(1)?;
            listed.push((u64::from(number).saturating_add(2), name, ino, kind));
            Ok(())
        };
        let source = &self.of.proc.source;
        if self.name == "task" {
            for tid in source.threads(self.of.pid)?.into_iter().filter(|tid| *tid >= first) {
                add(tid, ino(self.of.pid, Some(tid), 0), FileType::Dir)?;
            }
            return Ok(listed);
        }
        let kind = if self.name == "fd" { FileType::Symlink } else { FileType::Regular };
        let files = source.files(self.of.pid).ok_or(Errno::ENOENT)?;
        let open = files.list(i32::try_from(first).unwrap_or(i32::MAX), LIST_CHUNK)?;
        for (fd, _) in &open {
            add(*fd as u32, self.fd_ino(*fd as u32), kind)?;
        }
        Ok(listed)
    }
}

/// What `/proc/<pid>/fd/N` leads to when it has no path: opening it opens a
/// pipe anew, or the same memfd.
struct Nameless {
    file: Arc<OpenFile>,
}

impl Inode for Nameless {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.stat().ino
    }
    fn kind(&self) -> FileType {
        FileType::from_mode(self.stat().mode).unwrap_or(FileType::Regular)
    }
    fn stat(&self) -> Stat {
        self.file.stat().unwrap_or_default()
    }
    fn fifo(&self) -> Option<Arc<Pipe>> {
        self.file.downcast::<PipeEnd>().map(|end| end.pipe().clone())
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        if self.file.downcast::<crate::tmpfs::MemFd>().is_some() {
            return Ok(self.file.file().clone());
        }
        Err(Errno::ENXIO)
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.file.file().truncate(size)
    }
}

/// The file system of things without a name.
pub(crate) struct Anonymous {
    pub(crate) inode: InodeRef,
}

impl FileSystem for Anonymous {
    fn name(&self) -> &'static str {
        "anon_inodefs"
    }
    fn root(&self) -> InodeRef {
        self.inode.clone()
    }
    fn statfs(&self) -> StatFs {
        // ANON_INODE_FS_MAGIC
        StatFs {
            f_type: 0x0904_1934,
            f_bsize: 4096,
            f_frsize: 4096,
            f_namelen: 255,
            ..StatFs::default()
        }
    }
    fn dev(&self) -> DevId {
        crate::file::ANON_DEV
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> ProcessInfo {
        ProcessInfo {
            pid: 42,
            tid: 42,
            ppid: 1,
            pgid: 42,
            sid: 40,
            tty: Some((DevId::new(204, 64), 42)),
            comm: b"a) b".to_vec(),
            state: b'S',
            threads: 1,
            times: [1_230_000_000, 20_000_000, 0, 0],
            priority: 20,
            started: 5_000_000_000,
            vsize: 8 << 20,
            vpeak: 9 << 20,
            rss_anon: 100,
            rss_file: 50,
            exit_signal: 17,
            allowed_cpus: Vec::from([0, 1, 2, 3]),
            signals: [0, 0, 1 << 16, 0x8000_0000_0000_0000, 2],
            umask: 0o22,
            ..ProcessInfo::default()
        }
    }

    #[test]
    fn stat_has_52_fields() {
        let text = String::from_utf8(process_stat(&shell(), u64::MAX)).unwrap();
        assert!(text.starts_with("42 (a) b) S 1 42 40 52288 42 0 0 0 0 0 123 2 0 0 20 0 1 0 500 8388608 150 18446744073709551615 "));
        let after: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!(after.len() + 2, 52);
        // Fields 31 to 34, and 38: signals and the exit signal.
        assert_eq!(&after[28..32], ["0", "65536", "0", "2"]);
        assert_eq!(after[35], "17");
    }

    #[test]
    fn status_is_parsable() {
        let text = String::from_utf8(process_status(&shell(), 64, 4)).unwrap();
        for line in [
            "Name:\ta) b",
            "Umask:\t0022",
            "State:\tS (sleeping)",
            "Tgid:\t42",
            "PPid:\t1",
            "Uid:\t0\t0\t0\t0",
            "VmPeak:\t    9216 kB",
            "VmRSS:\t     600 kB",
            "Threads:\t1",
            "SigBlk:\t0000000000010000",
            "SigIgn:\t8000000000000000",
            "CapEff:\t000001ffffffffff",
            "Cpus_allowed:\tf",
            "Cpus_allowed_list:\t0-3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} not in {text}");
        }
        let zombie = ProcessInfo { state: b'Z', ..shell() };
        assert!(!String::from_utf8(process_status(&zombie, 64, 4)).unwrap().contains("VmRSS"));
        assert_eq!(process_statm(&shell()), "2048 150 50 0 0 0 0\n");
    }

    #[test]
    fn maps_line_up() {
        let maps = [
            MapInfo {
                start: 0x40_0000,
                end: 0x5f_0000,
                read: true,
                exec: true,
                file: (DevId::new(0, 20), 7),
                name: b"/bin/busybox".to_vec(),
                ..MapInfo::default()
            },
            MapInfo {
                start: 0xffff_8000_0000,
                end: 0xffff_8000_1000,
                read: true,
                write: true,
                ..MapInfo::default()
            },
        ];
        let text = String::from_utf8(process_maps(&maps).unwrap()).unwrap();
        assert_eq!(crate::synth::make_room(&mut Vec::new(), usize::MAX), Err(Errno::ENOMEM));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find('/'), Some(73));
        assert!(lines[0].starts_with("00400000-005f0000 r-xp 00000000 00:14 7 "));
        assert_eq!(lines[1], "ffff80000000-ffff80001000 rw-p 00000000 00:00 0 ");
    }

    #[test]
    fn system_files() {
        let memory = MemInfo {
            total: 2_000_000,
            free: 1_900_000,
            available: 1_950_000,
            ..MemInfo::default()
        };
        let text = meminfo(&memory);
        assert!(text.starts_with("MemTotal:        2000000 kB\nMemFree:         1900000 kB\nMemAvailable:    1950000 kB\n"));
        let cpu =
            CpuTimes { cpu: 0, user: 50_000_000, idle: 12_340_000_000, ..CpuTimes::default() };
        assert_eq!(uptime(20_500_000_000, &[cpu]), "20.50 12.34\n");
        let system = SystemInfo {
            load: [5, 123, 0],
            runnable: 1,
            threads: 30,
            last_pid: 77,
            ..SystemInfo::default()
        };
        assert_eq!(loadavg(&system), "0.05 1.23 0.00 1/30 77\n");
        assert!(
            stat(&system, &[cpu]).starts_with("cpu  5 0 0 1234 0 0 0 0 0 0\ncpu0 5 0 0 1234 0")
        );
        let info = CpuInfo {
            midr: 0x413f_d0c1,
            features: "fp asimd".into(),
            timer_hz: 62_500_000,
            ..CpuInfo::default()
        };
        assert_eq!(
            cpuinfo(&[info]),
            "processor\t: 0\nBogoMIPS\t: 125.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\
             CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n"
        );
        let limits = process_limits(&[(1024, u64::MAX); 16]);
        assert!(limits.contains(
            "Max open files            1024                 unlimited            files     \n"
        ));
        assert_eq!(number(b"12"), Some(12));
        assert_eq!(
            (number(b"012"), number(b"x"), number(b""), number(b"99999999999")),
            (None, None, None, None)
        );
    }
}
