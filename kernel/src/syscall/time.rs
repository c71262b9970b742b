//! Clocks, sleeping, interval timers, CPU time.

use super::{Failure, SysResult};
use crate::process::cputime::CpuTime;
use crate::process::{self, Process, current, signals, table, with_thread};
use crate::timer::Timer;
use crate::user::CurrentUser;
use crate::wait::{self, Ended};
use crate::{clock, sched, time, timer};
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use base::{Errno, Nanos, Result, UserMemExt};
use core::task::Waker;
use signal::{Restart, SigInfo, Signal, code};
use syscalls::nr;

const SECOND: u64 = 1_000_000_000;

/// Clock IDs (linux/time.h).
mod id {
    pub const REALTIME: u32 = 0;
    pub const MONOTONIC: u32 = 1;
    pub const PROCESS_CPUTIME: u32 = 2;
    pub const THREAD_CPUTIME: u32 = 3;
    pub const MONOTONIC_RAW: u32 = 4;
    pub const REALTIME_COARSE: u32 = 5;
    pub const MONOTONIC_COARSE: u32 = 6;
    pub const BOOTTIME: u32 = 7;
    pub const REALTIME_ALARM: u32 = 8;
    pub const BOOTTIME_ALARM: u32 = 9;
    pub const TAI: u32 = 11;
}

/// A struct timespec from user memory, in nanoseconds; `EINVAL` if it is
/// negative or not normal.
pub fn read_timespec(addr: u64) -> Result<Nanos> {
    let [seconds, nanos]: [i64; 2] = CurrentUser.read_obj(addr)?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanos = u64::try_from(nanos).ok().filter(|&nanos| nanos < SECOND).ok_or(Errno::EINVAL)?;
    // Beyond 584 years it is never.
    Ok(seconds.saturating_mul(SECOND).saturating_add(nanos))
}

/// A struct timespec for user memory.
pub fn timespec(nanos: Nanos) -> [u64; 2] {
    [nanos / SECOND, nanos % SECOND]
}

/// A struct timeval for user memory.
fn timeval(nanos: Nanos) -> [u64; 2] {
    [nanos / SECOND, nanos % SECOND / 1000]
}

fn read_timeval(addr: u64) -> Result<Nanos> {
    let [seconds, micros]: [i64; 2] = CurrentUser.read_obj(addr)?;
    timeval_nanos(seconds, micros)
}

fn timeval_nanos(seconds: i64, micros: i64) -> Result<Nanos> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let micros = u64::try_from(micros).ok().filter(|&us| us < 1_000_000).ok_or(Errno::EINVAL)?;
    Ok(seconds.saturating_mul(SECOND).saturating_add(micros.saturating_mul(1000)))
}

/// What a clock shows. CPU clocks of others are encoded in negative IDs.
fn read_clock(clock: u32) -> Result<Nanos> {
    match clock {
        id::REALTIME | id::REALTIME_COARSE | id::REALTIME_ALARM | id::TAI => Ok(clock::realtime()),
        id::MONOTONIC
        | id::MONOTONIC_RAW
        | id::MONOTONIC_COARSE
        | id::BOOTTIME
        | id::BOOTTIME_ALARM => Ok(time::now()),
        id::PROCESS_CPUTIME => Ok(current()?.cpu_time().total()),
        id::THREAD_CPUTIME => Ok(CpuTime::of(&sched::current_ref()).total()),
        // CPUCLOCK: bits 31:3 are the inverted ID, bit 2 says that it is a
        // thread's; 0 is the caller.
        clock if clock.cast_signed() < 0 && clock & 3 != 3 => {
            let id = !(clock.cast_signed() >> 3);
            let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
            match (id, clock & 4 != 0) {
                (0, false) => Ok(current()?.cpu_time().total()),
                (0, true) => Ok(CpuTime::of(&sched::current_ref()).total()),
                (id, false) => Ok(table::process(id).map_err(|_| Errno::EINVAL)?.cpu_time().total()),
                (id, true) => {
                    let task = table::thread(id).map_err(|_| Errno::EINVAL)?;
                    Ok(CpuTime::of(&task).total())
                }
            }
        }
        _ => Err(Errno::EINVAL),
    }
}

pub fn clock_gettime(clock: u32, out: u64) -> SysResult {
    CurrentUser.write_obj(out, &timespec(read_clock(clock)?))?;
    Ok(0)
}

pub fn clock_settime(clock: u32, value: u64) -> SysResult {
    let value = read_timespec(value)?;
    if clock != id::REALTIME {
        return Err(Errno::EINVAL.into());
    }
    clock::set_realtime(value)?;
    Ok(0)
}

pub fn clock_getres(clock: u32, out: u64) -> SysResult {
    read_clock(clock)?;
    if out != 0 {
        CurrentUser.write_obj(out, &timespec(1))?;
    }
    Ok(0)
}

pub fn gettimeofday(out: u64, zone: u64) -> SysResult {
    if out != 0 {
        CurrentUser.write_obj(out, &timeval(clock::realtime()))?;
    }
    if zone != 0 {
        CurrentUser.write_obj(zone, &[0u32; 2])?;
    }
    Ok(0)
}

pub fn settimeofday(value: u64) -> SysResult {
    if value != 0 {
        clock::set_realtime(read_timeval(value)?)?;
    }
    Ok(0)
}

const TIMER_ABSTIME: u32 = 1;

pub fn nanosleep(request: u64, remain: u64) -> SysResult {
    sleep_for(read_timespec(request)?, remain, nr::NANOSLEEP, [request, remain, 0, 0, 0, 0])
}

pub fn clock_nanosleep(clock: u32, flags: u32, request: u64, remain: u64) -> SysResult {
    match clock {
        id::REALTIME | id::MONOTONIC | id::BOOTTIME | id::TAI => {}
        id::REALTIME_ALARM | id::BOOTTIME_ALARM => {}
        // Clocks that nobody can sleep on, and those that aren't.
        clock => {
            read_clock(clock)?;
            return Err(Errno::EOPNOTSUPP.into());
        }
    }
    let wanted = read_timespec(request)?;
    if flags & TIMER_ABSTIME == 0 {
        let args = [u64::from(clock), u64::from(flags), request, remain, 0, 0];
        return sleep_for(wanted, remain, nr::CLOCK_NANOSLEEP, args);
    }
    let real = matches!(clock, id::REALTIME | id::REALTIME_ALARM | id::TAI);
    let ended = match real {
        true => ended(clock::retry_until(wanted, nothing)),
        false => sleep_until(wanted),
    };
    match ended {
        Ended::TimedOut => Ok(0),
        ended => Err(Failure::from_wait(ended, Restart::NoHandler, Errno::EINTR)),
    }
}

/// A sleep that restart_syscall() goes on with.
fn sleep_for(timeout: Nanos, remain: u64, number: u64, args: super::Args) -> SysResult {
    let deadline = with_thread(|thread| thread.deadline_in(timeout))?;
    match sleep_until(deadline) {
        Ended::TimedOut => Ok(0),
        Ended::Errno(errno) => Err(errno.into()),
        Ended::Interrupted => {
            if remain != 0 {
                let left = deadline.saturating_sub(time::now());
                CurrentUser.write_obj(remain, &timespec(left))?;
            }
            Err(with_thread(|thread| thread.interrupted(number, args, deadline))?)
        }
    }
}

fn sleep_until(deadline: Nanos) -> Ended {
    ended(wait::retry(Some(deadline), nothing))
}

/// What a sleeper waits for.
const fn nothing() -> Result<()> {
    Err(Errno::EAGAIN)
}

fn ended(result: Result<(), Ended>) -> Ended {
    match result {
        Ok(()) => Ended::TimedOut,
        Err(ended) => ended,
    }
}

/// Clock ticks in `nanos`.
fn ticks(nanos: Nanos) -> u64 {
    process::exit::ticks(nanos)
}

pub fn times(out: u64) -> SysResult {
    if out != 0 {
        let process = current()?;
        let own = process.cpu_time();
        let children = table::children_time(process.pid);
        let times = [own.user, own.system, children.user, children.system];
        CurrentUser.write_obj(out, &times.map(ticks))?;
    }
    Ok(ticks(time::now()) as i64)
}

/// A struct rusage. `pages`: the most that were in memory.
pub fn usage(time: CpuTime, pages: u64) -> [u64; 18] {
    let [user, system] = [timeval(time.user), timeval(time.system)];
    let mut usage = [0; 18];
    [usage[0], usage[1]] = user;
    [usage[2], usage[3]] = system;
    // ru_maxrss, in KiB, after utime and stime.
    usage[4] = pages.saturating_mul(4);
    usage
}

pub fn getrusage(who: i32, out: u64) -> SysResult {
    let process = current()?;
    let own_pages = || process.mm().map_or(0, |mm| mm.size().1);
    let (time, pages) = match who {
        0 => (process.cpu_time(), own_pages()),
        -1 => (table::children_time(process.pid), 0),
        1 => (CpuTime::of(&sched::current_ref()), own_pages()),
        _ => return Err(Errno::EINVAL.into()),
    };
    CurrentUser.write_obj(out, &usage(time, pages))?;
    Ok(0)
}

/// ITIMER_REAL of a process.
#[derive(Default)]
pub struct Alarm {
    /// When it is due, and the deadline that is armed for it.
    armed: Option<(Nanos, Timer)>,
    /// When it last went off: the next period is armed when its SIGALRM is taken.
    rang: Option<Nanos>,
    interval: Nanos,
    /// Counts settings: one that fires late knows that it is stale.
    generation: u64,
}

/// Sends SIGALRM when it is woken.
struct Ring {
    process: Weak<Process>,
    generation: u64,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        let Some(process) = self.process.upgrade() else { return };
        {
            let mut alarm = process.alarm.lock();
            let Some((due, _)) = alarm.armed.filter(|_| alarm.generation == self.generation) else {
                return;
            };
            alarm.armed = None;
            alarm.rang = Some(due);
        }
        // It coalesces with one that is pending, by kill().
        let _ = signals::send(&process, SigInfo::kernel(Signal::SIGALRM, code::SI_KERNEL));
    }
}

/// A SIGALRM was taken. As on Linux a repeated alarm goes on from here, so that
/// one whose signal is ignored or blocked doesn't interrupt for ever.
pub fn alarm_taken(process: &Arc<Process>) {
    let (generation, next) = {
        let mut alarm = process.alarm.lock();
        let Some(due) = alarm.rang.take() else { return };
        (alarm.generation, timerq::next_period(due, alarm.interval, time::now()).0)
    };
    if let Some(next) = next {
        arm(process, generation, next);
    }
}

fn arm(process: &Arc<Process>, generation: u64, deadline: Nanos) {
    let ring = Arc::new(Ring { process: Arc::downgrade(process), generation });
    let timer = timer::arm(deadline, Waker::from(ring));
    let mut alarm = process.alarm.lock();
    // Set anew in between: this one finds itself stale when it fires.
    if alarm.generation == generation {
        alarm.armed = Some((deadline, timer));
    }
}

/// Replaces a process's alarm; what it was: time left and interval.
fn set_alarm(process: &Arc<Process>, timeout: Nanos, interval: Nanos) -> (Nanos, Nanos) {
    let now = time::now();
    let (old, old_interval, generation) = {
        let mut alarm = process.alarm.lock();
        alarm.generation = alarm.generation.wrapping_add(1);
        alarm.rang = None;
        let old_interval = core::mem::replace(&mut alarm.interval, interval);
        (alarm.armed.take(), old_interval, alarm.generation)
    };
    let left = old.map_or(0, |(due, timer)| {
        timer::cancel(timer);
        due.saturating_sub(now).max(1000)
    });
    if timeout != 0 {
        arm(process, generation, now.saturating_add(timeout));
    }
    (left, old_interval)
}

/// The process ends.
pub fn cancel_alarm(process: &Arc<Process>) {
    set_alarm(process, 0, 0);
}

/// ITIMER_REAL is the only one: the others count CPU time.
fn check_timer(which: u32) -> Result<()> {
    match which {
        0 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

fn itimerval((left, interval): (Nanos, Nanos)) -> [u64; 4] {
    let ([a, b], [c, d]) = (timeval(interval), timeval(left));
    [a, b, c, d]
}

pub fn getitimer(which: u32, out: u64) -> SysResult {
    check_timer(which)?;
    let process = current()?;
    let value = {
        let alarm = process.alarm.lock();
        let left = alarm.armed.map_or(0, |(due, _)| due.saturating_sub(time::now()).max(1000));
        (left, alarm.interval)
    };
    CurrentUser.write_obj(out, &itimerval(value))?;
    Ok(0)
}

pub fn setitimer(which: u32, new: u64, old: u64) -> SysResult {
    check_timer(which)?;
    // As on Linux, no value is one of zeros.
    let (interval, value) = match new {
        0 => (0, 0),
        addr => {
            let [a, b, c, d]: [i64; 4] = CurrentUser.read_obj(addr)?;
            (timeval_nanos(a, b)?, timeval_nanos(c, d)?)
        }
    };
    let before = set_alarm(&current()?, value, interval);
    if old != 0 {
        CurrentUser.write_obj(old, &itimerval(before))?;
    }
    Ok(0)
}
