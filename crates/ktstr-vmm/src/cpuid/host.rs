//! What kind of CPU the host has, and what of it a guest cannot take as it is.

use kvm_bindings::kvm_cpuid_entry2;

/// "AuthenticAMD", "HygonGenuine": EBX of leaf 0.
pub(super) const AMD: [u32; 2] = [0x6874_7541, HYGON];
pub(super) const HYGON: u32 = 0x6f67_7948;
/// Leaf 0xD: the state components of AMX (Intel SDM 1, "XSAVE-supported features").
const XTILE: [u32; 2] = [17, 18];
/// Leaf 7 EDX: AMX-BF16, AMX-TILE, AMX-INT8.
const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// Leaf 7, subleaf 1, EAX: AMX-FP16.
const AMX_FP16: u32 = 1 << 21;
/// Leaf 7, subleaf 1, EDX: AMX-COMPLEX.
const AMX_COMPLEX: u32 = 1 << 8;

/// Vendor, family and model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Host {
    vendor: u32,
    family: u32,
    model: u32,
}

impl Host {
    /// As these leaves tell (AMD APM 3 and Intel SDM 2A: both add the extended fields in the same way from family 15 on).
    pub(super) fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let find = |function| entries.iter().find(|entry| entry.function == function);
        let signature = find(1).map_or(0, |entry| entry.eax);
        let base = signature >> 8 & 0xf;
        let family = if base == 0xf {
            base + (signature >> 20 & 0xff)
        } else {
            base
        };
        let high = if base >= 6 { signature >> 16 & 0xf } else { 0 };
        Self {
            vendor: find(0).map_or(0, |entry| entry.ebx),
            family,
            model: high << 4 | signature >> 4 & 0xf,
        }
    }

    #[cfg(test)]
    pub(super) fn vendor(&self) -> u32 {
        self.vendor
    }

    #[cfg(test)]
    pub(super) fn family(&self) -> u32 {
        self.family
    }

    #[cfg(test)]
    pub(super) fn model(&self) -> u32 {
        self.model
    }

    /// AMD, and Hygon, which builds AMD's.
    pub(super) fn is_amd(&self) -> bool {
        AMD.contains(&self.vendor)
    }

    /// Linux gives each LLC of these CPUs eight APIC ids, whatever the cache leaves tell, as long as leaf 0x80000006 has an L3
    /// (arch/x86/kernel/cpu/cacheinfo.c: `cacheinfo_amd_init_llc_id`, `cacheinfo_hygon_init_llc_id`): Zen, Zen+ and Hygon.
    pub(super) fn has_fixed_llc(&self) -> bool {
        self.vendor == HYGON || self.is_amd() && self.family == 0x17 && self.model <= 0x1f
    }
}

/// What a person wants to know of the host's CPU as KVM offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostFeatures {
    pub(crate) invariant_tsc: bool,
    /// AMX, in words.
    pub(crate) amx: &'static str,
    /// Linux does not believe this CPU's cache leaves.
    pub(crate) fixed_llc: bool,
}

impl HostFeatures {
    /// As KVM_GET_SUPPORTED_CPUID tells.
    pub(crate) fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let find = |function, index| {
            let mut leaves = entries.iter();
            leaves.find(|entry| entry.function == function && entry.index == index)
        };
        let instructions = find(7, 0).is_some_and(|entry| entry.edx & AMX != 0);
        let amx = match (amx_state(entries), instructions) {
            (AmxState::Whole, _) => "offered whole; guests have it",
            (AmxState::Half, _) => "offered by halves; kept from guests",
            (AmxState::None, true) => "offered without its state; kept from guests",
            (AmxState::None, false) => "not offered",
        };
        Self {
            invariant_tsc: find(0x8000_0007, 0).is_some_and(|entry| entry.edx >> 8 & 1 == 1),
            amx,
            fixed_llc: Host::of(entries).has_fixed_llc(),
        }
    }
}

/// How much of the state of AMX is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AmxState {
    None,
    Half,
    Whole,
}

/// The bits of XCR0 that are AMX's.
const AMX_STATE: u32 = 1 << XTILE[0] | 1 << XTILE[1];

fn amx_state(entries: &[kvm_cpuid_entry2]) -> AmxState {
    let offered = entries
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0)
        .map_or(0, |entry| entry.eax & AMX_STATE);
    let described = |index| {
        let mut leaves = entries.iter();
        leaves.any(|entry| entry.function == 0xd && entry.index == index && entry.eax != 0)
    };
    if offered == AMX_STATE && XTILE.into_iter().all(described) {
        AmxState::Whole
    } else if offered == 0 {
        AmxState::None
    } else {
        AmxState::Half
    }
}

/// Takes AMX away unless KVM offers both halves of its state. A process that has not asked for the permission
/// (`ARCH_REQ_XCOMP_GUEST_PERM`) gets one half from kernels 5.17 to 6.3, and a guest that then sets every offered bit of XCR0, as
/// Linux does, gets a general protection fault; later kernels offer the instructions without the state.
pub(super) fn without_half_amx(entries: &mut Vec<kvm_cpuid_entry2>) {
    let state = amx_state(entries);
    if state == AmxState::Whole {
        return;
    }
    entries.retain(|entry| {
        let tiles = entry.function == 0xd && XTILE.contains(&entry.index);
        // Tile palettes and the multiplier's limits.
        !tiles && !matches!(entry.function, 0x1d | 0x1e)
    });
    for entry in entries.iter_mut() {
        match (entry.function, entry.index) {
            (7, 0) => entry.edx &= !AMX,
            (7, 1) => {
                entry.eax &= !AMX_FP16;
                entry.edx &= !AMX_COMPLEX;
            }
            (0xd, 0) => entry.eax &= !AMX_STATE,
            _ => {}
        }
    }
    if state == AmxState::None {
        return;
    }
    // The save area ends with what is left.
    let area = save_area(entries);
    if let Some(entry) = entries
        .iter_mut()
        .find(|entry| entry.function == 0xd && entry.index == 0)
    {
        entry.ebx = entry.ebx.min(area);
        entry.ecx = area;
    }
}

/// Bytes of a save area in standard format with every component that the guest may enable in XCR0.
fn save_area(entries: &[kvm_cpuid_entry2]) -> u32 {
    /// Legacy area and header.
    const LEAST: u32 = 512 + 64;
    let enabled = entries
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0)
        .map_or(0, |entry| entry.eax);
    let end = |entry: &kvm_cpuid_entry2| entry.ebx.saturating_add(entry.eax);
    entries
        .iter()
        .filter(|entry| entry.function == 0xd && (2..32).contains(&entry.index))
        .filter(|entry| enabled >> entry.index & 1 == 1)
        .map(end)
        .fold(LEAST, u32::max)
}
