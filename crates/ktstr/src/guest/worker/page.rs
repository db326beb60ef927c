//! The memory that a group of workers shares with its parent.
//!
//! ```text
//! Control (one)   phase · stop · start_ns · stop_ns · ready
//! Slot (each)     state, failure | counters | gap | wake-ups and their samples | hand-over word
//! ```
//!
//! A worker writes its own slot as it goes, so that one that is killed leaves what it measured until then. The
//! parent reads counters at any time with `Relaxed`: they are figures, and publish nothing. `phase`, `state` and
//! `handoff` publish what was written before them (`Release`/`Acquire`). A gap's four fields may be torn when the
//! worker is killed between two stores; that is harmless, for each is a value that was true once.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::histogram::Histogram;
use crate::guest::sys::SharedAtomics;
use crate::model::cpuset::CpuSet;
use crate::model::report::{Gap, WakeLatencies};

/// Wake-up samples kept per worker: 32 KiB, and enough for a p99 within a tenth of a percentile.
pub(super) const WAKE_SAMPLES: usize = 4_096;
/// CPUs that can be noted as seen.
const MAX_CPUS: u32 = 1_024;
/// `base_ns` of a worker that sleeps because it wants to.
pub(super) const ASLEEP: u64 = u64::MAX;

/// What the parent tells all workers of a group.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Control {
    pub(super) phase: AtomicU32,
    pub(super) stop: AtomicU32,
    /// Same, for a custom loop.
    pub(super) stop_flag: AtomicBool,
    pub(super) ready: AtomicU32,
    pub(super) start_ns: AtomicU64,
    pub(super) stop_ns: AtomicU64,
    /// What passed before this moment is no gap (the group was frozen); `u64::MAX`: it is frozen now.
    pub(super) excused_ns: AtomicU64,
}

// SAFETY: atomics only, for which zero bytes are values; the padding is never read.
unsafe impl SharedAtomics for Control {}

/// Values of [`Control::phase`], in order; 0 is forked, not yet in its cgroup.
pub(super) mod phase {
    /// In its cgroup: set yourself up.
    pub(in super::super) const PLACED: u32 = 1;
    /// The barrier is open: work.
    pub(in super::super) const STARTED: u32 = 2;
}

/// Values of [`Slot::state`].
pub(super) mod state {
    /// Set up, waiting at the barrier.
    pub(in super::super) const READY: u32 = 1;
    /// Could not be set up; `fail_step` and `fail_errno` say why.
    pub(in super::super) const FAILED: u32 = 2;
}

/// What one worker tells its parent.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    pub(super) state: AtomicU32,
    pub(super) fail_step: AtomicU32,
    pub(super) fail_errno: AtomicU32,
    /// Process and thread of the worker.
    pub(super) pid: AtomicU32,
    pub(super) tid: AtomicU32,
    /// Futex word for work types that take turns: 1 = this worker's turn.
    pub(super) handoff: AtomicU32,
    /// Words of the work type's own; a group uses those of its first worker.
    pub(super) words: [AtomicU32; 4],
    /// When the work type's last event was sent, for those that cannot say to whom.
    pub(super) mark_ns: AtomicU64,
    pub(super) iterations: AtomicU64,
    pub(super) work_units: AtomicU64,
    pub(super) migrations: AtomicU64,
    pub(super) cpu_start_ns: AtomicU64,
    pub(super) cpu_now_ns: AtomicU64,
    /// Since when the worker wants to run without having said that it does; [`ASLEEP`]: it does not want to.
    pub(super) base_ns: AtomicU64,
    pub(super) gap_wall_ns: AtomicU64,
    pub(super) gap_on_cpu_ns: AtomicU64,
    pub(super) gap_at_ns: AtomicU64,
    /// CPU number plus one; 0: none.
    pub(super) gap_cpu: AtomicU64,
    pub(super) stall_ns: AtomicU64,
    pub(super) cpus: [AtomicU64; (MAX_CPUS / 64) as usize],
    pub(super) wake_count: AtomicU64,
    pub(super) wake_max_ns: AtomicU64,
    pub(super) wake_samples: [AtomicU64; WAKE_SAMPLES],
    /// Two kinds of latency of a benchmark, see `WorkType::shape`.
    pub(super) latencies: [Histogram; 2],
}

// SAFETY: atomics, arrays of them, and structures of those only; the padding is never read.
unsafe impl SharedAtomics for Slot {}

impl Slot {
    /// Notes a CPU as seen; numbers above the table are left out.
    pub(super) fn note_cpu(&self, cpu: u32) {
        let Some(word) = self.cpus.get((cpu / 64) as usize) else {
            return;
        };
        let bit = 1 << (cpu % 64);
        // Mostly it is there already, and a load costs the neighbours nothing.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// CPUs noted since this was last asked.
    pub(super) fn take_cpus(&self) -> CpuSet {
        let words: Vec<u64> = self
            .cpus
            .iter()
            .map(|word| word.swap(0, Ordering::Relaxed))
            .collect();
        (0..MAX_CPUS)
            .filter(|cpu| words[(cpu / 64) as usize] & (1 << (cpu % 64)) != 0)
            .collect()
    }

    /// CPU time in the window, as the worker last noted it.
    pub(super) fn noted_cpu_ns(&self) -> u64 {
        let start = self.cpu_start_ns.load(Ordering::Relaxed);
        self.cpu_now_ns
            .load(Ordering::Relaxed)
            .saturating_sub(start)
    }

    /// The longest gap that the worker noticed itself, its start counted from `start_ns`.
    pub(super) fn noticed_gap(&self, start_ns: u64) -> Gap {
        let cpu = self.gap_cpu.load(Ordering::Relaxed).checked_sub(1);
        Gap {
            wall_ns: self.gap_wall_ns.load(Ordering::Relaxed),
            on_cpu_ns: self.gap_on_cpu_ns.load(Ordering::Relaxed),
            cpu: cpu.and_then(|cpu| u32::try_from(cpu).ok()),
            at_ns: self
                .gap_at_ns
                .load(Ordering::Relaxed)
                .saturating_sub(start_ns),
        }
    }

    /// Wake-ups so far.
    pub(super) fn wakes(&self) -> WakeLatencies {
        let count = self.wake_count.load(Ordering::Relaxed);
        let kept = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(WAKE_SAMPLES);
        WakeLatencies {
            count,
            max_ns: self.wake_max_ns.load(Ordering::Relaxed),
            samples_ns: self.wake_samples[..kept]
                .iter()
                .map(|sample| sample.load(Ordering::Relaxed))
                .collect(),
        }
    }
}
