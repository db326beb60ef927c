//! Monitor checks: what the host read of the kernel's runqueues, held against the thresholds.
//!
//! A threshold must be breached in `sustained_samples` samples in a row: one look at a runqueue in mid-flight says little.
//! Findings fail the test only when the thresholds are enforced; else they are notes. Data that cannot be true is
//! Inconclusive: uninitialised memory looks like all clocks equal or like queues of millions.

use super::super::verdict::{AssertDetail, AssertResult, DetailKind};
use super::Assert;

/// A DSQ deeper than this is no queue but garbage.
const IMPLAUSIBLE_DEPTH: u32 = 10_000;

/// One CPU's runqueue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuSample {
    /// Runnable tasks, the running one included.
    pub nr_running: u32,
    /// Tasks in the local dispatch queue; `None`: not read.
    pub local_dsq_depth: Option<u32>,
    /// The runqueue's clock, nanoseconds.
    pub rq_clock: u64,
    /// The idle task ran: the clock may stand still.
    pub idle: bool,
    /// The host did not run the vCPU: the clock could not go on.
    pub preempted: bool,
}

/// All runqueues at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MonitorSample {
    /// Host time since the run's start.
    pub elapsed_ms: u64,
    /// By CPU number.
    pub cpus: Vec<CpuSample>,
    /// Counter of select_cpu fallbacks of all CPUs; `None`: not in this kernel.
    pub select_cpu_fallback: Option<u64>,
    /// Counter of keep-last dispatches of all CPUs; `None`: not in this kernel.
    pub dispatch_keep_last: Option<u64>,
}

/// Holds samples (those of the settling time already left out) against the thresholds.
pub fn evaluate_monitor(assert: &Assert, samples: &[MonitorSample]) -> AssertResult {
    let mut result = AssertResult::pass();
    if let Some(reason) = unusable(samples) {
        result.push(AssertDetail::inconclusive(DetailKind::Monitor, reason));
        return result;
    }
    let findings = [
        imbalance(assert, samples),
        dsq_depth(assert, samples),
        stuck_clock(assert, samples),
        rate(
            assert.max_fallback_rate,
            "select_cpu fallbacks",
            samples,
            |sample| sample.select_cpu_fallback,
        ),
        rate(
            assert.max_keep_last_rate,
            "keep-last dispatches",
            samples,
            |sample| sample.dispatch_keep_last,
        ),
    ];
    let enforced = assert.enforce_monitor_thresholds == Some(true);
    for finding in findings.into_iter().flatten() {
        if enforced {
            result.push(AssertDetail::fail(DetailKind::Monitor, finding));
        } else {
            result.note(format!("monitor (not enforced): {finding}"));
        }
    }
    result
}

/// Why nothing can be said from these samples.
fn unusable(samples: &[MonitorSample]) -> Option<String> {
    if samples.iter().all(|sample| sample.cpus.is_empty()) {
        return Some(format!(
            "the monitor took {} samples with a CPU in them; needs at least 1",
            samples.iter().filter(|s| !s.cpus.is_empty()).count()
        ));
    }
    for sample in samples {
        let at = sample.elapsed_ms;
        let deepest = sample
            .cpus
            .iter()
            .filter_map(|cpu| cpu.local_dsq_depth)
            .max();
        if let Some(depth) = deepest.filter(|depth| *depth > IMPLAUSIBLE_DEPTH) {
            return Some(format!(
                "implausible memory at {at} ms: a local DSQ of {depth} tasks (more than {IMPLAUSIBLE_DEPTH})"
            ));
        }
        let mut clocks = sample.cpus.iter().map(|cpu| cpu.rq_clock);
        let first = clocks.next();
        if sample.cpus.len() > 1 && clocks.all(|clock| Some(clock) == first) {
            return Some(format!(
                "implausible memory at {at} ms: all {} runqueue clocks are equal",
                sample.cpus.len()
            ));
        }
    }
    None
}

/// The longest run of samples in a row that breach, if it is long enough: its length and its worst value.
fn sustained(assert: &Assert, values: impl Iterator<Item = (bool, f64)>) -> Option<(u32, f64)> {
    let needed = assert.sustained_samples.unwrap_or(1).max(1);
    let (mut length, mut worst) = (0, f64::MIN);
    let mut longest: Option<(u32, f64)> = None;
    for (breach, value) in values {
        (length, worst) = if breach {
            (length + 1, worst.max(value))
        } else {
            (0, f64::MIN)
        };
        if length >= needed && longest.is_none_or(|(before, _)| length > before) {
            longest = Some((length, worst));
        }
    }
    longest
}

fn imbalance(assert: &Assert, samples: &[MonitorSample]) -> Option<String> {
    let limit = assert.max_imbalance_ratio?;
    let ratios = samples.iter().filter(|s| !s.cpus.is_empty()).map(|sample| {
        let running = || sample.cpus.iter().map(|cpu| cpu.nr_running);
        let most = f64::from(running().max().unwrap_or(0));
        let ratio = most / f64::from(running().min().unwrap_or(0).max(1));
        (ratio > limit, ratio)
    });
    let (length, worst) = sustained(assert, ratios)?;
    Some(format!(
        "nr_running differed by a factor of up to {worst:.1} between CPUs in {length} samples in a row (limit {limit:.1})"
    ))
}

fn dsq_depth(assert: &Assert, samples: &[MonitorSample]) -> Option<String> {
    let limit = assert.max_local_dsq_depth?;
    let depths = samples.iter().filter_map(|sample| {
        let deepest = sample
            .cpus
            .iter()
            .filter_map(|cpu| cpu.local_dsq_depth)
            .max()?;
        Some((deepest > limit, f64::from(deepest)))
    });
    let (length, worst) = sustained(assert, depths)?;
    Some(format!(
        "a local DSQ held up to {worst:.0} tasks in {length} samples in a row (limit {limit} tasks)"
    ))
}

fn stuck_clock(assert: &Assert, samples: &[MonitorSample]) -> Option<String> {
    if assert.fail_on_rq_clock_stuck != Some(true) {
        return None;
    }
    let cpus = samples.iter().map(|sample| sample.cpus.len()).max()?;
    (0..cpus).find_map(|number| {
        let pairs = samples.windows(2).filter_map(|pair| {
            let (before, now) = (pair[0].cpus.get(number)?, pair[1].cpus.get(number)?);
            let exempt = |cpu: &CpuSample| cpu.idle || cpu.preempted;
            let stuck = before.rq_clock == now.rq_clock && !exempt(before) && !exempt(now);
            Some((stuck, 1.0))
        });
        let (length, _) = sustained(assert, pairs)?;
        Some(format!(
            "the runqueue clock of busy CPU {number} stood still over {length} samples in a row"
        ))
    })
}

/// A counter's growth per vCPU and second over all samples.
fn rate(
    limit: Option<f64>,
    what: &str,
    samples: &[MonitorSample],
    counter: impl Fn(&MonitorSample) -> Option<u64>,
) -> Option<String> {
    let limit = limit?;
    let mut counted = samples.iter().filter_map(|s| Some((s, counter(s)?)));
    let (first, from) = counted.next()?;
    let (last, to) = counted.next_back()?;
    let seconds = last.elapsed_ms.saturating_sub(first.elapsed_ms) as f64 / 1e3;
    let vcpu_seconds = seconds * last.cpus.len() as f64;
    if vcpu_seconds <= 0.0 {
        return None;
    }
    let rate = to.saturating_sub(from) as f64 / vcpu_seconds;
    (rate > limit).then(|| format!("{rate:.1} {what} per vCPU-second (limit {limit:.1})"))
}

#[cfg(test)]
mod tests {
    use super::super::super::verdict::Outcome;
    use super::*;

    /// `count` samples 100 ms apart, of two CPUs with these queue lengths and depths.
    fn samples(count: u64, running: [u32; 2], depth: u32) -> Vec<MonitorSample> {
        let cpu = |number: u64, step: u64, nr_running| CpuSample {
            nr_running,
            local_dsq_depth: Some(depth),
            rq_clock: step * 100_000_000 + number + 1,
            ..CpuSample::default()
        };
        let sample = |step| MonitorSample {
            elapsed_ms: step * 100,
            cpus: vec![cpu(0, step, running[0]), cpu(1, step, running[1])],
            select_cpu_fallback: Some(step * 30),
            dispatch_keep_last: None,
        };
        (0..count).map(sample).collect()
    }

    #[track_caller]
    fn check(samples: &[MonitorSample], outcome: Outcome, part: &str) {
        let result = evaluate_monitor(&Assert::DEFAULT.enforce_monitor_thresholds(true), samples);
        assert_eq!(result.outcome(), outcome, "{result:?}");
        let found = result.details.iter().any(|d| d.message.contains(part));
        assert!(found || part.is_empty(), "no {part:?} in {result:?}");
    }

    #[test]
    fn quiet_queues_pass_and_no_samples_are_inconclusive() {
        check(&samples(20, [1, 2], 3), Outcome::Pass, "");
        check(&[], Outcome::Inconclusive, "took 0 samples");
    }

    #[test]
    fn a_breach_counts_only_when_sustained() {
        check(&samples(4, [9, 1], 3), Outcome::Pass, "");
        check(
            &samples(5, [9, 1], 3),
            Outcome::Fail,
            "factor of up to 9.0 between CPUs in 5 samples",
        );
        check(
            &samples(6, [1, 1], 51),
            Outcome::Fail,
            "up to 51 tasks in 6",
        );
    }

    #[test]
    fn a_clock_may_stand_still_on_idle_and_preempted_cpus_only() {
        let mut stuck = samples(8, [1, 1], 0);
        for sample in &mut stuck {
            sample.cpus[1].rq_clock = 5;
        }
        check(&stuck, Outcome::Fail, "busy CPU 1 stood still over 7");
        for sample in &mut stuck {
            sample.cpus[1].preempted = true;
        }
        check(&stuck, Outcome::Pass, "");
    }

    #[test]
    fn implausible_memory_is_inconclusive() {
        check(
            &samples(5, [1, 1], 10_001),
            Outcome::Inconclusive,
            "10001 tasks",
        );
        let mut equal = samples(5, [1, 1], 0);
        equal[3].cpus[0].rq_clock = equal[3].cpus[1].rq_clock;
        check(
            &equal,
            Outcome::Inconclusive,
            "all 2 runqueue clocks are equal",
        );
    }

    #[test]
    fn rates_are_per_vcpu_second_and_only_noted_unless_enforced() {
        let mut busy = samples(11, [1, 1], 0);
        for (step, sample) in busy.iter_mut().enumerate() {
            sample.select_cpu_fallback = Some(step as u64 * 100);
        }
        check(
            &busy,
            Outcome::Fail,
            "500.0 select_cpu fallbacks per vCPU-second",
        );
        let noted = evaluate_monitor(&Assert::DEFAULT, &busy);
        assert!(noted.is_pass() && noted.info_notes[0].contains("not enforced"));
    }
}
