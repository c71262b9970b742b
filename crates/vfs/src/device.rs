//! Devices by number, and the memory devices (Linux's
//! Documentation/admin-guide/devices.txt).
//!
//! Locks: the registry is at `NAMESPACE`; openers are called outside it.

use crate::abi::{DevId, FileType};
use crate::file::{File, Io, Position};
use crate::inode::{FileSystem, NewNode, OpenRequest};
use crate::path::Namespace;
use crate::tmpfs::{Tmpfs, TmpfsOptions};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Lock, Result, rank};
use core::any::Any;

/// /dev/null.
pub const NULL: DevId = DevId::new(1, 3);
/// /dev/zero.
pub const ZERO: DevId = DevId::new(1, 5);
/// /dev/full.
pub const FULL: DevId = DevId::new(1, 7);
/// /dev/random.
pub const RANDOM: DevId = DevId::new(1, 8);
/// /dev/urandom.
pub const URANDOM: DevId = DevId::new(1, 9);
/// /dev/kmsg.
pub const KMSG: DevId = DevId::new(1, 11);
/// /dev/tty: the caller's own.
pub const TTY: DevId = DevId::new(5, 0);
/// /dev/console.
pub const CONSOLE: DevId = DevId::new(5, 1);
/// /dev/ttyS0.
pub const TTY_S0: DevId = DevId::new(4, 64);
/// /dev/ttyAMA0.
pub const TTY_AMA0: DevId = DevId::new(204, 64);
/// /dev/ttynull, of a major number that Linux hands out as it likes.
pub const TTY_NULL: DevId = DevId::new(240, 0);
/// /dev/kvm.
pub const KVM: DevId = DevId::new(10, 232);

/// Opens a device.
pub type Opener = dyn Fn(&OpenRequest<'_>) -> Result<Arc<dyn File>> + Send + Sync;

#[derive(Clone)]
struct Device {
    name: &'static str,
    mode: u32,
    opener: Arc<Opener>,
}

/// Which devices there are.
pub struct DeviceRegistry {
    chars: Lock<BTreeMap<DevId, Device>>,
}

impl DeviceRegistry {
    /// None.
    pub fn new() -> Arc<DeviceRegistry> {
        Arc::new(DeviceRegistry { chars: Lock::new(rank::NAMESPACE, BTreeMap::new()) })
    }

    /// Adds a character device, with its name and permissions in devtmpfs.
    pub fn register(
        &self,
        dev: DevId,
        name: &'static str,
        mode: u32,
        opener: impl Fn(&OpenRequest<'_>) -> Result<Arc<dyn File>> + Send + Sync + 'static,
    ) {
        self.chars.lock().insert(dev, Device { name, mode, opener: Arc::new(opener) });
    }

    /// Adds a device whose openings share one file.
    pub fn register_file(&self, dev: DevId, name: &'static str, mode: u32, file: Arc<dyn File>) {
        self.register(dev, name, mode, move |_| Ok(file.clone()));
    }

    /// Opens the device behind a node; `ENXIO` if there is none.
    pub fn open(
        &self,
        kind: FileType,
        dev: DevId,
        request: &OpenRequest<'_>,
    ) -> Result<Arc<dyn File>> {
        if kind != FileType::Char {
            return Err(Errno::ENXIO);
        }
        let device = self.chars.lock().get(&dev).cloned().ok_or(Errno::ENXIO)?;
        (device.opener)(request)
    }

    /// Numbers, names and permissions, for devtmpfs.
    pub fn list(&self) -> Vec<(DevId, &'static str, u32)> {
        self.chars.lock().iter().map(|(dev, device)| (*dev, device.name, device.mode)).collect()
    }

    /// Adds /dev/null, zero, full, random and urandom; `mix_random` gets what is
    /// written to these two.
    pub fn register_memory(
        &self,
        fill_random: impl Fn(&mut [u8]) + Send + Sync + 'static,
        mix_random: impl Fn(&[u8]) + Send + Sync + 'static,
    ) {
        self.register_file(NULL, "null", 0o666, Arc::new(Null));
        self.register_file(ZERO, "zero", 0o666, Arc::new(Zero));
        self.register_file(FULL, "full", 0o666, Arc::new(Full));
        let random: Arc<dyn File> = Arc::new(Random { fill: fill_random, mix: mix_random });
        self.register_file(RANDOM, "random", 0o666, random.clone());
        self.register_file(URANDOM, "urandom", 0o666, random);
    }
}

/// Puts a node for every device into a devtmpfs that lacks it.
pub fn populate(devtmpfs: &dyn FileSystem, devices: &DeviceRegistry) {
    let root = devtmpfs.root();
    for (rdev, name, mode) in devices.list() {
        // EEXIST: it is there, perhaps changed by a program, and stays so.
        let _ = root
            .create(name.as_bytes(), &NewNode { kind: FileType::Char, mode, rdev, target: b"" });
    }
}

/// Makes devtmpfs mountable: one instance with a node for every device that is
/// registered by the time of a mount.
pub fn register_devtmpfs(ns: &Namespace, ram_pages: u64) -> Result<()> {
    let options = TmpfsOptions { mode: 0o755, ..TmpfsOptions::new(ram_pages) };
    let dev: Arc<dyn FileSystem> = Tmpfs::new("devtmpfs", options, ns.clock().clone())?;
    let devices = ns.devices().clone();
    ns.register_fs("devtmpfs", move |_| {
        populate(&*dev, &devices);
        Ok(dev.clone())
    });
    Ok(())
}

/// A device that takes text for the kernel's log and reads nothing.
pub struct LogSink<F> {
    /// Takes one message.
    pub write: F,
}

impl<F: Fn(&[u8]) + Send + Sync + 'static> File for LogSink<F> {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        (self.write)(data);
        Ok(data.len())
    }
    fn position(&self) -> Position {
        Position::Loose
    }
}

/// Takes everything, gives nothing.
pub struct Null;

impl File for Null {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, _buf: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        Ok(data.len())
    }
    fn position(&self) -> Position {
        Position::Loose
    }
}

/// Gives zeros.
pub struct Zero;

impl File for Zero {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        buf.fill(0);
        Ok(buf.len())
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        Ok(data.len())
    }
    fn position(&self) -> Position {
        Position::Loose
    }
}

/// Gives zeros, takes nothing.
pub struct Full;

impl File for Full {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        buf.fill(0);
        Ok(buf.len())
    }
    fn write(&self, _io: &mut Io<'_>, _data: &[u8]) -> Result<usize> {
        Err(Errno::ENOSPC)
    }
    fn position(&self) -> Position {
        Position::Loose
    }
}

/// Random bytes from the kernel's generator.
struct Random<F, M> {
    fill: F,
    mix: M,
}

impl<F, M> File for Random<F, M>
where
    F: Fn(&mut [u8]) + Send + Sync + 'static,
    M: Fn(&[u8]) + Send + Sync + 'static,
{
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        (self.fill)(buf);
        Ok(buf.len())
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        (self.mix)(data);
        Ok(data.len())
    }
    fn position(&self) -> Position {
        Position::Loose
    }
}
