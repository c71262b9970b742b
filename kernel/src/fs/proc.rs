//! What /proc and /sys show of this kernel.

use crate::process::cputime::CpuTime;
use crate::process::{self, Process, exec, space::Mm, table};
use crate::syscall::system;
use crate::task::{Task, state};
use crate::{clock, cpu, fail, heap, log, memory, sched, time, tty};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::census::Kind;
use base::{Errno, Nanos, PAGE_SIZE, Result, Room, room};
use core::fmt::Write;
use core::sync::atomic::Ordering::Relaxed;
use frame::Use;
use vfs::proc::{CpuInfo, CpuTimes, MapInfo, MemInfo, Proc, ProcSource, ProcessInfo, SystemInfo};
use vfs::sysfs::{self, SysSource};
use vfs::{DevId, FdTable, FsContext, Namespace, Place};

/// Makes proc and sysfs mountable; pages that files lose leave their mappings.
pub fn register(namespace: &Arc<Namespace>) {
    let (proc, _) = Proc::build(Arc::new(Facts), namespace);
    namespace.register_fs("proc", move |_| Ok(proc.clone()));
    let sysfs = sysfs::new(Arc::new(Facts), namespace.devices(), &**namespace.clock());
    namespace.register_fs("sysfs", move |_| Ok(sysfs.clone()));
    vfs::tmpfs::set_unmap(unmap);
}

fn unmap((dev, ino): (DevId, u64), first: u64, end: u64) {
    let id = mm::ObjectId { dev: dev.encode(), ino };
    let mut last = 0;
    // One by one: a list would want memory.
    while let Some(process) = table::after(last) {
        last = process.pid;
        if let Ok(mm) = process.mm() {
            // Out of memory for splitting a block: the pages stay with the
            // mapping, which counts them.
            let _ = mm.unmap_object(id, first, end);
        }
    }
}

/// Asks the rest of the kernel.
struct Facts;

/// What of a process's memory is read at most: arguments, environment.
const TEXT_MAX: usize = 2 << 20;

/// Copies from another address space.
fn read_memory(mm: &Mm, start: u64, len: usize) -> Result<Vec<u8>> {
    let mut text = room::try_zeros(len)?;
    let mut at = start;
    for piece in pieces(start, &mut text) {
        let backing = mm.get_frame(at, false).map_err(|_| Errno::EIO)?;
        backing.frame.read(at.saturating_sub(backing.start), piece)?;
        at = at.saturating_add(piece.len() as u64);
    }
    Ok(text)
}

/// Cuts a buffer for `start` at page borders.
fn pieces(start: u64, buf: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let mut at = start;
    let mut rest = Some(buf);
    core::iter::from_fn(move || {
        let all = rest.take().filter(|all| !all.is_empty())?;
        let room = PAGE_SIZE.saturating_sub(at % PAGE_SIZE) as usize;
        let (piece, after) = all.split_at_mut_checked(room.min(all.len()))?;
        at = at.saturating_add(piece.len() as u64);
        rest = Some(after);
        Some(piece)
    })
}

fn string(mm: &Mm, start: u64, end: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(end.saturating_sub(start)).unwrap_or(TEXT_MAX);
    read_memory(mm, start, len.min(TEXT_MAX))
}

fn state_of(process: &Process, task: Option<&Arc<Task>>) -> u8 {
    if table::is_zombie(process.pid) {
        return b'Z';
    }
    let Some(task) = task else { return b'X' };
    match task.state.load(Relaxed) {
        state::RUNNING | state::QUEUED => b'R',
        _ if process.is_stopped() => b'T',
        state::BLOCKED | state::WAITING => b'S',
        _ => b'X',
    }
}

/// That thread of that process.
fn thread_of(pid: u32, tid: u32) -> Result<Arc<Task>> {
    let task = table::thread(tid)?;
    let is_its = task.thread.get().is_some_and(|thread| thread.process.pid == pid);
    if is_its { Ok(task) } else { Err(Errno::ESRCH) }
}

fn cpus_in(affinity: u64) -> Vec<u32> {
    let online = cpu::online().map(|cpu| cpu.index.load(Relaxed));
    online.filter(|cpu| affinity.wrapping_shr(*cpu) & 1 != 0).collect()
}

impl ProcSource for Facts {
    fn pids(&self) -> Result<Vec<u32>> {
        table::pids()
    }

    fn processes(&self) -> u32 {
        table::process_count() as u32
    }

    fn threads(&self, pid: u32) -> Result<Vec<u32>> {
        let Ok(process) = table::process(pid) else { return Ok(Vec::new()) };
        let threads = process.try_threads()?;
        let mut ids: Vec<u32> = room::try_vec(threads.len())?;
        ids.extend(threads.iter().filter_map(|task| Some(task.thread.get()?.tid())));
        ids.sort_unstable();
        Ok(ids)
    }

    fn process(&self, pid: u32, tid: Option<u32>) -> Option<ProcessInfo> {
        let process = table::process(pid).ok()?;
        let task = process.thread(tid);
        if tid.is_some() && task.is_none() {
            return None;
        }
        let task = task.as_ref();
        let thread = task.and_then(|task| task.thread.get());
        let (pgid, sid) = table::group_and_session(pid).ok()?;
        let comm = thread.map_or_else(|| process.comm(), |thread| thread.comm());
        let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let (pending, ignored, caught) = process.signal_sets();
        let blocked = thread.map_or(0, |thread| thread.with_signals(|signals| signals.blocked().bits()));
        let usage = process.mm().map(|mm| (mm.usage(), mm.layout())).ok();
        let (usage, layout) = usage.unzip();
        let usage = usage.unwrap_or_default();
        let stack = process.stack_layout();
        let time = match tid {
            Some(_) => task.map(|task| CpuTime::of(task)).unwrap_or_default(),
            None => process.cpu_time(),
        };
        let children = table::children_time(pid);
        let (users, groups) = process.with_identity(|_, credentials| (credentials.user, credentials.group));
        let entity = task.map(|task| &task.entity);
        let nice = entity.map_or(0, |entity| i32::from(entity.nice()));
        let rt_priority = entity.map_or(0, |entity| entity.priority());
        let affinity = entity.map_or(u64::MAX, |entity| entity.affinity());
        Some(ProcessInfo {
            pid,
            tid: tid.unwrap_or(pid),
            ppid: table::parent(pid).unwrap_or(0),
            pgid,
            sid,
            tty: tty::of_session(sid).map(|(dev, group)| (DevId::decode(dev), group)),
            comm,
            state: state_of(&process, task),
            threads: process.thread_count() as u32,
            uids: [users.real, users.effective, users.saved, users.effective],
            gids: [groups.real, groups.effective, groups.saved, groups.effective],
            times: [time.user, time.system, children.user, children.system],
            priority: if rt_priority > 0 { (-1i32).saturating_sub(i32::from(rt_priority)) } else { nice.saturating_add(20) },
            nice,
            rt_priority: u32::from(rt_priority),
            policy: entity.map_or(0, |entity| entity.class() as u32),
            started: thread.map_or(process.started, |thread| thread.started()),
            vsize: usage.total.saturating_mul(PAGE_SIZE),
            vpeak: usage.total.saturating_mul(PAGE_SIZE),
            rss_anon: usage.resident,
            data: usage.data.saturating_mul(PAGE_SIZE),
            stack: usage.stack.saturating_mul(PAGE_SIZE),
            tables: usage.tables.saturating_mul(PAGE_SIZE),
            text: usage.text.saturating_mul(PAGE_SIZE),
            code: [0, 0, layout.map_or(0, |layout| layout.stack_top)],
            areas: [
                0,
                0,
                layout.map_or(0, |layout| layout.brk_start),
                stack.map_or(0, |stack| stack.arg_start),
                stack.map_or(0, |stack| stack.arg_end),
                stack.map_or(0, |stack| stack.env_start),
                stack.map_or(0, |stack| stack.env_end),
            ],
            signals: [0, pending.bits(), blocked, ignored.bits(), caught.bits()],
            exit_signal: 17,
            cpu: task.map_or(0, |task| task.cpu.load(Relaxed)),
            allowed_cpus: cpus_in(affinity),
            umask: process.fs().map_or(0, |fs| fs.lock().umask),
            no_new_privs: thread.is_some_and(|thread| thread.no_new_privs.load(Relaxed)),
            signal_queue: [0, process.limit(process::credentials::resource::SIGPENDING)],
            ..ProcessInfo::default()
        })
    }

    fn cmdline(&self, pid: u32) -> Result<Vec<u8>> {
        let process = table::process(pid)?;
        match (process.mm(), process.stack_layout()) {
            (Ok(mm), Some(stack)) => string(&mm, stack.arg_start, stack.arg_end),
            _ => Ok(Vec::new()),
        }
    }

    fn environ(&self, pid: u32) -> Result<Vec<u8>> {
        let process = table::process(pid)?;
        match (process.mm(), process.stack_layout()) {
            (Ok(mm), Some(stack)) => string(&mm, stack.env_start, stack.env_end),
            _ => Ok(Vec::new()),
        }
    }

    fn auxv(&self, pid: u32) -> Result<Vec<u8>> {
        const ENTRY: usize = 16;
        const MOST: usize = 64;
        let process = table::process(pid)?;
        let (Ok(mm), Some(stack)) = (process.mm(), process.stack_layout()) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for index in 0..MOST {
            let at = stack.auxv.saturating_add(index.saturating_mul(ENTRY) as u64);
            let entry = read_memory(&mm, at, ENTRY)?;
            all.make_room(ENTRY)?;
            all.extend_from_slice(&entry);
            // AT_NULL
            if entry.first_chunk::<8>().is_some_and(|kind| *kind == [0; 8]) {
                break;
            }
        }
        Ok(all)
    }

    fn maps(&self, pid: u32) -> Result<Vec<MapInfo>> {
        let process = table::process(pid)?;
        let Ok(mm) = process.mm() else { return Ok(Vec::new()) };
        let mut maps = Vec::new();
        let mut at = 0;
        while let Some(area) = mm.area_above(at) {
            if maps.len().is_multiple_of(64) {
                sched::breathe();
            }
            maps.make_room(1)?;
            at = area.end;
            let id = area.id.unwrap_or_default();
            maps.push(MapInfo {
                start: area.start,
                end: area.end,
                read: area.prot & 1 != 0,
                write: area.prot & 2 != 0,
                exec: area.prot & 4 != 0,
                shared: area.flags.shared,
                offset: area.offset,
                file: (DevId::decode(id.dev), id.ino),
                name: area.name.into_bytes(),
            });
        }
        Ok(maps)
    }

    fn limits(&self, pid: u32) -> Result<[(u64, u64); 16]> {
        let limits = table::process(pid)?.limits();
        let mut all = [(0, 0); 16];
        for (resource, limit) in all.iter_mut().enumerate() {
            *limit = limits.get(resource)?;
        }
        Ok(all)
    }

    fn files(&self, pid: u32) -> Option<Arc<FdTable>> {
        table::process(pid).ok()?.files().ok()
    }

    fn context(&self, pid: u32) -> Option<FsContext> {
        let fs = table::process(pid).ok()?.fs().ok()?;
        let context = fs.lock().clone();
        Some(context)
    }

    fn exe(&self, pid: u32) -> Option<Place> {
        table::process(pid).ok()?.exe()
    }

    fn oom_score(&self, pid: u32) -> Result<u64> {
        Ok(process::oom::score(&*table::process(pid)?))
    }

    fn oom_score_adj(&self, pid: u32) -> Result<i32> {
        Ok(table::process(pid)?.oom_score_adj.load(Relaxed))
    }

    fn set_oom_score_adj(&self, pid: u32, value: i32) -> Result<()> {
        process::oom::set_adjustment(&*table::process(pid)?, value)
    }

    fn fail_nth(&self, pid: u32, tid: u32) -> Result<u32> {
        Ok(fail::get(&*thread_of(pid, tid)?))
    }

    fn set_fail_nth(&self, pid: u32, tid: u32, nth: u32) -> Result<()> {
        fail::set(&*thread_of(pid, tid)?, nth);
        Ok(())
    }

    fn set_comm(&self, pid: u32, tid: u32, name: &[u8]) -> Result<()> {
        let task = thread_of(pid, tid)?;
        task.thread.get().ok_or(Errno::ESRCH)?.set_comm(name);
        Ok(())
    }

    fn memory(&self) -> MemInfo {
        let stats = frame::stats();
        let files = stats.used_for(Use::Shared);
        let kib = |bytes: u64| bytes / 1024;
        let anon = stats.used_for(Use::Anonymous);
        MemInfo {
            total: kib(stats.total),
            free: kib(stats.free),
            available: kib(stats.free.saturating_sub(stats.kernel_reserve)),
            cached: kib(files),
            shmem: kib(files),
            anon: kib(anon),
            slab: kib(heap::used() as u64),
            kernel_stacks: kib(stats.used_for(Use::Stack)),
            page_tables: kib(stats.used_for(Use::Table)),
            guest_tables: kib(stats.used_for(Use::GuestTable)),
            committed: kib(stats.user),
            ..MemInfo::default()
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        let (features, midr) = (features(), arch::sysreg::midr_el1());
        let info = |cpu: &cpu::Cpu| CpuInfo {
            cpu: cpu.index.load(Relaxed),
            midr,
            features: features.clone(),
            timer_hz: time::frequency(),
        };
        cpu::online().map(info).collect()
    }

    fn cpu_times(&self) -> Vec<CpuTimes> {
        let now = time::now();
        let times = |cpu: &cpu::Cpu| {
            let system = cpu.system_time.load(Relaxed);
            let cpu = cpu.index.load(Relaxed);
            let idle: Nanos = sched::idle_time(cpu as usize);
            let user = now.saturating_sub(idle).saturating_sub(system);
            CpuTimes { cpu, user, system, idle, ..CpuTimes::default() }
        };
        cpu::online().map(times).collect()
    }

    fn system(&self) -> SystemInfo {
        let uptime = time::now();
        let runnable = sched::runnable() as u32;
        SystemInfo {
            version_line: format!("Linux version {} (Hypha) {}", system::RELEASE, system::VERSION),
            release: system::RELEASE.into(),
            version: system::VERSION.into(),
            cmdline: memory::machine().map(|machine| machine.command_line.clone()).unwrap_or_default(),
            uptime,
            boot_time: clock::realtime().saturating_sub(uptime) / 1_000_000_000,
            // Not averaged: what runs now.
            load: [u64::from(runnable).saturating_mul(100); 3],
            runnable,
            threads: table::task_count() as u32,
            last_pid: table::last_id(),
            forks: u64::from(table::last_id()),
            interrupts: cpu::online().map(|cpu| cpu.ticks.load(Relaxed)).sum(),
            pid_max: table::PID_MAX,
            ..SystemInfo::default()
        }
    }

    fn interrupts(&self) -> Vec<u8> {
        let (mut head, mut timer) = (String::from("    "), String::from("timer:"));
        for cpu in cpu::online() {
            let _ = write!(head, "       CPU{:<4}", cpu.index.load(Relaxed));
            let _ = write!(timer, " {:>10}", cpu.ticks.load(Relaxed));
        }
        format!("{head}\n{timer}   arch_timer\n").into_bytes()
    }

    fn accounts(&self) -> Vec<u8> {
        let (stats, used) = (frame::stats(), heap::used());
        let mut text = String::new();
        let _ = writeln!(text, "free {}\nreserved {}", stats.free, stats.reserved.saturating_add(stats.table));
        for usage in Use::ALL {
            let _ = writeln!(text, "{} {}", usage.name(), stats.used_for(usage));
        }
        // What the heap's pages hold: pages stay for a single byte in them.
        let _ = writeln!(text, "heap-used {used}");
        for kind in Kind::ALL {
            let _ = writeln!(text, "{} {}", kind.name(), kind.alive());
        }
        text.into_bytes()
    }

    fn hostname(&self) -> Vec<u8> {
        system::hostname()
    }

    fn set_hostname(&self, name: &[u8]) -> Result<()> {
        system::set_hostname(name)
    }

    fn printk(&self) -> [u32; 4] {
        [u32::from(log::console_level()), 4, 1, 7]
    }
}

impl SysSource for Facts {
    fn possible_cpus(&self) -> u32 {
        let described = memory::machine().map_or(1, |machine| machine.cpus.len());
        described.clamp(1, cpu::MAX_CPUS) as u32
    }

    fn online_cpus(&self) -> Vec<u32> {
        cpu::online().map(|cpu| cpu.index.load(Relaxed)).collect()
    }

    fn cpu_identity(&self, cpu: u32) -> (u64, u64) {
        let id = cpu::get(cpu as usize).map_or(0, |cpu| cpu.hardware_id.load(Relaxed));
        (arch::sysreg::midr_el1(), id)
    }

    fn vulnerabilities(&self) -> Vec<(&'static str, &'static str)> {
        cpuid::spectre::vulnerabilities(&crate::speculation::states()).collect()
    }

    fn console(&self) -> Option<&'static str> {
        tty::console_name()
    }
}

/// /proc/cpuinfo's names of AT_HWCAP's and AT_HWCAP2's bits.
fn features() -> String {
    const HWCAP: [&str; 32] = [
        "fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid",
        "asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop", "sha3", "sm3", "sm4", "asimddp", "sha512", "sve", "asimdfhm",
        "dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg",
    ];
    const HWCAP2: [&str; 15] = [
        "dcpodp", "sve2", "sveaes", "svepmull", "svebitperm", "svesha3", "svesm4", "flagm2", "frint", "svei8mm",
        "svef32mm", "svef64mm", "svebf16", "i8mm", "bf16",
    ];
    let (hwcap, hwcap2) = exec::hwcaps();
    let mut text = String::new();
    for (bits, names) in [(hwcap, &HWCAP[..]), (hwcap2, &HWCAP2[..])] {
        for (bit, name) in (0u32..).zip(names) {
            if bits.wrapping_shr(bit) & 1 != 0 {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(name);
            }
        }
    }
    text
}
