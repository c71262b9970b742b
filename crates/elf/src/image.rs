//! Program headers, and what to map where.

use crate::header::{Header, HeaderKind, u32_at, u64_at};
use crate::{PAGE_SIZE, page_down, page_up};
use alloc::vec::Vec;
use base::{Errno, Result, Room};

/// What EL0 may do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    /// PROT_READ
    pub read: bool,
    /// PROT_WRITE
    pub write: bool,
    /// PROT_EXEC
    pub execute: bool,
}

/// One thing to do, in this order, to load a program. Addresses and lengths of
/// mappings are whole pages and private; a later mapping replaces what it
/// overlaps (`MAP_FIXED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStep {
    /// Map pages of the file.
    File {
        /// Where to.
        addr: u64,
        /// How many bytes, a multiple of the page size.
        len: u64,
        /// Which part of the file, a multiple of the page size.
        offset: u64,
        /// What EL0 may do there.
        protection: Protection,
    },
    /// Map zeroed memory.
    Anonymous {
        /// Where to.
        addr: u64,
        /// How many bytes, a multiple of the page size.
        len: u64,
        /// What EL0 may do there.
        protection: Protection,
    },
    /// Clear bytes at the end of the last page mapped from the file: .bss
    /// begins there. Less than a page.
    Zero {
        /// From where.
        addr: u64,
        /// How many bytes.
        len: u64,
        /// Whether EL0 may write there: if it may not, a failure is no error.
        writable: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    vaddr: u64,
    memsz: u64,
    filesz: u64,
    offset: u64,
    protection: Protection,
}

/// An executable's program headers, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    header: Header,
    segments: Vec<Segment>,
    /// Lowest address used, a page's start.
    start: u64,
    /// End of the highest segment.
    end: u64,
    align: u64,
    phdr: Option<u64>,
    interpreter: Option<(u64, usize)>,
    executable_stack: Option<bool>,
}

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
const PATH_MAX: u64 = 4096;

impl Image {
    /// Checks the program headers: `headers` is [`Header::phdr_size`] bytes of
    /// the file at [`Header::phoff`]. `task_size` is the end of EL0's address
    /// space.
    ///
    /// `ENOEXEC` for a file that is cut short or has a bad `PT_INTERP`; `EINVAL`
    /// for segments that cannot be mapped; `ENOMEM` without room.
    pub fn parse(header: &Header, headers: &[u8], task_size: u64) -> Result<Image> {
        let headers = headers.get(..header.phdr_size()).ok_or(Errno::ENOEXEC)?;
        let mut image = Image {
            header: *header,
            segments: Vec::new(),
            start: u64::MAX,
            end: 0,
            align: PAGE_SIZE,
            phdr: None,
            interpreter: None,
            executable_stack: None,
        };
        for entry in headers.chunks_exact(usize::from(Header::PHENT)) {
            let flags = u32_at(entry, 4)?;
            match u32_at(entry, 0)? {
                PT_LOAD => image.add_segment(entry, flags, task_size)?,
                PT_INTERP if image.interpreter.is_none() => {
                    let (offset, size) = (u64_at(entry, 8)?, u64_at(entry, 32)?);
                    // At least one character and its NUL.
                    if !(2..=PATH_MAX).contains(&size) || offset.checked_add(size).is_none() {
                        return Err(Errno::ENOEXEC);
                    }
                    image.interpreter = Some((offset, size as usize));
                }
                PT_GNU_STACK => image.executable_stack = Some(flags & PF_X != 0),
                _ => {}
            }
        }
        if image.segments.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(image)
    }

    fn add_segment(&mut self, entry: &[u8], flags: u32, task_size: u64) -> Result<()> {
        let segment = Segment {
            offset: u64_at(entry, 8)?,
            vaddr: u64_at(entry, 16)?,
            filesz: u64_at(entry, 32)?,
            memsz: u64_at(entry, 40)?,
            protection: Protection {
                read: flags & PF_R != 0,
                write: flags & PF_W != 0,
                execute: flags & PF_X != 0,
            },
        };
        let end = segment.vaddr.checked_add(segment.memsz).ok_or(Errno::EINVAL)?;
        let page_end = page_up(end).ok_or(Errno::EINVAL)?;
        let file_end = segment.offset.checked_add(segment.filesz).ok_or(Errno::EINVAL)?;
        if segment.filesz > segment.memsz || page_end > task_size || page_up(file_end).is_none() {
            return Err(Errno::EINVAL);
        }
        // File pages are mapped as they are, so both must begin at the same
        // place within a page.
        let misaligned = segment.offset % PAGE_SIZE != segment.vaddr % PAGE_SIZE;
        if segment.filesz != 0 && misaligned {
            return Err(Errno::EINVAL);
        }
        let align = u64_at(entry, 48)?;
        if align.is_power_of_two() && align <= task_size {
            self.align = self.align.max(align);
        }
        let phoff = self.header.phoff;
        if self.phdr.is_none() && (segment.offset..file_end).contains(&phoff) {
            self.phdr = phoff.wrapping_sub(segment.offset).checked_add(segment.vaddr);
        }
        self.start = self.start.min(page_down(segment.vaddr));
        self.end = self.end.max(end);
        self.segments.make_room(1)?;
        self.segments.push(segment);
        Ok(())
    }

    /// Where the path of the dynamic linker is in the file (offset and size
    /// with its NUL), if the program wants one.
    pub fn interpreter(&self) -> Option<(u64, usize)> {
        self.interpreter
    }

    /// The path of the dynamic linker from the bytes that
    /// [`interpreter`](Self::interpreter) points to; `ENOEXEC` if it has no NUL
    /// at its end.
    pub fn interpreter_path(bytes: &[u8]) -> Result<&[u8]> {
        match bytes.split_last() {
            Some((0, path)) => Ok(path.split(|&byte| byte == 0).next().unwrap_or(path)),
            _ => Err(Errno::ENOEXEC),
        }
    }

    /// Whether `PT_GNU_STACK` asks for a stack that can be executed. Without
    /// it, arm64 does not make one.
    pub fn executable_stack(&self) -> bool {
        self.executable_stack.unwrap_or(false)
    }

    /// The range of addresses that the segments cover, before the bias; whole
    /// pages.
    pub fn span(&self) -> (u64, u64) {
        // The end was checked when the segment was added.
        (self.start, page_up(self.end).unwrap_or(self.end).saturating_sub(self.start))
    }

    /// What the bias should be a multiple of: the largest `p_align`.
    pub fn align(&self) -> u64 {
        self.align
    }

    /// The bias that puts the image's start at or right below `wanted`, on its
    /// alignment. 0 for an image that is not position-independent.
    pub fn bias_for(&self, wanted: u64) -> u64 {
        match self.header.kind {
            HeaderKind::Fixed => 0,
            HeaderKind::PositionIndependent => {
                (wanted & !self.align.wrapping_sub(1)).wrapping_sub(page_down(self.start))
            }
        }
    }

    /// `e_entry` with the bias: where the program begins.
    pub fn entry(&self, bias: u64) -> u64 {
        self.header.entry.wrapping_add(bias)
    }

    /// Where the program headers are in memory (`AT_PHDR`); 0 if no segment has
    /// them.
    pub fn phdr(&self, bias: u64) -> u64 {
        self.phdr.map_or(0, |addr| addr.wrapping_add(bias))
    }

    /// `AT_PHNUM`.
    pub fn phnum(&self) -> u16 {
        self.header.phnum
    }

    /// Where the heap begins: the page after the last segment.
    pub fn brk(&self, bias: u64) -> u64 {
        let (start, len) = self.span();
        start.wrapping_add(len).wrapping_add(bias)
    }

    /// What to map, with `bias` added to all addresses. `EINVAL` if that does
    /// not fit below `task_size`, or the entry point is not below it.
    pub fn plan(&self, bias: u64, task_size: u64) -> Result<Vec<LoadStep>> {
        let (start, len) = self.span();
        let base = start.wrapping_add(bias);
        let end = base.checked_add(len).ok_or(Errno::EINVAL)?;
        if base % PAGE_SIZE != 0 || end > task_size || self.entry(bias) >= task_size {
            return Err(Errno::EINVAL);
        }
        let mut steps = Vec::new();
        // At most three steps a segment, and no more than 1170 segments.
        let room = self.segments.len().saturating_mul(3);
        steps.make_room(room)?;
        for segment in &self.segments {
            segment.plan(bias, &mut steps).ok_or(Errno::EINVAL)?;
        }
        Ok(steps)
    }
}

impl Segment {
    /// `None` if an address overflows, which the checks before exclude.
    fn plan(&self, bias: u64, steps: &mut Vec<LoadStep>) -> Option<()> {
        let protection = self.protection;
        let vaddr = self.vaddr.wrapping_add(bias);
        let end = page_up(vaddr.checked_add(self.memsz)?)?;
        let mut mapped = page_down(vaddr);
        if self.filesz != 0 {
            let file_end = vaddr.checked_add(self.filesz)?;
            let map_end = page_up(file_end)?;
            steps.push(LoadStep::File {
                addr: mapped,
                len: map_end.checked_sub(mapped)?,
                offset: page_down(self.offset),
                protection,
            });
            mapped = map_end;
            let tail = map_end.checked_sub(file_end)?;
            if self.memsz > self.filesz && tail != 0 {
                steps.push(LoadStep::Zero {
                    addr: file_end,
                    len: tail,
                    writable: protection.write,
                });
            }
        }
        if end > mapped {
            let len = end.checked_sub(mapped)?;
            steps.push(LoadStep::Anonymous { addr: mapped, len, protection });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::tests::header;
    use proptest::prelude::*;

    const TASK_SIZE: u64 = 1 << 48;
    const RX: Protection = Protection { read: true, write: false, execute: true };
    const RW: Protection = Protection { read: true, write: true, execute: false };

    /// type, flags, offset, vaddr, filesz, memsz, align
    type Entry = (u32, u32, u64, u64, u64, u64, u64);

    fn encode(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(kind, flags, offset, vaddr, filesz, memsz, align) in entries {
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            for word in [offset, vaddr, vaddr, filesz, memsz, align] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    fn parse(kind: u16, entry: u64, entries: &[Entry]) -> Result<Image> {
        let header = Header::parse(&header(kind, entry, entries.len() as u16)).unwrap();
        Image::parse(&header, &encode(entries), TASK_SIZE)
    }

    #[test]
    fn a_static_program() {
        let image = parse(
            2,
            0x400_5c0,
            &[
                (PT_LOAD, 5, 0, 0x400_000, 0x1234, 0x1234, 0x10000),
                (PT_LOAD, 6, 0x1f00, 0x411_f00, 0x300, 0x2500, 0x10000),
                (PT_GNU_STACK, 6, 0, 0, 0, 0, 16),
            ],
        )
        .unwrap();
        assert_eq!(image.bias_for(0x5555_0000), 0);
        assert_eq!(image.span(), (0x400_000, 0x15_000));
        assert_eq!(image.phdr(0), 0x400_040);
        assert_eq!((image.entry(0), image.brk(0), image.phnum()), (0x400_5c0, 0x415_000, 3));
        assert!(!image.executable_stack());
        assert_eq!(image.interpreter(), None);
        assert_eq!(
            image.plan(0, TASK_SIZE).unwrap(),
            [
                LoadStep::File { addr: 0x400_000, len: 0x2000, offset: 0, protection: RX },
                LoadStep::File { addr: 0x411_000, len: 0x2000, offset: 0x1000, protection: RW },
                LoadStep::Zero { addr: 0x412_200, len: 0xe00, writable: true },
                LoadStep::Anonymous { addr: 0x413_000, len: 0x2000, protection: RW },
            ]
        );
    }

    #[test]
    fn a_position_independent_one() {
        let image = parse(
            3,
            0x1000,
            &[
                (PT_LOAD, 5, 0, 0, 0x2000, 0x2000, 0x200000),
                (PT_LOAD, 6, 0, 0x3000, 0, 0x10, 0x1000),
            ],
        )
        .unwrap();
        let bias = image.bias_for(0xaaaa_1234_5678);
        assert_eq!(bias, 0xaaaa_1220_0000);
        assert_eq!(image.entry(bias), bias + 0x1000);
        assert_eq!(image.phdr(bias), bias + 64);
        assert_eq!(
            image.plan(bias, TASK_SIZE).unwrap(),
            [
                LoadStep::File { addr: bias, len: 0x2000, offset: 0, protection: RX },
                LoadStep::Anonymous { addr: bias + 0x3000, len: 0x1000, protection: RW },
            ]
        );
        assert_eq!(image.plan(bias + 1, TASK_SIZE), Err(Errno::EINVAL));
        assert_eq!(image.plan(TASK_SIZE - 0x1000, TASK_SIZE), Err(Errno::EINVAL));
    }

    #[test]
    fn an_interpreter_is_reported() {
        let load = (PT_LOAD, 5, 0, 0, 0x2000, 0x2000, 4096);
        let image = parse(3, 0, &[(PT_INTERP, 4, 0x238, 0x238, 27, 27, 1), load]).unwrap();
        assert_eq!(image.interpreter(), Some((0x238, 27)));
        assert_eq!(Image::interpreter_path(b"/lib/ld.so\0"), Ok(b"/lib/ld.so".as_slice()));
        assert_eq!(Image::interpreter_path(b"/lib/ld.so"), Err(Errno::ENOEXEC));
        assert_eq!(Image::interpreter_path(b""), Err(Errno::ENOEXEC));
        for size in [0, 1, 4097] {
            let result = parse(3, 0, &[(PT_INTERP, 4, 0, 0, size, size, 1), load]);
            assert_eq!(result, Err(Errno::ENOEXEC));
        }
    }

    #[test]
    fn bad_segments() {
        let with = |entry| parse(2, 0, &[entry]).map(|_| ());
        assert_eq!(with((PT_LOAD, 5, 0, 0x1000, 2, 1, 1)), Err(Errno::EINVAL));
        assert_eq!(with((PT_LOAD, 5, 1, 0x1000, 2, 2, 1)), Err(Errno::EINVAL));
        assert_eq!(with((PT_LOAD, 5, 0, u64::MAX, 0, 2, 1)), Err(Errno::EINVAL));
        assert_eq!(with((PT_LOAD, 5, 0, 0, 0, TASK_SIZE + 1, 1)), Err(Errno::EINVAL));
        assert_eq!(with((PT_LOAD, 5, u64::MAX, 0xfff, 2, 2, 1)), Err(Errno::EINVAL));
        assert_eq!(with((PT_GNU_STACK, 5, 0, 0, 0, 0, 1)), Err(Errno::EINVAL));
        assert_eq!(with((PT_LOAD, 5, 0, 0, 0, TASK_SIZE, 1)), Ok(()));
        let header = Header::parse(&header(2, 0, 2)).unwrap();
        assert_eq!(Image::parse(&header, &[0; 111], TASK_SIZE), Err(Errno::ENOEXEC));
    }

    fn hostile() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0u64..0x10000,
            (0u64..64).prop_map(|shift| 1 << shift),
            (0u64..0x2000).prop_map(|less| u64::MAX - less),
            (0u64..0x2000).prop_map(|less| TASK_SIZE - less),
        ]
    }

    proptest! {
        #[test]
        fn plans_stay_inside(
            kind in 2u16..4,
            entry in hostile(),
            wanted in hostile(),
            entries in prop::collection::vec(
                (0u32..4, 0u32..8, hostile(), hostile(), hostile(), hostile(), hostile()), 1..6,
            ),
        ) {
            let Ok(image) = parse(kind, entry, &entries) else { return Ok(()) };
            let bias = image.bias_for(wanted);
            let Ok(steps) = image.plan(bias, TASK_SIZE) else { return Ok(()) };
            let (start, len) = image.span();
            let (low, high) = (start.wrapping_add(bias), start.wrapping_add(bias) + len);
            prop_assert!(high <= TASK_SIZE);
            for step in steps {
                let (addr, len) = match step {
                    LoadStep::File { addr, len, offset, .. } => {
                        prop_assert_eq!((addr % 4096, len % 4096, offset % 4096), (0, 0, 0));
                        prop_assert!(offset.checked_add(len).is_some());
                        (addr, len)
                    }
                    LoadStep::Anonymous { addr, len, .. } => {
                        prop_assert_eq!((addr % 4096, len % 4096), (0, 0));
                        (addr, len)
                    }
                    LoadStep::Zero { addr, len, .. } => {
                        prop_assert!(len < 4096);
                        (addr, len)
                    }
                };
                prop_assert!(len > 0 && addr >= low && addr + len <= high);
            }
        }
    }
}
