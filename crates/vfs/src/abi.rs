//! Linux's file ABI on arm64: constants and structures that programs see
//! (asm-generic/fcntl.h with arm64's asm/fcntl.h, asm-generic/stat.h, linux/stat.h,
//! asm-generic/statfs.h).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The longest path, with its NUL.
pub const PATH_MAX: usize = 4096;
/// The longest name within a directory.
pub const NAME_MAX: usize = 255;

/// File type bits of `st_mode`.
pub const S_IFMT: u32 = 0o170_000;
/// Socket.
pub const S_IFSOCK: u32 = 0o140_000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
/// FIFO.
pub const S_IFIFO: u32 = 0o010_000;

bitflags! {
    /// `open(2)`'s flags; the same bits are an open file's status flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// Write only.
        const WRONLY = 0o1;
        /// Read and write.
        const RDWR = 0o2;
        /// Create if it doesn't exist.
        const CREAT = 0o100;
        /// Fail if it exists.
        const EXCL = 0o200;
        /// Don't make a terminal the controlling one.
        const NOCTTY = 0o400;
        /// Empty it.
        const TRUNC = 0o1000;
        /// Write at the end.
        const APPEND = 0o2000;
        /// Don't wait.
        const NONBLOCK = 0o4000;
        /// Synchronised data.
        const DSYNC = 0o1_0000;
        /// SIGIO (kept, not acted on).
        const ASYNC = 0o2_0000;
        /// Must be a directory (arm64's number).
        const DIRECTORY = 0o4_0000;
        /// Don't follow a last symbolic link (arm64's number).
        const NOFOLLOW = 0o10_0000;
        /// Past the page cache (arm64's number).
        const DIRECT = 0o20_0000;
        /// Large files: always so (arm64's number).
        const LARGEFILE = 0o40_0000;
        /// Don't touch the access time.
        const NOATIME = 0o100_0000;
        /// Close on exec.
        const CLOEXEC = 0o200_0000;
        /// Synchronised.
        const SYNC = 0o400_0000;
        /// Only a reference to a place.
        const PATH = 0o1000_0000;
        /// Unnamed file (the bit without O_DIRECTORY).
        const TMPFILE = 0o2000_0000;
        const _ = !0;
    }
}

impl OpenFlags {
    /// The two access mode bits.
    pub const ACCMODE: u32 = 3;
    /// What F_SETFL may change.
    pub const SETTABLE: OpenFlags = OpenFlags::APPEND
        .union(OpenFlags::NONBLOCK)
        .union(OpenFlags::ASYNC)
        .union(OpenFlags::DIRECT)
        .union(OpenFlags::NOATIME);

    /// Whether reading is allowed.
    pub const fn readable(self) -> bool {
        !self.contains(OpenFlags::PATH) && self.bits() & Self::ACCMODE != 1
    }
    /// Whether writing is allowed.
    pub const fn writable(self) -> bool {
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & Self::ACCMODE, 1 | 2)
    }
}

/// `AT_FDCWD`.
pub const AT_FDCWD: i32 = -100;
/// Don't follow a last symbolic link.
pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// `unlinkat`: a directory.
pub const AT_REMOVEDIR: u32 = 0x200;
/// `linkat`: follow a last symbolic link.
pub const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// Don't trigger an automount.
pub const AT_NO_AUTOMOUNT: u32 = 0x800;
/// An empty path names the descriptor itself.
pub const AT_EMPTY_PATH: u32 = 0x1000;
/// `faccessat2`: effective ids.
pub const AT_EACCESS: u32 = 0x200;
/// `renameat2`: fail if the new name exists.
pub const RENAME_NOREPLACE: u32 = 1;
/// `renameat2`: swap the two.
pub const RENAME_EXCHANGE: u32 = 2;

/// `lseek`'s starting points.
pub const SEEK_SET: u32 = 0;
/// From the current position.
pub const SEEK_CUR: u32 = 1;
/// From the end.
pub const SEEK_END: u32 = 2;
/// The next data.
pub const SEEK_DATA: u32 = 3;
/// The next hole.
pub const SEEK_HOLE: u32 = 4;

/// `utimensat`: now.
pub const UTIME_NOW: i64 = 0x3fff_ffff;
/// `utimensat`: leave it.
pub const UTIME_OMIT: i64 = 0x3fff_fffe;

/// Seconds and nanoseconds (`struct timespec`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: i64,
}

impl Timespec {
    /// From nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Timespec { sec: (nanos / 1_000_000_000) as i64, nsec: (nanos % 1_000_000_000) as i64 }
    }

    /// In nanoseconds; `None` if it isn't a valid positive time. Saturates.
    pub fn to_nanos(self) -> Option<u64> {
        let sec = u64::try_from(self.sec).ok()?;
        let nsec = u64::try_from(self.nsec).ok().filter(|nsec| *nsec < 1_000_000_000)?;
        Some(sec.saturating_mul(1_000_000_000).saturating_add(nsec))
    }
}

/// A device number: 12 bits major, 20 bits minor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevId {
    /// The driver.
    pub major: u32,
    /// The device.
    pub minor: u32,
}

impl DevId {
    /// A device number.
    pub const fn new(major: u32, minor: u32) -> Self {
        DevId { major, minor }
    }

    /// As `mknod` and `stat` carry it (linux/kdev_t.h's "new" encoding).
    pub const fn encode(self) -> u64 {
        let (major, minor) = (self.major as u64, self.minor as u64);
        (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
    }

    /// From that.
    pub const fn decode(dev: u64) -> Self {
        DevId {
            major: ((dev >> 8) & 0xfff) as u32,
            minor: ((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) as u32,
        }
    }
}

/// What kind a file is, as directory entries tell (`DT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    /// FIFO or pipe.
    Fifo = 1,
    /// Character device.
    Char = 2,
    /// Directory.
    Dir = 4,
    /// Block device.
    Block = 6,
    /// Regular file.
    Regular = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Socket.
    Socket = 12,
}

impl FileType {
    /// The `S_IFMT` bits.
    pub const fn mode(self) -> u32 {
        (self as u32) << 12
    }

    /// From the `S_IFMT` bits of a mode.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            S_IFIFO => FileType::Fifo,
            S_IFCHR => FileType::Char,
            S_IFDIR => FileType::Dir,
            S_IFBLK => FileType::Block,
            S_IFREG => FileType::Regular,
            S_IFLNK => FileType::Symlink,
            S_IFSOCK => FileType::Socket,
            _ => return None,
        })
    }
}

/// What `stat` and `statx` tell about a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The file system's device number.
    pub dev: DevId,
    /// Inode number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For device nodes.
    pub rdev: DevId,
    /// In bytes.
    pub size: u64,
    /// In 512-byte units.
    pub blocks: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of contents.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Creation.
    pub btime: Timespec,
}

/// `struct stat` (asm-generic/stat.h, 64 bit).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatAbi {
    /// Device.
    pub st_dev: u64,
    /// Inode.
    pub st_ino: u64,
    /// Mode.
    pub st_mode: u32,
    /// Links.
    pub st_nlink: u32,
    /// Owner.
    pub st_uid: u32,
    /// Group.
    pub st_gid: u32,
    /// Device, if it is one.
    pub st_rdev: u64,
    /// Zero.
    pub pad1: u64,
    /// Bytes.
    pub st_size: i64,
    /// Best size of I/O.
    pub st_blksize: i32,
    /// Zero.
    pub pad2: i32,
    /// 512-byte blocks.
    pub st_blocks: i64,
    /// Access time.
    pub st_atim: Timespec,
    /// Modification time.
    pub st_mtim: Timespec,
    /// Change time.
    pub st_ctim: Timespec,
    /// Zero.
    pub unused: [u32; 2],
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxTime {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds.
    pub tv_nsec: u32,
    /// Zero.
    pub reserved: i32,
}

/// `struct statx` (linux/stat.h).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxAbi {
    /// Which fields hold something.
    pub stx_mask: u32,
    /// Best size of I/O.
    pub stx_blksize: u32,
    /// STATX_ATTR_*.
    pub stx_attributes: u64,
    /// Links.
    pub stx_nlink: u32,
    /// Owner.
    pub stx_uid: u32,
    /// Group.
    pub stx_gid: u32,
    /// Mode.
    pub stx_mode: u16,
    /// Zero.
    pub spare0: u16,
    /// Inode.
    pub stx_ino: u64,
    /// Bytes.
    pub stx_size: u64,
    /// 512-byte blocks.
    pub stx_blocks: u64,
    /// Which attributes are known.
    pub stx_attributes_mask: u64,
    /// Access time.
    pub stx_atime: StatxTime,
    /// Creation time.
    pub stx_btime: StatxTime,
    /// Change time.
    pub stx_ctime: StatxTime,
    /// Modification time.
    pub stx_mtime: StatxTime,
    /// Device, if it is one.
    pub stx_rdev_major: u32,
    /// Its minor.
    pub stx_rdev_minor: u32,
    /// The file system's device.
    pub stx_dev_major: u32,
    /// Its minor.
    pub stx_dev_minor: u32,
    /// The mount.
    pub stx_mnt_id: u64,
    /// Zero.
    pub spare: [u64; 13],
}

/// STATX_BASIC_STATS | STATX_BTIME.
pub const STATX_ALL: u32 = 0xfff;
/// STATX_MNT_ID.
pub const STATX_MNT_ID: u32 = 0x1000;
/// STATX_ATTR_MOUNT_ROOT.
pub const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

impl Stat {
    /// As `fstat` writes it.
    pub fn to_abi(&self) -> StatAbi {
        StatAbi {
            st_dev: self.dev.encode(),
            st_ino: self.ino,
            st_mode: self.mode,
            st_nlink: self.nlink,
            st_uid: self.uid,
            st_gid: self.gid,
            st_rdev: self.rdev.encode(),
            st_size: self.size as i64,
            st_blksize: 4096,
            st_blocks: self.blocks as i64,
            st_atim: self.atime,
            st_mtim: self.mtime,
            st_ctim: self.ctime,
            ..StatAbi::default()
        }
    }

    /// As `statx` writes it, with the mount it was found in (id, whether it is
    /// the mount's root).
    pub fn to_statx(&self, mount: Option<(u64, bool)>) -> StatxAbi {
        let time =
            |time: Timespec| StatxTime { tv_sec: time.sec, tv_nsec: time.nsec as u32, reserved: 0 };
        let (mnt_id, mount_root) = mount.unwrap_or_default();
        StatxAbi {
            stx_mask: if mount.is_some() { STATX_ALL | STATX_MNT_ID } else { STATX_ALL },
            stx_blksize: 4096,
            stx_attributes: if mount_root { STATX_ATTR_MOUNT_ROOT } else { 0 },
            stx_nlink: self.nlink,
            stx_uid: self.uid,
            stx_gid: self.gid,
            stx_mode: self.mode as u16,
            stx_ino: self.ino,
            stx_size: self.size,
            stx_blocks: self.blocks,
            stx_attributes_mask: STATX_ATTR_MOUNT_ROOT,
            stx_atime: time(self.atime),
            stx_btime: time(self.btime),
            stx_ctime: time(self.ctime),
            stx_mtime: time(self.mtime),
            stx_rdev_major: self.rdev.major,
            stx_rdev_minor: self.rdev.minor,
            stx_dev_major: self.dev.major,
            stx_dev_minor: self.dev.minor,
            stx_mnt_id: mnt_id,
            ..StatxAbi::default()
        }
    }
}

/// `struct statfs` (asm-generic/statfs.h, 64 bit).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StatFs {
    /// The magic number (linux/magic.h).
    pub f_type: u64,
    /// Block size.
    pub f_bsize: u64,
    /// Blocks.
    pub f_blocks: u64,
    /// Free blocks.
    pub f_bfree: u64,
    /// Free blocks for everybody.
    pub f_bavail: u64,
    /// Inodes.
    pub f_files: u64,
    /// Free inodes.
    pub f_ffree: u64,
    /// File system id.
    pub f_fsid: [i32; 2],
    /// The longest name.
    pub f_namelen: u64,
    /// Fragment size.
    pub f_frsize: u64,
    /// ST_* flags.
    pub f_flags: u64,
    /// Zero.
    pub f_spare: [u64; 4],
}

bitflags! {
    /// `poll`'s and epoll's events (asm-generic/poll.h, linux/eventpoll.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// Readable.
        const IN = 0x1;
        /// Urgent data.
        const PRI = 0x2;
        /// Writable.
        const OUT = 0x4;
        /// An error (always reported).
        const ERR = 0x8;
        /// Hung up (always reported).
        const HUP = 0x10;
        /// Not a descriptor.
        const NVAL = 0x20;
        /// Normal data to read.
        const RDNORM = 0x40;
        /// Priority data to read.
        const RDBAND = 0x80;
        /// Normal data may be written.
        const WRNORM = 0x100;
        /// Priority data may be written.
        const WRBAND = 0x200;
        /// The peer shut its writing side.
        const RDHUP = 0x2000;
        /// epoll: wake one.
        const EXCLUSIVE = 1 << 28;
        /// epoll: keep awake.
        const WAKEUP = 1 << 29;
        /// epoll: once.
        const ONESHOT = 1 << 30;
        /// epoll: edges.
        const ET = 1 << 31;
        const _ = !0;
    }
}

impl Events {
    /// Readable in both spellings.
    pub const READ: Events = Events::IN.union(Events::RDNORM);
    /// Writable in both spellings.
    pub const WRITE: Events = Events::OUT.union(Events::WRNORM);
}

/// `struct epoll_event`; not packed on arm64.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EpollEvent {
    /// [`Events`].
    pub events: u32,
    /// Zero.
    pub pad: u32,
    /// The caller's.
    pub data: u64,
}

/// `struct flock`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Flock {
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub l_type: i16,
    /// SEEK_*.
    pub l_whence: i16,
    /// Zero.
    pub pad: u32,
    /// Where it starts.
    pub l_start: i64,
    /// How long; 0: to the end.
    pub l_len: i64,
    /// Who has it.
    pub l_pid: i32,
    /// Zero.
    pub pad2: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!(size_of::<StatAbi>(), 128);
        assert_eq!(size_of::<StatxAbi>(), 256);
        assert_eq!(core::mem::offset_of!(StatxAbi, stx_mnt_id), 0x90);
        assert_eq!(size_of::<StatFs>(), 120);
        assert_eq!(size_of::<EpollEvent>(), 16);
        assert_eq!(size_of::<Flock>(), 32);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(DevId::new(10, 232).encode(), 0x0ae8);
        assert_eq!(DevId::decode(DevId::new(204, 64).encode()), DevId::new(204, 64));
        assert_eq!(
            DevId::decode(DevId::new(0xfff, 0xf_ffff).encode()),
            DevId::new(0xfff, 0xf_ffff)
        );
    }

    #[test]
    fn access_modes() {
        assert!(OpenFlags::empty().readable() && !OpenFlags::empty().writable());
        assert!(OpenFlags::WRONLY.writable() && !OpenFlags::WRONLY.readable());
        assert!(OpenFlags::RDWR.writable() && OpenFlags::RDWR.readable());
        assert!(!OpenFlags::PATH.readable());
    }
}
