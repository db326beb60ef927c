//! What the attributes of a test contradict: one table, which the compiler holds against every `#[ktstr_test]` and
//! [`KtstrTestEntry::validate`] against entries built by hand.

use super::entry::KtstrTestEntry;

macro_rules! rules {
    ($entry:ident; $( $wrong:expr => $text:literal, )*) => {
        impl KtstrTestEntry {
            /// The first contradiction; `None` when there is none.
            #[must_use]
            pub const fn contradiction(&self) -> Option<&'static str> {
                let $entry = self;
                $( if $wrong { return Some($text); } )*
                None
            }

            /// All contradictions.
            pub(super) fn contradictions(&self) -> Vec<String> {
                let $entry = self;
                let mut found = Vec::new();
                $( if $wrong { found.push(String::from($text)); } )*
                found
            }
        }

        /// Texts of all rules.
        #[cfg(test)]
        const TEXTS: &[&str] = &[$( $text, )*];
    };
}

const fn is_above(least: u32, most: Option<u32>) -> bool {
    matches!(most, Some(most) if least > most)
}

rules! { entry;
    entry.duration_s == 0 => "duration_s is 0, at least 1 is needed",
    entry.memory_mib == 0 => "memory_mib is 0",
    entry.performance_mode && entry.no_perf_mode => "performance_mode and no_perf_mode exclude each other",
    matches!(entry.cpu_budget, Some(0)) => "cpu_budget is 0",
    entry.cpu_budget.is_some() && !entry.no_perf_mode => "cpu_budget needs no_perf_mode",
    matches!(entry.cleanup_budget_ms, Some(0)) => "cleanup_budget_ms is 0",
    entry.host_only && entry.scheduler.is_some() => "host_only and scheduler exclude each other",
    entry.host_only && !entry.staged_schedulers.is_empty() => "host_only and staged_schedulers exclude each other",
    entry.host_only && entry.num_snapshots > 0 => "host_only and num_snapshots exclude each other",
    entry.host_only && !entry.bpf_map_write.is_empty() => "host_only and bpf_map_write exclude each other",
    entry.host_only && !entry.watch_bpf_maps.is_empty() => "host_only and watch_bpf_maps exclude each other",
    entry.host_only && entry.disk.is_some() => "host_only and disk exclude each other",
    entry.host_only && !entry.networks.is_empty() => "host_only and networks exclude each other",
    entry.scheduler.is_none() && entry.expect_auto_repro => "expect_auto_repro needs a scheduler",
    entry.scheduler.is_none() && !entry.bpf_map_write.is_empty() => "bpf_map_write needs a scheduler",
    entry.scheduler.is_none() && !entry.watch_bpf_maps.is_empty() => "watch_bpf_maps needs a scheduler",
    entry.expect_auto_repro && !entry.auto_repro => "expect_auto_repro needs auto_repro",
    entry.expect_auto_repro && entry.expect_err => "expect_auto_repro and expect_err exclude each other",
    entry.expect_scx_bpf_error_contains.is_some() && !entry.expect_err => "expect_scx_bpf_error_contains needs expect_err",
    entry.expect_scx_bpf_error_matches.is_some() && !entry.expect_err => "expect_scx_bpf_error_matches needs expect_err",
    is_above(entry.constraints.min_llcs, entry.constraints.max_llcs) => "min_llcs is above max_llcs: no machine fits",
    is_above(entry.constraints.min_numa_nodes, entry.constraints.max_numa_nodes) => "min_numa_nodes is above max_numa_nodes: no machine fits",
    is_above(entry.constraints.min_cpus, entry.constraints.max_cpus) => "min_cpus is above max_cpus: no machine fits",
}

impl KtstrTestEntry {
    /// For the macro: ends the compilation of a test whose attributes contradict each other, with the reason.
    ///
    /// # Panics
    /// When they do.
    pub const fn assert_sound(&self) {
        if let Some(text) = self.contradiction() {
            panic!("{}", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{DiskConfig, NetConfig};
    use crate::model::entry::{Scheduler, TopologyConstraints};

    static SCHEDULER: Scheduler = Scheduler {
        name: "s",
        ..Scheduler::DEFAULT
    };
    const GOOD: KtstrTestEntry = KtstrTestEntry {
        name: "t",
        ..KtstrTestEntry::DEFAULT
    };
    const HOST: KtstrTestEntry = KtstrTestEntry {
        host_only: true,
        ..GOOD
    };
    const LOW: TopologyConstraints = TopologyConstraints {
        max_llcs: Some(1),
        max_numa_nodes: Some(1),
        max_cpus: Some(1),
        ..TopologyConstraints::DEFAULT
    };

    /// One entry for each rule, in the order of the table.
    #[expect(clippy::too_many_lines, reason = "one entry for each rule")]
    fn wrong() -> Vec<KtstrTestEntry> {
        let above = |constraints| KtstrTestEntry {
            constraints,
            ..GOOD
        };
        vec![
            KtstrTestEntry {
                duration_s: 0,
                ..GOOD
            },
            KtstrTestEntry {
                memory_mib: 0,
                ..GOOD
            },
            KtstrTestEntry {
                performance_mode: true,
                no_perf_mode: true,
                ..GOOD
            },
            KtstrTestEntry {
                cpu_budget: Some(0),
                no_perf_mode: true,
                ..GOOD
            },
            KtstrTestEntry {
                cpu_budget: Some(1),
                ..GOOD
            },
            KtstrTestEntry {
                cleanup_budget_ms: Some(0),
                ..GOOD
            },
            KtstrTestEntry {
                scheduler: Some(&SCHEDULER),
                ..HOST
            },
            KtstrTestEntry {
                staged_schedulers: const { &[&SCHEDULER] },
                ..HOST
            },
            KtstrTestEntry {
                num_snapshots: 1,
                ..HOST
            },
            KtstrTestEntry {
                bpf_map_write: &[(".bss", "f", 1)],
                ..HOST
            },
            KtstrTestEntry {
                watch_bpf_maps: &[("l", ".bss", "f")],
                ..HOST
            },
            KtstrTestEntry {
                disk: Some(DiskConfig::DEFAULT),
                ..HOST
            },
            KtstrTestEntry {
                networks: const { &[NetConfig::DEFAULT] },
                ..HOST
            },
            KtstrTestEntry {
                expect_auto_repro: true,
                ..GOOD
            },
            KtstrTestEntry {
                bpf_map_write: &[(".bss", "f", 1)],
                ..GOOD
            },
            KtstrTestEntry {
                watch_bpf_maps: &[("l", ".bss", "f")],
                ..GOOD
            },
            KtstrTestEntry {
                scheduler: Some(&SCHEDULER),
                expect_auto_repro: true,
                auto_repro: false,
                ..GOOD
            },
            KtstrTestEntry {
                scheduler: Some(&SCHEDULER),
                expect_auto_repro: true,
                expect_err: true,
                ..GOOD
            },
            KtstrTestEntry {
                expect_scx_bpf_error_contains: Some("x"),
                ..GOOD
            },
            KtstrTestEntry {
                expect_scx_bpf_error_matches: Some("x"),
                ..GOOD
            },
            above(TopologyConstraints { min_llcs: 2, ..LOW }),
            above(TopologyConstraints {
                min_numa_nodes: 2,
                ..LOW
            }),
            above(TopologyConstraints { min_cpus: 2, ..LOW }),
        ]
    }

    #[test]
    fn each_rule_has_an_entry_that_breaks_it() {
        assert_eq!(GOOD.contradiction(), None);
        let wrong = wrong();
        assert_eq!(wrong.len(), TEXTS.len());
        for (entry, text) in wrong.iter().zip(TEXTS) {
            assert!(
                entry.contradictions().iter().any(|found| found == text),
                "{text}"
            );
            assert!(entry.contradiction().is_some(), "{text}");
            let error = entry.validate().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    #[should_panic(expected = "duration_s is 0")]
    fn a_contradiction_ends_the_compilation() {
        wrong()[0].assert_sound();
    }
}
