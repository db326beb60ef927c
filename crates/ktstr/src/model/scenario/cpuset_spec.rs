//! CPUs by description, and their resolution against a topology.

use std::collections::BTreeSet;

use super::super::cpuset::{CpuMap, CpuSet};
use super::super::ctx::Ctx;

/// Which CPUs, without knowing the machine.
///
/// Shares (`Range`, `Disjoint`, `Overlap`) are of the usable CPUs: where there are more than two, the last one is left to
/// everything else in the guest. `Llc`, `Numa` and `Exact` know all CPUs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CpusetSpec {
    /// All CPUs of LLC i.
    Llc(usize),
    /// All CPUs of NUMA node i.
    Numa(usize),
    /// From this share of the usable CPUs (0 to 1, included) to that share (excluded); both are cut to whole CPUs.
    Range {
        /// Start.
        start_frac: f64,
        /// End.
        end_frac: f64,
    },
    /// Share `index` of `of` equal shares that do not overlap; the last one takes what is left over.
    Disjoint {
        /// Which share, from 0.
        index: usize,
        /// Number of shares.
        of: usize,
    },
    /// Like `Disjoint`, and reaching into both neighbours by this fraction of a share.
    Overlap {
        /// Which share, from 0.
        index: usize,
        /// Number of shares.
        of: usize,
        /// How far into each neighbour, 0 to 1.
        frac: f64,
    },
    /// Exactly these.
    Exact(BTreeSet<usize>),
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
    /// Exactly these CPUs: `exact(0..8)`, `exact([1, 2, 3])`.
    pub fn exact(cpus: impl IntoIterator<Item = usize>) -> Self {
        Self::Exact(cpus.into_iter().collect())
    }

    /// From this share of the usable CPUs to that one: `range(0.0, 0.5)` is the first half.
    #[must_use]
    pub const fn range(start_frac: f64, end_frac: f64) -> Self {
        Self::Range {
            start_frac,
            end_frac,
        }
    }

    /// Share `index` of `of` equal shares.
    #[must_use]
    pub const fn disjoint(index: usize, of: usize) -> Self {
        Self::Disjoint { index, of }
    }

    /// Share `index` of `of`, reaching into both neighbours by `frac` of a share.
    #[must_use]
    pub const fn overlap(index: usize, of: usize, frac: f64) -> Self {
        Self::Overlap { index, of, frac }
    }

    /// All CPUs of LLC `index`.
    #[must_use]
    pub const fn llc(index: usize) -> Self {
        Self::Llc(index)
    }

    /// All CPUs of NUMA node `index`.
    #[must_use]
    pub const fn numa(index: usize) -> Self {
        Self::Numa(index)
    }

    /// Whether this guest has such CPUs.
    ///
    /// # Errors
    /// When there is no such CPU, or some of the exact set do not exist.
    pub fn validate(&self, ctx: &Ctx) -> Result<(), CpusetError> {
        self.resolve_on(&ctx.topology()).map(drop)
    }

    /// The CPUs in this guest; empty where `validate` finds a fault.
    #[must_use]
    pub fn resolve(&self, ctx: &Ctx) -> BTreeSet<usize> {
        let cpus = self.resolve_on(&ctx.topology()).unwrap_or_default();
        cpus.iter().map(|cpu| cpu as usize).collect()
    }

    /// The CPUs in a guest of this shape.
    ///
    /// # Errors
    /// When there is no such CPU, or some of the exact set do not exist.
    pub(crate) fn resolve_on(&self, map: &CpuMap) -> Result<CpuSet, CpusetError> {
        let total = map.total_cpus();
        let usable = usable(total);
        let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let cpus = match self {
            Self::Llc(index) => map.llc(number(*index)),
            Self::Numa(index) => map.node(number(*index)),
            Self::Range {
                start_frac,
                end_frac,
            } => share(usable, *start_frac, *end_frac),
            Self::Disjoint { index, of } => slice(usable, *index, *of, 0.0),
            Self::Overlap { index, of, frac } => slice(usable, *index, *of, *frac),
            Self::Exact(cpus) => cpus.iter().map(|cpu| number(*cpu)).collect(),
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

/// CPUs that are shared out: of more than two, the last is left to everything else.
fn usable(total: u32) -> u32 {
    if total > 2 { total - 1 } else { total }
}

/// CPUs from `start` to `end`, both shares of `usable` CPUs, cut to whole ones.
fn share(usable: u32, start: f64, end: f64) -> CpuSet {
    let at = |share: f64| (f64::from(usable) * share.clamp(0.0, 1.0)).floor();
    (0..usable)
        .filter(|cpu| (at(start)..at(end)).contains(&f64::from(*cpu)))
        .collect()
}

/// Share `index` of `of`, reaching `frac` of a share into both neighbours. The last share takes the remainder.
fn slice(usable: u32, index: usize, of: usize, frac: f64) -> CpuSet {
    let (Ok(index), Ok(of)) = (u32::try_from(index), u32::try_from(of)) else {
        return CpuSet::EMPTY;
    };
    if of == 0 || index >= of {
        return CpuSet::EMPTY;
    }
    let chunk = usable / of;
    let end = if index + 1 == of {
        usable
    } else {
        (index + 1) * chunk
    };
    let reach = f64::from(chunk) * frac.clamp(0.0, 1.0);
    let (first, end) = (f64::from(index * chunk) - reach, f64::from(end) + reach);
    (0..usable)
        .filter(|cpu| (first..end).contains(&f64::from(*cpu)))
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
        assert_eq!(spec.resolve_on(&MAP).unwrap().to_string(), expected);
    }

    #[test]
    fn each_description() {
        check(CpusetSpec::llc(1), "2-3");
        check(CpusetSpec::numa(1), "4-7");
        check(CpusetSpec::range(0.0, 1.0), "0-6");
        check(CpusetSpec::range(0.0, 0.5), "0-2");
        check(CpusetSpec::range(0.5, 1.0), "3-6");
        check(CpusetSpec::disjoint(0, 2), "0-2");
        check(CpusetSpec::disjoint(1, 2), "3-6");
        check(CpusetSpec::overlap(1, 3, 0.5), "1-4");
        check(CpusetSpec::overlap(0, 2, 1.0), "0-5");
        check(CpusetSpec::exact([0, 7]), "0,7");
        check(CpusetSpec::exact(0..8), "0-7");
    }

    #[test]
    fn of_two_cpus_both_are_shared_out() {
        let map = CpuMap::new(1, 1, 2, 1);
        let all = CpusetSpec::range(0.0, 1.0).resolve_on(&map).unwrap();
        assert_eq!(all.to_string(), "0-1");
    }

    #[test]
    fn a_test_asks_by_its_context() {
        let ctx = crate::model::ctx::tests::any();
        assert_eq!(CpusetSpec::exact([0]).resolve(&ctx), BTreeSet::from([0]));
        assert!(CpusetSpec::exact([0]).validate(&ctx).is_ok());
        let none = CpusetSpec::llc(99);
        assert!(none.validate(&ctx).is_err() && none.resolve(&ctx).is_empty());
    }

    #[test]
    fn no_cpu_is_an_error_that_says_what_there_is() {
        for spec in [
            CpusetSpec::llc(4),
            CpusetSpec::numa(2),
            CpusetSpec::disjoint(3, 3),
            CpusetSpec::disjoint(0, 0),
            CpusetSpec::range(0.5, 0.5),
            CpusetSpec::exact([]),
        ] {
            let text = spec.resolve_on(&MAP).unwrap_err().to_string();
            assert!(text.contains("2n4l2c1t (its 8 cpus are 0-7)"), "{text}");
        }
        let text = CpusetSpec::exact([6, 8, 9])
            .resolve_on(&MAP)
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("cpus 8-9 do not exist"), "{text}");
    }

    proptest! {
        #[test]
        fn disjoint_shares_cover_the_usable_cpus_once(of in 1usize..9) {
            let all: Vec<u32> = (0..of)
                .filter_map(|index| CpusetSpec::disjoint(index, of).resolve_on(&MAP).ok())
                .flat_map(|set| set.to_vec())
                .collect();
            prop_assert_eq!(all, (0..7).collect::<Vec<u32>>());
        }

        #[test]
        fn an_overlap_contains_its_share(index in 0usize..4, frac in 0.0f64..1.0) {
            let share = CpusetSpec::disjoint(index, 4).resolve_on(&MAP).unwrap();
            let more = CpusetSpec::overlap(index, 4, frac).resolve_on(&MAP).unwrap();
            prop_assert!(share.difference(&more).is_empty());
        }
    }
}
