//! What each work type is for and what its figures mean.

use super::WorkType;

/// What a work type is for and what its figures mean; the table of work types is made from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkTypeInfo {
    /// Its name.
    pub name: &'static str,
    /// What it exercises in the kernel.
    pub exercises: &'static str,
    /// What one iteration is.
    pub iteration: &'static str,
    /// What its wake latency is; `None`: it never waits for a wake-up.
    pub wake_latency: Option<&'static str>,
    /// Workers that form one group; a worker count is a multiple of it.
    pub group_size: usize,
    /// Whether it wants a CPU all the time, so that off-CPU time is the scheduler's doing.
    pub cpu_bound: bool,
}

/// What the workers of one type are to each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Workers that form one group.
    pub(super) group_size: usize,
    /// Cgroups that they move between.
    pub(super) side_cgroups: usize,
    /// All but the first of a group begin asleep, waiting for another.
    pub(crate) takes_turns: bool,
    /// What the two histograms of a benchmark are of.
    pub(crate) latencies: &'static [&'static str],
}

impl Shape {
    /// Each for itself.
    pub(super) const ALONE: Self = Self {
        group_size: 1,
        side_cgroups: 0,
        takes_turns: false,
        latencies: &[],
    };
}

pub(super) const fn at_least_one(workers: usize) -> usize {
    if workers == 0 { 1 } else { workers }
}

/// Wants a CPU all the time. The table puts in the name.
pub(super) const fn busy(exercises: &'static str, iteration: &'static str) -> WorkTypeInfo {
    WorkTypeInfo {
        name: "",
        exercises,
        iteration,
        wake_latency: None,
        group_size: 1,
        cpu_bound: true,
    }
}

/// Sleeps, but is not woken by others in a way that can be timed.
pub(super) const fn silent(exercises: &'static str, iteration: &'static str) -> WorkTypeInfo {
    WorkTypeInfo {
        cpu_bound: false,
        ..busy(exercises, iteration)
    }
}

/// Sleeps, and knows how long each wake-up took.
pub(super) const fn waking(
    exercises: &'static str,
    iteration: &'static str,
    wake_latency: &'static str,
) -> WorkTypeInfo {
    WorkTypeInfo {
        wake_latency: Some(wake_latency),
        ..silent(exercises, iteration)
    }
}

pub(super) const DUE: &str = "from the requested end of the sleep to running";
pub(super) const WOKEN: &str = "from the partner's futex_wake to running";

impl WorkType {
    /// What it is for and what its figures mean.
    pub const fn info(&self) -> WorkTypeInfo {
        WorkTypeInfo {
            group_size: self.shape().group_size,
            ..self.description()
        }
    }
}
