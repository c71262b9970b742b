//! The counter and the host's own timer (Arm ARM D12).

use crate::host;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The host's timer is the virtual one.
static VIRTUAL: AtomicBool = AtomicBool::new(false);

/// Makes the virtual timer the host's, on all CPUs, before any is armed: for a
/// kernel that is a guest itself. Whoever is at EL2 then chose CNTVOFF_EL2, so
/// that CNTP_CVAL_EL0 would count another time than [`counter`].
pub fn use_virtual() {
    VIRTUAL.store(true, Relaxed);
}

/// The counter, in ticks: CNTVCT_EL0, read no earlier than program order says.
/// At EL1 the virtual offset is zero or our own hypervisor's; under E2H at EL2
/// CNTVOFF_EL2 does not apply. At E2H=0 it does, and is a guest's: boot patches in
/// CNTPCT_EL0 (Arm ARM D12.2.1).
#[inline(always)]
pub fn counter() -> u64 {
    let value: u64;
    // SAFETY: reading the counter has no side effect; ISB keeps it from being
    // read early (Arm ARM D12.1.2).
    unsafe {
        asm!(
            "isb",
            "661: mrs {v}, cntvct_el0",
            ".pushsection .hostpatch.e2h0, \"a\"",
            ".long 661b - .",
            "mrs {v}, cntpct_el0",
            ".popsection",
            v = out(reg) value,
            options(nostack, preserves_flags)
        );
    }
    value
}

/// At EL1, lets EL0 read the virtual counter (CNTKCTL_EL1.EL0VCTEN); under E2H,
/// where that name is CNTHCTL_EL2's, boot has done so.
pub fn allow_el0() {
    if crate::sysreg::exception_level() == 1 {
        // SAFETY: changes what EL0 may read only.
        unsafe {
            asm!("msr cntkctl_el1, {}", in(reg) 2u64, options(nomem, nostack, preserves_flags))
        }
    }
}

/// Arms the host's timer for `ticks` of [`counter`].
#[inline(always)]
pub fn arm(ticks: u64) {
    // SAFETY: at worst an interrupt comes, which is handled.
    unsafe {
        if VIRTUAL.load(Relaxed) {
            set_virtual_cval(ticks);
            set_virtual_ctl(1);
        } else {
            host::set_timer_cval(ticks);
            host::set_timer_ctl(1);
        }
    }
}

/// Turns the host's timer off.
#[inline(always)]
pub fn disarm() {
    // SAFETY: as for `arm`.
    unsafe { if VIRTUAL.load(Relaxed) { set_virtual_ctl(0) } else { host::set_timer_ctl(0) } }
}

/// # Safety
/// As for [`host::set_timer_cval`].
unsafe fn set_virtual_cval(ticks: u64) {
    // SAFETY: the caller answers for the value.
    unsafe { asm!("msr cntv_cval_el0, {}", in(reg) ticks, options(nostack, preserves_flags)) }
}

/// # Safety
/// As for [`host::set_timer_ctl`].
unsafe fn set_virtual_ctl(control: u64) {
    // SAFETY: the caller answers for the value.
    unsafe { asm!("msr cntv_ctl_el0, {}", in(reg) control, options(nostack, preserves_flags)) }
}

/// Turns CNTV off, which is a guest's where the host's timer is CNTP.
pub fn disarm_virtual() {
    // SAFETY: the host itself does not use it then.
    unsafe { set_virtual_ctl(0) }
}

/// INTID of the host's timer: CNTHP at EL2, CNTP at EL1, CNTV in a guest.
pub fn host_intid() -> u32 {
    match crate::sysreg::exception_level() {
        2 => 26,
        _ if VIRTUAL.load(Relaxed) => 27,
        _ => 30,
    }
}
