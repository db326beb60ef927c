//! What the monitor saw of a run: its verdict's place in the test's, and its section of a failure message.

use ktstr_monitor::sampler::MonitorReport;

use crate::model::checks::{Assert, judge_monitor};
use crate::model::verdict::{AssertResult, DetailKind};

const NO_SAMPLES: &str = "monitor: no samples were taken";

/// The verdict; a run without samples could not be measured, which matters where thresholds are enforced. Where they are not, a
/// check that was asked for moves no verdict, and a note says so whatever was measured.
pub(in crate::host) fn judge(
    assert: &Assert,
    asked: &Assert,
    report: Option<&MonitorReport>,
) -> AssertResult {
    let enforced = assert.enforce_monitor_thresholds == Some(true);
    let mut result = match report {
        Some(report) => judge_monitor(assert, asked, report),
        None if enforced => AssertResult::inconclusive(DetailKind::Monitor, NO_SAMPLES),
        None => AssertResult::pass(),
    };
    let asked = asked.asked_of_monitor();
    if !enforced && !asked.is_empty() {
        result.note(format!(
            "monitor: {}: asked for, and a breach is a note only; enforce_monitor_thresholds lets it fail the test",
            asked.join(", ")
        ));
        if report.is_none() {
            result.note(format!("{NO_SAMPLES} (not enforced)"));
        }
    }
    result
}

/// The section of a failure message.
pub(in crate::host) fn lines(report: &MonitorReport) -> Vec<String> {
    let summary = &report.summary;
    let mut lines = vec![
        format!(
            "{} samples in {} ms, {} of them plausible",
            summary.total_samples, summary.observed_ms, summary.valid_samples
        ),
        format!(
            "runnable {:.1} on average; imbalance {:.1} on average, {:.1} at most",
            summary.avg_nr_running, summary.avg_imbalance_ratio, summary.max_imbalance_ratio
        ),
        format!(
            "local queues {:.1} deep on average, {} at most",
            summary.avg_local_dsq_depth, summary.max_local_dsq_depth
        ),
    ];
    if summary.stuck_detected {
        lines.push(format!(
            "a busy CPU's clock stood still {} times",
            summary.stuck_count
        ));
    }
    let events: Vec<String> = summary
        .event_deltas
        .iter()
        .filter(|(_, delta)| **delta != 0)
        .map(|(name, delta)| format!("{name} {delta}"))
        .collect();
    if !events.is_empty() {
        lines.push(format!("events: {}", events.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::Outcome;
    use ktstr_monitor::sampler::{CpuSnapshot, MonitorSample};

    /// Twenty samples of two CPUs with these runqueues.
    fn report(running: [u32; 2]) -> MonitorReport {
        let sample = |number: u64| MonitorSample {
            elapsed_ms: number * 100,
            cpus: (0u32..)
                .zip(running)
                .map(|(cpu, nr_running)| CpuSnapshot {
                    cpu,
                    nr_running,
                    rq_clock: number * 100_000_000 + u64::from(cpu),
                    ..CpuSnapshot::default()
                })
                .collect(),
            ..MonitorSample::default()
        };
        MonitorReport::new((1..=20).map(sample).collect(), 1000)
    }

    #[test]
    fn nothing_measured_is_inconclusive_where_it_matters() {
        let enforced = Assert::default_checks().enforce_monitor_thresholds(true);
        let judge = |assert| judge(assert, &Assert::NO_OVERRIDES, None).outcome();
        assert_eq!(judge(&enforced), Outcome::Inconclusive);
        assert_eq!(judge(&Assert::default_checks()), Outcome::Pass);
    }

    #[test]
    fn a_check_that_is_asked_for_and_not_enforced_is_always_told() {
        let notes = |asked: Assert, report: Option<&MonitorReport>| {
            let result = judge(&Assert::default_checks().merge(asked), &asked, report);
            assert!(result.is_pass(), "{result:?}");
            result.info_notes.join("; ")
        };
        let asked = Assert::NO_OVERRIDES.max_imbalance_ratio(20.0);
        let calm = report([2, 2]);
        for report in [Some(&calm), None] {
            let notes = notes(asked, report);
            assert!(
                notes.contains(
                    "monitor: max_imbalance_ratio: asked for, and a breach is a note only"
                ),
                "{notes}"
            );
            assert_eq!(
                notes.contains("no samples were taken (not enforced)"),
                report.is_none()
            );
        }
        assert_eq!(notes(Assert::NO_OVERRIDES, None), "");
        let enforced = asked.enforce_monitor_thresholds(true);
        let result = judge(&Assert::default_checks().merge(enforced), &enforced, None);
        assert!(
            result.is_inconclusive() && result.info_notes.is_empty(),
            "{result:?}"
        );
    }

    #[test]
    fn the_section_tells_peaks() {
        let lines = lines(&report([9, 1])).join("\n");
        assert!(
            lines.contains("20 samples") && lines.contains("9.0 at most"),
            "{lines}"
        );
    }
}
