//! What all CPUs can do: their ID registers, made one as they come up (policy
//! in `traps::common`). A CPU that can't do what the kernel already relies on
//! isn't used.

use arch::{guest_facts, sysreg};
use base::{Lock, rank};
use traps::{IdRegs, common, id};

/// What is common to the CPUs that run.
#[derive(Clone)]
pub struct Features {
    /// ID_AA64*_EL1.
    pub id: IdRegs,
    /// CTR_EL0.
    pub ctr: u64,
}

static COMMON: Lock<Option<Features>> = Lock::new(rank::KERNEL_MAP, None);

/// What this CPU has joins what the others have; or why it can't be used.
pub fn admit_cpu() -> Result<(), &'static str> {
    let this = this_cpu();
    let mut common = COMMON.lock();
    *common = Some(match &*common {
        None => this,
        Some(others) => {
            if let Some(missing) = common::missing(&others.id, &this.id) {
                return Err(missing);
            }
            let ctr = common::ctr(others.ctr, this.ctr).ok_or("caches of the same kind (CTR_EL0)")?;
            Features { id: common::features(&others.id, &this.id), ctr }
        }
    });
    Ok(())
}

/// What programs and guests may count on, on whatever CPU they run.
pub fn common() -> Features {
    COMMON.lock().clone().unwrap_or_else(this_cpu)
}

/// Four bits of a register in `traps::id`.
pub fn field(register: usize, shift: u32) -> u64 {
    arch::cpu::field(common().id.at(register), shift)
}

fn this_cpu() -> Features {
    let mut values = [0; id::COUNT];
    for (crm, op2) in (1..8).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        if let Some(value) = values.get_mut(id::index(crm, op2)) {
            *value = guest_facts::id_register(crm, op2);
        }
    }
    Features { id: IdRegs::new(values), ctr: sysreg::ctr_el0() }
}
