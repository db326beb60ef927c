//! Figures of a scenario, per cgroup and per phase; what the user is shown and what the sidecar keeps.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::payload::{PayloadEnd, PayloadReport, Polarity};
use super::phase::PhaseKey;
use super::report::LatencySummary;

/// Figures of all cgroups and phases of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScenarioStats {
    /// Per cgroup, over the whole life of its workers.
    pub cgroups: Vec<CgroupStats>,
    /// Per step, in time order.
    pub phases: Vec<PhaseBucket>,
    /// Named figures from anywhere else (payloads, claims).
    pub ext_metrics: BTreeMap<String, f64>,
    /// Runs of payloads, in the order of their ends.
    #[serde(default)]
    pub payloads: Vec<PayloadReport>,
}

impl ScenarioStats {
    /// The figures of a cgroup by its name.
    #[must_use]
    pub fn cgroup(&self, name: &str) -> Option<&CgroupStats> {
        self.cgroups.iter().find(|cgroup| cgroup.name == name)
    }

    /// What was done in a step, by its name or its place, or before the first: `phase("swap")`, `phase(Phase::step(1))`. Of several
    /// scenarios in one test, the first that has it.
    #[must_use]
    pub fn phase<'a>(&self, which: impl Into<PhaseKey<'a>>) -> Option<&PhaseBucket> {
        let which = which.into();
        self.phases.iter().find(|bucket| bucket.is(which))
    }

    /// Workers in all cgroups.
    pub fn total_workers(&self) -> usize {
        self.cgroups.iter().map(|cgroup| cgroup.workers).sum()
    }

    /// Iterations of all workers.
    pub fn total_iterations(&self) -> u64 {
        self.cgroups
            .iter()
            .fold(0, |sum, cgroup| sum.saturating_add(cgroup.iterations))
    }

    /// CPUs that any worker was seen on.
    #[must_use]
    pub fn total_cpus(&self) -> usize {
        let seen = self.cgroups.iter().flat_map(|cgroup| &cgroup.cpus_seen);
        seen.collect::<BTreeSet<_>>().len()
    }

    /// Changes of CPU that the workers noticed.
    #[must_use]
    pub fn total_migrations(&self) -> u64 {
        self.cgroups
            .iter()
            .fold(0, |sum, cgroup| sum.saturating_add(cgroup.migrations))
    }

    /// The highest spread of a cgroup, percentage points; `None` if none was measured.
    #[must_use]
    pub fn worst_spread(&self) -> Option<f64> {
        let spreads = self.cgroups.iter().filter_map(|cgroup| cgroup.spread_pct);
        spreads.reduce(f64::max)
    }

    /// The longest time without progress of any worker, milliseconds; `None` without workers.
    #[must_use]
    pub fn worst_gap_ms(&self) -> Option<f64> {
        self.worst_gap().map(|cgroup| cgroup.max_gap_ms)
    }

    /// The CPU on which that gap ended; `None` if the worker did not run again.
    #[must_use]
    pub fn worst_gap_cpu(&self) -> Option<usize> {
        self.worst_gap()?.max_gap_cpu.map(|cpu| cpu as usize)
    }

    fn worst_gap(&self) -> Option<&CgroupStats> {
        let with_workers = self.cgroups.iter().filter(|cgroup| cgroup.workers > 0);
        with_workers.max_by(|a, b| a.max_gap_ms.total_cmp(&b.max_gap_ms))
    }

    /// The highest [`migration_ratio`](CgroupStats::migration_ratio) of a cgroup; `None` if none has one.
    #[must_use]
    pub fn worst_migration_ratio(&self) -> Option<f64> {
        let ratios = self.cgroups.iter().filter_map(CgroupStats::migration_ratio);
        ratios.reduce(f64::max)
    }

    /// Iterations per worker of the cgroup that has most of them over those of the cgroup that has least: 1.0 is even, infinite is
    /// a cgroup without any. `None` with fewer than two cgroups that have workers, and where none of them did anything.
    #[must_use]
    pub fn cgroup_balance_ratio(&self) -> Option<f64> {
        let shares = self
            .cgroups
            .iter()
            .filter_map(CgroupStats::iterations_per_worker);
        let shares: Vec<f64> = shares.collect();
        if shares.len() < 2 {
            return None;
        }
        let most = shares.iter().copied().reduce(f64::max)?;
        let least = shares.iter().copied().reduce(f64::min)?;
        (most > 0.0).then(|| most / least)
    }

    /// Whether figures of a step are there, not only of what was before the first.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.phases.iter().any(|bucket| bucket.step_index > 0)
    }

    /// One line per cgroup, for people.
    pub fn lines(&self) -> Vec<String> {
        let cgroups = self.cgroups.iter().map(CgroupStats::line);
        cgroups
            .chain(self.payloads.iter().map(payload_line))
            .collect()
    }

    /// Names the payloads' metrics among [`ext_metrics`](Self::ext_metrics): `payload.path`, from a payload's second run on
    /// `payload#2.path`.
    pub fn name_payload_metrics(&mut self) {
        let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
        for report in &self.payloads {
            let run = runs.entry(&report.payload).or_default();
            *run += 1;
            let head = report.title(*run);
            let metrics = report.metrics.iter();
            let named = metrics.map(|metric| (format!("{head}.{}", metric.name), metric.value));
            self.ext_metrics.extend(named);
        }
    }

    /// Takes over all of `other`; a metric of the same name is replaced.
    pub fn merge(&mut self, other: Self) {
        self.cgroups.extend(other.cgroups);
        self.phases.extend(other.phases);
        self.ext_metrics.extend(other.ext_metrics);
        self.payloads.extend(other.payloads);
    }
}

/// How a payload ended, and the metrics of which something is known.
fn payload_line(report: &PayloadReport) -> String {
    let end = match report.end {
        PayloadEnd::Exited(code) => format!("exited with status {code}"),
        PayloadEnd::Signalled(signal) => format!("ended by signal {signal}"),
        PayloadEnd::Killed => String::from("killed by the test"),
        PayloadEnd::TimedOut { after_ms } => format!("timed out after {after_ms} ms"),
    };
    let mut line = format!(
        "payload {}: {end}, {} metrics",
        report.payload,
        report.metrics.len()
    );
    let known = report.metrics.iter();
    for metric in known.filter(|metric| metric.polarity != Polarity::Unknown) {
        line.push_str(&format!(", {} {}", metric.name, metric.value));
        if !metric.unit.is_empty() {
            line.push_str(&format!(" {}", metric.unit));
        }
    }
    line
}

/// Figures of one cgroup's workers. Absent means that nothing could be measured, never zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupStats {
    /// Name, relative to the workload root.
    pub name: String,
    /// Number of workers.
    pub workers: usize,
    /// CPUs that the workers were seen on, ascending.
    pub cpus_seen: Vec<u32>,
    /// CPUs allowed, when there was a cpuset.
    pub cpuset: Option<Vec<u32>>,
    /// Iterations of all workers.
    pub iterations: u64,
    /// Work units of all workers.
    pub work_units: u64,
    /// CPU time of all workers.
    pub cpu_time_ms: f64,
    /// The longest window among the workers.
    pub wall_time_ms: f64,
    /// Highest less lowest off-CPU share among the workers, in percentage points.
    pub spread_pct: Option<f64>,
    /// Lowest off-CPU share among the workers, percent.
    pub min_off_cpu_pct: Option<f64>,
    /// Highest off-CPU share among the workers, percent.
    pub max_off_cpu_pct: Option<f64>,
    /// Longest time without progress of any worker.
    pub max_gap_ms: f64,
    /// CPU on which that gap ended, if the worker ran again.
    pub max_gap_cpu: Option<u32>,
    /// Changes of CPU that the workers noticed.
    pub migrations: u64,
    /// Median wake-up latency.
    pub wake_p50_ns: Option<u64>,
    /// 99th percentile of the wake-up latency.
    pub wake_p99_ns: Option<u64>,
    /// Wake-ups that were measured.
    pub wake_count: u64,
    /// Time runnable but not running, of all workers (schedstat).
    pub run_delay_ms: Option<f64>,
    /// Percentiles of what benchmarks measured: of each kind, the worker with the highest 99th percentile.
    #[serde(default)]
    pub latencies: Vec<LatencySummary>,
    /// Share of pages on the workers' own NUMA nodes, 0 to 1.
    #[serde(default)]
    pub page_locality: Option<f64>,
}

impl CgroupStats {
    /// Iterations of a worker, on average; `None` without workers.
    #[must_use]
    pub fn iterations_per_worker(&self) -> Option<f64> {
        (self.workers > 0).then(|| self.iterations as f64 / self.workers as f64)
    }

    /// Iterations per second of the workers' CPU time; `None` if they had none.
    #[must_use]
    pub fn iterations_per_cpu_sec(&self) -> Option<f64> {
        (self.cpu_time_ms > 0.0).then(|| self.iterations as f64 * 1e3 / self.cpu_time_ms)
    }

    /// Migrations per iteration; `None` without iterations.
    #[must_use]
    pub fn migration_ratio(&self) -> Option<f64> {
        (self.iterations > 0).then(|| self.migrations as f64 / self.iterations as f64)
    }

    /// 99th percentile of the wake-up latency over its median; `None` if it was not measured, or the median is 0.
    #[must_use]
    pub fn wake_latency_tail_ratio(&self) -> Option<f64> {
        let (p99, median) = (self.wake_p99_ns?, self.wake_p50_ns?);
        (median > 0).then(|| p99 as f64 / median as f64)
    }

    /// The figures in one line; what was not measured is left out.
    fn line(&self) -> String {
        let mut line = format!(
            "{}: {} workers, {} iterations, {:.0} ms CPU in {:.0} ms, longest gap {:.0} ms, {} migrations, CPUs {:?}",
            self.name,
            self.workers,
            self.iterations,
            self.cpu_time_ms,
            self.wall_time_ms,
            self.max_gap_ms,
            self.migrations,
            self.cpus_seen
        );
        if let Some(spread) = self.spread_pct {
            line.push_str(&format!(", spread {spread:.1} %"));
        }
        if let Some(p99) = self.wake_p99_ns {
            line.push_str(&format!(", p99 wake-up {} us", p99 / 1000));
        }
        for latency in &self.latencies {
            line.push_str(&format!(
                ", {} p50 {} us p99 {} us",
                latency.name,
                latency.p50_ns / 1000,
                latency.p99_ns / 1000
            ));
        }
        if let Some(locality) = self.page_locality {
            line.push_str(&format!(", {:.1} % of pages local", locality * 100.0));
        }
        line
    }
}

/// One step of a scenario: what all live workers did between its start and its end, and what samples saw meanwhile.
///
/// The guest makes them from its own clock and counters; the host adds the samples
/// ([`add_samples`](super::series::add_samples)), or makes them from the boundaries' frames when no result arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseBucket {
    /// 0 is the baseline before the first step, k + 1 is step k.
    pub step_index: u16,
    /// The step's name, or its number.
    pub name: String,
    /// Start, from the scenario's start.
    pub start_ms: u64,
    /// End, from the scenario's start.
    pub end_ms: u64,
    /// Iterations done in between, per cgroup.
    pub iterations: BTreeMap<String, u64>,
    /// What each cgroup's workers did in between.
    #[serde(default)]
    pub cgroups: BTreeMap<String, PhaseCgroupStats>,
    /// Samples taken in between.
    #[serde(default)]
    pub samples: usize,
    /// What the samples' numbers were, by path.
    #[serde(default)]
    pub metrics: BTreeMap<String, MetricSummary>,
}

/// One number over the samples of a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    /// Samples that have it.
    pub count: usize,
    /// Lowest.
    pub min: f64,
    /// Highest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Of the last sample: of a counter, where it got to.
    pub last: f64,
}

impl MetricSummary {
    /// Of these values in time order; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let last = *values.last()?;
        Some(Self {
            count: values.len(),
            min: values.iter().copied().reduce(f64::min)?,
            max: values.iter().copied().reduce(f64::max)?,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            last,
        })
    }
}

/// What the workers of one cgroup did in one step. Workers that came or went within the step count with what they did in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseCgroupStats {
    /// Workers that were there.
    pub num_workers: usize,
    /// Iterations of all.
    #[serde(alias = "iterations")]
    pub total_iterations: u64,
    /// Work units of all.
    pub work_units: u64,
    /// CPU time of all, nanoseconds.
    pub total_cpu_time_ns: u64,
    /// Changes of CPU that they noticed.
    #[serde(alias = "migrations")]
    pub total_migrations: u64,
    /// Wake-ups that were measured.
    #[serde(alias = "wake_count")]
    pub wake_sample_total: u64,
    /// Of each worker, how long it was runnable but not running in this step, nanoseconds (schedstat). A worker whose figure the
    /// kernel did not give is left out.
    pub run_delays_ns: Vec<u64>,
    /// Of each worker that was there for the whole step, the share of it that it was not on a CPU, per cent.
    pub off_cpu_pcts: Vec<f64>,
}

impl PhaseCgroupStats {
    /// Mean and highest of the workers' run delays in this step, microseconds; `None` if none was measured.
    #[must_use]
    pub fn run_delay_summary(&self) -> Option<(f64, f64)> {
        let worst = *self.run_delays_ns.iter().max()?;
        let sum: f64 = self.run_delays_ns.iter().map(|ns| *ns as f64).sum();
        let mean = sum / self.run_delays_ns.len() as f64;
        Some((mean / 1e3, worst as f64 / 1e3))
    }

    /// Mean, lowest and highest of the workers' shares of the step off a CPU, and highest less lowest, per cent; `None` if none
    /// was measured.
    #[must_use]
    pub fn off_cpu_summary(&self) -> Option<(f64, f64, f64, f64)> {
        let lowest = self.off_cpu_pcts.iter().copied().reduce(f64::min)?;
        let highest = self.off_cpu_pcts.iter().copied().reduce(f64::max)?;
        let mean = self.off_cpu_pcts.iter().sum::<f64>() / self.off_cpu_pcts.len() as f64;
        Some((mean, lowest, highest, highest - lowest))
    }

    /// Iterations per second of the workers' CPU time; `None` if they had none.
    #[must_use]
    pub fn iterations_per_cpu_sec(&self) -> Option<f64> {
        (self.total_cpu_time_ns > 0)
            .then(|| self.total_iterations as f64 * 1e9 / self.total_cpu_time_ns as f64)
    }
}

impl PhaseBucket {
    pub(crate) fn is(&self, which: PhaseKey<'_>) -> bool {
        which.finds(self.step_index, &self.name)
    }

    /// Length of the phase.
    pub fn duration_ms(&self) -> u64 {
        self.end_ms.saturating_sub(self.start_ms)
    }

    /// Iterations per second of all cgroups; `None` for a phase without length.
    pub fn iteration_rate(&self) -> Option<f64> {
        let total = self
            .iterations
            .values()
            .fold(0u64, |sum, n| sum.saturating_add(*n));
        let millis = self.duration_ms();
        (millis > 0).then(|| total as f64 * 1e3 / millis as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::phase::Phase;
    use super::*;

    #[test]
    fn payload_metrics_of_each_run_have_names_of_their_own() {
        let run = |value| PayloadReport {
            index: 0,
            payload: "bench".into(),
            end: PayloadEnd::Exited(0),
            metrics: vec![super::super::payload::Metric {
                name: "p99".into(),
                value,
                unit: "us".into(),
                polarity: Polarity::LowerBetter,
                source: "json".into(),
                stream: super::super::payload::Stream::Stdout,
            }],
            awaits_extractor: false,
        };
        let mut stats = ScenarioStats {
            payloads: vec![run(1.0), run(2.0)],
            ..ScenarioStats::default()
        };
        stats.name_payload_metrics();
        let expected = [
            ("bench#2.p99".to_owned(), 2.0),
            ("bench.p99".to_owned(), 1.0),
        ];
        assert_eq!(stats.ext_metrics, BTreeMap::from(expected));
        assert_eq!(
            stats.lines()[0],
            "payload bench: exited with status 0, 1 metrics, p99 1 us"
        );
    }

    fn two_cgroups() -> ScenarioStats {
        let of = |name: &str, iterations, cpus_seen: &[u32]| CgroupStats {
            name: name.to_owned(),
            workers: 2,
            cpus_seen: cpus_seen.to_vec(),
            iterations,
            cpu_time_ms: 500.0,
            migrations: 4,
            ..CgroupStats::default()
        };
        let a = CgroupStats {
            spread_pct: Some(7.0),
            max_gap_ms: 30.0,
            max_gap_cpu: Some(3),
            wake_p50_ns: Some(10),
            wake_p99_ns: Some(250),
            ..of("a", 100, &[0, 1])
        };
        ScenarioStats {
            cgroups: vec![a, of("b", 25, &[1, 2])],
            ..ScenarioStats::default()
        }
    }

    #[test]
    fn figures_of_all_cgroups_are_the_worst_ones() {
        let mut stats = two_cgroups();
        assert_eq!((stats.total_cpus(), stats.total_migrations()), (3, 8));
        assert_eq!((stats.total_workers(), stats.total_iterations()), (4, 125));
        assert_eq!(stats.cgroup("b").map(|one| one.iterations), Some(25));
        assert_eq!(stats.cgroup("c"), None);
        assert_eq!(stats.worst_spread(), Some(7.0));
        assert_eq!(stats.worst_gap_ms(), Some(30.0));
        assert_eq!(stats.worst_gap_cpu(), Some(3));
        assert_eq!(stats.worst_migration_ratio(), Some(0.16));
        assert_eq!(stats.cgroup_balance_ratio(), Some(4.0));
        stats.cgroups[1].iterations = 0;
        assert_eq!(stats.cgroup_balance_ratio(), Some(f64::INFINITY));
        stats.cgroups[1].workers = 0;
        assert_eq!(stats.cgroup_balance_ratio(), None);
        assert!(!stats.has_steps());
        let phase = |step_index| PhaseBucket {
            step_index,
            ..PhaseBucket::default()
        };
        stats.phases = vec![phase(0)];
        assert!(!stats.has_steps());
        assert_eq!(stats.phase(Phase::step(0)), None);
        stats.phases.push(phase(1));
        assert!(stats.has_steps());
        assert_eq!(stats.phase(Phase::step(0)), Some(&phase(1)));
        assert_eq!(stats.phase("swap"), None);
        stats.phases[1].name = String::from("swap");
        assert_eq!(stats.phase("swap"), Some(&stats.phases[1]));
        stats.merge(two_cgroups());
        assert_eq!((stats.cgroups.len(), stats.phases.len()), (4, 2));
    }

    #[test]
    fn figures_of_a_cgroup_are_per_worker_per_second_and_per_iteration() {
        let stats = &two_cgroups().cgroups[0];
        assert_eq!(stats.iterations_per_worker(), Some(50.0));
        assert_eq!(stats.iterations_per_cpu_sec(), Some(200.0));
        assert_eq!(stats.migration_ratio(), Some(0.04));
        assert_eq!(stats.wake_latency_tail_ratio(), Some(25.0));
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let (all, one) = (ScenarioStats::default(), CgroupStats::default());
        let figures = [
            all.worst_spread(),
            all.worst_gap_ms(),
            all.worst_migration_ratio(),
            all.cgroup_balance_ratio(),
            one.iterations_per_worker(),
            one.iterations_per_cpu_sec(),
            one.migration_ratio(),
            one.wake_latency_tail_ratio(),
        ];
        assert_eq!(figures, [None; 8]);
        assert_eq!((all.worst_gap_cpu(), all.total_cpus()), (None, 0));
    }

    #[test]
    fn delays_and_shares_are_summed_up_per_worker() {
        let stats = PhaseCgroupStats {
            run_delays_ns: vec![1_000, 4_000],
            off_cpu_pcts: vec![10.0, 30.0],
            total_iterations: 6,
            total_cpu_time_ns: 2_000_000_000,
            ..PhaseCgroupStats::default()
        };
        assert_eq!(stats.run_delay_summary(), Some((2.5, 4.0)));
        assert_eq!(stats.off_cpu_summary(), Some((20.0, 10.0, 30.0, 20.0)));
        assert_eq!(stats.iterations_per_cpu_sec(), Some(3.0));
        let nothing = PhaseCgroupStats::default();
        assert_eq!(nothing.run_delay_summary(), None);
        assert_eq!(nothing.off_cpu_summary(), None);
        assert_eq!(nothing.iterations_per_cpu_sec(), None);
    }

    #[test]
    fn a_phase_without_length_has_no_rate() {
        let mut phase = PhaseBucket {
            iterations: BTreeMap::from([("a".into(), 500), ("b".into(), 500)]),
            ..PhaseBucket::default()
        };
        assert_eq!(phase.iteration_rate(), None);
        phase.end_ms = 2_000;
        assert_eq!(phase.iteration_rate(), Some(500.0));
    }
}
