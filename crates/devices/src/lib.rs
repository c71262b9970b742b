//! The devices that a device tree has, and where they are (Devicetree
//! Specification 0.4): buses are walked, addresses translated by `ranges`.
//!
//! * [`walk`] visits each device with its path.
//! * [`Device::registers`] says where it is, as the CPU sees it.
//! * [`stdout`] follows `/chosen/stdout-path`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fdt::{Fdt, Node};

/// Where a device's registers are, by physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A node, and what its parents say of it.
pub struct Device<'a> {
    /// Its properties.
    pub node: &'a Node<'a>,
    /// Its full path, such as `/soc/serial@9000000`.
    pub path: &'a str,
    bus: &'a Bus,
}

/// What stands on it is found here (Linux's of_default_bus_match_table).
const BUSES: [&str; 3] = ["simple-bus", "simple-mfd", "arm,amba-bus"];

/// How deep buses may nest.
const DEPTH: usize = 8;

/// A node that devices are children of.
#[derive(Clone)]
struct Bus {
    address_cells: usize,
    size_cells: usize,
    /// From its addresses to its parent's, and so on up to the CPU's.
    windows: Vec<Vec<Window>>,
}

/// An entry of `ranges`.
#[derive(Clone, Copy)]
struct Window {
    child: u64,
    parent: u64,
    len: u64,
}

/// Visits all devices: the root's children, and those of buses, which are devices
/// themselves. A bus without `ranges` has no addresses that the CPU could use.
pub fn walk(tree: &Fdt<'_>, visit: &mut dyn FnMut(&Device<'_>)) {
    let root = tree.root();
    let (address_cells, size_cells) = cell_counts(&root);
    visit_children(&root, "", &Bus { address_cells, size_cells, windows: Vec::new() }, visit);
}

fn visit_children(parent: &Node<'_>, path: &str, bus: &Bus, visit: &mut dyn FnMut(&Device<'_>)) {
    for node in parent.children() {
        let path = format!("{path}/{}", node.name());
        visit(&Device { node: &node, path: &path, bus });
        if bus.windows.len() < DEPTH
            && BUSES.iter().any(|name| is_compatible(&node, name))
            && is_enabled(&node)
            && let Some(inner) = bus.inner(&node)
        {
            visit_children(&node, &path, &inner, visit);
        }
    }
}

impl Bus {
    /// The bus that `node` makes for its children.
    fn inner(&self, node: &Node<'_>) -> Option<Bus> {
        let (address_cells, size_cells) = cell_counts(node);
        let ranges = node.property("ranges")?;
        let bytes = ranges.value();
        let lens = [address_cells, self.address_cells, size_cells];
        let stride = lens.iter().fold(0usize, |sum, len| sum.saturating_add(*len)).max(1);
        let count = (bytes.len() / 4).checked_div(stride)?;
        let windows = (0..count).filter_map(|nth| {
            let at = nth.checked_mul(stride)?;
            let [a, b, c] = lens;
            Some(Window {
                child: cells(bytes, at, a)?,
                parent: cells(bytes, at.checked_add(a)?, b)?,
                len: cells(bytes, at.checked_add(a)?.checked_add(b)?, c)?,
            })
        });
        let mut all = self.windows.clone();
        // Empty: the same addresses as its parent.
        all.push(if bytes.is_empty() { alloc::vec![WHOLE] } else { windows.collect() });
        Some(Bus { address_cells, size_cells, windows: all })
    }

    /// As the CPU sees it.
    fn translate(&self, registers: Registers) -> Option<Registers> {
        self.windows.iter().rev().try_fold(registers, |at, windows| {
            windows.iter().find_map(|window| window.translate(at))
        })
    }
}

const WHOLE: Window = Window { child: 0, parent: 0, len: u64::MAX };

impl Window {
    fn translate(&self, at: Registers) -> Option<Registers> {
        let offset = at.base.checked_sub(self.child)?;
        let fits = offset.checked_add(at.len)? <= self.len && offset < self.len;
        let base = self.parent.checked_add(offset)?;
        fits.then_some(Registers { base, ..at })
    }
}

impl Device<'_> {
    /// `reg`, by the CPU's addresses. What can't be reached is left out.
    pub fn registers(&self) -> Vec<Registers> {
        let counts = (self.bus.address_cells, self.bus.size_cells);
        let all = reg(self.node, counts).into_iter();
        all.filter_map(|registers| self.bus.translate(registers)).collect()
    }

    /// Whether `compatible` has this name.
    pub fn is_compatible(&self, name: &str) -> bool {
        is_compatible(self.node, name)
    }

    /// Whether `status` doesn't say otherwise.
    pub fn is_enabled(&self) -> bool {
        is_enabled(self.node)
    }
}

/// The path that `/chosen/stdout-path` names: an alias resolved, options cut off.
pub fn stdout(tree: &Fdt<'_>) -> Option<String> {
    let root = tree.root();
    let path = text(&root.child("chosen")?, "stdout-path")?;
    let path = path.split(':').next()?;
    if path.starts_with('/') {
        return Some(path.to_string());
    }
    text(&root.child("aliases")?, path)
}

/// `#address-cells` and `#size-cells`, for a node's children.
pub fn cell_counts(node: &Node<'_>) -> (usize, usize) {
    let count = |name, default| cell(node, name).map_or(default, |value| value as usize);
    (count("#address-cells", 2), count("#size-cells", 1))
}

/// `reg`, by its parent's addresses and [`cell_counts`].
pub fn reg(node: &Node<'_>, (address_cells, size_cells): (usize, usize)) -> Vec<Registers> {
    let Some(property) = node.property("reg") else { return Vec::new() };
    let bytes = property.value();
    let stride = address_cells.saturating_add(size_cells).max(1);
    let count = (bytes.len() / 4).checked_div(stride).unwrap_or(0);
    (0..count)
        .filter_map(|nth| {
            let at = nth.checked_mul(stride)?;
            let base = cells(bytes, at, address_cells)?;
            let len = cells(bytes, at.checked_add(address_cells)?, size_cells)?;
            Some(Registers { base, len })
        })
        .collect()
}

/// A number of so many cells, at cell `at`. More than two hold no number that
/// means an address here.
pub fn cells(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    if count > 2 {
        return None;
    }
    let start = at.checked_mul(4)?;
    let end = start.checked_add(count.checked_mul(4)?)?;
    let bytes = bytes.get(start..end)?;
    Some(bytes.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte)))
}

/// A property of one cell.
pub fn cell(node: &Node<'_>, name: &str) -> Option<u64> {
    cells(node.property(name)?.value(), 0, 1)
}

/// A property that is a string.
pub fn text(node: &Node<'_>, name: &str) -> Option<String> {
    let property = node.property(name)?;
    let value = property.value();
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(value.get(..end)?).to_string())
}

/// Whether `compatible` has this name.
pub fn is_compatible(node: &Node<'_>, with: &str) -> bool {
    node.property("compatible").is_some_and(|property| {
        property.value().split(|&byte| byte == 0).any(|name| name == with.as_bytes())
    })
}

/// Whether `status` doesn't say otherwise.
pub fn is_enabled(node: &Node<'_>) -> bool {
    text(node, "status").is_none_or(|status| status == "okay" || status == "ok")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Writer;
    use proptest::prelude::*;

    fn tree(inside: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.node("", inside);
        writer.finish().unwrap()
    }

    /// Paths and registers of what is compatible with "x".
    fn found(bytes: &[u8]) -> Vec<(String, Vec<(u64, u64)>)> {
        let mut all = Vec::new();
        walk(&Fdt::new(bytes).unwrap(), &mut |device| {
            if device.is_compatible("x") {
                let at = device.registers().iter().map(|r| (r.base, r.len)).collect();
                all.push((device.path.to_string(), at));
            }
        });
        all
    }

    fn x(w: &mut Writer, name: &str, reg: &[u32]) {
        w.node(name, |w| {
            w.texts("compatible", &["y", "x"]);
            w.cells("reg", reg);
        });
    }

    fn bus(
        w: &mut Writer,
        name: &str,
        cells: [u32; 2],
        ranges: &[u32],
        inside: impl FnOnce(&mut Writer),
    ) {
        w.node(name, |w| {
            w.texts("compatible", &["acme,soc", "simple-bus"]);
            w.cells("#address-cells", &cells[..1]);
            w.cells("#size-cells", &cells[1..]);
            w.cells("ranges", ranges);
            inside(w);
        });
    }

    #[test]
    fn at_the_root() {
        let bytes = tree(|w| {
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            x(w, "a@1", &[1, 2, 0, 0x1000, 0, 5, 0, 6]);
            w.node("b", |w| x(w, "not-on-a-bus", &[0; 4]));
        });
        assert_eq!(found(&bytes), [("/a@1".into(), [(0x1_0000_0002, 0x1000), (5, 6)].into())]);
    }

    #[test]
    fn on_buses() {
        let bytes = tree(|w| {
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            // Two windows, the second high up.
            let ranges = [0, 0, 0x8000_0000, 0x1000_0000, 0x4000_0000, 8, 0, 0x10_0000];
            bus(w, "soc@0", [1, 1], &ranges, |w| {
                x(w, "a@1000", &[0x1000, 0x100]);
                x(w, "b", &[0x4000_0010, 0x10, 0x7000_0000, 0x10]);
                // It begins inside and ends outside.
                x(w, "c", &[0x0fff_ffff, 0x10]);
                // Another one in it: base 0 is its parent's 0x2000.
                bus(w, "apb", [1, 1], &[0, 0x2000, 0x1000], |w| x(w, "d@10", &[0x10, 4]));
                // The same addresses.
                bus(w, "mfd", [1, 1], &[], |w| x(w, "e", &[0x3000, 4]));
            });
            // Nothing says where its children are.
            w.node("i2c", |w| {
                w.text("compatible", "simple-bus");
                x(w, "f", &[0x50, 0, 1]);
            });
            bus(w, "off", [1, 1], &[], |w| {
                w.text("status", "disabled");
                x(w, "g", &[0x50, 1]);
            });
        });
        let want: [(String, Vec<(u64, u64)>); 5] = [
            ("/soc@0/a@1000".into(), [(0x8000_1000, 0x100)].into()),
            ("/soc@0/b".into(), [(0x8_0000_0010, 0x10)].into()),
            ("/soc@0/c".into(), [].into()),
            ("/soc@0/apb/d@10".into(), [(0x8000_2010, 4)].into()),
            ("/soc@0/mfd/e".into(), [(0x8000_3000, 4)].into()),
        ];
        assert_eq!(found(&bytes), want);
    }

    #[test]
    fn nests_only_so_deep() {
        fn nest(w: &mut Writer, left: u32) {
            x(w, "x", &[1, 1]);
            if left > 0 {
                bus(w, "bus", [1, 1], &[], |w| nest(w, left - 1));
            }
        }
        let bytes = tree(|w| {
            w.cells("#address-cells", &[1]);
            w.cells("#size-cells", &[1]);
            nest(w, 20);
        });
        assert_eq!(found(&bytes).len(), DEPTH + 1);
    }

    #[test]
    fn stdout_paths() {
        let with = |path: &str| {
            let bytes = tree(|w| {
                w.node("chosen", |w| w.text("stdout-path", path));
                w.node("aliases", |w| w.text("serial0", "/soc/serial@1000"));
            });
            stdout(&Fdt::new(&bytes).unwrap())
        };
        assert_eq!(with("/soc/serial@9:115200n8").as_deref(), Some("/soc/serial@9"));
        assert_eq!(with("serial0:115200").as_deref(), Some("/soc/serial@1000"));
        assert_eq!(with("serial1"), None);
    }

    proptest! {
        #[test]
        fn any_ranges_are_survived(
            cells: [u32; 4],
            ranges in prop::collection::vec(any::<u32>(), 0..12),
            reg in prop::collection::vec(any::<u32>(), 0..8),
            small: bool,
        ) {
            let [a, b, c, d] = if small { cells.map(|count| count % 4) } else { cells };
            let bytes = tree(|w| {
                w.cells("#address-cells", &[a]);
                w.cells("#size-cells", &[b]);
                bus(w, "soc", [c, d], &ranges, |w| x(w, "x", &reg));
            });
            let _ = found(&bytes);
        }
    }
}
