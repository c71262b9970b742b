//! Properties of device-tree nodes.

use alloc::string::{String, ToString};
use fdt::{Node, Property};

/// `count` 32-bit cells from cell `at` on, as one number; the upper cells of
/// more than two must be zero.
pub fn cells(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let start = at.checked_mul(4)?;
    let end = start.checked_add(count.checked_mul(4)?)?;
    let bytes = bytes.get(start..end)?;
    let (high, low) = bytes.split_at(bytes.len().saturating_sub(8));
    if high.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(low.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
}

/// A property of exactly one cell.
pub fn one_cell(property: &Property<'_>) -> Option<u32> {
    let bytes: [u8; 4] = property.value().try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

/// A property that is one string, with its NUL.
pub fn text(property: &Property<'_>) -> Option<String> {
    let (last, text) = property.value().split_last()?;
    if *last != 0 || text.contains(&0) {
        return None;
    }
    core::str::from_utf8(text).ok().map(ToString::to_string)
}

/// Whether `compatible` names it.
pub fn compatible(node: &Node<'_>, with: &str) -> bool {
    node.property("compatible").is_some_and(|property| {
        property.value().split(|byte| *byte == 0).any(|name| name == with.as_bytes())
    })
}

/// `#address-cells` and `#size-cells`, with the specification's defaults (2, 1).
/// None if they are malformed or more than four.
pub fn cell_counts(node: &Node<'_>) -> Option<(usize, usize)> {
    let count = |name, default| match node.property(name) {
        Some(property) => one_cell(&property).filter(|n| *n <= 4).map(|n| n as usize),
        None => Some(default),
    };
    Some((count("#address-cells", 2)?, count("#size-cells", 1)?))
}
