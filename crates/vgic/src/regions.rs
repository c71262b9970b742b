//! Where the frames lie in the guest's physical address space
//! (KVM_DEV_ARM_VGIC_GRP_ADDR).

use crate::vgic::{Region, Setup, Version};
use alloc::vec::Vec;
use base::{Errno, Result, Room, room};
use core::sync::atomic::Ordering;

/// GICv3: the distributor's frame, and the alignment of all of them.
pub(crate) const FRAME: u64 = 0x1_0000;
/// RD_base and SGI_base of one redistributor.
pub(crate) const REDIST: u64 = 0x2_0000;
/// GICv2: KVM_VGIC_V2_DIST_SIZE, and the alignment of both frames.
pub(crate) const DIST_V2: u64 = 0x1000;
/// GICv2: KVM_VGIC_V2_CPU_SIZE.
pub(crate) const CPU_V2: u64 = 0x2000;

/// A contiguous run of redistributors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedistRegion {
    pub base: u64,
    /// How many fit; 0: KVM_VGIC_V3_ADDR_TYPE_REDIST, as many as there are.
    pub count: u64,
    /// How many are in it.
    used: u64,
    /// The vCPU of the first; those that follow have the next indices.
    first: usize,
}

/// All frames.
#[derive(Debug)]
pub(crate) struct Regions {
    version: Version,
    /// GICv3: the distributor.
    dist: Option<u64>,
    /// GICv2: the distributor. Apart, so that the exit path knows which it has
    /// found.
    dist_v2: Option<u64>,
    /// GICv2: the CPU interface.
    pub cpu: Option<u64>,
    /// By their index.
    redists: Vec<RedistRegion>,
    /// vCPUs that have a redistributor.
    placed: usize,
}

fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

/// Linux's vgic_check_iorange: alignment, then the guest's address size.
fn check_range(base: u64, len: u64, align: u64, ipa_bits: u8) -> Result<()> {
    if !base.is_multiple_of(align) {
        return Err(Errno::EINVAL);
    }
    let end = base.checked_add(len).ok_or(Errno::EINVAL)?;
    let limit = 1u64.checked_shl(u32::from(ipa_bits)).unwrap_or(u64::MAX);
    if base >= limit || end > limit {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

impl RedistRegion {
    fn room(&self, vcpus: usize) -> u64 {
        if self.count == 0 { vcpus as u64 } else { self.count }
    }

    fn len(&self, vcpus: usize) -> u64 {
        self.room(vcpus).saturating_mul(REDIST)
    }
}

impl Regions {
    pub const fn new(version: Version) -> Self {
        Regions { version, dist: None, dist_v2: None, cpu: None, redists: Vec::new(), placed: 0 }
    }

    pub fn try_clone(&self) -> Result<Regions> {
        let mut redists = room::try_vec(self.redists.len())?;
        redists.extend_from_slice(&self.redists);
        Ok(Regions {
            version: self.version,
            dist: self.dist,
            dist_v2: self.dist_v2,
            cpu: self.cpu,
            redists,
            placed: self.placed,
        })
    }

    /// KVM_VGIC_V2_ADDR_TYPE_CPU. Overlaps show at the first KVM_RUN.
    pub fn set_cpu(&mut self, base: u64, ipa_bits: u8) -> Result<()> {
        if self.cpu.is_some() {
            return Err(Errno::EEXIST);
        }
        check_range(base, CPU_V2, DIST_V2, ipa_bits)?;
        self.cpu = Some(base);
        Ok(())
    }

    /// KVM_VGIC_V<n>_ADDR_TYPE_DIST. Overlaps show at the first KVM_RUN.
    pub fn set_dist(&mut self, base: u64, ipa_bits: u8) -> Result<()> {
        let (slot, len) = match self.version {
            Version::V2 => (&mut self.dist_v2, DIST_V2),
            Version::V3 => (&mut self.dist, FRAME),
        };
        if slot.is_some() {
            return Err(Errno::EEXIST);
        }
        check_range(base, len, len, ipa_bits)?;
        *slot = Some(base);
        Ok(())
    }

    /// KVM_VGIC_V3_ADDR_TYPE_REDIST (`count` 0) and _REDIST_REGION.
    pub fn add_redists(
        &mut self,
        index: u64,
        base: u64,
        count: u64,
        vcpus: usize,
        ipa_bits: u8,
    ) -> Result<()> {
        if let Some(last) = self.redists.last() {
            match (count, last.count) {
                (0, 0) => return Err(Errno::EEXIST),
                (0, _) | (_, 0) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        if index != self.redists.len() as u64 {
            return Err(Errno::EINVAL);
        }
        let region = RedistRegion { base, count, used: 0, first: self.placed };
        let len = region.len(vcpus);
        if base.checked_add(len).is_none()
            || self.redists.iter().any(|other| overlap(base, len, other.base, other.len(vcpus)))
            || self.dist.is_some_and(|dist| overlap(base, len, dist, FRAME))
        {
            return Err(Errno::EINVAL);
        }
        check_range(base, len, FRAME, ipa_bits)?;
        self.redists.make_room(1)?;
        self.redists.push(region);
        Ok(())
    }

    /// The region with this index.
    pub fn redists(&self, index: u64) -> Option<&RedistRegion> {
        self.redists.get(usize::try_from(index).ok()?)
    }

    /// Gives redistributors to vCPUs that have none, in the order in which
    /// vCPUs and regions came.
    fn place(&mut self, vcpus: usize) {
        for region in &mut self.redists {
            let free = region.room(vcpus).saturating_sub(region.used);
            let want = vcpus.saturating_sub(self.placed) as u64;
            let take = free.min(want);
            if region.used == 0 {
                region.first = self.placed;
            }
            region.used = region.used.saturating_add(take);
            self.placed = self.placed.saturating_add(take as usize);
        }
    }

    /// The regions with redistributors in them: they are filled in order.
    fn in_use(&self) -> impl Iterator<Item = &RedistRegion> {
        self.redists.iter().take_while(|region| region.used != 0)
    }

    /// The base of vCPU `index`'s redistributor.
    fn base_of(&self, index: usize) -> Option<u64> {
        self.in_use().find_map(|region| {
            let at = index.checked_sub(region.first)? as u64;
            (at < region.used).then(|| region.base.saturating_add(at.saturating_mul(REDIST)))
        })
    }

    /// Whether a redistributor lies at `base`.
    fn is_redist(&self, base: u64) -> bool {
        self.in_use()
            .any(|region| base.checked_sub(region.base).is_some_and(|at| at / REDIST < region.used))
    }

    /// Whether all frames are there (`ENXIO`) and in good places (`EINVAL`).
    pub fn check(&self, vcpus: usize, ipa_bits: u8) -> Result<()> {
        let dist = self.dist().ok_or(Errno::ENXIO)?;
        if self.version == Version::V2 {
            let cpu = self.cpu.ok_or(Errno::ENXIO)?;
            return if overlap(dist, DIST_V2, cpu, CPU_V2) { Err(Errno::EINVAL) } else { Ok(()) };
        }
        if self.placed < vcpus {
            return Err(Errno::ENXIO);
        }
        for (at, region) in self.redists.iter().enumerate() {
            let len = region.len(vcpus);
            let others = self.redists.iter().skip(at.saturating_add(1));
            if check_range(region.base, len, FRAME, ipa_bits).is_err()
                || overlap(region.base, len, dist, FRAME)
                || others.clone().any(|o| overlap(region.base, len, o.base, o.len(vcpus)))
            {
                return Err(Errno::EINVAL);
            }
        }
        Ok(())
    }

    pub fn decode(&self, addr: u64) -> Option<(Region, u32)> {
        if let Some(at) = self.dist.and_then(|dist| addr.checked_sub(dist))
            && at < FRAME
        {
            return Some((Region::Dist, at as u32));
        }
        let redist = self.in_use().find_map(|region| {
            let at = addr.checked_sub(region.base)?;
            let nth = at / REDIST;
            let cpu = region.first.checked_add(usize::try_from(nth).ok()?)?;
            (nth < region.used)
                .then(|| (Region::Redist(cpu as u16), (at & (REDIST.wrapping_sub(1))) as u32))
        });
        match self.dist_v2 {
            None => redist,
            Some(dist) => {
                let at = addr.checked_sub(dist)?;
                (at < DIST_V2).then_some((Region::DistV2, at as u32))
            }
        }
    }

    /// The distributor, of either GIC.
    pub fn dist(&self) -> Option<u64> {
        self.dist.or(self.dist_v2)
    }

    /// Where in the CPU interface `addr` is.
    pub fn cpu_interface(&self, addr: u64) -> Option<u64> {
        let at = addr.checked_sub(self.cpu?)?;
        (at < CPU_V2).then_some(at)
    }

    pub fn frames(&self) -> impl Iterator<Item = (u64, u64)> {
        let redists = self.in_use().map(|region| (region.base, region.used.saturating_mul(REDIST)));
        let v2 = self.dist_v2.map(|dist| (dist, DIST_V2));
        self.dist.map(|dist| (dist, FRAME)).or(v2).into_iter().chain(redists)
    }
}

impl Setup {
    /// Places redistributors and recomputes GICR_TYPER.Last: the frame after
    /// the last of a contiguous run is nobody's.
    pub fn place_redists(&mut self) {
        self.regions.place(self.cpus.len());
        for (index, cpu) in self.cpus.iter().enumerate() {
            let last = self
                .regions
                .base_of(index)
                .is_some_and(|base| !self.regions.is_redist(base.saturating_add(REDIST)));
            cpu.last.store(u32::from(last), Ordering::Relaxed);
        }
    }
}
