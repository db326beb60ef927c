//! What guests of real machines see, and what Linux makes of it.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

use super::host::{HYGON, Host};
use super::{ApicLayout, Hints, HostFeatures, for_vcpu};
use crate::topology::{PRESETS, Topology};

/// Name and dump; `recorded/README.md` has the sources.
const RECORDED: [(&str, &str); 16] = [
    ("zen", include_str!("recorded/zen.txt")),
    ("zen-plus", include_str!("recorded/zen-plus.txt")),
    ("zen2", include_str!("recorded/zen2.txt")),
    ("zen3", include_str!("recorded/zen3.txt")),
    ("zen4", include_str!("recorded/zen4.txt")),
    ("zen5", include_str!("recorded/zen5.txt")),
    ("hygon", include_str!("recorded/hygon.txt")),
    ("milan", include_str!("recorded/milan.txt")),
    ("genoa", include_str!("recorded/genoa.txt")),
    ("skylake", include_str!("recorded/skylake.txt")),
    ("ice-lake", include_str!("recorded/ice-lake.txt")),
    ("alder-lake", include_str!("recorded/alder-lake.txt")),
    ("cascade-lake", include_str!("recorded/cascade-lake.txt")),
    (
        "ice-lake-server",
        include_str!("recorded/ice-lake-server.txt"),
    ),
    (
        "sapphire-rapids",
        include_str!("recorded/sapphire-rapids.txt"),
    ),
    (
        "granite-rapids",
        include_str!("recorded/granite-rapids.txt"),
    ),
];

/// A dump's leaves; those that say nothing are left out, as KVM leaves them out.
fn parse(dump: &str) -> Vec<kvm_cpuid_entry2> {
    let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
    let line = |line: &str| {
        let (leaf, rest) = line
            .strip_prefix("CPUID ")
            .unwrap()
            .split_once(": ")
            .unwrap();
        let (words, subleaf) = rest.split_once(" [SL ").unwrap_or((rest, "0]"));
        let words: Vec<u32> = words.split('-').map(hex).collect();
        let [eax, ebx, ecx, edx] = words[..] else {
            panic!("{line}");
        };
        kvm_cpuid_entry2 {
            function: hex(leaf),
            index: hex(subleaf.trim_end_matches(']')),
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    };
    let says_something =
        |entry: &kvm_cpuid_entry2| entry.eax | entry.ebx | entry.ecx | entry.edx != 0;
    dump.lines().map(line).filter(says_something).collect()
}

fn recorded(name: &str) -> Vec<kvm_cpuid_entry2> {
    let found = RECORDED.into_iter().find(|(other, _)| *other == name);
    parse(found.unwrap().1)
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let mut leaves = entries.iter();
    leaves
        .find(|entry| entry.function == function && entry.index == index)
        .copied()
        .unwrap_or_default()
}

/// Linux' `get_count_order`.
fn order(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// Package, core in it, thread in it and LLC, as Linux 6.10 and later computes them for its CPU of these leaves
/// (arch/x86/kernel/cpu: `topology_ext.c`, `topology_amd.c`, `cacheinfo.c`).
fn linux(entries: &[kvm_cpuid_entry2]) -> (u32, u32, u32, u32) {
    let host = Host::of(entries);
    let ext = if host.is_amd() { 0xb } else { 0x1f };
    let (smt, core) = (find(entries, ext, 0), find(entries, ext, 1));
    assert_eq!(
        (smt.ecx >> 8, core.ecx >> 8),
        (1, 2),
        "levels of leaf {ext:#x}"
    );
    let id = smt.edx;
    let package = id >> core.eax;
    let llc = if !host.is_amd() {
        let l3 = find(entries, 4, 3);
        assert_eq!(l3.eax >> 5 & 7, 3);
        id >> order((l3.eax >> 14 & 0xfff) + 1)
    } else if find(entries, 0x8000_0006, 0).edx == 0 {
        // `legacy_set_llc`
        package
    } else if host.vendor() == HYGON {
        id >> 3
    } else if host.family() < 0x17 {
        find(entries, 0x8000_001e, 0).ecx & 0xff
    } else if host.family() == 0x17 && host.model() <= 0x1f {
        id >> 3
    } else {
        let l3 = find(entries, 0x8000_001d, 3);
        id >> order((l3.eax >> 14 & 0xfff) + 1)
    };
    let core_in = id >> smt.eax & ((1 << (core.eax - smt.eax)) - 1);
    (package, core_in, id & ((1 << smt.eax) - 1), llc)
}

/// Bits of XCR0 that belong together (Intel SDM 1, "XSETBV": what raises a general protection fault).
#[track_caller]
fn check_xsave(entries: &[kvm_cpuid_entry2], name: &str) {
    let area = find(entries, 0xd, 0);
    let has = |bit: u32| area.eax >> bit & 1 == 1;
    assert!(has(0) && (!has(2) || has(1)), "{name}: {:#x}", area.eax);
    assert_eq!(has(3), has(4), "{name}: MPX");
    assert!(
        has(5) == has(6) && has(6) == has(7),
        "{name}: AVX-512 of {:#x}",
        area.eax
    );
    assert_eq!(has(17), has(18), "{name}: AMX of {:#x}", area.eax);
    let amx = find(entries, 7, 0).edx >> 24 & 1 == 1;
    assert_eq!(amx, has(17), "{name}: AMX instructions and their state");
    for bit in 2..32 {
        let component = find(entries, 0xd, bit);
        // Hygon's dump has subleaf 0 alone.
        if has(bit) && name != "hygon" {
            assert_ne!(component.eax, 0, "{name}: component {bit} is not described");
            let end = component.eax + component.ebx;
            assert!(
                end <= area.ecx,
                "{name}: component {bit} ends at {end:#x} of {:#x}",
                area.ecx
            );
        }
    }
}

#[test]
fn linux_sees_the_declared_shape_on_every_recorded_host() {
    for (name, dump) in RECORDED {
        let host = parse(dump);
        for preset in PRESETS {
            let topology: Topology = preset.topology().unwrap();
            let layout = ApicLayout::new(&topology);
            let mut llcs = std::collections::BTreeMap::new();
            for vcpu in 0..topology.total_cpus() {
                let place = topology.place(vcpu).unwrap();
                let entries = for_vcpu(&host, layout, vcpu, Hints::default());
                let (package, core, thread, llc) = linux(&entries);
                let what = format!("{name}, {} vCPU {vcpu}", preset.name);
                assert_eq!(
                    (package, core, thread),
                    (place.llc, place.core, place.thread),
                    "{what}"
                );
                // Numbers of LLCs are Linux' own; equal ones must be one LLC of ours.
                assert_eq!(*llcs.entry(llc).or_insert(place.llc), place.llc, "{what}");
                assert!(entries.len() <= KVM_MAX_CPUID_ENTRIES, "{what}");
            }
            let found = u32::try_from(llcs.len()).unwrap();
            assert_eq!(found, topology.llcs(), "{name}, {}", preset.name);
        }
    }
}

#[test]
fn no_recorded_host_gives_a_guest_half_a_feature() {
    for (name, dump) in RECORDED {
        let layout = ApicLayout::new(&"1n2l4c2t".parse().unwrap());
        let entries = for_vcpu(&parse(dump), layout, 0, Hints::default());
        check_xsave(&entries, name);
        let mut seen = std::collections::HashSet::new();
        for entry in &entries {
            let place = (entry.function, entry.index);
            assert!(seen.insert(place), "{name}: leaf {place:x?} is there twice");
        }
        assert_eq!(
            find(&entries, 0x8000_0007, 0).edx >> 8 & 1,
            0,
            "{name}: invariant TSC"
        );
        assert!(
            entries
                .iter()
                .all(|entry| entry.function < 0x8000_0026 || entry.function > 0x8fff_ffff)
        );
    }
}

/// What kernels before 6.4 offer a process that has not asked for AMX.
fn half_amx(whole: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
    let mut half: Vec<_> = whole.to_vec();
    half.retain(|entry| (entry.function, entry.index) != (0xd, 18));
    for entry in &mut half {
        if (entry.function, entry.index) == (0xd, 0) {
            entry.eax &= !(1 << 18);
        }
    }
    half
}

#[test]
fn half_of_amx_is_none() {
    let layout = ApicLayout::new(&Topology::default());
    for name in ["sapphire-rapids", "granite-rapids"] {
        let whole = recorded(name);
        let guest = for_vcpu(&whole, layout, 0, Hints::default());
        assert_eq!(find(&guest, 0xd, 0).eax >> 17 & 3, 3, "{name}: both halves");
        let guest = for_vcpu(&half_amx(&whole), layout, 0, Hints::default());
        check_xsave(&guest, name);
        assert_eq!(find(&guest, 0xd, 0).eax >> 17 & 3, 0, "{name}: no half");
        // PKRU, at 0xa80, is now the last component.
        assert_eq!(find(&guest, 0xd, 0).ecx, 0xa88, "{name}");
        // Kernels since 6.4: the instructions without their state.
        let mut without = half_amx(&whole);
        without.retain(|entry| (entry.function, entry.index) != (0xd, 17));
        for entry in &mut without {
            if (entry.function, entry.index) == (0xd, 0) {
                entry.eax &= !(1 << 17);
            }
        }
        check_xsave(&for_vcpu(&without, layout, 0, Hints::default()), name);
    }
}

#[test]
fn a_host_is_told_in_words() {
    let whole = recorded("sapphire-rapids");
    assert!(HostFeatures::of(&whole).amx.contains("whole"));
    assert!(HostFeatures::of(&half_amx(&whole)).amx.contains("halves"));
    assert_eq!(HostFeatures::of(&recorded("genoa")).amx, "not offered");
    let fixed: Vec<&str> = RECORDED
        .into_iter()
        .filter(|(_, dump)| HostFeatures::of(&parse(dump)).fixed_llc)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(fixed, ["zen", "zen-plus", "hygon"]);
    assert!(HostFeatures::of(&recorded("skylake")).invariant_tsc);
}

#[test]
fn an_invariant_tsc_is_shown_when_it_is_asked_for_and_only_then() {
    let layout = ApicLayout::new(&Topology::default());
    for (name, dump) in RECORDED {
        for invariant_tsc in [false, true] {
            let hints = Hints {
                invariant_tsc,
                ..Hints::default()
            };
            let mut host = parse(dump);
            host.retain(|entry| !(name == "zen" && entry.function == 0x8000_0007));
            let guest = for_vcpu(&host, layout, 0, hints);
            let shown = find(&guest, 0x8000_0007, 0).edx >> 8 & 1 == 1;
            assert_eq!(shown, invariant_tsc, "{name}");
        }
    }
}

#[test]
fn interrupts_have_long_destinations_where_apic_ids_are_long_and_only_there() {
    let features = kvm_cpuid_entry2 {
        function: 0x4000_0001,
        eax: 1 << 15,
        ..Default::default()
    };
    let layout = ApicLayout::new(&Topology::default());
    for large_ids in [false, true] {
        let hints = Hints {
            large_ids,
            ..Hints::default()
        };
        let guest = for_vcpu(&[features], layout, 0, hints);
        assert_eq!(find(&guest, 0x4000_0001, 0).eax >> 15 & 1 == 1, large_ids);
    }
}

#[test]
fn all_cache_leaves_tell_of_the_same_caches() {
    let layout = ApicLayout::new(&"1n2l4c2t".parse().unwrap());
    for (name, dump) in RECORDED {
        let host = parse(dump);
        let guest = for_vcpu(&host, layout, 0, Hints::default());
        let kib = |index| {
            let cache = find(&guest, 4, index);
            let (ways, line, sets) = (cache.ebx >> 22, cache.ebx & 0xfff, cache.ecx);
            (ways + 1) * (line + 1) * (sets + 1) / 1024
        };
        let old = find(&guest, 0x8000_0006, 0);
        assert_eq!(old.ecx >> 16, kib(2), "{name}: L2");
        let amd = Host::of(&host).is_amd();
        if amd {
            let l1 = find(&guest, 0x8000_0005, 0);
            assert_eq!((l1.ecx >> 24, l1.edx >> 24), (kib(0), kib(1)), "{name}: L1");
        }
        if amd && !Host::of(&host).has_fixed_llc() {
            assert_eq!((old.edx >> 18) * 512, kib(3), "{name}: L3");
        } else {
            assert_eq!(old.edx, 0, "{name}: L3");
        }
        let descriptors = find(&guest, 2, 0);
        assert!(matches!(descriptors.eax, 0 | 0xff01), "{name}");
    }
}

#[test]
fn counters_of_zen_4_stay() {
    let layout = ApicLayout::new(&Topology::default());
    let host = recorded("zen4");
    let guest = for_vcpu(&host, layout, 0, Hints::default());
    let pmu = find(&host, 0x8000_0022, 0);
    assert_ne!(pmu.eax, 0);
    assert_eq!(find(&guest, 0x8000_0022, 0).eax, pmu.eax);
}
