use super::*;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use proptest::prelude::*;

#[derive(Default, Debug, PartialEq)]
struct Tree {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    others: Vec<(Vec<u8>, u32)>,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    open: Option<Vec<u8>>,
}

impl Sink for Tree {
    fn directory(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        self.others.push((entry.name.to_vec(), entry.mode));
        Ok(())
    }
    fn file(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        self.files.insert(entry.name.to_vec(), Vec::new());
        self.open = Some(entry.name.to_vec());
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.files.get_mut(self.open.as_ref().unwrap()).unwrap().extend_from_slice(bytes);
        Ok(())
    }
    fn file_end(&mut self) -> Result<(), Errno> {
        self.open.take().unwrap();
        Ok(())
    }
    fn symlink(&mut self, entry: &Entry<'_>, target: &[u8]) -> Result<(), Errno> {
        self.links.push((entry.name.to_vec(), target.to_vec()));
        Ok(())
    }
    fn node(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        self.others.push((entry.name.to_vec(), entry.mode));
        Ok(())
    }
    fn hard_link(&mut self, entry: &Entry<'_>, first: &[u8]) -> Result<(), Errno> {
        self.links.push((entry.name.to_vec(), first.to_vec()));
        Ok(())
    }
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, ino: u32, nlink: u32, data: &[u8]) {
    let name_size = name.len() + 1;
    out.extend_from_slice(
        format!(
            "070701{ino:08x}{mode:08x}{:08x}{:08x}{nlink:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            0,
            0,
            7,
            data.len(),
            0,
            0,
            4,
            64,
            0
        )
        .as_bytes(),
    );
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
    out.extend_from_slice(data);
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    entry(&mut out, "etc", 0o040_755, 1, 2, b"");
    for (index, (name, data)) in files.iter().enumerate() {
        entry(&mut out, name, 0o100_644, 10 + index as u32, 1, data);
    }
    entry(&mut out, "dev/console", 0o020_600, 2, 1, b"");
    entry(&mut out, "bin/sh", 0o120_777, 3, 1, b"busybox");
    entry(&mut out, "TRAILER!!!", 0, 0, 1, b"");
    out
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = [0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3, b'x', 0].to_vec();
    out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out
}

#[test]
fn plain_gzip_and_both_after_another() {
    let big: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let first = archive(&[("init", b"#!/bin/sh\n"), ("big", &big)]);
    let second = archive(&[("empty", b""), ("init", b"other")]);
    let mut input = first.clone();
    input.extend_from_slice(&[0; 512]);
    let mut packed = second.clone();
    packed.extend_from_slice(&[0; 100]);
    packed.extend_from_slice(&archive(&[("third", b"3")]));
    packed.extend_from_slice(&[0; 100]);
    input.extend_from_slice(&gzip(&packed));
    input.extend_from_slice(&[0; 3]);

    let mut tree = Tree::default();
    assert_eq!(unpack(&input, &mut tree), Ok(5 + 5 + 4));
    assert_eq!(tree.files[&b"init"[..]], b"other");
    assert_eq!(tree.files[&b"big"[..]], big);
    assert_eq!(tree.files[&b"empty"[..]], b"");
    assert_eq!(tree.files[&b"third"[..]], b"3");
    assert_eq!(tree.links[0], (b"bin/sh".to_vec(), b"busybox".to_vec()));
    assert!(tree.others.contains(&(b"dev/console".to_vec(), 0o020_600)));
}

#[test]
fn more_than_a_window_and_far_back_references() {
    let noise: Vec<u8> = (0..30_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
    let big: Vec<u8> = noise.iter().copied().cycle().take(1 << 20).collect();
    let mut tree = Tree::default();
    assert_eq!(unpack(&gzip(&archive(&[("big", &big)])), &mut tree), Ok(4));
    assert!(tree.files[&b"big"[..]] == big);
}

#[test]
fn hard_links_carry_their_contents_at_either_end() {
    let mut input = Vec::new();
    entry(&mut input, "a", 0o100_644, 5, 2, b"");
    entry(&mut input, "b", 0o100_644, 5, 2, b"text");
    entry(&mut input, "c", 0o100_644, 6, 2, b"more");
    entry(&mut input, "d", 0o100_644, 6, 2, b"");
    entry(&mut input, "TRAILER!!!", 0, 0, 1, b"");
    let mut tree = Tree::default();
    assert_eq!(unpack(&input, &mut tree), Ok(4));
    assert_eq!(tree.links, [(b"b".to_vec(), b"a".to_vec()), (b"d".to_vec(), b"c".to_vec())]);
    assert_eq!(tree.files[&b"b"[..]], b"text");
    assert_eq!(tree.files[&b"c"[..]], b"more");
}

#[test]
fn says_what_is_wrong() {
    let good = archive(&[("init", b"#!/bin/sh\n")]);
    let mut tree = Tree::default();
    assert_eq!(unpack(&good[..good.len() - 40], &mut tree), Err(Error::Truncated));
    assert_eq!(unpack(b"\0\0\0\0garbage", &mut tree), Err(Error::Format { at: 4 }));
    assert_eq!(
        unpack(&[0xfd, b'7', b'z', b'X', b'Z', 0], &mut tree),
        Err(Error::Compression("xz"))
    );
    let packed = gzip(&good);
    assert_eq!(unpack(&packed[..packed.len() - 20], &mut tree), Err(Error::Truncated));
    let mut damaged = packed.clone();
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    assert_eq!(unpack(&damaged, &mut tree), Err(Error::Checksum));
    assert_eq!(unpack(&[], &mut tree), Ok(0));
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same(cuts in proptest::collection::vec(1usize..300, 1..40)) {
        let input = archive(&[("init", b"#!/bin/sh\necho hello\n"), ("x", b"y"), ("e", b"")]);
        let mut whole = Tree::default();
        unpack(&input, &mut whole).unwrap();
        let mut tree = Tree::default();
        let mut reader = Reader::new();
        let mut rest = &input[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let take = rest.len().min(*cuts.next().unwrap());
            let used = reader.feed(&rest[..take], &mut tree).unwrap();
            prop_assert!(used > 0);
            rest = &rest[used..];
        }
        prop_assert!(reader.between_archives());
        prop_assert_eq!(tree, whole);
    }

    #[test]
    fn never_panics(at in 0usize..600, value: u8, cut in 0usize..700, packed: bool, noise: Vec<u8>) {
        let mut input = archive(&[("init", b"#!/bin/sh\necho hello\n"), ("x", b"y")]);
        if packed {
            input = gzip(&input);
        }
        if let Some(byte) = input.get_mut(at) {
            *byte = value;
        }
        input.truncate(input.len().saturating_sub(cut));
        input.extend(noise);
        let _ = unpack(&input, &mut Tree::default());
    }
}
