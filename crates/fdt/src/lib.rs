//! Reads a flattened device tree (Devicetree Specification 0.4, chapter 5) where it
//! lies. It needs no heap.
//!
//! [`Fdt::new`] looks at all of it once; what it takes can be walked from
//! [`Fdt::root`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::unwrap_used))]

#[cfg(test)]
extern crate std;

#[cfg(test)]
mod tests;

const MAGIC: u32 = 0xd00d_feed;
/// The version that all tools write: 5.2.
const VERSION: u32 = 17;

// Where the header's words are, in bytes (5.2).
const TOTAL_SIZE: usize = 4;
const OFF_STRUCT: usize = 8;
const OFF_STRINGS: usize = 12;
const OFF_RESERVATIONS: usize = 16;
const THIS_VERSION: usize = 20;
const LAST_COMPATIBLE: usize = 24;
const SIZE_STRINGS: usize = 32;
const SIZE_STRUCT: usize = 36;

// Tokens of the structure block (5.4.1).
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// These bytes are no device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A device tree.
#[derive(Clone, Copy, Debug)]
pub struct Fdt<'a> {
    data: &'a [u8],
    blocks: Blocks<'a>,
    /// Of the root, behind its name.
    root: usize,
}

/// What nodes are made of.
#[derive(Clone, Copy, Debug)]
struct Blocks<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// A node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    blocks: Blocks<'a>,
    name: &'a str,
    /// Where in the structure block its properties begin.
    inside: usize,
}

/// A property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    name: &'a str,
    value: &'a [u8],
}

enum Token<'a> {
    Begin(&'a str),
    End,
    Property(Property<'a>),
    TreeEnd,
}

/// How many bytes the tree has that begins with these eight, if one does.
pub fn total_size(start: &[u8]) -> Option<usize> {
    let size = word(start, TOTAL_SIZE).filter(|_| word(start, 0) == Some(MAGIC))?;
    usize::try_from(size).ok()
}

impl<'a> Fdt<'a> {
    /// Looks at a tree that takes all of `data`.
    pub fn new(data: &'a [u8]) -> Result<Fdt<'a>, Malformed> {
        Self::read(data).ok_or(Malformed)
    }

    fn read(data: &'a [u8]) -> Option<Fdt<'a>> {
        let compatible = word(data, LAST_COMPATIBLE)?..=word(data, THIS_VERSION)?;
        if total_size(data)? != data.len() || !compatible.contains(&VERSION) {
            return None;
        }
        let block = |offset, size| {
            let start = number(data, offset)?;
            data.get(start..start.checked_add(number(data, size)?)?)
        };
        let structure = block(OFF_STRUCT, SIZE_STRUCT)?;
        let blocks = Blocks { structure, strings: block(OFF_STRINGS, SIZE_STRINGS)? };
        let (Token::Begin(""), root) = blocks.token(0)? else { return None };
        let end = blocks.behind(root)?;
        let (Token::TreeEnd, _) = blocks.token(end)? else { return None };
        let tree = Fdt { data, blocks, root };
        // The list has an end.
        let mut at = number(data, OFF_RESERVATIONS)?;
        while tree.reservation(at)? != (0, 0) {
            at = at.checked_add(16)?;
        }
        Some(tree)
    }

    /// All of its bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The node `/`.
    pub fn root(&self) -> Node<'a> {
        Node { blocks: self.blocks, name: "", inside: self.root }
    }

    /// The node at an absolute path. A name without its unit address will do.
    pub fn find_node(&self, path: &str) -> Option<Node<'a>> {
        let names = path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty());
        let mut names = names;
        names.try_fold(self.root(), |node, name| node.child(name))
    }

    /// Memory that is in use already: address and size.
    pub fn memory_reservations(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let tree = *self;
        let start = number(tree.data, OFF_RESERVATIONS).unwrap_or(usize::MAX);
        let all = (start..).step_by(16).map_while(move |at| tree.reservation(at));
        all.take_while(|reservation| *reservation != (0, 0))
    }

    fn reservation(&self, at: usize) -> Option<(u64, u64)> {
        let wide = |at: usize| {
            let low = word(self.data, at.checked_add(4)?)?;
            Some(u64::from(word(self.data, at)?) << 32 | u64::from(low))
        };
        Some((wide(at)?, wide(at.checked_add(8)?)?))
    }
}

impl<'a> Blocks<'a> {
    /// The token at `at` that means something, and where the next one is.
    fn token(&self, mut at: usize) -> Option<(Token<'a>, usize)> {
        loop {
            let token = word(self.structure, at)?;
            at = at.checked_add(4)?;
            match token {
                BEGIN_NODE => {
                    let name = string(self.structure, at)?;
                    let end = at.checked_add(name.len())?.checked_add(1)?;
                    return Some((Token::Begin(name), end.checked_next_multiple_of(4)?));
                }
                END_NODE => return Some((Token::End, at)),
                PROP => {
                    let name = number(self.structure, at.checked_add(4)?)?;
                    let start = at.checked_add(8)?;
                    let end = start.checked_add(number(self.structure, at)?)?;
                    let name = string(self.strings, name)?;
                    let property = Property { name, value: self.structure.get(start..end)? };
                    return Some((Token::Property(property), end.checked_next_multiple_of(4)?));
                }
                NOP => {}
                END => return Some((Token::TreeEnd, at)),
                _ => return None,
            }
        }
    }

    /// Behind the end of the node whose inside is at `at`. Properties come before children
    /// (the specification's 5.4.2): behind one nobody would see them.
    fn behind(&self, mut at: usize) -> Option<usize> {
        let mut depth = 1usize;
        let mut after_child = false;
        while depth > 0 {
            let (token, next) = self.token(at)?;
            match token {
                Token::Begin(_) => depth = depth.checked_add(1)?,
                Token::End => depth = depth.checked_sub(1)?,
                Token::Property(_) if after_child => return None,
                Token::Property(_) => {}
                Token::TreeEnd => return None,
            }
            after_child = matches!(token, Token::End);
            at = next;
        }
        Some(at)
    }
}

impl<'a> Node<'a> {
    /// Its name, with the unit address: empty for the root.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its properties, which come before its children.
    pub fn properties(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let (blocks, mut at) = (self.blocks, self.inside);
        core::iter::from_fn(move || match blocks.token(at)? {
            (Token::Property(property), next) => {
                at = next;
                Some(property)
            }
            _ => None,
        })
    }

    /// The property of that name.
    pub fn property(&self, name: &str) -> Option<Property<'a>> {
        self.properties().find(|property| property.name == name)
    }

    /// Its children.
    pub fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let (blocks, mut at) = (self.blocks, self.inside);
        core::iter::from_fn(move || {
            loop {
                let (token, next) = blocks.token(at)?;
                match token {
                    Token::Property(_) => at = next,
                    Token::Begin(name) => {
                        at = blocks.behind(next)?;
                        return Some(Node { blocks, name, inside: next });
                    }
                    Token::End | Token::TreeEnd => return None,
                }
            }
        })
    }

    /// The first child of that name, which may go without its unit address.
    pub fn child(&self, name: &str) -> Option<Node<'a>> {
        self.children().find(|child| match child.name.split_once('@') {
            Some((start, _)) if !name.contains('@') => start == name,
            _ => child.name == name,
        })
    }
}

impl<'a> Property<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its value, as it is.
    pub fn value(&self) -> &'a [u8] {
        self.value
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

/// The string that ends with the first NUL from `at` on.
fn string(bytes: &[u8], at: usize) -> Option<&str> {
    let bytes = bytes.get(at..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(bytes.get(..end)?).ok()
}
