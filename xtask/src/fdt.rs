//! Flattened device trees: QEMU's, taken apart, changed and put together again.

use anyhow::{Context, Result, bail};
use vm_fdt::FdtWriter;

/// A node, by value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

impl Node {
    pub fn new(name: impl Into<String>) -> Node {
        Node { name: name.into(), ..Node::default() }
    }

    pub fn bytes(mut self, name: &str, value: impl Into<Vec<u8>>) -> Node {
        self.set(name, value.into());
        self
    }

    /// A property of this value, and no other of this name.
    pub fn set(&mut self, name: &str, value: Vec<u8>) {
        self.properties.retain(|(other, _)| other != name);
        self.properties.push((name.into(), value));
    }

    pub fn flag(self, name: &str) -> Node {
        self.bytes(name, [])
    }

    pub fn text(self, name: &str, value: &str) -> Node {
        self.texts(name, &[value])
    }

    pub fn texts(self, name: &str, values: &[&str]) -> Node {
        let all = values.iter().flat_map(|v| v.bytes().chain([0])).collect::<Vec<u8>>();
        self.bytes(name, all)
    }

    pub fn cells(self, name: &str, values: &[u32]) -> Node {
        let all = values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
        self.bytes(name, all)
    }

    /// Numbers of two cells each.
    pub fn wide(self, name: &str, values: &[u64]) -> Node {
        let all = values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
        self.bytes(name, all)
    }

    pub fn child(mut self, child: Node) -> Node {
        self.children.push(child);
        self
    }

    pub fn find(&mut self, name: &str) -> Option<&mut Node> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    /// Reads a tree.
    pub fn parse(tree: &[u8]) -> Result<Node> {
        if word(tree, 0)? != 0xd00d_feed {
            bail!("no device tree");
        }
        let strings = word(tree, 12)? as usize;
        let mut at = word(tree, 8)? as usize;
        let mut open: Vec<Node> = Vec::new();
        loop {
            let token = word(tree, at)?;
            at += 4;
            match token {
                BEGIN_NODE => {
                    let name = text(tree, at)?;
                    at += (name.len() + 1).next_multiple_of(4);
                    open.push(Node::new(name));
                }
                PROP => {
                    let (len, name) = (word(tree, at)? as usize, word(tree, at + 4)? as usize);
                    let value = tree.get(at + 8..at + 8 + len).context("a cut device tree")?;
                    let node = open.last_mut().context("a property outside of nodes")?;
                    node.properties.push((text(tree, strings + name)?, value.to_vec()));
                    at += 8 + len.next_multiple_of(4);
                }
                END_NODE => {
                    let node = open.pop().context("a node that ends twice")?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(node),
                        None => return Ok(node),
                    }
                }
                NOP => {}
                other => bail!("a device tree with the token {other}"),
            }
        }
    }

    /// Writes it.
    pub fn write(&self) -> Result<Vec<u8>> {
        let mut writer = FdtWriter::new().map_err(failed)?;
        self.put(&mut writer).map_err(failed)?;
        writer.finish().map_err(failed)
    }

    fn put(&self, writer: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = writer.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            writer.property(name, value)?;
        }
        for child in &self.children {
            child.put(writer)?;
        }
        writer.end_node(node)
    }
}

fn failed(error: vm_fdt::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot write a device tree: {error}")
}

fn word(tree: &[u8], at: usize) -> Result<u32> {
    let bytes = tree.get(at..at + 4).context("a cut device tree")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}

fn text(tree: &[u8], at: usize) -> Result<String> {
    let rest = tree.get(at..).context("a cut device tree")?;
    let end = rest.iter().position(|b| *b == 0).context("a name without end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn there_and_back() {
        let tree = Node::new("")
            .cells("#address-cells", &[2])
            .child(Node::new("chosen").text("bootargs", "quiet").flag("empty"))
            .child(Node::new("memory@40000000").wide("reg", &[1 << 30, 4096]).bytes("odd", [1]));
        assert_eq!(Node::parse(&tree.write().unwrap()).unwrap(), tree);
        assert!(Node::parse(b"junk").is_err());
    }
}
