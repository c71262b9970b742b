//! The machine as a whole: its name, memory, log, randomness, and its end.

use super::{Failure, SysResult};
use crate::process::table;
use crate::user::CurrentUser;
use crate::{log as ring, power, random, sched, time, wait};
use alloc::vec::Vec;
use base::{Errno, Lock, Result, UserMem, UserMemExt, rank};
use signal::Restart;

/// The version of Linux whose system calls these are, and our own.
pub const RELEASE: &str = concat!("6.12.0-hypha-", env!("CARGO_PKG_VERSION"));
/// uname's version: what Linux puts its build there.
pub const VERSION: &str = "#1 SMP PREEMPT";

const FIELD: usize = 65;

struct Names {
    host: [u8; FIELD],
    domain: [u8; FIELD],
}

static NAMES: Lock<Names> =
    Lock::new(rank::LOG - 3, Names { host: field(b"(none)"), domain: field(b"(none)") });

const fn field(text: &[u8]) -> [u8; FIELD] {
    let mut field = [0; FIELD];
    let mut rest = field.as_mut_slice();
    let mut text = text;
    while let ([to, later @ ..], [from, left @ ..]) = (rest, text) {
        *to = *from;
        (rest, text) = (later, left);
    }
    field
}

/// The host's name: uname, /proc/sys/kernel/hostname.
pub fn hostname() -> Vec<u8> {
    let names = NAMES.lock();
    names.host.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

/// Sets it, by way of /proc/sys/kernel/hostname.
pub fn set_hostname(name: &[u8]) -> Result<()> {
    if name.len() >= FIELD {
        return Err(Errno::EINVAL);
    }
    NAMES.lock().host = field(name);
    Ok(())
}

pub fn uname(out: u64) -> SysResult {
    let (host, domain) = {
        let names = NAMES.lock();
        (names.host, names.domain)
    };
    let fields = [
        field(b"Linux"),
        host,
        field(RELEASE.as_bytes()),
        field(VERSION.as_bytes()),
        field(b"aarch64"),
        domain,
    ];
    CurrentUser.write(out, fields.as_flattened())?;
    Ok(0)
}

fn read_name(name: u64, len: u64) -> Result<[u8; FIELD]> {
    let mut field = [0; FIELD];
    // 64 bytes and a NUL.
    let place = usize::try_from(len).ok().filter(|&len| len < FIELD);
    let place = place.and_then(|len| field.get_mut(..len)).ok_or(Errno::EINVAL)?;
    CurrentUser.read(name, place)?;
    Ok(field)
}

pub fn sethostname(name: u64, len: u64) -> SysResult {
    let name = read_name(name, len)?;
    NAMES.lock().host = name;
    Ok(0)
}

pub fn setdomainname(name: u64, len: u64) -> SysResult {
    let name = read_name(name, len)?;
    NAMES.lock().domain = name;
    Ok(0)
}

pub fn sysinfo(out: u64) -> SysResult {
    let memory = frame::stats();
    let load = (sched::runnable() as u64) << 16;
    let info: [u64; 14] = [
        time::now() / 1_000_000_000,
        load,
        load,
        load,
        memory.total,
        memory.free,
        0, // sharedram
        0, // bufferram
        0, // totalswap
        0, // freeswap
        table::task_count().min(usize::from(u16::MAX)) as u64,
        0, // totalhigh
        0, // freehigh
        1, // mem_unit
    ];
    CurrentUser.write_obj(out, &info)?;
    Ok(0)
}

const GRND_NONBLOCK: u32 = 1;
const GRND_RANDOM: u32 = 2;
const GRND_INSECURE: u32 = 4;

pub fn getrandom(out: u64, len: u64, flags: u32) -> SysResult {
    let both = GRND_RANDOM | GRND_INSECURE;
    if flags & !(GRND_NONBLOCK | both) != 0 || flags & both == both {
        return Err(Errno::EINVAL.into());
    }
    if flags & (GRND_NONBLOCK | GRND_INSECURE) == GRND_NONBLOCK && !random::is_seeded() {
        return Err(Errno::EAGAIN.into());
    }
    let len = len.min(i32::MAX as u64);
    let mut done = 0u64;
    let mut chunk = [0; 256];
    while done < len {
        let take = len.saturating_sub(done).min(chunk.len() as u64);
        let part = chunk.get_mut(..take as usize).ok_or(Errno::EFAULT)?;
        random::fill(part);
        match CurrentUser.write(out.wrapping_add(done), part) {
            Err(errno) if done == 0 => return Err(errno.into()),
            Err(_) => break,
            Ok(()) => done = done.saturating_add(take),
        }
        if done.is_multiple_of(16384) {
            sched::breathe();
            if crate::process::signal_pending() {
                break;
            }
        }
    }
    Ok(done as i64)
}

/// syslog(2)'s actions.
mod action {
    pub const READ: u32 = 2;
    pub const READ_ALL: u32 = 3;
    pub const READ_CLEAR: u32 = 4;
    pub const CLEAR: u32 = 5;
    pub const CONSOLE_OFF: u32 = 6;
    pub const CONSOLE_ON: u32 = 7;
    pub const CONSOLE_LEVEL: u32 = 8;
    pub const SIZE_UNREAD: u32 = 9;
    pub const SIZE_BUFFER: u32 = 10;
}

pub fn syslog(what: u32, out: u64, len: i32) -> SysResult {
    let room = || usize::try_from(len).ok().filter(|_| out != 0).ok_or(Errno::EINVAL);
    match what {
        // Close and open.
        0 | 1 => Ok(0),
        action::READ => {
            let room = room()?;
            if room == 0 {
                return Ok(0);
            }
            let text = wait::until(ring::readers(), None, || ring::take(room))
                .map_err(|ended| Failure::from_wait(ended, Restart::Sys, Errno::EAGAIN))?;
            CurrentUser.write(out, &text)?;
            Ok(text.len() as i64)
        }
        action::READ_ALL | action::READ_CLEAR => {
            let text = ring::tail(room()?)?;
            CurrentUser.write(out, &text)?;
            if what == action::READ_CLEAR {
                ring::clear();
            }
            Ok(text.len() as i64)
        }
        action::CLEAR => {
            ring::clear();
            Ok(0)
        }
        action::SIZE_UNREAD => Ok(ring::unread() as i64),
        action::CONSOLE_OFF => {
            ring::set_console_level(1);
            Ok(0)
        }
        action::CONSOLE_ON => {
            ring::set_console_level(7);
            Ok(0)
        }
        action::CONSOLE_LEVEL => match u8::try_from(len) {
            Ok(level @ 1..=8) => {
                ring::set_console_level(level);
                Ok(0)
            }
            _ => Err(Errno::EINVAL.into()),
        },
        action::SIZE_BUFFER => Ok(ring::size() as i64),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// reboot(2)'s magic numbers: Linus's birthday, and those of his daughters.
const MAGIC: u32 = 0xfee1_dead;
const MAGIC2: [u32; 4] = [0x2812_1969, 0x0512_1996, 0x1604_1998, 0x2011_2000];

pub fn reboot(magic: u32, magic2: u32, command: u32) -> SysResult {
    if magic != MAGIC || !MAGIC2.contains(&magic2) {
        return Err(Errno::EINVAL.into());
    }
    match command {
        0x0123_4567 => {
            log::info!("reboot: Restarting system");
            power::reset()
        }
        0xcdef_0123 => {
            log::info!("reboot: System halted");
            power::hang()
        }
        0x4321_fedc => {
            log::info!("reboot: Power down");
            power::off()
        }
        // Ctrl-Alt-Del: there is no such keyboard.
        0 | 0x89ab_cdef => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
