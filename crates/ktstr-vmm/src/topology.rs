//! The CPU topology that a guest is told, and its named presets.
//!
//! `1n2l4c2t` reads: 1 NUMA node, 2 LLCs in all, 4 cores per LLC, 2 threads per core. vCPUs are numbered thread-fastest,
//! then core, then LLC; LLCs are dealt to nodes in order.

use std::fmt;
use std::str::FromStr;

/// Most vCPUs of a guest.
pub const MAX_VCPUS: u32 = 512;
/// Distance of a node to itself (ACPI 6.5 §5.2.17).
pub const LOCAL_DISTANCE: u8 = 10;
/// Distance between nodes unless declared otherwise.
pub const REMOTE_DISTANCE: u8 = 20;

/// A shape that no guest can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A dimension is zero.
    #[error("{what} is 0, at least 1 is needed")]
    Zero {
        /// Which dimension.
        what: &'static str,
    },
    /// More hardware threads than a core can have.
    #[error("{found} threads per core, at most 2 are possible")]
    Threads {
        /// The declared number.
        found: u32,
    },
    /// LLCs cannot be dealt evenly.
    #[error(
        "{llcs} LLCs cannot be dealt evenly to {nodes} NUMA nodes; use a multiple, or declare each node"
    )]
    Uneven {
        /// Declared LLCs.
        llcs: u32,
        /// Declared nodes.
        nodes: u32,
    },
    /// More vCPUs than supported.
    #[error("{found} vCPUs, at most {MAX_VCPUS} are supported")]
    TooMany {
        /// The product of the dimensions.
        found: u64,
    },
    /// No CPU at all.
    #[error("no node has an LLC, so there is no CPU")]
    NoCpu,
    /// The short form does not parse.
    #[error(
        "invalid topology '{found}'; write it like 1n2l4c2t (nodes, LLCs in all, cores per LLC, threads per core)"
    )]
    Syntax {
        /// What was given.
        found: String,
    },
    /// The distance matrix breaks a rule of the SLIT.
    #[error("distance from node {from} to node {to} is {found}, expected {expected}")]
    Distance {
        /// Row.
        from: usize,
        /// Column.
        to: usize,
        /// The value.
        found: u8,
        /// The rule.
        expected: &'static str,
    },
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NumaNode {
    /// LLCs of this node; 0 makes a memory-only (CXL-like) node.
    pub llcs: u32,
    /// Its memory; `None` takes an even share of what no node claims.
    pub memory_mib: Option<u32>,
    /// Access latency in the HMAT.
    pub latency_ns: Option<u32>,
    /// Access bandwidth in the HMAT.
    pub bandwidth_mbs: Option<u32>,
    /// Memory-side cache in the HMAT.
    pub mem_side_cache_mib: Option<u32>,
}

impl NumaNode {
    /// A node with this many LLCs; 0 makes a memory-only (CXL-like) node.
    #[must_use]
    pub const fn new(llcs: u32) -> Self {
        Self {
            llcs,
            memory_mib: None,
            latency_ns: None,
            bandwidth_mbs: None,
            mem_side_cache_mib: None,
        }
    }

    /// Its memory.
    #[must_use]
    pub const fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// Access latency in the HMAT, nanoseconds.
    #[must_use]
    pub const fn latency_ns(mut self, latency_ns: u32) -> Self {
        self.latency_ns = Some(latency_ns);
        self
    }

    /// Access bandwidth in the HMAT, MB/s.
    #[must_use]
    pub const fn bandwidth_mbs(mut self, bandwidth_mbs: u32) -> Self {
        self.bandwidth_mbs = Some(bandwidth_mbs);
        self
    }

    /// Memory-side cache in the HMAT, MiB.
    #[must_use]
    pub const fn mem_side_cache_mib(mut self, mib: u32) -> Self {
        self.mem_side_cache_mib = Some(mib);
        self
    }
}

/// Distances between nodes: symmetric, 10 on the diagonal, more elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaDistance {
    rows: Vec<Vec<u8>>,
}

impl NumaDistance {
    /// 10 and 20.
    #[must_use]
    pub fn uniform(nodes: usize) -> Self {
        let row = |from| {
            (0..nodes)
                .map(|to| {
                    if from == to {
                        LOCAL_DISTANCE
                    } else {
                        REMOTE_DISTANCE
                    }
                })
                .collect()
        };
        Self {
            rows: (0..nodes).map(row).collect(),
        }
    }

    /// A matrix of one's own.
    ///
    /// # Errors
    /// When it is not square or symmetric, its diagonal is not 10, or another value is not above 10.
    pub fn new(rows: Vec<Vec<u8>>) -> Result<Self, TopologyError> {
        for (from, row) in rows.iter().enumerate() {
            for to in 0..rows.len().max(row.len()) {
                let found = row.get(to).copied().unwrap_or(0);
                let mirror = rows
                    .get(to)
                    .and_then(|row| row.get(from))
                    .copied()
                    .unwrap_or(0);
                let expected = match (from == to, found) {
                    (true, LOCAL_DISTANCE) => None,
                    (true, _) => Some("10 on the diagonal"),
                    (false, 0..=LOCAL_DISTANCE) => {
                        Some("more than 10 between nodes, in a square matrix")
                    }
                    (false, _) if mirror != found => Some("the same both ways"),
                    (false, _) => None,
                };
                if let Some(expected) = expected {
                    return Err(TopologyError::Distance {
                        from,
                        to,
                        found,
                        expected,
                    });
                }
            }
        }
        Ok(Self { rows })
    }

    /// The distance between two nodes; `None` for a node that does not exist.
    #[must_use]
    pub fn between(&self, from: usize, to: usize) -> Option<u8> {
        self.rows.get(from)?.get(to).copied()
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.rows.len()
    }
}

/// Where a vCPU sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct CpuPlace {
    /// NUMA node.
    pub node: u32,
    /// LLC, counted over all nodes.
    pub llc: u32,
    /// Core within the LLC.
    pub core: u32,
    /// Thread within the core.
    pub thread: u32,
}

/// A guest's CPUs and NUMA nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    cores_per_llc: u32,
    threads_per_core: u32,
    nodes: Vec<NumaNode>,
    distance: NumaDistance,
}

impl Default for Topology {
    /// One CPU.
    fn default() -> Self {
        let node = NumaNode::new(1);
        Self {
            cores_per_llc: 1,
            threads_per_core: 1,
            nodes: vec![node],
            distance: NumaDistance::uniform(1),
        }
    }
}

impl Topology {
    /// `numa_nodes` nodes that share `llcs` LLCs evenly.
    ///
    /// # Errors
    /// When a dimension is zero or too large, or the LLCs do not divide.
    pub fn new(
        numa_nodes: u32,
        llcs: u32,
        cores_per_llc: u32,
        threads_per_core: u32,
    ) -> Result<Self, TopologyError> {
        for (what, value) in [("numa_nodes", numa_nodes), ("llcs", llcs)] {
            if value == 0 {
                return Err(TopologyError::Zero { what });
            }
        }
        if !llcs.is_multiple_of(numa_nodes) {
            return Err(TopologyError::Uneven {
                llcs,
                nodes: numa_nodes,
            });
        }
        let total = u64::from(llcs)
            .saturating_mul(cores_per_llc.into())
            .saturating_mul(threads_per_core.into());
        if total > u64::from(MAX_VCPUS) {
            return Err(TopologyError::TooMany { found: total });
        }
        let node = NumaNode::new(llcs / numa_nodes);
        let nodes: Vec<NumaNode> = (0..numa_nodes).map(|_| node.clone()).collect();
        Self::with_nodes(cores_per_llc, threads_per_core, &nodes)
    }

    /// Nodes declared one by one; a node with 0 LLCs has memory only.
    ///
    /// # Errors
    /// When a dimension is zero or too large, or no node has a CPU.
    pub fn with_nodes(
        cores_per_llc: u32,
        threads_per_core: u32,
        nodes: &[NumaNode],
    ) -> Result<Self, TopologyError> {
        for (what, value) in [
            ("cores_per_llc", cores_per_llc),
            ("threads_per_core", threads_per_core),
        ] {
            if value == 0 {
                return Err(TopologyError::Zero { what });
            }
        }
        if threads_per_core > 2 {
            return Err(TopologyError::Threads {
                found: threads_per_core,
            });
        }
        let llcs: u64 = nodes.iter().map(|node| u64::from(node.llcs)).sum();
        let total = llcs
            .saturating_mul(cores_per_llc.into())
            .saturating_mul(threads_per_core.into());
        match total {
            0 => Err(TopologyError::NoCpu),
            found if found > u64::from(MAX_VCPUS) => Err(TopologyError::TooMany { found }),
            _ => Ok(Self {
                cores_per_llc,
                threads_per_core,
                nodes: nodes.to_vec(),
                distance: NumaDistance::uniform(nodes.len()),
            }),
        }
    }

    /// The same shape with other distances.
    ///
    /// # Errors
    /// When the matrix has another number of nodes.
    pub fn with_distance(mut self, distance: NumaDistance) -> Result<Self, TopologyError> {
        if distance.nodes() != self.nodes.len() {
            let expected = "one row per node";
            return Err(TopologyError::Distance {
                from: distance.nodes(),
                to: self.nodes.len(),
                found: 0,
                expected,
            });
        }
        self.distance = distance;
        Ok(self)
    }

    /// vCPUs in all.
    #[must_use]
    pub fn total_cpus(&self) -> u32 {
        self.llcs() * self.cores_per_llc * self.threads_per_core
    }

    /// LLCs in all nodes.
    #[must_use]
    pub fn llcs(&self) -> u32 {
        self.nodes.iter().map(|node| node.llcs).sum()
    }

    /// Cores per LLC.
    #[must_use]
    pub fn cores_per_llc(&self) -> u32 {
        self.cores_per_llc
    }

    /// Threads per core.
    #[must_use]
    pub fn threads_per_core(&self) -> u32 {
        self.threads_per_core
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// Distances between the nodes.
    #[must_use]
    pub fn distance(&self) -> &NumaDistance {
        &self.distance
    }

    /// Where `vcpu` sits; `None` for one that does not exist.
    #[must_use]
    pub fn place(&self, vcpu: u32) -> Option<CpuPlace> {
        let per_llc = self.cores_per_llc * self.threads_per_core;
        let llc = vcpu / per_llc;
        Some(CpuPlace {
            node: self.node_of_llc(llc)?,
            llc,
            core: vcpu % per_llc / self.threads_per_core,
            thread: vcpu % self.threads_per_core,
        })
    }

    /// The node that an LLC belongs to.
    #[must_use]
    pub fn node_of_llc(&self, llc: u32) -> Option<u32> {
        let mut end = 0;
        let index = self.nodes.iter().position(|node| {
            end += node.llcs;
            llc < end
        })?;
        u32::try_from(index).ok()
    }

    /// Highest APIC id, with each level padded to a power of two (Intel SDM 3A §9.9.2).
    #[must_use]
    pub fn max_apic_id(&self) -> u32 {
        let threads = self.threads_per_core.next_power_of_two();
        let per_llc = self.cores_per_llc.next_power_of_two() * threads;
        (self.llcs() - 1) * per_llc + (self.cores_per_llc - 1) * threads + self.threads_per_core - 1
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}n{}l{}c{}t",
            self.nodes.len(),
            self.llcs(),
            self.cores_per_llc,
            self.threads_per_core
        )
    }
}

impl FromStr for Topology {
    type Err = TopologyError;

    fn from_str(text: &str) -> Result<Self, TopologyError> {
        let mut rest = text;
        let mut dimensions = [0u32; 4];
        for (unit, value) in ['n', 'l', 'c', 't'].into_iter().zip(&mut dimensions) {
            let parsed = rest
                .split_once(unit)
                .and_then(|(number, tail)| Some((number.parse().ok()?, tail)));
            let Some((number, tail)) = parsed else {
                return Err(TopologyError::Syntax {
                    found: text.to_owned(),
                });
            };
            *value = number;
            rest = tail;
        }
        let [nodes, llcs, cores, threads] = dimensions;
        if rest.is_empty() {
            Self::new(nodes, llcs, cores, threads)
        } else {
            Err(TopologyError::Syntax {
                found: text.to_owned(),
            })
        }
    }
}

/// A named shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its shape in short form.
    pub shape: &'static str,
}

impl Preset {
    /// The preset's topology.
    ///
    /// # Errors
    /// Never for the presets of this crate, which a test holds.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        self.shape.parse()
    }
}

/// Every preset of the contract, small ones first.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "4cpu-1llc-nosmt",
        shape: "1n1l4c1t",
    },
    Preset {
        name: "4cpu-2llc-nosmt",
        shape: "1n2l2c1t",
    },
    Preset {
        name: "9cpu-3llc-nosmt",
        shape: "1n3l3c1t",
    },
    Preset {
        name: "15cpu-5llc-nosmt",
        shape: "1n5l3c1t",
    },
    Preset {
        name: "14cpu-7llc-nosmt",
        shape: "1n7l2c1t",
    },
    Preset {
        name: "8cpu-2llc-smt",
        shape: "1n2l2c2t",
    },
    Preset {
        name: "12cpu-3llc-smt",
        shape: "1n3l2c2t",
    },
    Preset {
        name: "32cpu-4llc-smt",
        shape: "1n4l4c2t",
    },
    Preset {
        name: "32cpu-4llc-nosmt",
        shape: "1n4l8c1t",
    },
    Preset {
        name: "64cpu-8llc-smt",
        shape: "1n8l4c2t",
    },
    Preset {
        name: "64cpu-8llc-nosmt",
        shape: "1n8l8c1t",
    },
    Preset {
        name: "128cpu-4llc-smt",
        shape: "1n4l16c2t",
    },
    Preset {
        name: "128cpu-4llc-nosmt",
        shape: "1n4l32c1t",
    },
    Preset {
        name: "128cpu-8llc-smt",
        shape: "1n8l8c2t",
    },
    Preset {
        name: "128cpu-8llc-nosmt",
        shape: "1n8l16c1t",
    },
    Preset {
        name: "240cpu-15llc-smt",
        shape: "1n15l8c2t",
    },
    Preset {
        name: "240cpu-15llc-nosmt",
        shape: "1n15l16c1t",
    },
    Preset {
        name: "252cpu-14llc-smt",
        shape: "1n14l9c2t",
    },
    Preset {
        name: "252cpu-14llc-nosmt",
        shape: "1n14l18c1t",
    },
    Preset {
        name: "2numa-32cpu-2llc-smt",
        shape: "2n2l8c2t",
    },
    Preset {
        name: "2numa-16cpu-4llc-nosmt",
        shape: "2n4l4c1t",
    },
    Preset {
        name: "2numa-128cpu-8llc-smt",
        shape: "2n8l8c2t",
    },
    Preset {
        name: "2numa-128cpu-8llc-nosmt",
        shape: "2n8l16c1t",
    },
    Preset {
        name: "4numa-32cpu-8llc-nosmt",
        shape: "4n8l4c1t",
    },
    Preset {
        name: "4numa-192cpu-12llc-smt",
        shape: "4n12l8c2t",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn presets_have_the_cpus_and_llcs_that_their_names_tell() {
        for preset in PRESETS {
            let topology = preset.topology().unwrap();
            let number = |unit: &str| -> u32 {
                let part = preset
                    .name
                    .split('-')
                    .find(|part| part.ends_with(unit))
                    .unwrap();
                part.trim_end_matches(unit).parse().unwrap()
            };
            assert_eq!(topology.total_cpus(), number("cpu"), "{}", preset.name);
            assert_eq!(topology.llcs(), number("llc"), "{}", preset.name);
            assert_eq!(
                topology.threads_per_core() == 2,
                preset.name.ends_with("-smt"),
                "{}",
                preset.name
            );
        }
    }

    #[track_caller]
    fn check_error(shape: &str, needle: &str) {
        let error = shape.parse::<Topology>().unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }

    #[test]
    fn absurd_numbers_are_too_many() {
        for shape in ["1n4294967295l4294967295c2t", "1n1l4294967295c2t"] {
            let error = shape.parse::<Topology>().unwrap_err();
            assert!(matches!(error, TopologyError::TooMany { .. }), "{error:?}");
        }
    }

    #[test]
    fn impossible_shapes_say_why() {
        check_error("0n1l1c1t", "numa_nodes is 0");
        check_error("2n3l1c1t", "3 LLCs cannot be dealt evenly to 2");
        check_error("1n1l1c3t", "3 threads per core");
        check_error("1n64l64c2t", "8192 vCPUs");
        check_error("1n2l4c", "1n2l4c2t");
        check_error("1n2l4c2tx", "1n2l4c2t");
        check_error("-1n1l1c1t", "1n2l4c2t");
    }

    #[test]
    fn each_builder_of_a_node_sets_its_own_field() {
        let node = NumaNode::new(1)
            .memory_mib(2)
            .latency_ns(3)
            .bandwidth_mbs(4)
            .mem_side_cache_mib(5);
        let expected = NumaNode {
            llcs: 1,
            memory_mib: Some(2),
            latency_ns: Some(3),
            bandwidth_mbs: Some(4),
            mem_side_cache_mib: Some(5),
        };
        assert_eq!(node, expected);
        assert_eq!(NumaNode::new(0), NumaNode::default());
    }

    #[test]
    fn a_node_without_cpus_still_counts() {
        let nodes = [NumaNode::new(2), NumaNode::default()];
        let topology = Topology::with_nodes(2, 1, &nodes).unwrap();
        assert_eq!(
            (topology.to_string().as_str(), topology.total_cpus()),
            ("2n2l2c1t", 4)
        );
        assert_eq!(topology.place(3).unwrap().node, 0);
        assert_eq!(topology.place(4), None);
    }

    #[test]
    fn distances_follow_the_slit() {
        assert!(NumaDistance::new(vec![vec![10, 21], vec![21, 10]]).is_ok());
        for bad in [
            vec![vec![10, 21], vec![31, 10]],
            vec![vec![10, 10], vec![10, 10]],
            vec![vec![11]],
            vec![vec![10, 20]],
        ] {
            assert!(NumaDistance::new(bad.clone()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn short_form_and_places_are_one_to_one(nodes in 1u32..5, per_node in 1u32..4, cores in 1u32..9, threads in 1u32..3) {
            let topology = Topology::new(nodes, nodes * per_node, cores, threads).unwrap();
            prop_assert_eq!(&topology.to_string().parse::<Topology>().unwrap(), &topology);
            let places: std::collections::BTreeSet<_> = (0..topology.total_cpus()).filter_map(|cpu| topology.place(cpu)).collect();
            prop_assert_eq!(places.len(), topology.total_cpus() as usize);
            prop_assert!(places.iter().all(|place| place.node == place.llc / per_node && place.core < cores));
            prop_assert_eq!(topology.place(topology.total_cpus()), None);
        }
    }
}
