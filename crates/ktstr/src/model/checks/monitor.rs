//! Monitor checks: the thresholds of an [`Assert`] for what the monitor sampled, and what its verdict means for a test.
//!
//! How runqueues are judged is the monitor's own (`ktstr_monitor::sampler`). Findings fail a test only where the thresholds
//! are enforced; elsewhere they are notes, and so is that nothing could be measured.

use ktstr_monitor::sampler::{
    FALLBACK, KEEP_LAST, MonitorOutcome, MonitorReport, MonitorThresholds,
};

use super::super::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};
use super::Assert;

/// Samples at the start that are left out: booting, loading and unpacking are real, but not what a test is about.
pub const SETTLE_SAMPLES: usize = 20;

/// What a test's thresholds are; a check without a threshold is off.
pub fn monitor_thresholds(assert: &Assert) -> MonitorThresholds {
    MonitorThresholds {
        max_imbalance_ratio: assert.max_imbalance_ratio,
        max_local_dsq_depth: assert.max_local_dsq_depth,
        fail_on_rq_clock_stuck: assert.fail_on_rq_clock_stuck == Some(true),
        sustained_samples: assert.sustained_samples.map_or(1, |count| count as usize),
        max_fallback_rate: assert.max_fallback_rate,
        max_keep_last_rate: assert.max_keep_last_rate,
    }
}

/// Switches off what `asked`, the layers above the defaults, do not ask for and no sample has: a kernel that does not count it
/// is no failing of a test that did not ask. Names what it switched off.
fn drop_uncounted(
    thresholds: &mut MonitorThresholds,
    asked: &Assert,
    report: &MonitorReport,
) -> Vec<&'static str> {
    let counts = |event: &str| {
        report
            .samples
            .iter()
            .any(|sample| sample.events.contains_key(event))
    };
    let queues = report
        .samples
        .iter()
        .flat_map(|sample| &sample.cpus)
        .any(|cpu| cpu.local_dsq_depth.is_some());
    let mut dropped = Vec::new();
    if asked.max_fallback_rate.is_none() && !counts(FALLBACK) {
        thresholds.max_fallback_rate = None;
        dropped.push("max_fallback_rate");
    }
    if asked.max_keep_last_rate.is_none() && !counts(KEEP_LAST) {
        thresholds.max_keep_last_rate = None;
        dropped.push("max_keep_last_rate");
    }
    if asked.max_local_dsq_depth.is_none() && !queues {
        thresholds.max_local_dsq_depth = None;
        dropped.push("max_local_dsq_depth");
    }
    dropped
}

/// Holds what the monitor sampled against the thresholds of `assert`, after the settling time. `asked` is what the test and its
/// scheduler ask for by themselves: a check of theirs that this kernel has no figures for is inconclusive, a default is left out.
pub fn judge_monitor(assert: &Assert, asked: &Assert, report: &MonitorReport) -> AssertResult {
    let settled = report.settled(SETTLE_SAMPLES);
    let mut thresholds = monitor_thresholds(assert);
    let dropped = drop_uncounted(&mut thresholds, asked, &settled);
    let verdict = thresholds.evaluate(&settled);
    let outcome = match verdict.outcome {
        MonitorOutcome::Pass => Outcome::Pass,
        MonitorOutcome::Fail => Outcome::Fail,
        MonitorOutcome::Inconclusive => Outcome::Inconclusive,
    };
    let enforced = assert.enforce_monitor_thresholds == Some(true);
    let mut result = AssertResult::pass();
    if enforced && !settled.samples.is_empty() && !dropped.is_empty() {
        let names = dropped.join(", ");
        result.note(format!(
            "monitor: not judged, for this kernel does not count it: {names}"
        ));
    }
    let taken = report.samples.len();
    let all_early = taken > 0 && settled.samples.is_empty();
    for finding in verdict.findings {
        let mut text = format!("monitor: {}: {}", finding.check, finding.detail);
        if all_early {
            text = format!(
                "monitor: all {taken} samples fell into the settling time (the first {SETTLE_SAMPLES} are not judged)"
            );
        }
        if enforced {
            result.push(AssertDetail::new(outcome, DetailKind::Monitor, text));
        } else {
            result.note(format!("{text} (not enforced)"));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_monitor::sampler::{CpuSnapshot, MonitorSample};

    /// `count` samples 100 ms apart after the settling time, of two CPUs with these queue lengths.
    fn report(count: u64, running: [u32; 2]) -> MonitorReport {
        let cpu = |cpu: u32, step: u64, nr_running| CpuSnapshot {
            cpu,
            nr_running,
            rq_clock: step * 100_000_000 + u64::from(cpu) + 1,
            ..CpuSnapshot::default()
        };
        let sample = |step: u64| MonitorSample {
            elapsed_ms: step * 100,
            cpus: vec![cpu(0, step, running[0]), cpu(1, step, running[1])],
            ..MonitorSample::default()
        };
        let settling = u64::try_from(SETTLE_SAMPLES).unwrap();
        MonitorReport::new((0..settling + count).map(sample).collect(), 1_000)
    }

    #[track_caller]
    fn check(assert: Assert, report: &MonitorReport, outcome: Outcome) -> AssertResult {
        let result = judge_monitor(&assert, &Assert::NO_OVERRIDES, report);
        assert_eq!(result.outcome(), outcome, "{result:?}");
        result
    }

    #[test]
    fn a_breach_fails_only_where_thresholds_are_enforced() {
        let enforced = Assert::default_checks().enforce_monitor_thresholds(true);
        check(enforced, &report(10, [1, 2]), Outcome::Pass);
        let failed = check(enforced, &report(10, [9, 1]), Outcome::Fail);
        assert_eq!(failed.details[0].kind, DetailKind::Monitor);
        let told = check(Assert::default_checks(), &report(10, [9, 1]), Outcome::Pass);
        assert!(
            told.info_notes[0].contains("max_imbalance_ratio"),
            "{told:?}"
        );
        let lenient = enforced.max_imbalance_ratio(10.0);
        check(lenient, &report(10, [9, 1]), Outcome::Pass);
    }

    /// The samples above have neither event counters nor queues, like those of a kernel before 6.14 without sched_ext.
    #[test]
    fn a_check_that_was_asked_for_and_cannot_be_measured_is_inconclusive() {
        let enforced = Assert::default_checks().enforce_monitor_thresholds(true);
        let report = report(10, [1, 2]);
        let judged = judge_monitor(&enforced, &Assert::NO_OVERRIDES, &report);
        assert!(judged.is_pass(), "{judged:?}");
        assert!(
            judged.info_notes[0].contains("max_fallback_rate"),
            "{judged:?}"
        );
        for asked in [
            Assert::NO_OVERRIDES.max_fallback_rate(0.5),
            Assert::NO_OVERRIDES.max_keep_last_rate(0.5),
            Assert::NO_OVERRIDES.max_local_dsq_depth(9),
        ] {
            let judged = judge_monitor(&enforced.merge(asked), &asked, &report);
            assert_eq!(
                judged.outcome(),
                Outcome::Inconclusive,
                "{asked:?}: {judged:?}"
            );
        }
        let few = self::report(4, [1, 2]);
        check(enforced, &few, Outcome::Inconclusive);
    }

    #[test]
    fn the_settling_time_does_not_count() {
        let enforced = Assert::default_checks().enforce_monitor_thresholds(true);
        let early = check(enforced, &report(0, [9, 1]), Outcome::Inconclusive);
        assert!(
            early.details[0]
                .message
                .contains("20 samples fell into the settling time"),
            "{early:?}"
        );
        check(Assert::default_checks(), &report(0, [9, 1]), Outcome::Pass);
    }

    /// One run that breaks every limit; each check alone fails it, and passes it once its limit is moved.
    #[test]
    fn each_threshold_alone_fails_a_run_and_moved_passes_it() {
        let mut report = report(10, [9, 1]);
        let (mut fallbacks, mut kept) = (0, 0);
        for sample in &mut report.samples {
            fallbacks += 100;
            kept += 50;
            let events = [
                ("select_cpu_fallback", fallbacks),
                ("dispatch_keep_last", kept),
            ];
            sample.events = events.map(|(name, count)| (name.to_owned(), count)).into();
            let [first, second] = sample.cpus.as_mut_slice() else {
                unreachable!("two CPUs");
            };
            first.local_dsq_depth = Some(60);
            second.rq_clock = 77;
        }
        let report = MonitorReport::new(report.samples, 1_000);
        let none = Assert::NO_OVERRIDES.enforce_monitor_thresholds(true);
        check(none, &report, Outcome::Pass);
        for (trips, moved) in [
            (none.max_imbalance_ratio(8.9), none.max_imbalance_ratio(9.0)),
            (none.max_local_dsq_depth(59), none.max_local_dsq_depth(60)),
            (
                none.fail_on_rq_clock_stuck(true),
                none.fail_on_rq_clock_stuck(false),
            ),
            // 100 events in 100 ms on 2 vCPUs are 500 per vCPU-second.
            (none.max_fallback_rate(499.0), none.max_fallback_rate(501.0)),
            (
                none.max_keep_last_rate(249.0),
                none.max_keep_last_rate(251.0),
            ),
        ] {
            check(trips, &report, Outcome::Fail);
            check(moved, &report, Outcome::Pass);
            let told = check(
                trips.enforce_monitor_thresholds(false),
                &report,
                Outcome::Pass,
            );
            assert_eq!(told.info_notes.len(), 1, "{told:?}");
        }
    }

    #[test]
    fn a_breach_counts_when_it_lasts_as_long_as_asked() {
        let mut report = report(10, [1, 2]);
        for sample in report.samples.iter_mut().skip(SETTLE_SAMPLES + 3).take(4) {
            sample.cpus[0].nr_running = 9;
        }
        let report = MonitorReport::new(report.samples, 1_000);
        let enforced = Assert::default_checks().enforce_monitor_thresholds(true);
        check(enforced.sustained_samples(4), &report, Outcome::Fail);
        check(enforced.sustained_samples(5), &report, Outcome::Pass);
    }
}
