//! The controller against a simulated CPU interface and reference models.

mod attrs;
mod irqs;
mod model;
mod random;
mod threads;
mod v2;

use crate::attr::{GRP_CTRL, GRP_NR_IRQS, Stopped, Vcpus};
use crate::lr::Lr;
use crate::{
    Config, ICH_HCR_EOICOUNT_SHIFT, ICH_HCR_LRENPIE, ICH_HCR_NPIE, ICH_HCR_UIE, Kick,
    ListRegisters, Region, SgiKind, Version, Vgic,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use base::{Errno, Result, UserMem};
use std::cell::{RefCell, RefMut};
use std::sync::Mutex;

/// 4 list registers, 5 priority bits, 16 INTID bits.
pub const VTR: u64 = 0x9000_0003 | 1 << 19;

#[derive(Default)]
pub struct Kicks(Mutex<Vec<usize>>, Mutex<Vec<u32>>);

impl Kick for Kicks {
    fn kick(&self, vcpu: usize) {
        self.0.lock().unwrap().push(vcpu);
    }
    fn ended(&self, intid: u32) {
        self.1.lock().unwrap().push(intid);
    }
}

/// 256 bytes of user memory at address 0x1000.
pub struct Memory(RefCell<[u8; 256]>);

impl UserMem for Memory {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        let at = addr.checked_sub(0x1000).ok_or(Errno::EFAULT)? as usize;
        out.copy_from_slice(self.0.borrow().get(at..at + out.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        let at = addr.checked_sub(0x1000).ok_or(Errno::EFAULT)? as usize;
        let mut memory = self.0.borrow_mut();
        memory.get_mut(at..at + data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
        Ok(())
    }
}

/// A VM: the controller, and what the hardware would hold.
pub struct Machine {
    pub vgic: Vgic,
    pub kicks: Arc<Kicks>,
    pub lrs: RefCell<Vec<ListRegisters>>,
    /// A vCPU is in KVM_RUN.
    pub running: bool,
    /// Levels of the lines of mapped PPIs, all vCPUs alike.
    pub lines: u32,
    /// Physical interrupts that ended, by the guest or by us.
    pub deactivated: Vec<u16>,
}

pub struct Guard<'a>(RefMut<'a, Vec<ListRegisters>>);

impl Stopped for Guard<'_> {
    fn interface(&mut self, vcpu: usize) -> Option<&mut ListRegisters> {
        self.0.get_mut(vcpu)
    }
}

impl Vcpus for Machine {
    fn stop(&self) -> Result<Box<dyn Stopped + '_>> {
        if self.running {
            return Err(Errno::EBUSY);
        }
        Ok(Box::new(Guard(self.lrs.borrow_mut())))
    }
}

pub const SGI_FRAME: u32 = 0x1_0000;

impl Machine {
    /// `vcpus` vCPUs, nothing initialised.
    pub fn bare(vcpus: usize) -> Machine {
        Machine::bare_of(Version::V3, vcpus)
    }

    pub fn bare_of(version: Version, vcpus: usize) -> Machine {
        Machine::with_config(Machine::config(version), vcpus)
    }

    pub fn config(version: Version) -> Config {
        Config { version, vtr: VTR, ipa_bits: 40, deactivates: true }
    }

    pub fn with_config(config: Config, vcpus: usize) -> Machine {
        let kicks = Arc::new(Kicks::default());
        let vgic = Vgic::new(kicks.clone(), config);
        for vcpu in 0..vcpus as u64 {
            let mpidr = (vcpu & 0xf) | (vcpu >> 4) << 8 | 1 << 31;
            assert_eq!(vgic.add_vcpu(vcpu as u32, mpidr), Ok(vcpu as usize));
        }
        let mut interface = ListRegisters::new();
        // All priorities pass, both groups on.
        interface.vmcr = 0xf800_0003;
        Machine {
            vgic,
            kicks,
            lrs: RefCell::new(vec![interface; vcpus]),
            running: false,
            lines: 0,
            deactivated: Vec::new(),
        }
    }

    /// The same, initialised and enabled, with all SPIs routed to vCPU 0.
    pub fn new(vcpus: usize) -> Machine {
        Machine::with_irqs(vcpus, 256)
    }

    /// The same with so many INTIDs.
    pub fn with_irqs(vcpus: usize, nr_irqs: u32) -> Machine {
        let machine = Machine::bare(vcpus);
        let memory = Memory(RefCell::new([0; 256]));
        memory.write(0x1000, &nr_irqs.to_le_bytes()).unwrap();
        machine.vgic.set_attr(GRP_NR_IRQS, 0, &memory, 0x1000, &machine).unwrap();
        machine.vgic.set_attr(GRP_CTRL, 0, &memory, 0, &machine).unwrap();
        machine.write(0, Region::Dist, 0, 3);
        machine.kicks.0.lock().unwrap().clear();
        for vcpu in 0..vcpus {
            machine.vgic.cpu(vcpu).unwrap().work.store(0, core::sync::atomic::Ordering::SeqCst);
        }
        machine
    }

    /// What resamplers heard.
    pub fn ended(&self) -> Vec<u32> {
        core::mem::take(&mut *self.kicks.1.lock().unwrap())
    }

    pub fn kicked(&self) -> Vec<usize> {
        core::mem::take(&mut *self.kicks.0.lock().unwrap())
    }

    pub fn write(&self, vcpu: usize, region: Region, offset: u32, value: u32) {
        self.vgic.mmio_write(vcpu, region, offset, 4, value.into());
    }

    pub fn read(&self, vcpu: usize, region: Region, offset: u32) -> u32 {
        self.vgic.mmio_read(vcpu, region, offset, 4) as u32
    }

    fn absorb(&mut self, vcpu: usize, out: crate::Outcome) {
        let cpu = self.vgic.cpu(vcpu).unwrap();
        for intid in crate::bank::bits(out.deactivate) {
            self.deactivated.push(cpu.lock_raw().pintid[intid]);
        }
    }

    pub fn sync(&mut self, vcpu: usize) {
        let lines = self.lines;
        let out = self.vgic.sync(vcpu, &mut self.lrs.borrow_mut()[vcpu], lines);
        self.absorb(vcpu, out);
    }

    pub fn flush(&mut self, vcpu: usize) {
        let lines = self.lines;
        let out = self.vgic.flush(vcpu, &mut self.lrs.borrow_mut()[vcpu], lines);
        self.absorb(vcpu, out);
        self.check();
    }

    /// Into the guest: flushes as long as that is asked for.
    pub fn enter(&mut self, vcpu: usize) {
        for _ in 0..4 {
            if !self.vgic.cpu(vcpu).unwrap().needs_flush() {
                return;
            }
            self.flush(vcpu);
        }
        panic!("flushing doesn't end");
    }

    /// ICH_MISR_EL2, as far as it is used.
    fn maintenance(&self, vcpu: usize) -> bool {
        let lrs = &self.lrs.borrow()[vcpu];
        let all: Vec<Lr> = lrs.in_use().iter().map(|&lr| Lr::decode(lr)).collect();
        let valid = all.iter().filter(|lr| lr.pending || lr.active).count();
        all.iter().any(|lr| lr.eoi && !lr.pending && !lr.active)
            || lrs.hcr & ICH_HCR_UIE != 0 && valid <= 1
            || lrs.hcr & ICH_HCR_NPIE != 0 && !all.iter().any(|lr| lr.pending && !lr.active)
            || lrs.hcr & ICH_HCR_LRENPIE != 0 && lrs.hcr >> ICH_HCR_EOICOUNT_SHIFT & 0x1f != 0
    }

    fn serve_maintenance(&mut self, vcpu: usize) {
        for _ in 0..4 {
            if !self.maintenance(vcpu) {
                return;
            }
            self.flush(vcpu);
        }
        panic!("maintenance doesn't end");
    }

    /// The guest reads ICC_IAR1_EL1 (priorities of active ones left aside).
    pub fn ack(&mut self, vcpu: usize) -> Option<u32> {
        self.enter(vcpu);
        let intid = {
            let lrs = &mut self.lrs.borrow_mut()[vcpu];
            let used = usize::from(lrs.used);
            let best = (0..used)
                .filter(|&at| {
                    let lr = Lr::decode(lrs.lr[at]);
                    lr.pending && !lr.active
                })
                .min_by_key(|&at| Lr::decode(lrs.lr[at]).priority)?;
            let mut lr = Lr::decode(lrs.lr[best]);
            lr.pending = false;
            lr.active = true;
            lrs.lr[best] = lr.encode();
            lr.intid
        };
        self.serve_maintenance(vcpu);
        Some(intid)
    }

    /// The guest writes ICC_EOIR1_EL1.
    pub fn eoi(&mut self, vcpu: usize, intid: u32) {
        self.enter(vcpu);
        {
            let lrs = &mut self.lrs.borrow_mut()[vcpu];
            let used = usize::from(lrs.used);
            let at = (0..used).find(|&at| {
                let lr = Lr::decode(lrs.lr[at]);
                lr.active && lr.intid == intid
            });
            match at {
                Some(at) => {
                    let mut lr = Lr::decode(lrs.lr[at]);
                    lr.active = false;
                    lrs.lr[at] = lr.encode();
                    if let Some(pintid) = lr.hw {
                        self.deactivated.push(pintid);
                    }
                }
                None => lrs.hcr += 1 << ICH_HCR_EOICOUNT_SHIFT,
            }
        }
        self.serve_maintenance(vcpu);
    }

    /// Whether the SGI went into its list register at once.
    pub fn send_to_self(&self, vcpu: usize, sgi: usize) -> bool {
        let lrs = &mut self.lrs.borrow_mut()[vcpu];
        let hardware = lrs.lr;
        self.vgic.send_to_self(vcpu, sgi, lrs, |slot| hardware[slot]).is_some()
    }

    /// What must hold at any time.
    pub fn check(&self) {
        let all = self.lrs.borrow();
        let mut spis = Vec::new();
        for lrs in all.iter() {
            let mut mine = Vec::new();
            for &lr in &lrs.lr[..usize::from(lrs.used)] {
                let mut lr = Lr::decode(lr);
                lr.intid &= 0x3ff;
                assert!(!mine.contains(&lr.intid), "{} twice on one vCPU", lr.intid);
                mine.push(lr.intid);
                if lr.intid >= 32 {
                    assert!(!spis.contains(&lr.intid), "{} on two vCPUs", lr.intid);
                    spis.push(lr.intid);
                }
            }
            assert!(lrs.lr[usize::from(lrs.used)..].iter().all(|&lr| lr == 0));
            assert!(usize::from(lrs.used) <= 4);
        }
    }
}

/// ICC_SGI1R_EL1 for one target list.
pub fn sgi1r(aff: u64, list: u64, intid: u64) -> u64 {
    intid << 24 | list | (aff & 0xff) << 16 | (aff >> 8 & 0xff) << 32
}

pub fn send(machine: &Machine, from: usize, value: u64) {
    machine.vgic.send_sgi(from, value, SgiKind::Sgi1);
}
