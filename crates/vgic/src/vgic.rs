//! The controller: vCPUs, banks, injection.

use crate::bank::{Bank, Gate, NO_CPU, bit, bits};
use crate::lr::MAX_LRS;
use crate::regions::Regions;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Lock, LockGuard, Result, Room, rank, room};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::Once;

/// What the interrupt controller asks of those who run the vCPUs.
pub trait Kick: Send + Sync {
    /// vCPU `vcpu` (its index) has something new: make it leave the guest, or
    /// wake it. Called without any lock of this crate held, after the news is
    /// visible to [`Cpu::needs_flush`].
    ///
    /// To lose nothing, a vCPU that enters the guest says so first (SeqCst) and
    /// then looks at `needs_flush`; `kick` looks at what it said (SeqCst).
    fn kick(&self, vcpu: usize);

    /// The guest has ended SPI `intid`, which somebody waits for
    /// ([`Vgic::set_resample`]), and its line was lowered. Called as `kick` is.
    fn ended(&self, _intid: u32) {}
}

/// Which GIC the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: the distributor is emulated; the CPU interface is the machine's
    /// own, a page that the guest has mapped.
    V2,
    /// GICv3: distributor and redistributors are emulated; the CPU interface is
    /// the CPU's system registers.
    V3,
}

/// What the machine offers.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which GIC it is.
    pub version: Version,
    /// ICH_VTR_EL2: numbers of list registers, priority and INTID bits. Of a
    /// GICv2, GICH_VTR.
    pub vtr: u64,
    /// The VM's guest physical address size in bits.
    pub ipa_bits: u8,
    /// A guest's end of interrupt deactivates the physical one that the list
    /// register names (ICH_LR.HW). Else we hear of the end and do it.
    pub deactivates: bool,
}

impl Config {
    /// How many vCPUs there can be.
    pub const fn max_vcpus(&self) -> usize {
        match self.version {
            Version::V2 => MAX_VCPUS_V2,
            Version::V3 => MAX_VCPUS_V3,
        }
    }

    /// ListRegs, as a number of registers that are used: 1 to 16. A GICv2 may
    /// have 64.
    pub const fn nr_lrs(&self) -> usize {
        let last = (self.vtr & 0x3f) as usize;
        if last < MAX_LRS { last.wrapping_add(1) } else { MAX_LRS }
    }

    /// ICH_VTR_EL2.PRIbits, as a number of bits.
    pub const fn priority_bits(&self) -> u32 {
        ((self.vtr >> 29) as u32 & 7).wrapping_add(1)
    }

    /// ICH_VTR_EL2.IDbits, the encoding.
    pub const fn id_bits(&self) -> u32 {
        (self.vtr >> 23) as u32 & 7
    }

    /// ICH_VTR_EL2.SEIS.
    pub const fn seis(&self) -> bool {
        self.vtr & (1 << 22) != 0
    }

    /// ICH_VTR_EL2.A3V.
    pub const fn a3v(&self) -> bool {
        self.vtr & (1 << 21) != 0
    }

    /// ICH_VTR_EL2.TDS: ICC_DIR_EL1 can be trapped alone.
    pub const fn tds(&self) -> bool {
        self.vtr & (1 << 19) != 0
    }
}

/// SGIs, PPIs and SPIs when KVM_DEV_ARM_VGIC_GRP_NR_IRQS doesn't say.
const DEFAULT_NR_IRQS: u32 = 256;
/// INTIDs 1020 to 1023 are no interrupts.
pub(crate) const FIRST_SPECIAL: u32 = 1020;
/// VGIC_V2_MAX_CPUS: GICD_ITARGETSR has eight bits.
pub const MAX_VCPUS_V2: usize = 8;
/// VGIC_V3_MAX_CPUS.
pub const MAX_VCPUS_V3: usize = 512;

/// `Cpu::work`: one bit for each bank that may have something for the vCPU.
pub(crate) const WORK_BANKS: u64 = 0xffff_ffff;
/// `Cpu::work`: SGIs sent and not yet latched.
pub(crate) const WORK_SGIS: u64 = 0xffff << WORK_SGI_SHIFT;
pub(crate) const WORK_SGI_SHIFT: u32 = 32;

/// GICD_CTLR.EnableGrp0 (with DS=1).
pub(crate) const GICD_CTLR_GRP0: u32 = 1 << 0;
/// GICD_CTLR.EnableGrp1 (with DS=1).
pub(crate) const GICD_CTLR_GRP1: u32 = 1 << 1;

/// One vCPU's side of the controller.
pub struct Cpu {
    index: u16,
    id: u32,
    /// Aff3.Aff2.Aff1.Aff0.
    affinity: AtomicU32,
    pub(crate) work: AtomicU64,
    private: Lock<Bank>,
    /// GICR_TYPER.Last.
    pub(crate) last: AtomicU32,
    pub(crate) propbaser: AtomicU64,
    pub(crate) pendbaser: AtomicU64,
}

impl Cpu {
    /// Whether [`Vgic::flush`] has something to do before the guest runs on.
    #[inline]
    pub fn needs_flush(&self) -> bool {
        self.work.load(Ordering::SeqCst) != 0
    }

    /// The vCPU's index: the order of its creation.
    pub fn index(&self) -> usize {
        usize::from(self.index)
    }

    /// Aff3.Aff2.Aff1.Aff0, a byte each.
    pub(crate) fn affinity(&self) -> u32 {
        self.affinity.load(Ordering::Relaxed)
    }

    /// What KVM_CREATE_VCPU was given.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The private bank as it lies, SGIs in the mailbox left there.
    pub(crate) fn lock_raw(&self) -> LockGuard<'_, Bank> {
        self.private.lock()
    }

    /// The private bank with all SGIs sent latched.
    pub(crate) fn lock_private(&self) -> LockGuard<'_, Bank> {
        let mut bank = self.private.lock();
        if self.work.load(Ordering::SeqCst) & WORK_SGIS != 0 {
            // In one step: a vCPU that enters the guest meanwhile must not
            // find its work gone.
            let old = self.work.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |work| {
                Some((work & !WORK_SGIS) | 1)
            });
            if let Ok(work) = old {
                bank.set_latch(((work & WORK_SGIS) >> WORK_SGI_SHIFT) as u32);
            }
        }
        bank
    }
}

/// The guest's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// A GICv3's distributor.
    Dist,
    /// A GICv2's distributor.
    DistV2,
    /// The redistributor of the vCPU with this index, both of its frames.
    Redist(u16),
}

/// Which SGI register was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiKind {
    /// ICC_SGI1R_EL1.
    Sgi1,
    /// ICC_ASGI1R_EL1: reaches SGIs configured as group 0 only, with DS=1.
    Asgi1,
    /// ICC_SGI0R_EL1.
    Sgi0,
}

/// What exists before initialisation, and the frames.
pub(crate) struct Setup {
    pub cpus: Vec<Arc<Cpu>>,
    /// 0 until set.
    pub nr_irqs: u32,
    pub regions: Regions,
}

/// What exists from initialisation on, and never moves again.
pub(crate) struct Live {
    pub cpus: Box<[Arc<Cpu>]>,
    /// Banks 1 and up.
    spis: Box<[Lock<Bank>]>,
    pub nr_irqs: u32,
    ctlr: AtomicU32,
    /// Affinity to index, sorted.
    by_affinity: Box<[(u32, u16)]>,
}

/// The vCPUs to tell of a change, each once.
pub(crate) struct Pokes {
    cpus: [u16; 32],
    count: usize,
}

impl Pokes {
    pub fn new() -> Self {
        Pokes { cpus: [NO_CPU; 32], count: 0 }
    }

    pub fn add(&mut self, cpu: u16) {
        let known = self.cpus.iter().take(self.count).any(|&other| other == cpu);
        if cpu != NO_CPU
            && !known
            && let Some(slot) = self.cpus.get_mut(self.count)
        {
            *slot = cpu;
            self.count = self.count.saturating_add(1);
        }
    }
}

impl Setup {
    fn check_frames(&self, ipa_bits: u8) -> Result<()> {
        self.regions.check(self.cpus.len(), ipa_bits)
    }
}

impl Live {
    pub fn gate(&self) -> Gate {
        let ctlr = self.ctlr.load(Ordering::Relaxed);
        // EnableGrp0 is bit 0, EnableGrp1 bit 1.
        Gate { group0: (ctlr & 1).wrapping_neg(), group1: (ctlr >> 1 & 1).wrapping_neg() }
    }

    pub fn ctlr(&self) -> u32 {
        self.ctlr.load(Ordering::Relaxed)
    }

    pub fn cpu(&self, index: usize) -> Option<&Cpu> {
        self.cpus.get(index).map(|cpu| &**cpu)
    }

    /// Bank `n` as `cpu` sees it: bank 0 is its own.
    pub fn lock_bank<'a>(&'a self, cpu: &'a Cpu, n: usize) -> Option<LockGuard<'a, Bank>> {
        match n.checked_sub(1) {
            None => Some(cpu.lock_private()),
            Some(spi) => self.spis.get(spi).map(|bank| bank.lock()),
        }
    }

    /// The vCPU with this Aff3.Aff2.Aff1.Aff0.
    pub fn find(&self, affinity: u32) -> Option<&Cpu> {
        // KVM's own numbering: 16 to a cluster.
        let guess =
            (affinity & 0xf) | ((affinity >> 8) & 0xff) << 4 | ((affinity >> 16) & 0xff) << 12;
        if let Some(cpu) = self.cpus.get(guess as usize)
            && cpu.affinity() == affinity
        {
            return Some(cpu);
        }
        self.search(affinity)
    }

    #[inline(never)]
    fn search(&self, affinity: u32) -> Option<&Cpu> {
        let at = self.by_affinity.binary_search_by_key(&affinity, |&(key, _)| key).ok()?;
        let (_, index) = *self.by_affinity.get(at)?;
        self.cpu(usize::from(index))
    }
}

/// The frames of a VM that runs.
struct Map {
    regions: Regions,
    /// They lie in here.
    start: u64,
    len: u64,
}

impl Map {
    fn new(regions: Regions) -> Map {
        let start = regions.frames().map(|(base, _)| base).min().unwrap_or(0);
        let end = regions.frames().map(|(base, len)| base.saturating_add(len)).max().unwrap_or(0);
        Map { regions, start, len: end.saturating_sub(start) }
    }
}

/// A VM's virtual interrupt controller.
pub struct Vgic {
    kick: Arc<dyn Kick>,
    pub(crate) config: Config,
    pub(crate) setup: Lock<Setup>,
    live: Once<Live>,
    map: Once<Map>,
    /// GICD_IIDR.Revision.
    pub(crate) revision: AtomicU32,
    /// GICv2: user space has confirmed the revision, and may write groups.
    pub(crate) groups_from_user: AtomicBool,
}

impl Vgic {
    /// A controller without vCPUs, not yet initialised.
    pub fn new(kick: Arc<dyn Kick>, config: Config) -> Vgic {
        let regions = Regions::new(config.version);
        let setup = Setup { cpus: Vec::new(), nr_irqs: 0, regions };
        Vgic {
            kick,
            config,
            setup: Lock::new(rank::VGIC, setup),
            live: Once::new(),
            map: Once::new(),
            revision: AtomicU32::new(3),
            groups_from_user: AtomicBool::new(false),
        }
    }

    /// Which GIC it is.
    pub fn version(&self) -> Version {
        self.config.version
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.config.version == Version::V2
    }

    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.get()
    }

    /// Adds a vCPU with KVM's number `id` and an MPIDR_EL1; returns its index.
    /// `EBUSY` once initialised, as KVM_CREATE_VCPU says.
    pub fn add_vcpu(&self, id: u32, mpidr: u64) -> Result<usize> {
        let mut setup = self.setup.lock();
        if self.live.is_completed() {
            return Err(Errno::EBUSY);
        }
        let at = setup.cpus.len();
        if at >= self.config.max_vcpus() {
            return Err(Errno::EINVAL);
        }
        setup.cpus.make_room(1)?;
        let index = at as u16;
        setup.cpus.push(Arc::new(Cpu {
            index,
            id,
            affinity: AtomicU32::new(mpidr_affinity(mpidr)),
            work: AtomicU64::new(0),
            private: Lock::new(rank::VGIC_CPU, Bank::private(index, &self.config)),
            last: AtomicU32::new(0),
            propbaser: AtomicU64::new(0),
            pendbaser: AtomicU64::new(0),
        }));
        setup.place_redists();
        Ok(at)
    }

    /// Changes a vCPU's MPIDR_EL1 (KVM_SET_ONE_REG); `EBUSY` once initialised.
    pub fn set_mpidr(&self, vcpu: usize, mpidr: u64) -> Result<()> {
        let setup = self.setup.lock();
        let cpu = setup.cpus.get(vcpu).ok_or(Errno::EINVAL)?;
        let affinity = mpidr_affinity(mpidr);
        if self.live.is_completed() && affinity != cpu.affinity() {
            return Err(Errno::EBUSY);
        }
        cpu.affinity.store(affinity, Ordering::Relaxed);
        Ok(())
    }

    /// The vCPU's side, for [`Cpu::needs_flush`].
    pub fn cpu(&self, vcpu: usize) -> Option<Arc<Cpu>> {
        self.setup.lock().cpus.get(vcpu).cloned()
    }

    /// KVM_DEV_ARM_VGIC_CTRL_INIT: from here on vCPUs and INTIDs are fixed.
    /// Once done, doing it again is fine.
    pub fn init(&self) -> Result<()> {
        let mut setup = self.setup.lock();
        if self.live.is_completed() {
            return Ok(());
        }
        if setup.cpus.is_empty() {
            return Err(Errno::ENODEV);
        }
        let nr_irqs = if setup.nr_irqs == 0 { DEFAULT_NR_IRQS } else { setup.nr_irqs };
        let mut cpus = room::try_vec(setup.cpus.len())?;
        cpus.extend(setup.cpus.iter().cloned());
        let mut by_affinity = room::try_vec(cpus.len())?;
        by_affinity.extend(cpus.iter().map(|cpu| (cpu.affinity(), cpu.index)));
        by_affinity.sort_unstable();
        // Where two claim the same affinity the first has it.
        by_affinity.dedup_by_key(|&mut (affinity, _)| affinity);
        let v2 = self.is_v2();
        let first =
            by_affinity.first().map_or(0, |&(affinity, cpu)| if affinity == 0 { cpu } else { 0 });
        let spi_banks = (nr_irqs >> 5).saturating_sub(1) as usize;
        let mut spis = room::try_vec(spi_banks)?;
        spis.resize_with(spi_banks, || Lock::new(rank::VGIC, Bank::shared(first, v2)));

        setup.nr_irqs = nr_irqs;
        self.live.call_once(|| Live {
            cpus: cpus.into_boxed_slice(),
            spis: spis.into_boxed_slice(),
            nr_irqs,
            ctlr: AtomicU32::new(0),
            by_affinity: by_affinity.into_boxed_slice(),
        });
        Ok(())
    }

    /// Whether [`Vgic::init`] has been.
    pub fn is_initialized(&self) -> bool {
        self.live.is_completed()
    }

    /// Before the first KVM_RUN: checks that every frame has its place and
    /// fixes them. `ENXIO` if one has none, `EINVAL` if they overlap or lie
    /// beyond the guest's addresses, `EBUSY` if not initialised (a GICv2 is, if
    /// need be: KVM_CREATE_IRQCHIP's has no device to say so).
    pub fn map_resources(&self) -> Result<()> {
        if self.is_v2() && !self.is_initialized() {
            self.setup.lock().check_frames(self.config.ipa_bits)?;
            self.init()?;
        }
        let setup = self.setup.lock();
        if self.map.is_completed() {
            return Ok(());
        }
        setup.check_frames(self.config.ipa_bits)?;
        if !self.live.is_completed() {
            return Err(Errno::EBUSY);
        }
        let regions = setup.regions.try_clone()?;
        self.map.call_once(|| Map::new(regions));
        Ok(())
    }

    /// Which frame a guest physical address is in, and where in it. `None`
    /// before [`Vgic::map_resources`].
    pub fn decode(&self, addr: u64) -> Option<(Region, u32)> {
        let map = self.map.get()?;
        // Most accesses to devices are to others.
        if addr.wrapping_sub(map.start) >= map.len { None } else { map.regions.decode(addr) }
    }

    /// Where in the guest's GICv2 CPU interface an address is, if it is there:
    /// the machine's GICV page is mapped for it. `None` before
    /// [`Vgic::map_resources`].
    pub fn cpu_interface(&self, addr: u64) -> Option<u64> {
        self.map.get()?.regions.cpu_interface(addr)
    }

    /// All frames, as (base, length); empty before [`Vgic::map_resources`].
    pub fn frames(&self) -> impl Iterator<Item = (u64, u64)> {
        self.map.get().into_iter().flat_map(|map| map.regions.frames())
    }

    pub(crate) fn ended(&self, intid: u32) {
        self.kick.ended(intid);
    }

    pub(crate) fn kick(&self, vcpu: usize) {
        self.kick.kick(vcpu);
    }

    /// Tells `cpu` that bank `n` may have something for it. `by` is the vCPU
    /// on whose behalf that happens: it looks by itself before it enters.
    pub(crate) fn poke(&self, live: &Live, cpu: u16, n: usize, by: Option<usize>) {
        let index = usize::from(cpu);
        if let Some(target) = live.cpu(index) {
            target.work.fetch_or(u64::from(bit(n)), Ordering::SeqCst);
            if by != Some(index) {
                self.kick.kick(index);
            }
        }
    }

    pub(crate) fn poke_all(&self, live: &Live, pokes: &Pokes, n: usize, by: Option<usize>) {
        for &cpu in pokes.cpus.iter().take(pokes.count) {
            self.poke(live, cpu, n, by);
        }
    }

    /// Changes bank `n` as `cpu` sees it and tells the vCPUs that the
    /// interrupts in the mask that `change` returns are for.
    pub(crate) fn change(
        &self,
        live: &Live,
        cpu: &Cpu,
        n: usize,
        by: Option<usize>,
        change: impl FnOnce(&mut Bank) -> u32,
    ) {
        let mut pokes = Pokes::new();
        {
            let Some(mut bank) = live.lock_bank(cpu, n) else { return };
            let changed = change(&mut bank);
            let matters = bank.inflight | bank.candidates(live.gate());
            for i in bits(changed & matters) {
                pokes.add(bank.cpu_of(i));
            }
        }
        self.poke_all(live, &pokes, n, by);
    }

    /// GICD_CTLR's group enables: every vCPU may have more, or less, to do.
    pub(crate) fn set_ctlr(&self, live: &Live, value: u32, by: Option<usize>) {
        let value = value & (GICD_CTLR_GRP0 | GICD_CTLR_GRP1);
        if live.ctlr.swap(value, Ordering::SeqCst) == value {
            return;
        }
        for cpu in &live.cpus {
            cpu.work.fetch_or(WORK_BANKS, Ordering::SeqCst);
            if by != Some(cpu.index()) {
                self.kick.kick(cpu.index());
            }
        }
    }

    /// As [`Vgic::live`]; a GICv2 is initialised by its first interrupt.
    fn live_or_init(&self) -> Result<&Live> {
        if self.is_v2() && self.live().is_none() {
            self.init()?;
        }
        self.live().ok_or(Errno::EBUSY)
    }

    /// Moves the input line of an SPI. Edge-triggered: a call with `true` is an
    /// edge. `EINVAL` if there is no such SPI, `EBUSY` before initialisation.
    pub fn inject_spi(&self, intid: u32, level: bool) -> Result<()> {
        let live = self.live_or_init()?;
        if intid < 32 || intid >= live.nr_irqs.min(FIRST_SPECIAL) {
            return Err(Errno::EINVAL);
        }
        let n = (intid >> 5) as usize;
        let cpu = {
            let spi = n.wrapping_sub(1);
            let mut bank = live.spis.get(spi).ok_or(Errno::EINVAL)?.lock();
            move_line(&mut bank, (intid & 31) as usize, level, live.gate())
        };
        self.poke(live, cpu, n, None);
        Ok(())
    }

    /// Moves the input line of a PPI of one vCPU. For an interrupt mapped to a
    /// physical one, `true` means that the physical one has fired and been
    /// acknowledged, so that it is active now.
    pub fn inject_ppi(&self, vcpu: usize, intid: u32, level: bool) -> Result<()> {
        let live = self.live_or_init()?;
        let cpu = live.cpu(vcpu).ok_or(Errno::EINVAL)?;
        if !(16..32).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        let target = {
            let mut bank = cpu.lock_private();
            move_line(&mut bank, intid as usize, level, live.gate())
        };
        self.poke(live, target, 0, None);
        Ok(())
    }

    /// Makes a PPI of one vCPU stand for physical interrupt `pintid`: the
    /// guest's end of interrupt deactivates that. `None` takes it back.
    pub fn map_phys(&self, vcpu: usize, intid: u32, pintid: Option<u16>) -> Result<()> {
        let setup = self.setup.lock();
        let cpu = setup.cpus.get(vcpu).ok_or(Errno::EINVAL)?;
        if !(16..32).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        let i = intid as usize;
        let mut bank = cpu.lock_private();
        match (pintid, bank.pintid.get_mut(i)) {
            (Some(pintid), Some(slot)) => {
                *slot = pintid;
                bank.mapped |= bit(i);
            }
            _ => {
                bank.mapped &= !bit(i);
                bank.forwarded &= !bit(i);
            }
        }
        Ok(())
    }

    /// The PPIs of a vCPU whose physical interrupts must be active while it is
    /// loaded on a CPU, as bits by INTID: they wait for the guest's end of
    /// interrupt. Where the vCPU is put, deactivate them.
    pub fn forwarded(&self, vcpu: usize) -> u32 {
        let cpu = self.live().and_then(|live| live.cpu(vcpu));
        cpu.map_or(0, |cpu| cpu.lock_raw().forwarded)
    }

    /// Whether somebody awaits the end of SPI `intid`, a level-sensitive one: its
    /// ends are then reported by [`Kick::ended`], with its line lowered.
    pub fn set_resample(&self, intid: u32, on: bool) -> Result<()> {
        let live = self.live().ok_or(Errno::EBUSY)?;
        if intid < 32 || intid >= live.nr_irqs {
            return Err(Errno::EINVAL);
        }
        let n = (intid >> 5) as usize;
        let any = live.cpu(0).ok_or(Errno::ENODEV)?;
        self.change(live, any, n, None, |bank| {
            let mask = bit((intid & 31) as usize);
            if on {
                bank.resample |= mask;
            } else {
                bank.resample &= !mask;
            }
            mask
        });
        Ok(())
    }

    /// A vCPU wrote ICC_SGI1R_EL1, ICC_ASGI1R_EL1 or ICC_SGI0R_EL1. Targets
    /// that don't exist are ignored.
    pub fn send_sgi(&self, vcpu: usize, value: u64, kind: SgiKind) {
        let Some(live) = self.live() else { return };
        let intid = (value >> 24) & 0xf;
        let sgi = 1u32.wrapping_shl(intid as u32);
        if value & (1 << 40) != 0 {
            // IRM: all but the sender.
            for cpu in &live.cpus {
                if cpu.index() != vcpu {
                    self.send_one(live, cpu, sgi, vcpu, kind);
                }
            }
            return;
        }
        let cluster = (((value >> 48) & 0xff) << 24)
            | (((value >> 32) & 0xff) << 16)
            | (((value >> 16) & 0xff) << 8)
            | (((value >> 44) & 0xf) << 4);
        for aff0 in bits((value & 0xffff) as u32) {
            if let Some(cpu) = live.find(cluster as u32 | aff0 as u32) {
                self.send_one(live, cpu, sgi, vcpu, kind);
            }
        }
    }

    fn send_one(&self, live: &Live, cpu: &Cpu, sgi: u32, by: usize, kind: SgiKind) {
        if kind == SgiKind::Sgi1 {
            // No lock: into the mailbox, the target latches it.
            let mail = u64::from(sgi) << WORK_SGI_SHIFT;
            if cpu.work.fetch_or(mail, Ordering::SeqCst) & mail == 0 && cpu.index() != by {
                self.kick.kick(cpu.index());
            }
            return;
        }
        self.change(live, cpu, 0, Some(by), |bank| {
            let reached = sgi & !bank.group;
            bank.set_latch(reached);
            reached
        });
    }
}

/// Moves a line in its bank; says which vCPU to tell. One that falls is told,
/// too: what waits in a list register is withdrawn, and the end of what is
/// active there need not be heard of any more.
fn move_line(bank: &mut Bank, i: usize, level: bool, gate: Gate) -> u16 {
    if !bank.set_line(i, level) {
        return NO_CPU;
    }
    // Forwarded ones matter even where the guest has them disabled: the next
    // flush notes that a physical interrupt is held active.
    let matters = bank.inflight | bank.candidates(gate) | bank.forwarded;
    if matters & bit(i) == 0 {
        return NO_CPU;
    }
    bank.cpu_of(i)
}

/// MPIDR_EL1 to Aff3.Aff2.Aff1.Aff0, a byte each.
pub(crate) fn mpidr_affinity(mpidr: u64) -> u32 {
    ((mpidr >> 8) as u32 & 0xff00_0000) | (mpidr as u32 & 0x00ff_ffff)
}

impl fmt::Debug for Vgic {
    /// Every interrupt that is pending, active or in flight.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(live) = self.live() else {
            return f.write_str("vgic: not initialised");
        };
        writeln!(f, "vgic: {} irqs, {} vcpus, ctlr {:#x}", live.nr_irqs, live.cpus.len(), {
            live.ctlr()
        })?;
        for cpu in &live.cpus {
            let work = cpu.work.load(Ordering::Relaxed);
            writeln!(f, "vcpu {}: affinity {:#x} work {work:#x}", cpu.index, cpu.affinity())?;
            let bank = cpu.lock_raw().clone();
            show(f, &bank, 0)?;
        }
        for (n, spis) in live.spis.iter().enumerate() {
            let bank = spis.lock().clone();
            show(f, &bank, n.saturating_add(1).saturating_mul(32))?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, bank: &Bank, first: usize) -> fmt::Result {
    for i in bits(bank.asserted() | bank.active | bank.inflight | bank.forwarded) {
        let flag = |word: u32, on: char| if word & bit(i) != 0 { on } else { '-' };
        writeln!(
            f,
            "  irq {:4} {}{}{}{}{}{}{} prio {:#04x} cpu {}",
            first.saturating_add(i),
            flag(bank.enabled, 'e'),
            flag(bank.latch, 'p'),
            flag(bank.line, 'l'),
            flag(bank.active, 'a'),
            flag(bank.inflight, 'f'),
            flag(bank.edge, 't'),
            flag(bank.forwarded, 'h'),
            bank.priority_of(i),
            bank.cpu_of(i),
        )?;
    }
    Ok(())
}
