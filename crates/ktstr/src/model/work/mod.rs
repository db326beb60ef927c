//! What workers do and how they run, as data. The guest carries it out.

mod benchmark;
mod custom;
mod forms;
mod info;
mod spec;
mod table;
mod types;

pub use benchmark::{SchbenchConfig, TaobenchConfig};
pub(crate) use custom::WorkLoop;
pub use custom::{CustomCfg, CustomWork, WorkerCtx};
pub use info::WorkTypeInfo;
pub use spec::{
    AffinityIntent, CloneMode, MemPolicy, MpolFlags, SchedClass, SchedPolicy, WorkSpec,
    WorkersError,
};
pub use table::markdown as work_type_table;
pub use types::WorkType;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Independent chains of multiplications that [`WorkType::AluHot`] keeps in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AluWidth {
    /// One: bound by latency.
    #[default]
    Scalar,
    /// Four.
    Medium,
    /// Eight: as much as the CPU can do, the most heat.
    Widest,
}

/// One part of a [`WorkType::Sequence`]. Each lasts its time, of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkPhase {
    /// Spins.
    Spin(Duration),
    /// Sleeps.
    Sleep(Duration),
    /// Yields all the time.
    Yield(Duration),
    /// Writes blocks of 4 KiB to a file and syncs each.
    Io(Duration),
    /// Spins with several chains of multiplications, as [`WorkType::AluHot`] does.
    AluHot {
        /// How many chains.
        width: AluWidth,
        /// For how long.
        duration: Duration,
    },
}

impl WorkPhase {
    /// Spins with several chains of multiplications.
    #[must_use]
    pub const fn alu_hot(width: AluWidth, duration: Duration) -> Self {
        Self::AluHot { width, duration }
    }
}

/// What carries the baton of a [`WorkType::WakeChain`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WakeMechanism {
    /// A pipe: synchronous wake-ups (`WF_SYNC`).
    #[default]
    Pipe,
    /// A futex: plain wake-ups.
    Futex,
}

/// The lock of a [`WorkType::PriorityInversion`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FutexLockMode {
    /// With priority inheritance: the holder is lifted to the class of the waiting task.
    Pi,
    /// Without.
    #[default]
    Plain,
}

impl WorkType {
    /// The work type of this name, with its usual parameters; none for `Custom`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|work| work.name() == name)
    }

    /// The name that is meant by one of another case.
    #[must_use]
    pub fn suggest(name: &str) -> Option<&'static str> {
        let known = Self::ALL_NAMES.iter().copied();
        known
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether its workers move between cgroups by themselves, and so need this many to go to.
    #[must_use]
    pub const fn side_cgroups(&self) -> usize {
        self.shape().side_cgroups
    }

    /// Its name; of a custom one, its author's.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Custom(custom) => &custom.name,
            _ => self.info().name,
        }
    }

    /// Workers that form one group, where these are more than one.
    #[must_use]
    pub const fn worker_group_size(&self) -> Option<usize> {
        match self.info().group_size {
            0 | 1 => None,
            group => Some(group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::WorkerReport;
    use super::*;

    /// The list's length comes from the table of names, which the compiler holds against the enum.
    #[test]
    fn every_work_type_is_listed_once() {
        let all = WorkType::all();
        let listed: Vec<&str> = all.iter().map(WorkType::name).collect();
        let named: Vec<&str> = WorkType::ALL_NAMES
            .iter()
            .copied()
            .filter(|name| *name != "Custom")
            .collect();
        assert_eq!(listed, named);
    }

    #[test]
    fn names_read_back() {
        for work in WorkType::all() {
            assert_eq!(WorkType::from_name(work.name()), Some(work));
        }
        assert_eq!(WorkType::from_name("Nothing"), None);
        assert_eq!(WorkType::suggest("spinwait"), Some("SpinWait"));
        assert_eq!(WorkType::suggest("Nothing"), None);
        assert_eq!(WorkType::default(), WorkType::SpinWait);
    }

    #[test]
    fn all_but_custom_have_a_serial_form() {
        for work in WorkType::all() {
            let json = serde_json::to_string(&work).unwrap();
            assert_eq!(serde_json::from_str::<WorkType>(&json).unwrap(), work);
        }
        let custom = WorkType::custom("mine", |_| WorkerReport::default());
        assert_eq!(custom.name(), "mine");
        assert!(serde_json::to_string(&custom).is_err());
    }

    #[test]
    fn groups_follow_the_fields() {
        let size = |work: WorkType| work.worker_group_size();
        assert_eq!(size(WorkType::SpinWait), None);
        assert_eq!(size(WorkType::pipe_io(0)), Some(2));
        assert_eq!(size(WorkType::futex_fan_out(6, 0)), Some(7));
        assert_eq!(
            size(WorkType::wake_chain(
                5,
                WakeMechanism::Futex,
                Duration::from_millis(1)
            )),
            Some(5)
        );
        assert_eq!(size(WorkType::epoll_storm(2, 3, 1)), Some(5));
        assert_eq!(size(WorkType::preempt_storm(3, 1, 1)), Some(4));
        assert_eq!(size(WorkType::rt_starvation(2, 3, 1, 1)), Some(5));
        let inversion = WorkType::priority_inversion(1, 2, 3, 1, 1, FutexLockMode::Pi);
        assert_eq!(size(inversion), Some(6));
    }
}
