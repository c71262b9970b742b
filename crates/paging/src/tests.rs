use crate::*;
use base::{BLOCK_SIZE, Errno, PAGE_SIZE, PhysAddr};
use frame::{Fill, Frame, KernelPages, Size, Use, sim, stats};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::vec::Vec;

const RW: UserAttrs = UserAttrs { read: true, write: true, exec: false, memory: Memory::Normal };
const RO: UserAttrs = UserAttrs { write: false, ..RW };
const NONE: UserAttrs = UserAttrs { read: false, ..RO };

/// A TLB that remembers every translation it was shown until told to forget.
#[derive(Default)]
struct MockTlb(RefCell<HashMap<u64, (PhysAddr, UserAttrs)>>, RefCell<Vec<(u64, u64, bool)>>);

impl Tlb for MockTlb {
    fn invalidate_range(&self, start: u64, len: u64, last_level: bool) {
        self.0.borrow_mut().retain(|page, _| *page < start || *page >= start + len);
        self.1.borrow_mut().push((start, len, last_level));
    }
}

/// Users' and the kernel's bytes. The kernel's map, which one test makes, stays.
fn in_use() -> (u64, u64) {
    (stats().user, stats().kernel)
}

fn page() -> Frame {
    Frame::alloc(Size::Page, Fill::Zeroed).unwrap()
}

fn block() -> Frame {
    Frame::alloc(Size::Block, Fill::Zeroed).unwrap()
}

fn clear<R: Regime>(table: &mut PageTable<R>, mut start: u64, end: u64) {
    let tlb = MockTlb::default();
    while start < end {
        let next = table.unmap(start, end, &mut Gather::new(&tlb)).unwrap();
        assert!(next > start);
        start = next;
    }
}

#[test]
fn descriptors_are_the_architectures() {
    let user = |attrs| User::encode(attrs).unwrap();
    assert_eq!(user(RW), 0x0060_0000_0000_0f40);
    assert_eq!(user(RO), 0x0060_0000_0000_0fc0);
    assert_eq!(user(UserAttrs { exec: true, ..RO }), 0x0020_0000_0000_0fc0);
    assert_eq!(User::encode(NONE), None);
    let data = KernelAttrs { write: true, exec: false, memory: Memory::Normal };
    let code = KernelAttrs { write: false, exec: true, memory: Memory::Normal };
    let device = KernelAttrs { memory: Memory::Device, ..data };
    assert_eq!(Kernel::encode(data), Some(0x0060_0000_0000_0700));
    assert_eq!(Kernel::encode(code), Some(0x0040_0000_0000_0780));
    assert_eq!(Kernel::encode(device), Some(0x0060_0000_0000_0404));
    assert_eq!(El2::encode(data), Some(0x0040_0000_0000_0740));
    assert_eq!(El2::encode(code), Some(0x7c0));
    let ram = Stage2Attrs { read: true, write: true, exec: true, memory: Memory::Normal };
    assert_eq!(Stage2::encode(ram), Some(0x7fc));
    assert_eq!(
        Stage2::encode(Stage2Attrs { write: false, exec: false, memory: Memory::Device, ..ram }),
        Some(0x0040_0000_0000_0444)
    );
    for memory in [Memory::Normal, Memory::Device, Memory::NonCacheable] {
        for bits in 0..8 {
            let (read, write, exec) = (true, bits & 2 != 0, bits & 4 != 0);
            let attrs = UserAttrs { read, write, exec, memory };
            assert_eq!(User::decode(user(attrs)), attrs);
            let attrs = KernelAttrs { write, exec, memory };
            assert_eq!(Kernel::decode(Kernel::encode(attrs).unwrap()), attrs);
            assert_eq!(El2::decode(El2::encode(attrs).unwrap()), attrs);
            let attrs = Stage2Attrs { read: bits & 1 != 0, write, exec, memory };
            if let Some(desc) = Stage2::encode(attrs) {
                assert_eq!(Stage2::decode(desc), attrs);
            }
        }
    }
}

#[test]
fn stage2_starts_where_16_tables_reach() {
    let _ram = sim::ram(16);
    let start = in_use();
    let expect = [(32, 2, 0, 4u64), (34, 2, 0, 16), (36, 1, 1, 1), (40, 1, 1, 2), (43, 1, 1, 16)];
    for (bits, level, sl0, pages) in expect {
        let before = stats().kernel;
        let table = PageTable::<Stage2>::new(bits).unwrap();
        assert_eq!((table.start_level(), table.sl0()), (level, sl0), "{bits}");
        assert_eq!(stats().kernel - before, pages * PAGE_SIZE);
        assert_eq!(u64::from(table.tsz()), 64 - u64::from(bits));
        assert!(table.root().is_aligned(pages * PAGE_SIZE));
    }
    assert_eq!(PageTable::<Stage2>::new(48).unwrap().sl0(), 2);
    assert_eq!(PageTable::<User>::new(48).unwrap().start_level(), 0);
    assert_eq!(PageTable::<User>::new(39).unwrap().start_level(), 1);
    assert!(PageTable::<User>::new(49).is_err());
    let mut table = PageTable::<Stage2>::new(40).unwrap();
    let attrs = Stage2Attrs { read: true, write: true, exec: true, memory: Memory::Normal };
    table.map((1 << 40) - BLOCK_SIZE, block(), attrs).unwrap();
    assert_eq!(table.map(1 << 40, page(), attrs), Err(Errno::EINVAL));
    assert!(table.lookup((1 << 40) - 1).unwrap().is_block());
    clear(&mut table, 0, 1 << 40);
    drop(table);
    assert_eq!(in_use(), start);
}

#[test]
fn maps_and_refuses() {
    let _ram = sim::ram(16);
    let start = in_use();
    let mut table = PageTable::<User>::new(48).unwrap();
    let frame = page();
    table.map(0x40_0000, frame.clone(), RW).unwrap();
    assert_eq!(table.map(0x40_0000, page(), RW), Err(Errno::EEXIST));
    assert_eq!(table.map(0x40_0000, block(), RW), Err(Errno::EEXIST));
    assert_eq!(table.map(0x40_0800, page(), RW), Err(Errno::EINVAL));
    assert_eq!(table.map(1 << 48, page(), RW), Err(Errno::EINVAL));
    table.map(0x60_0000, block(), RO).unwrap();
    assert_eq!(table.map(0x60_1000, page(), RW), Err(Errno::EEXIST));
    let leaf = table.lookup(0x40_0fff).unwrap();
    assert_eq!((leaf.start, leaf.len(), leaf.attrs()), (0x40_0000, PAGE_SIZE, RW));
    assert_eq!(table.frame(&leaf), Some(frame.clone()));
    assert_eq!(table.frame_count(0x40_0000), Some(2));
    assert!(table.lookup(0x40_1000).is_none());
    let mut seen = Vec::new();
    table
        .visit(0x40_0800, 0x60_1000, &mut |leaf| {
            seen.push((leaf.start, leaf.end()));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(0x40_0000, 0x40_1000), (0x60_0000, 0x80_0000)]);
    clear(&mut table, 0, 1 << 48);
    assert_eq!(frame.ref_count(), 1);
    assert!(table.is_empty());
    drop((table, frame));
    assert_eq!(in_use(), start);
}

#[test]
fn a_frame_lives_until_the_tlb_forgot_it() {
    let _ram = sim::ram(16);
    let mut table = PageTable::<User>::new(48).unwrap();
    let start = in_use();
    table.map(0x40_0000, page(), RW).unwrap();
    let tlb = MockTlb::default();
    let mut gather = Gather::new(&tlb);
    assert_eq!(table.unmap(0x40_0000, 0x40_1000, &mut gather), Ok(0x40_1000));
    assert_eq!(stats().user - start.0, PAGE_SIZE);
    assert!(tlb.1.borrow().is_empty());
    drop(gather);
    assert_eq!(stats().user, start.0);
    // The tables went too: cached pointers to them as well.
    assert_eq!(*tlb.1.borrow(), [(0, 1 << 39, false)]);
}

#[test]
fn blocks_split_where_a_range_ends() {
    let _ram = sim::ram(16);
    let start = in_use();
    let mut table = PageTable::<User>::new(48).unwrap();
    let tlb = MockTlb::default();
    let whole = block();
    whole.write(BLOCK_SIZE - 1, b"z").unwrap();
    table.map(BLOCK_SIZE, whole, RW).unwrap();
    let mut gather = Gather::unbounded(&tlb);
    table.unmap(BLOCK_SIZE + PAGE_SIZE, BLOCK_SIZE + 2 * PAGE_SIZE, &mut gather).unwrap();
    drop(gather);
    // Its only handle was in the table: the page is free.
    assert_eq!(stats().user - start.0, BLOCK_SIZE - PAGE_SIZE);
    let leaf = table.lookup(2 * BLOCK_SIZE - 1).unwrap();
    assert_eq!((leaf.len(), leaf.attrs()), (PAGE_SIZE, RW));
    let mut byte = [0];
    table.frame(&leaf).unwrap().read(PAGE_SIZE - 1, &mut byte).unwrap();
    assert_eq!(&byte, b"z");
    clear(&mut table, 0, 1 << 48);

    // Shared, and without access: the pieces count on the block.
    let whole = block();
    table.map(BLOCK_SIZE, whole.clone(), NONE).unwrap();
    assert_eq!(table.lookup(BLOCK_SIZE).unwrap().attrs(), NONE);
    let mut gather = Gather::unbounded(&tlb);
    let end = BLOCK_SIZE + PAGE_SIZE;
    assert_eq!(table.protect(BLOCK_SIZE, end, &mut gather, |_| RO), Ok(end));
    drop(gather);
    assert_eq!(whole.ref_count(), 513);
    assert_eq!(table.lookup(BLOCK_SIZE).unwrap().attrs(), RO);
    assert_eq!(table.lookup(end).unwrap().attrs(), NONE);
    clear(&mut table, 0, 1 << 48);
    assert_eq!(whole.ref_count(), 1);
    drop((whole, table));
    assert_eq!(in_use(), start);
}

#[test]
#[cfg_attr(miri, ignore = "takes a GiB")]
fn a_gigabyte_is_one_entry_until_a_range_ends_in_it() {
    let _ram = sim::ram(16);
    let blocks = sim::gigabyte();
    let start = in_use();
    let counts = || blocks.iter().map(Frame::ref_count).collect::<Vec<_>>();
    let attrs = Stage2Attrs { read: true, write: true, exec: true, memory: Memory::Normal };
    let mut table = PageTable::<Stage2>::new(40).unwrap();
    let at = 0x4000_0000;
    let mut swapped = blocks.to_vec();
    swapped.swap(3, 4);
    for wrong in [&blocks[1..], &blocks[..511], &swapped, &[]] {
        assert_eq!(table.map_gigabyte(at, wrong, attrs), Err(Errno::EINVAL));
    }
    drop(swapped);
    assert_eq!(table.map_gigabyte(at + BLOCK_SIZE, blocks, attrs), Err(Errno::EINVAL));
    assert_eq!(table.map_gigabyte(1 << 40, blocks, attrs), Err(Errno::EINVAL));
    // A walk that begins at level 2 has no such entries.
    let mut small = PageTable::<Stage2>::new(34).unwrap();
    assert_eq!(small.map_gigabyte(at, blocks, attrs), Err(Errno::EINVAL));
    assert_eq!(counts(), [1; 512]);

    table.map_gigabyte(at, blocks, attrs).unwrap();
    assert_eq!(table.map_gigabyte(at, blocks, attrs), Err(Errno::EEXIST));
    assert_eq!(table.map(at + BLOCK_SIZE, block(), attrs), Err(Errno::EEXIST));
    assert_eq!((table.pages(), counts()), (1 << 18, [2; 512].to_vec()));
    let leaf = table.lookup(at + 12345).unwrap();
    let found = (leaf.start, leaf.len(), leaf.addr(), leaf.attrs());
    assert_eq!(found, (at, 1 << 30, blocks[0].addr(), attrs));
    assert_eq!(table.frame(&leaf), None);

    // A page out of the middle: two splits, and the rest is as it was.
    let tlb = MockTlb::default();
    let hole = at + 7 * BLOCK_SIZE + 5 * PAGE_SIZE;
    let mut gather = Gather::new(&tlb);
    assert_eq!(table.unmap(hole, hole + PAGE_SIZE, &mut gather), Ok(hole + PAGE_SIZE));
    drop(gather);
    let broken = (at, 1 << 30, true);
    assert_eq!(tlb.1.borrow()[0], broken, "break before make");
    assert!(table.lookup(hole).is_none());
    for (nth, block) in (0..).zip(blocks) {
        let gpa = at + nth * BLOCK_SIZE;
        let leaf = table.lookup(gpa).unwrap();
        let (len, count) = if nth == 7 { (PAGE_SIZE, 512) } else { (BLOCK_SIZE, 2) };
        assert_eq!((leaf.start, leaf.len(), leaf.addr()), (gpa, len, block.addr()));
        assert_eq!((leaf.attrs(), block.ref_count()), (attrs, count), "{nth}");
    }
    assert_eq!(table.pages(), (1 << 18) - 1);
    clear(&mut table, 0, 1 << 40);
    assert_eq!((table.pages(), counts()), (0, [1; 512].to_vec()));

    // Whole, each block is let go after the TLB forgot it.
    table.map_gigabyte(at, blocks, attrs).unwrap();
    struct Watch(RefCell<Vec<(u64, u64)>>);
    impl Tlb for Watch {
        fn invalidate_range(&self, start: u64, len: u64, _: bool) {
            let known = |gpa: &u64| (start..start + len).contains(gpa);
            let held = |nth: u64| sim::gigabyte()[nth as usize].ref_count() == 2;
            let gpas = (0..512).map(|nth| (nth, 0x4000_0000 + nth * BLOCK_SIZE));
            for (nth, gpa) in gpas.filter(|(_, gpa)| known(gpa)) {
                assert!(held(nth), "{gpa:#x} was let go before");
            }
            self.0.borrow_mut().push((start, len));
        }
    }
    let tlb = Watch(RefCell::default());
    let mut gather = Gather::new(&tlb);
    assert_eq!(table.unmap(at, at + (1 << 30), &mut gather), Ok(at + (1 << 30)));
    drop(gather);
    let forgotten: u64 = tlb.0.borrow().iter().map(|(_, len)| len).sum();
    assert!(forgotten >= 1 << 30);
    assert_eq!((table.pages(), counts()), (0, [1; 512].to_vec()));
    drop((table, small));
    assert_eq!(in_use(), start);
}

#[test]
fn failures_change_nothing() {
    let _ram = sim::ram(16);
    let start = in_use();
    let mut table = PageTable::<User>::new(48).unwrap();
    for nth in 1..=3 {
        let frame = page();
        frame::fail_allocation(nth);
        let at = nth << 40;
        assert_eq!(table.map(at, frame, RW), Err(Errno::ENOMEM));
        frame::fail_allocation(0);
    }
    table.map(BLOCK_SIZE, block(), RW).unwrap();
    frame::fail_allocation(1);
    let tlb = MockTlb::default();
    let end = BLOCK_SIZE + PAGE_SIZE;
    let mut gather = Gather::new(&tlb);
    assert_eq!(table.unmap(BLOCK_SIZE, end, &mut gather), Err(Errno::ENOMEM));
    drop(gather);
    assert!(table.lookup(BLOCK_SIZE).unwrap().is_block());
    clear(&mut table, 0, 1 << 48);
    drop(table);
    assert_eq!(in_use(), start);
}

#[test]
fn the_kernels_map_is_built_and_taken_over() {
    let _ram = sim::ram(16);
    let start = in_use();
    let attrs = KernelAttrs { write: true, exec: false, memory: Memory::Normal };
    let upper = 0xffff_0000_0000_0000u64;
    let offset = (frame::phys_to_virt(sim::BASE) as u64).wrapping_sub(sim::BASE.get());
    let mut count = 0;
    let pages = || {
        count += 1;
        Some(KernelPages::alloc(Use::Table, 0, Fill::Stale).unwrap().into_raw())
    };
    // SAFETY: the pages are ours and never given back.
    let mut builder = unsafe { KernelMapBuilder::<Kernel, _>::new(48, offset, pages).unwrap() };
    builder.map(upper | 0x4000_0000, PhysAddr::new(0x4000_0000), 0x8020_1000, attrs).unwrap();
    assert_eq!(builder.map(upper | 0x4000_0000, PhysAddr::new(0), 4096, attrs), Err(Errno::EEXIST));
    assert_eq!(builder.map(1 << 47, PhysAddr::new(0), 4096, attrs), Err(Errno::EINVAL));
    let root = builder.root();
    let _ = builder;
    assert_eq!(count, 4);
    // SAFETY: made above.
    let mut table = unsafe { PageTable::<Kernel>::adopt(root, 48) };
    let lens: Vec<u64> = [0x4000_0000, 0x8000_0000, 0xc000_0000, 0xc020_0000]
        .map(|at| table.lookup(upper | at).unwrap().len())
        .into();
    assert_eq!(lens, [1 << 30, 1 << 30, 2 << 20, 4096]);
    let leaf = table.lookup(upper | 0x8123_4567).unwrap();
    assert_eq!((leaf.start, leaf.addr()), (upper | 0x8000_0000, PhysAddr::new(0x8000_0000)));
    let device = KernelAttrs { memory: Memory::Device, ..attrs };
    // SAFETY: nobody walks this table.
    unsafe {
        table.map_raw(upper | 0x900_0000, PhysAddr::new(0x900_0000), 0x1000, device).unwrap()
    };
    assert_eq!(table.lookup(upper | 0x900_0fff).unwrap().attrs(), device);
    let tlb = MockTlb::default();
    let mut gather = Gather::unbounded(&tlb);
    table.unmap(upper | 0x900_0000, upper | 0x900_1000, &mut gather).unwrap();
    drop(gather);
    assert!(table.lookup(upper | 0x900_0000).is_none());
    // The builder's tables stay, empty or not.
    assert_eq!(stats().kernel - start.1, 4 * PAGE_SIZE);
}

#[derive(Clone, Debug)]
enum Op {
    Map { page: u64, block: bool, write: bool },
    Unmap { page: u64, pages: u64 },
    Protect { page: u64, pages: u64, to: u8 },
    Replace { page: u64 },
    Touch { page: u64 },
}

const PAGES: u64 = 4 * 512;

fn op() -> impl Strategy<Value = Op> {
    let page = 0..PAGES;
    let run = (0..PAGES, prop_oneof![Just(1u64), 1..1400u64]);
    prop_oneof![
        (page.clone(), any::<bool>(), any::<bool>()).prop_map(|(page, block, write)| Op::Map {
            page,
            block,
            write
        }),
        run.clone().prop_map(|(page, pages)| Op::Unmap { page, pages }),
        (run, 0u8..3).prop_map(|((page, pages), to)| Op::Protect { page, pages, to }),
        page.clone().prop_map(|page| Op::Replace { page }),
        page.prop_map(|page| Op::Touch { page }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The table says what a map of pages says, the TLB never knows what the
    /// table no longer says, and everything comes back.
    #[test]
    fn the_table_is_a_map(ops in prop::collection::vec(op(), 1..60)) {
        let _ram = sim::ram(64);
        let before = in_use();
        const BASE: u64 = 0x7fff_ffe0_0000;
        let at = |page: u64| BASE + page * PAGE_SIZE;
        let mut table = PageTable::<User>::new(48).unwrap();
        let tlb = MockTlb::default();
        let mut model: BTreeMap<u64, (PhysAddr, UserAttrs)> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Map { page: number, block: large, write } => {
                    let attrs = if write { RW } else { RO };
                    let number = if large { number & !511 } else { number };
                    let Ok(frame) = Frame::alloc(if large { Size::Block } else { Size::Page }, Fill::Stale) else { continue };
                    let (addr, pages) = (frame.addr(), frame.size().pages());
                    let free = model.range(number..number + pages).next().is_none();
                    let done = table.map(at(number), frame, attrs);
                    prop_assert_eq!(done, if free { Ok(()) } else { Err(Errno::EEXIST) });
                    if free {
                        for page in 0..pages {
                            model.insert(number + page, (addr.offset(page * PAGE_SIZE).unwrap(), attrs));
                        }
                    }
                }
                Op::Unmap { page, pages } => {
                    let end = (page + pages).min(PAGES);
                    let mut next = at(page);
                    while next < at(end) {
                        next = table.unmap(next, at(end), &mut Gather::new(&tlb)).unwrap();
                    }
                    model.retain(|number, _| !(page..end).contains(number));
                }
                Op::Protect { page, pages, to } => {
                    let attrs = [NONE, RO, RW][usize::from(to)];
                    let end = (page + pages).min(PAGES);
                    let mut next = at(page);
                    while next < at(end) {
                        next = table.protect(next, at(end), &mut Gather::new(&tlb), |_| attrs).unwrap();
                    }
                    model.range_mut(page..end).for_each(|(_, entry)| entry.1 = attrs);
                }
                Op::Replace { page } => {
                    let Ok(frame) = Frame::alloc(Size::Page, Fill::Stale) else { continue };
                    let addr = frame.addr();
                    let done = table.replace(at(page), frame, RW, &mut Gather::new(&tlb));
                    prop_assert_eq!(done, if model.contains_key(&page) { Ok(()) } else { Err(Errno::EFAULT) });
                    model.entry(page).and_modify(|entry| *entry = (addr, RW));
                }
                Op::Touch { page } => {
                    if let Some(entry) = model.get(&page).filter(|entry| entry.1.read) {
                        tlb.0.borrow_mut().insert(at(page), *entry);
                    }
                }
            }
            for page in 0..PAGES {
                let leaf = table.lookup(at(page));
                let found = leaf.map(|leaf| (leaf.addr().offset(at(page) - leaf.start).unwrap(), leaf.attrs()));
                prop_assert_eq!(found, model.get(&page).copied());
            }
            for (page, entry) in tlb.0.borrow().iter() {
                prop_assert_eq!(model.get(&((page - BASE) / PAGE_SIZE)), Some(entry));
            }
            prop_assert_eq!(table.pages(), model.len() as u64);
            let first = table.next(0, 1 << 48).map(|leaf| leaf.start);
            prop_assert_eq!(first, model.keys().next().map(|page| at(*page)));
            prop_assert_eq!(stats().user - before.0, model.len() as u64 * PAGE_SIZE);
            prop_assert_eq!(stats().kernel - before.1, table.tables() * PAGE_SIZE);
        }
        clear(&mut table, 0, 1 << 48);
        drop(table);
        prop_assert_eq!(in_use(), before);
    }
}
