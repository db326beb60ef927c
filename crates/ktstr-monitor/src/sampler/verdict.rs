//! Judging samples by thresholds.

use serde::{Deserialize, Serialize};

use super::sample::{MonitorReport, MonitorSample};
use super::summary::{event_deltas, stuck_observations};

/// Name of `SCX_EV_SELECT_CPU_FALLBACK` among the events.
pub const FALLBACK: &str = "select_cpu_fallback";
/// Name of `SCX_EV_DISPATCH_KEEP_LAST` among the events.
pub const KEEP_LAST: &str = "dispatch_keep_last";

/// What is too much. `None` switches a check off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MonitorThresholds {
    /// Busiest CPU's `nr_running` by the least busy one's.
    pub max_imbalance_ratio: Option<f64>,
    /// Tasks in a local dispatch queue.
    pub max_local_dsq_depth: Option<u32>,
    /// Whether a busy CPU's clock may stand still.
    pub fail_on_rq_clock_stuck: bool,
    /// Samples in a row that must breach before it counts.
    pub sustained_samples: usize,
    /// `select_cpu` fallbacks per vCPU and second.
    pub max_fallback_rate: Option<f64>,
    /// Keep-last dispatches per vCPU and second.
    pub max_keep_last_rate: Option<f64>,
}

impl Default for MonitorThresholds {
    fn default() -> Self {
        Self {
            max_imbalance_ratio: Some(4.0),
            max_local_dsq_depth: Some(50),
            fail_on_rq_clock_stuck: true,
            sustained_samples: 5,
            max_fallback_rate: Some(200.0),
            max_keep_last_rate: Some(100.0),
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorOutcome {
    /// Nothing was too much for long.
    Pass,
    /// Something was.
    Fail,
    /// It could not be measured.
    Inconclusive,
}

/// One breach, or the reason why nothing could be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MonitorFinding {
    /// The threshold's name.
    pub check: String,
    /// What was seen, what was allowed, and when it began.
    pub detail: String,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MonitorVerdict {
    /// How it ended.
    pub outcome: MonitorOutcome,
    /// Why, unless it passed.
    pub findings: Vec<MonitorFinding>,
}

impl MonitorThresholds {
    /// Judges a report.
    #[must_use]
    pub fn evaluate(&self, report: &MonitorReport) -> MonitorVerdict {
        if report.samples.is_empty() {
            return inconclusive("no samples were taken");
        }
        let valid: Vec<&MonitorSample> = report
            .samples
            .iter()
            .filter(|sample| sample.is_plausible())
            .collect();
        if valid.is_empty() {
            return inconclusive(
                "no sample is plausible (all clocks equal, or a queue deeper than 10000): \
                 the memory is not a running kernel's, or was read too early",
            );
        }
        let needed = self.sustained_samples.max(1);
        if valid.len() < needed {
            return inconclusive(&format!(
                "{} plausible samples, at least {needed} are needed: fewer can breach nothing",
                valid.len()
            ));
        }
        let findings: Vec<MonitorFinding> = [
            self.imbalance(&valid),
            self.local_dsq_depth(&valid),
            self.clock_stuck(&valid, report.hz),
            self.rate(&valid, FALLBACK, self.max_fallback_rate),
            self.rate(&valid, KEEP_LAST, self.max_keep_last_rate),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !findings.is_empty() {
            return MonitorVerdict {
                outcome: MonitorOutcome::Fail,
                findings,
            };
        }
        let unmeasured = self.unmeasured(&valid);
        let outcome = if unmeasured.is_empty() {
            MonitorOutcome::Pass
        } else {
            MonitorOutcome::Inconclusive
        };
        MonitorVerdict {
            outcome,
            findings: unmeasured,
        }
    }

    /// Checks that are on and whose figure no sample has.
    fn unmeasured(&self, samples: &[&MonitorSample]) -> Vec<MonitorFinding> {
        let counts = |event: &str| {
            samples
                .iter()
                .any(|sample| sample.events.contains_key(event))
        };
        let queues = samples
            .iter()
            .flat_map(|sample| &sample.cpus)
            .any(|cpu| cpu.local_dsq_depth.is_some());
        let uncounted = |event: &str| {
            format!(
                "this kernel does not count {event}, or had no scheduler that it counts for (the counters came with 6.14)"
            )
        };
        [
            (
                self.max_local_dsq_depth.is_some() && !queues,
                "max_local_dsq_depth",
                String::from("this kernel has no local dispatch queues: it has no sched_ext"),
            ),
            (
                self.max_fallback_rate.is_some() && !counts(FALLBACK),
                "max_fallback_rate",
                uncounted(FALLBACK),
            ),
            (
                self.max_keep_last_rate.is_some() && !counts(KEEP_LAST),
                "max_keep_last_rate",
                uncounted(KEEP_LAST),
            ),
        ]
        .into_iter()
        .filter(|(missing, ..)| *missing)
        .map(|(_, check, detail)| MonitorFinding {
            check: check.to_owned(),
            detail,
        })
        .collect()
    }

    /// The first run of `sustained_samples` items that breach: its first index.
    fn sustained(&self, breaches: impl Iterator<Item = bool>) -> Option<usize> {
        let wanted = self.sustained_samples.max(1);
        let mut run = 0;
        for (index, breach) in breaches.enumerate() {
            run = if breach { run + 1 } else { 0 };
            if run == wanted {
                return Some(index + 1 - wanted);
            }
        }
        None
    }

    fn finding(
        &self,
        check: &str,
        sample: Option<&&MonitorSample>,
        what: &str,
    ) -> Option<MonitorFinding> {
        let at = sample?.elapsed_ms;
        let count = self.sustained_samples.max(1);
        Some(MonitorFinding {
            check: check.to_owned(),
            detail: format!("{what} for {count} samples in a row, from {at} ms on"),
        })
    }

    fn imbalance(&self, samples: &[&MonitorSample]) -> Option<MonitorFinding> {
        let limit = self.max_imbalance_ratio?;
        let breaches = samples
            .iter()
            .map(|sample| sample.imbalance_ratio() > limit);
        let first = samples.get(self.sustained(breaches)?)?;
        let ratio = first.imbalance_ratio();
        let what = format!("imbalance ratio {ratio:.1}, allowed {limit:.1},");
        self.finding("max_imbalance_ratio", Some(first), &what)
    }

    fn local_dsq_depth(&self, samples: &[&MonitorSample]) -> Option<MonitorFinding> {
        let limit = self.max_local_dsq_depth?;
        let deepest = |sample: &MonitorSample| {
            sample
                .cpus
                .iter()
                .filter_map(|cpu| Some((cpu.local_dsq_depth?, cpu.cpu)))
                .max()
        };
        let breaches = samples
            .iter()
            .map(|sample| deepest(sample).is_some_and(|(depth, _)| depth > limit));
        let first = samples.get(self.sustained(breaches)?)?;
        let (depth, cpu) = deepest(first)?;
        let what = format!("local DSQ of CPU {cpu} holds {depth} tasks, allowed {limit},");
        self.finding("max_local_dsq_depth", Some(first), &what)
    }

    fn clock_stuck(&self, samples: &[&MonitorSample], hz: u32) -> Option<MonitorFinding> {
        if !self.fail_on_rq_clock_stuck {
            return None;
        }
        let stuck = stuck_observations(samples, hz);
        let mut cpus: Vec<u32> = stuck.iter().flatten().copied().collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus.into_iter().find_map(|cpu| {
            let first = self.sustained(stuck.iter().map(|cpus| cpus.contains(&cpu)))?;
            let what = format!("the runqueue clock of busy CPU {cpu} stands still");
            self.finding("fail_on_rq_clock_stuck", samples.get(first), &what)
        })
    }

    fn rate(
        &self,
        samples: &[&MonitorSample],
        event: &str,
        limit: Option<f64>,
    ) -> Option<MonitorFinding> {
        let limit = limit?;
        let rates: Vec<f64> = samples
            .windows(2)
            .map(|pair| match pair {
                [before, now] => rate(before, now, event).unwrap_or(0.0),
                _ => 0.0,
            })
            .collect();
        let first = self.sustained(rates.iter().map(|&rate| rate > limit))?;
        let seen = rates.get(first)?;
        let what = format!("{event} at {seen:.0} per vCPU and second, allowed {limit:.0},");
        let check = match event {
            FALLBACK => "max_fallback_rate",
            _ => "max_keep_last_rate",
        };
        self.finding(check, samples.get(first), &what)
    }
}

fn inconclusive(why: &str) -> MonitorVerdict {
    MonitorVerdict {
        outcome: MonitorOutcome::Inconclusive,
        findings: vec![MonitorFinding {
            check: "samples".to_owned(),
            detail: why.to_owned(),
        }],
    }
}

/// Events per second that vCPUs ran; per wall-clock second where the host's figures are unknown. None without time.
fn rate(before: &MonitorSample, now: &MonitorSample, event: &str) -> Option<f64> {
    let delta = *event_deltas(before, now).get(event)?;
    let wall_ms = now.elapsed_ms.saturating_sub(before.elapsed_ms);
    let vcpu_ms: u64 = now
        .cpus
        .iter()
        .map(|cpu| {
            let earlier = before.cpus.iter().find(|other| other.cpu == cpu.cpu);
            match (
                cpu.vcpu_cpu_time_ns,
                earlier.and_then(|cpu| cpu.vcpu_cpu_time_ns),
            ) {
                (Some(now), Some(before)) => now.saturating_sub(before) / 1_000_000,
                _ => wall_ms,
            }
        })
        .sum();
    let seconds = std::time::Duration::from_millis(vcpu_ms).as_secs_f64();
    let delta = f64::from(i32::try_from(delta).unwrap_or(i32::MAX));
    (seconds > 0.0).then(|| delta / seconds)
}
