//! Partial device trees, and who may have what.

use super::{domain, machine, set_aside};
use crate::claims::{Claim, Machine, address_bits, check, guest_addresses};
use crate::passthrough::{GIC_PHANDLE, Interrupt, Mapping, Passthrough, fragment, read};
use crate::tree::{Guest, build};
use crate::{Domain, Region, SharedMemory, Writer, layout};
use alloc::string::ToString;
use alloc::vec::Vec;
use fdt::Fdt;
use proptest::prelude::*;
use std::string::String;

fn partial(inside: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.node("", |w| {
        w.cells("#address-cells", &[2]);
        w.cells("#size-cells", &[2]);
        w.node("aliases", |w| w.text("net", "/passthrough/virtio@a000000"));
        w.node("passthrough", |w| {
            w.text("compatible", "simple-bus");
            w.flag("ranges");
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            inside(w);
        });
    });
    w.finish().unwrap()
}

fn virtio(w: &mut Writer, forced: bool) {
    w.node("virtio@a000000", |w| {
        w.text("compatible", "virtio,mmio");
        w.wide("reg", &[0xa00_0000, 0x200]);
        w.cells("interrupts", &[0, 16, 1]);
        w.cells("interrupt-parent", &[GIC_PHANDLE]);
        w.wide("xen,reg", &[0xa00_0000, 0x1000, 0xa00_0000]);
        w.text("xen,path", "/virtio_mmio@a000000");
        if forced {
            w.flag("xen,force-assign-without-iommu");
        }
    });
}

fn get(domain: &Domain, bytes: &[u8]) -> Result<Passthrough, Vec<String>> {
    let machine = machine(|_| {});
    read(domain, &fragment(domain, bytes).unwrap(), &Fdt::new(&machine).unwrap())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_virtio_transport() {
    let domain = domain("domU1");
    let mut bytes = partial(|w| virtio(w, true));
    // The boot loader rounds up.
    bytes.resize(bytes.len() + 100, 0xaa);
    let p = get(&domain, &bytes).unwrap();
    let host = Region::new(0xa00_0000, 0x1000);
    assert_eq!(p.mappings, [Mapping { host, guest: 0xa00_0000 }]);
    assert_eq!(p.interrupts, [Interrupt { intid: 48, edge: true }]);
    assert_eq!(p.may_dma, ["/virtio_mmio@a000000"]);

    let guest = Guest {
        domain: &domain,
        memory: &[Region::new(0x4000_0000, 64 << 20)],
        v3: true,
        ramdisk: None,
        passthrough: Some((&p, fragment(&domain, &bytes).unwrap())),
        rng_seed: &[],
        kaslr_seed: 0,
    };
    let tree = build(&guest).unwrap();
    let tree = Fdt::new(&tree).unwrap();
    let node = tree.find_node("/passthrough/virtio@a000000").unwrap();
    let names: Vec<_> = node.properties().map(|p| p.name().to_string()).collect();
    assert_eq!(names, ["compatible", "reg", "interrupts", "interrupt-parent"]);
    assert!(tree.find_node("/aliases").unwrap().property("net").is_some());
}

#[test]
fn who_may_write_memory_must_say_so() {
    let bytes = partial(|w| virtio(w, false));
    let problems = get(&domain("domU1"), &bytes).unwrap_err();
    assert!(problems[0].contains("/passthrough/virtio@a000000: xen,force-assign-without-iommu"));
    let direct = Domain { direct_map: true, ..domain("domU1") };
    assert_eq!(get(&direct, &bytes).unwrap().may_dma, ["/virtio_mmio@a000000"]);
    let rtc = partial(|w| {
        w.node("rtc@9010000", |w| {
            w.text("compatible", "arm,pl031");
            w.wide("xen,reg", &[0x901_0000, 0x1000, 0x901_0000]);
            w.text("xen,path", "/pl031@9010000");
        })
    });
    let p = get(&domain("domU1"), &rtc).unwrap();
    assert!(p.may_dma.is_empty());
    assert_eq!(p.interrupts, [Interrupt { intid: 34, edge: false }]);
}

#[test]
fn what_is_behind_the_registers_decides() {
    let asks = |compatible: &'static str, path: Option<&'static str>, at: u64, size: u64| {
        let bytes = partial(|w| {
            w.node("x", |w| {
                w.text("compatible", compatible);
                w.wide("xen,reg", &[at, size, at]);
                path.into_iter().for_each(|path| w.text("xen,path", path));
            })
        });
        let problems = get(&domain("domU1"), &bytes).err().unwrap_or_default();
        let forced = problems.iter().any(|what| what.contains("xen,force-assign-without-iommu"));
        assert!(forced || problems.is_empty(), "{problems:?}");
        forced
    };
    let rtc = Some("/pl031@9010000");
    assert!(!asks("arm,pl031", rtc, 0x901_0000, 0x1000));
    assert!(!asks("arm,pl031", None, 0x901_0000, 0x1000));
    // It says that it is a clock, and has a virtio transport's page.
    assert!(asks("arm,pl031", rtc, 0xa00_0000, 0x1000));
    assert!(asks("arm,pl031", None, 0xa00_0000, 0x1000));
    // The clock's, and what nobody knows.
    assert!(asks("arm,pl031", rtc, 0x901_0000, 0x2000));
    assert!(asks("arm,pl031", None, 0x902_0000, 0x1000));
    assert!(asks("arm,pl031", Some("/virtio_mmio@a000000"), 0x901_0000, 0x1000));
    assert!(asks("virtio,mmio", rtc, 0x901_0000, 0x1000));
    // Compatible with a UART without DMA, and more than that.
    assert!(asks("arm,pl011", Some("/serial@9050000"), 0x905_0000, 0x1000));
}

#[test]
fn malformed_fragments() {
    let domain = domain("domU1");
    assert!(fragment(&domain, b"junk").is_err());
    assert!(fragment(&domain, &[]).is_err());
    let large = partial(|w| w.property("blob", &vec![0; 2 << 20]));
    assert!(fragment(&domain, &large).unwrap_err().what.contains("larger than 2 MiB"));
    let many = partial(|w| {
        (0..257).for_each(|n| w.node(&std::format!("n{n}"), |w| w.cells("phandle", &[n + 1])));
    });
    let many = get(&domain, &many).unwrap_err().remove(0);
    assert!(many.contains("/passthrough/n256: phandle: is one of too many"), "{many}");
    let bad = |inside: fn(&mut Writer)| {
        get(&domain, &partial(|w| w.node("x", inside))).unwrap_err().remove(0)
    };
    assert!(bad(|w| w.wide("xen,reg", &[1, 2])).contains("xen,reg"));
    assert!(bad(|w| w.wide("xen,reg", &[0xa00_0200, 0x200, 0])).contains("whole pages"));
    assert!(bad(|w| w.text("xen,path", "/nowhere")).contains("names no node"));
    assert!(bad(|w| w.property("xen,path", b"")).contains("names no node"));
    let ppi = bad(|w| {
        w.text("compatible", "arm,pl031");
        w.wide("xen,reg", &[0x901_0000, 0x1000, 0x901_0000]);
        w.cells("interrupts", &[1, 2, 4]);
    });
    assert!(ppi.contains("no SPI"));
    let twice = bad(|w| {
        w.cells("phandle", &[5]);
        w.node("y", |w| w.cells("phandle", &[5]));
    });
    assert!(twice.contains("/passthrough/x/y: phandle"));
}

#[test]
fn only_the_gics_interrupts_are_the_machines() {
    let uart = |w: &mut Writer, name: &str, intid: u32, parent: Option<u32>| {
        w.node(name, |w| {
            w.text("compatible", "arm,pl011");
            w.wide("xen,reg", &[0x904_0000, 0x1000, 0x904_0000]);
            w.cells("interrupts", &[0, intid, 4]);
            parent.into_iter().for_each(|parent| w.cells("interrupt-parent", &[parent]));
        })
    };
    let bytes = partial(|w| {
        uart(w, "mine", 8, Some(GIC_PHANDLE));
        uart(w, "silent", 9, None);
        // Behind a pl061: its cells are the pl061's, whatever they look like.
        uart(w, "behind", 10, Some(7));
        w.node("gpio", |w| {
            w.text("compatible", "arm,pl061");
            w.wide("xen,reg", &[0x903_0000, 0x1000, 0x903_0000]);
            w.cells("interrupts", &[0, 7, 4]);
            w.flag("interrupt-controller");
            w.cells("#interrupt-cells", &[2]);
            w.cells("phandle", &[7]);
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            uart(w, "inside", 11, None);
        });
        w.node("bus", |w| {
            w.cells("interrupt-parent", &[7]);
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            uart(w, "below", 12, None);
            uart(w, "back", 13, Some(GIC_PHANDLE));
        });
    });
    let p = get(&domain("domU1"), &bytes).unwrap();
    let intids: Vec<u32> = p.interrupts.iter().map(|interrupt| interrupt.intid).collect();
    assert_eq!(intids, [40, 41, 39, 45]);
}

#[test]
fn the_gic_may_be_on_a_bus() {
    let mut w = Writer::default();
    w.node("", |w| {
        w.cells("#address-cells", &[2]);
        w.cells("#size-cells", &[2]);
        w.cells("interrupt-parent", &[1]);
        w.node("soc", |w| {
            w.text("compatible", "simple-bus");
            w.cells("#address-cells", &[1]);
            w.cells("#size-cells", &[1]);
            w.cells("ranges", &[0x100_0000, 0, 0x900_0000, 0x100_0000]);
            w.node("intc@1800000", |w| {
                w.text("compatible", "arm,gic-400");
                w.cells("phandle", &[1]);
            });
            w.node("rtc@1010000", |w| {
                w.texts("compatible", &["arm,pl031", "arm,primecell"]);
                w.cells("reg", &[0x101_0000, 0x1000]);
                w.cells("interrupts", &[0, 2, 4]);
            });
        });
    });
    let machine = w.finish().unwrap();
    let bytes = partial(|w| {
        w.node("rtc@9010000", |w| {
            w.text("compatible", "arm,pl031");
            w.wide("xen,reg", &[0x901_0000, 0x1000, 0x901_0000]);
            w.text("xen,path", "/soc/rtc@1010000");
        })
    });
    let domain = domain("domU1");
    let machine = Fdt::new(&machine).unwrap();
    let p = read(&domain, &fragment(&domain, &bytes).unwrap(), &machine).unwrap();
    assert_eq!(p.interrupts, [Interrupt { intid: 34, edge: false }]);
    assert!(p.may_dma.is_empty());
}

#[test]
fn the_fragments_phandles_stay() {
    let mut w = Writer::default();
    w.node("", |w| {
        w.node("gic", |w| w.cells("phandle", &[65001]));
        w.node("passthrough", |w| w.node("clock", |w| w.cells("phandle", &[65002])));
    });
    let bytes = w.finish().unwrap();
    let p = get(&domain("domU1"), &bytes).unwrap();
    assert_eq!(p.gic_phandle, 65001);
    assert_eq!(p.free_phandle(65001), 65003);
}

fn claims(domains: &[Domain], passthrough: &[Option<Passthrough>]) -> Vec<(usize, String)> {
    let claims: Vec<Claim<'_>> = domains
        .iter()
        .zip(passthrough.iter().chain(core::iter::repeat(&None)))
        .map(|(domain, p)| Claim { domain, passthrough: p.as_ref() })
        .collect();
    let set_aside = set_aside(domains, &MACHINE);
    let machine = Machine { set_aside: &set_aside, ..MACHINE };
    check(&claims, &machine).into_iter().map(|(i, p)| (i, p.to_string())).collect()
}

const MACHINE: Machine<'_> = Machine {
    ram: &[Region::new(0x4000_0000, 1 << 30)],
    all_ram: &[Region::new(0x4000_0000, 2 << 30)],
    reserved: &[Region::new(0x7f00_0000, 1 << 20)],
    set_aside: &[],
    taken: &[(Region::new(0x4020_0000, 1 << 20), "the hypervisor's")],
    interrupts: &[33],
    lines: 288,
    v3: false,
    address_bits: 40,
};

#[test]
fn only_what_a_domain_can_have_is_set_aside() {
    let at = |name, start, size| Domain {
        memory: size,
        static_memory: vec![Region::new(start, size)],
        ..domain(name)
    };
    let good = at("good", 0x6000_0000, 64 << 20);
    let kernel = good.kernel;
    let list = |bad: Domain| set_aside(&[bad, good.clone()], &MACHINE);
    let good_alone = [kernel, good.static_memory[0]];
    // All RAM, and the hypervisor in it; beyond RAM; firmware's; modules that lie so.
    assert_eq!(list(at("bad", 0x4000_0000, 1 << 30)), good_alone);
    assert_eq!(list(at("bad", 0x5000_0000, 0x22_0000_0000)), good_alone);
    assert_eq!(list(at("bad", 0x7e00_0000, 32 << 20)), good_alone);
    let module = |start, size| Domain { kernel: Region::new(start, size), ..domain("bad") };
    assert_eq!(list(module(0x5000_0000, 0x22_0000_0000)), good_alone);
    assert_eq!(list(module(0x4000_0000, 1 << 30)), good_alone);
    let mut shares = domain("bad");
    let (id, host) = ("1".into(), Some(0x4100_0000));
    let size = 0x22_0000_0000;
    shares.shared_memory.push(SharedMemory { id, host, guest: 1 << 36, size, owner: true });
    assert_eq!(list(shares), good_alone);
    // Modules needn't be whole pages.
    let odd = Domain { kernel: Region::new(0x5000_0800, 0x1000), ..domain("odd") };
    assert_eq!(set_aside(&[odd], &MACHINE), [Region::new(0x5000_0000, 0x2000)]);
}

#[test]
fn the_hypervisor_keeps_some_memory() {
    // The kernel is at 0x4800_0000. 18 MiB must stay, and did: below, or behind.
    let at = |start, end| Domain {
        memory: end - start,
        static_memory: vec![Region::new(start, end - start)],
        ..domain("large")
    };
    let all = |below: u64, behind: u64| {
        let ram = Region::new(0x4800_0000 - (below << 20), (64 + below) << 20);
        let end = ram.end() - (behind << 20);
        let large = at(0x4810_0000, end);
        let machine = Machine { ram: &[ram], reserved: &[], taken: &[], ..MACHINE };
        let set_aside = set_aside(core::slice::from_ref(&large), &machine);
        let claim = Claim { domain: &large, passthrough: None };
        let problems = check(&[claim], &Machine { set_aside: &set_aside, ..machine });
        assert_eq!(problems.is_empty(), !set_aside.is_empty());
        problems.first().map(|(_, problem)| problem.to_string())
    };
    assert_eq!(all(0, 17), None);
    assert_eq!(all(17, 0), None);
    let little = all(8, 8).unwrap();
    assert!(little.starts_with("/chosen/large: its modules and the memory"), "{little}");
    assert!(little.contains("less than 17 MiB in one piece"), "{little}");
    assert!(all(15, 15).is_some());
}

#[test]
fn nobody_gets_what_another_has() {
    assert!(claims(&[domain("a"), domain("b")], &[]).is_empty());
    let at =
        |name, start| Domain { static_memory: vec![Region::new(start, 64 << 20)], ..domain(name) };
    assert!(claims(&[at("a", 0x5000_0000), at("b", 0x5400_0000)], &[]).is_empty());
    assert!(claims(&[at("a", 0x7c00_0000)], &[])[0].1.contains("is reserved"));
    let both = claims(&[at("a", 0x5000_0000), at("b", 0x5200_0000)], &[]);
    assert_eq!(both.len(), 1);
    assert!(both[0].0 == 1 && both[0].1.contains("xen,static-mem") && both[0].1.contains("a's"));
    assert!(claims(&[at("a", 0x9000_0000)], &[])[0].1.contains("not in the machine's RAM"));
    assert!(claims(&[at("a", 0x4000_0000)], &[])[0].1.contains("the hypervisor's"));
    assert!(claims(&[at("a", 0x4800_0000)], &[])[0].1.contains("kernel"));
    let late = Domain { kernel: Region::new(0x5000_0000, 1), ..domain("b") };
    assert!(claims(&[at("a", 0x5000_0000), late], &[])[0].1.contains("b's kernel"));
    let many = Domain { cpus: 9, ..domain("a") };
    assert!(claims(&[many], &[])[0].1.contains("GICv2"));
    let nowhere = Domain { kernel: Region::new(0x1000, 1), ..domain("a") };
    assert!(claims(&[nowhere], &[])[0].1.contains("reg: kernel"));
}

#[test]
fn devices_are_one_domains() {
    let device = |host, guest, intid| {
        Some(Passthrough {
            mappings: vec![Mapping { host: Region::new(host, 0x1000), guest }],
            interrupts: vec![Interrupt { intid, edge: false }],
            ..get(&domain("x"), &partial(|_| {})).unwrap()
        })
    };
    let (a, b) = (domain("a"), domain("b"));
    let free = device(0xa00_0000, 0xa00_0000, 48);
    let other = device(0xa00_1000, 0xa00_0000, 49);
    assert!(claims(&[a.clone(), b.clone()], &[free.clone(), other]).is_empty());
    let both = claims(&[a.clone(), b.clone()], &[free.clone(), free]);
    assert_eq!(both.iter().map(|p| p.0).collect::<Vec<_>>(), [1, 1]);
    let one = |p| claims(core::slice::from_ref(&a), &[p]).remove(0).1;
    assert!(one(device(0x5000_0000, 0xa00_0000, 48)).contains("is RAM"));
    // Cut off by mem=.
    assert!(one(device(0xa000_0000, 0xa00_0000, 48)).contains("is RAM"));
    let far = one(device(1 << MACHINE.address_bits, 0xa00_0000, 48));
    assert!(far.contains("bits of address"), "{far}");
    assert!(one(device(0xa00_0000, 0x4000_0000, 48)).contains("of the guest is not free"));
    assert!(one(device(0xa00_0000, 0x300_1000, 48)).contains("of the guest is not free"));
    assert!(one(device(0xa00_0000, 0xa00_0000, 32)).contains("PL011"));
    assert!(one(device(0xa00_0000, 0xa00_0000, 33)).contains("hypervisor"));
    assert!(claims(core::slice::from_ref(&a), &[device(0xa00_0000, 0xa00_0000, 287)]).is_empty());
    assert!(one(device(0xa00_0000, 0xa00_0000, 288)).contains("none of the GIC's: 288"));
    let few = Domain { nr_spis: Some(16), ..a.clone() };
    assert!(claims(&[few], &[device(0xa00_0000, 0xa00_0000, 48)])[0].1.contains("nr_spis"));
}

#[test]
fn shared_memory_must_agree() {
    let with = |name, id: &str, host, guest, owner| {
        let mut domain = domain(name);
        let id = id.into();
        domain.shared_memory.push(SharedMemory { id, host, guest, size: 0x1000, owner });
        domain
    };
    let here = Some(0x6000_0000);
    let a = with("a", "1", here, 0x1_0000_0000, true);
    assert!(claims(&[a.clone(), with("b", "1", here, 0x1_1000_0000, false)], &[]).is_empty());
    let one = |b| claims(&[a.clone(), b], &[]).remove(0).1;
    assert!(one(with("b", "1", Some(0x6000_1000), 0x1_0000_0000, false)).contains("elsewhere"));
    assert!(one(with("b", "1", here, 0x1_0000_0000, true)).contains("another owner"));
    assert!(one(with("b", "2", here, 0x1_0000_0000, false)).contains("a's"));
    assert!(one(with("b", "3", None, 0x4000_0000, false)).contains("of the guest is not free"));
    let over = Domain { static_memory: vec![Region::new(0x5e00_0000, 64 << 20)], ..domain("b") };
    assert!(one(over).contains("shared memory of a"));
}

#[test]
fn a_domain_wants_no_memory_twice() {
    let shared = |id: &str, host, guest, size| {
        let id = id.into();
        SharedMemory { id, host: Some(host), guest, size, owner: false }
    };
    let over = Domain {
        static_memory: vec![Region::new(0x6000_0000, 64 << 20)],
        shared_memory: vec![shared("1", 0x6000_0000, 0x8000_0000, 0x1000)],
        ..domain("a")
    };
    let problems = claims(&[over], &[]);
    assert!(problems[0].1.contains("/chosen/a: xen,shared-mem: 0x60000000..0x60001000"));
    let mut two = domain("a");
    two.shared_memory.push(shared("1", 0x6000_0000, 0x8000_0000, 0x2000));
    two.shared_memory.push(shared("2", 0x6000_1000, 0x8001_0000, 0x2000));
    assert!(claims(&[two.clone()], &[])[0].1.contains("wanted twice"));
    two.shared_memory[1] = shared("2", 0x6000_2000, 0x8001_0000, 0x2000);
    assert!(claims(&[two.clone()], &[]).is_empty());
    two.shared_memory[1] = shared("1", 0x6000_2000, 0x8001_0000, 0x2000);
    assert!(claims(&[two], &[])[0].1.contains("/chosen/a: xen,shm-id: 1 is another node's"));
}

#[test]
fn ram_is_whole_blocks_and_nothing_lies_in_them() {
    let shared =
        |guest| SharedMemory { id: "1".into(), host: None, guest, size: 0x1000, owner: true };
    let mut a = Domain { memory: 17 << 20, ..domain("a") };
    assert_eq!(layout::ram_size(&a), 18 << 20);
    a.shared_memory.push(shared(0x4120_0000));
    assert!(claims(core::slice::from_ref(&a), &[]).is_empty());
    a.shared_memory[0] = shared(0x4110_0000);
    let problems = claims(core::slice::from_ref(&a), &[]);
    assert!(problems[0].1.contains("/chosen/a: xen,shared-mem: 0x41100000..0x41101000"));
    assert!(problems[0].1.contains("its memory is at 0x40000000..0x41200000"));
    a.shared_memory.clear();
    let host = Region::new(0xa00_0000, 0x1000);
    let device = Passthrough {
        mappings: vec![Mapping { host, guest: 0x4110_0000 }],
        ..get(&domain("x"), &partial(|_| {})).unwrap()
    };
    let problems = claims(core::slice::from_ref(&a), &[Some(device.clone())]);
    assert!(problems[0].1.contains("/chosen/a: xen,reg: 0x41100000"));
    // Where the RAM of direct-map alone is, is known when it is taken.
    a.direct_map = true;
    assert!(claims(core::slice::from_ref(&a), &[Some(device.clone())]).is_empty());
    let claim = Claim { domain: &a, passthrough: Some(&device) };
    let at = |start| {
        let problems = guest_addresses(&claim, true, 40, &[Region::new(start, 18 << 20)]);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(at(0x5000_0000).is_empty());
    assert!(at(0x4100_0000)[0].contains("/chosen/a: xen,reg: 0x41100000"));
    assert!(at(0x200_0000)[0].contains("/chosen/a: direct-map: 0x2000000"));
}

#[test]
fn addresses_have_as_many_bits_as_are_needed() {
    let domain = Domain { direct_map: true, ..domain("a") };
    let host = Region::new(0xa00_0000, 0x1000);
    let device = |guest| Passthrough {
        mappings: vec![Mapping { host, guest }],
        ..get(&domain, &partial(|_| {})).unwrap()
    };
    let (low, high) = (device(0xa00_0000), device((1 << 44) - 0x1000));
    let claim = |device| Claim { domain: &domain, passthrough: Some(device) };
    let ram = |start| [Region::new(start, 64 << 20)];
    assert_eq!(address_bits(&claim(&low), 48, &ram(0x4000_0000)), 40);
    assert_eq!(address_bits(&claim(&low), 36, &ram(0x4000_0000)), 36);
    assert_eq!(address_bits(&claim(&low), 48, &ram((1 << 40) - (64 << 20))), 40);
    assert_eq!(address_bits(&claim(&low), 48, &ram(1 << 40)), 41);
    assert_eq!(address_bits(&claim(&high), 48, &ram(1 << 40)), 44);
    let say = |device, bits, start| {
        let problems = guest_addresses(&claim(device), true, bits, &ram(start));
        problems.first().map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(say(&high, 44, 1 << 40), "");
    assert!(say(&high, 43, 1 << 40).starts_with("/chosen/a: xen,reg: 0xffffffff000..0x1000000"));
    assert!(say(&low, 40, 1 << 40).contains("direct-map: 0x10000000000..0x10004000000 of the"));
    let problems = claims(core::slice::from_ref(&domain), &[Some(high)]);
    assert!(problems[0].1.contains("beyond the 40 bits"));
}

/// Memory that a domain wants, drawn so that it often clashes: static, and shared.
fn wish() -> impl Strategy<Value = (Vec<Region>, Vec<SharedMemory>)> {
    let region = || {
        (0u64..24, 1u64..4).prop_map(|(at, n)| Region::new(0x6000_0000 + at * 0x1000, n * 0x1000))
    };
    let shared = (0u8..4, proptest::option::of(region()), 0u64..3, any::<bool>());
    let shared = shared.prop_map(|(id, host, nth, owner)| SharedMemory {
        id: id.to_string(),
        host: host.map(|host| host.start),
        guest: 0x1_0000_0000 + nth * 0x10_0000,
        size: host.map_or(0x1000, |host| host.size),
        owner,
    });
    let statics = proptest::collection::vec(region(), 0..3)
        .prop_map(|list| if crate::read::overlap(&list) { Vec::new() } else { list });
    (statics, proptest::collection::vec(shared, 0..3))
}

proptest! {
    /// What `kernel/src/type1/memory.rs` adopts: a domain's static memory when it
    /// starts, and each shared region once, for the first that has it.
    #[test]
    fn no_memory_is_adopted_twice(wishes in proptest::collection::vec(wish(), 1..5)) {
        let domains: Vec<Domain> = wishes.into_iter().enumerate().map(|(i, wish)| {
            let name = std::format!("d{i}");
            Domain { static_memory: wish.0, shared_memory: wish.1, ..domain(&name) }
        }).collect();
        let refused: Vec<usize> = claims(&domains, &[]).iter().map(|(i, _)| *i).collect();
        let mut adopted: Vec<Region> = Vec::new();
        let mut ids: Vec<&str> = Vec::new();
        for (i, domain) in domains.iter().enumerate() {
            if refused.contains(&i) {
                continue;
            }
            adopted.extend(layout::static_banks(domain).iter().map(|b| Region::new(b.1, b.0.size)));
            for shared in &domain.shared_memory {
                if !ids.contains(&shared.id.as_str()) {
                    ids.push(&shared.id);
                    adopted.extend(shared.host.map(|host| Region::new(host, shared.size)));
                }
            }
        }
        prop_assert!(!crate::read::overlap(&adopted), "{adopted:x?}");
    }
}
