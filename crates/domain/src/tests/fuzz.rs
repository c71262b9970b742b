//! Trees that nobody meant to write.

use super::{domain, domain_node, machine, set_aside};
use crate::claims::{Claim, Machine, check};
use crate::{Region, Writer, cpus, layout, passthrough, present, read};
use alloc::string::String;
use alloc::vec::Vec;
use fdt::Fdt;
use proptest::prelude::*;

/// Everything that is done with a tree.
fn everything(bytes: &[u8], partial: &[u8]) {
    let Ok(tree) = Fdt::new(bytes) else { return };
    present(&tree);
    let found = read(&tree);
    let mut devices = Vec::new();
    for domain in &found.domains {
        let fragment = passthrough::fragment(domain, partial);
        devices.push(fragment.ok().and_then(|f| passthrough::read(domain, &f, &tree).ok()));
        layout::static_banks(domain);
    }
    cpus::assign(&found.domains, &[true, false, true, true]);
    let claims: Vec<Claim<'_>> = found
        .domains
        .iter()
        .zip(&devices)
        .map(|(domain, p)| Claim { domain, passthrough: p.as_ref() })
        .collect();
    let ram = [Region::new(0x4000_0000, 1 << 30)];
    let machine = Machine {
        ram: &ram,
        all_ram: &ram,
        reserved: &[],
        set_aside: &[],
        taken: &[],
        interrupts: &[],
        lines: 64,
        v3: true,
        address_bits: 40,
    };
    let set_aside = set_aside(&found.domains, &machine);
    check(&claims, &Machine { set_aside: &set_aside, ..machine });
}

fn sample() -> Vec<u8> {
    machine(|w| {
        domain_node(w, "domU1", |w| {
            w.flag("vpl011");
            w.wide("xen,static-mem", &[0x6000_0000, 64 << 20]);
            w.text("hypha,placement", "exclusive");
            w.node("shm", |w| {
                w.text("compatible", "xen,domain-shared-memory-v1");
                w.text("xen,shm-id", "a");
                w.cells("xen,shared-mem", &[0, 0x5000_0000, 0, 0x6000_0000, 0x1000]);
            });
            w.node("module@2", |w| {
                w.texts("compatible", &["multiboot,device-tree", "multiboot,module"]);
                w.cells("reg", &[0, 0x4900_0000, 0x1000]);
            });
        });
        domain_node(w, "domU2", |w| w.cells("hypha,cpus", &[1]));
    })
}

fn sample_partial() -> Vec<u8> {
    let mut w = Writer::default();
    w.node("", |w| {
        w.node("gic", |w| w.cells("phandle", &[1]));
        w.node("passthrough", |w| {
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            w.node("virtio@a000000", |w| {
                w.wide("xen,reg", &[0xa00_0000, 0x1000, 0xa00_0000]);
                w.text("xen,path", "/virtio_mmio@a000000");
                w.cells("interrupts", &[0, 16, 1]);
                w.flag("xen,force-assign-without-iommu");
            });
        });
    });
    w.finish().unwrap()
}

fn mutated(mut bytes: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        let at = at % bytes.len();
        bytes[at] = *value;
    }
    bytes
}

/// Values of a property or two that a malicious builder would try.
fn odd_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), Just(1)], 0..40),
        proptest::collection::vec(any::<u32>(), 0..10)
            .prop_map(|words| words.iter().flat_map(|w| w.to_be_bytes()).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_trees_never_panic(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8),
        partial in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
    ) {
        everything(&mutated(sample(), &changes), &mutated(sample_partial(), &partial));
    }

    #[test]
    fn odd_properties_never_panic(
        list in proptest::collection::vec(
            ("(cpus|memory|vpl011|nr_spis|xen,static-mem|hypha,cpus|#address-cells|#size-cells|reg|[a-z]{1,4})",
             odd_value()), 0..6),
        child in proptest::collection::vec(
            ("(compatible|reg|xen,shm-id|xen,shared-mem|role|bootargs)", odd_value()), 0..5),
        partial in proptest::collection::vec(
            ("(xen,reg|xen,path|interrupts|phandle|#address-cells|#size-cells)", odd_value()), 0..5),
    ) {
        let put = |w: &mut Writer, list: &[(String, Vec<u8>)]| {
            list.iter().for_each(|(name, value)| w.property(name, value));
        };
        let bytes = machine(|w| {
            w.node("d", |w| {
                w.text("compatible", "xen,domain");
                put(w, &list);
                w.node("m", |w| {
                    w.texts("compatible", &["multiboot,kernel", "xen,domain-shared-memory-v1"]);
                    put(w, &child);
                });
            });
            domain_node(w, "e", |w| put(w, &list));
        });
        let mut w = Writer::default();
        w.node("", |w| w.node("passthrough", |w| {
            put(w, &partial);
            w.node("x", |w| put(w, &partial));
        }));
        let fragment = w.finish().unwrap();
        everything(&bytes, &fragment);
        let tree = Fdt::new(&bytes).unwrap();
        let parsed = passthrough::fragment(&domain("d"), &fragment).unwrap();
        let _ = passthrough::read(&domain("d"), &parsed, &tree);
    }

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        everything(&bytes, &bytes);
    }
}

#[test]
fn deep_trees_end() {
    fn deeper(w: &mut Writer, left: u32) {
        w.node("n", |w| {
            if left > 0 {
                deeper(w, left - 1)
            }
        });
    }
    let mut w = Writer::default();
    w.node("", |w| w.node("passthrough", |w| deeper(w, 1000)));
    let bytes = w.finish().unwrap();
    let fragment = passthrough::fragment(&domain("d"), &bytes).unwrap();
    let machine = machine(|_| {});
    let tree = Fdt::new(&machine).unwrap();
    let problems = passthrough::read(&domain("d"), &fragment, &tree).unwrap_err();
    assert!(problems[0].what.contains("too deep"));
}
