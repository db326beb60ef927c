//! Each check with a report that trips it and one that does not.

use super::*;
use crate::model::cpuset::CpuSet;
use crate::model::report::{Gap, LatencySummary, PagePlacement, WakeLatencies, WorkerReport};
use crate::model::verdict::{DetailKind, Outcome};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// A worker that got `on_cpu_pct` of a 10 s window.
fn worker(tid: i32, on_cpu_pct: u64) -> WorkerReport {
    WorkerReport {
        tid,
        cgroup: "a".into(),
        work_type: "SpinWait".into(),
        iterations: 1_000,
        work_units: 1_000_000,
        cpu_time_ns: on_cpu_pct * 100 * MS,
        wall_time_ns: 10_000 * MS,
        cpus_seen: CpuSet::from([0, 1]),
        cpuset: Some(CpuSet::from([0, 1])),
        cpu_bound: true,
        ..WorkerReport::default()
    }
}

fn with_gap(wall_ms: u64, on_cpu_ms: u64) -> WorkerReport {
    WorkerReport {
        longest_gap: Gap {
            wall_ns: wall_ms * MS,
            on_cpu_ns: on_cpu_ms * MS,
            cpu: Some(1),
            at_ns: 2_000 * MS,
        },
        ..worker(9, 50)
    }
}

/// The outcome, and exactly these kinds of details.
#[track_caller]
fn check(
    assert: Assert,
    reports: &[WorkerReport],
    expected: Outcome,
    kinds: &[DetailKind],
) -> String {
    let result = evaluate(&assert, reports);
    let found: Vec<DetailKind> = result.details.iter().map(|d| d.kind).collect();
    assert_eq!(
        (result.outcome(), found.as_slice()),
        (expected, kinds),
        "{result:?}"
    );
    result
        .details
        .iter()
        .map(|d| d.message.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn not_stuck_alone_passes_equal_workers() {
    let reports = [worker(1, 50), worker(2, 48)];
    check(
        Assert::NO_OVERRIDES.check_not_stuck(),
        &reports,
        Outcome::Pass,
        &[],
    );
}

#[test]
fn zero_work_is_starved() {
    let idle = WorkerReport {
        work_units: 0,
        iterations: 0,
        ..worker(2, 50)
    };
    let text = check(
        Assert::NO_OVERRIDES.check_not_stuck(),
        &[worker(1, 50), idle],
        Outcome::Fail,
        &[DetailKind::Starved],
    );
    assert_eq!(
        text,
        "worker 2 (SpinWait in cgroup a) did 0 work units in 10000 ms"
    );
}

#[test]
fn a_gap_over_the_limit_is_stuck() {
    let text = check(
        Assert::NO_OVERRIDES.max_gap_ms(500),
        &[with_gap(501, 0)],
        Outcome::Fail,
        &[DetailKind::Stuck],
    );
    assert_eq!(
        text,
        "worker 9 (SpinWait in cgroup a) made no progress for 501 ms on cpu 1 at +2000 ms (limit 500 ms)"
    );
    check(
        Assert::NO_OVERRIDES.max_gap_ms(501),
        &[with_gap(501, 0)],
        Outcome::Pass,
        &[],
    );
}

#[test]
fn a_gap_spent_on_the_cpu_is_the_hosts() {
    let text = check(
        Assert::NO_OVERRIDES.max_gap_ms(500),
        &[with_gap(900, 850)],
        Outcome::Inconclusive,
        &[DetailKind::Stuck],
    );
    assert!(text.contains("on its CPU for 850 ms"), "{text}");
}

/// A demo run blamed the host for a wait of 2999 ms against a limit of 3000 ms.
#[test]
fn a_wait_within_the_limit_is_nobodys_fault() {
    check(
        Assert::NO_OVERRIDES.max_gap_ms(3000),
        &[with_gap(3001, 2)],
        Outcome::Pass,
        &[],
    );
}

#[test]
fn a_neighbours_stall_excuses_as_much_as_it_lasted() {
    let stalled = |ms: u64| WorkerReport {
        longest_stall_ns: ms * MS,
        ..worker(1, 50)
    };
    let assert = Assert::NO_OVERRIDES.max_gap_ms(500);
    check(
        assert,
        &[with_gap(900, 0), stalled(450)],
        Outcome::Inconclusive,
        &[DetailKind::Stuck],
    );
    check(
        assert,
        &[with_gap(5_000, 0), stalled(450)],
        Outcome::Fail,
        &[DetailKind::Stuck],
    );
}

#[test]
fn not_stuck_turns_on_the_limits_of_the_build() {
    let limits = ProgressLimits::CURRENT;
    let assert = Assert::NO_OVERRIDES.check_not_stuck();
    check(assert, &[with_gap(limits.gap_ms, 0)], Outcome::Pass, &[]);
    check(
        assert,
        &[with_gap(limits.gap_ms + 1, 0)],
        Outcome::Fail,
        &[DetailKind::Stuck],
    );
    assert_eq!(
        ProgressLimits::of(false),
        ProgressLimits {
            gap_ms: 2_000,
            spread_pct: 15.0
        }
    );
    assert_eq!(
        ProgressLimits::of(true),
        ProgressLimits {
            gap_ms: 3_000,
            spread_pct: 35.0
        }
    );
}

#[test]
fn spread_is_in_percentage_points() {
    let reports = [worker(1, 70), worker(2, 30)];
    let text = check(
        Assert::NO_OVERRIDES.max_spread_pct(39.9),
        &reports,
        Outcome::Fail,
        &[DetailKind::Unfair],
    );
    assert!(
        text.contains("40.0 percentage points, 30.0 % to 70.0 %"),
        "{text}"
    );
    check(
        Assert::NO_OVERRIDES.max_spread_pct(40.1),
        &reports,
        Outcome::Pass,
        &[],
    );
}

#[test]
fn a_stall_excuses_as_much_spread_as_it_can_explain() {
    let stalled = WorkerReport {
        longest_stall_ns: 1_000 * MS,
        ..worker(1, 60)
    };
    // 40 points against 35, and 1 s of a 10 s window explains 10.
    let reports = [stalled, worker(2, 20)];
    let kinds = [DetailKind::Unfair];
    let text = check(
        Assert::NO_OVERRIDES.max_spread_pct(35.0),
        &reports,
        Outcome::Inconclusive,
        &kinds,
    );
    let reason = "but the host stopped a vCPU for up to 1000 ms, which may explain it";
    assert!(text.ends_with(reason), "{text}");
    check(
        Assert::NO_OVERRIDES.max_spread_pct(29.0),
        &reports,
        Outcome::Fail,
        &kinds,
    );
}

#[test]
fn spread_of_one_worker_cannot_be_judged_when_asked() {
    let one = [worker(1, 50)];
    check(
        Assert::NO_OVERRIDES.max_spread_pct(10.0),
        &one,
        Outcome::Inconclusive,
        &[DetailKind::Unfair],
    );
    check(
        Assert::NO_OVERRIDES.check_not_stuck(),
        &one,
        Outcome::Pass,
        &[],
    );
}

#[test]
fn a_cpu_outside_the_cpuset_breaks_isolation() {
    let strayed = WorkerReport {
        cpus_seen: CpuSet::from([0, 2, 3]),
        cpus_outside: CpuSet::from([2, 3]),
        ..worker(1, 50)
    };
    let assert = Assert::NO_OVERRIDES.check_isolation();
    let text = check(assert, &[strayed], Outcome::Fail, &[DetailKind::Isolation]);
    assert!(
        text.ends_with("ran on cpus 2-3 outside its cpuset 0-1"),
        "{text}"
    );
    check(assert, &[worker(1, 50)], Outcome::Pass, &[]);
    let unseen = WorkerReport {
        cpus_seen: CpuSet::EMPTY,
        ..worker(1, 50)
    };
    check(
        assert,
        &[unseen],
        Outcome::Inconclusive,
        &[DetailKind::Isolation],
    );
}

/// Half of 10 s on a CPU: 200 iterations in each second of CPU time, 100 in each second.
#[test]
fn rates_by_cpu_time_and_by_the_wall_clock() {
    let one = [worker(1, 50)];
    let fails = [DetailKind::Benchmark];
    check(
        Assert::NO_OVERRIDES.min_iteration_rate(200.0),
        &one,
        Outcome::Pass,
        &[],
    );
    check(
        Assert::NO_OVERRIDES.min_iteration_rate(200.1),
        &one,
        Outcome::Fail,
        &fails,
    );
    check(
        Assert::NO_OVERRIDES.min_iteration_rate_wall(100.0),
        &one,
        Outcome::Pass,
        &[],
    );
    check(
        Assert::NO_OVERRIDES.min_iteration_rate_wall(100.1),
        &one,
        Outcome::Fail,
        &fails,
    );
    check(
        Assert::NO_OVERRIDES.min_work_rate(200_000.0),
        &one,
        Outcome::Pass,
        &[],
    );
    check(
        Assert::NO_OVERRIDES.min_work_rate(200_001.0),
        &one,
        Outcome::Fail,
        &fails,
    );
    check(
        Assert::NO_OVERRIDES.min_work_rate_wall(100_001.0),
        &one,
        Outcome::Fail,
        &fails,
    );
    // One that gets a tenth of the other's CPU, and does as much with it: only the wall clock sees it.
    let starved = WorkerReport {
        work_units: 100_000,
        ..worker(2, 5)
    };
    let two = [worker(1, 50), starved];
    check(
        Assert::NO_OVERRIDES.max_throughput_cv(0.1),
        &two,
        Outcome::Pass,
        &[],
    );
    let unfair = [DetailKind::Unfair];
    check(
        Assert::NO_OVERRIDES.max_throughput_cv_wall(0.1),
        &two,
        Outcome::Fail,
        &unfair,
    );
}

#[test]
fn migrations_and_uneven_work_are_ratios() {
    let moved = WorkerReport {
        migrations: 20,
        ..worker(1, 50)
    };
    check(
        Assert::NO_OVERRIDES.max_migration_ratio(0.019),
        &[moved],
        Outcome::Fail,
        &[DetailKind::Migration],
    );
    let lazy = WorkerReport {
        work_units: 10,
        ..worker(2, 50)
    };
    check(
        Assert::NO_OVERRIDES.max_throughput_cv(0.5),
        &[worker(1, 50), lazy],
        Outcome::Fail,
        &[DetailKind::Unfair],
    );
}

#[test]
fn wake_latency() {
    let woken = WorkerReport {
        wake: WakeLatencies {
            count: 100,
            max_ns: 100,
            samples_ns: (1..=100).collect(),
        },
        ..worker(1, 50)
    };
    let p99 = |limit| Assert::NO_OVERRIDES.max_p99_wake_latency_ns(limit);
    check(p99(99), std::slice::from_ref(&woken), Outcome::Pass, &[]);
    check(
        p99(98),
        std::slice::from_ref(&woken),
        Outcome::Fail,
        &[DetailKind::Benchmark],
    );
    check(
        Assert::NO_OVERRIDES.max_wake_latency_cv(0.1),
        &[woken],
        Outcome::Fail,
        &[DetailKind::Benchmark],
    );
}

#[test]
fn no_denominator_is_inconclusive() {
    let empty = WorkerReport {
        iterations: 0,
        wall_time_ns: 0,
        ..worker(1, 0)
    };
    for assert in [
        Assert::NO_OVERRIDES.min_work_rate(0.0),
        Assert::NO_OVERRIDES.min_iteration_rate(0.0),
        Assert::NO_OVERRIDES.min_work_rate_wall(0.0),
        Assert::NO_OVERRIDES.min_iteration_rate_wall(0.0),
        Assert::NO_OVERRIDES.max_throughput_cv_wall(1.0),
        Assert::NO_OVERRIDES.max_migration_ratio(1.0),
        Assert::NO_OVERRIDES.max_throughput_cv(1.0),
        Assert::NO_OVERRIDES.max_p99_wake_latency_ns(1),
        Assert::NO_OVERRIDES.max_wake_latency_cv(1.0),
        Assert::NO_OVERRIDES.min_page_locality(0.5),
        Assert::NO_OVERRIDES.max_cross_node_migration_ratio(0.5),
        Assert::NO_OVERRIDES.max_slow_tier_ratio(0.5),
        Assert::NO_OVERRIDES.max_spread_pct(5.0),
    ] {
        let result = evaluate(&assert, std::slice::from_ref(&empty));
        assert!(result.is_inconclusive(), "{assert:?}: {result:?}");
    }
}

/// 75 pages at home on node 0, 20 on node 1, 5 on node 2, which has no CPUs; 10 were moved meanwhile.
fn placed() -> WorkerReport {
    let pages = PagePlacement {
        by_node: vec![(0, 75), (1, 20), (2, 5)],
        own_nodes: vec![0],
        slow_nodes: vec![2],
        migrated: Some(10),
    };
    WorkerReport {
        pages: Some(pages),
        ..worker(1, 90)
    }
}

#[test]
fn pages_away_from_home() {
    let reports = [placed()];
    let kinds = [DetailKind::PageLocality];
    let asked = Assert::NO_OVERRIDES.min_page_locality(0.8);
    let text = check(asked, &reports, Outcome::Fail, &kinds);
    assert_eq!(
        text,
        "75.0 % of cgroup a's pages are on its own nodes (at least 80.0 % asked)"
    );
    check(
        Assert::NO_OVERRIDES
            .min_page_locality(0.75)
            .max_cross_node_migration_ratio(0.1)
            .max_slow_tier_ratio(0.05),
        &reports,
        Outcome::Pass,
        &[],
    );
    let moved = Assert::NO_OVERRIDES.max_cross_node_migration_ratio(0.09);
    let kinds = [DetailKind::CrossNodeMigration];
    check(moved, &reports, Outcome::Fail, &kinds);
    // A kernel whose NUMA balancing is off counts nothing, which is no pass.
    let mut uncounted = placed();
    if let Some(pages) = &mut uncounted.pages {
        pages.migrated = None;
    }
    let text = check(moved, &[uncounted], Outcome::Inconclusive, &kinds);
    assert!(text.contains("kernel.numa_balancing"), "{text}");
    let slow = Assert::NO_OVERRIDES.max_slow_tier_ratio(0.04);
    check(slow, &reports, Outcome::Fail, &[DetailKind::SlowTier]);
    let stats = &summarize(&reports)[0];
    assert_eq!(stats.page_locality, Some(0.75));
}

#[test]
fn steal_time_explains_what_it_is_long_enough_for() {
    let judged = |steal_ms: u64, gap_ms: u64| {
        let circumstances = Circumstances {
            guest_steal_ns: steal_ms * MS,
        };
        let asked = Assert::NO_OVERRIDES.max_gap_ms(2_000);
        evaluate_in(&asked, &[with_gap(gap_ms, 0)], &[], circumstances)
    };
    assert!(judged(0, 2_500).is_fail());
    let excused = judged(500, 2_500);
    assert!(excused.is_inconclusive(), "{excused:?}");
    let text = &excused.details[0].message;
    assert!(
        text.contains("the host stole up to 500 ms from a vCPU (/proc/stat)"),
        "{text}"
    );
    assert!(judged(499, 2_500).is_fail());
    // The host may know better: the failure says how long a stall would explain it.
    let mut blamed = judged(0, 2_500);
    assert_eq!(blamed.excuse_by_stall(500 * MS, "vCPU 1 waited 500 ms"), 1);
    assert!(blamed.is_inconclusive());
}

#[test]
fn benchmarks_keep_the_worst_workers_percentiles() {
    let with = |p99_ns: u64| WorkerReport {
        latencies: vec![LatencySummary {
            name: "wakeup".into(),
            p99_ns,
            ..LatencySummary::default()
        }],
        ..worker(1, 90)
    };
    let stats = summarize(&[with(5), with(9), with(7)]);
    assert_eq!(stats[0].latencies.len(), 1);
    assert_eq!(stats[0].latencies[0].p99_ns, 9);
}

#[test]
fn checks_without_workers_are_inconclusive() {
    check(
        Assert::NO_OVERRIDES.check_not_stuck(),
        &[],
        Outcome::Inconclusive,
        &[DetailKind::Other],
    );
    check(Assert::default_checks(), &[], Outcome::Pass, &[]);
}

#[test]
fn stats_are_per_cgroup() {
    let b = WorkerReport {
        cgroup: "b".into(),
        ..worker(3, 10)
    };
    let stats = summarize(&[worker(1, 70), b, worker(2, 30)]);
    let names: Vec<_> = stats.iter().map(|s| (s.name.as_str(), s.workers)).collect();
    assert_eq!(names, [("a", 2), ("b", 1)]);
    assert_eq!(stats[0].iterations, 2_000);
    assert_eq!(stats[1].spread_pct, None);
}

fn layers() -> impl Strategy<Value = Assert> {
    (
        any::<Option<bool>>(),
        any::<Option<u64>>(),
        prop::option::of(0.0..1e3),
    )
        .prop_map(|(not_stuck, max_gap_ms, max_spread_pct)| Assert {
            not_stuck,
            max_gap_ms,
            max_spread_pct,
            ..Assert::NO_OVERRIDES
        })
}

proptest! {
    #[test]
    fn the_last_some_wins(scheduler in layers(), test in layers()) {
        let merged = Assert::layered(scheduler, test);
        prop_assert_eq!(merged.max_gap_ms, test.max_gap_ms.or(scheduler.max_gap_ms));
        prop_assert_eq!(merged.max_spread_pct, test.max_spread_pct.or(scheduler.max_spread_pct));
        prop_assert_eq!(merged.not_stuck, test.not_stuck.or(scheduler.not_stuck));
        prop_assert_eq!(merged.sustained_samples, Some(5));
    }

    #[test]
    fn a_higher_limit_never_makes_it_worse(gap in 0u64..10_000, on in 0u64..10_000, low in 0u64..9_000, more in 0u64..1_000) {
        let reports = [with_gap(gap, on.min(gap))];
        let strict = evaluate(&Assert::NO_OVERRIDES.max_gap_ms(low), &reports).outcome();
        let loose = evaluate(&Assert::NO_OVERRIDES.max_gap_ms(low + more), &reports).outcome();
        prop_assert!(loose <= strict);
    }

    #[test]
    fn evaluation_never_panics_and_names_units(units in any::<u64>(), cpu in any::<u64>(), wall in any::<u64>(), gap in any::<u64>()) {
        let report = WorkerReport {
            work_units: units, cpu_time_ns: cpu, wall_time_ns: wall,
            longest_gap: Gap { wall_ns: gap, ..Gap::default() },
            ..worker(1, 0)
        };
        let result = evaluate(&Assert::NO_OVERRIDES.check_not_stuck().min_work_rate(1.0), &[report]);
        for detail in result.details {
            prop_assert!(["ms", "/s", "second", "window"].iter().any(|u| detail.message.contains(u)), "{}", detail.message);
        }
    }
}

fn sleeper(pid: i32, cgroup: &str, wakes_ns: &[u64]) -> WorkerReport {
    WorkerReport {
        cgroup: cgroup.into(),
        work_type: "Bursty".into(),
        cpu_bound: false,
        has_wakes: true,
        wake: WakeLatencies {
            count: wakes_ns.len() as u64,
            max_ns: wakes_ns.iter().copied().max().unwrap_or(0),
            samples_ns: wakes_ns.to_vec(),
        },
        ..worker(pid, 20)
    }
}

/// Sleepers beside spinners could never pass: the spinners' cgroup has no wake-up, and made the test inconclusive.
#[test]
fn latency_checks_concern_those_that_sleep() {
    let assert = Assert::NO_OVERRIDES
        .max_p99_wake_latency_ns(1_000)
        .max_wake_latency_cv(1.0);
    let spinner = worker(1, 50);
    check(
        assert,
        &[spinner.clone(), sleeper(2, "b", &[500, 600])],
        Outcome::Pass,
        &[],
    );
    check(
        assert,
        &[spinner.clone(), sleeper(2, "b", &[500, 6_000])],
        Outcome::Fail,
        &[DetailKind::Benchmark],
    );
    let kinds = [DetailKind::Benchmark; 2];
    let text = check(assert, &[spinner], Outcome::Inconclusive, &kinds);
    assert!(
        text.contains("no worker of this test waits for wake-ups"),
        "{text}"
    );
    let text = check(
        assert,
        &[sleeper(2, "b", &[])],
        Outcome::Inconclusive,
        &kinds,
    );
    assert!(text.contains("no wake-up was measured"), "{text}");
}

#[test]
fn comparisons_concern_cgroups_of_two_or_more() {
    let assert = Assert::NO_OVERRIDES
        .max_throughput_cv(0.2)
        .max_spread_pct(20.0);
    let alone = WorkerReport {
        cgroup: "alone".into(),
        ..worker(9, 90)
    };
    check(
        assert,
        &[worker(1, 50), worker(2, 48), alone.clone()],
        Outcome::Pass,
        &[],
    );
    let text = check(
        assert,
        &[alone],
        Outcome::Inconclusive,
        &[DetailKind::Unfair; 2],
    );
    assert!(text.contains("two workers"), "{text}");
}

/// A name that two steps use, with other neighbours, was taken for one unfair cgroup.
#[test]
fn workers_of_different_steps_are_not_compared() {
    let later = |pid| WorkerReport {
        step: 2,
        ..worker(pid, 90)
    };
    let reports = [worker(1, 30), worker(2, 30), later(3), later(4)];
    check(
        Assert::NO_OVERRIDES.check_not_stuck(),
        &reports,
        Outcome::Pass,
        &[],
    );
    let result = evaluate(&Assert::NO_OVERRIDES, &reports);
    assert_eq!(result.stats.cgroups[0].spread_pct, Some(0.0));
    let unfair = WorkerReport {
        step: 2,
        ..worker(4, 20)
    };
    check(
        Assert::NO_OVERRIDES.check_not_stuck(),
        &[worker(1, 30), worker(2, 30), later(3), unfair],
        Outcome::Fail,
        &[DetailKind::Unfair],
    );
}

#[test]
fn a_cgroup_that_its_own_limit_held_back_says_so() {
    let throttled = Some(crate::model::report::Throttled {
        periods: 17,
        time_us: 1_700_000,
    });
    let starved = WorkerReport {
        work_units: 0,
        throttled,
        ..worker(1, 0)
    };
    let stuck = WorkerReport {
        throttled,
        ..with_gap(900, 0)
    };
    for (assert, report, kind) in [
        (
            Assert::NO_OVERRIDES.check_not_stuck().max_gap_ms(u64::MAX),
            starved,
            DetailKind::Starved,
        ),
        (
            Assert::NO_OVERRIDES.max_gap_ms(500),
            stuck,
            DetailKind::Stuck,
        ),
    ] {
        let text = check(assert, &[report], Outcome::Fail, &[kind]);
        let told = "throttled by cpu.max in 17 periods, for 1700 ms";
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn what_is_asked_of_the_monitor_is_named() {
    assert!(
        !Assert::NO_OVERRIDES
            .check_not_stuck()
            .max_gap_ms(3)
            .names_monitor()
    );
    let off = Assert::NO_OVERRIDES.fail_on_rq_clock_stuck(false);
    assert!(off.names_monitor() && off.asked_of_monitor().is_empty());
    let enforced = Assert::NO_OVERRIDES.enforce_monitor_thresholds(true);
    assert!(enforced.names_monitor() && enforced.asked_of_monitor().is_empty());
    assert_eq!(
        enforced
            .max_gap_ms(3)
            .max_local_dsq_depth(9)
            .max_fallback_rate(0.5)
            .asked_of_monitor(),
        ["max_local_dsq_depth", "max_fallback_rate"]
    );
}

/// The outcome and the messages, with checks of the cgroups' own.
fn judged_with(assert: Assert, reports: &[WorkerReport], own: &[Assert]) -> (Outcome, Vec<String>) {
    let result = evaluate_in(&assert, reports, own, Circumstances::default());
    let messages = result.details.iter().map(|d| d.message.clone()).collect();
    (result.outcome(), messages)
}

#[test]
fn a_cgroups_own_checks_are_of_its_workers_alone() {
    let stuck = |tid, cgroup: &str| WorkerReport {
        tid,
        cgroup: cgroup.into(),
        ..with_gap(900, 0)
    };
    let reports = [stuck(1, "a"), stuck(2, "b")];
    let (none, short) = (Assert::NO_OVERRIDES, Assert::NO_OVERRIDES.max_gap_ms(500));
    let (outcome, messages) = judged_with(none, &reports, &[none, short]);
    assert_eq!(outcome, Outcome::Fail);
    let [message] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert!(
        message.contains("worker 2 (SpinWait in cgroup b)"),
        "{message}"
    );
    let long = Assert::NO_OVERRIDES.max_gap_ms(1_000);
    let (outcome, messages) = judged_with(short, &reports, &[long, none]);
    assert_eq!(
        (outcome, messages.len()),
        (Outcome::Fail, 1),
        "{messages:?}"
    );
    assert!(messages[0].contains("in cgroup b"), "{messages:?}");
    let passes = judged_with(short, &reports, &[long, long]);
    assert_eq!(passes, (Outcome::Pass, Vec::new()));
}

/// The sleepers of another cgroup have the figure; those that were asked for it have not.
#[test]
fn a_cgroups_own_check_that_it_cannot_show_is_inconclusive() {
    let reports = [worker(1, 50), sleeper(2, "chat", &[10, 20])];
    let latency = Assert::NO_OVERRIDES.max_p99_wake_latency_ns(100);
    let none = Assert::NO_OVERRIDES;
    let (outcome, messages) = judged_with(none, &reports, &[latency, none]);
    assert_eq!(outcome, Outcome::Inconclusive);
    assert!(
        messages[0].contains("no worker of cgroup a waits for wake-ups"),
        "{messages:?}"
    );
    assert_eq!(
        judged_with(none, &reports, &[none, latency]).0,
        Outcome::Pass
    );
    let too_low = Assert::NO_OVERRIDES.max_p99_wake_latency_ns(5);
    assert_eq!(
        judged_with(none, &reports, &[none, too_low]).0,
        Outcome::Fail
    );
}
