//! What one worker measured of itself, and how it ended.
//!
//! All times are of the guest's `CLOCK_MONOTONIC` and lie inside the worker's window: from the moment the ready
//! barrier opened to the moment the stop was asked for. Set-up and tear-down are outside.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::cpuset::CpuSet;

/// A time in which a worker that wanted to run made no progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Length in wall time.
    pub wall_ns: u64,
    /// The part of it that the worker spent on a CPU, as the guest's clock of CPU time has it.
    pub on_cpu_ns: u64,
    /// CPU on which the worker found out; `None` if it never ran again inside its window.
    pub cpu: Option<u32>,
    /// Start, from the opening of the barrier.
    pub at_ns: u64,
}

impl Gap {
    /// The part that the worker did not spend on a CPU: what a scheduler can be blamed for.
    pub fn off_cpu_ns(&self) -> u64 {
        self.wall_ns.saturating_sub(self.on_cpu_ns)
    }

    /// Length in milliseconds.
    pub fn wall_ms(&self) -> f64 {
        ns_to_ms(self.wall_ns)
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkerExit {
    /// Stopped when asked.
    #[default]
    Stopped,
    /// Ended by itself, with this status, before it was asked to.
    Exited(i32),
    /// Ended by this signal, which was not ours.
    Signaled(i32),
    /// Did not stop within the grace time and was killed.
    Killed {
        /// The grace time that it had.
        grace_ms: u64,
    },
    /// Was killed but could still not be reaped: it does not get a CPU to die on, or sleeps uninterruptibly.
    Unreaped,
    /// Could not be set up.
    SetupFailed {
        /// The step that failed.
        step: String,
        /// Its errno.
        errno: i32,
    },
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => write!(f, "stopped when asked"),
            Self::Exited(code) => write!(f, "exited by itself with status {code}"),
            Self::Signaled(signal) => write!(f, "ended by signal {signal}"),
            Self::Killed { grace_ms } => {
                write!(f, "killed, because it did not stop within {grace_ms} ms")
            }
            Self::Unreaped => write!(f, "killed, but never left the kernel"),
            Self::SetupFailed { step, errno } => write!(
                f,
                "not set up: {step}: {}",
                std::io::Error::from_raw_os_error(*errno)
            ),
        }
    }
}

/// The time between a wake-up being due and the woken worker running.
///
/// `samples_ns` is a uniform choice out of all wake-ups (reservoir), so its percentiles stand for all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeLatencies {
    /// Wake-ups seen.
    pub count: u64,
    /// Longest of all.
    pub max_ns: u64,
    /// The chosen ones, unordered.
    pub samples_ns: Vec<u64>,
}

/// Percentiles of one kind of latency that a benchmark measured over all of its requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// What it is of, for example `wakeup`.
    pub name: String,
    /// Samples.
    pub count: u64,
    /// Shortest.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

impl LatencySummary {
    /// The lines that schbench prints for such a distribution, microseconds.
    fn schbench_lines(&self, runtime_s: u64) -> String {
        let title: String = self
            .name
            .chars()
            .take(1)
            .flat_map(char::to_uppercase)
            .collect();
        let rest: String = self.name.chars().skip(1).collect();
        let us = |ns: u64| ns / 1_000;
        format!(
            "{title}{rest} Latencies percentiles (usec) runtime {runtime_s} (s) ({} total samples)\n\
             \t  50.0th: {}\n\t  90.0th: {}\n\t* 99.0th: {}\n\t  99.9th: {}\n\t  min={}, max={}\n",
            self.count,
            us(self.p50_ns),
            us(self.p90_ns),
            us(self.p99_ns),
            us(self.p999_ns),
            us(self.min_ns),
            us(self.max_ns),
        )
    }
}

/// Where a worker's pages lay when its window closed, and what the kernel moved meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagePlacement {
    /// Pages by node, from `/proc/PID/numa_maps`, in ascending order of nodes.
    pub by_node: Vec<(u32, u64)>,
    /// Nodes that the worker belongs on: those of its cpuset, else of the CPUs that it was seen on.
    pub own_nodes: Vec<u32>,
    /// Nodes without CPUs.
    pub slow_nodes: Vec<u32>,
    /// Pages that NUMA balancing moved between nodes in the window, of all processes (`numa_pages_migrated`); `None` where it
    /// is off.
    pub migrated: Option<u64>,
}

impl PagePlacement {
    /// All pages.
    pub fn total(&self) -> u64 {
        self.by_node.iter().map(|(_, pages)| pages).sum()
    }

    /// Pages on these nodes.
    pub fn on(&self, nodes: &[u32]) -> u64 {
        let there = self.by_node.iter().filter(|(node, _)| nodes.contains(node));
        there.map(|(_, pages)| pages).sum()
    }
}

/// What a cgroup's `cpu.max` kept back (`cpu.stat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// Periods in which the quota ran out.
    pub periods: u64,
    /// How long its tasks were kept back, summed over the CPUs.
    pub time_us: u64,
}

impl Throttled {
    /// What came on top of `before`; `None` when nothing did.
    #[must_use]
    pub fn since(self, before: Self) -> Option<Self> {
        let periods = self.periods.saturating_sub(before.periods);
        (periods > 0).then(|| Self {
            periods,
            time_us: self.time_us.saturating_sub(before.time_us),
        })
    }
}

/// What one worker measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The worker's task in the guest: its process, or its thread.
    pub tid: i32,
    /// Cgroup, relative to the workload root; empty for none.
    pub cgroup: String,
    /// The step in which it was started; 0 with the backdrop. Workers of different steps had other neighbours, and are no equals.
    pub step: u16,
    /// Name of the work type.
    pub work_type: String,
    /// Loops of the work type done.
    pub iterations: u64,
    /// Work done, in the work type's own unit.
    pub work_units: u64,
    /// CPU time used.
    pub cpu_time_ns: u64,
    /// Length of the window.
    pub wall_time_ns: u64,
    /// Changes of CPU noticed between iterations: a lower bound.
    pub migrations: u64,
    /// CPUs on which an iteration ended.
    pub cpus_seen: CpuSet,
    /// CPUs that the kernel allowed it at the end (`cpuset.cpus.effective` of its cgroup); `None`: no cpuset.
    pub cpuset: Option<CpuSet>,
    /// CPUs on which it was seen while they were not allowed, when a change of its cpuset had had its time.
    pub cpus_outside: CpuSet,
    /// The longest time without progress.
    pub longest_gap: Gap,
    /// The most by which one iteration took more CPU time than four usual ones: the vCPU itself was stopped from
    /// outside, for the guest charges that time to the running task.
    pub longest_stall_ns: u64,
    /// Wake-up latencies, for work types that sleep.
    pub wake: WakeLatencies,
    /// Percentiles of what a benchmark measured; empty for other work types.
    pub latencies: Vec<LatencySummary>,
    /// Where its pages lay; `None`: not counted, because the test did not ask.
    pub pages: Option<PagePlacement>,
    /// Time runnable but not running, from `/proc/PID/schedstat`.
    pub run_delay_ns: Option<u64>,
    /// What its cgroup's `cpu.max` kept back of it and its neighbours; `None`: no limit, or none hit.
    pub throttled: Option<Throttled>,
    /// Whether the work type waits for wake-ups, so that it has latencies of them.
    pub has_wakes: bool,
    /// Whether the work type wants a CPU all the time, so that off-CPU time is the scheduler's doing.
    pub cpu_bound: bool,
    /// How it ended.
    pub exit: WorkerExit,
}

impl WorkerReport {
    /// Share of the window not spent on a CPU, in percent; `None` for an empty window.
    pub fn off_cpu_pct(&self) -> Option<f64> {
        if self.wall_time_ns == 0 {
            return None;
        }
        let off = self.wall_time_ns.saturating_sub(self.cpu_time_ns);
        Some(off as f64 * 100.0 / self.wall_time_ns as f64)
    }

    /// What a benchmark would have printed, so that tools which read the original's output can read this one's; `None` for
    /// other work types.
    pub fn benchmark_output(&self) -> Option<String> {
        let runtime_s = (self.wall_time_ns / 1_000_000_000).max(1);
        let tables = self.latencies.iter().map(|l| l.schbench_lines(runtime_s));
        let mut text: String = tables.collect();
        let per_s = |name: &str| {
            let latency = self.latencies.iter().find(|l| l.name == name);
            per_second(latency.map_or(0, |l| l.count), self.wall_time_ns).unwrap_or(0.0)
        };
        if text.is_empty() {
            return None;
        }
        if self.latencies.iter().any(|l| l.name == "request") {
            text.push_str(&format!("average rps: {:.2}", per_s("request")));
        } else {
            let (fast, slow) = (per_s("fast"), per_s("slow"));
            text.push_str(&format!(
                "fast_qps = {fast:.1}, slow_qps = {slow:.1}, hit_rate = {:.4}",
                fast / (fast + slow).max(f64::MIN_POSITIVE)
            ));
        }
        Some(text)
    }
}

fn per_second(count: u64, wall_ns: u64) -> Option<f64> {
    (wall_ns > 0).then(|| count as f64 * 1e9 / wall_ns as f64)
}

/// Nanoseconds as fractional milliseconds.
pub(crate) fn ns_to_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The value at `percentile` (0 to 100) by nearest rank; `None` without samples.
pub fn percentile_ns(sorted_ns: &[u64], percentile: f64) -> Option<u64> {
    let last = sorted_ns.len().checked_sub(1)?;
    let rank = (percentile.clamp(0.0, 100.0) / 100.0 * sorted_ns.len() as f64).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rank is between 0 and the length"
    )]
    let index = (rank as usize).saturating_sub(1).min(last);
    sorted_ns.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_print_as_the_originals_do() {
        let latency = |name: &str, count| LatencySummary {
            name: name.to_owned(),
            count,
            p99_ns: 9_500,
            max_ns: 12_000,
            ..LatencySummary::default()
        };
        let report = |latencies| WorkerReport {
            wall_time_ns: 2_000_000_000,
            latencies,
            ..WorkerReport::default()
        };
        let schbench = report(vec![latency("wakeup", 100), latency("request", 90)]);
        let text = schbench.benchmark_output().unwrap();
        let head = "Wakeup Latencies percentiles (usec) runtime 2 (s) (100 total samples)\n\t  50.0th: 0\n";
        assert!(text.starts_with(head), "{text}");
        assert!(
            text.contains("\t* 99.0th: 9\n") && text.contains("\t  min=0, max=12\n"),
            "{text}"
        );
        assert!(text.ends_with("average rps: 45.00"), "{text}");
        let taobench = report(vec![latency("fast", 300), latency("slow", 100)]);
        let text = taobench.benchmark_output().unwrap();
        assert!(
            text.ends_with("fast_qps = 150.0, slow_qps = 50.0, hit_rate = 0.7500"),
            "{text}"
        );
        assert_eq!(report(Vec::new()).benchmark_output(), None);
    }

    #[test]
    fn an_empty_window_has_no_ratios() {
        let report = WorkerReport {
            iterations: 5,
            ..WorkerReport::default()
        };
        assert_eq!(report.off_cpu_pct(), None);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let samples: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile_ns(&samples, 99.0), Some(99));
        assert_eq!(percentile_ns(&samples, 50.0), Some(50));
        assert_eq!(percentile_ns(&samples, 100.0), Some(100));
        assert_eq!(percentile_ns(&[7], 0.0), Some(7));
        assert_eq!(percentile_ns(&[], 50.0), None);
    }
}
