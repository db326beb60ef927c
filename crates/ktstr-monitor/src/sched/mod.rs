//! The scheduler's state: one reader per structure. None of them holds a lock, and none needs one to stay sane.

mod domain;
mod dsq;
mod events;
mod group;
mod leaving;
mod runqueue;
mod scx;
mod server;
mod stack;
mod state;
mod task;
mod watchdog;

pub use domain::SchedDomain;
pub use dsq::{DispatchQueue, DsqKind, QueuedTask};
pub use events::EventCounters;
pub use group::TaskGroup;
pub use leaving::ScxLeaving;
pub use runqueue::{KickMasks, RunnableTask, Runqueue, RunqueueScx, SchedStat};
pub use scx::{ScxExit, ScxIdle, ScxLayout, ScxScheduler, ScxState};
pub use server::DlServer;
pub use state::Fact;
pub use task::{Task, TaskRef, TaskScx};
pub use watchdog::{WatchdogHold, WatchdogOverride};

pub(crate) use scx::ScxPlaces;

/// A read whose parts may have failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Walk<T> {
    /// What was found.
    pub found: T,
    /// What was not, and why.
    #[serde(skip_serializing_if = "crate::Problems::is_empty")]
    pub problems: crate::Problems,
}

#[cfg(test)]
mod readers;
#[cfg(test)]
mod tests;
