//! The virtual CPU interface of a GICv3. (A GICv2's is device memory: the host
//! switches it by itself.)

use hyp_abi::Gic;
use world_switch::gic as ich;

/// ICH_HCR_EL2.EOIcount: ends of interrupts that no list register holds.
const EOICOUNT: u64 = 0x1f << 27;
/// ICH_HCR_EL2.En alone: no maintenance interrupt but for EOI.
const EN: u64 = 1;

/// How many registers this CPU's interface has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// ICH_VTR_EL2; 0 without a GICv3.
    pub vtr: u64,
    lrs: u8,
    groups: u8,
}

impl Shape {
    /// As ICH_VTR_EL2 says.
    pub fn of_this_cpu(gicv3: bool) -> Shape {
        if !gicv3 {
            return Shape::default();
        }
        let vtr = ich::vtr();
        // PREbits, less one: a register of active priorities for 32 of them.
        let groups = match vtr >> 26 & 7 {
            6.. => 4,
            5 => 2,
            _ => 1,
        };
        Shape { vtr, lrs: (vtr as u8 & 15).wrapping_add(1), groups }
    }

    /// All of it, for a vCPU that is new here.
    #[inline(never)]
    pub fn load(&self, gic: &Gic) {
        let [a0, a1, a2, a3] = gic.ap0r.map(u64::from);
        let [b0, b1, b2, b3] = gic.ap1r.map(u64::from);
        // SAFETY: the registers exist, the values are the guest's. The host has
        // set its own interface up long ago.
        unsafe {
            ich::keep_guests_in_system_registers();
            ich::set_vmcr(gic.vmcr);
            ich::set_ap0r0(a0);
            ich::set_ap1r0(b0);
            if self.groups > 1 {
                ich::set_ap0r1(a1);
                ich::set_ap1r1(b1);
            }
            if self.groups > 2 {
                ich::set_ap0r2(a2);
                ich::set_ap1r2(b2);
                ich::set_ap0r3(a3);
                ich::set_ap1r3(b3);
            }
            ich::write_lrs(gic.lr.get(..usize::from(self.lrs)).unwrap_or_default());
        }
    }

    /// What the exits leave in the registers.
    pub fn put(&self, gic: &mut Gic) {
        let [a0, a1, a2, a3] = &mut gic.ap0r;
        let [b0, b1, b2, b3] = &mut gic.ap1r;
        *a0 = ich::ap0r0() as u32;
        *b0 = ich::ap1r0() as u32;
        if self.groups > 1 {
            *a1 = ich::ap0r1() as u32;
            *b1 = ich::ap1r1() as u32;
        }
        if self.groups > 2 {
            *a2 = ich::ap0r2() as u32;
            *b2 = ich::ap1r2() as u32;
            *a3 = ich::ap0r3() as u32;
            *b3 = ich::ap1r3() as u32;
        }
    }

    /// Before the guest runs: the first `write` list registers changed.
    #[inline]
    pub fn enter(&self, gic: &Gic, write: u64) {
        let write = (write as usize).min(usize::from(self.lrs));
        // SAFETY: they exist, the values are the guest's.
        unsafe { ich::write_lrs(gic.lr.get(..write).unwrap_or_default()) };
        // SAFETY: as above.
        unsafe { ich::set_hcr(gic.hcr) };
    }

    /// After it ran: what it may have changed. With ICH_HCR_EL2 cleared, no
    /// maintenance interrupt reaches the host: MISR says if there was a reason.
    #[inline]
    pub fn leave(&self, gic: &mut Gic) {
        gic.vmcr = ich::vmcr();
        gic.misr = 0;
        let used = (gic.used as usize).min(usize::from(self.lrs));
        if used != 0 || gic.hcr != EN {
            ich::read_lrs(gic.lr.get_mut(..used).unwrap_or_default());
            gic.hcr = gic.hcr & !EOICOUNT | ich::hcr() & EOICOUNT;
            gic.misr = ich::misr();
        }
        // SAFETY: nothing is delivered while the host runs.
        unsafe { ich::set_hcr(0) };
    }
}
