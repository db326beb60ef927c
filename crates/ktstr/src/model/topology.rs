//! Shapes of CPUs that a test declares: its own, and those that it may be run on.

use std::fmt;

use serde::Serialize;

/// A CPU topology in const form; checked when the entry is validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TopologySpec {
    /// NUMA nodes, at least 1.
    pub numa_nodes: u32,
    /// LLCs in all nodes together.
    pub llcs: u32,
    /// Cores per LLC.
    pub cores: u32,
    /// Threads per core, 1 or 2.
    pub threads: u32,
}

impl TopologySpec {
    /// One node, one LLC, two cores.
    pub const DEFAULT: Self = Self {
        numa_nodes: 1,
        llcs: 1,
        cores: 2,
        threads: 1,
    };

    /// vCPUs in all.
    #[must_use]
    pub const fn total_cpus(&self) -> u32 {
        self.llcs
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
    }
}

impl fmt::Display for TopologySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}n{}l{}c{}t",
            self.numa_nodes, self.llcs, self.cores, self.threads
        )
    }
}

/// Which topologies a test may be run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TopologyConstraints {
    /// Fewest LLCs.
    pub min_llcs: u32,
    /// Most LLCs; `None` for no limit.
    pub max_llcs: Option<u32>,
    /// Fewest NUMA nodes.
    pub min_numa_nodes: u32,
    /// Most NUMA nodes; `None` for no limit.
    pub max_numa_nodes: Option<u32>,
    /// Fewest CPUs.
    pub min_cpus: u32,
    /// Most CPUs; `None` for no limit.
    pub max_cpus: Option<u32>,
    /// Two threads per core are needed.
    pub requires_smt: bool,
}

impl TopologyConstraints {
    /// The documented defaults.
    pub const DEFAULT: Self = Self {
        min_llcs: 1,
        max_llcs: Some(12),
        min_numa_nodes: 1,
        max_numa_nodes: Some(1),
        min_cpus: 1,
        max_cpus: Some(192),
        requires_smt: false,
    };
}
