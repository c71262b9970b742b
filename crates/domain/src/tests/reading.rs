//! The bindings, property by property.

use super::{domain, domain_node, machine};
use crate::{Domain, Found, OnCrash, Placement, Region, SharedMemory, Writer, present, read};
use alloc::string::ToString;
use alloc::vec::Vec;
use fdt::Fdt;
use std::string::String;

fn found(chosen: impl FnOnce(&mut Writer)) -> Found {
    let bytes = machine(chosen);
    read(&Fdt::new(&bytes).unwrap())
}

fn one(more: impl FnOnce(&mut Writer)) -> Domain {
    let found = found(|w| domain_node(w, "domU1", more));
    assert_eq!(found.problems, []);
    found.domains[0].clone()
}

fn problems(more: impl FnOnce(&mut Writer)) -> Vec<String> {
    let found = found(|w| {
        domain_node(w, "bad", more);
        domain_node(w, "good", |_| {});
    });
    // What is wrong with one doesn't keep the other from starting.
    assert_eq!(found.domains.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["good"]);
    found.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_of_xens_documentation() {
    let bytes = machine(|w| {
        for (name, kib, cpus, base) in
            [("domU1", 131072, 2, 0x4a00_0000u32), ("domU2", 65536, 1, 0x4c00_0000)]
        {
            w.node(name, |w| {
                w.text("compatible", "xen,domain");
                w.cells("#address-cells", &[2]);
                w.cells("#size-cells", &[1]);
                w.cells("memory", &[0, kib]);
                w.cells("cpus", &[cpus]);
                if cpus == 2 {
                    w.flag("vpl011");
                }
                w.node("module@0x4a000000", |w| {
                    w.texts("compatible", &["multiboot,kernel", "multiboot,module"]);
                    w.cells("reg", &[0, base, 0xff_ffff]);
                    w.text("bootargs", "console=ttyAMA0 init=/bin/sh");
                });
                w.node("module@0x4b000000", |w| {
                    w.texts("compatible", &["multiboot,ramdisk", "multiboot,module"]);
                    w.cells("reg", &[0, base + 0x100_0000, 0xff_ffff]);
                });
            });
        }
    });
    let tree = Fdt::new(&bytes).unwrap();
    assert!(present(&tree));
    let found = read(&tree);
    assert_eq!(found.problems, []);
    let first = Domain {
        cpus: 2,
        memory: 128 << 20,
        kernel: Region::new(0x4a00_0000, 0xff_ffff),
        kernel_node: "/chosen/domU1/module@0x4a000000".into(),
        ramdisk: Some(Region::new(0x4b00_0000, 0xff_ffff)),
        bootargs: "console=ttyAMA0 init=/bin/sh".into(),
        ..domain("domU1")
    };
    let second = Domain {
        name: "domU2".into(),
        cpus: 1,
        memory: 64 << 20,
        console: false,
        kernel: Region::new(0x4c00_0000, 0xff_ffff),
        kernel_node: "/chosen/domU2/module@0x4a000000".into(),
        ramdisk: Some(Region::new(0x4d00_0000, 0xff_ffff)),
        ..first.clone()
    };
    assert_eq!(found.domains, [first, second]);
}

#[test]
fn a_tree_without_domains() {
    let bytes = machine(|w| w.node("module", |w| w.text("compatible", "multiboot,module")));
    let tree = Fdt::new(&bytes).unwrap();
    assert!(!present(&tree));
    assert_eq!(read(&tree), Found::default());
}

#[test]
fn our_own_properties() {
    let d = one(|w| {
        w.text("hypha,placement", "exclusive");
        w.cells("hypha,cpus", &[3]);
        w.cells("hypha,priority", &[50]);
        w.text("hypha,on-crash", "reset-all");
        w.cells("hypha,watchdog", &[30]);
    });
    assert_eq!((d.placement, d.on_crash), (Placement::Exclusive, OnCrash::ResetAll));
    assert_eq!((d.host_cpus, d.priority, d.watchdog), (vec![3], Some(50), Some(30)));
    let d = one(|_| {});
    assert_eq!((d.placement, d.on_crash), (Placement::Shared, OnCrash::Restart));
    assert!(!d.console);
    assert_eq!(d.watchdog, None);
}

#[test]
fn what_is_off_in_xen_is_off_here() {
    one(|w| {
        w.text("xen,enhanced", "disabled");
        w.cells("sve", &[0]);
        w.text("passthrough", "disabled");
        w.cells("max_grant_frames", &[64]);
        w.cells("xen,domain-p2m-mem-mb", &[32]);
        w.text("status", "okay");
        w.cells("phandle", &[77]);
    });
}

#[test]
fn static_memory_by_the_parents_cells_or_its_own() {
    let d = one(|w| w.wide("xen,static-mem", &[0x6000_0000, 64 << 20]));
    assert_eq!(d.static_memory, [Region::new(0x6000_0000, 64 << 20)]);
    let d = one(|w| {
        w.cells("#xen,static-mem-address-cells", &[1]);
        w.cells("#xen,static-mem-size-cells", &[1]);
        w.cells("xen,static-mem", &[0x6000_0000, 32 << 20, 0x7000_0000, 32 << 20]);
        w.flag("direct-map");
    });
    assert_eq!(d.static_memory.len(), 2);
    assert!(d.direct_map);
}

#[test]
fn shared_memory_with_and_without_the_machines_address() {
    let d = one(|w| {
        w.node("shm@1", |w| {
            w.text("compatible", "xen,domain-shared-memory-v1");
            w.text("xen,shm-id", "my-shared-mem-1");
            w.text("role", "owner");
            w.cells("xen,shared-mem", &[0, 0x5000_0000, 0, 0x6000_0000, 0x1000]);
        });
        w.node("shm@2", |w| {
            w.text("compatible", "xen,domain-shared-memory-v1");
            w.text("xen,shm-id", "2");
            w.cells("xen,shared-mem", &[0, 0x9000_0000, 0x2000]);
        });
    });
    let first = SharedMemory {
        id: "my-shared-mem-1".into(),
        host: Some(0x5000_0000),
        guest: 0x6000_0000,
        size: 0x1000,
        owner: true,
    };
    let second =
        SharedMemory { id: "2".into(), host: None, guest: 0x9000_0000, size: 0x2000, owner: false };
    assert_eq!(d.shared_memory, [first, second]);
}

#[test]
fn modules_that_do_not_say_what_they_are() {
    let found = found(|w| {
        w.node("domU1", |w| {
            w.text("compatible", "xen,domain");
            w.cells("memory", &[0, 65536]);
            w.cells("cpus", &[1]);
            for base in [0x4a00_0000, 0x4b00_0000] {
                w.node(&std::format!("module@{base:x}"), |w| {
                    w.text("compatible", "multiboot,module");
                    w.cells("reg", &[0, base, 0x1000]);
                });
            }
        });
    });
    assert_eq!(found.problems, []);
    assert_eq!(found.domains[0].kernel.start, 0x4a00_0000);
    assert_eq!(found.domains[0].ramdisk.unwrap().start, 0x4b00_0000);
}

/// A property, a value it can't have, and a word of what is said.
#[test]
fn malformed_properties_name_node_and_property() {
    let cases: &[(&str, &[u8], &str)] = &[
        ("vpl011", b"pl012\0", "must be empty"),
        ("nr_spis", &[0], "one cell"),
        ("nr_spis", &[0, 0, 4, 0], "0 to 960"),
        ("direct-map", &[1], "must be empty"),
        ("xen,static-mem", &[0; 12], "pairs"),
        ("xen,static-mem", &[0; 16], "whole pages"),
        ("xen,enhanced", b"enabled\0", "not supported"),
        ("xen,enhanced", b"", "not supported"),
        ("sve", &[0, 0, 0, 128], "not supported"),
        ("sve", b"", "not supported"),
        ("viommu", b"smmuv3\0", "not supported"),
        ("domain-cpupool", &[0, 0, 0, 1], "not supported"),
        ("hypha,placement", b"alone\0", "must be"),
        ("hypha,placement", b"shared", "must be"),
        ("hypha,cpus", &[0, 0, 0], "must be cells"),
        ("hypha,cpus", &[0, 0, 0, 1, 0, 0, 0, 1], "none twice"),
        ("hypha,priority", &[0, 0, 0, 100], "1 to 99"),
        ("hypha,on-crash", b"reboot\0", "must be"),
        ("hypha,watchdog", &[0, 0, 0, 0], "1 to 3600"),
        ("hypha,watchdog", &[0, 0, 14, 17], "1 to 3600"),
        ("hypha,watchdog", b"", "one cell"),
        ("vlp011", b"", "not supported"),
        ("status", b"disabled\0", "not \"okay\""),
        ("cpus", &[0, 0, 0, 2], "twice"),
    ];
    for (name, value, what) in cases {
        let problems = problems(|w| w.property(name, value));
        let expected = std::format!("/chosen/bad: {name}: ");
        assert!(problems[0].starts_with(&expected), "{problems:?}");
        assert!(problems[0].contains(what), "{problems:?}, not {what}");
    }
}

#[test]
fn malformed_nodes() {
    let bad = |cpus: &'static [u8], memory: &'static [u8]| {
        let found = found(|w| {
            w.node("bad", |w| {
                w.text("compatible", "xen,domain");
                if !cpus.is_empty() {
                    w.property("cpus", cpus);
                }
                if !memory.is_empty() {
                    w.property("memory", memory);
                }
                w.node("k", |w| {
                    w.text("compatible", "multiboot,kernel");
                    w.cells("reg", &[0, 0x4800_0000, 1]);
                });
            });
        });
        assert!(found.domains.is_empty());
        found.problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let memory: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(bad(&[], memory), ["/chosen/bad: cpus: is missing"]);
    assert_eq!(bad(&[0, 0, 0, 0], memory), ["/chosen/bad: cpus: must be 1 to 128"]);
    assert_eq!(bad(&[0, 0, 0, 1], &[]), ["/chosen/bad: memory: is missing"]);
    assert!(bad(&[0, 0, 0, 1], &[0, 0, 0, 4])[0].contains("two cells"));
    assert!(bad(&[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 5])[0].contains("whole pages"));
    assert!(bad(&[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 0])[0].contains("1 KiB"));
    assert!(bad(&[0, 0, 0, 1], &[0xff; 8])[0].contains("1 TiB"));
}

#[test]
fn malformed_modules() {
    let module = |compatible: &'static str, reg: &'static [u32]| {
        problems(|w| {
            w.node("m@1", |w| {
                w.text("compatible", compatible);
                if !reg.is_empty() {
                    w.cells("reg", reg);
                }
            })
        })
    };
    assert_eq!(module("multiboot,ramdisk", &[]), ["/chosen/bad/m@1: reg: is missing"]);
    assert!(module("multiboot,ramdisk", &[0, 1])[0].contains("cells"));
    assert!(module("multiboot,ramdisk", &[0, 0x4000_0000, 0])[0].contains("empty"));
    assert!(module("multiboot,ramdisk", &[0xffff_ffff, 0, 1])[0].contains("no address"));
    assert!(module("xen,evtchn-v1", &[0, 1, 1])[0].contains("compatible: is not supported"));
    // The node's own kernel comes second.
    let second = module("multiboot,kernel", &[0, 0x4000_0000, 1]);
    assert_eq!(second, ["/chosen/bad/module@48000000: compatible: is a second kernel"]);
    let shared = |id: &'static str, role: &'static str, value: &'static [u32]| {
        problems(|w| {
            w.node("s", |w| {
                w.text("compatible", "xen,domain-shared-memory-v1");
                w.text("xen,shm-id", id);
                w.text("role", role);
                w.cells("xen,shared-mem", value);
            })
        })
    };
    assert!(shared("", "owner", &[0, 0x1000, 0x1000])[0].contains("xen,shm-id"));
    assert!(shared("sixteen-letters-", "owner", &[0, 0x1000, 0x1000])[0].contains("xen,shm-id"));
    assert!(shared("a", "boss", &[0, 0x1000, 0x1000])[0].contains("role"));
    assert!(shared("a", "owner", &[0, 0x1000])[0].contains("xen,shared-mem"));
    assert!(shared("a", "owner", &[0, 0x1001, 0x1000])[0].contains("whole pages"));
    assert!(shared("a", "owner", &[0, 0x1000, 0])[0].contains("whole pages"));
}

#[test]
fn what_only_makes_sense_together() {
    let less = problems(|w| w.wide("xen,static-mem", &[0x6000_0000, 32 << 20]));
    assert!(less[0].contains("xen,static-mem: is not as much as memory says"));
    let more = problems(|w| {
        w.text("hypha,placement", "exclusive");
        w.cells("hypha,cpus", &[2, 3]);
    });
    assert!(more[0].contains("hypha,cpus: an exclusive domain"));
    let overlap = problems(|w| {
        w.wide("xen,static-mem", &[0x6000_0000, 48 << 20, 0x6100_0000, 16 << 20]);
    });
    assert!(overlap[0].contains("overlap"));
}

#[test]
fn names_are_unique() {
    let found = found(|w| {
        domain_node(w, "domU1", |_| {});
        domain_node(w, "domU1", |_| {});
    });
    assert_eq!(found.domains.len(), 1);
    assert!(found.problems[0].what.contains("two nodes"));
}

/// A tree is read before there is much memory: what is said of it has bounds.
#[test]
fn a_tree_full_of_mistakes_is_soon_read() {
    let many = found(|w| {
        for nth in 0..100 {
            domain_node(w, &std::format!("bad{nth}"), |w| {
                (0..40).for_each(|n| w.flag(&std::format!("unknown{n}")));
            });
        }
    });
    assert_eq!(many.domains, []);
    assert_eq!(many.problems.len(), 64 * 16 + 1);
    let last = many.problems.last().unwrap().to_string();
    assert_eq!(last, "/chosen/bad64: there are more than 64 domains");
    let long = problems(|w| {
        w.node("module@1", |w| {
            w.texts("compatible", &["multiboot,kernel", "multiboot,module"]);
            w.cells("reg", &[0, 0x4800_0000, 0x10_0000]);
            w.text("bootargs", &"x".repeat(4096));
        });
    });
    let words = "/chosen/bad/module@1: bootargs: is longer than 4096 bytes";
    assert!(long.iter().any(|problem| problem == words), "{long:?}");
}
