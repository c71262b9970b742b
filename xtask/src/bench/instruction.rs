//! System instructions by their encoding (Arm ARM, C4.1.66 "Branches, Exception
//! Generating and System instructions", and D24 for the registers' names).

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// MRS.
    Read,
    /// MSR, of a register or of a PSTATE field.
    Write,
    Isb,
    Dsb,
    Tlbi,
    Eret,
    /// HVC, SMC, SVC.
    Call,
    /// WFI, WFE.
    Wait,
    Other,
}

pub fn kind(opcode: u32) -> Kind {
    let (op0, op1, crn, _, op2) = fields(opcode);
    match opcode {
        _ if opcode >> 24 == 0xd4 => Kind::Call,
        // ERET, ERETAA, ERETAB.
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => Kind::Eret,
        0xd503_205f | 0xd503_207f => Kind::Wait,
        _ if opcode >> 20 == 0xd53 => Kind::Read,
        _ if opcode >> 20 == 0xd51 => Kind::Write,
        _ if opcode >> 22 != 0xd5 << 2 => Kind::Other,
        _ if (op0, op1, crn) == (0, 3, 3) => match op2 {
            6 => Kind::Isb,
            4 | 1 => Kind::Dsb,
            _ => Kind::Other,
        },
        // MSR (immediate): op0 0, CRn 4.
        _ if op0 == 0 && crn == 4 => Kind::Write,
        _ if op0 == 1 && crn == 8 => Kind::Tlbi,
        _ => Kind::Other,
    }
}

/// Is it MSR (immediate), which writes a field of PSTATE and no register?
pub fn writes_pstate(opcode: u32) -> bool {
    kind(opcode) == Kind::Write && fields(opcode).0 == 0
}

fn fields(opcode: u32) -> (u32, u32, u32, u32, u32) {
    let field = |at: u32, width: u32| opcode >> at & ((1 << width) - 1);
    // op0 is two bits wide with L above it; for MRS and MSR it is 2 or 3.
    (field(19, 2), field(16, 3), field(12, 4), field(8, 4), field(5, 3))
}

/// The register that MRS or MSR names, or the instruction.
pub fn name(opcode: u32) -> String {
    let (op0, op1, crn, crm, op2) = fields(opcode);
    match kind(opcode) {
        Kind::Read | Kind::Write if op0 == 0 => match (op1, op2) {
            (0, 4) => "PAN".into(),
            (0, 3) => "UAO".into(),
            (0, 5) => "SPSel".into(),
            (3, 1) => "SSBS".into(),
            (3, 2) => "DIT".into(),
            (3, 4) => "TCO".into(),
            (3, 6) => "DAIFSet".into(),
            (3, 7) => "DAIFClr".into(),
            _ => format!("PSTATE field {op1}:{op2}"),
        },
        Kind::Read | Kind::Write => {
            let key = (op0, op1, crn, crm, op2);
            let known = REGISTERS.iter().find(|(k, _)| *k == key);
            known.map_or_else(|| family(op0, op1, crn, crm, op2), |(_, name)| (*name).to_string())
        }
        Kind::Isb => "ISB".into(),
        Kind::Dsb => "DSB".into(),
        Kind::Tlbi => "TLBI".into(),
        Kind::Eret => "ERET".into(),
        Kind::Wait if opcode == 0xd503_205f => "WFE".into(),
        Kind::Wait => "WFI".into(),
        Kind::Call => match opcode & 3 {
            1 => "SVC".into(),
            2 => "HVC".into(),
            3 => "SMC".into(),
            _ => "BRK".into(),
        },
        Kind::Other => match (op0, crn, op2) {
            (0, 3, 5) => "DMB".into(),
            (0, 3, 7) => "SB".into(),
            (1, 7, _) if crm == 8 => "AT".into(),
            (1, 7, _) => "cache maintenance".into(),
            _ => format!("S{op0}_{op1}_C{crn}_C{crm}_{op2}"),
        },
    }
}

/// Registers that come in numbers.
fn family(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> String {
    match (op0, op1, crn, crm) {
        (3, 4, 12, 12 | 13) => format!("ICH_LR{}_EL2", (crm & 1) * 8 + op2),
        (3, 4, 12, 8) => format!("ICH_AP0R{op2}_EL2"),
        (3, 4, 12, 9) => format!("ICH_AP1R{op2}_EL2"),
        (2, 0, 0, n) if op2 == 4 => format!("DBGBVR{n}_EL1"),
        (2, 0, 0, n) if op2 == 5 => format!("DBGBCR{n}_EL1"),
        (2, 0, 0, n) if op2 == 6 => format!("DBGWVR{n}_EL1"),
        (2, 0, 0, n) if op2 == 7 => format!("DBGWCR{n}_EL1"),
        (3, 0, 0, _) => format!("ID register {crm}:{op2}"),
        _ => format!("S{op0}_{op1}_C{crn}_C{crm}_{op2}"),
    }
}

type Key = (u32, u32, u32, u32, u32);

const REGISTERS: &[(Key, &str)] = &[
    ((3, 0, 0, 0, 0), "MIDR_EL1"),
    ((3, 0, 0, 0, 5), "MPIDR_EL1"),
    ((3, 0, 0, 4, 0), "ID_AA64PFR0_EL1"),
    ((3, 0, 0, 5, 0), "ID_AA64DFR0_EL1"),
    ((3, 0, 1, 0, 0), "SCTLR_EL1"),
    ((3, 0, 1, 0, 1), "ACTLR_EL1"),
    ((3, 0, 1, 0, 2), "CPACR_EL1"),
    ((3, 0, 1, 0, 3), "SCTLR2_EL1"),
    ((3, 0, 1, 2, 0), "ZCR_EL1"),
    ((3, 0, 2, 0, 0), "TTBR0_EL1"),
    ((3, 0, 2, 0, 1), "TTBR1_EL1"),
    ((3, 0, 2, 0, 2), "TCR_EL1"),
    ((3, 0, 2, 0, 3), "TCR2_EL1"),
    ((3, 0, 2, 1, 0), "APIAKeyLo_EL1"),
    ((3, 0, 2, 1, 1), "APIAKeyHi_EL1"),
    ((3, 0, 2, 1, 2), "APIBKeyLo_EL1"),
    ((3, 0, 2, 1, 3), "APIBKeyHi_EL1"),
    ((3, 0, 2, 2, 0), "APDAKeyLo_EL1"),
    ((3, 0, 2, 2, 1), "APDAKeyHi_EL1"),
    ((3, 0, 2, 2, 2), "APDBKeyLo_EL1"),
    ((3, 0, 2, 2, 3), "APDBKeyHi_EL1"),
    ((3, 0, 2, 3, 0), "APGAKeyLo_EL1"),
    ((3, 0, 2, 3, 1), "APGAKeyHi_EL1"),
    ((3, 0, 4, 0, 0), "SPSR_EL1"),
    ((3, 0, 4, 0, 1), "ELR_EL1"),
    ((3, 0, 4, 1, 0), "SP_EL0"),
    ((3, 0, 4, 2, 0), "SPSel"),
    ((3, 0, 4, 2, 2), "CurrentEL"),
    ((3, 0, 4, 2, 3), "PAN"),
    ((3, 0, 4, 6, 0), "ICC_PMR_EL1"),
    ((3, 0, 5, 1, 0), "AFSR0_EL1"),
    ((3, 0, 5, 1, 1), "AFSR1_EL1"),
    ((3, 0, 5, 2, 0), "ESR_EL1"),
    ((3, 0, 5, 6, 1), "TFSRE0_EL1"),
    ((3, 0, 5, 6, 0), "TFSR_EL1"),
    ((3, 0, 6, 0, 0), "FAR_EL1"),
    ((3, 0, 7, 4, 0), "PAR_EL1"),
    ((3, 0, 9, 9, 0), "PMSCR_EL1"),
    ((3, 0, 9, 14, 1), "PMINTENSET_EL1"),
    ((3, 0, 10, 2, 0), "MAIR_EL1"),
    ((3, 0, 10, 2, 2), "PIRE0_EL1"),
    ((3, 0, 10, 2, 3), "PIR_EL1"),
    ((3, 0, 10, 3, 0), "AMAIR_EL1"),
    ((3, 0, 12, 0, 0), "VBAR_EL1"),
    ((3, 0, 12, 1, 0), "ISR_EL1"),
    ((3, 0, 12, 1, 1), "DISR_EL1"),
    ((3, 0, 12, 8, 3), "ICC_BPR0_EL1"),
    ((3, 0, 12, 11, 1), "ICC_DIR_EL1"),
    ((3, 0, 12, 11, 3), "ICC_RPR_EL1"),
    ((3, 0, 12, 11, 5), "ICC_SGI1R_EL1"),
    ((3, 0, 12, 12, 0), "ICC_IAR1_EL1"),
    ((3, 0, 12, 12, 1), "ICC_EOIR1_EL1"),
    ((3, 0, 12, 12, 2), "ICC_HPPIR1_EL1"),
    ((3, 0, 12, 12, 3), "ICC_BPR1_EL1"),
    ((3, 0, 12, 12, 4), "ICC_CTLR_EL1"),
    ((3, 0, 12, 12, 5), "ICC_SRE_EL1"),
    ((3, 0, 12, 12, 6), "ICC_IGRPEN0_EL1"),
    ((3, 0, 12, 12, 7), "ICC_IGRPEN1_EL1"),
    ((3, 0, 13, 0, 1), "CONTEXTIDR_EL1"),
    ((3, 0, 13, 0, 4), "TPIDR_EL1"),
    ((3, 0, 14, 1, 0), "CNTKCTL_EL1"),
    ((3, 1, 0, 0, 1), "CLIDR_EL1"),
    ((3, 2, 0, 0, 0), "CSSELR_EL1"),
    ((3, 3, 0, 0, 1), "CTR_EL0"),
    ((3, 3, 0, 0, 7), "DCZID_EL0"),
    ((3, 3, 4, 2, 0), "NZCV"),
    ((3, 3, 4, 2, 1), "DAIF"),
    ((3, 3, 4, 2, 5), "DIT"),
    ((3, 3, 4, 2, 6), "SSBS"),
    ((3, 3, 4, 2, 7), "TCO"),
    ((3, 3, 4, 4, 0), "FPCR"),
    ((3, 3, 4, 4, 1), "FPSR"),
    ((3, 3, 4, 5, 0), "DSPSR_EL0"),
    ((3, 3, 9, 12, 0), "PMCR_EL0"),
    ((3, 3, 9, 12, 1), "PMCNTENSET_EL0"),
    ((3, 3, 9, 12, 2), "PMCNTENCLR_EL0"),
    ((3, 3, 9, 12, 5), "PMSELR_EL0"),
    ((3, 3, 9, 13, 0), "PMCCNTR_EL0"),
    ((3, 3, 9, 14, 0), "PMUSERENR_EL0"),
    ((3, 3, 13, 0, 2), "TPIDR_EL0"),
    ((3, 3, 13, 0, 3), "TPIDRRO_EL0"),
    ((3, 3, 13, 0, 5), "TPIDR2_EL0"),
    ((3, 3, 14, 0, 0), "CNTFRQ_EL0"),
    ((3, 3, 14, 0, 1), "CNTPCT_EL0"),
    ((3, 3, 14, 0, 2), "CNTVCT_EL0"),
    ((3, 3, 14, 0, 5), "CNTPCTSS_EL0"),
    ((3, 3, 14, 0, 6), "CNTVCTSS_EL0"),
    ((3, 3, 14, 2, 0), "CNTP_TVAL_EL0"),
    ((3, 3, 14, 2, 1), "CNTP_CTL_EL0"),
    ((3, 3, 14, 2, 2), "CNTP_CVAL_EL0"),
    ((3, 3, 14, 3, 0), "CNTV_TVAL_EL0"),
    ((3, 3, 14, 3, 1), "CNTV_CTL_EL0"),
    ((3, 3, 14, 3, 2), "CNTV_CVAL_EL0"),
    ((3, 4, 0, 0, 0), "VPIDR_EL2"),
    ((3, 4, 0, 0, 5), "VMPIDR_EL2"),
    ((3, 4, 1, 0, 0), "SCTLR_EL2"),
    ((3, 4, 1, 0, 1), "ACTLR_EL2"),
    ((3, 4, 1, 1, 0), "HCR_EL2"),
    ((3, 4, 1, 1, 1), "MDCR_EL2"),
    ((3, 4, 1, 1, 2), "CPTR_EL2"),
    ((3, 4, 1, 1, 3), "HSTR_EL2"),
    ((3, 4, 1, 1, 4), "HFGRTR_EL2"),
    ((3, 4, 1, 1, 5), "HFGWTR_EL2"),
    ((3, 4, 1, 1, 6), "HFGITR_EL2"),
    ((3, 4, 1, 1, 7), "HACR_EL2"),
    ((3, 4, 1, 2, 0), "ZCR_EL2"),
    ((3, 4, 1, 2, 2), "HCRX_EL2"),
    ((3, 4, 2, 0, 0), "TTBR0_EL2"),
    ((3, 4, 2, 0, 1), "TTBR1_EL2"),
    ((3, 4, 2, 0, 2), "TCR_EL2"),
    ((3, 4, 2, 1, 0), "VTTBR_EL2"),
    ((3, 4, 2, 1, 2), "VTCR_EL2"),
    ((3, 4, 3, 1, 4), "HDFGRTR_EL2"),
    ((3, 4, 3, 1, 5), "HDFGWTR_EL2"),
    ((3, 4, 3, 1, 6), "HAFGRTR_EL2"),
    ((3, 4, 4, 0, 0), "SPSR_EL2"),
    ((3, 4, 4, 0, 1), "ELR_EL2"),
    ((3, 4, 4, 1, 0), "SP_EL1"),
    ((3, 4, 5, 1, 0), "AFSR0_EL2"),
    ((3, 4, 5, 1, 1), "AFSR1_EL2"),
    ((3, 4, 5, 2, 0), "ESR_EL2"),
    ((3, 4, 5, 2, 3), "VSESR_EL2"),
    ((3, 4, 6, 0, 0), "FAR_EL2"),
    ((3, 4, 6, 0, 4), "HPFAR_EL2"),
    ((3, 4, 10, 2, 0), "MAIR_EL2"),
    ((3, 4, 12, 0, 0), "VBAR_EL2"),
    ((3, 4, 12, 1, 1), "VDISR_EL2"),
    ((3, 4, 12, 9, 5), "ICC_SRE_EL2"),
    ((3, 4, 12, 11, 0), "ICH_HCR_EL2"),
    ((3, 4, 12, 11, 1), "ICH_VTR_EL2"),
    ((3, 4, 12, 11, 2), "ICH_MISR_EL2"),
    ((3, 4, 12, 11, 3), "ICH_EISR_EL2"),
    ((3, 4, 12, 11, 5), "ICH_ELRSR_EL2"),
    ((3, 4, 12, 11, 7), "ICH_VMCR_EL2"),
    ((3, 4, 13, 0, 1), "CONTEXTIDR_EL2"),
    ((3, 4, 13, 0, 2), "TPIDR_EL2"),
    ((3, 4, 14, 0, 3), "CNTVOFF_EL2"),
    ((3, 4, 14, 0, 6), "CNTPOFF_EL2"),
    ((3, 4, 14, 1, 0), "CNTHCTL_EL2"),
    ((3, 4, 14, 2, 1), "CNTHP_CTL_EL2"),
    ((3, 4, 14, 2, 2), "CNTHP_CVAL_EL2"),
    ((3, 5, 1, 0, 0), "SCTLR_EL12"),
    ((3, 5, 1, 0, 2), "CPACR_EL12"),
    ((3, 5, 1, 2, 0), "ZCR_EL12"),
    ((3, 5, 2, 0, 0), "TTBR0_EL12"),
    ((3, 5, 2, 0, 1), "TTBR1_EL12"),
    ((3, 5, 2, 0, 2), "TCR_EL12"),
    ((3, 5, 2, 0, 3), "TCR2_EL12"),
    ((3, 5, 4, 0, 0), "SPSR_EL12"),
    ((3, 5, 4, 0, 1), "ELR_EL12"),
    ((3, 5, 5, 1, 0), "AFSR0_EL12"),
    ((3, 5, 5, 1, 1), "AFSR1_EL12"),
    ((3, 5, 5, 2, 0), "ESR_EL12"),
    ((3, 5, 6, 0, 0), "FAR_EL12"),
    ((3, 5, 10, 2, 0), "MAIR_EL12"),
    ((3, 5, 10, 2, 2), "PIRE0_EL12"),
    ((3, 5, 10, 2, 3), "PIR_EL12"),
    ((3, 5, 10, 3, 0), "AMAIR_EL12"),
    ((3, 5, 12, 0, 0), "VBAR_EL12"),
    ((3, 5, 13, 0, 1), "CONTEXTIDR_EL12"),
    ((3, 5, 14, 1, 0), "CNTKCTL_EL12"),
    ((3, 5, 14, 2, 1), "CNTP_CTL_EL02"),
    ((3, 5, 14, 2, 2), "CNTP_CVAL_EL02"),
    ((3, 5, 14, 3, 1), "CNTV_CTL_EL02"),
    ((3, 5, 14, 3, 2), "CNTV_CVAL_EL02"),
    ((2, 0, 0, 2, 2), "MDSCR_EL1"),
    ((2, 0, 1, 0, 4), "OSLAR_EL1"),
    ((2, 0, 1, 1, 4), "OSLSR_EL1"),
    ((2, 0, 1, 3, 4), "OSDLR_EL1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded() {
        // As an assembler encodes them.
        for (opcode, expected, text) in [
            (0xd53c_4024, Kind::Read, "ELR_EL2"),
            (0xd53c_4005, Kind::Read, "SPSR_EL2"),
            (0xd53c_5206, Kind::Read, "ESR_EL2"),
            (0xd51c_1100, Kind::Write, "HCR_EL2"),
            (0xd500_419f, Kind::Write, "PAN"),
            (0xd503_42df, Kind::Write, "DAIFSet"),
            (0xd503_3fdf, Kind::Isb, "ISB"),
            (0xd503_3f9f, Kind::Dsb, "DSB"),
            (0xd503_3bbf, Kind::Other, "DMB"),
            (0xd508_831f, Kind::Tlbi, "TLBI"),
            (0xd69f_03e0, Kind::Eret, "ERET"),
            (0xd400_0002, Kind::Call, "HVC"),
            (0xd400_0001, Kind::Call, "SVC"),
            (0xd503_207f, Kind::Wait, "WFI"),
            (0xd503_205f, Kind::Wait, "WFE"),
            (0xd53c_cc61, Kind::Read, "ICH_LR3_EL2"),
            (0xd51b_e321, Kind::Write, "CNTV_CTL_EL0"),
        ] {
            assert_eq!(kind(opcode), expected, "{opcode:#x}");
            assert_eq!(name(opcode), text, "{opcode:#x}");
            assert_eq!(writes_pstate(opcode), matches!(text, "PAN" | "DAIFSet"), "{opcode:#x}");
        }
    }
}
