//! Which mode the machine comes up in, and why: the table in docs/modes.md as
//! a function.
//!
//! [`choose`] runs before the MMU is on: no heap, no strings, no atomics.
#![no_std]
#![forbid(unsafe_code)]

/// What `kvm-arm.mode=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// No such parameter.
    Absent,
    /// `vhe`, a name of ours: what absent means, said aloud.
    Vhe,
    /// `nvhe`.
    Nvhe,
    /// `protected`.
    Protected,
    /// `nested`.
    Nested,
    /// `none`.
    None,
    /// `type1`, a name of ours.
    Type1,
    /// A value that is none of these.
    Unknown,
}

/// The values of `kvm-arm.mode=` and what they ask for.
pub const VALUES: [(&[u8], Requested); 6] = [
    (b"vhe", Requested::Vhe),
    (b"nvhe", Requested::Nvhe),
    (b"protected", Requested::Protected),
    (b"nested", Requested::Nested),
    (b"none", Requested::None),
    (b"type1", Requested::Type1),
];

/// What the machine and the command line say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The exception level the Image was entered at: 1 or 2.
    pub entered_at: u64,
    /// FEAT_VHE.
    pub cpu_has_vhe: bool,
    /// HCR_EL2.E2H can't be cleared.
    pub e2h_is_res1: bool,
    /// The build has the feature `vhe`.
    pub build_has_vhe: bool,
    /// `id_aa64mmfr1.vh=0`.
    pub vhe_hidden: bool,
    /// `kvm-arm.mode=`.
    pub requested: Requested,
}

/// Where the host kernel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// EL1.
    El1,
    /// EL2 with E2H=1.
    El2Vhe,
    /// EL2 with E2H=0.
    El2,
}

/// Which hypervisor is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// None: there is no /dev/kvm.
    None,
    /// In the kernel, under VHE.
    Vhe,
    /// Hypha as a Type-1 hypervisor.
    Type1,
}

/// Why it came to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The CPU has VHE and nothing speaks against it.
    Default,
    /// The command line asked for it.
    AsRequested,
    /// The Image was entered at EL1: EL2 is somebody else's.
    EnteredAtEl1,
    /// The CPU has no FEAT_VHE, and the split is not built yet.
    NoVheNoSplit,
    /// VHE is hidden by `id_aa64mmfr1.vh=0`, and the split is not built yet.
    VheHiddenNoSplit,
    /// The build leaves VHE out, and the split is not built yet.
    VheNotBuiltNoSplit,
    /// A split mode was asked for, and is not built yet.
    SplitNotBuilt,
    /// A split mode was asked for, but E2H is RES1 on this CPU.
    CannotSplit,
    /// `nested` was asked for, and is not built yet: VHE instead.
    NestedNotBuilt,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where the host kernel stands.
    pub place: Place,
    /// Which hypervisor is in use.
    pub hypervisor: Hypervisor,
    /// Why.
    pub reason: Reason,
}

/// Decides. Never fails: what can't be honoured falls to what can, and the
/// reason says so.
pub fn choose(facts: &Facts) -> Choice {
    let choice = |place, hypervisor, reason| Choice { place, hypervisor, reason };
    if facts.entered_at < 2 {
        return choice(Place::El1, Hypervisor::None, Reason::EnteredAtEl1);
    }
    let usable =
        facts.cpu_has_vhe && facts.build_has_vhe && (!facts.vhe_hidden || facts.e2h_is_res1);
    if facts.requested == Requested::Type1 {
        let place = if usable { Place::El2Vhe } else { Place::El2 };
        return choice(place, Hypervisor::Type1, Reason::AsRequested);
    }
    let split = matches!(facts.requested, Requested::Nvhe | Requested::Protected);
    if facts.e2h_is_res1 && usable {
        let hypervisor = match facts.requested {
            Requested::None => Hypervisor::None,
            _ => Hypervisor::Vhe,
        };
        let reason = match facts.requested {
            _ if split || facts.vhe_hidden => Reason::CannotSplit,
            Requested::None | Requested::Vhe => Reason::AsRequested,
            Requested::Nested => Reason::NestedNotBuilt,
            _ => Reason::Default,
        };
        return choice(Place::El2Vhe, hypervisor, reason);
    }
    if !usable {
        let reason = match facts.requested {
            Requested::None => Reason::AsRequested,
            _ if split => Reason::SplitNotBuilt,
            _ if !facts.cpu_has_vhe => Reason::NoVheNoSplit,
            _ if !facts.build_has_vhe => Reason::VheNotBuiltNoSplit,
            _ => Reason::VheHiddenNoSplit,
        };
        return choice(Place::El1, Hypervisor::None, reason);
    }
    match facts.requested {
        Requested::Nvhe | Requested::Protected => {
            choice(Place::El1, Hypervisor::None, Reason::SplitNotBuilt)
        }
        Requested::None => choice(Place::El2Vhe, Hypervisor::None, Reason::AsRequested),
        Requested::Vhe => choice(Place::El2Vhe, Hypervisor::Vhe, Reason::AsRequested),
        Requested::Nested => choice(Place::El2Vhe, Hypervisor::Vhe, Reason::NestedNotBuilt),
        _ => choice(Place::El2Vhe, Hypervisor::Vhe, Reason::Default),
    }
}

impl Reason {
    /// A clause for the boot log.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Default => "the CPU has FEAT_VHE and the Image was entered at EL2",
            Reason::AsRequested => "asked for by kvm-arm.mode=",
            Reason::EnteredAtEl1 => "the Image was entered at EL1: EL2 is not available",
            Reason::NoVheNoSplit => {
                "the CPU has no FEAT_VHE, and this build has no nVHE hypervisor yet"
            }
            Reason::VheHiddenNoSplit => {
                "id_aa64mmfr1.vh=0 hides VHE, and this build has no nVHE hypervisor yet"
            }
            Reason::VheNotBuiltNoSplit => {
                "this build leaves VHE out, and it has no nVHE hypervisor yet"
            }
            Reason::SplitNotBuilt => "the split modes (nvhe, protected) are not in this build yet",
            Reason::CannotSplit => "this CPU only has HCR_EL2.E2H=1 (RES1): splitting is refused",
            Reason::NestedNotBuilt => "nested is not in this build yet: VHE instead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [Requested; 8] = [
        Requested::Absent,
        Requested::Vhe,
        Requested::Nvhe,
        Requested::Protected,
        Requested::Nested,
        Requested::None,
        Requested::Type1,
        Requested::Unknown,
    ];

    fn all() -> impl Iterator<Item = Facts> {
        (0..64u32).flat_map(|bits| {
            REQUESTS.into_iter().map(move |requested| Facts {
                entered_at: 1 + u64::from(bits & 1),
                cpu_has_vhe: bits & 2 != 0,
                e2h_is_res1: bits & 4 != 0 && bits & 2 != 0,
                build_has_vhe: bits & 8 != 0,
                vhe_hidden: bits & 16 != 0,
                requested,
            })
        })
    }

    #[test]
    fn every_choice_is_possible_on_its_machine() {
        for facts in all() {
            let choice = choose(&facts);
            if facts.entered_at == 1 {
                assert_eq!(choice.place, Place::El1);
            }
            if choice.place == Place::El2Vhe {
                assert!(facts.cpu_has_vhe && facts.build_has_vhe, "{facts:?}");
            }
            if choice.hypervisor == Hypervisor::Vhe {
                assert_eq!(choice.place, Place::El2Vhe, "{facts:?}");
            }
            if facts.requested == Requested::None {
                assert_eq!(choice.hypervisor, Hypervisor::None);
            }
        }
    }

    #[test]
    fn the_default_is_vhe_where_it_can_be() {
        let facts = Facts {
            entered_at: 2,
            cpu_has_vhe: true,
            e2h_is_res1: false,
            build_has_vhe: true,
            vhe_hidden: false,
            requested: Requested::Absent,
        };
        assert_eq!(choose(&facts).hypervisor, Hypervisor::Vhe);
        // An unknown value gets a warning, and the default.
        let unknown = Facts { requested: Requested::Unknown, ..facts };
        assert_eq!(choose(&unknown).hypervisor, Hypervisor::Vhe);
        // id_aa64mmfr1.vh=0 hides VHE.
        let hidden = Facts { vhe_hidden: true, ..facts };
        assert_eq!(choose(&hidden).place, Place::El1);
        // RES1: what can't be split isn't.
        let res1 = Facts { e2h_is_res1: true, requested: Requested::Nvhe, ..facts };
        assert_eq!(choose(&res1).reason, Reason::CannotSplit);
    }
}
