//! Writes flattened device trees (Devicetree Specification 0.4, chapter 5).
//!
//! vm-fdt would do, but without `std` it brings a hash table along that is ten
//! times as large. The tests compare the two.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;
const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
/// The header, and the empty list of reservations behind it.
const STRUCTURE_AT: usize = 40 + 16;

/// A tree in the making. Nodes are closed by whoever opens them
/// ([`Writer::node`] takes a closure), so no order of calls is wrong.
#[derive(Debug, Default)]
pub struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    /// Where each name is in `strings`.
    names: BTreeMap<Vec<u8>, u32>,
}

impl Writer {
    /// A node and what is in it; properties come before nodes.
    pub fn node<R>(&mut self, name: &str, inside: impl FnOnce(&mut Writer) -> R) -> R {
        self.begin(name);
        let result = inside(self);
        self.word(END_NODE);
        result
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.bytes(name.as_bytes());
        self.structure.push(0);
        self.align();
    }

    /// A property of any value.
    pub fn property(&mut self, name: &str, value: &[u8]) {
        let at = self.string(name);
        self.word(PROP);
        self.word(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.word(at);
        self.bytes(value);
        self.align();
    }

    /// An empty property.
    pub fn flag(&mut self, name: &str) {
        self.property(name, &[]);
    }

    /// A string.
    pub fn text(&mut self, name: &str, value: &str) {
        self.texts(name, &[value]);
    }

    /// A list of strings.
    pub fn texts(&mut self, name: &str, values: &[&str]) {
        let mut all = Vec::new();
        for value in values {
            all.extend_from_slice(value.as_bytes());
            all.push(0);
        }
        self.property(name, &all);
    }

    /// One cell, or more.
    pub fn cells(&mut self, name: &str, values: &[u32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    /// Numbers of two cells each.
    pub fn wide(&mut self, name: &str, values: &[u64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    /// The whole tree. None if it is larger than a header can say.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.word(END);
        let structure = u32::try_from(self.structure.len()).ok()?;
        let strings = u32::try_from(self.strings.len()).ok()?;
        let start = STRUCTURE_AT as u32;
        let strings_at = start.checked_add(structure)?;
        let total = strings_at.checked_add(strings)?;
        let header = [
            MAGIC,
            total,
            start,
            strings_at,
            40,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            0,
            strings,
            structure,
        ];
        let mut tree = Vec::with_capacity(total as usize);
        tree.extend(header.iter().flat_map(|word| word.to_be_bytes()));
        // No reservations.
        tree.extend_from_slice(&[0; 16]);
        tree.append(&mut self.structure);
        tree.append(&mut self.strings);
        Some(tree)
    }

    /// Where a property's name is in the block of strings.
    fn string(&mut self, name: &str) -> u32 {
        if let Some(at) = self.names.get(name.as_bytes()) {
            return *at;
        }
        let at = u32::try_from(self.strings.len()).unwrap_or(u32::MAX);
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        self.names.insert(name.as_bytes().to_vec(), at);
        at
    }

    fn word(&mut self, word: u32) {
        self.bytes(&word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend_from_slice(bytes);
    }

    fn align(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_fdt::FdtWriter;

    #[test]
    fn writes_what_vm_fdt_writes() {
        let mut ours = Writer::default();
        ours.node("", |w| {
            w.cells("#address-cells", &[2]);
            w.texts("compatible", &["a,b", "c"]);
            w.node("chosen", |w| {
                w.text("bootargs", "quiet");
                w.flag("empty");
            });
            w.node("memory@40000000", |w| {
                w.wide("reg", &[0x4000_0000, 0x1000]);
                w.texts("compatible", &["x"]);
                w.property("bytes", &[1, 2, 3]);
            });
        });
        let mut theirs = FdtWriter::new().unwrap();
        let root = theirs.begin_node("").unwrap();
        theirs.property_u32("#address-cells", 2).unwrap();
        theirs.property_string_list("compatible", vec!["a,b".into(), "c".into()]).unwrap();
        let node = theirs.begin_node("chosen").unwrap();
        theirs.property_string("bootargs", "quiet").unwrap();
        theirs.property_null("empty").unwrap();
        theirs.end_node(node).unwrap();
        let node = theirs.begin_node("memory@40000000").unwrap();
        theirs.property_array_u64("reg", &[0x4000_0000, 0x1000]).unwrap();
        theirs.property_string("compatible", "x").unwrap();
        theirs.property("bytes", &[1, 2, 3]).unwrap();
        theirs.end_node(node).unwrap();
        theirs.end_node(root).unwrap();
        assert_eq!(ours.finish().unwrap(), theirs.finish().unwrap());
    }
}
