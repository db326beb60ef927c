//! Samples of a run over time, the numbers in them, and checks of how those numbers move.
//!
//! ```text
//! SampleSeries ─ stats_path / report_path / bpf / monitor / project ─▶ Column ─ nondecreasing, rate_within, … ─▶ Verdict
//!       └─ by_step, add_samples ─▶ PhaseBucket
//! ```
//!
//! ```
//! use ktstr::Verdict;
//! use ktstr::model::series::{Sample, SampleSeries};
//!
//! let sample = |ms, count| Sample::new(format!("periodic_{ms:03}"), ms).with_stats(serde_json::json!({ "enqueued": count }));
//! let series = SampleSeries::new(vec![sample(0, 10), sample(100, 25), sample(200, 31)]);
//! let mut verdict = Verdict::new();
//! series.stats_path("enqueued").unit("tasks").strictly_increasing(&mut verdict);
//! assert!(verdict.into_result().is_pass());
//! ```

mod bucket;
mod column;
mod each;
mod monitor;
mod temporal;

pub use bucket::{TimelineMark, add_samples, buckets_of};
pub use column::{Column, Point};
pub use each::Each;
pub use monitor::MonitorSeries;

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

use ktstr_monitor::FailureDumpReport;
use ktstr_monitor::sampler::MonitorSample;

use super::snapshot::{MissingStatsReason, Snapshot, SnapshotEntry, is_periodic_tag};

/// One capture: what was read of the kernel, and what the scheduler said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name.
    pub tag: String,
    /// Time since the start of the test's first scenario; 0 for one taken before.
    pub elapsed_ms: u64,
    /// Step during which it was taken; 0 is the baseline before step 1, `None`: not stamped.
    pub step_index: Option<u16>,
    /// Which of the test's scenarios, from 1 on; `None`: before the first, or not stamped.
    pub scenario: Option<u16>,
    /// The kernel's state, or why there is none.
    pub report: Result<Arc<FailureDumpReport>, String>,
    /// The scheduler's statistics.
    pub stats: Result<Value, MissingStatsReason>,
}

impl Sample {
    /// A sample without content.
    pub fn new(tag: impl Into<String>, elapsed_ms: u64) -> Self {
        Self {
            tag: tag.into(),
            elapsed_ms,
            step_index: None,
            scenario: None,
            report: Err("not captured".to_owned()),
            stats: Err(MissingStatsReason::NotRequested),
        }
    }

    /// With these statistics.
    #[must_use]
    pub fn with_stats(mut self, stats: Value) -> Self {
        self.stats = Ok(stats);
        self
    }

    /// Taken during this step.
    #[must_use]
    pub fn in_step(mut self, step_index: u16) -> Self {
        self.step_index = Some(step_index);
        self
    }

    /// Whether the framework took it periodically: `periodic_` and exactly three digits.
    pub fn is_periodic(&self) -> bool {
        is_periodic_tag(&self.tag)
    }
}

/// A capture of the bridge; a placeholder has no report, but its reason.
impl From<SnapshotEntry> for Sample {
    fn from(entry: SnapshotEntry) -> Self {
        let placeholder = Snapshot::new(&entry.report).err();
        Self {
            tag: entry.tag,
            elapsed_ms: entry.elapsed_ms.unwrap_or(0),
            step_index: entry.step_index,
            scenario: entry.scenario,
            report: placeholder.map_or_else(|| Ok(entry.report.clone()), |e| Err(e.to_string())),
            stats: entry.stats,
        }
    }
}

/// Samples in time order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleSeries {
    samples: Vec<Sample>,
    /// What the monitor saw meanwhile.
    monitor: Option<Arc<MonitorSeries>>,
}

impl SampleSeries {
    /// These samples, in time order; those of one moment stay as they are.
    pub fn new(mut samples: Vec<Sample>) -> Self {
        samples.sort_by_key(|sample| sample.elapsed_ms);
        Self {
            samples,
            monitor: None,
        }
    }

    /// With what the monitor saw meanwhile.
    #[must_use]
    pub fn with_monitor(mut self, monitor: MonitorSeries) -> Self {
        self.monitor = Some(Arc::new(monitor));
        self
    }

    /// These of the samples, with all that the monitor saw.
    fn of_samples<'s>(&self, samples: impl Iterator<Item = &'s Sample>) -> Self {
        Self {
            samples: samples.cloned().collect(),
            monitor: self.monitor.clone(),
        }
    }

    /// Only those of the test's scenario of this number, from 1 on.
    #[must_use]
    pub fn of_scenario(&self, number: u16) -> Self {
        let mine = |sample: &&Sample| sample.scenario == Some(number);
        self.of_samples(self.samples.iter().filter(mine))
    }

    /// A number of each of the monitor's samples from the first scenario's start on, ten a second, such as
    /// `series.monitor("imbalance", |sample| Some(sample.imbalance_ratio()))`; without the monitor there are none.
    pub fn monitor(
        &self,
        label: impl Into<String>,
        number: impl Fn(&MonitorSample) -> Option<f64>,
    ) -> Column {
        let points = self
            .monitor
            .as_ref()
            .map(|monitor| monitor.points(|sample| number(sample).ok_or_else(not_sampled)));
        Column::new(label, points.unwrap_or_default())
    }

    /// The number in a BPF map that the test has watched under this label (`watch_bpf_maps`).
    pub fn watched(&self, label: &str) -> Column {
        let points = self.monitor.as_ref().map(|monitor| {
            let place = monitor.place_of(label);
            monitor.points(|sample| {
                let place = place.as_ref().map_err(Clone::clone)?;
                let value = sample.watched.get(*place).copied().flatten();
                value.map(|value| value as f64).ok_or_else(not_sampled)
            })
        });
        Column::new(label, points.unwrap_or_default())
    }

    /// The samples.
    pub fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Only those that the framework took periodically.
    #[must_use]
    pub fn periodic_only(&self) -> Self {
        self.of_samples(self.samples.iter().filter(|sample| sample.is_periodic()))
    }

    /// By the step during which they were taken; those without a stamp are left out.
    pub fn by_step(&self) -> BTreeMap<u16, Self> {
        let mut steps: BTreeMap<u16, Self> = BTreeMap::new();
        for sample in &self.samples {
            if let Some(step) = sample.step_index {
                steps.entry(step).or_default().samples.push(sample.clone());
            }
        }
        steps
    }

    /// A number of each sample; the error says why a sample has none.
    pub fn project(
        &self,
        label: impl Into<String>,
        number: impl Fn(&Sample) -> Result<f64, String>,
    ) -> Column {
        let points = self.samples.iter().map(|sample| Point {
            tag: sample.tag.clone(),
            at_ms: sample.elapsed_ms,
            step_index: sample.step_index,
            value: number(sample),
        });
        Column::new(label, points.collect())
    }

    /// A number of the scheduler's statistics, by dotted path.
    pub fn stats_path(&self, path: &str) -> Column {
        self.project(path, |sample| match &sample.stats {
            Ok(stats) => number_at(stats, path),
            Err(reason) => Err(reason.to_string()),
        })
    }

    /// A number of the kernel's state, by dotted path in the dump's JSON, such as `runqueues.0.nr_running`.
    pub fn report_path(&self, path: &str) -> Column {
        self.project(path, |sample| {
            let report = sample.report.as_ref().map_err(Clone::clone)?;
            let json = serde_json::to_value(report.as_ref()).map_err(|e| e.to_string())?;
            number_at(&json, path)
        })
    }

    /// A number in a BPF map, such as `.bss` and `stats.enqueued`.
    pub fn bpf(&self, map: &str, path: &str) -> Column {
        self.project(format!("{map}:{path}"), |sample| {
            let report = sample.report.as_ref().map_err(Clone::clone)?;
            let number = Snapshot::new(report)
                .and_then(|snapshot| snapshot.map(map)?.field(path)?.as_f64())
                .map_err(|error| error.to_string())?;
            Ok(number)
        })
    }

    /// Paths of all numbers in the samples' statistics.
    pub fn stats_members(&self) -> Vec<String> {
        let mut paths = BTreeMap::new();
        for stats in self.samples.iter().filter_map(|s| s.stats.as_ref().ok()) {
            numbers_in(stats, String::new(), &mut |path, _| {
                paths.insert(path, ());
            });
        }
        paths.into_keys().collect()
    }
}

fn not_sampled() -> String {
    String::from("the monitor's sample has no such number")
}

/// The number at a dotted path; a part may be a field or an index. Truth values are 0 and 1.
fn number_at(value: &Value, path: &str) -> Result<f64, String> {
    let mut place = value;
    for part in path.split('.') {
        let next = match place {
            Value::Array(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
            other => other.get(part),
        };
        place =
            next.ok_or_else(|| format!("no {part:?} in {path:?}; there are: {}", names(place)))?;
    }
    match place {
        Value::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        other => other
            .as_f64()
            .ok_or_else(|| format!("{path:?} is not a number: {other}")),
    }
}

fn names(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
        Value::Array(items) => format!("indices below {}", items.len()),
        other => format!("nothing (it is {other})"),
    }
}

/// Calls `found` for all numbers below `value`, with their paths.
fn numbers_in(value: &Value, path: String, found: &mut impl FnMut(String, f64)) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                numbers_in(field, below(name), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                numbers_in(item, below(&index.to_string()), found);
            }
        }
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                found(path, number);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
