//! What the attributes of a test contradict: one table, which the compiler holds against every `#[ktstr_test]` and
//! [`KtstrTestEntry::validate`] against entries built by hand.

use ktstr_vmm::Clock;

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

const fn has_speeds(entry: &KtstrTestEntry) -> bool {
    !entry.speeds.is_empty() || entry.smt_factor.is_some()
}

const fn is_virtual(entry: &KtstrTestEntry) -> bool {
    matches!(entry.time, Some(Clock::Virtual)) || entry.seeds > 0 || has_speeds(entry)
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
    entry.host_only && entry.scx_stats => "host_only and scx_stats exclude each other",
    entry.host_only && !entry.bpf_map_write.is_empty() => "host_only and bpf_map_write exclude each other",
    entry.host_only && !entry.watch_bpf_maps.is_empty() => "host_only and watch_bpf_maps exclude each other",
    entry.host_only && entry.disk.is_some() => "host_only and disk exclude each other",
    entry.host_only && !entry.networks.is_empty() => "host_only and networks exclude each other",
    entry.host_only && entry.time.is_some() => "host_only and time exclude each other",
    entry.host_only && entry.seeds > 0 => "host_only and seeds exclude each other",
    matches!(entry.time, Some(Clock::Host)) && entry.seeds > 0 => "only virtual time has seeds; leave out seeds or time",
    entry.host_only && has_speeds(entry) => "host_only and speeds exclude each other",
    matches!(entry.time, Some(Clock::Host)) && has_speeds(entry) => "only virtual time has speeds; leave out speeds and smt_factor, or time",
    is_virtual(entry) && entry.disk.is_some() => "a disk answers at times of the host's; leave it out, or what asks for virtual time",
    is_virtual(entry) && !entry.networks.is_empty() => "network cards answer at times of the host's; leave them out, or what asks for virtual time",
    is_virtual(entry) && entry.performance_mode => "performance_mode is about the host's CPUs; leave it out, or what asks for virtual time",
    entry.scheduler.is_none() && entry.scx_stats => "scx_stats needs a scheduler",
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
    const VIRTUAL: KtstrTestEntry = KtstrTestEntry {
        time: Some(Clock::Virtual),
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
                scx_stats: true,
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
                time: Some(Clock::Host),
                ..HOST
            },
            KtstrTestEntry { seeds: 2, ..HOST },
            KtstrTestEntry {
                time: Some(Clock::Host),
                seeds: 2,
                ..GOOD
            },
            KtstrTestEntry {
                smt_factor: Some(1.0),
                ..HOST
            },
            KtstrTestEntry {
                time: Some(Clock::Host),
                speeds: &[0.5],
                ..GOOD
            },
            KtstrTestEntry {
                disk: Some(DiskConfig::DEFAULT),
                ..VIRTUAL
            },
            KtstrTestEntry {
                networks: const { &[NetConfig::DEFAULT] },
                ..VIRTUAL
            },
            KtstrTestEntry {
                performance_mode: true,
                ..VIRTUAL
            },
            KtstrTestEntry {
                scx_stats: true,
                ..GOOD
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
