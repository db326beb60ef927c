//! The leaves that describe topology and caches, rewritten for one vCPU.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::ApicLayout;
use super::host::{self, Host};

/// Highest basic leaf that we fill.
const V2_TOPOLOGY: u32 = 0x1f;
/// The last extended leaf that we fill.
const LAST_EXTENDED: u32 = 0x8000_001e;
/// AMD's own topology leaf, which would tell the host's (AMD APM 3, "Extended CPU Topology"); 0x80000022, PerfMonV2, stays.
const FIRST_HOST_TOPOLOGY: u32 = 0x8000_0026;
/// KVM's feature leaf (Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_FEATURE_MSI_EXT_DEST_ID: u32 = 1 << 15;
const KVM_HINTS_REALTIME: u32 = 1;
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 1 ECX: x2APIC, hypervisor present, TSC deadline timer.
const X2APIC: u32 = 1 << 21;
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 0x80000001 ECX.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Advanced power management; EDX has the TSC.
const POWER: u32 = 0x8000_0007;
const INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 2: the caches are told by leaf 4 (descriptor 0xFF); the low byte is always 1.
const CACHES_IN_LEAF_4: u32 = 0xff01;

/// What is told apart from the host's features and our topology.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hints {
    /// The TSC neither stops nor changes its rate, so that Linux takes it for its clock. Otherwise it takes kvm-clock, which KVM
    /// can set back after a freeze.
    pub(crate) invariant_tsc: bool,
    /// APIC ids above 254 occur, and interrupts have destinations of 15 bits (`KVM_FEATURE_MSI_EXT_DEST_ID`).
    pub(crate) large_ids: bool,
    /// vCPUs are never preempted (`KVM_HINTS_REALTIME`).
    pub(crate) realtime: bool,
    /// KVM emulates the TSC deadline timer (`KVM_CAP_TSC_DEADLINE_TIMER`).
    pub(crate) tsc_deadline: bool,
}

/// One cache as leaves 4 and 0x8000001D tell it. Sizes are those of a common server part; only the sharing is declared.
struct Cache {
    /// 1 data, 2 instruction, 3 unified.
    kind: u32,
    level: u32,
    ways: u32,
    sets: u32,
    per_package: bool,
}

impl Cache {
    fn size(&self) -> u32 {
        self.ways * self.sets * LINE
    }

    /// Leaf 0x80000005: size in KiB, ways, lines per tag, line size (AMD APM 3 §E.4.5).
    fn as_l1(&self) -> u32 {
        self.size() >> 10 << 24 | self.ways << 16 | 1 << 8 | LINE
    }

    /// Leaf 0x80000006 without the size: ways as a code, lines per tag, line size (AMD APM 3 §E.4.6).
    fn as_outer(&self) -> u32 {
        /// 16 ways.
        const CODE: u32 = 8;
        debug_assert_eq!(self.ways, 16);
        CODE << 12 | 1 << 8 | LINE
    }
}

const LINE: u32 = 64;
const CACHES: [Cache; 4] = [
    Cache {
        kind: 1,
        level: 1,
        ways: 8,
        sets: 64,
        per_package: false,
    },
    Cache {
        kind: 2,
        level: 1,
        ways: 8,
        sets: 64,
        per_package: false,
    },
    Cache {
        kind: 3,
        level: 2,
        ways: 16,
        sets: 1024,
        per_package: false,
    },
    Cache {
        kind: 3,
        level: 3,
        ways: 16,
        sets: 16384,
        per_package: true,
    },
];

/// `supported` (KVM_GET_SUPPORTED_CPUID) as the vCPU `vcpu` shall see it.
pub(crate) fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    layout: ApicLayout,
    vcpu: u32,
    hints: Hints,
) -> Vec<kvm_cpuid_entry2> {
    let apic_id = layout.id(vcpu);
    let host = Host::of(supported);
    let amd = host.is_amd();
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .iter()
        .filter(|entry| !is_rebuilt(entry.function, amd))
        .copied()
        .collect();
    for entry in &mut entries {
        patch(entry, layout, apic_id, &host, hints);
    }
    if hints.invariant_tsc && !entries.iter().any(|entry| entry.function == POWER) {
        entries.push(kvm_cpuid_entry2 {
            function: POWER,
            edx: INVARIANT_TSC,
            ..Default::default()
        });
    }
    host::without_half_amx(&mut entries);
    for function in [0xb, V2_TOPOLOGY] {
        entries.extend(extended_topology(function, layout, apic_id));
    }
    entries.extend(caches(4, layout));
    if amd {
        entries.extend(caches(0x8000_001d, layout));
        entries.push(amd_ids(layout, apic_id));
    }
    entries
}

/// Leaves that are made anew, or that would tell the host's shape.
fn is_rebuilt(function: u32, amd: bool) -> bool {
    match function {
        4 | 0xb | V2_TOPOLOGY | FIRST_HOST_TOPOLOGY..=0x8fff_ffff => true,
        0x8000_001d | 0x8000_001e => amd,
        _ => false,
    }
}

fn patch(
    entry: &mut kvm_cpuid_entry2,
    layout: ApicLayout,
    apic_id: u32,
    host: &Host,
    hints: Hints,
) {
    let threads = layout.package_threads();
    let amd = host.is_amd();
    match entry.function {
        0 => entry.eax = entry.eax.max(V2_TOPOLOGY),
        1 => {
            let ids = (1u32 << layout.package_shift).min(255);
            entry.ebx = entry.ebx & 0xffff | ids << 16 | (apic_id & 0xff) << 24;
            entry.ecx |= X2APIC | HYPERVISOR;
            set(&mut entry.ecx, TSC_DEADLINE, hints.tsc_deadline);
            set(&mut entry.edx, HTT, threads > 1);
        }
        2 if entry.eax != 0 => {
            entry.eax = CACHES_IN_LEAF_4;
            (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
        }
        KVM_FEATURES => {
            set(&mut entry.eax, KVM_FEATURE_MSI_EXT_DEST_ID, hints.large_ids);
            set(&mut entry.edx, KVM_HINTS_REALTIME, hints.realtime);
        }
        0x8000_0000 if amd => {
            entry.eax = entry.eax.clamp(LAST_EXTENDED, FIRST_HOST_TOPOLOGY - 1);
        }
        0x8000_0000 if hints.invariant_tsc => entry.eax = entry.eax.max(POWER),
        0x8000_0001 if amd => {
            entry.ecx |= TOPOLOGY_EXTENSIONS;
            set(&mut entry.ecx, CMP_LEGACY, threads > 1);
        }
        0x8000_0005 if amd => {
            let [data, code, ..] = &CACHES;
            (entry.ecx, entry.edx) = (data.as_l1(), code.as_l1());
        }
        0x8000_0006 => {
            let [_, _, l2, l3] = &CACHES;
            entry.ecx = l2.size() >> 10 << 16 | l2.as_outer();
            // Intel reserves it.
            entry.edx = if amd && !host.has_fixed_llc() {
                l3.size() >> 19 << 18 | l3.as_outer()
            } else {
                0
            };
        }
        POWER => set(&mut entry.edx, INVARIANT_TSC, hints.invariant_tsc),
        // AMD APM 3 §E.4.8: ApicIdSize and NC.
        0x8000_0008 if amd => entry.ecx = layout.package_shift << 12 | (threads - 1) & 0xff,
        _ => {}
    }
}

fn set(word: &mut u32, bit: u32, on: bool) {
    *word = if on { *word | bit } else { *word & !bit };
}

fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ..Default::default()
    }
}

/// Leaves 0xB and 0x1F: thread level, core level, end (Intel SDM 2A, CPUID).
fn extended_topology(function: u32, layout: ApicLayout, apic_id: u32) -> [kvm_cpuid_entry2; 3] {
    const LEVEL_SMT: u32 = 1 << 8;
    const LEVEL_CORE: u32 = 2 << 8;
    let mut levels = [leaf(function, 0), leaf(function, 1), leaf(function, 2)];
    let [smt, core, end] = &mut levels;
    (smt.eax, smt.ebx, smt.ecx) = (layout.core_shift, layout.threads(), LEVEL_SMT);
    (core.eax, core.ebx) = (layout.package_shift, layout.package_threads());
    core.ecx = LEVEL_CORE | 1;
    end.ecx = 2;
    for level in &mut levels {
        level.edx = apic_id;
    }
    levels
}

/// Leaf 4 (Intel) or 0x8000001D (AMD), which share their layout but for the core count in EAX\[31:26\].
fn caches(function: u32, layout: ApicLayout) -> Vec<kvm_cpuid_entry2> {
    let cores = (1u32 << (layout.package_shift - layout.core_shift)).min(64) - 1;
    let mut leaves: Vec<kvm_cpuid_entry2> = (0..)
        .zip(&CACHES)
        .map(|(index, cache)| {
            let sharing = match (cache.per_package, function) {
                // AMD counts sharing threads as they are, Intel as ids (APM 3 §E.4.15, SDM 2A); both round up.
                (true, _) => 1u32 << layout.package_shift,
                (false, _) => 1u32 << layout.core_shift,
            };
            let mut entry = leaf(function, index);
            const SELF_INITIALIZING: u32 = 1 << 8;
            entry.eax =
                cache.kind | cache.level << 5 | SELF_INITIALIZING | (sharing - 1).min(0xfff) << 14;
            if function == 4 {
                entry.eax |= cores << 26;
            }
            entry.ebx = (LINE - 1) | (cache.ways - 1) << 22;
            entry.ecx = cache.sets - 1;
            entry
        })
        .collect();
    // The empty leaf ends the list.
    leaves.push(leaf(
        function,
        u32::try_from(CACHES.len()).unwrap_or(u32::MAX),
    ));
    leaves
}

/// Leaf 0x8000001E: one node per package (AMD APM 3 §E.4.16).
fn amd_ids(layout: ApicLayout, apic_id: u32) -> kvm_cpuid_entry2 {
    let package = apic_id >> layout.package_shift;
    kvm_cpuid_entry2 {
        function: 0x8000_001e,
        eax: apic_id,
        ebx: (layout.threads() - 1) << 8 | (apic_id >> layout.core_shift) & 0xff,
        ecx: package & 0xff,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{PRESETS, Topology};

    fn host(vendor: u32) -> Vec<kvm_cpuid_entry2> {
        let plain = |function, eax, ebx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ..Default::default()
        };
        vec![
            plain(0, 0xd, vendor),
            plain(1, 0x6f0, 0x0305_0800),
            leaf(4, 0),
            leaf(0xb, 0),
            plain(KVM_FEATURES, 1, 0),
            plain(0x8000_0000, 0x8000_0026, 0),
            plain(0x8000_0001, 0, 0),
            plain(0x8000_0008, 0x3028, 0),
            plain(0x8000_0026, 7, 7),
        ]
    }

    /// As the SDM's algorithm does: peel fields off the x2APIC id by the shifts of leaf 0xB or 0x1F.
    fn decode(entries: &[kvm_cpuid_entry2], function: u32) -> (u32, u32, u32) {
        let level = |index| {
            entries
                .iter()
                .find(|entry| entry.function == function && entry.index == index)
                .unwrap()
        };
        let (smt, core) = (level(0), level(1));
        assert_eq!((smt.ecx >> 8, core.ecx >> 8, level(2).ecx >> 8), (1, 2, 0));
        let id = smt.edx;
        let package = id >> core.eax;
        (
            package,
            (id & ((1 << core.eax) - 1)) >> smt.eax,
            id & ((1 << smt.eax) - 1),
        )
    }

    #[test]
    fn every_vcpu_of_every_preset_decodes_to_its_place() {
        for preset in PRESETS {
            let topology: Topology = preset.topology().unwrap();
            let layout = ApicLayout::new(&topology);
            for vcpu in 0..topology.total_cpus() {
                let place = topology.place(vcpu).unwrap();
                let entries = for_vcpu(&host(host::AMD[0]), layout, vcpu, Hints::default());
                for function in [0xb, 0x1f] {
                    assert_eq!(
                        decode(&entries, function),
                        (place.llc, place.core, place.thread),
                        "{} vcpu {vcpu}",
                        preset.name
                    );
                }
                let only = |function| {
                    let mut found = entries.iter().filter(|entry| entry.function == function);
                    let first = *found.next().unwrap();
                    assert!(found.next().is_none(), "leaf {function:#x} is there twice");
                    first
                };
                assert_eq!(only(0x8000_001e).eax, layout.id(vcpu));
                assert_eq!(only(0x8000_001e).ecx, place.llc & 0xff);
                assert_eq!(only(1).ebx >> 24, layout.id(vcpu) & 0xff);
                assert_eq!(only(0).eax, 0x1f);
            }
        }
    }

    #[test]
    fn the_l3_is_shared_by_an_llc_and_the_l2_by_a_core() {
        let layout = ApicLayout::new(&"1n2l4c2t".parse().unwrap());
        for function in [4, 0x8000_001d] {
            let entries = for_vcpu(&host(host::AMD[0]), layout, 0, Hints::default());
            let sharing: Vec<(u32, u32)> = entries
                .iter()
                .filter(|entry| entry.function == function && entry.eax & 0x1f != 0)
                .map(|entry| (entry.eax >> 5 & 7, (entry.eax >> 14 & 0xfff) + 1))
                .collect();
            assert_eq!(sharing, [(1, 2), (1, 2), (2, 2), (3, 8)]);
        }
    }

    #[test]
    fn intel_gets_no_amd_leaves_and_no_host_topology_remains() {
        let layout = ApicLayout::new(&Topology::default());
        let entries = for_vcpu(&host(0x756e_6547), layout, 0, Hints::default());
        assert!(entries.iter().all(|entry| entry.function != 0x8000_001e));
        assert!(entries.iter().all(|entry| entry.function != 0x8000_0026));
    }

    #[test]
    fn hints_are_told() {
        let layout = ApicLayout::new(&Topology::default());
        let hints = Hints {
            realtime: true,
            tsc_deadline: true,
            ..Hints::default()
        };
        let entries = for_vcpu(&host(host::AMD[0]), layout, 0, hints);
        let find = |function| {
            *entries
                .iter()
                .find(|entry| entry.function == function)
                .unwrap()
        };
        assert_eq!(find(KVM_FEATURES).edx & 1, 1);
        assert_eq!(find(KVM_FEATURES).eax & KVM_FEATURE_MSI_EXT_DEST_ID, 0);
        assert_ne!(find(1).ecx & TSC_DEADLINE, 0);
    }
}
