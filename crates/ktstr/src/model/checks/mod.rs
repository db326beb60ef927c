//! Thresholds that a test asks for ([`Assert`]), and the pure functions that hold worker reports against them.
//!
//! An `Assert` is merged from three layers: [`Assert::default_checks`], then the scheduler's, then the test's; for each
//! field the last `Some` wins. Worker checks are judged in the guest ([`evaluate`]), monitor checks by the host.

mod cgroup;
mod evaluate;
mod gap;
mod monitor;
mod pages;
mod payload;
mod worker;

pub use evaluate::{evaluate, evaluate_in, summarize};
pub use gap::Circumstances;
pub use monitor::{SETTLE_SAMPLES, judge_monitor, monitor_thresholds};
pub use payload::apply_checks;

use serde::{Deserialize, Serialize};

use super::names::are_same;

/// A check is one entry: its documentation, its name, its type, and whom it concerns. What judges it is in `worker`, `pages` or
/// `monitor`.
macro_rules! checks {
    (
        workers { $( $(#[$of_worker:meta])* $worker:ident: $worker_type:ty, )* }
        pages { $( $(#[$of_page:meta])* $page:ident: $page_type:ty, )* }
        monitor { $( $(#[$of_monitor:meta])* $monitor:ident: $monitor_type:ty, )* }
    ) => {
        assert_fields! {
            $( $(#[$of_worker])* $worker: $worker_type, )*
            $( $(#[$of_page])* $page: $page_type, )*
            $( $(#[$of_monitor])* $monitor: $monitor_type, )*
        }

        impl Assert {
            /// Whether any check of the workers' pages is on.
            pub fn asks_of_pages(&self) -> bool {
                false $( || self.$page.is_on() )*
            }

            /// Whether any check of the workers is on.
            pub fn has_worker_checks(&self) -> bool {
                self.asks_of_pages() $( || self.$worker.is_on() )*
            }

            /// Whether anything is said of the monitor, on or off.
            pub(crate) const fn names_monitor(&self) -> bool {
                false $( || self.$monitor.is_some() )*
            }

            /// The checks of the monitor of which anything is said, on or off, by name.
            pub(crate) fn named_of_monitor(&self) -> Vec<&'static str> {
                let all = [$( (stringify!($monitor), self.$monitor.is_some()) ),*].into_iter();
                all.filter(|(_, is_named)| *is_named).map(|(name, _)| name).collect()
            }

            /// The checks of the monitor that are on, by name; `enforce_monitor_thresholds` is none of them by itself.
            pub(crate) fn asked_of_monitor(&self) -> Vec<&'static str> {
                let all = [$( (stringify!($monitor), self.$monitor.is_on()) ),*].into_iter();
                all.filter(|(name, is_on)| *is_on && *name != "enforce_monitor_thresholds")
                    .map(|(name, _)| name)
                    .collect()
            }
        }
    };
}

/// Whether something is asked for: a limit that is there, a flag that is set.
trait IsOn {
    fn is_on(&self) -> bool;
}

impl IsOn for Option<bool> {
    fn is_on(&self) -> bool {
        *self == Some(true)
    }
}

impl IsOn for Option<u32> {
    fn is_on(&self) -> bool {
        self.is_some()
    }
}

impl IsOn for Option<u64> {
    fn is_on(&self) -> bool {
        self.is_some()
    }
}

impl IsOn for Option<f64> {
    fn is_on(&self) -> bool {
        self.is_some()
    }
}

macro_rules! assert_fields {
    ($( $(#[$doc:meta])* $name:ident: $type:ty, )*) => {
        /// What a test asserts. `None` means "not asked here": a lower layer's value stays.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
        pub struct Assert {
            $( $(#[$doc])* pub $name: Option<$type>, )*
        }

        impl Assert {
            /// The names of all checks.
            pub const NAMES: &'static [&'static str] = &[$( stringify!($name) ),*];

            /// Asks for nothing.
            pub const NO_OVERRIDES: Self = Self { $( $name: None, )* };

            /// This layer under `upper`: for each field the upper `Some` wins.
            #[must_use]
            pub const fn merge(self, upper: Self) -> Self {
                Self { $( $name: match upper.$name { Some(value) => Some(value), None => self.$name }, )* }
            }

            $( $(#[$doc])*
            #[must_use]
            pub const fn $name(mut self, value: $type) -> Self {
                self.$name = Some(value);
                self
            } )*
        }
    };
}

checks! {
    workers {
        /// Every worker makes progress; also turns on the spread and gap limits of this build profile.
        not_stuck: bool,
        /// No worker is seen on a CPU outside its cgroup's cpuset.
        isolation: bool,
        /// Longest time without progress of any worker, milliseconds, limit included.
        max_gap_ms: u64,
        /// Highest less lowest off-CPU share among the workers of a cgroup, percentage points, limit included.
        max_spread_pct: f64,
        /// Coefficient of variation of the work per second of CPU time within a cgroup, limit included.
        max_throughput_cv: f64,
        /// As `max_throughput_cv`, of the work per second of wall time: also sees a worker that gets less of the CPU than others.
        max_throughput_cv_wall: f64,
        /// Work units per second of its CPU time that every worker must reach.
        min_work_rate: f64,
        /// As `min_work_rate`, per second of wall time: also sees a worker that does not get the CPU.
        min_work_rate_wall: f64,
        /// Iterations per second of its CPU time that every worker must reach.
        min_iteration_rate: f64,
        /// As `min_iteration_rate`, per second of wall time: also sees a worker that does not get the CPU.
        min_iteration_rate_wall: f64,
        /// Migrations per iteration of a cgroup's workers, limit included.
        max_migration_ratio: f64,
        /// 99th percentile of a cgroup's wake-up latencies, nanoseconds, limit included.
        max_p99_wake_latency_ns: u64,
        /// Coefficient of variation of a cgroup's wake-up latencies, limit included.
        max_wake_latency_cv: f64,
    }
    pages {
        /// Share of pages on the worker's own NUMA nodes, 0 to 1.
        min_page_locality: f64,
        /// Pages that the kernel's NUMA balancing moved between nodes, of all processes, per page that the workers have. Where
        /// `kernel.numa_balancing` is 0, nothing is counted, and the check is inconclusive.
        max_cross_node_migration_ratio: f64,
        /// Share of pages in slow memory, 0 to 1.
        max_slow_tier_ratio: f64,
    }
    monitor {
        /// Monitor: highest nr_running over the lowest (at least 1).
        max_imbalance_ratio: f64,
        /// Monitor: tasks in a local dispatch queue.
        max_local_dsq_depth: u32,
        /// Monitor: a runqueue clock that stands still on a busy CPU fails the test.
        fail_on_rq_clock_stuck: bool,
        /// Monitor: samples in a row that must breach before it counts.
        sustained_samples: u32,
        /// Monitor: select_cpu fallbacks per vCPU and second.
        max_fallback_rate: f64,
        /// Monitor: keep-last dispatches per vCPU and second.
        max_keep_last_rate: f64,
        /// Monitor thresholds fail the test instead of being reported only.
        enforce_monitor_thresholds: bool,
    }
}

const _: () = assert!(
    are_same(ktstr_macros::knob_names!(checks), Assert::NAMES),
    "the checks of `Assert` and those that ktstr-macros takes (WORKER_CHECKS and MONITOR_CHECKS in its test.rs) differ; add what is missing"
);

/// Limits that `not_stuck` turns on, per build profile: a debug build's workers and schedulers are slower.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProgressLimits {
    /// Longest time without progress.
    pub gap_ms: u64,
    /// Spread of off-CPU shares, percentage points.
    pub spread_pct: f64,
}

impl ProgressLimits {
    /// The limits of a build with or without debug assertions.
    pub const fn of(debug_build: bool) -> Self {
        if debug_build {
            Self {
                gap_ms: 3_000,
                spread_pct: 35.0,
            }
        } else {
            Self {
                gap_ms: 2_000,
                spread_pct: 15.0,
            }
        }
    }

    /// The limits of this build.
    pub const CURRENT: Self = Self::of(cfg!(debug_assertions));
}

impl Assert {
    /// The lowest layer: no worker check, and the monitor's default thresholds, which are only reported.
    #[must_use]
    pub const fn default_checks() -> Self {
        Self::NO_OVERRIDES
            .with_monitor_defaults()
            .enforce_monitor_thresholds(false)
    }

    /// Sets the monitor's six thresholds to their defaults, and makes a breach fail the test.
    #[must_use]
    pub const fn with_monitor_defaults(self) -> Self {
        self.max_imbalance_ratio(4.0)
            .max_local_dsq_depth(50)
            .fail_on_rq_clock_stuck(true)
            .sustained_samples(5)
            .max_fallback_rate(200.0)
            .max_keep_last_rate(100.0)
            .enforce_monitor_thresholds(true)
    }

    /// Turns `not_stuck` on.
    #[must_use]
    pub const fn check_not_stuck(self) -> Self {
        self.not_stuck(true)
    }

    /// Turns `isolation` on.
    #[must_use]
    pub const fn check_isolation(self) -> Self {
        self.isolation(true)
    }

    /// All three layers.
    #[must_use]
    pub const fn layered(scheduler: Self, test: Self) -> Self {
        Self::default_checks().merge(scheduler).merge(test)
    }

    /// The gap limit in force, in milliseconds: the one asked for, else that of `not_stuck`.
    pub fn effective_gap_ms(&self) -> Option<u64> {
        self.max_gap_ms.or_else(|| {
            self.asks_not_stuck()
                .then_some(ProgressLimits::CURRENT.gap_ms)
        })
    }

    /// The spread limit in force, in percentage points: the one asked for, else that of `not_stuck`.
    pub fn effective_spread_pct(&self) -> Option<f64> {
        self.max_spread_pct.or_else(|| {
            self.asks_not_stuck()
                .then_some(ProgressLimits::CURRENT.spread_pct)
        })
    }

    /// Whether `not_stuck` is on.
    pub fn asks_not_stuck(&self) -> bool {
        self.not_stuck == Some(true)
    }

    /// Whether `isolation` is on.
    pub fn asks_isolation(&self) -> bool {
        self.isolation == Some(true)
    }
}

#[cfg(test)]
mod tests;
