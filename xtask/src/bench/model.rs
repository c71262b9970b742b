//! Cycles by a model: published costs of single items on real cores, times how
//! often the plugin saw them. Not a measurement.

use super::events::{What, Window};
use super::instruction;

/// What a trap to a higher level and the return from it cost: 68 to 76 and 65 cycles
/// between EL1 and EL2 (Lim et al., "NEVE", SOSP 2017).
const TRAP: u64 = 72;
const RETURN: u64 = 65;
/// KVM/ARM saved its EL1 system registers in 230 cycles and restored them in 511
/// (Dall et al., "ARM Virtualization: Performance and Architectural Implications",
/// ISCA 2016, table III). The paper doesn't say how many they were: 25 is our count of
/// the registers that KVM/ARM switched then.
const REGISTERS: u64 = 25;
const SAVE: u64 = 230;
const RESTORE: u64 = 511;

/// Said wherever the number is shown.
pub const CAVEAT: &str = "\
cycles (model), without barriers and TLBI: one for each instruction, 72 for each exception to a
higher level and 65 for each return (NEVE, SOSP 2017), 230/25 for each MRS and 511/25 for each MSR
of a register (ISCA 2016, table III, X-Gene). An MSR of a PSTATE field, ISB, DSB and TLBI are an
instruction like any other. A model: caches, TLBs and everything since 2016 are not in it.";

/// A window's cycles by the model.
pub fn cycles(window: &Window) -> u64 {
    let sums = window.sums(None);
    let returns = sums.el_changes - sums.traps;
    let pstate = |what| matches!(what, What::System(opcode) if instruction::writes_pstate(opcode));
    let pstate = window.events.iter().filter(|event| pstate(event.what)).count() as u64;
    let writes = sums.sysreg_writes - pstate;
    let registers = sums.sysreg_reads * SAVE + writes * RESTORE;
    window.instructions.saturating_sub(sums.sysreg_reads + writes)
        + sums.traps * TRAP
        + returns * RETURN
        + registers / REGISTERS
}

#[cfg(test)]
mod tests {
    use super::super::events::{Event, Lane, What};
    use super::*;

    #[test]
    fn sum() {
        let event = |lane, what| Event { cpu: 0, at: 0, own: 0, lane, what };
        let window = Window {
            instructions: 100,
            events: vec![
                event(Lane::El2, What::From(Lane::GuestEl1)),
                event(Lane::El2, What::System(0xd53c_5206)),
                event(Lane::El2, What::System(0xd51c_1100)),
                // DAIFSet and ISB: an instruction each.
                event(Lane::El2, What::System(0xd503_42df)),
                event(Lane::El2, What::System(0xd503_3fdf)),
                event(Lane::GuestEl1, What::From(Lane::El2)),
            ],
            ..Window::default()
        };
        assert_eq!(cycles(&window), 98 + 72 + 65 + (230 + 511) / 25);
    }
}
