//! What the attributes of a test contradict: one table, which the compiler holds against every `#[ktstr_test]` and
//! [`KtstrTestEntry::validate`] against entries built by hand.

use ktstr_vmm::Clock;

use super::entry::{KtstrTestEntry, Scheduler};
use super::invariants::Invariants;
use super::payload::{OutputFormat, Payload};
use super::topology::{TopologyConstraints, TopologySpec};

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

/// A program is started, which arguments reach.
const fn has_program(scheduler: Option<&Scheduler>) -> bool {
    matches!(scheduler, Some(scheduler) if scheduler.has_bpf_scheduler())
}

/// The test is to say its configuration.
const fn wants_config(scheduler: Option<&Scheduler>) -> bool {
    matches!(scheduler, Some(scheduler) if scheduler.config_file_def.is_some())
}

const fn is_default_topology(topology: TopologySpec) -> bool {
    let TopologySpec {
        numa_nodes,
        llcs,
        cores,
        threads,
    } = topology;
    let default = TopologySpec::DEFAULT;
    numa_nodes == default.numa_nodes
        && llcs == default.llcs
        && cores == default.cores
        && threads == default.threads
}

const fn is_limit(most: Option<u32>, wanted: Option<u32>) -> bool {
    match (most, wanted) {
        (Some(most), Some(wanted)) => most == wanted,
        (None, None) => true,
        _ => false,
    }
}

const fn are_default_constraints(constraints: TopologyConstraints) -> bool {
    let TopologyConstraints {
        min_llcs,
        max_llcs,
        min_numa_nodes,
        max_numa_nodes,
        min_cpus,
        max_cpus,
        requires_smt,
    } = constraints;
    let default = TopologyConstraints::DEFAULT;
    min_llcs == default.min_llcs
        && is_limit(max_llcs, default.max_llcs)
        && min_numa_nodes == default.min_numa_nodes
        && is_limit(max_numa_nodes, default.max_numa_nodes)
        && min_cpus == default.min_cpus
        && is_limit(max_cpus, default.max_cpus)
        && requires_smt == default.requires_smt
}

/// The host of a VM runs its extractor, on what the guest sent.
const fn has_extractor(payload: &Payload) -> bool {
    matches!(payload.output, OutputFormat::Extract(_))
}

const fn has_files(payload: &Payload) -> bool {
    !payload.include_files.is_empty()
}

/// `$is` of the payload or of one of the workloads.
macro_rules! any_payload {
    ($entry:ident, $is:ident) => {{
        let mut found = matches!($entry.payload, Some(payload) if $is(payload));
        let mut at = 0;
        while at < $entry.workloads.len() {
            found = found || $is($entry.workloads[at]);
            at += 1;
        }
        found
    }};
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
    entry.host_only && entry.memory_mib != KtstrTestEntry::DEFAULT.memory_mib => "host_only and memory_mib exclude each other",
    entry.host_only && entry.watchdog_timeout_s != KtstrTestEntry::DEFAULT.watchdog_timeout_s => "host_only and watchdog_timeout_s exclude each other",
    entry.host_only && !is_default_topology(entry.topology) => "host_only and topology exclude each other: the host's CPUs are as they are",
    entry.host_only && !are_default_constraints(entry.constraints) => "host_only and constraints of the topology exclude each other: no preset is a host",
    entry.host_only && !entry.kaslr => "host_only and kaslr = false exclude each other",
    entry.host_only && entry.performance_mode => "host_only and performance_mode exclude each other",
    entry.host_only && entry.no_perf_mode => "host_only and no_perf_mode exclude each other",
    entry.host_only && entry.workload_root_cgroup.is_some() => "host_only and workload_root_cgroup exclude each other: where its cgroups go is the host's to say",
    entry.host_only && !entry.extra_include_files.is_empty() => "host_only and extra_include_files exclude each other",
    entry.host_only && entry.post_vm.is_some() => "host_only and post_vm exclude each other: it would never be called",
    entry.host_only && entry.post_vm_unconditional.is_some() => "host_only and post_vm_unconditional exclude each other: it would never be called",
    entry.host_only && entry.cleanup_budget_ms.is_some() => "host_only and cleanup_budget_ms exclude each other",
    entry.host_only && entry.expect_scx_bpf_error_contains.is_some() => "host_only and expect_scx_bpf_error_contains exclude each other: no scheduler has an error",
    entry.host_only && entry.expect_scx_bpf_error_matches.is_some() => "host_only and expect_scx_bpf_error_matches exclude each other: no scheduler has an error",
    entry.host_only && entry.allow_kernel_warning.is_some() => "host_only and allow_kernel_warning exclude each other: the host's kernel is not judged",
    entry.host_only && !matches!(entry.invariants, Invariants::On) => "host_only and invariants exclude each other: the host's kernel is not judged",
    entry.host_only && entry.allow_invariant.is_some() => "host_only and allow_invariant exclude each other: the host's kernel is not judged",
    entry.host_only && entry.assert.names_monitor() => "host_only and checks of the monitor exclude each other: nothing samples the host's kernel",
    entry.host_only && any_payload!(entry, has_extractor) => "host_only and a payload with an extractor exclude each other: it reads what a guest sent; use OutputFormat::Json",
    entry.host_only && any_payload!(entry, has_files) => "host_only and a payload's include_files exclude each other: they go into a guest",
    matches!(entry.time, Some(Clock::Host)) && has_speeds(entry) => "only virtual time has speeds; leave out speeds and smt_factor, or time",
    is_virtual(entry) && entry.disk.is_some() => "a disk answers at times of the host's; leave it out, or what asks for virtual time",
    is_virtual(entry) && !entry.networks.is_empty() => "network cards answer at times of the host's; leave them out, or what asks for virtual time",
    is_virtual(entry) && entry.performance_mode => "performance_mode is about the host's CPUs; leave it out, or what asks for virtual time",
    !entry.extra_sched_args.is_empty() && !has_program(entry.scheduler) => "extra_sched_args needs a scheduler that is a program: nothing else is given arguments",
    entry.config.is_some() && !wants_config(entry.scheduler) => "config needs a scheduler with config_file_def, which says where it goes; for a file of the package use the scheduler's config_file",
    entry.config.is_none() && wants_config(entry.scheduler) => "the scheduler has config_file_def, so the test must say the configuration's text: config = \"...\"",
    entry.scheduler.is_none() && entry.survives_storm => "survives_storm needs a scheduler",
    entry.survives_storm && (entry.expect_err || entry.expect_auto_repro) => "survives_storm and the expectation of a failure exclude each other",
    entry.scheduler.is_none() && !entry.override_watchdog => "override_watchdog needs a scheduler",
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
    use crate::model::bpf_map::{BpfMapAgg, BpfMapWrite, WatchBpfMap};
    use crate::model::checks::Assert;
    use crate::model::device::{DiskConfig, NetConfig};
    use crate::model::entry::SchedulerSpec;
    use crate::model::result::VmResult;
    use crate::model::verdict::AssertResult;

    const WATCH: WatchBpfMap = WatchBpfMap::new(".bss", "f", BpfMapAgg::Scalar, "l");

    static SCHEDULER: Scheduler = Scheduler {
        name: "s",
        ..Scheduler::DEFAULT
    };
    static CONFIGURED: Scheduler = Scheduler::named("c")
        .binary_discover("scx_c")
        .config_file_def("--config {file}", "/etc/c");
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

    static PLAIN: Payload = Payload::binary("plain", "plain");
    static EXTRACTED: Payload = Payload {
        output: OutputFormat::Extract(&["x"]),
        ..Payload::binary("a", "a")
    };
    static WITH_FILES: Payload = Payload {
        include_files: &["f"],
        ..Payload::binary("b", "b")
    };

    #[expect(clippy::unnecessary_wraps, reason = "it is a callback")]
    fn callback(_: &VmResult) -> anyhow::Result<AssertResult> {
        Ok(AssertResult::pass())
    }

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
                bpf_map_write: const { &[&BpfMapWrite::new(".bss", "f", 1)] },
                ..HOST
            },
            KtstrTestEntry {
                watch_bpf_maps: const { &[&WATCH] },
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
                memory_mib: 96,
                ..HOST
            },
            KtstrTestEntry {
                watchdog_timeout_s: 6,
                ..HOST
            },
            KtstrTestEntry {
                topology: TopologySpec {
                    llcs: 2,
                    ..TopologySpec::DEFAULT
                },
                ..HOST
            },
            KtstrTestEntry {
                constraints: TopologyConstraints {
                    requires_smt: true,
                    ..TopologyConstraints::DEFAULT
                },
                ..HOST
            },
            KtstrTestEntry {
                kaslr: false,
                ..HOST
            },
            KtstrTestEntry {
                performance_mode: true,
                ..HOST
            },
            KtstrTestEntry {
                no_perf_mode: true,
                ..HOST
            },
            KtstrTestEntry {
                workload_root_cgroup: Some("/a"),
                ..HOST
            },
            KtstrTestEntry {
                extra_include_files: &["a"],
                ..HOST
            },
            KtstrTestEntry {
                post_vm: Some(callback),
                ..HOST
            },
            KtstrTestEntry {
                post_vm_unconditional: Some(callback),
                ..HOST
            },
            KtstrTestEntry {
                cleanup_budget_ms: Some(9),
                ..HOST
            },
            KtstrTestEntry {
                expect_scx_bpf_error_contains: Some("x"),
                ..HOST
            },
            KtstrTestEntry {
                expect_scx_bpf_error_matches: Some("x"),
                ..HOST
            },
            KtstrTestEntry {
                allow_kernel_warning: Some("x"),
                ..HOST
            },
            KtstrTestEntry {
                invariants: Invariants::Off,
                ..HOST
            },
            KtstrTestEntry {
                allow_invariant: Some("x"),
                ..HOST
            },
            KtstrTestEntry {
                assert: Assert::NO_OVERRIDES.enforce_monitor_thresholds(true),
                ..HOST
            },
            KtstrTestEntry {
                payload: Some(&EXTRACTED),
                ..HOST
            },
            KtstrTestEntry {
                workloads: const { &[&PLAIN, &WITH_FILES] },
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
                scheduler: Some(&SCHEDULER),
                extra_sched_args: &["-v"],
                ..GOOD
            },
            KtstrTestEntry {
                config: Some("a = 1"),
                scheduler: Some(&SCHEDULER),
                ..GOOD
            },
            KtstrTestEntry {
                scheduler: Some(&CONFIGURED),
                ..GOOD
            },
            KtstrTestEntry {
                survives_storm: true,
                ..GOOD
            },
            KtstrTestEntry {
                survives_storm: true,
                expect_err: true,
                scheduler: Some(&SCHEDULER),
                ..GOOD
            },
            KtstrTestEntry {
                override_watchdog: false,
                ..GOOD
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
                bpf_map_write: const { &[&BpfMapWrite::new(".bss", "f", 1)] },
                ..GOOD
            },
            KtstrTestEntry {
                watch_bpf_maps: const { &[&WATCH] },
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
    fn what_has_an_effect_on_the_host_is_allowed() {
        let entry = KtstrTestEntry {
            duration_s: 1,
            settle_ms: 5,
            expect_err: true,
            allow_inconclusive: true,
            ignore: true,
            assert: Assert::NO_OVERRIDES.check_not_stuck().max_gap_ms(9),
            payload: Some(&PLAIN),
            ..HOST
        };
        assert_eq!(entry.validate(), Ok(()));
    }

    #[test]
    fn arguments_reach_programs_alone() {
        static PROGRAM: Scheduler = Scheduler::named("s").binary_discover("scx_s");
        static BUILTIN: Scheduler = Scheduler::named("b").binary(SchedulerSpec::KernelBuiltin {
            enable: &["true"],
            disable: &[],
        });
        let with = |scheduler| {
            KtstrTestEntry {
                scheduler,
                extra_sched_args: &["-v"],
                ..GOOD
            }
            .contradiction()
        };
        assert_eq!(with(Some(&PROGRAM)), None);
        for without in [None, Some(&Scheduler::EEVDF), Some(&BUILTIN)] {
            let text = with(without).unwrap();
            assert!(text.contains("extra_sched_args needs"), "{text}");
        }
    }

    #[test]
    #[should_panic(expected = "duration_s is 0")]
    fn a_contradiction_ends_the_compilation() {
        wrong()[0].assert_sound();
    }
}
