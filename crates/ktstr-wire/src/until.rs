//! A step that ends by the state of the kernel: what the guest asks the host to wait for.

use serde::{Deserialize, Serialize};

/// Most [`StateTest`]s of one condition, all alternatives together.
pub const MAX_STATE_TESTS: usize = 64;

/// One thing that can be true of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateTest {
    /// A task of this name has gone to sleep and is still queued (`sched_entity.sched_delayed`).
    TaskDelayed(String),
    /// A task of this name is on a runqueue (`task_struct.on_rq`).
    TaskQueued(String),
    /// A queued fair task of this name has had more than its share (EEVDF: negative lag).
    TaskIneligible(String),
    /// This CPU runs a task of this name (`rq.curr`).
    TaskRunsOn {
        /// The task's name.
        name: String,
        /// The CPU.
        cpu: u32,
    },
    /// The bandwidth of the cgroup with this path is used up on this CPU (`cfs_rq.throttled`).
    CgroupThrottledOn {
        /// Path below the root of the unified hierarchy, with a slash at its start.
        path: String,
        /// The CPU.
        cpu: u32,
    },
    /// This CPU runs its idle task.
    CpuIdle(u32),
    /// The function with this number of those that the test declares.
    Custom(u32),
}

impl StateTest {
    /// Its name of a task or a cgroup, which has a limited length.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::TaskDelayed(text) | Self::TaskQueued(text) | Self::TaskIneligible(text) => text,
            Self::TaskRunsOn { name: text, .. } | Self::CgroupThrottledOn { path: text, .. } => {
                text
            }
            Self::CpuIdle(_) | Self::Custom(_) => "",
        }
    }
}

/// What became of an [`UntilRequest`](crate::UntilRequest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// The host watches each switch, wake-up and tick. The end is told in the mailbox ([`crate::gate::UNTIL_AT`]).
    Watched,
    /// It was reached; seen by looking now and then.
    Reached,
    /// It was not reached in time, as far as looking now and then shows.
    NotReached,
}

/// The host's answer to an [`UntilRequest`](crate::UntilRequest).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntilReply {
    /// The request's id.
    pub id: u32,
    /// What became of it, or why it cannot be watched; the reason has at most 256 bytes.
    pub result: Result<Until, String>,
}
