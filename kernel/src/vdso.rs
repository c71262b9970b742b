//! The vDSO: clocks that programs read without a system call, and what signal
//! handlers return to.
//!
//! Two pages that all processes share, mapped one above the other: [`word`]s
//! that only the kernel writes, and the ELF object in `vdso.s` that reads them.
//! Its arithmetic is `time`'s, so a clock read both ways never runs backwards.
#![expect(unsafe_code, reason = "the ELF image is assembly")]

use crate::process::space::Mm;
use crate::{clock, time};
use alloc::string::String;
use alloc::sync::Arc;
use base::{Errno, Nanos, PAGE_SIZE, Result};
use core::sync::atomic::Ordering::Release;
use frame::{Fill, Frame, Size, Use};
use mm::abi::{MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_READ};
use mm::{Map, MapObject, ObjectId, VmObject};
use spin::Once;

core::arch::global_asm!(include_str!("vdso.s"));

unsafe extern "C" {
    static __vdso_image: [u8; PAGE_SIZE as usize];
}

/// Where signal handlers return to, from the start of the ELF object.
const SIGRETURN: u64 = 0xff8;

/// Words of the page of data, in bytes from its start.
mod word {
    /// The counter's value at boot.
    pub const START: u64 = 0;
    /// Nanoseconds a tick, the whole part.
    pub const WHOLE: u64 = 8;
    /// Nanoseconds a tick, the rest in 2^-64.
    pub const FRACTION: u64 = 16;
    /// CLOCK_REALTIME at boot.
    pub const REALTIME: u64 = 24;
}

struct Page {
    frame: Frame,
    name: &'static str,
}

impl VmObject for Page {
    fn frame(&self, index: u64, _: bool) -> Result<Frame> {
        if index == 0 { Ok(self.frame.clone()) } else { Err(Errno::EFAULT) }
    }

    fn id(&self) -> ObjectId {
        ObjectId::default()
    }

    fn name(&self) -> String {
        self.name.into()
    }
}

struct Vdso {
    data: Arc<Page>,
    code: Arc<Page>,
}

static VDSO: Once<Vdso> = Once::new();

fn vdso() -> Result<&'static Vdso> {
    VDSO.try_call_once(|| {
        let data = Frame::alloc_as(Use::Window, Size::Page, Fill::Zeroed)?;
        let (whole, fraction) = time::nanos_per_tick();
        for (at, value) in [
            (word::START, time::start()),
            (word::WHOLE, whole),
            (word::FRACTION, fraction),
            (word::REALTIME, clock::to_realtime(0)),
        ] {
            data.write(at, &value.to_le_bytes())?;
        }
        let code = Frame::alloc_as(Use::Window, Size::Page, Fill::Zeroed)?;
        // SAFETY: vdso.s defines it, a page that nobody writes.
        code.write(0, unsafe { &__vdso_image })?;
        Ok(Vdso {
            data: Arc::new(Page { frame: data, name: "[vvar]" }),
            code: Arc::new(Page { frame: code, name: "[vdso]" }),
        })
    })
}

/// CLOCK_REALTIME was set: `at_boot` is what it would have shown then.
pub fn set_realtime(at_boot: Nanos) {
    if let Some(place) = VDSO.get().and_then(|vdso| vdso.data.frame.atomic_u64(word::REALTIME)) {
        place.store(at_boot, Release);
    }
}

/// Maps it: where the ELF object is (AT_SYSINFO_EHDR), and where signal handlers
/// return to.
pub fn map(mm: &Mm) -> Result<(u64, u64)> {
    let vdso = vdso()?;
    let object = |page: &Arc<Page>| {
        Some(MapObject { object: page.clone(), offset: 0, may_write: false })
    };
    let (prot, flags) = (PROT_READ, MAP_PRIVATE);
    let len = PAGE_SIZE.saturating_mul(2);
    let data = mm.mmap(Map { addr: 0, len, prot, flags, object: object(&vdso.data) })?;
    let addr = data.saturating_add(PAGE_SIZE);
    let (len, prot, flags) = (PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED);
    mm.mmap(Map { addr, len, prot, flags, object: object(&vdso.code) })?;
    Ok((addr, addr.saturating_add(SIGRETURN)))
}
