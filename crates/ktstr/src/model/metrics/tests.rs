use std::collections::BTreeMap;

use ktstr_monitor::sampler::{CpuSnapshot, MonitorSample, WatchedField};

use super::*;
use crate::model::phase::Phase;
use crate::model::result::tests::with_results;
use crate::model::verdict::AssertResult;

fn cgroup(iterations: u64, seconds: u64, delays_ns: &[u64]) -> PhaseCgroupStats {
    PhaseCgroupStats {
        num_workers: 2,
        total_iterations: iterations,
        total_cpu_time_ns: seconds * 1_000_000_000,
        total_migrations: 5,
        run_delays_ns: delays_ns.to_vec(),
        off_cpu_pcts: vec![20.0, 40.0],
        ..PhaseCgroupStats::default()
    }
}

/// Two steps of two cgroups; the second is twice as fast, and waits longer.
fn stats() -> ScenarioStats {
    let step = |step_index, a, b| PhaseBucket {
        step_index,
        cgroups: BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]),
        ..PhaseBucket::default()
    };
    let of_run = |name: &str, iterations, wake_p99_ns| CgroupStats {
        name: name.to_owned(),
        workers: 2,
        iterations,
        cpu_time_ms: 1000.0,
        max_gap_ms: 30.0,
        wake_p50_ns: Some(1000),
        wake_p99_ns,
        run_delay_ms: Some(8.0),
        migrations: 10,
        ..CgroupStats::default()
    };
    ScenarioStats {
        cgroups: vec![of_run("a", 100, Some(5000)), of_run("b", 50, None)],
        phases: vec![
            step(1, cgroup(10, 1, &[1000, 3000]), cgroup(30, 1, &[])),
            step(2, cgroup(20, 1, &[2000, 6000]), cgroup(60, 1, &[])),
        ],
        ext_metrics: BTreeMap::from([("bench.p99".to_owned(), 7.0)]),
        ..ScenarioStats::default()
    }
}

fn run() -> VmResult {
    let mut result = AssertResult::pass();
    result.stats = stats();
    with_results(&[serde_json::to_vec(&result).unwrap()])
}

#[test]
fn a_cgroups_figures_in_a_step_have_names() {
    let (stats, run) = (stats(), run());
    let step = Phase::step(0);
    for (metric, expected) in [
        ("mean_run_delay_us", Some(2.0)),
        ("max_run_delay_us", Some(3.0)),
        ("avg_off_cpu_pct", Some(30.0)),
        ("min_off_cpu_pct", Some(20.0)),
        ("max_off_cpu_pct", Some(40.0)),
        ("off_cpu_spread_pct", Some(20.0)),
        ("migration_ratio", Some(0.5)),
        ("iterations_per_worker", Some(5.0)),
        ("iterations_per_cpu_sec", Some(10.0)),
        ("total_iterations", Some(10.0)),
        ("total_migrations", Some(5.0)),
        ("total_cpu_time_ns", Some(1e9)),
        ("no_such_metric", None),
    ] {
        let found = stats.phase_cgroup_metric(step, "a", metric);
        assert_eq!(found, expected, "{metric}");
        assert_eq!(run.phase_cgroup_metric(step, "a", metric), expected);
    }
    assert_eq!(
        stats.phase_cgroup_metric(step, "b", "max_run_delay_us"),
        None
    );
    assert_eq!(
        stats.phase_cgroup_metric(step, "c", "total_iterations"),
        None
    );
    let later = stats.phase_cgroup_metric(Phase::step(2), "a", "total_iterations");
    assert_eq!(later, None);
}

#[test]
fn a_steps_figures_are_sums_of_its_cgroups_or_means_of_its_samples() {
    let mut stats = stats();
    stats.phases[1].name = String::from("swap");
    let figure = |stats: &ScenarioStats, name| stats.phase_metric("swap", name);
    assert_eq!(
        stats.phase_cgroup_metric("swap", "a", "total_iterations"),
        stats.phase_cgroup_metric(Phase::step(1), "a", "total_iterations")
    );
    assert_eq!(figure(&stats, "iteration_rate"), Some(40.0));
    assert_eq!(figure(&stats, "total_iterations"), Some(80.0));
    assert_eq!(figure(&stats, "total_migrations"), Some(10.0));
    assert_eq!(figure(&stats, "total_cpu_time_ns"), Some(2e9));
    assert_eq!(figure(&stats, "queue.depth"), None);
    let summary = crate::model::stats::MetricSummary::of(&[1.0, 5.0]).unwrap();
    let path = String::from("queue.depth");
    stats.phases[1].metrics.insert(path, summary);
    assert_eq!(figure(&stats, "queue.depth"), Some(3.0));
    assert_eq!(
        run().phase_metric(Phase::step(1), "iteration_rate"),
        Some(40.0)
    );
    let idle = PhaseBucket::default();
    assert_eq!(idle.get("iteration_rate"), None, "nothing had CPU time");
    assert_eq!(idle.get("total_iterations"), None, "nobody ran");
    assert_eq!(
        ScenarioStats::default().run_metric("total_migrations"),
        None
    );
}

#[test]
fn a_runs_figures_are_the_worst_cgroups() {
    let run = run();
    for (metric, expected) in [
        ("worst_spread", None),
        ("worst_gap_ms", Some(30.0)),
        ("worst_migration_ratio", Some(0.2)),
        ("worst_p99_wake_latency_us", Some(5.0)),
        ("worst_median_wake_latency_us", Some(1.0)),
        ("worst_wake_latency_tail_ratio", Some(5.0)),
        ("worst_mean_run_delay_us", Some(4000.0)),
        ("worst_iterations_per_worker", Some(25.0)),
        ("worst_iterations_per_cpu_sec", Some(50.0)),
        ("worst_page_locality", None),
        ("total_iterations", Some(150.0)),
        ("total_migrations", Some(20.0)),
        ("bench.p99", Some(7.0)),
        ("max_imbalance_ratio", None),
        ("no_such_metric", None),
    ] {
        assert_eq!(run.run_metric(metric), expected, "{metric}");
    }
}

/// Samples of two CPUs: one number of the scheduler, a counter that begins anew, and a number of each CPU.
fn monitored() -> VmResult {
    let sample = |at: u64, watched: [u64; 6]| MonitorSample {
        elapsed_ms: at,
        cpus: vec![
            CpuSnapshot {
                nr_running: 3,
                rq_clock: at,
                ..CpuSnapshot::default()
            },
            CpuSnapshot {
                rq_clock: at + 1,
                ..CpuSnapshot::default()
            },
        ],
        watched: watched.into_iter().map(Some).collect(),
        ..MonitorSample::default()
    };
    let field = |label: &str, counter| WatchedField {
        label: label.to_owned(),
        counter,
    };
    let samples = vec![
        sample(1, [4, 10, 7, 1, 100, 200]),
        sample(2, [6, 15, 8, 2, 110, 203]),
        sample(3, [5, 3, 9, 3, 130, 210]),
    ];
    let report = MonitorReport::new(samples, 1000).with_watched(vec![
        field("depth", false),
        field("calls", true),
        field("load[0]", false),
        field("load[1]", false),
        field("hits[0]", true),
        field("hits[1]", true),
    ]);
    VmResult {
        monitor: Some(report),
        ..VmResult::test_fixture()
    }
}

#[test]
fn the_monitors_figures_have_names() {
    let mut run = monitored();
    assert_eq!(run.run_metric("max_imbalance_ratio"), Some(3.0));
    assert_eq!(run.run_metric("avg_nr_running"), Some(1.5));
    assert_eq!(run.run_metric("stuck_count"), Some(0.0));
    assert_eq!(run.run_metric("max_dsq_depth"), None, "no CPU has a queue");
    let report = run.monitor.as_mut().unwrap();
    report.samples[1].cpus[1].local_dsq_depth = Some(4);
    report.summary.max_local_dsq_depth = 4;
    assert_eq!(run.run_metric("max_dsq_depth"), Some(4.0));
    assert_eq!(run.run_metric("total_fallback"), None, "nobody counted");
    let summary = &mut run.monitor.as_mut().unwrap().summary;
    summary.event_deltas.insert(FALLBACK.to_owned(), 6);
    summary.schedstat_deltas = Some(ktstr_monitor::sampler::SchedStatSnapshot {
        run_delay: 9,
        ttwu_count: Some(8),
        ttwu_local: Some(2),
        ..Default::default()
    });
    assert_eq!(run.run_metric("total_fallback"), Some(6.0));
    assert_eq!(run.run_metric("total_run_delay"), Some(9.0));
    assert_eq!(run.run_metric("ttwu_local_fraction"), Some(0.25));
    assert_eq!(run.run_metric("total_sched_count"), None, "not counted");
    run.monitor.as_mut().unwrap().summary.valid_samples = 0;
    assert_eq!(run.run_metric("max_imbalance_ratio"), None);
}

#[test]
fn a_watched_number_is_its_last_value_or_its_growth_over_all_cpus() {
    let run = monitored();
    assert_eq!(run.run_metric("depth"), Some(5.0));
    assert_eq!(run.run_metric("calls"), Some(8.0), "5, and 3 of a new map");
    assert_eq!(run.run_metric("load_avg"), Some(6.0));
    assert_eq!(run.run_metric("load_max"), Some(9.0));
    assert_eq!(run.run_metric("hits"), Some(40.0));
    for none in ["load", "hits_avg", "depth_max", "calls_avg", "dep"] {
        assert_eq!(run.run_metric(none), None, "{none}");
    }
}

#[test]
fn better_is_by_the_figures_own_direction() {
    let run = run();
    let (first, second) = (Phase::step(0), Phase::step(1));
    let mut v = Verdict::new();
    run.better_across_phases(&mut v, first, second, "iteration_rate")
        .better_than();
    run.better_across_phases(&mut v, first, second, "iteration_rate")
        .by_at_least(1.0);
    run.better_across_phases_cgroup(&mut v, second, first, "a", "mean_run_delay_us")
        .by_at_least(0.5);
    assert!(v.is_pass() && v.held() == 3);
    let failed = |from, to, metric: &str, margin: f64| {
        let mut v = Verdict::new();
        let of_a = run.better_across_phases_cgroup(&mut v, from, to, "a", metric);
        of_a.by_at_least(margin);
        let result = v.into_result();
        assert!(result.is_fail(), "{result:?}");
        result.details[0].message.clone()
    };
    let text = failed(first, second, "mean_run_delay_us", 0.1);
    assert!(
        text.contains("mean_run_delay_us of a in Step[1] against Step[0]: 4 against 2")
            && text.contains("less is better"),
        "{text}"
    );
    failed(first, second, "total_iterations", 1.5);
    let mut v = Verdict::new();
    run.better_across_phases(&mut v, first, first, "iteration_rate")
        .better_than();
    assert!(v.into_result().is_fail(), "the same is not better");
}

/// A figure that was 0: any more of it is better where more is, and by no share.
#[test]
fn of_nothing_there_is_no_share() {
    let with = |first: u64, second: u64| {
        let mut stats = stats();
        for (phase, migrations) in stats.phases.iter_mut().zip([first, second]) {
            for cgroup in phase.cgroups.values_mut() {
                cgroup.total_migrations = migrations;
                cgroup.total_iterations = migrations;
            }
        }
        let mut result = AssertResult::pass();
        result.stats = stats;
        with_results(&[serde_json::to_vec(&result).unwrap()])
    };
    let judge = |run: &VmResult, metric: &str, margin: Option<f64>| {
        let mut v = Verdict::new();
        let better = run.better_across_phases(&mut v, Phase::step(0), Phase::step(1), metric);
        match margin {
            Some(margin) => better.by_at_least(margin),
            None => better.better_than(),
        };
        v.into_result()
    };
    let same = with(0, 0);
    assert!(
        judge(&same, "total_migrations", None).is_fail(),
        "0 against 0"
    );
    let more = with(0, 5);
    assert!(judge(&more, "total_iterations", None).is_pass());
    assert!(judge(&more, "total_migrations", None).is_fail());
    let share = judge(&more, "total_iterations", Some(0.1));
    assert!(
        share.is_inconclusive() && share.details[0].message.contains("no share of 0"),
        "{share:?}"
    );
}

#[test]
fn what_has_no_figure_or_no_direction_is_not_judged() {
    let run = run();
    let (first, second) = (Phase::step(0), Phase::step(1));
    for (phase, metric) in [
        (Phase::step(7), "iteration_rate"),
        (second, "no_such_metric"),
        (second, "total_cpu_time_ns"),
    ] {
        let mut v = Verdict::new();
        run.better_across_phases(&mut v, first, phase, metric)
            .better_than();
        let result = v.into_result();
        assert!(result.is_inconclusive(), "{metric}");
        let lists = result.details[0].message.contains("iteration_rate, total_");
        assert_eq!(lists, metric == "no_such_metric", "{result:?}");
    }
}

/// `docs/metrics.md` follows the code; `KTSTR_BLESS=1` writes it anew.
#[test]
fn the_table_of_metrics_follows_the_code() {
    fn rows<T>(table: &[Of<T>], of: &str) -> String {
        let row = |one: &Of<T>| {
            let metric = one.metric;
            let better = match metric.polarity {
                Polarity::HigherBetter => "more",
                Polarity::LowerBetter => "less",
                _ => "-",
            };
            format!(
                "| `{}` | {of} | {better} | {} |\n",
                metric.name, metric.about
            )
        };
        table.iter().map(row).collect()
    }
    let head = "<!-- Made from the code; mend with\n\
        KTSTR_BLESS=1 cargo test -p ktstr --lib the_table_of_metrics_follows_the_code -->\n\n\
        | metric | of | better | what it is |\n|---|---|---|---|\n";
    let wanted = [
        head.to_owned(),
        rows(OF_CGROUP, "a cgroup in a step"),
        rows(OF_PHASE, "a step"),
        rows(OF_RUN, "a run"),
        rows(OF_MONITOR, "a run, by its samples"),
    ]
    .concat();
    if std::env::var_os("KTSTR_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        std::fs::write(path, &wanted).unwrap();
        return;
    }
    let found = include_str!("../../../docs/metrics.md");
    assert_eq!(found, wanted, "docs/metrics.md is old");
}
