//! What a sample holds: plain data, for sidecars and for callers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::MonitorSummary;

/// The state of all CPUs at a moment. Not one instant: the guest runs on while it is read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorSample {
    /// Host time since sampling began, milliseconds.
    pub elapsed_ms: u64,
    /// Each CPU, ascending.
    pub cpus: Vec<CpuSnapshot>,
    /// sched_ext's event counters, summed over CPUs; by name, where the kernel has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, i64>,
    /// The scheduler's programs by name: what they ran. Empty while `kernel.bpf_stats_enabled` is off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, ProgramStats>,
    /// Schedulers enabled since boot (`scx_enable_seq`): says whose the counters are. None on a kernel that does not count
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_seq: Option<u64>,
    /// `scx_exit_kind`, or the scheduler's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_kind: Option<u32>,
    /// Map members that are watched, in the order they were added; none where reading failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<Option<u64>>,
}

/// One CPU at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuSnapshot {
    /// The CPU.
    pub cpu: u32,
    /// Runnable tasks, the running one included.
    pub nr_running: u32,
    /// The runqueue's clock, nanoseconds.
    pub rq_clock: u64,
    /// Whether the idle task runs.
    pub is_idle: bool,
    /// Runnable tasks of the ext class.
    pub scx_nr_running: Option<u32>,
    /// Tasks in the local dispatch queue.
    pub local_dsq_depth: Option<u32>,
    /// `enum scx_rq_flags`.
    pub scx_flags: Option<u32>,
    /// Average utilisation by interrupts, of 1024.
    pub avg_irq_util: Option<u32>,
    /// Counters of `/proc/schedstat`.
    pub schedstat: Option<SchedStatSnapshot>,
    /// CPU time that the host gave the vCPU so far, nanoseconds, where the caller knows it.
    pub vcpu_cpu_time_ns: Option<u64>,
}

/// Counters of `/proc/schedstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedStatSnapshot {
    /// Time that tasks waited, nanoseconds.
    pub run_delay: u64,
    /// Time slices run.
    pub pcount: u64,
    /// Calls of `schedule`. This one and those below are counted while `kernel.sched_schedstats` is on; None else.
    pub sched_count: Option<u64>,
    /// Calls of `sched_yield`.
    pub yld_count: Option<u64>,
    /// Those calls of `schedule` that went idle.
    pub sched_goidle: Option<u64>,
    /// Wake-ups.
    pub ttwu_count: Option<u64>,
    /// Wake-ups of tasks that were last here.
    pub ttwu_local: Option<u64>,
}

/// Run-time statistics of a BPF program, summed over CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStats {
    /// Runs.
    pub run_cnt: u64,
    /// Time of those runs, nanoseconds.
    pub run_time_ns: u64,
    /// Runs refused because of recursion.
    pub recursion_misses: u64,
}

/// A map member that is sampled too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedField {
    /// What to call it.
    pub label: String,
    /// Whether what it grows by counts, not its value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counter: bool,
}

impl WatchedField {
    /// A member of which the value counts.
    #[must_use]
    pub fn gauge(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            counter: false,
        }
    }
}

/// All samples of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorReport {
    /// In order of time.
    pub samples: Vec<MonitorSample>,
    /// Names of [`MonitorSample::watched`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<WatchedField>,
    /// What they amount to.
    pub summary: MonitorSummary,
    /// The guest's tick rate.
    pub hz: u32,
}

/// `CONFIG_HZ` where the kernel's own is unknown.
const DEFAULT_HZ: u32 = 250;

impl MonitorReport {
    /// Condenses samples of a guest with this tick rate; 0 means unknown.
    #[must_use]
    pub fn new(samples: Vec<MonitorSample>, hz: u32) -> Self {
        let hz = if hz == 0 { DEFAULT_HZ } else { hz };
        Self {
            summary: MonitorSummary::of(&samples, hz),
            samples,
            watched: Vec::new(),
            hz,
        }
    }

    /// With the names of [`MonitorSample::watched`].
    #[must_use]
    pub fn with_watched(mut self, watched: Vec<WatchedField>) -> Self {
        self.watched = watched;
        self
    }

    /// Without the first `count` samples: boot and loading are real, but not what a test is about.
    #[must_use]
    pub fn settled(&self, count: usize) -> Self {
        let kept = self.samples.get(count..).unwrap_or_default().to_vec();
        Self {
            watched: self.watched.clone(),
            ..Self::new(kept, self.hz)
        }
    }
}
