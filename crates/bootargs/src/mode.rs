//! Where kernel and hypervisor stand: `kvm-arm.mode=` and
//! `id_aa64mmfr1.vh=0`. Early boot asks [`crate::EarlyArgs`] instead.

use crate::words::Params;
use core::fmt;

/// A value of `kvm-arm.mode=`. Linux knows `nvhe`, `protected`, `nested` and
/// `none`; `vhe` and `type1` are Hypha's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmMode {
    /// Host and hypervisor at EL2 with HCR_EL2.E2H=1: the default.
    Vhe,
    /// Host at EL1, a separate hypervisor at EL2.
    Nvhe,
    /// As nVHE, with a hypervisor that does not trust the host.
    Protected,
    /// As VHE, with a virtual EL2 for guests.
    Nested,
    /// VMs from the device tree, no host user space.
    Type1,
    /// No hypervisor, no /dev/kvm.
    None,
}

impl KvmMode {
    /// All of them, in the order in which warnings list them.
    pub const ALL: [KvmMode; 6] = [
        KvmMode::Vhe,
        KvmMode::Nvhe,
        KvmMode::Protected,
        KvmMode::Nested,
        KvmMode::Type1,
        KvmMode::None,
    ];

    /// The known values, for messages.
    pub const KNOWN: &'static str = "vhe, nvhe, protected, nested, type1, none";

    /// The mode that a parameter's value names.
    pub fn parse(value: &str) -> Option<KvmMode> {
        KvmMode::ALL.into_iter().find(|mode| mode.name() == value)
    }

    /// The value that names it.
    pub const fn name(self) -> &'static str {
        match self {
            KvmMode::Vhe => "vhe",
            KvmMode::Nvhe => "nvhe",
            KvmMode::Protected => "protected",
            KvmMode::Nested => "nested",
            KvmMode::Type1 => "type1",
            KvmMode::None => "none",
        }
    }
}

impl fmt::Display for KvmMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the command line says about the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeRequest<'a> {
    /// Nothing: the default.
    Absent,
    /// A known mode.
    Mode(KvmMode),
    /// A value that no mode has: warn, listing [`KvmMode::KNOWN`], and take the
    /// default.
    Unknown(&'a str),
}

/// The mode asked for. The last valid `kvm-arm.mode=` counts; an unknown value
/// is reported only if there is no valid one.
pub fn mode_requested(params: Params<'_>) -> ModeRequest<'_> {
    let mut request = ModeRequest::Absent;
    for param in params.filter(|param| param.is("kvm-arm.mode")) {
        let value = param.value.unwrap_or("");
        request = match (KvmMode::parse(value), request) {
            (Some(mode), _) => ModeRequest::Mode(mode),
            (None, ModeRequest::Mode(mode)) => ModeRequest::Mode(mode),
            (None, _) => ModeRequest::Unknown(value),
        };
    }
    request
}

/// Whether `id_aa64mmfr1.vh=0` hides FEAT_VHE, as on Linux.
pub fn vhe_hidden(params: &Params<'_>) -> bool {
    params.lookup("id_aa64mmfr1.vh").and_then(crate::parse_int) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> ModeRequest<'_> {
        mode_requested(Params::new(line))
    }

    #[test]
    fn every_mode_has_its_name() {
        for mode in KvmMode::ALL {
            assert_eq!(KvmMode::parse(mode.name()), Some(mode));
        }
        let names: std::vec::Vec<_> = KvmMode::ALL.iter().map(|mode| mode.name()).collect();
        assert_eq!(names.join(", "), KvmMode::KNOWN);
    }

    #[test]
    fn requests() {
        assert_eq!(asked("quiet"), ModeRequest::Absent);
        assert_eq!(asked("kvm-arm.mode=none"), ModeRequest::Mode(KvmMode::None));
        assert_eq!(asked("kvm_arm.mode=nvhe kvm-arm.mode=vhe"), ModeRequest::Mode(KvmMode::Vhe));
        assert_eq!(asked("kvm-arm.mode=fast"), ModeRequest::Unknown("fast"));
        assert_eq!(asked("kvm-arm.mode"), ModeRequest::Unknown(""));
        assert_eq!(asked("kvm-arm.mode=nvhe kvm-arm.mode=x"), ModeRequest::Mode(KvmMode::Nvhe));
        assert_eq!(asked("-- kvm-arm.mode=nvhe"), ModeRequest::Absent);
    }

    #[test]
    fn hiding_vhe() {
        assert!(vhe_hidden(&Params::new("id_aa64mmfr1.vh=0")));
        assert!(vhe_hidden(&Params::new("id_aa64mmfr1.vh=0x0")));
        assert!(!vhe_hidden(&Params::new("id_aa64mmfr1.vh=1")));
        assert!(!vhe_hidden(&Params::new("quiet")));
    }
}
