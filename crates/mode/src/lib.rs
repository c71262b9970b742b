//! Which mode the machine comes up in, and why: the table in docs/modes.md as
//! a function.
//!
//! [`choose`] runs before the MMU is on: no heap, no strings, no atomics.
#![no_std]
#![forbid(unsafe_code)]

/// What `kvm-arm.mode=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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
    /// Whatever it is: the build has no user space, and Type-1 is the only mode.
    NoUserSpace,
}

/// What the machine and the command line say.
///
/// One aligned word, as is [`Choice`]: with the MMU off, memory is Device, where
/// an unaligned access faults, and the compiler may copy an odd number of bytes
/// by two words that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Facts {
    /// The exception level the Image was entered at: 1 or 2.
    pub entered_at: u8,
    /// FEAT_VHE.
    pub cpu_has_vhe: bool,
    /// HCR_EL2.E2H can't be cleared.
    pub e2h_is_res1: bool,
    /// The build has the feature `vhe`.
    pub build_has_vhe: bool,
    /// The build has `hyp`, for the split.
    pub build_has_hyp: bool,
    /// `id_aa64mmfr1.vh=0`.
    pub vhe_hidden: bool,
    /// `kvm-arm.mode=`.
    pub requested: Requested,
    /// The device tree has `xen,domain` nodes.
    pub has_domains: bool,
}

/// Where the host kernel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
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
#[repr(u8)]
pub enum Hypervisor {
    /// None: there is no /dev/kvm.
    None,
    /// In the kernel, under VHE.
    Vhe,
    /// A program of its own at EL2, `hyp`.
    Nvhe,
    /// Hypha as a Type-1 hypervisor.
    Type1,
}

/// Why it came to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The CPU has VHE and nothing speaks against it.
    Default,
    /// The command line asked for it.
    AsRequested,
    /// The build has no user space: no other mode.
    NoUserSpace,
    /// The device tree has virtual machines, and no mode is named.
    HasDomains,
    /// The Image was entered at EL1: EL2 is somebody else's.
    EnteredAtEl1,
    /// The CPU has no FEAT_VHE.
    NoVhe,
    /// VHE is hidden by `id_aa64mmfr1.vh=0`.
    VheHidden,
    /// The build leaves VHE out.
    VheNotBuilt,
    /// `protected` was asked for, and is not built yet: nVHE instead.
    ProtectedNotBuilt,
    /// The host must be at EL1, but the build has no `hyp`.
    HypNotBuilt,
    /// A split mode was asked for, but E2H is RES1 on this CPU.
    CannotSplit,
    /// E2H is RES1 on this CPU, and the build leaves VHE out.
    OnlyVheNotBuilt,
    /// `nested` was asked for, and is not built yet: VHE instead.
    NestedNotBuilt,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(4))]
pub struct Choice {
    /// Where the host kernel stands.
    pub place: Place,
    /// Which hypervisor is in use.
    pub hypervisor: Hypervisor,
    /// Why.
    pub reason: Reason,
}

const _: () = assert!(size_of::<Facts>() == 8 && size_of::<Choice>() == 4);

/// Whether HCR_EL2.E2H is RES1, after zero was written to it: `id_aa64mmfr4_el1`
/// may say so (E2H0 is negative); `hcr_el2` may read as one, but need not; a
/// write to FAR_EL1 that went to FAR_EL2 instead shows that it works as one.
pub fn e2h_is_res1(id_aa64mmfr4_el1: u64, hcr_el2: u64, far_el1_is_far_el2: bool) -> bool {
    let negative = id_aa64mmfr4_el1 & 1 << 27 != 0;
    negative || hcr_el2 & 1 << 34 != 0 || far_el1_is_far_el2
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
    if facts.e2h_is_res1 && !usable {
        // Neither arrangement with E2H=0 is possible.
        let reason = match facts.requested {
            Requested::None => Reason::AsRequested,
            _ => Reason::OnlyVheNotBuilt,
        };
        return choice(Place::El1, Hypervisor::None, reason);
    }
    let reason = match facts.requested {
        Requested::Type1 => Some(Reason::AsRequested),
        Requested::NoUserSpace => Some(Reason::NoUserSpace),
        Requested::Absent if facts.has_domains => Some(Reason::HasDomains),
        _ => None,
    };
    if let Some(reason) = reason {
        let place = if usable { Place::El2Vhe } else { Place::El2 };
        return choice(place, Hypervisor::Type1, reason);
    }
    let split = matches!(facts.requested, Requested::Nvhe | Requested::Protected);
    if facts.e2h_is_res1 {
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
    if facts.requested == Requested::None && !usable {
        return choice(Place::El1, Hypervisor::None, Reason::AsRequested);
    }
    if split || !usable {
        let reason = match facts.requested {
            _ if !facts.build_has_hyp => Reason::HypNotBuilt,
            Requested::Nvhe => Reason::AsRequested,
            Requested::Protected => Reason::ProtectedNotBuilt,
            _ if !facts.cpu_has_vhe => Reason::NoVhe,
            _ if !facts.build_has_vhe => Reason::VheNotBuilt,
            _ => Reason::VheHidden,
        };
        let hypervisor = if facts.build_has_hyp { Hypervisor::Nvhe } else { Hypervisor::None };
        return choice(Place::El1, hypervisor, reason);
    }
    match facts.requested {
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
            Reason::NoUserSpace => "this build has no user space",
            Reason::HasDomains => {
                "the device tree has xen,domain nodes and kvm-arm.mode= names no mode"
            }
            Reason::EnteredAtEl1 => "the Image was entered at EL1: EL2 is not available",
            Reason::NoVhe => "the CPU has no FEAT_VHE",
            Reason::VheHidden => "id_aa64mmfr1.vh=0 hides VHE",
            Reason::VheNotBuilt => "this build leaves VHE out",
            Reason::ProtectedNotBuilt => "protected is not in this build yet: nVHE instead",
            Reason::HypNotBuilt => "the host's place is EL1, and this build has no hyp",
            Reason::CannotSplit => "this CPU only has HCR_EL2.E2H=1 (RES1): splitting is refused",
            Reason::OnlyVheNotBuilt => {
                "this CPU only has HCR_EL2.E2H=1 (RES1), and this build leaves VHE out"
            }
            Reason::NestedNotBuilt => "nested is not in this build yet: VHE instead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sign_of_res1_counts() {
        assert!(!e2h_is_res1(0, 1 << 31, false));
        // E2H0 is 0b1111 and 0b1110 where E2H is RES1, 0 where it isn't.
        assert!(e2h_is_res1(0xf << 24, 1 << 31, false));
        assert!(e2h_is_res1(0xe << 24, 1 << 31, false));
        assert!(!e2h_is_res1(0xf << 28 | 0xf << 20, 1 << 31, false));
        assert!(e2h_is_res1(0, 1 << 31 | 1 << 34, false));
        assert!(e2h_is_res1(0, 1 << 31, true));
    }

    const REQUESTS: [Requested; 9] = [
        Requested::Absent,
        Requested::Vhe,
        Requested::Nvhe,
        Requested::Protected,
        Requested::Nested,
        Requested::None,
        Requested::Type1,
        Requested::Unknown,
        Requested::NoUserSpace,
    ];

    fn all() -> impl Iterator<Item = Facts> {
        (0..128u32).flat_map(|bits| {
            REQUESTS.into_iter().map(move |requested| Facts {
                entered_at: if bits & 1 == 0 { 1 } else { 2 },
                cpu_has_vhe: bits & 2 != 0,
                e2h_is_res1: bits & 4 != 0 && bits & 2 != 0,
                build_has_vhe: bits & 8 != 0,
                build_has_hyp: bits & 32 != 0,
                vhe_hidden: bits & 16 != 0,
                requested,
                has_domains: bits & 64 != 0,
            })
        })
    }

    #[test]
    fn every_choice_is_possible_on_its_machine() {
        for facts in all() {
            let choice = choose(&facts);
            if facts.entered_at == 1 {
                assert_eq!(choice.place, Place::El1);
                assert_eq!(choice.hypervisor, Hypervisor::None);
            }
            if choice.place == Place::El2Vhe {
                assert!(facts.cpu_has_vhe && facts.build_has_vhe, "{facts:?}");
            }
            if choice.place == Place::El2 {
                assert!(!facts.e2h_is_res1, "{facts:?}");
            }
            if choice.hypervisor == Hypervisor::Vhe {
                assert_eq!(choice.place, Place::El2Vhe, "{facts:?}");
            }
            if choice.hypervisor == Hypervisor::Nvhe {
                assert_eq!(choice.place, Place::El1, "{facts:?}");
                assert!(facts.build_has_hyp && !facts.e2h_is_res1, "{facts:?}");
            }
            if facts.requested == Requested::None {
                assert_eq!(choice.hypervisor, Hypervisor::None);
            }
            if facts.requested == Requested::NoUserSpace {
                let type1_or_none = [Hypervisor::Type1, Hypervisor::None];
                assert!(type1_or_none.contains(&choice.hypervisor), "{facts:?}");
            }
        }
    }

    const USUAL: Facts = Facts {
        entered_at: 2,
        cpu_has_vhe: true,
        e2h_is_res1: false,
        build_has_vhe: true,
        build_has_hyp: true,
        vhe_hidden: false,
        requested: Requested::Absent,
        has_domains: false,
    };

    fn outcome(facts: Facts) -> (Hypervisor, Reason) {
        let choice = choose(&facts);
        (choice.hypervisor, choice.reason)
    }

    #[test]
    fn the_default_is_vhe_where_it_can_be() {
        assert_eq!(outcome(USUAL), (Hypervisor::Vhe, Reason::Default));
        // An unknown value gets a warning, and the default.
        let unknown = Facts { requested: Requested::Unknown, ..USUAL };
        assert_eq!(outcome(unknown), (Hypervisor::Vhe, Reason::Default));
        let vhe = Facts { requested: Requested::Vhe, ..USUAL };
        assert_eq!(outcome(vhe), (Hypervisor::Vhe, Reason::AsRequested));
    }

    #[test]
    fn domains_want_type1_unless_a_mode_is_named() {
        let domains = Facts { has_domains: true, ..USUAL };
        assert_eq!(outcome(domains), (Hypervisor::Type1, Reason::HasDomains));
        assert_eq!(choose(&domains).place, Place::El2Vhe);
        let old = Facts { cpu_has_vhe: false, ..domains };
        assert_eq!(choose(&old).place, Place::El2);
        let vhe = Facts { requested: Requested::Vhe, ..domains };
        assert_eq!(outcome(vhe), (Hypervisor::Vhe, Reason::AsRequested));
        let type1 = Facts { requested: Requested::Type1, ..USUAL };
        assert_eq!(outcome(type1), (Hypervisor::Type1, Reason::AsRequested));
        let alone = Facts { requested: Requested::NoUserSpace, ..USUAL };
        assert_eq!(outcome(alone), (Hypervisor::Type1, Reason::NoUserSpace));
        let guest = Facts { entered_at: 1, ..alone };
        assert_eq!(outcome(guest), (Hypervisor::None, Reason::EnteredAtEl1));
    }

    #[test]
    fn the_split_is_for_those_who_ask_and_those_who_must() {
        let nvhe = Facts { requested: Requested::Nvhe, ..USUAL };
        assert_eq!(outcome(nvhe), (Hypervisor::Nvhe, Reason::AsRequested));
        let protected = Facts { requested: Requested::Protected, ..USUAL };
        assert_eq!(outcome(protected), (Hypervisor::Nvhe, Reason::ProtectedNotBuilt));
        let old = Facts { cpu_has_vhe: false, ..USUAL };
        for requested in [Requested::Absent, Requested::Vhe, Requested::Nested, Requested::Unknown]
        {
            let facts = Facts { requested, ..old };
            assert_eq!(outcome(facts), (Hypervisor::Nvhe, Reason::NoVhe));
        }
        let hidden = Facts { vhe_hidden: true, ..USUAL };
        assert_eq!(outcome(hidden), (Hypervisor::Nvhe, Reason::VheHidden));
        let without = Facts { build_has_vhe: false, ..USUAL };
        assert_eq!(outcome(without), (Hypervisor::Nvhe, Reason::VheNotBuilt));
        let none = Facts { requested: Requested::None, ..old };
        assert_eq!(outcome(none), (Hypervisor::None, Reason::AsRequested));
        let no_hyp = Facts { build_has_hyp: false, ..old };
        assert_eq!(outcome(no_hyp), (Hypervisor::None, Reason::HypNotBuilt));
    }

    #[test]
    fn what_cannot_be_split_is_not() {
        let res1 = Facts { e2h_is_res1: true, ..USUAL };
        assert_eq!(outcome(res1), (Hypervisor::Vhe, Reason::Default));
        let nvhe = Facts { requested: Requested::Nvhe, ..res1 };
        assert_eq!(outcome(nvhe), (Hypervisor::Vhe, Reason::CannotSplit));
        let hidden = Facts { vhe_hidden: true, ..res1 };
        assert_eq!(outcome(hidden), (Hypervisor::Vhe, Reason::CannotSplit));
        let without = Facts { build_has_vhe: false, ..res1 };
        assert_eq!(outcome(without), (Hypervisor::None, Reason::OnlyVheNotBuilt));
    }
}
