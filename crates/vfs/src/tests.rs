//! Whole trees: paths, errnos, tmpfs contents, initramfs.

use crate::abi::*;
use crate::device::{self, DeviceRegistry};
use crate::file::{Caller, File as _, OpenFile};
use crate::inode::Clock;
use crate::ops::{Files, FsContext};
use crate::path::*;
use crate::tmpfs::{MemFd, Tmpfs, TmpfsOptions, seal};
use alloc::sync::Arc;
use base::Errno;
use proptest::prelude::*;
use std::format;
use std::string::String;
use std::sync::MutexGuard;
use std::vec;
use std::vec::Vec;

struct Noon;
impl Clock for Noon {
    fn realtime(&self) -> Timespec {
        Timespec { sec: 43200, nsec: 5 }
    }
}

struct World {
    ns: Arc<Namespace>,
    context: FsContext,
    caller: Caller,
    _ram: MutexGuard<'static, ()>,
}

impl World {
    fn new() -> World {
        let ram = frame::sim::ram(16);
        let clock: Arc<dyn Clock> = Arc::new(Noon);
        let devices = DeviceRegistry::new();
        devices.register_memory(|buf| buf.fill(4), |_| {});
        let root = Tmpfs::new(
            "rootfs",
            TmpfsOptions { mode: 0o755, ..TmpfsOptions::new(4096) },
            clock.clone(),
        )
        .unwrap();
        let ns = Namespace::new(root, "rootfs", devices, clock.clone());
        ns.register_fs("tmpfs", move |data| {
            Ok(Tmpfs::new("tmpfs", TmpfsOptions::new(4096).parse(data)?, clock.clone()).unwrap())
        });
        let context = FsContext::new(&ns);
        World { ns, context, caller: Caller { pid: 1, tid: 1, pgid: 1, sid: 1 }, _ram: ram }
    }
    fn f(&self) -> Files<'_> {
        self.context.files(&self.ns, &self.caller)
    }
    fn write(&self, path: &str, data: &[u8]) {
        let file =
            self.open(path, OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC).unwrap();
        assert_eq!(file.write(&self.caller, data), Ok(data.len()));
    }
    fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<OpenFile>, Errno> {
        self.f().open(path.as_bytes(), flags, 0o666)
    }
    fn read(&self, path: &str) -> Vec<u8> {
        let file = self.open(path, OpenFlags::empty()).unwrap();
        let mut buf = vec![0; 1 << 16];
        let len = file.read(&self.caller, &mut buf).unwrap();
        buf.truncate(len);
        buf
    }
    fn list(&self, path: &str) -> Vec<String> {
        let dir = self.open(path, OpenFlags::DIRECTORY).unwrap();
        let mut names = Vec::new();
        loop {
            let mut buf = [0u8; 100];
            let len = dir.getdents(&self.caller, &mut buf).unwrap();
            if len == 0 {
                return names;
            }
            let mut rest = &buf[..len];
            while !rest.is_empty() {
                let size = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
                let end = rest[19..].iter().position(|b| *b == 0).unwrap();
                names.push(String::from_utf8(rest[19..19 + end].to_vec()).unwrap());
                rest = &rest[size..];
            }
        }
    }
}

fn err<T>(result: Result<T, Errno>) -> Errno {
    result.map(drop).unwrap_err()
}

#[test]
fn opens_with_linux_errnos() {
    let w = World::new();
    w.f().mkdir(b"/d", 0o777).unwrap();
    w.write("/d/file", b"text");
    w.f().symlink(b"file", b"/d/link").unwrap();
    w.f().symlink(b"nowhere", b"/d/dangling").unwrap();
    w.f().symlink(b"loop2", b"/d/loop1").unwrap();
    w.f().symlink(b"loop1", b"/d/loop2").unwrap();
    let create = OpenFlags::RDWR | OpenFlags::CREAT;
    assert_eq!(err(w.open("", OpenFlags::empty())), Errno::ENOENT);
    assert_eq!(err(w.open("/x", OpenFlags::empty())), Errno::ENOENT);
    assert_eq!(err(w.open("/x/y", create)), Errno::ENOENT);
    assert_eq!(err(w.open("/d/file/y", create)), Errno::ENOTDIR);
    assert_eq!(err(w.open("/d/file/", OpenFlags::empty())), Errno::ENOTDIR);
    assert_eq!(err(w.open("/d/file/.", OpenFlags::empty())), Errno::ENOTDIR);
    assert_eq!(err(w.open("/d", OpenFlags::RDWR)), Errno::EISDIR);
    assert_eq!(err(w.open("/d", create)), Errno::EISDIR);
    assert_eq!(err(w.open("/d/new/", create)), Errno::EISDIR);
    assert_eq!(err(w.open("/d/file", create | OpenFlags::EXCL)), Errno::EEXIST);
    assert_eq!(err(w.open("/d/dangling", create | OpenFlags::EXCL)), Errno::EEXIST);
    assert_eq!(err(w.open("/d/link", OpenFlags::NOFOLLOW)), Errno::ELOOP);
    assert_eq!(err(w.open("/d/loop1", OpenFlags::empty())), Errno::ELOOP);
    assert_eq!(err(w.open("/d/file", OpenFlags::DIRECTORY)), Errno::ENOTDIR);
    assert_eq!(
        err(w.open("/d", OpenFlags::TMPFILE | OpenFlags::DIRECTORY | OpenFlags::RDWR)),
        Errno::EOPNOTSUPP
    );
    assert_eq!(err(w.open(&"a".repeat(256), create)), Errno::ENAMETOOLONG);
    assert_eq!(err(w.open(&"/a".repeat(2048), create)), Errno::ENAMETOOLONG);
    assert_eq!(w.read("/d/link"), b"text");
    assert_eq!(w.read("//d/.././d//link"), b"text");
    assert_eq!(w.read("/../../d/link"), b"text");
    // A dangling link makes its target.
    w.open("/d/dangling", create).unwrap();
    assert_eq!(w.read("/d/nowhere"), b"");
    let path = w.open("/d/link", OpenFlags::PATH | OpenFlags::NOFOLLOW).unwrap();
    assert_eq!(path.read(&w.caller, &mut [0; 4]), Err(Errno::EBADF));
    assert_eq!(w.f().at(path.place().unwrap()).readlink(b""), Ok(b"file".to_vec()));
    assert_eq!(err(w.f().readlink(b"/d/file")), Errno::EINVAL);
}

#[test]
fn makes_and_removes() {
    let w = World::new();
    let f = w.f();
    f.mkdir(b"/a", 0o777).unwrap();
    assert_eq!(f.stat(b"/a", 0).unwrap().mode, 0o040_755);
    assert_eq!(err(f.mkdir(b"/a", 0o777)), Errno::EEXIST);
    assert_eq!(err(f.mkdir(b"/", 0o777)), Errno::EEXIST);
    assert_eq!(err(f.mkdir(b"/x/y", 0o777)), Errno::ENOENT);
    f.mkdir(b"/a/b/", 0o777).unwrap();
    assert_eq!(f.stat(b"/a", 0).unwrap().nlink, 3);
    assert_eq!(err(f.unlink(b"/a", 0)), Errno::EISDIR);
    assert_eq!(err(f.unlink(b"/a", AT_REMOVEDIR)), Errno::ENOTEMPTY);
    assert_eq!(err(f.unlink(b"/a/.", AT_REMOVEDIR)), Errno::EINVAL);
    assert_eq!(err(f.unlink(b"/a/b/..", AT_REMOVEDIR)), Errno::ENOTEMPTY);
    assert_eq!(err(f.unlink(b"/", AT_REMOVEDIR)), Errno::EBUSY);
    w.write("/a/f", b"1");
    assert_eq!(err(f.unlink(b"/a/f", AT_REMOVEDIR)), Errno::ENOTDIR);
    assert_eq!(err(f.unlink(b"/a/f/", 0)), Errno::ENOTDIR);
    f.link(b"/a/f", w.f().base, b"/a/g", 0).unwrap();
    assert_eq!(f.stat(b"/a/g", 0).unwrap().nlink, 2);
    assert_eq!(err(f.link(b"/a", w.f().base, b"/c", 0)), Errno::EPERM);
    f.unlink(b"/a/f", 0).unwrap();
    assert_eq!(w.read("/a/g"), b"1");
    assert_eq!(err(f.mknod(b"/a/dir", S_IFDIR, 0)), Errno::EPERM);
    f.mknod(b"/a/null", S_IFCHR | 0o666, device::NULL.encode()).unwrap();
    let null = w.open("/a/null", OpenFlags::RDWR).unwrap();
    assert_eq!(null.write(&w.caller, b"gone"), Ok(4));
    assert_eq!(null.read(&w.caller, &mut [0; 4]), Ok(0));
    f.mknod(b"/a/none", S_IFCHR | 0o666, DevId::new(99, 9).encode()).unwrap();
    assert_eq!(err(w.open("/a/none", OpenFlags::empty())), Errno::ENXIO);
    f.mknod(b"/a/fifo", S_IFIFO | 0o666, 0).unwrap();
    assert_eq!(err(w.open("/a/fifo", OpenFlags::WRONLY | OpenFlags::NONBLOCK)), Errno::ENXIO);
    let reader = w.open("/a/fifo", OpenFlags::NONBLOCK).unwrap();
    let writer = w.open("/a/fifo", OpenFlags::WRONLY).unwrap();
    writer.write(&w.caller, b"hi").unwrap();
    assert_eq!(reader.read(&w.caller, &mut [0; 4]), Ok(2));
    assert_eq!(err(f.symlink(b"", b"/a/l")), Errno::ENOENT);
    assert_eq!(f.access(b"/a/g", crate::ops::X_OK, 0), Err(Errno::EACCES));
    f.chmod(b"/a/g", 0o755, 0).unwrap();
    assert_eq!(f.access(b"/a/g", crate::ops::X_OK, 0), Ok(()));
    f.chown(b"/a/g", 5, u32::MAX, 0).unwrap();
    let stat = f.stat(b"/a/g", 0).unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (5, 0, 0o100_755));
    f.utimens(
        b"/a/g",
        Some([Timespec { sec: 1, nsec: UTIME_OMIT }, Timespec { sec: 9, nsec: 1 }]),
        0,
    )
    .unwrap();
    let stat = f.stat(b"/a/g", 0).unwrap();
    assert_eq!((stat.atime.sec, stat.mtime.sec), (43200, 9));
}

#[test]
fn renames() {
    let w = World::new();
    let f = w.f();
    let base = w.f().base.clone();
    f.mkdir(b"/a", 0o755).unwrap();
    f.mkdir(b"/a/sub", 0o755).unwrap();
    f.mkdir(b"/b", 0o755).unwrap();
    w.write("/a/f", b"f");
    w.write("/a/g", b"g");
    assert_eq!(err(f.rename(b"/a", &base, b"/a/sub/x", 0)), Errno::EINVAL);
    assert_eq!(err(f.rename(b"/a/sub", &base, b"/a", 0)), Errno::ENOTEMPTY);
    assert_eq!(err(f.rename(b"/a/f", &base, b"/b", 0)), Errno::EISDIR);
    assert_eq!(err(f.rename(b"/b", &base, b"/a/f", 0)), Errno::ENOTDIR);
    assert_eq!(err(f.rename(b"/x", &base, b"/y", 0)), Errno::ENOENT);
    assert_eq!(err(f.rename(b"/a/.", &base, b"/y", 0)), Errno::EBUSY);
    assert_eq!(err(f.rename(b"/a/f", &base, b"/a/g", RENAME_NOREPLACE)), Errno::EEXIST);
    f.rename(b"/a/f", &base, b"/a/g", 0).unwrap();
    assert_eq!(w.read("/a/g"), b"f");
    f.rename(b"/a/sub", &base, b"/b/moved", 0).unwrap();
    assert_eq!((f.stat(b"/a", 0).unwrap().nlink, f.stat(b"/b", 0).unwrap().nlink), (2, 3));
    let moved = f.find(b"/b/moved", 0).unwrap();
    assert_eq!(moved.path(f.root), Ok(b"/b/moved".to_vec()));
    f.rename(b"/b", &base, b"/c/", 0).unwrap();
    assert_eq!(moved.path(f.root), Ok(b"/c/moved".to_vec()));
    f.rename(b"/a", &base, b"/c/moved", RENAME_EXCHANGE).unwrap();
    assert_eq!(w.read("/c/moved/g"), b"f");
    assert_eq!(moved.path(f.root), Ok(b"/a".to_vec()));
    f.unlink(b"/a", AT_REMOVEDIR).unwrap();
    assert_eq!(moved.path(f.root), Err(Errno::ENOENT));
    assert_eq!(moved.inode.lookup(&w.caller, b"x").map(drop), Err(Errno::ENOENT));
    let dead = f.at(&moved);
    assert_eq!(err(dead.open(b"new", OpenFlags::CREAT | OpenFlags::RDWR, 0o644)), Errno::ENOENT);
}

#[test]
fn mounts() {
    let w = World::new();
    let f = w.f();
    f.mkdir(b"/m", 0o755).unwrap();
    w.write("/m/under", b"");
    assert_eq!(err(f.mount(b"x", b"/m", b"nofs", 0, b"")), Errno::ENODEV);
    f.mount(b"tmpfs", b"/m", b"tmpfs", 0, b"size=64k,mode=700").unwrap();
    assert_eq!(f.stat(b"/m", 0).unwrap().mode, 0o040_700);
    assert_eq!(err(f.stat(b"/m/under", 0)), Errno::ENOENT);
    w.write("/m/over", b"1");
    let root = w.ns.root();
    let text = String::from_utf8(w.ns.mounts_text(&root).unwrap()).unwrap();
    assert_eq!(
        text,
        "rootfs / rootfs rw,size=8192k,nr_inodes=2048 0 0\ntmpfs /m tmpfs rw,relatime,size=64k,mode=700 0 0\n"
    );
    assert_eq!(f.find(b"/m/..", 0).unwrap().path(f.root), Ok(b"/".to_vec()));
    assert_eq!(f.find(b"/m/over", 0).unwrap().path(f.root), Ok(b"/m/over".to_vec()));
    assert_eq!(err(f.unlink(b"/m", AT_REMOVEDIR)), Errno::EBUSY);
    assert_eq!(err(f.rename(b"/m", f.base, b"/n", 0)), Errno::EBUSY);
    assert_eq!(err(f.rename(b"/m/over", f.base, b"/n", 0)), Errno::EXDEV);
    let open = w.open("/m/over", OpenFlags::empty()).unwrap();
    assert_eq!(err(f.umount(b"/m", 0)), Errno::EBUSY);
    drop(open);
    assert_eq!(err(f.umount(b"/m/over", 0)), Errno::EINVAL);
    // Files, up to its limit.
    let file = w.open("/m/big", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    assert_eq!(file.write(&w.caller, &vec![1; 1 << 20]), Ok(15 * 4096));
    assert_eq!(file.write(&w.caller, &[1; 4096]), Err(Errno::ENOSPC));
    let fs = f.statfs(b"/m").unwrap();
    assert_eq!((fs.f_blocks, fs.f_bfree, fs.f_type), (16, 0, 0x0102_1994));
    drop(file);
    f.mount(b"", b"/m", b"", MS_REMOUNT | MS_RDONLY, b"").unwrap();
    assert_eq!(err(w.open("/m/x", OpenFlags::CREAT | OpenFlags::RDWR)), Errno::EROFS);
    assert_eq!(err(f.unlink(b"/m/big", 0)), Errno::EROFS);
    f.mkdir(b"/bound", 0o755).unwrap();
    f.mount(b"/m", b"/bound", b"", MS_BIND, b"").unwrap();
    assert_eq!(w.read("/bound/over"), b"1");
    assert_eq!(f.umount(b"/bound", 0), Ok(()));
    assert_eq!(f.umount(b"/m", 0), Ok(()));
    assert_eq!(w.read("/m/under"), b"");
    assert_eq!(err(f.umount(b"/", 0)), Errno::EBUSY);
    // switch_root: mount --move . /; chroot .
    f.mkdir(b"/new", 0o755).unwrap();
    f.mount(b"tmpfs", b"/new", b"tmpfs", 0, b"").unwrap();
    w.write("/new/init", b"2");
    let new = f.find_dir(b"/new").unwrap();
    let inside = FsContext { cwd: new.clone(), ..w.context.clone() };
    inside.files(&w.ns, &w.caller).mount(b".", b"/", b"", MS_MOVE, b"").unwrap();
    let switched = FsContext { root: new.clone(), cwd: new, umask: 0 };
    let f = switched.files(&w.ns, &w.caller);
    assert_eq!(f.getcwd(), Ok(b"/".to_vec()));
    assert_eq!(f.find(b"/../..", 0).unwrap().path(f.root), Ok(b"/".to_vec()));
    let text = String::from_utf8(w.ns.mounts_text(&switched.root).unwrap()).unwrap();
    assert_eq!(text, "tmpfs / tmpfs rw,relatime 0 0\n");
}

#[test]
fn moves_at_once_make_no_ring() {
    let w = World::new();
    let f = w.f();
    let (mut under, mut top, mut inside) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["/a", "/b"] {
        f.mkdir(name.as_bytes(), 0o755).unwrap();
        under.push(f.find_dir(name.as_bytes()).unwrap());
        f.mount(b"tmpfs", name.as_bytes(), b"tmpfs", 0, b"").unwrap();
        let x = std::format!("{name}/x");
        f.mkdir(x.as_bytes(), 0o755).unwrap();
        top.push(f.find_dir(name.as_bytes()).unwrap());
        inside.push(f.find_dir(x.as_bytes()).unwrap());
    }
    for _ in 0..200 {
        let both = std::sync::Barrier::new(2);
        let go = |from: usize, to: usize| {
            both.wait();
            w.ns.move_mount(&top[from], &inside[to])
        };
        let (a, b) = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(|| go(0, 1)), scope.spawn(|| go(1, 0)));
            (a.join().unwrap(), b.join().unwrap())
        });
        let moved = usize::from(a.is_err());
        assert_eq!((a.and(b), [a, b][moved]), (Err(Errno::ELOOP), Ok(())));
        w.ns.move_mount(&top[moved], &under[moved]).unwrap();
    }
}

#[test]
fn lists_while_removing() {
    let w = World::new();
    w.f().mkdir(b"/d", 0o755).unwrap();
    for name in 0..30 {
        w.write(&std::format!("/d/file{name:02}"), b"");
    }
    let names = w.list("/d");
    assert_eq!(names.len(), 32);
    assert_eq!(&names[..3], [".", "..", "file29"]);
    let dir = w.open("/d", OpenFlags::DIRECTORY).unwrap();
    let mut seen = 0;
    loop {
        let mut buf = [0u8; 128];
        let len = dir.getdents(&w.caller, &mut buf).unwrap();
        if len == 0 {
            break;
        }
        let mut rest = &buf[..len];
        while !rest.is_empty() {
            let size = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            let end = rest[19..].iter().position(|b| *b == 0).unwrap();
            let name = &rest[19..19 + end];
            if name[0] != b'.' {
                w.f().unlink(&[b"/d/", name].concat(), 0).unwrap();
                seen += 1;
            }
            rest = &rest[size..];
        }
    }
    assert_eq!(seen, 30);
    assert_eq!(dir.seek(0, SEEK_SET), Ok(0));
    assert_eq!(dir.getdents(&w.caller, &mut [0; 10]), Err(Errno::EINVAL));
    w.f().unlink(b"/d", AT_REMOVEDIR).unwrap();
    assert_eq!(dir.getdents(&w.caller, &mut [0; 100]), Err(Errno::ENOENT));
}

#[test]
fn deleted_files_stay_open() {
    let w = World::new();
    w.write("/f", b"kept");
    let file = w.open("/f", OpenFlags::RDWR | OpenFlags::APPEND).unwrap();
    assert_eq!(file.place().unwrap().path_shown(w.f().root).unwrap(), b"/f");
    w.f().unlink(b"/f", 0).unwrap();
    assert_eq!(file.place().unwrap().path_shown(w.f().root).unwrap(), b"/f (deleted)");
    assert_eq!(file.write(&w.caller, b"+"), Ok(1));
    let mut buf = [0; 8];
    assert_eq!(file.read_at(&w.caller, 0, &mut buf), Ok(5));
    assert_eq!(file.stat().unwrap().nlink, 0);
    assert_eq!(file.seek(-1, SEEK_END), Ok(4));
    assert_eq!(file.seek(-9, SEEK_CUR), Err(Errno::EINVAL));
    assert_eq!(file.seek(0, 9), Err(Errno::EINVAL));
    let object = file.file().mmap().unwrap();
    assert_eq!(object.frame(1, false).map(drop), Err(Errno::EFAULT));
    let page = object.frame(0, true).unwrap();
    page.write(0, b"K").unwrap();
    assert_eq!(file.read_at(&w.caller, 0, &mut buf[..1]), Ok(1));
    assert_eq!(buf[0], b'K');
}

#[test]
fn lost_pages_leave_mappings() {
    static LOST: std::sync::Mutex<Vec<(u64, u64)>> = std::sync::Mutex::new(Vec::new());
    crate::tmpfs::set_unmap(|_, first, end| LOST.lock().unwrap().push((first, end)));
    let w = World::new();
    w.write("/f", &[1; 20_000]);
    let file = w.open("/f", OpenFlags::RDWR).unwrap();
    file.truncate(10_000).unwrap();
    let _object = file.file().mmap().unwrap();
    file.truncate(9000).unwrap();
    file.truncate(5000).unwrap();
    file.fallocate(3, 0, 4096).unwrap();
    assert_eq!(*LOST.lock().unwrap(), [(2, u64::MAX), (0, 1)]);
}

#[test]
fn frames_come_back() {
    let w = World::new();
    let before = frame::stats();
    w.write("/f", &[1; 50_000]);
    let file = w.open("/f", OpenFlags::RDWR).unwrap();
    w.f().unlink(b"/f", 0).unwrap();
    file.truncate(1).unwrap();
    file.truncate(5000).unwrap();
    let mut buf = [9; 5000];
    assert_eq!(file.read(&w.caller, &mut buf), Ok(5000));
    assert_eq!(buf.iter().map(|b| u32::from(*b)).sum::<u32>(), 1);
    drop(file);
    assert_eq!(frame::stats().free, before.free);
    assert_eq!(w.f().statfs(b"/").unwrap().f_bfree, 2048);
}

#[test]
fn memfds_and_seals() {
    let _ram = frame::sim::ram(16);
    let memfd = MemFd::new(b"guest", true, 100, Arc::new(Noon)).unwrap();
    let file = OpenFile::anonymous(memfd.clone(), OpenFlags::RDWR).unwrap();
    file.truncate(8192).unwrap();
    assert_eq!(file.stat().unwrap().size, 8192);
    memfd.add_seals(seal::SHRINK | seal::SEAL).unwrap();
    assert_eq!(file.truncate(0), Err(Errno::EPERM));
    assert_eq!(memfd.add_seals(seal::GROW), Err(Errno::EPERM));
    assert_eq!(memfd.seals(), seal::SHRINK | seal::SEAL);
    assert_eq!(file.file().describe(), "/memfd:guest (deleted)");
    let who = Caller::default();
    assert_eq!(file.write_at(&who, 4000, &[1; 200]), Ok(200));
    assert_eq!(file.seek(0, SEEK_DATA), Ok(0));
    assert_eq!(file.fallocate(3, 0, 4096), Ok(()));
    assert_eq!(file.seek(0, SEEK_DATA), Ok(4096));
    assert_eq!(file.seek(4096, SEEK_HOLE), Ok(8192));
    let null = OpenFile::anonymous(Arc::new(device::Null), OpenFlags::RDWR).unwrap();
    file.seek(4096, SEEK_SET).unwrap();
    let mut chunk = [0; 512];
    assert_eq!(crate::file::copy_chunk(&who, &file, None, &null, None, &mut chunk), Ok(512));
    assert_eq!(file.seek(0, SEEK_CUR), Ok(4096 + 512));
}

#[test]
fn unpacks_an_initramfs() {
    let w = World::new();
    let mut archive = Vec::new();
    let mut add = |name: &str, mode: u32, ino: u32, nlink: u32, data: &[u8]| {
        archive.extend_from_slice(
            std::format!(
                "070701{ino:08x}{mode:08x}{:08x}{:08x}{nlink:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
                0, 0, 77, data.len(), 0, 0, 1, 3, name.len() + 1, 0
            )
            .as_bytes(),
        );
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    add(".", S_IFDIR | 0o755, 1, 2, b"");
    add("bin", S_IFDIR | 0o750, 2, 2, b"");
    add("bin/busybox", S_IFREG | 0o755, 3, 2, &[7; 10_000]);
    add("bin/sh", S_IFREG | 0o755, 3, 2, b"");
    add("init", S_IFLNK | 0o777, 4, 1, b"bin/sh");
    add("dev", S_IFDIR | 0o755, 5, 2, b"");
    add("dev/null", S_IFCHR | 0o666, 6, 1, b"");
    add("no/such/dir", S_IFREG | 0o644, 7, 1, b"lost");
    add("TRAILER!!!", 0, 0, 1, b"");
    let done = crate::initramfs::unpack(&w.ns, &archive).unwrap();
    assert_eq!((done.entries, done.skipped), (8, 1));
    assert_eq!(w.read("/init"), [7; 10_000]);
    assert!(w.f().open_exec(b"/init", 0).is_ok());
    assert_eq!(err(w.f().open_exec(b"/dev/null", 0)), Errno::EACCES);
    let stat = w.f().stat(b"/bin", 0).unwrap();
    assert_eq!((stat.mode, stat.mtime.sec), (S_IFDIR | 0o750, 77));
    assert_eq!(w.f().stat(b"/bin/sh", 0).unwrap().nlink, 2);
    crate::initramfs::ensure_node(&w.ns, b"/dev", b"console", 0o600, device::CONSOLE).unwrap();
    assert_eq!(w.f().stat(b"/dev/console", 0).unwrap().rdev, device::CONSOLE);
}

#[test]
fn sockets_by_name() {
    use crate::unix::{Address, Socket, SocketType};
    let w = World::new();
    let f = w.f();
    let path = Address::Path(b"/sock"[..].into());
    let server = Socket::new(SocketType::Stream, &w.caller).unwrap();
    let client = Socket::new(SocketType::Stream, &w.caller).unwrap();
    assert_eq!(client.connect(&path, &f, &w.caller), Err(Errno::ENOENT));
    assert_eq!(server.listen(1), Err(Errno::EINVAL));
    server.bind(path.clone(), &f).unwrap();
    assert_eq!(f.stat(b"/sock", 0).unwrap().mode & S_IFMT, S_IFSOCK);
    assert_eq!(client.bind(path.clone(), &f), Err(Errno::EADDRINUSE));
    assert_eq!(client.connect(&path, &f, &w.caller), Err(Errno::ECONNREFUSED));
    assert_eq!(err(w.open("/sock", OpenFlags::RDWR)), Errno::ENXIO);
    server.listen(1).unwrap();
    assert_eq!(err(server.accept(OpenFlags::empty())), Errno::EAGAIN);
    client.connect(&path, &f, &w.caller).unwrap();
    assert_eq!(client.connect(&path, &f, &w.caller), Err(Errno::EISCONN));
    client.send(b"early", None, vec![]).unwrap();
    let end = server.accept(OpenFlags::empty()).unwrap();
    let end = end.downcast::<Socket>().unwrap();
    let mut buf = [0; 8];
    assert_eq!(end.receive(&mut buf, 0).unwrap().count, 5);
    assert_eq!((end.name(), client.peer_name()), (path.clone(), Ok(path.clone())));
    let others: Vec<_> =
        (0..3).map(|_| Socket::new(SocketType::Stream, &w.caller).unwrap()).collect();
    let results: Vec<_> = others.iter().map(|other| other.connect(&path, &f, &w.caller)).collect();
    assert_eq!(results, [Ok(()), Ok(()), Err(Errno::EAGAIN)]);
    drop(server);
    assert!(others[0].poll().contains(crate::Events::HUP));
    assert_eq!(others[2].connect(&path, &f, &w.caller), Err(Errno::ECONNREFUSED));
    // Datagrams, by an abstract name.
    let (a, b) = (
        Socket::new(SocketType::Datagram, &w.caller).unwrap(),
        Socket::new(SocketType::Datagram, &w.caller).unwrap(),
    );
    let name = Address::Abstract(b"box"[..].into());
    a.bind(name.clone(), &f).unwrap();
    b.bind(Address::Unnamed, &f).unwrap();
    assert_eq!(b.send(b"x", None, vec![]), Err(Errno::ENOTCONN));
    b.send(b"to", Some((&name, &f)), vec![]).unwrap();
    let got = a.receive(&mut buf, 0).unwrap();
    assert_eq!((got.count, &got.from), (2, &b.name()));
    a.send(b"back", Some((&got.from, &f)), vec![]).unwrap();
    assert_eq!(b.receive(&mut buf, 0).unwrap().count, 4);
}

/// Two processes: 1, with descriptors, and 5, a zombie.
struct Facts {
    files: Arc<crate::FdTable>,
    context: FsContext,
    exe: Option<Place>,
    name: std::sync::Mutex<Vec<u8>>,
}

impl crate::proc::ProcSource for Facts {
    fn pids(&self) -> base::Result<Vec<u32>> {
        Ok(vec![1, 5])
    }
    fn processes(&self) -> u32 {
        2
    }
    fn threads(&self, pid: u32) -> base::Result<Vec<u32>> {
        Ok(if pid == 1 { vec![1, 3] } else { vec![pid] })
    }
    fn process(&self, pid: u32, tid: Option<u32>) -> Option<crate::proc::ProcessInfo> {
        let known =
            (pid == 1 && [None, Some(1), Some(3)].contains(&tid)) || (pid == 5 && tid.is_none());
        let comm = self.name.lock().unwrap().clone();
        known.then(|| crate::proc::ProcessInfo {
            pid,
            tid: tid.unwrap_or(pid),
            comm,
            state: b'S',
            ..Default::default()
        })
    }
    fn cmdline(&self, _pid: u32) -> Result<Vec<u8>, Errno> {
        Ok(b"cat\0x\0".to_vec())
    }
    fn environ(&self, _pid: u32) -> Result<Vec<u8>, Errno> {
        Ok(vec![])
    }
    fn auxv(&self, _pid: u32) -> Result<Vec<u8>, Errno> {
        Ok(vec![])
    }
    fn maps(&self, _pid: u32) -> Result<Vec<crate::proc::MapInfo>, Errno> {
        Ok(vec![])
    }
    fn limits(&self, _pid: u32) -> Result<[(u64, u64); 16], Errno> {
        Ok([(1, 2); 16])
    }
    fn files(&self, pid: u32) -> Option<Arc<crate::FdTable>> {
        (pid == 1).then(|| self.files.clone())
    }
    fn context(&self, pid: u32) -> Option<FsContext> {
        (pid == 1).then(|| self.context.clone())
    }
    fn exe(&self, pid: u32) -> Option<Place> {
        self.exe.clone().filter(|_| pid == 1)
    }
    fn oom_score(&self, _: u32) -> base::Result<u64> {
        Ok(666)
    }
    fn oom_score_adj(&self, _: u32) -> base::Result<i32> {
        Ok(0)
    }
    fn set_oom_score_adj(&self, _: u32, _: i32) -> base::Result<()> {
        Err(Errno::EINVAL)
    }
    fn fail_nth(&self, _pid: u32, _tid: u32) -> base::Result<u32> {
        Ok(7)
    }
    fn set_fail_nth(&self, _pid: u32, _tid: u32, nth: u32) -> base::Result<()> {
        if nth == 3 { Ok(()) } else { Err(Errno::ESRCH) }
    }
    fn set_comm(&self, _pid: u32, _tid: u32, name: &[u8]) -> Result<(), Errno> {
        *self.name.lock().unwrap() = name.to_vec();
        Ok(())
    }
    fn memory(&self) -> crate::proc::MemInfo {
        Default::default()
    }
    fn cpus(&self) -> Vec<crate::proc::CpuInfo> {
        vec![Default::default()]
    }
    fn cpu_times(&self) -> Vec<crate::proc::CpuTimes> {
        vec![Default::default()]
    }
    fn system(&self) -> crate::proc::SystemInfo {
        Default::default()
    }
    fn interrupts(&self) -> Vec<u8> {
        vec![]
    }
    fn accounts(&self) -> Vec<u8> {
        vec![]
    }
    fn hostname(&self) -> Vec<u8> {
        b"(none)".to_vec()
    }
    fn set_hostname(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn printk(&self) -> [u32; 4] {
        [7, 4, 1, 7]
    }
}

struct Cpus;
impl crate::sysfs::SysSource for Cpus {
    fn possible_cpus(&self) -> u32 {
        4
    }
    fn online_cpus(&self) -> Vec<u32> {
        vec![0, 1, 3]
    }
    fn cpu_identity(&self, _cpu: u32) -> (u64, u64) {
        (0x410f_d0f0, 0)
    }
}

#[test]
fn proc_sys_and_dev() {
    let w = World::new();
    for dir in ["/proc", "/sys", "/dev"] {
        w.f().mkdir(dir.as_bytes(), 0o755).unwrap();
    }
    w.write("/prog", b"");
    let files = Arc::new(crate::FdTable::new());
    let facts = Facts {
        files: files.clone(),
        context: w.context.clone(),
        exe: w.f().find(b"/prog", 0).ok(),
        name: std::sync::Mutex::new(b"init".to_vec()),
    };
    crate::types::register(&w.ns, 1000, Arc::new(facts), Arc::new(Cpus)).unwrap();
    for (name, dir) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        w.f().mount(name.as_bytes(), dir.as_bytes(), name.as_bytes(), 0, b"").unwrap();
    }
    let mounts = String::from_utf8(w.read("/proc/mounts")).unwrap();
    assert!(
        mounts.contains("proc /proc proc rw,relatime 0 0\nsysfs /sys sysfs rw,relatime 0 0\n"),
        "{mounts}"
    );
    assert!(
        mounts
            .contains("devtmpfs /dev devtmpfs rw,relatime,size=2000k,nr_inodes=500,mode=755 0 0\n")
    );
    assert_eq!(w.f().statfs(b"/proc/1").unwrap().f_type, 0x9fa0);
    assert_eq!(w.read("/dev/zero")[..3], [0, 0, 0]);
    assert!(w.list("/dev").contains(&"urandom".into()));
    assert_eq!(w.read("/sys/devices/system/cpu/online"), b"0-1,3\n");
    assert_eq!(w.read("/sys/devices/system/cpu/offline"), b"2\n");
    assert_eq!(w.read("/sys/class/mem/null/dev"), b"1:3\n");
    assert_eq!(w.read("/sys/class/mem/null/subsystem/zero/dev"), b"1:5\n");
    assert_eq!(err(w.open("/sys/kernel/mm", OpenFlags::empty())), Errno::ENOENT);
    assert_eq!(
        w.f().find(b"/sys/class/mem", 0).unwrap().path(w.f().root),
        Ok(b"/sys/class/mem".to_vec())
    );
    // Processes.
    assert_eq!(w.f().readlink(b"/proc/self"), Ok(b"1".to_vec()));
    assert_eq!(w.f().readlink(b"/proc/self/exe"), Ok(b"/prog".to_vec()));
    assert_eq!(w.f().readlink(b"/proc/self/cwd"), Ok(b"/".to_vec()));
    assert!(w.open("/proc/self/cwd/dev/null", OpenFlags::empty()).is_ok());
    assert_eq!(w.read("/proc/thread-self/comm"), b"init\n");
    assert_eq!(w.read("/proc/1/cmdline"), b"cat\0x\0");
    assert_eq!(err(w.open("/proc/7", OpenFlags::empty())), Errno::ENOENT);
    assert_eq!(err(w.open("/proc/1/stat", OpenFlags::WRONLY)), Errno::EACCES);
    assert_eq!(err(w.open("/proc/new", OpenFlags::CREAT | OpenFlags::WRONLY)), Errno::EACCES);
    let comm = w.open("/proc/1/comm", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    assert_eq!(comm.write(&w.caller, b"renamed-to-something-long\n"), Ok(26));
    assert_eq!(w.read("/proc/1/task/3/comm"), b"renamed-to-some\n");
    let top = w.list("/proc");
    for name in [".", "..", "1", "5", "meminfo", "self", "sys", "uptime"] {
        assert!(top.contains(&name.into()), "{name} not in {top:?}");
    }
    assert_eq!(w.list("/proc/1/task"), [".", "..", "1", "3"]);
    assert!(!w.list("/proc/1/task/3").contains(&"task".into()));
    for (path, up) in [
        ("/proc/1/task/3", "/proc/1/task"),
        ("/proc/sys/kernel", "/proc/sys"),
        ("/proc/1", "/proc"),
    ] {
        let place = w.f().find([path, "/.."].concat().as_bytes(), 0).unwrap();
        assert_eq!(place.path(w.f().root), Ok(up.as_bytes().to_vec()));
    }
    for name in w.list("/proc/1") {
        let path = std::format!("/proc/1/{name}");
        let stat = w.f().stat(path.as_bytes(), 0).unwrap();
        if stat.mode & S_IFMT == S_IFREG && name != "auxv" {
            w.read(&path);
        }
    }
    // Descriptors.
    let (r, wr) = crate::pipe::Pipe::pair(OpenFlags::empty()).unwrap();
    wr.write(&w.caller, b"through").unwrap();
    files.install(r, false, 10).unwrap();
    files.install(w.open("/prog", OpenFlags::RDWR).unwrap(), false, 10).unwrap();
    assert_eq!(w.list("/proc/self/fd"), [".", "..", "0", "1"]);
    assert!(w.f().readlink(b"/proc/self/fd/0").unwrap().starts_with(b"pipe:["));
    assert_eq!(w.f().readlink(b"/proc/self/fd/1"), Ok(b"/prog".to_vec()));
    assert_eq!(w.read("/proc/self/fd/0"), b"through");
    assert_eq!(w.f().stat(b"/proc/self/fd/0", 0).unwrap().mode & S_IFMT, S_IFIFO);
    assert!(w.read("/proc/self/fdinfo/1").starts_with(b"pos:\t0\nflags:\t02\n"));
    w.f().unlink(b"/prog", 0).unwrap();
    assert_eq!(w.f().readlink(b"/proc/1/exe"), Ok(b"/prog (deleted)".to_vec()));
    // A file is made anew when it is read from its start.
    let uptime = w.open("/proc/uptime", OpenFlags::empty()).unwrap();
    let mut buf = [0; 4];
    assert_eq!(uptime.read(&w.caller, &mut buf), Ok(4));
    assert_eq!(uptime.read(&w.caller, &mut buf), Ok(4));
    assert_eq!(&buf, b" 0.0");
    assert_eq!(uptime.seek(0, SEEK_SET), Ok(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn contents_like_a_vec(ops in proptest::collection::vec((0u8..5, 0u64..40_000, 0usize..9000), 1..40)) {
        let _ram = frame::sim::ram(16);
        let memfd = MemFd::new(b"m", true, 1000, Arc::new(Noon)).unwrap();
        let file = OpenFile::anonymous(memfd, OpenFlags::RDWR).unwrap();
        let who = Caller::default();
        let mut model: Vec<u8> = Vec::new();
        for (step, (op, at, len)) in ops.into_iter().enumerate() {
            match op {
                0 | 1 => {
                    let data = vec![step as u8 + 1; len];
                    prop_assert_eq!(file.write_at(&who, at as i64, &data), Ok(len));
                    if len > 0 {
                        let end = at as usize + len;
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&data);
                    }
                }
                2 => {
                    file.truncate(at as i64).unwrap();
                    model.resize(at as usize, 0);
                }
                3 if len > 0 => {
                    file.fallocate(3, at as i64, len as i64).unwrap();
                    let end = (at as usize + len).min(model.len());
                    if (at as usize) < end {
                        model[at as usize..end].fill(0);
                    }
                }
                _ => {
                    let mut buf = vec![0xee; len];
                    let got = file.read_at(&who, at as i64, &mut buf).unwrap();
                    let from = (at as usize).min(model.len());
                    let want = &model[from..(from + len).min(model.len())];
                    prop_assert_eq!(&buf[..got], want);
                }
            }
            prop_assert_eq!(file.stat().unwrap().size, model.len() as u64);
        }
    }

    #[test]
    fn paths_never_panic(path in "[a/.]{0,40}") {
        let w = World::new();
        w.f().mkdir(b"/a", 0o755).unwrap();
        w.f().symlink(b"..", b"/a/aa").unwrap();
        w.f().symlink(b"/a/", b"/aaa").unwrap();
        let path = path.as_bytes();
        let _ = w.f().open(path, OpenFlags::CREAT | OpenFlags::RDWR, 0o644);
        let _ = w.f().mkdir(path, 0o755);
        let _ = w.f().rename(path, w.f().base, b"/a/x", 0);
        let _ = w.f().unlink(path, 0);
        let _ = w.f().unlink(path, AT_REMOVEDIR);
        if let Ok(place) = w.f().find(path, 0) {
            let _ = place.path_shown(w.f().root);
        }
    }
}

#[test]
fn long_work_breathes() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static BREATHS: AtomicUsize = AtomicUsize::new(0);
    crate::tmpfs::set_breathe(|| {
        BREATHS.fetch_add(1, SeqCst);
    });
    let w = World::new();
    let file = w.open("/long", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    file.file().fallocate(0, 0, 1024 * 4096).unwrap();
    assert!(BREATHS.load(SeqCst) >= 2);
    file.file().truncate(0).unwrap();
    assert!(BREATHS.load(SeqCst) >= 4);
}

#[test]
fn large_files_and_trees_end_in_pieces() {
    let w = World::new();
    for dir in 0..20 {
        w.f().mkdir(format!("/d{dir}").as_bytes(), 0o777).unwrap();
        for name in 0..20 {
            w.open(&format!("/d{dir}/{name}"), OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
        }
    }
    let file = w.open("/long", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    file.file().fallocate(0, 0, 1024 * 4096).unwrap();
    drop(file);
    let World { ns, context, _ram, .. } = w;
    drop((ns, context));
    assert!(base::grave::any());
    let breaths = std::cell::Cell::new(0);
    while base::grave::any() {
        base::grave::clear(|| breaths.set(breaths.get() + 1));
    }
    assert!(breaths.get() >= 1024 / 64 + 20);
}

#[test]
fn seals_meet_writers() {
    let w = World::new();
    let memfd = MemFd::new(b"x", true, 16, Arc::new(Noon)).unwrap();
    let file = OpenFile::anonymous(memfd.clone(), OpenFlags::RDWR).unwrap();
    assert_eq!(file.write(&w.caller, b"abc"), Ok(3));
    let object = file.file().mmap().unwrap();
    object.map_writable().unwrap();
    assert_eq!(memfd.add_seals(seal::WRITE), Err(Errno::EBUSY));
    memfd.add_seals(seal::FUTURE_WRITE).unwrap();
    // What was mapped before goes on.
    assert!(object.frame(0, true).is_ok());
    assert_eq!(object.map_writable(), Err(Errno::EPERM));
    assert_eq!(file.write(&w.caller, b"d"), Err(Errno::EPERM));
    object.unmap_writable();
    memfd.add_seals(seal::WRITE).unwrap();
    assert_eq!(object.frame(0, true).err(), Some(Errno::EPERM));
    assert!(object.frame(0, false).is_ok());
    assert_eq!(memfd.seals(), seal::WRITE | seal::FUTURE_WRITE);
}
