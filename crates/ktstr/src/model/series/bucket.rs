//! Phases: what was sampled between the boundaries of a scenario.

use std::collections::BTreeMap;

use ktstr_wire::StepMark;

use super::{Sample, SampleSeries, numbers_in};
use crate::model::stats::{MetricSummary, PhaseBucket};

/// A boundary on the scenario's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineMark {
    /// A step's operations are done and its hold begins.
    StepStart(StepMark),
    /// A step's hold ended.
    StepEnd(StepMark),
    /// The scenario ended; closes the last step.
    Terminal {
        /// Guest milliseconds since the scenario's start.
        elapsed_ms: u64,
        /// Iterations of all workers until then.
        total_iterations: u64,
    },
}

/// Phases from the boundaries' frames alone, for a run whose guest sent no result. The baseline before the first step is
/// bucket 0; a step without an end ends with the next boundary, the last one with the scenario. A guest that ended within a
/// step told nothing of its end: that phase lasts as long as its samples ([`add_samples`]), and its iterations are unknown.
pub fn buckets_of(marks: &[TimelineMark]) -> Vec<PhaseBucket> {
    let mut buckets: Vec<PhaseBucket> = Vec::new();
    let mut open: Option<(PhaseBucket, u64)> = None;
    let mut close = |open: &mut Option<(PhaseBucket, u64)>, end_ms: u64, total: u64| {
        if let Some((mut bucket, before)) = open.take() {
            bucket.end_ms = end_ms;
            let done = total.saturating_sub(before);
            bucket.iterations.insert(String::new(), done);
            buckets.push(bucket);
        }
    };
    for mark in marks {
        match mark {
            TimelineMark::StepStart(step) => {
                let start_ms = u64::from(step.elapsed_ms);
                close(&mut open, start_ms, step.total_iterations);
                let bucket = PhaseBucket {
                    step_index: step.step_index,
                    name: format!("step {}", step.step_index),
                    start_ms,
                    ..PhaseBucket::default()
                };
                open = Some((bucket, step.total_iterations));
            }
            TimelineMark::StepEnd(step) => {
                close(&mut open, u64::from(step.elapsed_ms), step.total_iterations);
            }
            TimelineMark::Terminal {
                elapsed_ms,
                total_iterations,
            } => close(&mut open, *elapsed_ms, *total_iterations),
        }
    }
    if let Some((mut bucket, _)) = open.take() {
        bucket.end_ms = bucket.start_ms;
        buckets.push(bucket);
    }
    let Some(first) = buckets.first() else {
        return buckets;
    };
    let baseline = PhaseBucket {
        name: "baseline".to_owned(),
        end_ms: first.start_ms,
        ..PhaseBucket::default()
    };
    buckets.insert(0, baseline);
    buckets
}

/// Puts each sample's numbers into the phase that it belongs to. Doing it again changes nothing.
///
/// A sample belongs to the step that it is stamped with; without a stamp, to the phase in which it was taken. Phases of several
/// scenarios follow each other, each scenario's with growing steps.
pub fn add_samples(buckets: &mut [PhaseBucket], series: &SampleSeries) {
    let mut scenario = 1;
    let mut before: Option<u16> = None;
    for bucket in buckets {
        if before.is_some_and(|before| bucket.step_index <= before) {
            scenario += 1;
        }
        before = Some(bucket.step_index);
        let mine = series.iter().filter(|s| belongs(s, bucket, scenario));
        let mine: Vec<&Sample> = mine.collect();
        bucket.samples = mine.len();
        bucket.metrics = metrics_of(&mine);
        // One without an end; see `buckets_of`.
        if bucket.end_ms == bucket.start_ms && bucket.step_index > 0 {
            let last = mine.iter().map(|sample| sample.elapsed_ms).max();
            bucket.end_ms = bucket.end_ms.max(last.unwrap_or(0));
        }
    }
}

fn belongs(sample: &Sample, bucket: &PhaseBucket, scenario: u16) -> bool {
    match sample.step_index {
        Some(step) => {
            let mine = sample.scenario.is_none_or(|number| number == scenario);
            mine && step == bucket.step_index
        }
        None => (bucket.start_ms..bucket.end_ms).contains(&sample.elapsed_ms),
    }
}

fn metrics_of(samples: &[&Sample]) -> BTreeMap<String, MetricSummary> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for stats in samples.iter().filter_map(|s| s.stats.as_ref().ok()) {
        numbers_in(stats, String::new(), &mut |path, number| {
            values.entry(path).or_default().push(number);
        });
    }
    values
        .into_iter()
        .filter_map(|(path, values)| Some((path, MetricSummary::of(&values)?)))
        .collect()
}
