//! vCPU numbers as APIC ids.

use crate::topology::Topology;

/// The fields of an APIC id, each padded to a power of two (Intel SDM 3A §9.9.2; AMD APM 3 §E.5).
///
/// ```text
///   | package = LLC | core | thread |
///                   ^      ^
///       package_shift      core_shift
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApicLayout {
    /// Bits of the thread field.
    pub(crate) core_shift: u32,
    /// Bits of thread and core field.
    pub(crate) package_shift: u32,
    cores: u32,
    threads: u32,
}

impl ApicLayout {
    pub(crate) fn new(topology: &Topology) -> Self {
        let (cores, threads) = (topology.cores_per_llc(), topology.threads_per_core());
        let core_shift = bits(threads);
        Self {
            core_shift,
            package_shift: core_shift + bits(cores),
            cores,
            threads,
        }
    }

    /// The APIC id of `vcpu`.
    pub(crate) fn id(self, vcpu: u32) -> u32 {
        let per_package = self.cores * self.threads;
        let (package, within) = (vcpu / per_package, vcpu % per_package);
        let (core, thread) = (within / self.threads, within % self.threads);
        (package << self.package_shift) | (core << self.core_shift) | thread
    }

    /// Threads of one core.
    pub(crate) fn threads(self) -> u32 {
        self.threads
    }

    /// Threads of one package.
    pub(crate) fn package_threads(self) -> u32 {
        self.cores * self.threads
    }
}

fn bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_padded() {
        let layout = ApicLayout::new(&"1n2l9c2t".parse().unwrap());
        assert_eq!((layout.core_shift, layout.package_shift), (1, 5));
        assert_eq!(layout.id(0), 0);
        assert_eq!(layout.id(17), 17);
        assert_eq!(layout.id(18), 32);
    }

    proptest! {
        #[test]
        fn ids_ascend_and_end_at_the_highest(llcs in 1u32..16, cores in 1u32..12, threads in 1u32..3) {
            let topology = Topology::new(1, llcs, cores, threads).unwrap();
            let layout = ApicLayout::new(&topology);
            let ids: Vec<u32> = (0..topology.total_cpus()).map(|vcpu| layout.id(vcpu)).collect();
            prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(ids.last().copied(), Some(topology.max_apic_id()));
            for (vcpu, id) in (0..).zip(&ids) {
                let place = topology.place(vcpu).unwrap();
                prop_assert_eq!(id >> layout.package_shift, place.llc);
            }
        }
    }
}
