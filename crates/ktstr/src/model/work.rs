//! What workers do and how they run, as data. The guest carries it out.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::cpuset::CpuSet;

/// What a worker does in a loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkType {
    /// Spins: always wants a CPU.
    SpinWait,
    /// Spins a little and yields: `sched_yield` on every iteration.
    YieldHeavy,
    /// Two workers wake each other in turn through futexes.
    FutexPingPong {
        /// Spins between being woken and waking the partner.
        spin: u32,
    },
    /// Spins for a while, then sleeps for a while.
    Bursty {
        /// Time spent spinning.
        burst: Duration,
        /// Time spent asleep.
        sleep: Duration,
    },
}

/// What a work type is for and what its figures mean; the table of work types is made from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkTypeInfo {
    /// Its name.
    pub name: &'static str,
    /// Kernel path that it presses.
    pub presses: &'static str,
    /// What one iteration is.
    pub iteration: &'static str,
    /// What its wake latency is; `None`: it never sleeps.
    pub wake_latency: Option<&'static str>,
    /// Workers that form one group; a worker count is a multiple of it.
    pub group_size: usize,
    /// Whether it wants a CPU all the time, so that off-CPU time is the scheduler's doing.
    pub cpu_bound: bool,
}

impl WorkType {
    /// A ping-pong that hands over at once.
    pub const FUTEX_PING_PONG: Self = Self::FutexPingPong { spin: 0 };
    /// 5 ms of spinning, 5 ms of sleep.
    pub const BURSTY: Self = Self::Bursty {
        burst: Duration::from_millis(5),
        sleep: Duration::from_millis(5),
    };

    /// One of each, with usual parameters.
    pub const ALL: [Self; 4] = [
        Self::SpinWait,
        Self::YieldHeavy,
        Self::FUTEX_PING_PONG,
        Self::BURSTY,
    ];

    /// The work type of this name, with usual parameters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.info().name
    }

    /// What it is for and what its figures mean.
    pub const fn info(&self) -> WorkTypeInfo {
        match self {
            Self::SpinWait => WorkTypeInfo {
                name: "SpinWait",
                presses: "tick preemption, load balancing",
                iteration: "a chain of 8192 multiplications",
                wake_latency: None,
                group_size: 1,
                cpu_bound: true,
            },
            Self::YieldHeavy => WorkTypeInfo {
                name: "YieldHeavy",
                presses: "sched_yield, requeue, pick next",
                iteration: "64 multiplications and one sched_yield",
                wake_latency: None,
                group_size: 1,
                cpu_bound: true,
            },
            Self::FutexPingPong { .. } => WorkTypeInfo {
                name: "FutexPingPong",
                presses: "futex wake, select_cpu, wake-up preemption",
                iteration: "woken once and the partner woken once",
                wake_latency: Some("from the partner's futex_wake to running"),
                group_size: 2,
                cpu_bound: false,
            },
            Self::Bursty { .. } => WorkTypeInfo {
                name: "Bursty",
                presses: "hrtimer wake-up, idle entry and exit, vruntime after sleep",
                iteration: "one chunk of the burst (8192 multiplications)",
                wake_latency: Some("from the requested end of the sleep to running"),
                group_size: 1,
                cpu_bound: false,
            },
        }
    }
}

/// Scheduling policy of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SchedPolicy {
    /// `SCHED_OTHER`.
    #[default]
    Other,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO` with this priority, 1 to 99.
    Fifo(u32),
    /// `SCHED_RR` with this priority, 1 to 99.
    RoundRobin(u32),
    /// `SCHED_EXT`.
    Ext,
}

/// CPUs that a worker binds itself to, inside its cpuset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Affinity {
    /// Whatever the cpuset allows.
    #[default]
    Inherit,
    /// Exactly these.
    Exact(CpuSet),
    /// One CPU each: worker i gets the i-th CPU of its cpuset, round and round.
    SingleCpu,
    /// One LLC each: worker i gets the part of its cpuset in the i-th LLC.
    LlcAligned,
    /// One core each: worker i gets all threads of the i-th core.
    SmtSiblings,
}

/// How a worker is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloneMode {
    /// A process of its own.
    #[default]
    Fork,
    /// A thread of the test's process.
    Thread,
}

/// How many workers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum WorkerCount {
    /// Exactly this many.
    Exactly(usize),
    /// This many percent of the CPUs in the cpuset, at least one group.
    PctOfCpus(f64),
}

impl WorkerCount {
    /// Workers for a cpuset of `cpus` CPUs, rounded up to whole groups.
    pub fn resolve(self, cpus: usize, group_size: usize) -> usize {
        let group_size = group_size.max(1);
        let wanted = match self {
            Self::Exactly(count) => return count.div_ceil(group_size) * group_size,
            Self::PctOfCpus(pct) => cpus as f64 * pct.max(0.0) / 100.0,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and a float above usize saturates"
        )]
        let wanted = wanted.round() as usize;
        wanted.max(1).div_ceil(group_size) * group_size
    }
}

/// One kind of work in a cgroup. What is `None` comes from the [`CgroupDef`](super::scenario::CgroupDef).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkSpec {
    /// What the workers do.
    pub work_type: WorkType,
    /// How many.
    pub workers: Option<WorkerCount>,
    /// Their policy.
    pub policy: Option<SchedPolicy>,
    /// Their nice value, -20 to 19.
    pub nice: Option<i32>,
    /// Their name in the kernel, cut after 15 bytes.
    pub comm: Option<String>,
    /// CPUs that they bind themselves to.
    pub affinity: Option<Affinity>,
    /// How they are made.
    pub clone_mode: CloneMode,
}

impl WorkSpec {
    /// This work, everything else from the cgroup.
    pub fn new(work_type: WorkType) -> Self {
        Self {
            work_type,
            workers: None,
            policy: None,
            nice: None,
            comm: None,
            affinity: None,
            clone_mode: CloneMode::Fork,
        }
    }

    /// Exactly this many workers.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(WorkerCount::Exactly(count));
        self
    }

    /// Workers for this many percent of the cpuset's CPUs.
    #[must_use]
    pub fn workers_pct(mut self, pct: f64) -> Self {
        self.workers = Some(WorkerCount::PctOfCpus(pct));
        self
    }

    /// Sets the policy.
    #[must_use]
    pub fn policy(mut self, policy: SchedPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sets the nice value.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Sets the name.
    #[must_use]
    pub fn comm(mut self, comm: impl Into<String>) -> Self {
        self.comm = Some(comm.into());
        self
    }

    /// Sets the CPUs to bind to.
    #[must_use]
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = Some(affinity);
        self
    }
}

impl From<WorkType> for WorkSpec {
    fn from(work_type: WorkType) -> Self {
        Self::new(work_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for work in WorkType::ALL {
            assert_eq!(WorkType::from_name(work.name()), Some(work));
        }
        assert_eq!(WorkType::from_name("Nothing"), None);
    }

    #[test]
    fn counts_are_whole_groups() {
        assert_eq!(WorkerCount::Exactly(3).resolve(8, 2), 4);
        assert_eq!(WorkerCount::Exactly(0).resolve(8, 2), 0);
        assert_eq!(WorkerCount::PctOfCpus(150.0).resolve(4, 1), 6);
        assert_eq!(WorkerCount::PctOfCpus(1.0).resolve(4, 2), 2);
    }
}
