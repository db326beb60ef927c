//! CPUs by description, and their resolution against a topology.

use serde::{Deserialize, Serialize};

use super::super::cpuset::{CpuMap, CpuSet};

/// Which CPUs, without knowing the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CpusetSpec {
    /// All CPUs of LLC i.
    Llc(u32),
    /// All CPUs of NUMA node i.
    Numa(u32),
    /// From this share of the CPUs (0 to 1, included) to that share (excluded).
    Range {
        /// Start.
        start: f64,
        /// End.
        end: f64,
    },
    /// Share `index` of `of` equal shares that do not overlap.
    Disjoint {
        /// Which share, from 0.
        index: u32,
        /// Number of shares.
        of: u32,
    },
    /// Like `Disjoint`, and reaching into the next share by this fraction of a share.
    Overlap {
        /// Which share, from 0.
        index: u32,
        /// Number of shares.
        of: u32,
        /// How far into the next share, 0 to 1.
        frac: f64,
    },
    /// Exactly these.
    Exact(CpuSet),
}

/// A description that yields no CPU, or CPUs that the guest lacks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CpusetError {
    /// No CPU matches.
    #[error("{spec:?} names no CPU of topology {topology} (its {total} cpus are 0-{})", total.saturating_sub(1))]
    Empty {
        /// The description.
        spec: CpusetSpec,
        /// The guest's shape.
        topology: CpuMap,
        /// Its CPUs.
        total: u32,
    },
    /// Some CPUs are not there.
    #[error("cpus {missing} do not exist in topology {topology} ({total} cpus)")]
    Missing {
        /// The CPUs that are not there.
        missing: CpuSet,
        /// The guest's shape.
        topology: CpuMap,
        /// Its CPUs.
        total: u32,
    },
}

impl CpusetSpec {
    /// Exactly these CPUs.
    pub fn exact(cpus: impl IntoIterator<Item = u32>) -> Self {
        Self::Exact(cpus.into_iter().collect())
    }

    /// Share `index` of `of`.
    pub const fn disjoint(index: u32, of: u32) -> Self {
        Self::Disjoint { index, of }
    }

    /// The CPUs in a guest of this shape.
    ///
    /// # Errors
    /// When there is no such CPU, or some of the exact set do not exist.
    pub fn resolve(&self, map: &CpuMap) -> Result<CpuSet, CpusetError> {
        let total = map.total_cpus();
        let cpus = match self {
            Self::Llc(index) => map.llc(*index),
            Self::Numa(index) => map.node(*index),
            Self::Range { start, end } => share(total, *start, *end),
            Self::Disjoint { index, of } => slice(total, *index, *of, 0.0),
            Self::Overlap { index, of, frac } => slice(total, *index, *of, *frac),
            Self::Exact(cpus) => cpus.clone(),
        };
        let missing = cpus.difference(&map.all());
        if !missing.is_empty() {
            return Err(CpusetError::Missing {
                missing,
                topology: *map,
                total,
            });
        }
        if cpus.is_empty() {
            return Err(CpusetError::Empty {
                spec: self.clone(),
                topology: *map,
                total,
            });
        }
        Ok(cpus)
    }
}

/// CPUs from `start` to `end`, both shares of all CPUs.
fn share(total: u32, start: f64, end: f64) -> CpuSet {
    let at = |share: f64| (f64::from(total) * share.clamp(0.0, 1.0)).round();
    (0..total)
        .filter(|cpu| (at(start)..at(end)).contains(&f64::from(*cpu)))
        .collect()
}

/// Share `index` of `of`, reaching `frac` of a share into the next. The first shares take the remainder.
fn slice(total: u32, index: u32, of: u32, frac: f64) -> CpuSet {
    if of == 0 || index >= of {
        return CpuSet::EMPTY;
    }
    let bound = |share: u32| u64::from(total) * u64::from(share) / u64::from(of);
    let (first, next, after) = (bound(index), bound(index + 1), bound((index + 2).min(of)));
    let reach = (after - next) as f64 * frac.clamp(0.0, 1.0);
    (0..total)
        .filter(|cpu| {
            let cpu = u64::from(*cpu);
            cpu >= first && (cpu < next || ((cpu - next) as f64) < reach)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAP: CpuMap = CpuMap {
        numa_nodes: 2,
        llcs: 4,
        cores: 2,
        threads: 1,
    };

    #[track_caller]
    fn check(spec: CpusetSpec, expected: &str) {
        assert_eq!(spec.resolve(&MAP).unwrap().to_string(), expected);
    }

    #[test]
    fn each_description() {
        check(CpusetSpec::Llc(1), "2-3");
        check(CpusetSpec::Numa(1), "4-7");
        check(
            CpusetSpec::Range {
                start: 0.25,
                end: 0.5,
            },
            "2-3",
        );
        check(CpusetSpec::disjoint(2, 4), "4-5");
        check(
            CpusetSpec::Overlap {
                index: 0,
                of: 2,
                frac: 0.5,
            },
            "0-5",
        );
        check(CpusetSpec::exact([0, 7]), "0,7");
    }

    #[test]
    fn no_cpu_is_an_error_that_says_what_there_is() {
        for spec in [
            CpusetSpec::Llc(4),
            CpusetSpec::Numa(2),
            CpusetSpec::disjoint(3, 3),
            CpusetSpec::disjoint(0, 0),
            CpusetSpec::Range {
                start: 0.5,
                end: 0.5,
            },
            CpusetSpec::exact([]),
        ] {
            let text = spec.resolve(&MAP).unwrap_err().to_string();
            assert!(text.contains("2n4l2c1t (its 8 cpus are 0-7)"), "{text}");
        }
        let text = CpusetSpec::exact([6, 8, 9])
            .resolve(&MAP)
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("cpus 8-9 do not exist"), "{text}");
    }

    proptest! {
        #[test]
        fn disjoint_shares_cover_all_cpus_once(of in 1u32..9) {
            let all: Vec<u32> = (0..of)
                .filter_map(|index| CpusetSpec::disjoint(index, of).resolve(&MAP).ok())
                .flat_map(|set| set.to_vec())
                .collect();
            prop_assert_eq!(all, MAP.all().to_vec());
        }

        #[test]
        fn an_overlap_contains_its_share(index in 0u32..4, frac in 0.0f64..1.0) {
            let share = CpusetSpec::disjoint(index, 4).resolve(&MAP).unwrap();
            let more = CpusetSpec::Overlap { index, of: 4, frac }.resolve(&MAP).unwrap();
            prop_assert!(share.difference(&more).is_empty());
        }
    }
}
