//! Figures by their names, for a callback that compares many of them: of a run, of a step, and of a cgroup in a step.
#![doc = include_str!("../../docs/metrics.md")]

use ktstr_monitor::sampler::{FALLBACK, KEEP_LAST, MonitorReport};

use super::claim::Verdict;
use super::comparison::Judge as _;
use super::payload::Polarity;
use super::phase::PhaseKey;
use super::result::VmResult;
use super::stats::{CgroupStats, PhaseBucket, PhaseCgroupStats, ScenarioStats};
use super::verdict::DetailKind;

/// A figure that has a name.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Named {
    /// With the unit in it where it has one.
    name: &'static str,
    polarity: Polarity,
    about: &'static str,
}

/// A figure, and where it is read.
struct Of<T> {
    metric: Named,
    read: fn(&T) -> Option<f64>,
}

const HIGHER: Polarity = Polarity::HigherBetter;
const LOWER: Polarity = Polarity::LowerBetter;
const NEITHER: Polarity = Polarity::Unknown;

const fn of<T>(
    name: &'static str,
    polarity: Polarity,
    about: &'static str,
    read: fn(&T) -> Option<f64>,
) -> Of<T> {
    Of {
        metric: Named {
            name,
            polarity,
            about,
        },
        read,
    }
}

/// Of one cgroup in one step.
const OF_CGROUP: &[Of<PhaseCgroupStats>] = &[
    of(
        "mean_run_delay_us",
        LOWER,
        "time runnable and not running, mean of the workers",
        |c| Some(c.run_delay_summary()?.0),
    ),
    of(
        "max_run_delay_us",
        LOWER,
        "the same of the worker that has most",
        |c| Some(c.run_delay_summary()?.1),
    ),
    of(
        "avg_off_cpu_pct",
        NEITHER,
        "share of the step off a CPU, mean of the workers",
        |c| Some(c.off_cpu_summary()?.0),
    ),
    of(
        "min_off_cpu_pct",
        NEITHER,
        "the same of the worker that has least",
        |c| Some(c.off_cpu_summary()?.1),
    ),
    of(
        "max_off_cpu_pct",
        NEITHER,
        "the same of the worker that has most",
        |c| Some(c.off_cpu_summary()?.2),
    ),
    of(
        "off_cpu_spread_pct",
        LOWER,
        "the most less the least of it",
        |c| Some(c.off_cpu_summary()?.3),
    ),
    of(
        "migration_ratio",
        LOWER,
        "changes of CPU per iteration",
        |c| ratio(c.total_migrations as f64, c.total_iterations as f64),
    ),
    of(
        "iterations_per_worker",
        HIGHER,
        "iterations of a worker, on average",
        |c| ratio(c.total_iterations as f64, c.num_workers as f64),
    ),
    of(
        "iterations_per_cpu_sec",
        HIGHER,
        "iterations per second of CPU time",
        |c| c.iterations_per_cpu_sec(),
    ),
    of(
        "total_iterations",
        HIGHER,
        "iterations of all workers",
        |c| Some(c.total_iterations as f64),
    ),
    of(
        "total_migrations",
        LOWER,
        "changes of CPU of all workers",
        |c| Some(c.total_migrations as f64),
    ),
    of(
        "total_cpu_time_ns",
        NEITHER,
        "CPU time of all workers",
        |c| Some(c.total_cpu_time_ns as f64),
    ),
];

/// Of all cgroups in one step.
const OF_PHASE: &[Of<PhaseBucket>] = &[
    of(
        "iteration_rate",
        HIGHER,
        "iterations of all workers per second of their CPU time",
        |p| {
            let sum = of_all(p);
            ratio(
                sum.total_iterations as f64 * 1e9,
                sum.total_cpu_time_ns as f64,
            )
        },
    ),
    of(
        "total_iterations",
        HIGHER,
        "iterations of all workers",
        |p| Some(of_all(p).total_iterations as f64),
    ),
    of(
        "total_migrations",
        LOWER,
        "changes of CPU of all workers",
        |p| Some(of_all(p).total_migrations as f64),
    ),
    of(
        "total_cpu_time_ns",
        NEITHER,
        "CPU time of all workers",
        |p| Some(of_all(p).total_cpu_time_ns as f64),
    ),
];

/// Of the whole run, by its workers. The worst cgroup's each.
const OF_RUN: &[Of<ScenarioStats>] = &[
    of(
        "worst_spread",
        LOWER,
        "highest less lowest off-CPU share in a cgroup, percentage points",
        |s| s.worst_spread(),
    ),
    of(
        "worst_gap_ms",
        LOWER,
        "longest time without progress of a worker",
        |s| s.worst_gap_ms(),
    ),
    of(
        "worst_migration_ratio",
        LOWER,
        "changes of CPU per iteration",
        |s| s.worst_migration_ratio(),
    ),
    of(
        "worst_p99_wake_latency_us",
        LOWER,
        "99th percentile of the wake-up latency",
        |s| highest(s, |c| Some(c.wake_p99_ns? as f64 / 1e3)),
    ),
    of(
        "worst_median_wake_latency_us",
        LOWER,
        "median of the wake-up latency",
        |s| highest(s, |c| Some(c.wake_p50_ns? as f64 / 1e3)),
    ),
    of(
        "worst_wake_latency_tail_ratio",
        LOWER,
        "99th percentile of the wake-up latency over its median",
        |s| highest(s, CgroupStats::wake_latency_tail_ratio),
    ),
    of(
        "worst_mean_run_delay_us",
        LOWER,
        "time runnable and not running, mean of a cgroup's workers",
        |s| highest(s, |c| ratio(c.run_delay_ms? * 1e3, c.workers as f64)),
    ),
    of(
        "worst_iterations_per_worker",
        HIGHER,
        "iterations of a worker, mean of a cgroup's",
        |s| lowest(s, CgroupStats::iterations_per_worker),
    ),
    of(
        "worst_iterations_per_cpu_sec",
        HIGHER,
        "iterations per second of CPU time",
        |s| lowest(s, CgroupStats::iterations_per_cpu_sec),
    ),
    of(
        "worst_page_locality",
        HIGHER,
        "share of pages on the workers' own nodes, 0 to 1",
        |s| lowest(s, |c| c.page_locality),
    ),
    of(
        "total_iterations",
        HIGHER,
        "iterations of all workers",
        |s| Some(s.total_iterations() as f64),
    ),
    of(
        "total_migrations",
        LOWER,
        "changes of CPU of all workers",
        |s| Some(s.total_migrations() as f64),
    ),
];

/// Of the whole run, by what the monitor sampled.
const OF_MONITOR: &[Of<MonitorReport>] = &[
    of(
        "max_imbalance_ratio",
        LOWER,
        "tasks on the busiest CPU over those on the least busy one",
        |m| Some(m.summary.max_imbalance_ratio),
    ),
    of(
        "max_dsq_depth",
        LOWER,
        "deepest local dispatch queue",
        |m| {
            let mut cpus = m.samples.iter().flat_map(|sample| &sample.cpus);
            // The summary has 0 where no CPU has such a queue.
            let is_read = cpus.any(|cpu| cpu.local_dsq_depth.is_some());
            is_read.then(|| f64::from(m.summary.max_local_dsq_depth))
        },
    ),
    of(
        "stuck_count",
        LOWER,
        "how often a busy CPU's clock was seen to stand still",
        |m| Some(m.summary.stuck_count as f64),
    ),
    of("avg_nr_running", NEITHER, "tasks on a runqueue", |m| {
        Some(m.summary.avg_nr_running)
    }),
    of(
        "avg_irq_util",
        LOWER,
        "interrupt utilisation, of 1024",
        |m| m.summary.avg_irq_util,
    ),
    of(
        "total_fallback",
        LOWER,
        "growth of `SCX_EV_SELECT_CPU_FALLBACK`",
        |m| Some(*m.summary.event_deltas.get(FALLBACK)? as f64),
    ),
    of(
        "total_keep_last",
        LOWER,
        "growth of `SCX_EV_DISPATCH_KEEP_LAST`",
        |m| Some(*m.summary.event_deltas.get(KEEP_LAST)? as f64),
    ),
    of(
        "total_run_delay",
        LOWER,
        "time that tasks waited on all CPUs, nanoseconds",
        |m| Some(m.summary.schedstat_deltas?.run_delay as f64),
    ),
    of("total_pcount", NEITHER, "time slices on all CPUs", |m| {
        Some(m.summary.schedstat_deltas?.pcount as f64)
    }),
    of("total_sched_count", NEITHER, "calls of `schedule`", |m| {
        Some(m.summary.schedstat_deltas?.sched_count? as f64)
    }),
    of("total_yld_count", NEITHER, "calls of `sched_yield`", |m| {
        Some(m.summary.schedstat_deltas?.yld_count? as f64)
    }),
    of(
        "total_sched_goidle",
        NEITHER,
        "calls of `schedule` that went idle",
        |m| Some(m.summary.schedstat_deltas?.sched_goidle? as f64),
    ),
    of("total_ttwu_count", NEITHER, "wake-ups", |m| {
        Some(m.summary.schedstat_deltas?.ttwu_count? as f64)
    }),
    of(
        "total_ttwu_local",
        NEITHER,
        "wake-ups of tasks that were last on that CPU",
        |m| Some(m.summary.schedstat_deltas?.ttwu_local? as f64),
    ),
    of("ttwu_local_fraction", NEITHER, "their share, 0 to 1", |m| {
        let counts = m.summary.schedstat_deltas?;
        ratio(counts.ttwu_local? as f64, counts.ttwu_count? as f64)
    }),
];

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

fn highest(stats: &ScenarioStats, figure: impl Fn(&CgroupStats) -> Option<f64>) -> Option<f64> {
    stats.cgroups.iter().filter_map(figure).reduce(f64::max)
}

fn lowest(stats: &ScenarioStats, figure: impl Fn(&CgroupStats) -> Option<f64>) -> Option<f64> {
    stats.cgroups.iter().filter_map(figure).reduce(f64::min)
}

fn of_all(bucket: &PhaseBucket) -> PhaseCgroupStats {
    let mut sum = PhaseCgroupStats::default();
    for cgroup in bucket.cgroups.values() {
        sum.total_iterations = sum.total_iterations.saturating_add(cgroup.total_iterations);
        sum.total_migrations = sum.total_migrations.saturating_add(cgroup.total_migrations);
        sum.total_cpu_time_ns = sum
            .total_cpu_time_ns
            .saturating_add(cgroup.total_cpu_time_ns);
    }
    sum
}

fn find<'t, T>(table: &'t [Of<T>], name: &str) -> Option<&'t Of<T>> {
    table.iter().find(|of| of.metric.name == name)
}

fn names<T>(table: &[Of<T>]) -> String {
    let names: Vec<&str> = table.iter().map(|of| of.metric.name).collect();
    names.join(", ")
}

/// What a watched number of a map amounts to: of a gauge its last value, of a counter its growth; of a gauge that each CPU has
/// the mean and the highest of the last values, as `label_avg` and `label_max`, of such a counter the sum of the growths.
fn watched(report: &MonitorReport, name: &str) -> Option<f64> {
    let (mut lasts, mut growths) = (Vec::new(), Vec::new());
    for (index, field) in report.watched.iter().enumerate() {
        let (label, of_cpu) = match field.label.split_once('[') {
            Some((label, _)) => (label, true),
            None => (field.label.as_str(), false),
        };
        let samples = report.samples.iter();
        let values: Vec<u64> = samples
            .filter_map(|sample| sample.watched.get(index).copied().flatten())
            .collect();
        let Some(last) = values.last() else {
            continue;
        };
        match name.strip_prefix(label) {
            Some("") if field.counter => growths.push(growth(&values)),
            Some("") if !of_cpu => return Some(*last as f64),
            Some("_avg" | "_max") if of_cpu && !field.counter => lasts.push(*last as f64),
            _ => {}
        }
    }
    if !growths.is_empty() {
        return Some(growths.iter().sum());
    }
    let count = lasts.len() as f64;
    match name.ends_with("_max") {
        true => lasts.into_iter().reduce(f64::max),
        false => lasts
            .into_iter()
            .reduce(|a, b| a + b)
            .map(|sum| sum / count),
    }
}

/// From the first value to the last. One that is lower than the one before it is of another scheduler's map, which began at 0.
fn growth(values: &[u64]) -> f64 {
    let steps = values.windows(2).map(|pair| match pair {
        [before, now] if now >= before => (now - before) as f64,
        [_, now] => *now as f64,
        _ => 0.0,
    });
    steps.sum()
}

impl PhaseCgroupStats {
    /// A figure of the cgroup in this step by its name; `None` if it was not measured, or has another name.
    #[must_use]
    pub fn get(&self, metric: &str) -> Option<f64> {
        (find(OF_CGROUP, metric)?.read)(self)
    }
}

impl PhaseBucket {
    /// A figure of all cgroups in this step by its name, or the mean of what the samples of the step show under this path; `None` if
    /// it was not measured, or has another name.
    #[must_use]
    pub fn get(&self, metric: &str) -> Option<f64> {
        match find(OF_PHASE, metric) {
            // The sum of none is no figure: nobody ran.
            Some(_) if self.cgroups.is_empty() => None,
            Some(of) => (of.read)(self),
            None => Some(self.metrics.get(metric)?.mean),
        }
    }
}

impl ScenarioStats {
    /// A figure of a step by its name; see [`PhaseBucket::get`].
    #[must_use]
    pub fn phase_metric<'a>(&self, phase: impl Into<PhaseKey<'a>>, metric: &str) -> Option<f64> {
        self.phase(phase)?.get(metric)
    }

    /// A figure of a cgroup in a step by its name; see [`PhaseCgroupStats::get`].
    #[must_use]
    pub fn phase_cgroup_metric<'a>(
        &self,
        phase: impl Into<PhaseKey<'a>>,
        cgroup: &str,
        metric: &str,
    ) -> Option<f64> {
        self.phase(phase)?.cgroups.get(cgroup)?.get(metric)
    }

    /// A figure of the workers over the whole run by its name, or one of `ext_metrics` (a payload's: `payload.path`); `None` if it
    /// was not measured, or has another name.
    #[must_use]
    pub fn run_metric(&self, metric: &str) -> Option<f64> {
        match find(OF_RUN, metric) {
            Some(_) if self.cgroups.is_empty() => None,
            Some(of) => (of.read)(self),
            None => self.ext_metrics.get(metric).copied(),
        }
    }
}

impl VmResult {
    /// A figure of a step by its name; see [`PhaseBucket::get`]. Of several scenarios in one test, the first that has it.
    #[must_use]
    pub fn phase_metric<'a>(&self, phase: impl Into<PhaseKey<'a>>, metric: &str) -> Option<f64> {
        let phase = phase.into();
        let buckets = self.phase_buckets();
        let mut of_phase = buckets.iter().filter(|bucket| bucket.is(phase));
        of_phase.find_map(|bucket| bucket.get(metric))
    }

    /// A figure of a cgroup in a step by its name; see [`PhaseCgroupStats::get`].
    #[must_use]
    pub fn phase_cgroup_metric<'a>(
        &self,
        phase: impl Into<PhaseKey<'a>>,
        cgroup: &str,
        metric: &str,
    ) -> Option<f64> {
        self.phase_cgroup(phase, cgroup)?.get(metric)
    }

    /// A figure of the whole run by its name: of the workers, of a payload (`payload.path`), of the monitor, or the label of a
    /// number in `watch_bpf_maps`; `None` if it was not measured, or has another name.
    #[must_use]
    pub fn run_metric(&self, metric: &str) -> Option<f64> {
        let of_workers = || self.guest_assert_result().ok()?.stats.run_metric(metric);
        let of_monitor = || {
            let report = self.monitor.as_ref()?;
            match find(OF_MONITOR, metric) {
                // Without a single valid sample nothing was measured.
                Some(_) if report.summary.valid_samples == 0 => None,
                Some(of) => (of.read)(report),
                None => watched(report, metric),
            }
        };
        of_workers().or_else(of_monitor)
    }

    /// Begins a comparison of a figure in two steps: `vm.better_across_phases(&mut v, Phase::step(0), Phase::step(1),
    /// "iteration_rate").better_than()` holds if it is better in the second.
    pub fn better_across_phases<'v, 'a>(
        &self,
        verdict: &'v mut Verdict,
        baseline: impl Into<PhaseKey<'a>>,
        candidate: impl Into<PhaseKey<'a>>,
        metric: &str,
    ) -> Better<'v> {
        let (baseline, candidate) = (baseline.into(), candidate.into());
        let known = find(OF_PHASE, metric).map(|of| of.metric);
        Better {
            names: names(OF_PHASE),
            verdict,
            what: format!("{metric} in {candidate} against {baseline}"),
            was: self.phase_metric(baseline, metric),
            is: self.phase_metric(candidate, metric),
            known,
        }
    }

    /// Same, of one cgroup.
    pub fn better_across_phases_cgroup<'v, 'a>(
        &self,
        verdict: &'v mut Verdict,
        baseline: impl Into<PhaseKey<'a>>,
        candidate: impl Into<PhaseKey<'a>>,
        cgroup: &str,
        metric: &str,
    ) -> Better<'v> {
        let (baseline, candidate) = (baseline.into(), candidate.into());
        let known = find(OF_CGROUP, metric).map(|of| of.metric);
        Better {
            names: names(OF_CGROUP),
            verdict,
            what: format!("{metric} of {cgroup} in {candidate} against {baseline}"),
            was: self.phase_cgroup_metric(baseline, cgroup, metric),
            is: self.phase_cgroup_metric(candidate, cgroup, metric),
            known,
        }
    }
}

/// A comparison that has begun; it ends with one of its functions. A figure that was not measured, and one of which neither
/// more nor less is better, make it inconclusive.
#[derive(Debug)]
#[must_use = "it claims nothing before its comparison"]
pub struct Better<'v> {
    verdict: &'v mut Verdict,
    what: String,
    was: Option<f64>,
    is: Option<f64>,
    known: Option<Named>,
    /// What there could have been asked for.
    names: String,
}

impl<'v> Better<'v> {
    /// The figure is better in the second step, by whatever little.
    pub fn better_than(self) -> &'v mut Verdict {
        self.end("better", |gain, _| Some(gain > 0.0))
    }

    /// The figure is better in the second step by at least this share of what it is in the first: 0.1 is a tenth. Of 0 there is no
    /// share: that is inconclusive.
    pub fn by_at_least(self, margin: f64) -> &'v mut Verdict {
        let wanted = match self.was {
            Some(0.0) => format!("better by at least {margin} of it, and there is no share of 0"),
            _ => format!("better by at least {margin} of it"),
        };
        self.end(&wanted, |gain, was| {
            (was != 0.0).then(|| gain / was.abs() >= margin)
        })
    }

    /// `holds` is given by how much the figure is better, and what it was.
    fn end(self, wanted: &str, holds: impl FnOnce(f64, f64) -> Option<bool>) -> &'v mut Verdict {
        let Self {
            verdict,
            what,
            was,
            is,
            known,
            names,
        } = self;
        let polarity = known.map_or(NEITHER, |metric| metric.polarity);
        let holds = was.zip(is).and_then(|(was, is)| match polarity {
            Polarity::HigherBetter => holds(is - was, was),
            Polarity::LowerBetter => holds(was - is, was),
            _ => None,
        });
        let figure = |figure: Option<f64>| match figure {
            Some(figure) => figure.to_string(),
            None if known.is_some() => String::from("not measured"),
            None => format!("not measured (figures with a name are {names})"),
        };
        verdict.judge(DetailKind::Other, holds, || {
            let direction = match polarity {
                Polarity::HigherBetter => "more is better",
                Polarity::LowerBetter => "less is better",
                _ => "neither more nor less is known to be better",
            };
            let about = known.map_or("a metric without a name of its own", |metric| metric.about);
            format!(
                "{what}: {} against {}, expected {wanted} ({about}; {direction})",
                figure(is),
                figure(was)
            )
        });
        verdict
    }
}

#[cfg(test)]
mod tests;
