//! Monitor checks: the thresholds of an [`Assert`] for what the monitor sampled, and what its verdict means for a test.
//!
//! How runqueues are judged is the monitor's own (`ktstr_monitor::sampler`). Findings fail a test only where the thresholds
//! are enforced; elsewhere they are notes, and so is that nothing could be measured.

use ktstr_monitor::sampler::{MonitorOutcome, MonitorReport, MonitorThresholds};

use super::super::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};
use super::Assert;

/// Samples at the start that are left out: booting, loading and unpacking are real, but not what a test is about.
pub const SETTLE_SAMPLES: usize = 20;

/// What a test's thresholds are; a check that nobody asks for is off.
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

/// Holds what the monitor sampled against the thresholds, after the settling time.
pub fn judge_monitor(assert: &Assert, report: &MonitorReport) -> AssertResult {
    let settled = report.settled(SETTLE_SAMPLES);
    let verdict = monitor_thresholds(assert).evaluate(&settled);
    let outcome = match verdict.outcome {
        MonitorOutcome::Pass => Outcome::Pass,
        MonitorOutcome::Fail => Outcome::Fail,
        MonitorOutcome::Inconclusive => Outcome::Inconclusive,
    };
    let enforced = assert.enforce_monitor_thresholds == Some(true);
    let mut result = AssertResult::pass();
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
        let result = judge_monitor(&assert, report);
        assert_eq!(result.outcome(), outcome, "{result:?}");
        result
    }

    #[test]
    fn a_breach_fails_only_where_thresholds_are_enforced() {
        let enforced = Assert::DEFAULT.enforce_monitor_thresholds(true);
        check(enforced, &report(10, [1, 2]), Outcome::Pass);
        let failed = check(enforced, &report(10, [9, 1]), Outcome::Fail);
        assert_eq!(failed.details[0].kind, DetailKind::Monitor);
        let told = check(Assert::DEFAULT, &report(10, [9, 1]), Outcome::Pass);
        assert!(
            told.info_notes[0].contains("max_imbalance_ratio"),
            "{told:?}"
        );
        let lenient = enforced.max_imbalance_ratio(10.0);
        check(lenient, &report(10, [9, 1]), Outcome::Pass);
    }

    #[test]
    fn the_settling_time_does_not_count() {
        let enforced = Assert::DEFAULT.enforce_monitor_thresholds(true);
        let early = check(enforced, &report(0, [9, 1]), Outcome::Inconclusive);
        assert!(
            early.details[0]
                .message
                .contains("20 samples fell into the settling time"),
            "{early:?}"
        );
        check(Assert::DEFAULT, &report(0, [9, 1]), Outcome::Pass);
    }
}
