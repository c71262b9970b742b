//! Memory slots: which part of the guest's physical addresses is which part of
//! the VMM's memory (api.rst, KVM_SET_USER_MEMORY_REGION).

use alloc::vec::Vec;
use base::{Errno, PAGE_SIZE, Result, Room, room};
use kvm_abi::{MEM_READONLY, UserspaceMemoryRegion};

/// KVM_CAP_NR_MEMSLOTS.
pub const MAX_SLOTS: u32 = 32767;
/// Linux's KVM_MEM_MAX_NR_PAGES.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// A slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its number.
    pub id: u32,
    /// Its first guest physical address.
    pub gpa: u64,
    /// How many bytes, not zero.
    pub len: u64,
    /// The VMM's address of the first byte.
    pub hva: u64,
    /// The guest may not write (KVM_MEM_READONLY).
    pub readonly: bool,
}

impl Slot {
    /// The first guest physical address above it.
    pub const fn end(&self) -> u64 {
        self.gpa.wrapping_add(self.len)
    }

    /// The VMM's address of a guest physical address in it.
    #[inline]
    pub const fn hva_of(&self, gpa: u64) -> u64 {
        self.hva.wrapping_add(gpa.wrapping_sub(self.gpa))
    }

    /// The part of the VMM's range `start..end` in it, as guest physical
    /// addresses.
    pub fn gpas_of(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let from = start.max(self.hva);
        let to = end.min(self.hva.saturating_add(self.len));
        if from >= to {
            return None;
        }
        let gpa = |hva: u64| self.gpa.wrapping_add(hva.wrapping_sub(self.hva));
        Some((gpa(from), gpa(to)))
    }
}

/// What a change asks of stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing: the slot is as asked already, or it is new.
    None,
    /// Unmap these guest physical addresses.
    Unmap {
        /// The first.
        start: u64,
        /// The first above.
        end: u64,
    },
}

/// A VM's slots, in the order of guest physical addresses.
#[derive(Clone, Default, Debug)]
pub struct Slots {
    slots: Vec<Slot>,
}

impl Slots {
    /// None.
    pub const fn new() -> Self {
        Slots { slots: Vec::new() }
    }

    /// The slot that holds `gpa`.
    #[inline]
    pub fn find(&self, gpa: u64) -> Option<&Slot> {
        let at = self.slots.partition_point(|slot| slot.gpa <= gpa);
        let slot = self.slots.get(at.checked_sub(1)?)?;
        (gpa < slot.end()).then_some(slot)
    }

    /// All of them, upwards.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Slots> {
        let mut slots = room::try_vec(self.slots.len())?;
        slots.extend_from_slice(&self.slots);
        Ok(Slots { slots })
    }

    /// KVM_SET_USER_MEMORY_REGION: makes, moves, changes or deletes a slot.
    /// `limit` is the size of the guest's physical address space, `user_limit`
    /// that of the VMM's. Nothing has changed if it fails.
    pub fn set(
        &mut self,
        region: &UserspaceMemoryRegion,
        limit: u64,
        user_limit: u64,
    ) -> Result<Change> {
        let UserspaceMemoryRegion { slot, flags, guest_phys_addr, memory_size, userspace_addr } =
            *region;
        // Without dirty logging; the others need guest_memfd.
        if flags & !MEM_READONLY != 0
            || !memory_size.is_multiple_of(PAGE_SIZE)
            || !guest_phys_addr.is_multiple_of(PAGE_SIZE)
            || !userspace_addr.is_multiple_of(PAGE_SIZE)
            || userspace_addr.checked_add(memory_size).is_none_or(|end| end > user_limit)
            || slot >= MAX_SLOTS
            || guest_phys_addr.checked_add(memory_size).is_none()
            || memory_size / PAGE_SIZE > MAX_PAGES
        {
            return Err(Errno::EINVAL);
        }
        let old = self.slots.iter().position(|other| other.id == slot);
        if memory_size == 0 {
            let old = old.ok_or(Errno::EINVAL)?;
            let gone = self.slots.remove(old);
            return Ok(Change::Unmap { start: gone.gpa, end: gone.end() });
        }
        let new = Slot {
            id: slot,
            gpa: guest_phys_addr,
            len: memory_size,
            hva: userspace_addr,
            readonly: flags & MEM_READONLY != 0,
        };
        let before = old.and_then(|at| self.slots.get(at)).copied();
        if let Some(before) = before {
            if before.hva != new.hva || before.len != new.len || before.readonly != new.readonly {
                return Err(Errno::EINVAL);
            }
            if before.gpa == new.gpa {
                return Ok(Change::None);
            }
        }
        let overlaps =
            |other: &Slot| other.id != slot && other.gpa < new.end() && new.gpa < other.end();
        if self.slots.iter().any(overlaps) {
            return Err(Errno::EEXIST);
        }
        if new.end() > limit {
            return Err(Errno::EFAULT);
        }
        self.slots.make_room(1)?;
        if let Some(old) = old {
            self.slots.remove(old);
        }
        let at = self.slots.partition_point(|other| other.gpa < new.gpa);
        self.slots.insert(at, new);
        Ok(match before {
            Some(before) => Change::Unmap { start: before.gpa, end: before.end() },
            None => Change::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LIMIT: u64 = 1 << 40;
    const USER: u64 = 1 << 48;

    fn region(slot: u32, gpa: u64, len: u64, hva: u64, flags: u32) -> UserspaceMemoryRegion {
        UserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: hva,
        }
    }

    #[test]
    fn errnos_are_linuxs() {
        let mut slots = Slots::new();
        let mut set = |slot, gpa, len, hva, flags| {
            slots.set(&region(slot, gpa, len, hva, flags), LIMIT, USER)
        };
        assert_eq!(set(0, 0, 0, 0, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1000, 0x1000, 0x1000, 4), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1001, 0x1000, 0x1000, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1000, 0x1001, 0x1000, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1000, 0x1000, 0x1001, 0), Err(Errno::EINVAL));
        assert_eq!(set(MAX_SLOTS, 0x1000, 0x1000, 0x1000, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, !0xfff, 0x2000, 0x1000, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1000, 0x1000, USER, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, LIMIT, 0x1000, 0x1000, 0), Err(Errno::EFAULT));
        assert_eq!(set(0, 0x1000, 0x2000, 0x10_0000, 0), Ok(Change::None));
        assert_eq!(set(1, 0x2000, 0x1000, 0x1000, 0), Err(Errno::EEXIST));
        // The same again, then what can't be changed.
        assert_eq!(set(0, 0x1000, 0x2000, 0x10_0000, 0), Ok(Change::None));
        assert_eq!(set(0, 0x1000, 0x1000, 0x10_0000, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1000, 0x2000, 0x20_0000, 0), Err(Errno::EINVAL));
        assert_eq!(set(0, 0x1000, 0x2000, 0x10_0000, MEM_READONLY), Err(Errno::EINVAL));
        // Moved, deleted.
        let moved = Change::Unmap { start: 0x1000, end: 0x3000 };
        assert_eq!(set(0, 0x2000, 0x2000, 0x10_0000, 0), Ok(moved));
        let deleted = Change::Unmap { start: 0x2000, end: 0x4000 };
        assert_eq!(set(0, 0, 0, 0, 0), Ok(deleted));
    }

    #[test]
    fn addresses_translate() {
        let mut slots = Slots::new();
        slots.set(&region(3, 0x4000_0000, 0x10_0000, 0x7000_0000, 0), LIMIT, USER).unwrap();
        let slot = slots.find(0x4000_1234).unwrap();
        assert_eq!(slot.hva_of(0x4000_1234), 0x7000_1234);
        assert_eq!(slots.find(0x4010_0000), None);
        assert_eq!(slots.find(0x3fff_ffff), None);
        assert_eq!(slot.gpas_of(0, 0x7000_1000), Some((0x4000_0000, 0x4000_1000)));
        assert_eq!(slot.gpas_of(0x700f_f000, u64::MAX), Some((0x400f_f000, 0x4010_0000)));
        assert_eq!(slot.gpas_of(0x7010_0000, u64::MAX), None);
    }

    proptest! {
        /// Against a map from slot number to slot.
        #[test]
        fn any_sequence_matches_the_model(
            ops in proptest::collection::vec((0u32..6, 0u64..16, 0u64..6, 0u64..3, 0u32..2), 1..60),
        ) {
            let mut slots = Slots::new();
            let mut model: BTreeMap<u32, Slot> = BTreeMap::new();
            for (id, gpa, pages, hva, ro) in ops {
                let asked = region(id, gpa << 12, pages << 12, (hva + 1) << 20, ro * 2);
                let got = slots.set(&asked, 16 << 12, USER);
                let new = Slot {
                    id, gpa: gpa << 12, len: pages << 12, hva: (hva + 1) << 20, readonly: ro != 0,
                };
                let old = model.get(&id).copied();
                let expect = if pages == 0 {
                    match old {
                        None => Err(Errno::EINVAL),
                        Some(old) => {
                            model.remove(&id);
                            Ok(Change::Unmap { start: old.gpa, end: old.end() })
                        }
                    }
                } else if old.is_some_and(|old| {
                    (old.hva, old.len, old.readonly) != (new.hva, new.len, new.readonly)
                }) {
                    Err(Errno::EINVAL)
                } else if old == Some(new) {
                    Ok(Change::None)
                } else if model.values().any(|o| o.id != id && o.gpa < new.end() && new.gpa < o.end()) {
                    Err(Errno::EEXIST)
                } else if new.end() > 16 << 12 {
                    Err(Errno::EFAULT)
                } else {
                    model.insert(id, new);
                    Ok(old.map_or(Change::None, |old| Change::Unmap { start: old.gpa, end: old.end() }))
                };
                prop_assert_eq!(got, expect);
                for gpa in (0..20u64).map(|page| page << 12) {
                    let expect = model.values().find(|s| s.gpa <= gpa && gpa < s.end());
                    prop_assert_eq!(slots.find(gpa), expect);
                }
            }
        }
    }
}
