//! What it reads is what `vm-fdt` wrote and what `dtoolkit` reads.

use super::{Fdt, Node, total_size};
use dtoolkit::{Node as _, Property as _};
use proptest::prelude::*;
use std::format;
use std::string::String;
use std::vec::Vec;
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// A node: its number, the lengths of its properties, its children.
#[derive(Clone, Debug)]
struct Wanted {
    number: u32,
    properties: Vec<u8>,
    children: Vec<Wanted>,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let leaf = (any::<u32>(), prop::collection::vec(0..20u8, 0..4));
    let leaf =
        leaf.prop_map(|(number, properties)| Wanted { number, properties, children: Vec::new() });
    leaf.prop_recursive(4, 24, 4, |inner| {
        (prop::collection::vec(0..20u8, 0..4), prop::collection::vec(inner, 0..4))
            .prop_map(|(properties, children)| Wanted { number: 7, properties, children })
    })
}

fn write(writer: &mut FdtWriter, name: &str, wanted: &Wanted) {
    let node = writer.begin_node(name).unwrap();
    for (nth, len) in wanted.properties.iter().enumerate() {
        let value: Vec<u8> = (0..*len).collect();
        writer.property(&format!("p{nth}"), &value).unwrap();
    }
    for (nth, child) in wanted.children.iter().enumerate() {
        write(writer, &format!("n{nth}@{:x}", child.number), child);
    }
    writer.end_node(node).unwrap();
}

fn bytes(wanted: &Wanted) -> Vec<u8> {
    let reserved = [FdtReserveEntry::new(0x1000, 0x2000).unwrap()];
    let mut writer = FdtWriter::new_with_mem_reserv(&reserved).unwrap();
    write(&mut writer, "", wanted);
    writer.finish().unwrap()
}

fn check(node: &Node<'_>, wanted: &Wanted) {
    let values: Vec<_> = node.properties().map(|p| (p.name(), p.value().len() as u8)).collect();
    let names: Vec<String> = (0..wanted.properties.len()).map(|n| format!("p{n}")).collect();
    let expected: Vec<_> =
        names.iter().map(String::as_str).zip(wanted.properties.iter().copied()).collect();
    assert_eq!(values, expected);
    assert!(node.properties().all(|p| node.property(p.name()) == Some(p)));
    assert_eq!(node.children().count(), wanted.children.len());
    for (nth, (child, wanted)) in node.children().zip(&wanted.children).enumerate() {
        assert_eq!(child.name(), format!("n{nth}@{:x}", wanted.number));
        assert_eq!(node.child(&format!("n{nth}")).unwrap().name(), child.name());
        assert_eq!(node.child(child.name()).unwrap().inside, child.inside);
        check(&child, wanted);
    }
}

/// Both see the same.
fn agree(ours: &Node<'_>, theirs: &dtoolkit::fdt::FdtNode<'_>) {
    assert_eq!(ours.name(), theirs.name());
    let properties: Vec<_> = ours.properties().map(|p| (p.name(), p.value())).collect();
    let other = theirs.properties();
    assert!(
        other
            .map(|p| (String::from(p.name()), p.value().to_vec()))
            .eq(properties.iter().map(|(name, value)| (String::from(*name), value.to_vec())))
    );
    assert_eq!(ours.children().count(), theirs.children().count());
    for (ours, theirs) in ours.children().zip(theirs.children()) {
        agree(&ours, &theirs);
    }
}

/// Whatever is in there, it can be walked.
fn walk(node: &Node<'_>) {
    assert!(node.properties().count() < 100_000);
    node.children().for_each(|child| walk(&child));
}

#[test]
fn paths_and_reservations() {
    let child = Wanted { number: 16, properties: [4].into(), children: Vec::new() };
    let root = Wanted { number: 0, properties: Vec::new(), children: [child].into() };
    let bytes = bytes(&root);
    let tree = Fdt::new(&bytes).unwrap();
    assert_eq!(tree.find_node("/").unwrap().name(), "");
    assert_eq!(tree.find_node("/n0").unwrap().name(), "n0@10");
    assert_eq!(tree.find_node("/n0@10/").unwrap().name(), "n0@10");
    assert!(tree.find_node("/n0@11").is_none());
    assert!(tree.find_node("n0").is_none());
    assert!(tree.memory_reservations().eq([(0x1000, 0x2000)]));
    assert_eq!(tree.data(), bytes);
    assert_eq!(total_size(&bytes[..8]), Some(bytes.len()));
    assert_eq!(total_size(&bytes[..7]), None);
}

proptest! {
    #[test]
    fn what_was_written_is_read(wanted in wanted()) {
        let bytes = bytes(&wanted);
        let tree = Fdt::new(&bytes).unwrap();
        check(&tree.root(), &wanted);
        agree(&tree.root(), &dtoolkit::fdt::Fdt::new(&bytes).unwrap().root());
    }

    #[test]
    fn a_broken_tree_is_refused_or_walked(
        wanted in wanted(),
        breaks in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        small: bool,
    ) {
        let mut bytes = bytes(&wanted);
        for (at, value) in &breaks {
            let at = at.index(bytes.len());
            bytes[at] = if small { value % 10 } else { *value };
        }
        let ours = Fdt::new(&bytes);
        if let Ok(tree) = ours {
            walk(&tree.root());
            assert!(tree.memory_reservations().count() <= bytes.len() / 16);
        }
        // Nothing else is read than what others read. (They read on behind a structure block
        // that its size ends.)
        if let (Ok(ours), Ok(theirs)) = (ours, dtoolkit::fdt::Fdt::new(&bytes)) {
            agree(&ours.root(), &theirs.root());
        }
    }

    #[test]
    fn tokens_in_any_order_never_panic(
        tokens in prop::collection::vec(
            prop_oneof![4 => 1u32..5, 1 => Just(9u32), 2 => 0u32..40, 1 => any::<u32>()],
            0..60,
        ),
        offsets in prop::array::uniform5(0u32..300),
        whole: bool,
    ) {
        let [structure, strings, reservations, strings_size, structure_size] = offsets;
        let len = 40 + 4 * tokens.len() as u32;
        let mut header = [0xd00d_feed, len, structure, strings, reservations, 17, 16, 0, 0, 0];
        (header[8], header[9]) = (strings_size, structure_size);
        if whole {
            // The header's zeros end the list, and every word is a token.
            (header[2], header[3], header[4]) = (40, 40, 28);
            (header[7], header[8], header[9]) = (0, 0, len - 40);
        }
        let words = header.iter().chain(&tokens);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
        if let Ok(tree) = Fdt::new(&bytes) {
            walk(&tree.root());
        }
    }
}

/// A tree of these words, and zeros behind them for its reservations.
fn of_words(words: &[u32]) -> Vec<u8> {
    let size = 4 * words.len() as u32;
    let header = [0xd00d_feed, 40 + size + 16, 40, 0, 40 + size, 17, 16, 0, 0, size];
    header.iter().chain(words).chain(&[0; 4]).flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn a_structure_block_has_its_size_and_its_order() {
    const BEGIN: [u32; 2] = [1, 0];
    const PROPERTY: [u32; 3] = [3, 0, 0];
    const CHILD: [u32; 3] = [1, u32::from_be_bytes(*b"a\0\0\0"), 2];
    let tree = |parts: &[&[u32]]| of_words(&parts.concat());
    assert!(Fdt::new(&tree(&[&BEGIN, &[2, 9]])).is_ok());
    assert!(Fdt::new(&tree(&[&BEGIN, &[4, 4], &CHILD, &[4, 2, 4, 9]])).is_ok());
    // No end; an end too many; nothing after the root; a token that isn't one.
    for parts in [&[2][..], &[2, 2, 9], &[2, 1, 0, 2, 9], &[5, 2, 9], &[9]] {
        assert!(Fdt::new(&tree(&[&BEGIN, parts])).is_err(), "{parts:?}");
    }
    // Properties come before children: behind one nobody would see them.
    let named = |bytes: Vec<u8>| {
        let mut bytes = bytes;
        // The strings block: one empty name, in the reservations' zeros.
        let at = bytes.len() as u32 - 4;
        bytes[12..16].copy_from_slice(&at.to_be_bytes());
        bytes[32..36].copy_from_slice(&4u32.to_be_bytes());
        bytes
    };
    assert!(Fdt::new(&named(tree(&[&BEGIN, &PROPERTY, &CHILD, &[2, 9]]))).is_ok());
    assert!(Fdt::new(&named(tree(&[&BEGIN, &CHILD, &PROPERTY, &[2, 9]]))).is_err());
    // A size that ends the block early.
    let mut short = tree(&[&BEGIN, &CHILD, &[2, 9]]);
    short[36..40].copy_from_slice(&8u32.to_be_bytes());
    assert!(Fdt::new(&short).is_err());
}
