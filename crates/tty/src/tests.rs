use super::*;
use std::sync::Mutex;
use std::vec;
use vfs::OpenFile;

#[derive(Default)]
struct World {
    shown: Mutex<Vec<u8>>,
    signals: Mutex<Vec<(u32, u32)>>,
    deaf: Mutex<bool>,
    now: Mutex<u64>,
    armed: Mutex<Vec<(u64, Waker)>>,
    was_set: WaitQueue,
}

struct Driver(Arc<World>);
impl TtyDriver for Driver {
    fn put(&self, bytes: &[u8]) {
        self.0.shown.lock().unwrap().extend_from_slice(bytes);
    }
}
impl TtyHost for World {
    fn signal_group(&self, pgid: u32, signal: u32) {
        self.signals.lock().unwrap().push((pgid, signal));
    }
    fn is_blocked_or_ignored(&self, _caller: &Caller, _signal: u32) -> bool {
        *self.deaf.lock().unwrap()
    }
    fn is_orphaned(&self, pgid: u32) -> bool {
        pgid == 99
    }
    fn session_of_group(&self, pgid: u32) -> Option<u32> {
        match pgid {
            10 | 11 | 99 => Some(10),
            20 => Some(20),
            _ => None,
        }
    }
}
impl Timers for World {
    fn now(&self, _clock: ClockId) -> Nanos {
        *self.now.lock().unwrap()
    }
    fn arm(&self, deadline: Nanos, waker: Waker) -> Result<u64> {
        self.armed.lock().unwrap().push((deadline, waker));
        Ok(deadline)
    }
    fn cancel(&self, armed: u64) {
        self.armed.lock().unwrap().retain(|(deadline, _)| *deadline != armed);
    }
    fn clock_sets(&self) -> u64 {
        0
    }
    fn clock_was_set(&self) -> &WaitQueue {
        &self.was_set
    }
}

/// User memory at address 0.
struct Memory(Mutex<Vec<u8>>);
impl UserMem for Memory {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        let memory = self.0.lock().unwrap();
        out.copy_from_slice(
            memory.get(addr as usize..).and_then(|m| m.get(..out.len())).ok_or(Errno::EFAULT)?,
        );
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        let mut memory = self.0.lock().unwrap();
        let to = memory
            .get_mut(addr as usize..)
            .and_then(|m| m.get_mut(..data.len()))
            .ok_or(Errno::EFAULT)?;
        to.copy_from_slice(data);
        Ok(())
    }
}

fn who(pid: u32, pgid: u32, sid: u32) -> Caller {
    Caller { pid, tid: pid, pgid, sid }
}

struct Setup {
    world: Arc<World>,
    ttys: Arc<Ttys>,
    devices: Arc<DeviceRegistry>,
    tty: Arc<Tty>,
    memory: Memory,
}

impl Setup {
    fn new() -> Setup {
        let world = Arc::new(World::default());
        let driver = Arc::new(Driver(world.clone()));
        let tty = Tty::new("ttyAMA0", device::TTY_AMA0, driver, world.clone(), world.clone());
        let ttys = Ttys::new();
        ttys.add(tty.clone(), true);
        let devices = DeviceRegistry::new();
        ttys.register(&devices);
        Setup { world, ttys, devices, tty, memory: Memory(Mutex::new(vec![0; 64])) }
    }
    fn open(&self, dev: DevId, caller: &Caller) -> Result<Arc<OpenFile>> {
        let request = OpenRequest { caller, flags: OpenFlags::RDWR };
        let file = self.devices.open(vfs::FileType::Char, dev, &request)?;
        OpenFile::anonymous(file, OpenFlags::RDWR)
    }
    fn ioctl(&self, file: &OpenFile, caller: &Caller, cmd: u32, arg: u64) -> Result<i64> {
        file.file().ioctl(caller, cmd, arg, &self.memory)
    }
    fn put_u32(&self, value: u32) {
        self.memory.write(0, &value.to_le_bytes()).unwrap();
    }
    fn get_u32(&self) -> u32 {
        self.memory.read_obj(0).unwrap()
    }
    fn signals(&self) -> Vec<(u32, u32)> {
        core::mem::take(&mut self.world.signals.lock().unwrap())
    }
}

#[test]
fn becomes_a_controlling_terminal() {
    let s = Setup::new();
    let (leader, child) = (who(10, 10, 10), who(11, 11, 10));
    assert_eq!(s.open(device::TTY, &leader).err(), Some(Errno::ENXIO));
    let console = s.open(device::CONSOLE, &leader).unwrap();
    assert_eq!(s.tty.session(), None);
    assert_eq!(s.ioctl(&console, &leader, TIOCGPGRP, 0), Err(Errno::ENOTTY));
    assert_eq!(s.ioctl(&console, &child, TIOCSCTTY, 0), Err(Errno::EPERM));
    s.ioctl(&console, &leader, TIOCSCTTY, 0).unwrap();
    assert_eq!(s.tty.session(), Some((10, 10)));
    assert!(s.open(device::TTY, &child).is_ok());
    // Another session can't have it.
    assert_eq!(s.ioctl(&console, &who(20, 20, 20), TIOCSCTTY, 0), Err(Errno::EPERM));
    let other = s.open(device::TTY_AMA0, &who(20, 20, 20)).unwrap();
    assert_eq!(s.tty.session(), Some((10, 10)));
    assert_eq!(s.ioctl(&other, &who(20, 20, 20), TIOCGSID, 0), Err(Errno::ENOTTY));
    s.ioctl(&console, &child, TIOCGSID, 0).unwrap();
    assert_eq!(s.get_u32(), 10);
    s.put_u32(77);
    assert_eq!(s.ioctl(&console, &leader, TIOCSPGRP, 0), Err(Errno::ESRCH));
    s.put_u32(20);
    assert_eq!(s.ioctl(&console, &leader, TIOCSPGRP, 0), Err(Errno::EPERM));
    s.put_u32(u32::MAX);
    assert_eq!(s.ioctl(&console, &leader, TIOCSPGRP, 0), Err(Errno::EINVAL));
    s.put_u32(11);
    s.ioctl(&console, &leader, TIOCSPGRP, 0).unwrap();
    s.tty.input(b"\x03");
    assert_eq!(s.signals(), [(11, SIGINT)]);
    s.ttys.session_ended(10);
    assert_eq!(s.signals(), [(11, SIGHUP), (11, SIGCONT)]);
    assert_eq!(s.tty.session(), None);
    // Opened by its own node, a free leader gets it.
    let fresh = s.open(device::TTY_AMA0, &who(20, 20, 20)).unwrap();
    assert_eq!(s.tty.session(), Some((20, 20)));
    s.ioctl(&fresh, &who(20, 20, 20), TIOCNOTTY, 0).unwrap();
    assert_eq!(s.tty.session(), None);
}

#[test]
fn background_processes_are_stopped() {
    let s = Setup::new();
    let (leader, back, orphan) = (who(10, 10, 10), who(11, 11, 10), who(99, 99, 10));
    let file = s.open(device::TTY_AMA0, &leader).unwrap();
    s.tty.input(b"x\n");
    let mut buf = [0; 8];
    assert_eq!(file.read(&back, &mut buf), Err(Errno::ERESTART));
    assert_eq!(s.signals(), [(11, SIGTTIN)]);
    assert_eq!(file.read(&orphan, &mut buf), Err(Errno::EIO));
    *s.world.deaf.lock().unwrap() = true;
    assert_eq!(file.read(&back, &mut buf), Err(Errno::EIO));
    *s.world.deaf.lock().unwrap() = false;
    assert_eq!(file.write(&back, b"hi\n"), Ok(3));
    assert_eq!(file.read(&leader, &mut buf), Ok(2));
    s.ioctl(&file, &leader, TCGETS, 0).unwrap();
    let mut termios = Termios2::default();
    termios.c_lflag |= TOSTOP;
    s.memory.write(0, &termios.as_bytes()[..TERMIOS_LEN]).unwrap();
    assert_eq!(s.ioctl(&file, &back, TCSETS, 0), Err(Errno::ERESTART));
    assert_eq!(s.signals(), [(11, SIGTTOU)]);
    s.ioctl(&file, &leader, TCSETSW, 0).unwrap();
    assert_eq!(file.write(&back, b"hi\n"), Err(Errno::ERESTART));
    assert_eq!(s.world.shown.lock().unwrap().as_slice(), b"x\r\nhi\r\n");
}

#[test]
fn modes_sizes_and_waiting() {
    let s = Setup::new();
    let leader = who(10, 10, 10);
    let file = s.open(device::TTY_AMA0, &leader).unwrap();
    let mut buf = [0; 8];
    assert_eq!(file.read(&leader, &mut buf), Err(Errno::EAGAIN));
    assert_eq!(file.poll(), Events::WRITE);
    s.memory.write(0, &[24, 0, 80, 0, 0, 0, 0, 0]).unwrap();
    s.ioctl(&file, &leader, TIOCSWINSZ, 0).unwrap();
    assert_eq!(s.signals(), [(10, SIGWINCH)]);
    s.ioctl(&file, &leader, TIOCGWINSZ, 8).unwrap();
    assert_eq!(s.memory.read_obj::<u16>(10), Ok(80));
    assert_eq!(s.ioctl(&file, &leader, TIOCGWINSZ, 60), Err(Errno::EFAULT));
    assert_eq!(s.ioctl(&file, &leader, 0x1234, 0), Err(Errno::ENOTTY));
    // VMIN 0, VTIME 5: half a second at most.
    let mut raw = Termios2 { c_lflag: 0, ..Termios2::default() };
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 5;
    s.memory.write(0, raw.as_bytes()).unwrap();
    s.ioctl(&file, &leader, TCSETS2, 0).unwrap();
    assert_eq!(file.read(&leader, &mut buf), Err(Errno::EAGAIN));
    assert_eq!(s.world.armed.lock().unwrap()[0].0, 500_000_000);
    *s.world.now.lock().unwrap() = 500_000_000;
    assert_eq!(file.read(&leader, &mut buf), Ok(0));
    assert!(s.world.armed.lock().unwrap().is_empty());
    assert_eq!(file.read(&leader, &mut buf), Err(Errno::EAGAIN));
    assert_eq!(file.read(&leader, &mut buf), Err(Errno::EAGAIN));
    assert_eq!(s.world.armed.lock().unwrap().len(), 1);
    s.tty.input(b"q");
    assert_eq!(file.poll(), Events::READ | Events::WRITE);
    s.ioctl(&file, &leader, FIONREAD, 0).unwrap();
    assert_eq!(s.get_u32(), 1);
    assert_eq!(file.read(&leader, &mut buf), Ok(1));
    assert!(s.world.armed.lock().unwrap().is_empty());
    s.tty.input(b"gone");
    s.ioctl(&file, &leader, TCFLSH, 0).unwrap();
    assert_eq!(file.poll(), Events::WRITE);
    let console = s.open(device::CONSOLE, &leader).unwrap();
    s.ioctl(&file, &leader, TIOCVHANGUP, 0).unwrap();
    assert_eq!(s.signals(), [(10, SIGHUP), (10, SIGCONT)]);
    assert_eq!(file.read(&leader, &mut buf), Ok(0));
    assert_eq!(file.write(&leader, b"x"), Err(Errno::EIO));
    assert!(file.poll().contains(Events::HUP));
    assert_eq!(console.write(&leader, b"x"), Ok(1));
    assert_eq!(file.write(&leader, &vec![b'y'; 5000]), Err(Errno::EIO));
    assert_eq!(console.write(&leader, &vec![b'y'; 5000]), Ok(1024));
}
