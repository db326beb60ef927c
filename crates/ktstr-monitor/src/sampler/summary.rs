//! What samples amount to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sample::{CpuSnapshot, MonitorSample, ProgramStats, SchedStatSnapshot};

/// A local dispatch queue deeper than this is uninitialised memory.
pub(super) const IMPLAUSIBLE_DSQ_DEPTH: u32 = 10_000;
/// A clock may stand still this many ticks: a tick is late, a host is busy.
const STUCK_AFTER_TICKS: u64 = 10;

/// Peaks, averages over valid samples, and what counters grew by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorSummary {
    /// Samples taken.
    pub total_samples: usize,
    /// Those whose memory was plausible; all other figures are of these.
    pub valid_samples: usize,
    /// Highest ratio of the busiest CPU's `nr_running` to the least busy one's, which counts at least 1.
    pub max_imbalance_ratio: f64,
    /// Average of that ratio.
    pub avg_imbalance_ratio: f64,
    /// Deepest local dispatch queue.
    pub max_local_dsq_depth: u32,
    /// Average depth over CPUs and samples.
    pub avg_local_dsq_depth: f64,
    /// Average `nr_running` over CPUs and samples.
    pub avg_nr_running: f64,
    /// Average interrupt utilisation, of 1024; none where the kernel does not count it.
    pub avg_irq_util: Option<f64>,
    /// Whether a busy CPU's clock stood still.
    pub stuck_detected: bool,
    /// How often one was seen to.
    pub stuck_count: usize,
    /// Growth of each event counter, over all schedulers of the run.
    pub event_deltas: BTreeMap<String, i64>,
    /// Growth of each of the scheduler's programs' statistics.
    #[serde(default)]
    pub program_deltas: BTreeMap<String, ProgramStats>,
    /// Growth of the counters of `/proc/schedstat`, over all CPUs.
    pub schedstat_deltas: Option<SchedStatDelta>,
    /// Time between the first and the last valid sample, milliseconds.
    pub observed_ms: u64,
}

/// Growth of [`SchedStatSnapshot`]'s counters.
pub type SchedStatDelta = SchedStatSnapshot;

impl MonitorSample {
    /// Whether this can be a running kernel: no absurd queue, and clocks that differ where there are several.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        let depth_is_sane = self
            .cpus
            .iter()
            .filter_map(|cpu| cpu.local_dsq_depth)
            .all(|depth| depth <= IMPLAUSIBLE_DSQ_DEPTH);
        let counts_are_sane = self
            .cpus
            .iter()
            .all(|cpu| cpu.nr_running <= IMPLAUSIBLE_DSQ_DEPTH);
        let first = self.cpus.first().map(|cpu| cpu.rq_clock);
        let clocks_live = match self.cpus.len() {
            0 => false,
            1 => first != Some(0),
            _ => self.cpus.iter().any(|cpu| Some(cpu.rq_clock) != first),
        };
        depth_is_sane && counts_are_sane && clocks_live
    }

    /// The busiest CPU's `nr_running` by the least busy one's, which counts at least 1.
    #[must_use]
    pub fn imbalance_ratio(&self) -> f64 {
        let counts = || self.cpus.iter().map(|cpu| cpu.nr_running);
        let least = counts().min().unwrap_or(0).max(1);
        f64::from(counts().max().unwrap_or(0)) / f64::from(least)
    }
}

/// An average in the making.
#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

impl MonitorSummary {
    /// Condenses samples of a guest with this tick rate.
    #[must_use]
    pub fn of(samples: &[MonitorSample], hz: u32) -> Self {
        let valid: Vec<&MonitorSample> = samples
            .iter()
            .filter(|sample| sample.is_plausible())
            .collect();
        let mut imbalance = Mean::default();
        let mut depth = Mean::default();
        let mut running = Mean::default();
        let mut irq = Mean::default();
        let mut summary = Self {
            total_samples: samples.len(),
            valid_samples: valid.len(),
            ..Self::default()
        };
        for sample in &valid {
            let ratio = sample.imbalance_ratio();
            imbalance.add(ratio);
            summary.max_imbalance_ratio = summary.max_imbalance_ratio.max(ratio);
            for cpu in &sample.cpus {
                running.add(cpu.nr_running.into());
                if let Some(queued) = cpu.local_dsq_depth {
                    depth.add(queued.into());
                    summary.max_local_dsq_depth = summary.max_local_dsq_depth.max(queued);
                }
                if let Some(util) = cpu.avg_irq_util {
                    irq.add(util.into());
                }
            }
        }
        summary.avg_imbalance_ratio = imbalance.get().unwrap_or(0.0);
        summary.avg_local_dsq_depth = depth.get().unwrap_or(0.0);
        summary.avg_nr_running = running.get().unwrap_or(0.0);
        summary.avg_irq_util = irq.get();
        summary.stuck_count = stuck_observations(&valid, hz)
            .iter()
            .map(|sample| sample.len())
            .sum();
        summary.stuck_detected = summary.stuck_count > 0;
        if let (Some(first), Some(last)) = (valid.first(), valid.last()) {
            summary.observed_ms = last.elapsed_ms.saturating_sub(first.elapsed_ms);
            summary.event_deltas = growth_of_events(&valid);
            summary.program_deltas = growth_of_programs(&valid);
            summary.schedstat_deltas = growth_of_schedstats(&valid);
        }
        summary
    }
}

/// Whether both samples are of the same scheduler, as far as the kernel tells.
fn same_scheduler(before: &MonitorSample, now: &MonitorSample) -> bool {
    before.enable_seq == now.enable_seq
}

/// Growth of each counter between two samples; one that went back, or that the first sample lacks, or whose scheduler is
/// another one, starts at 0.
pub(super) fn event_deltas(before: &MonitorSample, now: &MonitorSample) -> BTreeMap<String, i64> {
    now.events
        .iter()
        .map(|(name, &count)| {
            let earlier = before.events.get(name).copied();
            let earlier =
                earlier.filter(|earlier| same_scheduler(before, now) && *earlier <= count);
            let delta = count.saturating_sub(earlier.unwrap_or(0));
            (name.clone(), delta.max(0))
        })
        .collect()
}

/// What each event counter grew by, scheduler after scheduler: the last sample alone knows nothing of those before it, and
/// when it has none at all, nothing of any.
fn growth_of_events(samples: &[&MonitorSample]) -> BTreeMap<String, i64> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for name in samples.iter().flat_map(|sample| sample.events.keys()) {
        sums.entry(name.clone()).or_insert(0);
    }
    for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
        for (name, delta) in event_deltas(before, now) {
            let sum = sums.entry(name).or_insert(0);
            *sum = sum.saturating_add(delta);
        }
    }
    sums
}

/// The same of the programs' statistics.
fn growth_of_programs(samples: &[&MonitorSample]) -> BTreeMap<String, ProgramStats> {
    let mut sums: BTreeMap<String, ProgramStats> = BTreeMap::new();
    for name in samples.iter().flat_map(|sample| sample.programs.keys()) {
        sums.entry(name.clone()).or_default();
    }
    for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
        for (name, stats) in &now.programs {
            let earlier = before.programs.get(name).copied();
            let earlier = earlier
                .filter(|earlier| same_scheduler(before, now) && earlier.run_cnt <= stats.run_cnt)
                .unwrap_or_default();
            let sum = sums.entry(name.clone()).or_default();
            let grow = |sum: &mut u64, now: u64, before: u64| {
                *sum = sum.saturating_add(now.saturating_sub(before));
            };
            grow(&mut sum.run_cnt, stats.run_cnt, earlier.run_cnt);
            grow(&mut sum.run_time_ns, stats.run_time_ns, earlier.run_time_ns);
            grow(
                &mut sum.recursion_misses,
                stats.recursion_misses,
                earlier.recursion_misses,
            );
        }
    }
    sums
}

/// From sample to sample: a CPU may come later, and so may what has the kernel count.
fn growth_of_schedstats(samples: &[&MonitorSample]) -> Option<SchedStatDelta> {
    let mut total = SchedStatDelta::default();
    let mut any = false;
    for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
        any |= add_schedstats(&mut total, before, now);
    }
    any.then_some(total)
}

/// Whether any CPU has the counters in both.
fn add_schedstats(total: &mut SchedStatDelta, before: &MonitorSample, now: &MonitorSample) -> bool {
    let mut any = false;
    for now in &now.cpus {
        let before = before.cpus.iter().find(|cpu| cpu.cpu == now.cpu);
        let (Some(now), Some(before)) = (now.schedstat, before.and_then(|cpu| cpu.schedstat))
        else {
            continue;
        };
        any = true;
        // The kernel's counters wrap at 32 or 64 bits; a step back is taken for no growth.
        let grow = |sum: &mut u64, now: u64, before: u64| {
            *sum = sum.saturating_add(now.saturating_sub(before));
        };
        grow(&mut total.run_delay, now.run_delay, before.run_delay);
        grow(&mut total.pcount, now.pcount, before.pcount);
        // What the kernel does not count has no growth, which is another thing than none.
        let grow = |sum: &mut Option<u64>, now: Option<u64>, before: Option<u64>| {
            if let (Some(now), Some(before)) = (now, before) {
                *sum = Some(sum.unwrap_or(0).saturating_add(now.saturating_sub(before)));
            }
        };
        grow(&mut total.sched_count, now.sched_count, before.sched_count);
        grow(&mut total.yld_count, now.yld_count, before.yld_count);
        grow(
            &mut total.sched_goidle,
            now.sched_goidle,
            before.sched_goidle,
        );
        grow(&mut total.ttwu_count, now.ttwu_count, before.ttwu_count);
        grow(&mut total.ttwu_local, now.ttwu_local, before.ttwu_local);
    }
    any
}

/// Since when a CPU's clock stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    clock: u64,
    since_ms: u64,
    vcpu_time: Option<u64>,
}

/// For each sample, the CPUs whose clock stands still although they are busy and the host lets them run.
///
/// Exempt are idle CPUs, whose tick is off, and vCPUs to which the host gave less than ten ticks' time meanwhile.
pub(super) fn stuck_observations(samples: &[&MonitorSample], hz: u32) -> Vec<Vec<u32>> {
    let grace_ms = (STUCK_AFTER_TICKS * 1000).div_ceil(u64::from(hz.max(1)));
    let mut standing: BTreeMap<u32, Standing> = BTreeMap::new();
    samples
        .iter()
        .map(|sample| {
            sample
                .cpus
                .iter()
                .filter(|cpu| is_stuck(cpu, sample.elapsed_ms, grace_ms, &mut standing))
                .map(|cpu| cpu.cpu)
                .collect()
        })
        .collect()
}

fn is_stuck(
    cpu: &CpuSnapshot,
    now_ms: u64,
    grace_ms: u64,
    standing: &mut BTreeMap<u32, Standing>,
) -> bool {
    let busy = !cpu.is_idle && cpu.nr_running > 0;
    let fresh = Standing {
        clock: cpu.rq_clock,
        since_ms: now_ms,
        vcpu_time: cpu.vcpu_cpu_time_ns,
    };
    let known = *standing.entry(cpu.cpu).or_insert(fresh);
    if known.clock != cpu.rq_clock || !busy {
        standing.insert(cpu.cpu, fresh);
        return false;
    }
    let delivered_ms = match (known.vcpu_time, cpu.vcpu_cpu_time_ns) {
        (Some(before), Some(now)) => now.saturating_sub(before) / 1_000_000,
        // Without the host's figures the vCPU is taken to have run.
        _ => now_ms.saturating_sub(known.since_ms),
    };
    let waited_ms = now_ms.saturating_sub(known.since_ms);
    waited_ms >= grace_ms && delivered_ms >= grace_ms && waited_ms > 0
}
