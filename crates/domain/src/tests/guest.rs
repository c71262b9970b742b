//! The guest's tree, read back by another crate.

use super::domain;
use crate::nodes::cells;
use crate::tree::{Guest, build};
use crate::{Domain, Region, SharedMemory, Writer, layout};
use alloc::vec::Vec;
use fdt::{Fdt, Node};
use proptest::prelude::*;

const MEMORY: &[Region] = &[Region::new(0x4000_0000, 64 << 20)];

fn guest(domain: &Domain) -> Guest<'_> {
    Guest {
        domain,
        memory: MEMORY,
        v3: true,
        ramdisk: Some(Region::new(0x4200_0000, 0x1234)),
        passthrough: None,
        rng_seed: &[7; 32],
        kaslr_seed: 9,
    }
}

fn value(node: &Node<'_>, name: &str) -> Vec<u8> {
    node.property(name).map(|p| p.value().to_vec()).unwrap_or_default()
}

fn wide(node: &Node<'_>, name: &str) -> Vec<u64> {
    value(node, name).chunks(8).map(|c| cells(c, 0, 2).unwrap()).collect()
}

fn words(node: &Node<'_>, name: &str) -> Vec<u64> {
    value(node, name).chunks(4).map(|c| cells(c, 0, 1).unwrap()).collect()
}

#[test]
fn describes_the_machine() {
    let domain = Domain { cpus: 18, ..domain("domU1") };
    let bytes = build(&guest(&domain)).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    let root = tree.root();
    let gic = tree.find_node("/interrupt-controller@3000000").unwrap();
    assert_eq!(value(&gic, "compatible"), b"arm,gic-v3\0");
    assert_eq!(wide(&gic, "reg"), [0x300_0000, 0x1_0000, 0x302_0000, 18 * 0x2_0000]);
    assert_eq!(words(&root, "interrupt-parent"), words(&gic, "phandle"));
    let cpus: Vec<_> = tree.find_node("/cpus").unwrap().children().collect();
    assert_eq!(cpus.len(), 18);
    assert_eq!(words(&cpus[17], "reg"), [0x101]);
    assert!(cpus.iter().all(|cpu| value(cpu, "enable-method") == b"psci\0"));
    assert_eq!(value(&tree.find_node("/psci").unwrap(), "method"), b"hvc\0");
    let chosen = tree.find_node("/chosen").unwrap();
    assert_eq!(value(&chosen, "bootargs"), b"console=ttyAMA0\0");
    assert_eq!(value(&chosen, "stdout-path"), b"/pl011@22000000\0");
    assert_eq!(wide(&chosen, "linux,initrd-start"), [0x4200_0000]);
    assert_eq!(wide(&chosen, "linux,initrd-end"), [0x4200_1234]);
    assert_eq!(value(&chosen, "rng-seed"), [7; 32]);
    assert_eq!(wide(&chosen, "kaslr-seed"), [9]);
    let memory = tree.find_node("/memory@40000000").unwrap();
    assert_eq!(wide(&memory, "reg"), [0x4000_0000, 64 << 20]);
    let timer = tree.find_node("/timer").unwrap();
    assert_eq!(words(&timer, "interrupts"), [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
    let uart = tree.find_node("/pl011@22000000").unwrap();
    assert_eq!(value(&uart, "compatible"), b"arm,pl011\0arm,primecell\0");
    assert_eq!(wide(&uart, "reg"), [layout::PL011.start, layout::PL011.size]);
    assert_eq!(words(&uart, "interrupts"), [0, 0, 4]);
    let clock = tree.find_node("/uart-clock").unwrap();
    assert!(words(&uart, "clocks").iter().all(|c| [*c] == words(&clock, "phandle")[..]));
}

#[test]
fn a_watchdog_if_it_is_asked_for() {
    let node = |domain: &Domain| {
        let bytes = build(&guest(domain)).unwrap();
        let tree = Fdt::new(&bytes).unwrap();
        let node = tree.find_node("/watchdog");
        node.map(|node| (value(&node, "compatible"), words(&node, "timeout-sec")))
    };
    assert_eq!(node(&domain("domU1")), None);
    let asks = Domain { watchdog: Some(30), ..domain("domU1") };
    assert_eq!(node(&asks), Some((b"arm,smc-wdt\0".to_vec(), vec![30])));
}

#[test]
fn a_gicv2_and_no_console() {
    let domain = Domain { cpus: 3, console: false, ..domain("domU1") };
    let bytes = build(&Guest { v3: false, ramdisk: None, ..guest(&domain) }).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    let gic = tree.find_node("/interrupt-controller@3001000").unwrap();
    assert_eq!(value(&gic, "compatible"), b"arm,gic-400\0");
    assert_eq!(wide(&gic, "reg"), [0x300_1000, 0x1000, 0x300_2000, 0x2000]);
    assert_eq!(words(&tree.find_node("/timer").unwrap(), "interrupts")[2], 0x704);
    assert!(tree.find_node("/pl011@22000000").is_none());
    let chosen = tree.find_node("/chosen").unwrap();
    assert!(chosen.property("stdout-path").is_none());
    assert!(chosen.property("linux,initrd-start").is_none());
}

#[test]
fn shared_memory_is_reserved() {
    let mut domain = domain("domU1");
    domain.shared_memory.push(SharedMemory {
        id: "shm-0".into(),
        host: None,
        guest: 0x1_0000_0000,
        size: 0x2000,
        owner: false,
    });
    let bytes = build(&guest(&domain)).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    let node = tree.find_node("/reserved-memory/xen-shmem@100000000").unwrap();
    assert_eq!(value(&node, "compatible"), b"xen,shared-memory-v1\0");
    assert_eq!(wide(&node, "reg"), [0x1_0000_0000, 0x2000]);
    assert_eq!(value(&node, "xen,id"), b"shm-0\0");
}

#[test]
fn what_cannot_be_written() {
    let long = Domain { bootargs: "x".repeat(3 << 20), ..domain("domU1") };
    assert!(build(&guest(&long)).unwrap_err().what.contains("2 MiB"));
    let nul = Domain { bootargs: "a\0b".into(), ..domain("domU1") };
    assert_eq!(build(&guest(&nul)).unwrap_err().property.as_deref(), Some("bootargs"));
}

/// As many as there is room for in a partial tree. To look at all earlier ones for each took
/// minutes.
#[test]
fn many_names_take_no_time() {
    let begin = std::time::Instant::now();
    let mut w = Writer::default();
    w.node("", |w| (0..80_000).for_each(|n| w.flag(&std::format!("name-{n}"))));
    let bytes = w.finish().unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    assert_eq!(tree.root().properties().last().unwrap().name(), "name-79999");
    // One by one it would be minutes.
    assert!(begin.elapsed().as_secs() < 10);
}

proptest! {
    #[test]
    fn every_guest_has_a_valid_tree(
        cpus in 1u32..=128, console in any::<bool>(), v3 in any::<bool>(),
        bootargs in "[ -~]{0,200}", seed in proptest::collection::vec(any::<u8>(), 0..80),
        size in 1u64..(8 << 30),
    ) {
        let domain = Domain { cpus, console, bootargs, ..domain("domU1") };
        let memory = layout::banks(size & !0xfff);
        let guest = Guest { memory: &memory, v3, rng_seed: &seed, ..guest(&domain) };
        let bytes = build(&guest).unwrap();
        let tree = Fdt::new(&bytes).unwrap();
        prop_assert_eq!(tree.find_node("/cpus").unwrap().children().count(), cpus as usize);
        let total: u64 = tree.root().children()
            .filter(|node| node.name().starts_with("memory@"))
            .map(|node| wide(&node, "reg")[1])
            .sum();
        prop_assert_eq!(total, size & !0xfff);
    }
}
