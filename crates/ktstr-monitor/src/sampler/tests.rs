//! Summaries and verdicts over samples written by hand.

use super::*;

/// CPUs with clocks that run: (nr_running, idle) each.
fn sample(elapsed_ms: u64, cpus: &[(u32, bool)]) -> MonitorSample {
    MonitorSample {
        elapsed_ms,
        cpus: (0..)
            .zip(cpus)
            .map(|(cpu, &(nr_running, is_idle))| CpuSnapshot {
                cpu,
                nr_running,
                is_idle,
                rq_clock: 1_000_000 * elapsed_ms + u64::from(cpu) + 1,
                local_dsq_depth: Some(nr_running),
                ..CpuSnapshot::default()
            })
            .collect(),
        events: ["select_cpu_fallback", "dispatch_keep_last"]
            .map(|name| (name.to_owned(), 0))
            .into(),
        ..MonitorSample::default()
    }
}

fn series(
    count: u64,
    cpus: &[(u32, bool)],
    change: impl Fn(u64, &mut MonitorSample),
) -> MonitorReport {
    let samples = (0..count)
        .map(|number| {
            let mut sample = sample(number * 100, cpus);
            change(number, &mut sample);
            sample
        })
        .collect();
    MonitorReport::new(samples, 250)
}

#[track_caller]
fn check(report: &MonitorReport, outcome: MonitorOutcome, finding: &str) {
    let verdict = MonitorThresholds::default().evaluate(report);
    assert_eq!(verdict.outcome, outcome, "{:?}", verdict.findings);
    let text: Vec<_> = verdict
        .findings
        .iter()
        .map(|finding| format!("{}: {}", finding.check, finding.detail))
        .collect();
    assert!(text.join("; ").contains(finding), "{text:?}");
}

const BUSY: &[(u32, bool)] = &[(2, false), (1, false)];

#[test]
fn a_healthy_series_passes() {
    let report = series(20, BUSY, |_, _| {});
    check(&report, MonitorOutcome::Pass, "");
    assert!((report.summary.max_imbalance_ratio - 2.0).abs() < 1e-9);
    assert!((report.summary.avg_nr_running - 1.5).abs() < 1e-9);
    assert_eq!(report.summary.observed_ms, 1900);
}

#[test]
fn an_imbalance_must_last() {
    let short = series(20, BUSY, |number, sample| {
        if (5..9).contains(&number) {
            sample.cpus[0].nr_running = 9;
        }
    });
    check(&short, MonitorOutcome::Pass, "");
    let long = series(20, BUSY, |number, sample| {
        if (5..10).contains(&number) {
            sample.cpus[0].nr_running = 9;
        }
    });
    check(
        &long,
        MonitorOutcome::Fail,
        "max_imbalance_ratio: imbalance ratio 9.0, allowed 4.0, for 5 samples in a row, from 500 ms on",
    );
}

#[test]
fn a_deep_queue_fails_by_cpu() {
    let report = series(8, BUSY, |_, sample| {
        sample.cpus[1].local_dsq_depth = Some(51)
    });
    check(
        &report,
        MonitorOutcome::Fail,
        "local DSQ of CPU 1 holds 51 tasks, allowed 50",
    );
}

fn stand_still(_: u64, sample: &mut MonitorSample) {
    sample.cpus[1].rq_clock = 77;
}

#[test]
fn a_busy_clock_that_stands_fails() {
    let report = series(8, BUSY, stand_still);
    check(&report, MonitorOutcome::Fail, "busy CPU 1 stands still");
    assert!(report.summary.stuck_detected);
}

#[test]
fn an_idle_clock_may_stand() {
    let report = series(8, &[(2, false), (0, true)], stand_still);
    check(&report, MonitorOutcome::Pass, "");
    assert!(!report.summary.stuck_detected);
}

#[test]
fn a_preempted_vcpu_may_stand() {
    let starved = series(8, BUSY, |number, sample| {
        stand_still(number, sample);
        sample.cpus[1].vcpu_cpu_time_ns = Some(number * 1_000_000);
    });
    check(&starved, MonitorOutcome::Pass, "");
    let served = series(8, BUSY, |number, sample| {
        stand_still(number, sample);
        sample.cpus[1].vcpu_cpu_time_ns = Some(number * 90_000_000);
    });
    check(&served, MonitorOutcome::Fail, "stands still");
}

#[test]
fn what_cannot_be_a_kernel_is_inconclusive() {
    check(
        &MonitorReport::new(Vec::new(), 0),
        MonitorOutcome::Inconclusive,
        "no samples",
    );
    let equal = series(8, BUSY, |_, sample| {
        for cpu in &mut sample.cpus {
            cpu.rq_clock = 5;
        }
    });
    check(
        &equal,
        MonitorOutcome::Inconclusive,
        "no sample is plausible",
    );
    let deep = series(8, BUSY, |_, sample| {
        sample.cpus[0].local_dsq_depth = Some(10_001)
    });
    check(
        &deep,
        MonitorOutcome::Inconclusive,
        "no sample is plausible",
    );
    assert_eq!(deep.summary.valid_samples, 0);
}

#[test]
fn rates_are_per_vcpu_second() {
    // 50 events in 100 ms on 2 vCPUs are 250 per vCPU-second.
    let events = |per_sample: i64| {
        series(10, BUSY, move |number, sample| {
            let count = i64::try_from(number).unwrap() * per_sample;
            sample
                .events
                .insert("select_cpu_fallback".to_owned(), count);
        })
    };
    check(
        &events(50),
        MonitorOutcome::Fail,
        "max_fallback_rate: select_cpu_fallback at 250 per vCPU and second, allowed 200",
    );
    check(&events(30), MonitorOutcome::Pass, "");
    assert_eq!(events(30).summary.event_deltas["select_cpu_fallback"], 270);
}

#[test]
fn settling_drops_the_first_samples() {
    let report = series(30, BUSY, |number, sample| {
        if number < 10 {
            sample.cpus[0].nr_running = 40;
        }
    });
    check(&report, MonitorOutcome::Fail, "max_imbalance_ratio");
    check(&report.settled(10), MonitorOutcome::Pass, "");
    assert_eq!(report.settled(100).samples.len(), 0);
}

#[test]
fn reports_survive_json() {
    let report = series(3, BUSY, |_, _| {});
    let json = serde_json::to_string(&report).unwrap();
    let again: MonitorReport = serde_json::from_str(&json).unwrap();
    assert_eq!(again, report);
}

/// A check of what this kernel does not count must not pass.
#[test]
fn a_rate_that_the_kernel_does_not_count_is_inconclusive() {
    let without = series(20, BUSY, |_, sample| sample.events.clear());
    check(
        &without,
        MonitorOutcome::Inconclusive,
        "max_fallback_rate: this kernel does not count select_cpu_fallback",
    );
    let deep_and_uncounted = series(20, BUSY, |_, sample| {
        sample.events.clear();
        sample.cpus[1].local_dsq_depth = Some(51);
    });
    check(
        &deep_and_uncounted,
        MonitorOutcome::Fail,
        "local DSQ of CPU 1",
    );
}

#[test]
fn queues_that_nobody_has_are_inconclusive() {
    let without = series(20, BUSY, |_, sample| {
        for cpu in &mut sample.cpus {
            cpu.local_dsq_depth = None;
        }
    });
    check(
        &without,
        MonitorOutcome::Inconclusive,
        "max_local_dsq_depth: this kernel has no local dispatch queues",
    );
}

#[test]
fn fewer_samples_than_must_breach_in_a_row_are_inconclusive() {
    let short = series(4, BUSY, |_, _| {});
    check(
        &short,
        MonitorOutcome::Inconclusive,
        "4 plausible samples, at least 5 are needed",
    );
}

/// From 6.16 on the counters go with their scheduler.
#[test]
fn events_are_counted_over_every_scheduler_and_survive_the_last_ones_end() {
    let report = series(20, BUSY, |number, sample| {
        let number = i64::try_from(number).unwrap();
        sample.events.clear();
        let count = match number {
            0..5 => Some(100 + number * 10),
            5..10 => Some((number - 5) * 3),
            _ => None,
        };
        if let Some(count) = count {
            sample.events.insert("dispatch_keep_last".to_owned(), count);
        }
    });
    // 40 of the first scheduler, 12 of the second.
    assert_eq!(report.summary.event_deltas["dispatch_keep_last"], 52);
}

/// The guest switches some of the counters on when the first samples are taken already.
#[test]
fn counters_that_come_late_are_counted_from_then_on() {
    let report = series(10, BUSY, |number, sample| {
        sample.cpus[0].schedstat = Some(SchedStatSnapshot {
            pcount: number,
            ttwu_count: (number >= 3).then_some(number * 10),
            ..SchedStatSnapshot::default()
        });
    });
    let deltas = report.summary.schedstat_deltas.unwrap();
    assert_eq!(
        (deltas.pcount, deltas.ttwu_count, deltas.yld_count),
        (9, Some(60), None)
    );
}
