//! How workers run: policy, placement, number, and the description of one kind of work in a cgroup.

use serde::{Deserialize, Serialize};

use super::super::cpuset::CpuSet;
use super::WorkType;

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

/// NUMA nodes that a worker's memory comes from, as `set_mempolicy(2)` has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemPolicy {
    /// The node of the CPU that touches a page first.
    #[default]
    Default,
    /// Only these nodes (`MPOL_BIND`).
    Bind(Vec<u32>),
    /// This node while it has room (`MPOL_PREFERRED`).
    Preferred(u32),
    /// These nodes while they have room (`MPOL_PREFERRED_MANY`).
    PreferredMany(Vec<u32>),
    /// Page by page over these nodes (`MPOL_INTERLEAVE`).
    Interleave(Vec<u32>),
    /// Same, by the weights of sysfs (`MPOL_WEIGHTED_INTERLEAVE`).
    WeightedInterleave(Vec<u32>),
    /// The node of the CPU, whatever the process's policy says (`MPOL_LOCAL`).
    Local,
}

/// How a worker is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloneMode {
    /// A process of its own.
    #[default]
    Fork,
    /// A thread of one process that all workers of the group share: one address space, one signal table.
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

/// One kind of work in a cgroup. What is `None` comes from the [`CgroupDef`](crate::model::scenario::CgroupDef).
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
    /// NUMA nodes of their memory.
    pub mem_policy: Option<MemPolicy>,
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
            mem_policy: None,
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

    /// Sets the NUMA nodes of the memory.
    #[must_use]
    pub fn mem_policy(mut self, policy: MemPolicy) -> Self {
        self.mem_policy = Some(policy);
        self
    }

    /// Makes the workers threads of one process.
    #[must_use]
    pub fn threads(mut self) -> Self {
        self.clone_mode = CloneMode::Thread;
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
    fn counts_are_whole_groups() {
        assert_eq!(WorkerCount::Exactly(3).resolve(8, 2), 4);
        assert_eq!(WorkerCount::Exactly(0).resolve(8, 2), 0);
        assert_eq!(WorkerCount::PctOfCpus(150.0).resolve(4, 1), 6);
        assert_eq!(WorkerCount::PctOfCpus(1.0).resolve(4, 2), 2);
    }
}
