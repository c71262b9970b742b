//! The newc archive reader: a state machine fed with bytes.

use crate::{Error, Sink};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::Room;

const HEADER: usize = 110;
const PATH_MAX: u32 = 4096;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

/// What an archive says about one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The path, as it stands in the archive, without its NUL.
    pub name: &'a [u8],
    /// File type and permission bits (`st_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: u32,
    /// Length of the contents.
    pub size: u32,
    /// For device nodes: (major, minor).
    pub rdev: (u32, u32),
}

/// The fields of the header being read.
#[derive(Clone, Copy, Default)]
struct Fields {
    ino: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: u32,
    size: u32,
    dev: (u32, u32),
    rdev: (u32, u32),
    name_size: u32,
    checksum: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between archives: nothing of a header seen.
    Start,
    Header,
    Name,
    /// Contents that go to the sink.
    File,
    /// A symbolic link's target, collected in `text`.
    Target,
    /// Contents of something that has none.
    Ignore,
    /// Padding up to a multiple of four bytes.
    Pad(Next),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Body,
    Header,
    Trailer,
}

/// Reads archives from bytes that come in pieces of any size.
pub struct Reader {
    state: State,
    /// The header, name or link target so far.
    text: Vec<u8>,
    name: Vec<u8>,
    fields: Fields,
    /// Bytes of contents or padding still to come.
    left: u32,
    /// Position within the archive modulo 4.
    phase: u8,
    sum: u32,
    entries: usize,
    /// First names of files with several, by (device, inode).
    links: BTreeMap<(u32, u32, u32), Vec<u8>>,
}

impl Reader {
    /// A reader at the start of an archive.
    pub fn new() -> Self {
        Reader {
            state: State::Start,
            text: Vec::new(),
            name: Vec::new(),
            fields: Fields::default(),
            left: 0,
            phase: 0,
            sum: 0,
            entries: 0,
            links: BTreeMap::new(),
        }
    }

    /// Whether an archive has just ended (or none has begun).
    pub fn between_archives(&self) -> bool {
        self.state == State::Start
    }

    /// How many entries have been handed to sinks.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Takes some of `bytes`, at least one if there are any; returns how many.
    /// Stops right after an archive's end.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Result<usize, Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest, sink)?;
            rest = rest.get(used..).unwrap_or_default();
            if self.state == State::Start {
                break;
            }
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    fn step(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Result<usize, Error> {
        let used = match self.state {
            State::Start => {
                self.phase = 0;
                self.text.clear();
                self.state = State::Header;
                return Ok(0);
            }
            State::Header => {
                let used = self.collect(bytes, HEADER)?;
                if self.text.len() == HEADER {
                    self.fields = parse_header(&self.text)?;
                    self.text.clear();
                    self.state = State::Name;
                }
                used
            }
            State::Name => {
                let used = self.collect(bytes, self.fields.name_size as usize)?;
                if self.text.len() == self.fields.name_size as usize {
                    self.advance(used);
                    self.end_name()?;
                    self.skip_pad(sink)?;
                    return Ok(used);
                }
                used
            }
            State::File => {
                let take = bytes.len().min(self.left as usize);
                let data = bytes.get(..take).unwrap_or_default();
                if self.fields.checksum.is_some() {
                    self.sum =
                        data.iter().fold(self.sum, |sum, &byte| sum.wrapping_add(u32::from(byte)));
                }
                sink.data(data).map_err(Error::Sink)?;
                self.left = self.left.saturating_sub(take as u32);
                self.advance(take);
                if self.left == 0 {
                    self.end_file(sink)?;
                    self.skip_pad(sink)?;
                }
                return Ok(take);
            }
            State::Target => {
                let used = self.collect(bytes, self.fields.size as usize)?;
                if self.text.len() == self.fields.size as usize {
                    self.advance(used);
                    let target = core::mem::take(&mut self.text);
                    let end = target.iter().position(|&byte| byte == 0).unwrap_or(target.len());
                    sink.symlink(&self.entry(), target.get(..end).unwrap_or_default())
                        .map_err(Error::Sink)?;
                    self.entries = self.entries.saturating_add(1);
                    self.pad(Next::Header);
                    self.skip_pad(sink)?;
                    return Ok(used);
                }
                used
            }
            State::Ignore => {
                let take = bytes.len().min(self.left as usize);
                self.left = self.left.saturating_sub(take as u32);
                self.advance(take);
                if self.left == 0 {
                    self.pad(Next::Header);
                    self.skip_pad(sink)?;
                }
                return Ok(take);
            }
            State::Pad(_) => {
                let take = bytes.len().min(self.left as usize);
                self.left = self.left.saturating_sub(take as u32);
                self.advance(take);
                self.skip_pad(sink)?;
                return Ok(take);
            }
        };
        self.advance(used);
        Ok(used)
    }

    fn advance(&mut self, count: usize) {
        self.phase = self.phase.wrapping_add(count as u8) & 3;
    }

    /// Adds to `text` until it has `want` bytes.
    fn collect(&mut self, bytes: &[u8], want: usize) -> Result<usize, Error> {
        let take = want.saturating_sub(self.text.len()).min(bytes.len());
        self.text.make_room(take).map_err(Error::Sink)?;
        self.text.extend_from_slice(bytes.get(..take).unwrap_or_default());
        Ok(take)
    }

    fn pad(&mut self, next: Next) {
        self.left = u32::from(4u8.wrapping_sub(self.phase) & 3);
        self.state = State::Pad(next);
    }

    /// Goes on if no padding is left.
    fn skip_pad(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        while let State::Pad(next) = self.state
            && self.left == 0
        {
            match next {
                Next::Body => self.begin_body(sink)?,
                Next::Header => {
                    self.text.clear();
                    self.state = State::Header;
                }
                Next::Trailer => {
                    self.links.clear();
                    self.state = State::Start;
                }
            }
        }
        Ok(())
    }

    fn end_name(&mut self) -> Result<(), Error> {
        let mut name = core::mem::take(&mut self.text);
        let end = name.iter().position(|&byte| byte == 0).ok_or(Error::Header)?;
        name.truncate(end);
        if name.is_empty() {
            return Err(Error::Header);
        }
        self.name = name;
        let trailer = self.name == b"TRAILER!!!" && self.fields.size == 0;
        self.pad(if trailer { Next::Trailer } else { Next::Body });
        Ok(())
    }

    fn entry(&self) -> Entry<'_> {
        Entry {
            name: &self.name,
            mode: self.fields.mode,
            uid: self.fields.uid,
            gid: self.fields.gid,
            mtime: self.fields.mtime,
            size: self.fields.size,
            rdev: self.fields.rdev,
        }
    }

    fn begin_body(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        self.left = self.fields.size;
        self.sum = 0;
        match self.fields.mode & S_IFMT {
            S_IFREG => {
                let linked = self.link(sink)?;
                if linked && self.fields.size == 0 {
                    self.entries = self.entries.saturating_add(1);
                    self.pad(Next::Header);
                    return Ok(());
                }
                sink.file(&self.entry()).map_err(Error::Sink)?;
                if self.fields.size == 0 { self.end_file(sink) } else { self.go(State::File) }
            }
            S_IFLNK => {
                if self.fields.size == 0 || self.fields.size >= PATH_MAX {
                    return Err(Error::Header);
                }
                self.text.clear();
                self.go(State::Target)
            }
            S_IFDIR => {
                sink.directory(&self.entry()).map_err(Error::Sink)?;
                self.bodiless()
            }
            _ => {
                if !self.link(sink)? {
                    sink.node(&self.entry()).map_err(Error::Sink)?;
                }
                self.bodiless()
            }
        }
    }

    fn go(&mut self, state: State) -> Result<(), Error> {
        self.state = state;
        Ok(())
    }

    fn bodiless(&mut self) -> Result<(), Error> {
        self.entries = self.entries.saturating_add(1);
        if self.left == 0 {
            self.pad(Next::Header);
        } else {
            self.state = State::Ignore;
        }
        Ok(())
    }

    fn end_file(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        sink.file_end().map_err(Error::Sink)?;
        self.entries = self.entries.saturating_add(1);
        if self.fields.checksum.is_some_and(|want| want != self.sum) {
            return Err(Error::Checksum);
        }
        self.pad(Next::Header);
        Ok(())
    }

    /// Makes a hard link if this inode came before. Whether it did.
    fn link(&mut self, sink: &mut dyn Sink) -> Result<bool, Error> {
        if self.fields.nlink < 2 {
            return Ok(false);
        }
        let key = (self.fields.dev.0, self.fields.dev.1, self.fields.ino);
        if let Some(first) = self.links.get(&key) {
            sink.hard_link(&self.entry(), first).map_err(Error::Sink)?;
            return Ok(true);
        }
        self.links.insert(key, self.name.clone());
        Ok(false)
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

fn parse_header(text: &[u8]) -> Result<Fields, Error> {
    let (magic, numbers) = text.split_at_checked(6).ok_or(Error::Header)?;
    let with_sum = match magic {
        b"070701" => false,
        b"070702" => true,
        _ => return Err(Error::Header),
    };
    let mut values = [0u32; 13];
    for (value, digits) in values.iter_mut().zip(numbers.chunks_exact(8)) {
        *value = hex(digits)?;
    }
    let [
        ino,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        size,
        dev_major,
        dev_minor,
        rdev_major,
        rdev_minor,
        name_size,
        sum,
    ] = values;
    if name_size == 0 || name_size > PATH_MAX {
        return Err(Error::Header);
    }
    Ok(Fields {
        ino,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        size,
        dev: (dev_major, dev_minor),
        rdev: (rdev_major, rdev_minor),
        name_size,
        checksum: with_sum.then_some(sum),
    })
}

fn hex(digits: &[u8]) -> Result<u32, Error> {
    digits.iter().try_fold(0u32, |value, &digit| {
        let digit = char::from(digit).to_digit(16).ok_or(Error::Header)?;
        Ok((value << 4) | digit)
    })
}
