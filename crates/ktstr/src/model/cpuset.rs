//! Sets of CPUs in the kernel's list form (`0-3,8`), and the map of a topology's CPUs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::topology::TopologySpec;

/// Highest CPU number that a list may name; a larger one is a typing error, not a machine.
const MAX_CPU: u32 = 8_191;

/// A set of CPU numbers.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuSet(BTreeSet<u32>);

/// A CPU list that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "bad CPU list {list:?}: {part:?} is neither a number up to {MAX_CPU} nor a range such as 0-3"
)]
pub struct CpuListError {
    /// The whole list.
    pub list: String,
    /// The part that is wrong.
    pub part: String,
}

impl CpuSet {
    /// No CPU at all.
    pub const EMPTY: Self = Self(BTreeSet::new());

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Number of CPUs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no CPU.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Adds a CPU.
    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    /// CPUs of this set that `other` lacks.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// CPUs in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// The CPUs as a vector, ascending.
    pub fn to_vec(&self) -> Vec<u32> {
        self.iter().collect()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl<const N: usize> From<[u32; N]> for CpuSet {
    fn from(cpus: [u32; N]) -> Self {
        cpus.into_iter().collect()
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|cpu| *cpu == last + 1) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = CpuListError;

    fn from_str(list: &str) -> Result<Self, CpuListError> {
        let mut set = Self::EMPTY;
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let range = parse_range(part).ok_or_else(|| CpuListError {
                list: list.to_owned(),
                part: part.to_owned(),
            })?;
            set.0.extend(range);
        }
        Ok(set)
    }
}

fn parse_range(part: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let first: u32 = first.trim().parse().ok()?;
    let last: u32 = last.trim().parse().ok()?;
    (first <= last && last <= MAX_CPU).then_some(first..=last)
}

/// The guest's CPUs and where each lies. CPUs are numbered thread first, then core, LLC, node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMap {
    /// NUMA nodes.
    pub numa_nodes: u32,
    /// LLCs in all nodes together.
    pub llcs: u32,
    /// Cores per LLC.
    pub cores: u32,
    /// Threads per core.
    pub threads: u32,
}

impl CpuMap {
    /// A map of this shape; no part of it is less than 1.
    pub fn new(numa_nodes: u32, llcs: u32, cores: u32, threads: u32) -> Self {
        Self {
            numa_nodes: numa_nodes.max(1),
            llcs: llcs.max(1),
            cores: cores.max(1),
            threads: threads.max(1),
        }
    }

    /// Number of CPUs.
    pub fn total_cpus(&self) -> u32 {
        self.llcs.saturating_mul(self.cpus_per_llc())
    }

    /// CPUs that share one LLC.
    pub fn cpus_per_llc(&self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }

    /// All CPUs.
    pub fn all(&self) -> CpuSet {
        (0..self.total_cpus()).collect()
    }

    /// CPUs of one LLC; empty if there is no such LLC.
    pub fn llc(&self, index: u32) -> CpuSet {
        if index >= self.llcs {
            return CpuSet::EMPTY;
        }
        let per = self.cpus_per_llc();
        (index * per..(index + 1) * per).collect()
    }

    /// CPUs of one NUMA node; empty if there is no such node.
    pub fn node(&self, index: u32) -> CpuSet {
        (0..self.llcs)
            .filter(|llc| index < self.numa_nodes && self.node_of_llc(*llc) == index)
            .flat_map(|llc| self.llc(llc).to_vec())
            .collect()
    }

    /// The LLC of a CPU.
    pub fn llc_of(&self, cpu: u32) -> u32 {
        cpu / self.cpus_per_llc()
    }

    /// The node of a CPU.
    pub fn node_of(&self, cpu: u32) -> u32 {
        self.node_of_llc(self.llc_of(cpu))
    }

    /// The other threads of a CPU's core, and itself.
    pub fn siblings(&self, cpu: u32) -> CpuSet {
        let first = cpu - cpu % self.threads;
        (first..first + self.threads).collect()
    }

    fn node_of_llc(&self, llc: u32) -> u32 {
        llc * self.numa_nodes / self.llcs
    }
}

impl From<TopologySpec> for CpuMap {
    fn from(spec: TopologySpec) -> Self {
        Self::new(spec.numa_nodes, spec.llcs, spec.cores, spec.threads)
    }
}

impl fmt::Display for CpuMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            numa_nodes,
            llcs,
            cores,
            threads,
        } = self;
        write!(f, "{numa_nodes}n{llcs}l{cores}c{threads}t")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_read_back(cpus in prop::collection::btree_set(0u32..300, 0..40)) {
            let set: CpuSet = cpus.into_iter().collect();
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }

        #[test]
        fn llcs_and_nodes_each_cover_every_cpu_once(
            nodes in 1u32..4, per_node in 1u32..4, cores in 1u32..5, threads in 1u32..3,
        ) {
            let map = CpuMap::new(nodes, nodes * per_node, cores, threads);
            let by_llc: Vec<u32> = (0..map.llcs).flat_map(|i| map.llc(i).to_vec()).collect();
            let by_node: Vec<u32> = (0..map.numa_nodes).flat_map(|i| map.node(i).to_vec()).collect();
            prop_assert_eq!(&by_llc, &map.all().to_vec());
            prop_assert_eq!(&by_node, &map.all().to_vec());
        }
    }

    #[test]
    fn the_kernels_form() {
        let set = CpuSet::from([0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(set.to_string(), "0-3,8,10-11");
        assert_eq!("\n".parse::<CpuSet>().unwrap(), CpuSet::EMPTY);
        for bad in ["x", "3-1", "0-99999", "1,,b", "-1"] {
            let error = bad.parse::<CpuSet>().unwrap_err();
            assert!(error.to_string().contains("bad CPU list"), "{error}");
        }
    }

    #[test]
    fn places() {
        let map = CpuMap::new(2, 4, 2, 2);
        assert_eq!(map.llc(1), CpuSet::from([4, 5, 6, 7]));
        assert_eq!(map.node(1).to_string(), "8-15");
        assert_eq!(map.node_of(9), 1);
        assert_eq!(map.siblings(5), CpuSet::from([4, 5]));
        assert!(map.llc(4).is_empty() && map.node(2).is_empty());
    }
}
