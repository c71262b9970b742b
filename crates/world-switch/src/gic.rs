//! The GIC's virtual CPU interface (GICv3 12.4), reached at EL2.

use crate::access::{read, write};

/// Guests stay with the system registers: where the CPU has a GICv2's
/// interface as well they could clear ICC_SRE_EL1.SRE, which is switched for
/// nobody. From here on that traps (ICC_SRE_EL2.Enable, GICv3 12.4.4).
///
/// # Safety
/// At EL2; a host at EL1 won't look at ICC_SRE_EL1 any more.
pub unsafe fn keep_guests_in_system_registers() {
    // SAFETY: ICC_SRE_EL2.SRE is what EL2 itself obeys; boot has set it, and
    // ICC_SRE_EL1.SRE.
    unsafe {
        let sre = read!("S3_4_C12_C9_5");
        write!("S3_4_C12_C9_5", sre & !(1 << 3));
    }
}

/// ICH_VTR_EL2: how many list registers and so on.
pub fn vtr() -> u64 {
    // SAFETY: a read.
    unsafe { read!("S3_4_C12_C11_1") }
}

macro_rules! registers {
    ($($index:literal => $name:literal,)+) => {
        /// Reads the first of the list registers, as many as `slots`.
        #[inline]
        pub fn read_lrs(slots: &mut [u64]) {
            $(
                let Some(slot) = slots.get_mut($index) else { return };
                // SAFETY: a read.
                *slot = unsafe { read!($name) };
            )+
        }

        /// Writes the first of the list registers, as many as `values`.
        ///
        /// # Safety
        /// They exist (ICH_VTR_EL2.ListRegs), and hardware interrupts that
        /// they name belong to the loaded guest.
        #[inline]
        pub unsafe fn write_lrs(values: &[u64]) {
            $(
                let Some(value) = values.get($index) else { return };
                // SAFETY: the caller's promise.
                unsafe { write!($name, *value) };
            )+
        }
    };
}

macro_rules! one {
    ($($index:literal => $name:literal,)+) => {
        /// Reads one list register; of one that can't exist, zero.
        #[inline]
        pub fn read_lr(index: usize) -> u64 {
            match index {
                // SAFETY: a read.
                $($index => unsafe { read!($name) },)+
                _ => 0,
            }
        }

        /// Writes one list register.
        ///
        /// # Safety
        /// As for [`write_lrs`].
        #[inline]
        pub unsafe fn write_lr(index: usize, value: u64) {
            match index {
                // SAFETY: the caller's promise.
                $($index => unsafe { write!($name, value) },)+
                _ => {}
            }
        }
    };
}

macro_rules! all {
    ($($macro:ident)+) => {$(
        $macro! {
            0 => "S3_4_C12_C12_0", 1 => "S3_4_C12_C12_1", 2 => "S3_4_C12_C12_2",
            3 => "S3_4_C12_C12_3", 4 => "S3_4_C12_C12_4", 5 => "S3_4_C12_C12_5",
            6 => "S3_4_C12_C12_6", 7 => "S3_4_C12_C12_7", 8 => "S3_4_C12_C13_0",
            9 => "S3_4_C12_C13_1", 10 => "S3_4_C12_C13_2", 11 => "S3_4_C12_C13_3",
            12 => "S3_4_C12_C13_4", 13 => "S3_4_C12_C13_5", 14 => "S3_4_C12_C13_6",
            15 => "S3_4_C12_C13_7",
        }
    )+};
}

all! { registers one }

/// ICH_MISR_EL2: why there is a maintenance interrupt.
#[inline]
pub fn misr() -> u64 {
    // SAFETY: a read.
    unsafe { read!("S3_4_C12_C11_2") }
}

macro_rules! ich {
    ($($(#[$doc:meta])* $read:ident, $write:ident = $name:literal;)+) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $read() -> u64 {
            // SAFETY: a read.
            unsafe { read!($name) }
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// The loaded guest's value.
        #[inline]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise.
            unsafe { write!($name, value) }
        }
    )+};
}

ich! {
    /// ICH_HCR_EL2.
    hcr, set_hcr = "S3_4_C12_C11_0";
    /// ICH_VMCR_EL2.
    vmcr, set_vmcr = "S3_4_C12_C11_7";
    /// ICH_AP0R0_EL2.
    ap0r0, set_ap0r0 = "S3_4_C12_C8_0";
    /// ICH_AP0R1_EL2; with 6 or more preemption bits.
    ap0r1, set_ap0r1 = "S3_4_C12_C8_1";
    /// ICH_AP0R2_EL2; with 7 preemption bits.
    ap0r2, set_ap0r2 = "S3_4_C12_C8_2";
    /// ICH_AP0R3_EL2; with 7 preemption bits.
    ap0r3, set_ap0r3 = "S3_4_C12_C8_3";
    /// ICH_AP1R0_EL2.
    ap1r0, set_ap1r0 = "S3_4_C12_C9_0";
    /// ICH_AP1R1_EL2; with 6 or more preemption bits.
    ap1r1, set_ap1r1 = "S3_4_C12_C9_1";
    /// ICH_AP1R2_EL2; with 7 preemption bits.
    ap1r2, set_ap1r2 = "S3_4_C12_C9_2";
    /// ICH_AP1R3_EL2; with 7 preemption bits.
    ap1r3, set_ap1r3 = "S3_4_C12_C9_3";
}
