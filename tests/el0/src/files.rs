//! Files, directories and links of a tmpfs, memfd, and the device nodes.

use crate::util::{
    Dir, Map, PAGE, RW, best_of, c, close, meminfo, pipe, raise_descriptor_limit, read, until,
    write,
};
use el0_tests::{End, Errno, Outcome, cases, check, check_eq, fork, sys, wait};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

cases!("files";
    write_read, create_exclusive, append, seek, sparse, truncate, ftruncate_and_shared_map,
    unlink_open, rename_over, rename_dirs, rename_flags, hard_links, symlinks, symlink_loops,
    directories, readdir_big, readdir_while_removing, dotdot, at_calls, mode_bits, umask, times,
    statx_fields, errors, vectored, positional, dup_shares_offset, fcntl_flags, descriptors_reuse,
    descriptor_limit, accept_needs_a_descriptor, big_file, copy_range, fallocate, memfd_shared, dev_nodes, fifo, cwd_removed,
    long_names, statfs, access, concurrent_append, concurrent_create, size_limit,
    close_range_unshares, close_many, record_locks, record_locks_of_sharers,
    record_locks_end_while_looked_at, record_lock_of_what_was_closed, memory_of_closed_files, memfd_seals,
    copy_range_in_one_file,
);

const AT: i32 = libc::AT_FDCWD;

fn open(path: &std::ffi::CStr, flags: i32, mode: u32) -> Result<i32, Errno> {
    sys!(libc::SYS_openat, AT, path.as_ptr(), flags, mode).map(|fd| fd as i32)
}

fn errno<T>(r: std::io::Result<T>) -> i32 {
    r.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

fn rw(d: &Dir, name: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(d.at(name))
}

fn write_read() -> Outcome {
    let d = Dir::new("rw")?;
    let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
    fs::write(d.at("f"), &data)?;
    check!(fs::read(d.at("f"))? == data, "read back differs");
    check_eq!(fs::metadata(d.at("f"))?.len(), 100_000);
    // Odd pieces at odd places.
    let mut f = rw(&d, "f")?;
    let mut got = Vec::new();
    let mut piece = vec![0u8; 4099];
    loop {
        let n = f.read(&mut piece)?;
        if n == 0 {
            break;
        }
        got.extend_from_slice(&piece[..n]);
    }
    check!(got == data, "read in pieces differs");
    check_eq!(f.read(&mut piece)?, 0);
    Ok(())
}

fn create_exclusive() -> Outcome {
    let d = Dir::new("excl")?;
    OpenOptions::new().write(true).create_new(true).open(d.at("f"))?;
    check_eq!(errno(OpenOptions::new().write(true).create_new(true).open(d.at("f"))), libc::EEXIST);
    symlink("nowhere", d.at("l"))?;
    check_eq!(errno(OpenOptions::new().write(true).create_new(true).open(d.at("l"))), libc::EEXIST);
    fs::write(d.at("l"), "through")?; // O_CREAT follows a dangling link.
    check_eq!(fs::read(d.at("nowhere"))?, b"through");
    check_eq!(errno(File::create(d.at("no/f"))), libc::ENOENT);
    check_eq!(errno(File::create(d.at("f/x"))), libc::ENOTDIR);
    Ok(())
}

fn append() -> Outcome {
    let d = Dir::new("app")?;
    fs::write(d.at("f"), "one")?;
    let mut f = OpenOptions::new().append(true).read(true).open(d.at("f"))?;
    f.seek(SeekFrom::Start(0))?;
    f.write_all(b"two")?;
    check_eq!(f.stream_position()?, 6);
    fs::write(d.at("f"), "x")?;
    f.write_all(b"yz")?;
    check_eq!(fs::read(d.at("f"))?, b"xyz");
    Ok(())
}

fn seek() -> Outcome {
    let d = Dir::new("seek")?;
    let mut f = rw(&d, "f")?;
    f.write_all(b"0123456789")?;
    check_eq!(f.seek(SeekFrom::End(-4))?, 6);
    check_eq!(f.seek(SeekFrom::Current(-2))?, 4);
    let mut b = [0; 2];
    f.read_exact(&mut b)?;
    check_eq!(&b, b"45");
    check_eq!(errno(f.seek(SeekFrom::Current(-7))), libc::EINVAL);
    check_eq!(f.seek(SeekFrom::End(100))?, 110);
    check_eq!(f.metadata()?.len(), 10); // Seeking alone changes nothing.
    let seek = |off: i64, whence: i32| sys!(libc::SYS_lseek, f.as_raw_fd(), off, whence);
    check_eq!(seek(0, 77), Err(Errno(libc::EINVAL)));
    check_eq!(seek(0, libc::SEEK_DATA), Ok(0));
    check_eq!(seek(0, libc::SEEK_HOLE), Ok(10));
    check_eq!(seek(10, libc::SEEK_DATA), Err(Errno(libc::ENXIO)));
    let (r, _w) = pipe(0)?;
    check_eq!(sys!(libc::SYS_lseek, r, 0, 0), Err(Errno(libc::ESPIPE)));
    Ok(())
}

fn sparse() -> Outcome {
    let d = Dir::new("sparse")?;
    let f = rw(&d, "f")?;
    f.write_at(b"end", 40 << 30)?;
    f.write_at(b"mid", 5 << 20)?;
    let m = f.metadata()?;
    check_eq!(m.len(), (40 << 30) + 3);
    check!(m.blocks() < 1000, "{} blocks", m.blocks());
    let mut b = [1u8; 8];
    f.read_exact_at(&mut b, (5 << 20) - 3)?;
    check_eq!(&b, b"\0\0\0mid\0\0");
    f.read_exact_at(&mut b, 7 << 30)?;
    check_eq!(b, [0; 8]);
    check_eq!(f.read_at(&mut b, 40 << 30)?, 3);
    check_eq!(f.read_at(&mut b, 41 << 30)?, 0);
    Ok(())
}

fn truncate() -> Outcome {
    let d = Dir::new("trunc")?;
    let f = rw(&d, "f")?;
    f.write_at(&[b'a'; 10_000], 0)?;
    f.set_len(5_001)?;
    f.set_len(9_000)?;
    let all = fs::read(d.at("f"))?;
    check_eq!(all.len(), 9_000);
    check!(all[..5_001].iter().all(|&b| b == b'a'));
    check!(all[5_001..].iter().all(|&b| b == 0), "the cut tail came back");
    drop(File::create(d.at("f"))?); // O_TRUNC
    check_eq!(f.metadata()?.len(), 0);
    check_eq!(sys!(libc::SYS_ftruncate, f.as_raw_fd(), -1isize), Err(Errno(libc::EINVAL)));
    let ro = File::open(d.at("f"))?;
    check_eq!(errno(ro.set_len(1)), libc::EINVAL);
    check_eq!(sys!(libc::SYS_truncate, d.c("none").as_ptr(), 0), Err(Errno(libc::ENOENT)));
    check_eq!(sys!(libc::SYS_truncate, d.c("").as_ptr(), 0), Err(Errno(libc::EISDIR)));
    Ok(())
}

fn ftruncate_and_shared_map() -> Outcome {
    let d = Dir::new("truncmap")?;
    let f = rw(&d, "f")?;
    f.set_len(4 * PAGE as u64)?;
    let m = Map::full(0, 4 * PAGE, RW, libc::MAP_SHARED, f.as_raw_fd(), 0)?;
    m.stamp(0x77);
    f.set_len(2 * PAGE as u64)?;
    check_eq!(m.unstamped(0, 2 * PAGE, 0x77), None);
    // What was cut off is gone from the mapping too.
    check_eq!(crate::util::touch_signal(m.at + 2 * PAGE, false)?, End::Signal(libc::SIGBUS));
    f.set_len(4 * PAGE as u64)?;
    check_eq!(m.nonzero(2 * PAGE, 4 * PAGE), None);
    Ok(())
}

fn unlink_open() -> Outcome {
    let d = Dir::new("unlink")?;
    let mut f = rw(&d, "f")?;
    f.write_all(b"still here")?;
    fs::remove_file(d.at("f"))?;
    check!(!d.at("f").exists());
    check_eq!(f.metadata()?.nlink(), 0);
    f.rewind()?;
    let mut s = String::new();
    f.read_to_string(&mut s)?;
    check_eq!(s, "still here");
    f.write_all(b"!")?;
    check_eq!(f.metadata()?.len(), 11);
    fs::write(d.at("f"), "new")?;
    check!(fs::metadata(d.at("f"))?.ino() != f.metadata()?.ino());
    check_eq!(errno(fs::remove_file(d.at("gone"))), libc::ENOENT);
    check_eq!(errno(fs::remove_file(&d.0)), libc::EISDIR);
    check_eq!(errno(fs::remove_dir(d.at("f"))), libc::ENOTDIR);
    Ok(())
}

fn rename_over() -> Outcome {
    let d = Dir::new("rename")?;
    fs::write(d.at("a"), "A")?;
    fs::write(d.at("b"), "B")?;
    let old = File::open(d.at("b"))?;
    fs::rename(d.at("a"), d.at("b"))?;
    check_eq!(fs::read(d.at("b"))?, b"A");
    check!(!d.at("a").exists());
    check_eq!(old.metadata()?.nlink(), 0);
    fs::rename(d.at("b"), d.at("b"))?;
    check_eq!(errno(fs::rename(d.at("a"), d.at("c"))), libc::ENOENT);
    // Two names of one file: nothing happens, both stay.
    fs::hard_link(d.at("b"), d.at("b2"))?;
    fs::rename(d.at("b"), d.at("b2"))?;
    check!(d.at("b").exists() && d.at("b2").exists());
    Ok(())
}

fn rename_dirs() -> Outcome {
    let d = Dir::new("rendir")?;
    fs::create_dir_all(d.at("x/y/z"))?;
    fs::write(d.at("x/y/f"), "f")?;
    fs::create_dir(d.at("empty"))?;
    fs::rename(d.at("x/y"), d.at("empty"))?;
    check_eq!(fs::read(d.at("empty/f"))?, b"f");
    check!(d.at("empty/z").is_dir() && !d.at("x/y").exists());
    check_eq!(errno(fs::rename(d.at("x"), d.at("empty"))), libc::ENOTEMPTY);
    check_eq!(errno(fs::rename(d.at("empty"), d.at("empty/z/in"))), libc::EINVAL);
    fs::write(d.at("file"), "")?;
    check_eq!(errno(fs::rename(d.at("file"), d.at("x"))), libc::EISDIR);
    check_eq!(errno(fs::rename(d.at("x"), d.at("file"))), libc::ENOTDIR);
    // ".." follows the move.
    fs::rename(d.at("empty/z"), d.at("x/z"))?;
    check_eq!(fs::metadata(d.at("x/z/.."))?.ino(), fs::metadata(d.at("x"))?.ino());
    Ok(())
}

fn rename_flags() -> Outcome {
    let d = Dir::new("ren2")?;
    fs::write(d.at("a"), "A")?;
    fs::write(d.at("b"), "B")?;
    let ren = |a: &str, b: &str, flags: u32| {
        sys!(libc::SYS_renameat2, AT, d.c(a).as_ptr(), AT, d.c(b).as_ptr(), flags)
    };
    check_eq!(ren("a", "b", libc::RENAME_NOREPLACE), Err(Errno(libc::EEXIST)));
    check_eq!(ren("a", "c", libc::RENAME_NOREPLACE), Ok(0));
    check_eq!(ren("b", "c", libc::RENAME_EXCHANGE), Ok(0));
    check_eq!((fs::read(d.at("b"))?, fs::read(d.at("c"))?), (b"A".to_vec(), b"B".to_vec()));
    check_eq!(ren("b", "c", 0x80), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn hard_links() -> Outcome {
    let d = Dir::new("link")?;
    fs::write(d.at("a"), "1")?;
    fs::hard_link(d.at("a"), d.at("b"))?;
    let (a, b) = (fs::metadata(d.at("a"))?, fs::metadata(d.at("b"))?);
    check_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    fs::write(d.at("b"), "22")?;
    check_eq!(fs::read(d.at("a"))?, b"22");
    fs::remove_file(d.at("a"))?;
    check_eq!(fs::metadata(d.at("b"))?.nlink(), 1);
    check_eq!(errno(fs::hard_link(d.at("b"), d.at("b"))), libc::EEXIST);
    check_eq!(errno(fs::hard_link(&d.0, d.at("dir"))), libc::EPERM);
    Ok(())
}

fn symlinks() -> Outcome {
    let d = Dir::new("sym")?;
    fs::create_dir(d.at("dir"))?;
    fs::write(d.at("dir/f"), "f")?;
    symlink("dir", d.at("l"))?;
    symlink("../dir/f", d.at("dir/up"))?;
    symlink(d.at("dir/f"), d.at("abs"))?;
    check_eq!(fs::read(d.at("l/up"))?, b"f");
    check_eq!(fs::read(d.at("abs"))?, b"f");
    check_eq!(fs::read_link(d.at("l"))?.to_str(), Some("dir"));
    check!(fs::symlink_metadata(d.at("l"))?.is_symlink());
    check_eq!(fs::symlink_metadata(d.at("l"))?.len(), 3);
    check_eq!(errno(fs::read_link(d.at("dir"))), libc::EINVAL);
    let nofollow = libc::O_NOFOLLOW | libc::O_RDONLY;
    check_eq!(open(&d.c("abs"), nofollow, 0), Err(Errno(libc::ELOOP)));
    check_eq!(open(&d.c("l"), nofollow | libc::O_DIRECTORY, 0), Err(Errno(libc::ENOTDIR)));
    // The buffer cuts; nothing is terminated.
    let mut b = [b'#'; 4];
    let r = sys!(libc::SYS_readlinkat, AT, d.c("l").as_ptr(), b.as_mut_ptr(), 2);
    check_eq!((r, b), (Ok(2), *b"di##"));
    fs::remove_file(d.at("l"))?;
    check!(d.at("dir/f").exists());
    check_eq!(fs::canonicalize(d.at("dir/../abs"))?, fs::canonicalize(d.at("dir/f"))?);
    Ok(())
}

fn symlink_loops() -> Outcome {
    let d = Dir::new("loop")?;
    symlink("b", d.at("a"))?;
    symlink("a", d.at("b"))?;
    check_eq!(errno(File::open(d.at("a"))), libc::ELOOP);
    fs::write(d.at("l0"), "x")?;
    for i in 0..45 {
        symlink(format!("l{i}"), d.at(&format!("l{}", i + 1)))?;
    }
    check_eq!(fs::read(d.at("l40"))?, b"x");
    check_eq!(errno(File::open(d.at("l41"))), libc::ELOOP);
    Ok(())
}

fn directories() -> Outcome {
    let d = Dir::new("dirs")?;
    fs::create_dir(d.at("a"))?;
    check_eq!(errno(fs::create_dir(d.at("a"))), libc::EEXIST);
    check_eq!(errno(fs::create_dir(d.at("b/c"))), libc::ENOENT);
    check_eq!(fs::metadata(d.at("a"))?.nlink(), 2);
    fs::create_dir(d.at("a/sub"))?;
    check_eq!(fs::metadata(d.at("a"))?.nlink(), 3);
    check_eq!(errno(fs::remove_dir(d.at("a"))), libc::ENOTEMPTY);
    check_eq!(errno(fs::remove_dir(d.at("a/sub/."))), libc::EINVAL);
    fs::remove_dir(d.at("a/sub"))?;
    check_eq!(fs::metadata(d.at("a"))?.nlink(), 2);
    check_eq!(errno(OpenOptions::new().write(true).open(d.at("a"))), libc::EISDIR);
    let f = File::open(d.at("a"))?;
    check_eq!(read(f.as_raw_fd(), &mut [0]), Err(Errno(libc::EISDIR)));
    fs::write(d.at("file"), "")?;
    check_eq!(open(&d.c("file"), libc::O_DIRECTORY, 0), Err(Errno(libc::ENOTDIR)));
    check_eq!(open(&d.c("file/"), 0, 0), Err(Errno(libc::ENOTDIR)));
    check!(open(&d.c("a///"), libc::O_DIRECTORY, 0).is_ok());
    Ok(())
}

fn readdir_big() -> Outcome {
    let d = Dir::new("readdir")?;
    let want: BTreeSet<String> = (0..700).map(|i| format!("a-name-of-some-length-{i}")).collect();
    for n in &want {
        File::create(d.at(n))?;
    }
    let got: Vec<String> = fs::read_dir(&d.0)?
        .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    check_eq!(got.len(), 700); // None twice.
    check!(got.into_iter().collect::<BTreeSet<_>>() == want);
    // d_type and d_ino agree with stat.
    fs::create_dir(d.at("sub"))?;
    symlink("sub", d.at("link"))?;
    for e in fs::read_dir(&d.0)? {
        let e = e?;
        let m = fs::symlink_metadata(e.path())?;
        check_eq!(e.file_type()?, m.file_type());
        check_eq!(std::os::unix::fs::DirEntryExt::ino(&e), m.ino());
    }
    Ok(())
}

fn readdir_while_removing() -> Outcome {
    // rm -r's way: every name is met once though the directory shrinks.
    let d = Dir::new("rmr")?;
    for i in 0..400 {
        File::create(d.at(&i.to_string()))?;
    }
    let mut seen = 0;
    for e in fs::read_dir(&d.0)? {
        fs::remove_file(e?.path())?;
        seen += 1;
    }
    check_eq!(seen, 400);
    check_eq!(fs::read_dir(&d.0)?.count(), 0);
    Ok(())
}

fn dotdot() -> Outcome {
    let d = Dir::new("dotdot")?;
    fs::create_dir_all(d.at("a/b"))?;
    check_eq!(fs::metadata(d.at("a/b/../.."))?.ino(), fs::metadata(&d.0)?.ino());
    check_eq!(fs::metadata("/..")?.ino(), fs::metadata("/")?.ino());
    std::env::set_current_dir(d.at("a/b"))?;
    check_eq!(std::env::current_dir()?, fs::canonicalize(d.at("a/b"))?);
    fs::write("../f", "rel")?;
    check_eq!(fs::read(d.at("a/f"))?, b"rel");
    std::env::set_current_dir("..")?;
    check_eq!(fs::read("f")?, b"rel");
    check_eq!(errno(std::env::set_current_dir("f")), libc::ENOTDIR);
    Ok(())
}

fn at_calls() -> Outcome {
    let d = Dir::new("at")?;
    let dir = File::open(&d.0)?;
    let fd = dir.as_raw_fd();
    let name = c("new");
    let flags = libc::O_CREAT | libc::O_RDWR;
    let f = sys!(libc::SYS_openat, fd, name.as_ptr(), flags, 0o644)? as i32;
    check!(d.at("new").exists());
    check_eq!(sys!(libc::SYS_openat, f, name.as_ptr(), 0, 0), Err(Errno(libc::ENOTDIR)));
    check_eq!(sys!(libc::SYS_openat, 999, name.as_ptr(), 0, 0), Err(Errno(libc::EBADF)));
    check_eq!(sys!(libc::SYS_openat, fd, c("").as_ptr(), 0, 0), Err(Errno(libc::ENOENT)));
    check_eq!(sys!(libc::SYS_mkdirat, fd, c("sub").as_ptr(), 0o755), Ok(0));
    check_eq!(sys!(libc::SYS_unlinkat, fd, c("sub").as_ptr(), 0), Err(Errno(libc::EISDIR)));
    check_eq!(sys!(libc::SYS_unlinkat, fd, c("sub").as_ptr(), libc::AT_REMOVEDIR), Ok(0));
    check_eq!(sys!(libc::SYS_fchdir, fd), Ok(0));
    check!(fs::metadata("new").is_ok());
    check_eq!(sys!(libc::SYS_fchdir, f), Err(Errno(libc::ENOTDIR)));
    // AT_EMPTY_PATH names the descriptor itself.
    // SAFETY: plain data.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    let r = sys!(libc::SYS_newfstatat, f, c("").as_ptr(), &raw mut st, libc::AT_EMPTY_PATH);
    check_eq!((r, st.st_ino as u64), (Ok(0), fs::metadata("new")?.ino()));
    // O_PATH: stat yes, read no.
    let p = open(&d.c("new"), libc::O_PATH, 0)?;
    check_eq!(read(p, &mut [0]), Err(Errno(libc::EBADF)));
    check_eq!(sys!(libc::SYS_fstat, p, &raw mut st), Ok(0));
    Ok(())
}

fn mode_bits() -> Outcome {
    let d = Dir::new("mode")?;
    fs::write(d.at("f"), "")?;
    for mode in [0o600, 0o755, 0o4755, 0o1777, 0] {
        fs::set_permissions(d.at("f"), Permissions::from_mode(mode))?;
        check_eq!(fs::metadata(d.at("f"))?.mode(), libc::S_IFREG | mode);
    }
    check_eq!(fs::metadata(&d.0)?.mode() & libc::S_IFMT, libc::S_IFDIR);
    std::os::unix::fs::chown(d.at("f"), Some(12), Some(34))?;
    let m = fs::metadata(d.at("f"))?;
    check_eq!((m.uid(), m.gid()), (12, 34));
    Ok(())
}

fn umask() -> Outcome {
    let d = Dir::new("umask")?;
    check_eq!(sys!(libc::SYS_umask, 0o027).map(|_| ()), Ok(()));
    check_eq!(sys!(libc::SYS_umask, 0o027), Ok(0o027));
    close(open(&d.c("f"), libc::O_CREAT | libc::O_WRONLY, 0o777)?);
    fs::create_dir(d.at("d"))?;
    check_eq!(fs::metadata(d.at("f"))?.mode() & 0o7777, 0o750);
    check_eq!(fs::metadata(d.at("d"))?.mode() & 0o7777, 0o750);
    let pid = fork(|| i32::from(sys!(libc::SYS_umask, 0) != Ok(0o027)))?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn times() -> Outcome {
    let d = Dir::new("times")?;
    let before = std::time::SystemTime::now() - std::time::Duration::from_millis(50);
    fs::write(d.at("f"), "1")?;
    let first = fs::metadata(d.at("f"))?.modified()?;
    check!(first >= before && first <= std::time::SystemTime::now());
    crate::util::ms(40);
    fs::write(d.at("f"), "2")?;
    check!(fs::metadata(d.at("f"))?.modified()? > first);
    let t = [1_000_000i64, 5, 2_000_000, 7];
    sys!(libc::SYS_utimensat, AT, d.c("f").as_ptr(), t.as_ptr(), 0)?;
    let m = fs::metadata(d.at("f"))?;
    check_eq!((m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec()), (1_000_000, 5, 2_000_000, 7));
    let t = [0, libc::UTIME_OMIT, 0, libc::UTIME_NOW];
    sys!(libc::SYS_utimensat, AT, d.c("f").as_ptr(), t.as_ptr(), 0)?;
    let m = fs::metadata(d.at("f"))?;
    check!(m.atime() == 1_000_000 && m.mtime() != 2_000_000);
    Ok(())
}

fn statx_fields() -> Outcome {
    let d = Dir::new("statx")?;
    fs::write(d.at("f"), "12345")?;
    // SAFETY: plain data.
    let mut x: libc::statx = unsafe { std::mem::zeroed() };
    let path = d.c("f");
    sys!(libc::SYS_statx, AT, path.as_ptr(), 0, libc::STATX_BASIC_STATS, &raw mut x)?;
    let m = fs::metadata(d.at("f"))?;
    check_eq!((x.stx_size, x.stx_ino, x.stx_nlink), (5, m.ino(), 1));
    check_eq!(u32::from(x.stx_mode), m.mode());
    check_eq!(x.stx_mask & libc::STATX_BASIC_STATS, libc::STATX_BASIC_STATS);
    // SAFETY: plain data.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    sys!(libc::SYS_newfstatat, AT, path.as_ptr(), &raw mut st, 0)?;
    check_eq!((st.st_size, st.st_ino as u64, st.st_mode), (5, m.ino(), m.mode()));
    check!(st.st_blksize >= 512);
    let bad = sys!(libc::SYS_newfstatat, AT, path.as_ptr(), &raw mut st, 0x40000000);
    check_eq!(bad, Err(Errno(libc::EINVAL)));
    Ok(())
}

fn errors() -> Outcome {
    let d = Dir::new("err")?;
    fs::write(d.at("f"), "x")?;
    check_eq!(errno(File::open(d.at("none"))), libc::ENOENT);
    check_eq!(errno(File::open(d.at("f/none"))), libc::ENOTDIR);
    let ro = File::open(d.at("f"))?;
    check_eq!(write(ro.as_raw_fd(), b"x"), Err(Errno(libc::EBADF)));
    let wo = OpenOptions::new().write(true).open(d.at("f"))?;
    check_eq!(read(wo.as_raw_fd(), &mut [0]), Err(Errno(libc::EBADF)));
    for fd in [-1, 500, i32::MAX, i32::MIN] {
        check_eq!(read(fd, &mut [0]), Err(Errno(libc::EBADF)));
        check_eq!(sys!(libc::SYS_close, fd), Err(Errno(libc::EBADF)));
        check_eq!(sys!(libc::SYS_dup, fd), Err(Errno(libc::EBADF)));
    }
    check_eq!(sys!(libc::SYS_ioctl, ro.as_raw_fd(), libc::TCGETS, 0), Err(Errno(libc::ENOTTY)));
    check_eq!(sys!(libc::SYS_write, wo.as_raw_fd(), 0, 0), Ok(0));
    Ok(())
}

fn vectored() -> Outcome {
    let d = Dir::new("vec")?;
    let f = rw(&d, "f")?;
    let parts: [&[u8]; 4] = [b"ab", b"", b"cdef", b"g"];
    let iov: Vec<[usize; 2]> = parts.iter().map(|p| [p.as_ptr() as usize, p.len()]).collect();
    check_eq!(sys!(libc::SYS_writev, f.as_raw_fd(), iov.as_ptr(), 4), Ok(7));
    let (mut a, mut b) = ([0u8; 3], [0u8; 10]);
    let iov = [[a.as_mut_ptr() as usize, 3], [b.as_mut_ptr() as usize, 10]];
    check_eq!(sys!(libc::SYS_preadv, f.as_raw_fd(), iov.as_ptr(), 2, 0, 0), Ok(7));
    check_eq!((&a, &b[..4]), (b"abc", &b"defg"[..]));
    let n = sys!(libc::SYS_readv, f.as_raw_fd(), iov.as_ptr(), -1isize);
    check_eq!(n, Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_readv, f.as_raw_fd(), iov.as_ptr(), 1025), Err(Errno(libc::EINVAL)));
    let huge = [[a.as_ptr() as usize, usize::MAX]];
    check_eq!(sys!(libc::SYS_writev, f.as_raw_fd(), huge.as_ptr(), 1), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn positional() -> Outcome {
    let d = Dir::new("pos")?;
    let mut f = rw(&d, "f")?;
    f.write_all(b"0123456789")?;
    f.write_at(b"xx", 3)?;
    check_eq!(f.stream_position()?, 10);
    let mut b = [0; 4];
    f.read_exact_at(&mut b, 2)?;
    check_eq!(&b, b"2xx5");
    let r = sys!(libc::SYS_pread64, f.as_raw_fd(), b.as_mut_ptr(), 1, -1isize);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    let (p, _) = pipe(0)?;
    check_eq!(sys!(libc::SYS_pread64, p, b.as_mut_ptr(), 1, 0), Err(Errno(libc::ESPIPE)));
    Ok(())
}

fn dup_shares_offset() -> Outcome {
    let d = Dir::new("dup")?;
    let mut f = rw(&d, "f")?;
    f.write_all(b"0123456789")?;
    f.rewind()?;
    let mut g = f.try_clone()?;
    let mut own = File::open(d.at("f"))?;
    let mut b = [0; 4];
    f.read_exact(&mut b)?;
    g.read_exact(&mut b)?;
    check_eq!(&b, b"4567");
    own.read_exact(&mut b)?;
    check_eq!(&b, b"0123");
    let pid = fork(|| i32::from(read(f.as_raw_fd(), &mut [0]) != Ok(1)))?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(f.stream_position()?, 9);
    let at = sys!(libc::SYS_dup3, f.as_raw_fd(), 50, libc::O_CLOEXEC);
    check_eq!(at, Ok(50));
    check_eq!(sys!(libc::SYS_fcntl, 50, libc::F_GETFD), Ok(1));
    let same = sys!(libc::SYS_dup3, 50, 50, 0);
    check_eq!(same, Err(Errno(libc::EINVAL)));
    Ok(())
}

fn fcntl_flags() -> Outcome {
    let (r, w) = pipe(libc::O_CLOEXEC)?;
    check_eq!(sys!(libc::SYS_fcntl, r, libc::F_GETFD), Ok(1));
    check_eq!(sys!(libc::SYS_fcntl, r, libc::F_SETFD, 0), Ok(0));
    check_eq!(sys!(libc::SYS_fcntl, r, libc::F_GETFD), Ok(0));
    let get = |fd: i32| sys!(libc::SYS_fcntl, fd, libc::F_GETFL).map(|f| f as i32);
    check_eq!(get(w)? & libc::O_ACCMODE, libc::O_WRONLY);
    sys!(libc::SYS_fcntl, r, libc::F_SETFL, libc::O_NONBLOCK)?;
    check_eq!(get(r)? & libc::O_NONBLOCK, libc::O_NONBLOCK);
    check_eq!(read(r, &mut [0]), Err(Errno(libc::EAGAIN)));
    let high = sys!(libc::SYS_fcntl, r, libc::F_DUPFD_CLOEXEC, 77)?;
    check_eq!(high, 77);
    check_eq!(sys!(libc::SYS_fcntl, 77, libc::F_GETFD), Ok(1));
    check_eq!(sys!(libc::SYS_fcntl, r, 9999, 0), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn descriptors_reuse() -> Outcome {
    // Always the lowest free number.
    let (a, b) = pipe(0)?;
    let (x, y) = pipe(0)?;
    close(b);
    close(x);
    let low = b.min(x);
    check_eq!(sys!(libc::SYS_dup, a), Ok(low as usize));
    close(y);
    check_eq!(sys!(libc::SYS_dup, a), Ok(b.max(x) as usize));
    Ok(())
}

fn descriptor_limit() -> Outcome {
    let lim = [64usize, 64];
    sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, lim.as_ptr(), 0)?;
    let mut n = 0;
    let e = loop {
        match sys!(libc::SYS_dup, 0) {
            Ok(fd) => check!(fd < 64),
            Err(e) => break e,
        }
        n += 1;
        check!(n < 70);
    };
    check_eq!(e, Errno(libc::EMFILE));
    check_eq!(pipe(0).err(), Some(Errno(libc::EMFILE)));
    Ok(())
}

/// Who can't be given a descriptor doesn't take the connection.
fn accept_needs_a_descriptor() -> Outcome {
    let dir = Dir::new("accept")?;
    let listener = UnixListener::bind(dir.at("socket"))?;
    let mut client = UnixStream::connect(dir.at("socket"))?;
    client.write_all(b"hello")?;
    let limit = |soft: usize| {
        let lim = [soft, 1024];
        sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, lim.as_ptr(), 0)
    };
    // The next would be this one.
    let next = File::open("/")?.as_raw_fd() as usize;
    limit(next)?;
    let accept = || sys!(libc::SYS_accept4, listener.as_raw_fd(), 0, 0, libc::SOCK_CLOEXEC);
    for _ in 0..3 {
        check_eq!(accept(), Err(Errno(libc::EMFILE)));
    }
    limit(1024)?;
    let end = accept()?;
    check_eq!(end, next);
    let mut data = [0; 5];
    check_eq!(read(end as i32, &mut data)?, 5);
    check_eq!(&data, b"hello");
    close(end as i32);
    // None is kept by an accept() that fails.
    listener.set_nonblocking(true)?;
    check_eq!(accept(), Err(Errno(libc::EAGAIN)));
    check_eq!(File::open("/")?.as_raw_fd() as usize, next);
    Ok(())
}

fn big_file() -> Outcome {
    let d = Dir::new("big")?;
    let mut f = rw(&d, "f")?;
    let block: Vec<u8> = (0..1u32 << 20).map(|i| (i >> 8) as u8 ^ i as u8).collect();
    for _ in 0..24 {
        f.write_all(&block)?;
    }
    check_eq!(f.metadata()?.len(), 24 << 20);
    let mut got = vec![0u8; 1 << 20];
    for i in [0u64, 11, 23] {
        f.read_exact_at(&mut got, i << 20)?;
        check!(got == block, "MiB {i} differs");
    }
    Ok(())
}

fn copy_range() -> Outcome {
    let d = Dir::new("copy")?;
    let data: Vec<u8> = (0..300_000u32).map(|i| (i / 3) as u8).collect();
    fs::write(d.at("a"), &data)?;
    check_eq!(fs::copy(d.at("a"), d.at("b"))?, 300_000);
    check!(fs::read(d.at("b"))? == data);
    // sendfile into a pipe, from an offset.
    let f = File::open(d.at("a"))?;
    let (r, w) = pipe(0)?;
    let mut off = 9i64;
    check_eq!(sys!(libc::SYS_sendfile, w, f.as_raw_fd(), &raw mut off, 100), Ok(100));
    // Not from one: what the output doesn't take would be lost.
    check_eq!(sys!(libc::SYS_sendfile, w, r, 0, 1), Err(Errno(libc::EINVAL)));
    let mut b = [0; 100];
    check_eq!((read(r, &mut b), off), (Ok(100), 109));
    check!(b[..] == data[9..109]);
    Ok(())
}

fn fallocate() -> Outcome {
    let d = Dir::new("falloc")?;
    let f = rw(&d, "f")?;
    f.write_at(&[b'a'; 3 * PAGE], 0)?;
    let fa = |mode: i32, off: usize, len: usize| {
        sys!(libc::SYS_fallocate, f.as_raw_fd(), mode, off, len)
    };
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    check_eq!(fa(punch, PAGE, PAGE), Ok(0));
    let all = fs::read(d.at("f"))?;
    check!(all[PAGE..2 * PAGE].iter().all(|&b| b == 0) && all[2 * PAGE] == b'a');
    check_eq!(fa(0, 0, 10 * PAGE), Ok(0));
    check_eq!(f.metadata()?.len(), 10 * PAGE as u64);
    check_eq!(fa(0, 0, 0), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn memfd_shared() -> Outcome {
    let name = c("guest-memory");
    let fd = sys!(libc::SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC)? as i32;
    check_eq!(sys!(libc::SYS_ftruncate, fd, 8 << 20), Ok(0));
    let a = Map::full(0, 8 << 20, RW, libc::MAP_SHARED, fd, 0)?;
    let b = Map::full(0, 4 << 20, RW, libc::MAP_SHARED, fd, 4 << 20)?;
    a.stamp(3);
    check_eq!(b.word(0).load(std::sync::atomic::Ordering::SeqCst), 3 ^ (4 << 20));
    let pid = fork(|| {
        b.set(5, 99);
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(a.get((4 << 20) + 5), 99);
    // It survives every unmapping, and its last close.
    a.unmap();
    b.unmap();
    let c2 = Map::full(0, PAGE, RW, libc::MAP_SHARED, fd, 4 << 20)?;
    close(fd);
    check_eq!(c2.get(5), 99);
    Ok(())
}

fn dev_nodes() -> Outcome {
    check_eq!(fs::read("/dev/null")?, b"");
    let mut z = [1u8; 5000];
    File::open("/dev/zero")?.read_exact(&mut z)?;
    check!(z.iter().all(|&b| b == 0));
    let mut null = OpenOptions::new().write(true).open("/dev/null")?;
    check_eq!(null.write(&z)?, 5000);
    let r = OpenOptions::new().write(true).open("/dev/full")?.write(&z);
    check_eq!(errno(r), libc::ENOSPC);
    let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
    File::open("/dev/urandom")?.read_exact(&mut a)?;
    File::open("/dev/urandom")?.read_exact(&mut b)?;
    check!(a != b);
    let m = fs::metadata("/dev/null")?;
    check_eq!(m.mode() & libc::S_IFMT, libc::S_IFCHR);
    check_eq!(m.rdev(), libc::makedev(1, 3));
    Ok(())
}

fn fifo() -> Outcome {
    let d = Dir::new("fifo")?;
    let path = d.c("p");
    sys!(libc::SYS_mknodat, AT, path.as_ptr(), libc::S_IFIFO | 0o600, 0)?;
    let nb = libc::O_NONBLOCK;
    check_eq!(open(&path, libc::O_WRONLY | nb, 0), Err(Errno(libc::ENXIO)));
    let pid = fork(|| {
        let r = fs::write(d.at("p"), "through a fifo");
        std::mem::forget(r);
        0
    })?;
    // Opening waits for the other end.
    check_eq!(fs::read(d.at("p"))?, b"through a fifo");
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn cwd_removed() -> Outcome {
    let d = Dir::new("cwd")?;
    fs::create_dir(d.at("gone"))?;
    std::env::set_current_dir(d.at("gone"))?;
    fs::remove_dir(d.at("gone"))?;
    check_eq!(errno(std::env::current_dir()), libc::ENOENT);
    check_eq!(errno(File::create("x")), libc::ENOENT);
    check_eq!(fs::read_dir(".")?.count(), 0);
    Ok(())
}

fn long_names() -> Outcome {
    let d = Dir::new("long")?;
    fs::write(d.at(&"n".repeat(255)), "")?;
    check_eq!(errno(fs::write(d.at(&"n".repeat(256)), "")), libc::ENAMETOOLONG);
    let deep = format!("{}/x", "/".repeat(4096));
    check_eq!(errno(File::open(deep)), libc::ENAMETOOLONG);
    Ok(())
}

fn statfs() -> Outcome {
    let kind = |p: &str| {
        // SAFETY: plain data.
        let mut s: libc::statfs = unsafe { std::mem::zeroed() };
        sys!(libc::SYS_statfs, c(p).as_ptr(), &raw mut s).map(|_| s.f_type as i64)
    };
    check_eq!(kind("/proc")?, 0x9fa0);
    check_eq!(kind("/nowhere"), Err(Errno(libc::ENOENT)));
    Ok(())
}

fn access() -> Outcome {
    let d = Dir::new("access")?;
    fs::write(d.at("f"), "")?;
    let can = |n: &str, mode: i32| sys!(libc::SYS_faccessat, AT, d.c(n).as_ptr(), mode);
    check_eq!(can("f", libc::R_OK | libc::W_OK), Ok(0));
    check_eq!(can("f", libc::X_OK), Err(Errno(libc::EACCES))); // No x bit: not even root.
    check_eq!(can("g", libc::F_OK), Err(Errno(libc::ENOENT)));
    check_eq!(can("f", 8), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn concurrent_append() -> Outcome {
    let d = Dir::new("capp")?;
    File::create(d.at("f"))?;
    let mut pids = Vec::new();
    for i in 0..4u8 {
        pids.push(fork(|| {
            let Ok(mut f) = OpenOptions::new().append(true).open(d.at("f")) else { return 1 };
            (0..100).for_each(|_| f.write_all(&[b'a' + i; 37]).unwrap());
            // Leaves by _exit: the directory is the parent's to remove.
            0
        })?);
    }
    for p in pids {
        check_eq!(wait(p)?, End::Exit(0));
    }
    let all = fs::read(d.at("f"))?;
    check_eq!(all.len(), 4 * 100 * 37);
    for piece in all.chunks(37) {
        check!(piece.iter().all(|b| *b == piece[0]), "writes are mixed");
    }
    Ok(())
}

fn concurrent_create() -> Outcome {
    // Of four that create one name exclusively, one wins; every time.
    let d = Dir::new("ccreate")?;
    for i in 0..40 {
        let path = d.at(&i.to_string());
        let wins: usize = std::thread::scope(|s| {
            let all: Vec<_> = (0..4)
                .map(|_| {
                    s.spawn(|| match OpenOptions::new().write(true).create_new(true).open(&path) {
                        Ok(_) => 1,
                        Err(e) if e.kind() == ErrorKind::AlreadyExists => 0,
                        Err(_) => 100,
                    })
                })
                .collect();
            all.into_iter().map(|t| t.join().unwrap()).sum()
        });
        check_eq!(wins, 1);
    }
    Ok(())
}

/// RLIMIT_FSIZE holds for all that makes a file longer, and for nothing else.
fn size_limit() -> Outcome {
    let d = Dir::new("limit")?;
    let (f, long) = (rw(&d, "f")?, rw(&d, "long")?);
    long.set_len(4 * PAGE as u64)?;
    crate::util::disposition(libc::SIGXFSZ, libc::SIG_IGN);
    let limit = [PAGE, PAGE];
    sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_FSIZE, limit.as_ptr(), 0)?;
    let too_big = Err(Errno(libc::EFBIG));
    let (fd, long_fd) = (f.as_raw_fd(), long.as_raw_fd());
    let fallocate = |mode: i32, len: usize| sys!(libc::SYS_fallocate, fd, mode, 0, len);
    check_eq!(sys!(libc::SYS_ftruncate, fd, PAGE + 1), too_big);
    check_eq!(sys!(libc::SYS_truncate, d.c("f").as_ptr(), PAGE + 1), too_big);
    check_eq!(fallocate(0, 2 * PAGE), too_big);
    check_eq!(f.metadata()?.len(), 0);
    check_eq!(fallocate(libc::FALLOC_FL_KEEP_SIZE, 2 * PAGE), too_big);
    check_eq!(fallocate(0, PAGE), Ok(0));
    check_eq!(sys!(libc::SYS_ftruncate, fd, PAGE), Ok(0));
    check_eq!(sys!(libc::SYS_ftruncate, long_fd, 3 * PAGE), Ok(0));
    check_eq!(long.metadata()?.len(), 3 * PAGE as u64);
    let put = |at: usize| sys!(libc::SYS_pwrite64, fd, [0u8; 100].as_ptr(), 100, at);
    check_eq!(put(PAGE - 10), Ok(10));
    check_eq!(put(PAGE), too_big);
    let pid = fork(|| {
        crate::util::disposition(libc::SIGXFSZ, libc::SIG_DFL);
        let _ = sys!(libc::SYS_ftruncate, fd, PAGE + 1);
        0
    })?;
    let end = wait(pid)?;
    check!(matches!(end, End::Signal(libc::SIGXFSZ)), "it ended with {end:?}");
    Ok(())
}

/// Who shares descriptors with others closes only their own, if they say so.
fn close_range_unshares() -> Outcome {
    const UNSHARE: usize = 2;
    let (r, _w) = pipe(0)?;
    let valid = || sys!(libc::SYS_fcntl, r, libc::F_GETFD).is_ok();
    for (flags, kept) in [(UNSHARE, true), (0, false)] {
        // A process of its own, with this one's descriptors.
        let pid = sys!(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0)?;
        if pid == 0 {
            let done = sys!(libc::SYS_close_range, r, r, flags).is_ok() && !valid();
            let _ = sys!(libc::SYS_exit_group, usize::from(!done));
        }
        check_eq!(wait(pid as i32)?, End::Exit(0));
        check!(valid() == kept, "flags {flags}: it was {}", if kept { "closed" } else { "kept" });
    }
    Ok(())
}

/// Closing is no dearer than opening, however many there are and however far
/// apart.
fn close_many() -> Outcome {
    const MANY: usize = 60_000;
    const FAR: usize = 65_000;
    raise_descriptor_limit(FAR as u64 + 1)?;
    let (r, _w) = pipe(0)?;
    best_of(3, || {
        let start = std::time::Instant::now();
        for _ in 0..MANY {
            sys!(libc::SYS_dup, r)?;
        }
        sys!(libc::SYS_fcntl, r, libc::F_DUPFD_CLOEXEC, FAR)?;
        let opened = start.elapsed();
        let start = std::time::Instant::now();
        sys!(libc::SYS_close_range, r + 10, u32::MAX, 0)?;
        let closed = start.elapsed();
        check_eq!(sys!(libc::SYS_dup, r).map(|fd| fd as i32), Ok(r + 10));
        sys!(libc::SYS_close_range, r + 2, u32::MAX, 0)?;
        check!(closed < opened, "opened in {opened:?}, closed in {closed:?}");
        Ok(())
    })
}

/// Locks or unlocks the first byte of a file for this process.
fn lock(fd: i32, how: i32) -> Result<(), Errno> {
    // SAFETY: plain data.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    (flock.l_type, flock.l_len) = (how as _, 1);
    sys!(libc::SYS_fcntl, fd, libc::F_SETLK, &raw const flock).map(drop)
}

fn record_locks() -> Outcome {
    let d = Dir::new("locks")?;
    let rw = open(&d.c("f"), libc::O_CREAT | libc::O_RDWR, 0o600)?;
    let r = open(&d.c("f"), libc::O_RDONLY, 0)?;
    let w = open(&d.c("f"), libc::O_WRONLY, 0)?;
    check_eq!(lock(r, libc::F_WRLCK), Err(Errno(libc::EBADF)));
    check_eq!(lock(w, libc::F_RDLCK), Err(Errno(libc::EBADF)));
    check_eq!(lock(r, libc::F_RDLCK), Ok(()));
    let other = || -> Result<End, Errno> {
        wait(fork(|| match lock(rw, libc::F_WRLCK) {
            Ok(()) => 0,
            Err(Errno(errno)) => errno,
        })?)
    };
    check_eq!(other()?, End::Exit(libc::EAGAIN));
    // Closing any descriptor of the file lets go.
    close(w);
    check_eq!(other()?, End::Exit(0));
    Ok(())
}

/// Processes that share descriptors share their record locks: these go when one
/// of them closes the file, or with the last of them.
fn record_locks_of_sharers() -> Outcome {
    for closes in [true, false] {
        let d = Dir::new("locks")?;
        let fd = open(&d.c("f"), libc::O_CREAT | libc::O_RDWR, 0o600)?;
        let m = Map::shared(PAGE)?;
        let taker = fork(|| {
            if sys!(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) == Ok(0) {
                until(|| m.get(0) != 0);
                if closes {
                    close(fd);
                    m.set(1, 1);
                    until(|| m.get(2) != 0);
                }
                // SAFETY: ends the sharer.
                unsafe { libc::_exit(0) };
            }
            i32::from(lock(fd, libc::F_WRLCK).is_err())
        })?;
        check_eq!(wait(taker)?, End::Exit(0));
        // The taker has gone, its lock has not.
        check_eq!(lock(fd, libc::F_WRLCK), Err(Errno(libc::EAGAIN)));
        m.set(0, 1);
        check!(!closes || until(|| m.get(1) != 0));
        check!(until(|| lock(fd, libc::F_WRLCK).is_ok()), "never let go, closes: {closes}");
        m.set(2, 1);
    }
    Ok(())
}

/// Who waits for a lock of a file that is closed meanwhile doesn't get it, and
/// nothing is left of it.
fn record_lock_of_what_was_closed() -> Outcome {
    let d = Dir::new("locks")?;
    let fd = open(&d.c("f"), libc::O_CREAT | libc::O_RDWR, 0o600)?;
    lock(fd, libc::F_WRLCK)?;
    let m = Map::shared(PAGE)?;
    let pid = fork(|| {
        let tid = m.word(8);
        let waiter = thread::spawn(move || {
            tid.store(sys!(libc::SYS_gettid).unwrap_or(0), SeqCst);
            // SAFETY: plain data.
            let mut flock: libc::flock = unsafe { std::mem::zeroed() };
            flock.l_type = libc::F_WRLCK as _;
            sys!(libc::SYS_fcntl, fd, libc::F_SETLKW, &raw const flock)
        });
        let asleep = || {
            let stat = format!("/proc/self/task/{}/stat", tid.load(SeqCst));
            fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") S "))
        };
        if !until(asleep) {
            return 2;
        }
        close(fd);
        m.word(0).store(1, SeqCst);
        i32::from(waiter.join().ok() != Some(Err(Errno(libc::EBADF))))
    })?;
    check!(until(|| m.word(0).load(SeqCst) != 0));
    lock(fd, libc::F_UNLCK)?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(lock(fd, libc::F_WRLCK), Ok(()));
    Ok(())
}

/// A process's locks end with it, whoever looks at its descriptors meanwhile.
fn record_locks_end_while_looked_at() -> Outcome {
    let d = Dir::new("locks")?;
    let fd = open(&d.c("f"), libc::O_CREAT | libc::O_RDWR, 0o600)?;
    let watched = AtomicUsize::new(0);
    let stop = AtomicUsize::new(0);
    thread::scope(|s| {
        s.spawn(|| {
            while stop.load(SeqCst) == 0 {
                let path = format!("/proc/{}/fd", watched.load(SeqCst));
                let _ = std::fs::read_dir(path).map(Iterator::count);
            }
        });
        let rounds = || {
            for round in 0..150 {
                let pid = fork(|| {
                    // Some more to look at.
                    for _ in 0..200 {
                        let _ = sys!(libc::SYS_dup, fd);
                    }
                    i32::from(lock(fd, libc::F_WRLCK).is_err())
                })?;
                watched.store(pid as usize, SeqCst);
                check_eq!(wait(pid)?, End::Exit(0));
                check!(lock(fd, libc::F_WRLCK).is_ok(), "still locked in round {round}");
                lock(fd, libc::F_UNLCK)?;
            }
            Ok(())
        };
        let result = rounds();
        stop.store(1, SeqCst);
        result
    })
}

/// What a closed file had is free for the next one.
fn memory_of_closed_files() -> Outcome {
    // All of them together are more than the machine has.
    let len = meminfo("MemTotal:").ok_or(Errno(libc::EIO))? / 5 / PAGE * PAGE;
    for round in 0..8 {
        let fd = sys!(libc::SYS_memfd_create, c"big".as_ptr(), 0)? as i32;
        sys!(libc::SYS_fallocate, fd, 0, 0, len)?;
        let m = Map::full(0, len, RW, libc::MAP_SHARED, fd, 0)?;
        m.set(len - 1, 1);
        close(fd);
        if round % 2 == 0 {
            m.unmap();
        } else {
            // By the end of a process.
            let pid = fork(|| i32::from(m.get(len - 1)) - 1)?;
            m.unmap();
            check_eq!(wait(pid)?, End::Exit(0));
        }
    }
    Ok(())
}

fn memfd_seals() -> Outcome {
    const ADD: i32 = libc::F_ADD_SEALS;
    const EPERM: Errno = Errno(libc::EPERM);
    let map = |fd: i32, prot: i32, flags: i32| Map::full(0, PAGE, prot, flags, fd, 0);
    let new = |name: &std::ffi::CStr, flags: u32| -> Result<i32, Errno> {
        let fd = sys!(libc::SYS_memfd_create, name.as_ptr(), flags)? as i32;
        write(fd, &[1; PAGE])?;
        Ok(fd)
    };
    let fd = new(c"none", 0)?;
    check_eq!(sys!(libc::SYS_fcntl, fd, ADD, libc::F_SEAL_WRITE), Err(EPERM));
    // A mapping that may be written keeps the seal off: also a copy of it in a
    // child, and the half that is left.
    let fd = new(c"write", libc::MFD_ALLOW_SEALING)?;
    let m = map(fd, RW, libc::MAP_SHARED)?;
    let seal = || sys!(libc::SYS_fcntl, fd, ADD, libc::F_SEAL_WRITE);
    check_eq!(seal(), Err(Errno(libc::EBUSY)));
    let (r, w) = pipe(0)?;
    let child = fork(|| {
        close(w);
        i32::from(read(r, &mut [0]) != Ok(0))
    })?;
    m.unmap();
    check_eq!(seal(), Err(Errno(libc::EBUSY)));
    close(w);
    check_eq!(wait(child)?, End::Exit(0));
    let private = map(fd, RW, libc::MAP_PRIVATE)?;
    check_eq!(seal(), Ok(0));
    private.set(0, 7);
    check_eq!(write(fd, b"x"), Err(EPERM));
    check_eq!(map(fd, RW, libc::MAP_SHARED).err(), Some(EPERM));
    check_eq!(map(fd, RW, libc::MAP_PRIVATE)?.get(0), 1);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    check_eq!(sys!(libc::SYS_fallocate, fd, punch, 0, PAGE), Err(EPERM));
    // F_SEAL_FUTURE_WRITE leaves what there is.
    let fd = new(c"future", libc::MFD_ALLOW_SEALING)?;
    let m = map(fd, RW, libc::MAP_SHARED)?;
    check_eq!(sys!(libc::SYS_fcntl, fd, ADD, 0x10), Ok(0));
    m.set(5, 6);
    check_eq!(write(fd, b"x"), Err(EPERM));
    check_eq!(map(fd, RW, libc::MAP_SHARED).err(), Some(EPERM));
    let read_only = map(fd, libc::PROT_READ, libc::MAP_SHARED)?;
    check_eq!(read_only.get(5), 6);
    check_eq!(sys!(libc::SYS_mprotect, read_only.at, PAGE, RW), Err(Errno(libc::EACCES)));
    Ok(())
}

fn copy_range_in_one_file() -> Outcome {
    let d = Dir::new("copy")?;
    let path = d.at("f");
    fs::write(&path, b"0123456789")?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let fd = file.as_raw_fd();
    let copy = |from: i64, to: i64, len: usize| {
        let (from, to) = ([from], [to]);
        sys!(libc::SYS_copy_file_range, fd, from.as_ptr(), fd, to.as_ptr(), len, 0)
    };
    check_eq!(copy(0, 3, 4), Err(Errno(libc::EINVAL)));
    check_eq!(copy(3, 0, 4), Err(Errno(libc::EINVAL)));
    check_eq!(copy(0, 5, 5), Ok(5));
    check_eq!(fs::read(&path)?, b"0123401234");
    // What it writes is not what it reads next.
    check_eq!(copy(5, 10, 1000), Ok(5));
    check_eq!(fs::read(&path)?, b"012340123401234");
    check_eq!(copy(15, 30, 1), Ok(0));
    let appends = OpenOptions::new().append(true).open(&path)?;
    check_eq!(
        sys!(libc::SYS_copy_file_range, fd, [0i64].as_ptr(), appends.as_raw_fd(), 0, 1, 0),
        Err(Errno(libc::EBADF))
    );
    Ok(())
}
