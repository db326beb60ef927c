//! What was seen of the guest while it ran.

use ktstr_monitor::sampler::{MonitorOutcome, MonitorThresholds};

use crate::lab::lab;

#[test]
fn samples_of_a_running_guest_move_on() {
    let report = &lab().live.report;
    assert_eq!(report.samples.len(), 60);
    let summary = &report.summary;
    assert_eq!(summary.valid_samples, 60, "{summary:?}");
    let (first, last) = (&report.samples[0], &report.samples[59]);
    for cpu in [0, 1] {
        // These two are never idle.
        assert!(
            last.cpus[cpu].rq_clock > first.cpus[cpu].rq_clock,
            "CPU {cpu}"
        );
        assert!(last.cpus[cpu].nr_running >= 1);
    }
    assert!(summary.avg_nr_running >= 0.5, "{summary:?}");
    let stats = summary.schedstat_deltas.unwrap();
    assert!(stats.pcount > 0, "{summary:?}");
    // The guest has the kernel count these.
    assert!(stats.sched_count > Some(0), "{summary:?}");
    assert!(stats.ttwu_count > Some(0), "{summary:?}");
    assert!(summary.max_imbalance_ratio >= 2.0);
    let counts = |event| report.samples.iter().any(|s| s.events.contains_key(event));
    let asked = MonitorThresholds::default();
    let verdict = asked.evaluate(report);
    // Kernels before 6.14 do not count what two checks ask for.
    assert_eq!(
        verdict.outcome == MonitorOutcome::Inconclusive,
        !counts("dispatch_keep_last"),
        "{verdict:?}"
    );
    let verdict = MonitorThresholds {
        max_fallback_rate: None,
        max_keep_last_rate: None,
        ..asked
    }
    .evaluate(report);
    assert_ne!(verdict.outcome, MonitorOutcome::Inconclusive, "{verdict:?}");
    let watched: Vec<u64> = report
        .samples
        .iter()
        .filter_map(|sample| sample.watched[0])
        .collect();
    assert!(
        watched.is_sorted() && watched[0] < watched[59],
        "{watched:?}"
    );
}

/// The guest counts its programs' runs.
#[test]
fn the_schedulers_programs_run() {
    let deltas = &lab().live.report.summary.program_deltas;
    let dispatch = deltas["fixture_dispatch"];
    assert!(
        dispatch.run_cnt > 0 && dispatch.run_time_ns > 0,
        "{deltas:?}"
    );
}

#[test]
fn map_members_are_read_and_written_by_name() {
    let live = &lab().live;
    assert_eq!(live.nr_cpus, 4);
    assert!(live.vtimes[0] < live.vtimes[1], "{:?}", live.vtimes);
    assert_eq!(live.written.cast_signed(), -7);
}

#[test]
fn the_watchdog_took_the_new_limit() {
    let change = lab().live.watchdog.unwrap();
    assert_eq!((change.wanted, change.observed), (9000, 9000));
    // Five seconds, at the kernel's own rate of ticks.
    assert!(
        [500, 1250, 1500, 5000].contains(&change.previous),
        "{change:?}"
    );
}
