//! How workers run: policy, placement, number, and the description of one kind of work in a cgroup.

use std::collections::BTreeSet;
use std::ops::BitOr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::WorkType;

/// Scheduling policy of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SchedPolicy {
    /// `SCHED_OTHER`.
    #[default]
    Normal,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO` with this priority, 1 to 99.
    Fifo(u32),
    /// `SCHED_RR` with this priority, 1 to 99.
    RoundRobin(u32),
    /// `SCHED_DEADLINE`. The kernel wants runtime <= deadline <= period, and a task that may run on all CPUs.
    Deadline {
        /// CPU time in each period.
        runtime: Duration,
        /// From the period's start to when the time must have been given.
        deadline: Duration,
        /// From one period to the next.
        period: Duration,
    },
    /// `SCHED_EXT`.
    Ext,
}

impl SchedPolicy {
    /// `SCHED_FIFO` with this priority, 1 to 99.
    #[must_use]
    pub const fn fifo(priority: u32) -> Self {
        Self::Fifo(priority)
    }

    /// `SCHED_RR` with this priority, 1 to 99.
    #[must_use]
    pub const fn round_robin(priority: u32) -> Self {
        Self::RoundRobin(priority)
    }

    /// `SCHED_DEADLINE`: `runtime` of CPU time within `deadline` of each period's start.
    #[must_use]
    pub const fn deadline(runtime: Duration, deadline: Duration, period: Duration) -> Self {
        Self::Deadline {
            runtime,
            deadline,
            period,
        }
    }
}

/// A scheduling class, where its parameters do not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedClass {
    /// `SCHED_OTHER`.
    #[default]
    Cfs,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO` with priority 50.
    Rt,
    /// `SCHED_DEADLINE` with 1 ms of every 10 ms.
    Deadline,
    /// `SCHED_EXT`.
    Ext,
}

impl SchedClass {
    /// The policy that stands for it.
    #[must_use]
    pub const fn to_policy(self) -> SchedPolicy {
        const PERIOD: Duration = Duration::from_millis(10);
        match self {
            Self::Cfs => SchedPolicy::Normal,
            Self::Batch => SchedPolicy::Batch,
            Self::Idle => SchedPolicy::Idle,
            Self::Rt => SchedPolicy::Fifo(50),
            Self::Deadline => SchedPolicy::deadline(Duration::from_millis(1), PERIOD, PERIOD),
            Self::Ext => SchedPolicy::Ext,
        }
    }
}

/// CPUs that workers bind themselves to. But for the three of the form `One…Each`, all workers of a work get the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AffinityIntent {
    /// Whatever the cpuset allows.
    #[default]
    Inherit,
    /// Those of these that the cpuset allows; none is an error.
    Exact(BTreeSet<usize>),
    /// The first CPU of the cpuset.
    SingleCpu,
    /// The CPUs, of those in the cpuset, of the LLC that shares most with it.
    LlcAligned,
    /// The threads, of those in the cpuset, of its first core.
    SmtSiblingPair,
    /// All CPUs of the guest, whatever the cpuset says; the kernel keeps the tasks inside it.
    CrossCgroup,
    /// `count` CPUs at random out of those of `from` that the cpuset allows; all of them if there are fewer. The choice is the
    /// same in each run of the test.
    RandomSubset {
        /// Out of these.
        from: BTreeSet<usize>,
        /// How many.
        count: usize,
    },
    /// One CPU each: worker i gets the i-th CPU of its cpuset, round and round.
    OneCpuEach,
    /// One LLC each: worker i gets the part of its cpuset in the i-th LLC.
    OneLlcEach,
    /// One core each: worker i gets all threads of the i-th core.
    OneCoreEach,
}

impl AffinityIntent {
    /// Those of these that the cpuset allows.
    pub fn exact(cpus: impl IntoIterator<Item = usize>) -> Self {
        Self::Exact(cpus.into_iter().collect())
    }

    /// `count` CPUs at random out of `from`.
    pub fn random_subset(from: impl IntoIterator<Item = usize>, count: usize) -> Self {
        Self::RandomSubset {
            from: from.into_iter().collect(),
            count,
        }
    }
}

/// NUMA nodes that a worker's memory comes from, as `set_mempolicy(2)` has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemPolicy {
    /// The node of the CPU that touches a page first.
    #[default]
    Default,
    /// Only these nodes (`MPOL_BIND`).
    Bind(BTreeSet<usize>),
    /// This node while it has room (`MPOL_PREFERRED`).
    Preferred(usize),
    /// These nodes while they have room (`MPOL_PREFERRED_MANY`).
    PreferredMany(BTreeSet<usize>),
    /// Page by page over these nodes (`MPOL_INTERLEAVE`).
    Interleave(BTreeSet<usize>),
    /// Same, by the weights of sysfs (`MPOL_WEIGHTED_INTERLEAVE`).
    WeightedInterleave(BTreeSet<usize>),
    /// The node of the CPU, whatever the process's policy says (`MPOL_LOCAL`).
    Local,
}

impl MemPolicy {
    /// Only these nodes.
    pub fn bind(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self::Bind(nodes.into_iter().collect())
    }

    /// This node while it has room.
    #[must_use]
    pub const fn preferred(node: usize) -> Self {
        Self::Preferred(node)
    }

    /// These nodes while they have room.
    pub fn preferred_many(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self::PreferredMany(nodes.into_iter().collect())
    }

    /// Page by page over these nodes.
    pub fn interleave(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self::Interleave(nodes.into_iter().collect())
    }

    /// Page by page over these nodes, by their weights.
    pub fn weighted_interleave(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self::WeightedInterleave(nodes.into_iter().collect())
    }

    /// The nodes that it names.
    #[must_use]
    pub fn node_set(&self) -> BTreeSet<usize> {
        match self {
            Self::Default | Self::Local => BTreeSet::new(),
            Self::Preferred(node) => BTreeSet::from([*node]),
            Self::Bind(nodes)
            | Self::PreferredMany(nodes)
            | Self::Interleave(nodes)
            | Self::WeightedInterleave(nodes) => nodes.clone(),
        }
    }
}

/// How the nodes of a [`MemPolicy`] are meant, as the mode flags of `set_mempolicy(2)`. Flags are joined by `|`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MpolFlags(u32);

impl MpolFlags {
    /// The kernel's default: nodes are mapped anew when the cpuset's change.
    pub const NONE: Self = Self(0);
    /// Exactly these nodes, also after the cpuset's change (`MPOL_F_STATIC_NODES`).
    pub const STATIC_NODES: Self = Self(1 << 15);
    /// Numbers count within the cpuset's nodes (`MPOL_F_RELATIVE_NODES`).
    pub const RELATIVE_NODES: Self = Self(1 << 14);
    /// NUMA balancing goes on inside the nodes (`MPOL_F_NUMA_BALANCING`, with `Bind`).
    pub const NUMA_BALANCING: Self = Self(1 << 13);

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As the kernel has them (`include/uapi/linux/mempolicy.h`).
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for MpolFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
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

/// One set of workers. What is `None` comes from the [`CgroupDef`](crate::model::scenario::CgroupDef).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkSpec {
    /// What the workers do; spinning unless said.
    pub work_type: WorkType,
    /// How many; `None`: one group of the work type, which mostly is one worker.
    pub num_workers: Option<usize>,
    /// As many as CPUs times this factor, rounded up, in the place of `num_workers`.
    pub workers_pct: Option<f64>,
    /// Their policy.
    pub sched_policy: SchedPolicy,
    /// Their nice value, -20 to 19.
    pub nice: Option<i32>,
    /// Their name in the kernel, cut after 15 bytes.
    pub comm: Option<String>,
    /// CPUs that they bind themselves to.
    pub affinity: AffinityIntent,
    /// NUMA nodes of their memory.
    pub mem_policy: MemPolicy,
    /// How those nodes are meant.
    pub mpol_flags: MpolFlags,
    /// Their user; 0 by default.
    pub uid: Option<u32>,
    /// Their group; 0 by default.
    pub gid: Option<u32>,
    /// The NUMA node whose CPUs and memory they get.
    pub numa_node: Option<u32>,
    /// How they are made.
    pub clone_mode: CloneMode,
}

/// A number of workers that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkersError {
    /// None at all.
    #[error(
        "workers(0): a work has at least one worker; for a cgroup without any use Op::add_cgroup or CgroupDef::without_workers"
    )]
    Zero,
    /// Part of a group would be missing.
    #[error("workers({count}): {work} workers come in groups of {group}; say a multiple of it")]
    PartOfGroup {
        /// The number.
        count: usize,
        /// The work type.
        work: &'static str,
        /// Workers in one group.
        group: usize,
    },
    /// A factor that is not above 0.
    #[error(
        "workers_pct({0}): a factor of the cpuset's CPUs is above 0, 1.0 being one worker for each"
    )]
    Factor(f64),
}

impl WorkSpec {
    /// Exactly this many workers.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.num_workers = Some(count);
        self.workers_pct = None;
        self
    }

    /// As many workers as CPUs in the cpuset times this factor, rounded up: 1.0 is one for each CPU.
    #[must_use]
    pub fn workers_pct(mut self, factor: f64) -> Self {
        self.workers_pct = Some(factor);
        self.num_workers = None;
        self
    }

    /// What the workers do.
    #[must_use]
    pub fn work_type(mut self, work_type: WorkType) -> Self {
        self.work_type = work_type;
        self
    }

    /// Sets the policy.
    #[must_use]
    pub fn sched_policy(mut self, policy: SchedPolicy) -> Self {
        self.sched_policy = policy;
        self
    }

    /// Sets the nice value, -20 to 19.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Sets the name; the kernel keeps 15 bytes.
    #[must_use]
    pub fn comm(mut self, comm: impl Into<String>) -> Self {
        self.comm = Some(comm.into());
        self
    }

    /// Sets the CPUs to bind to.
    #[must_use]
    pub fn affinity(mut self, affinity: AffinityIntent) -> Self {
        self.affinity = affinity;
        self
    }

    /// Sets the NUMA nodes of the memory.
    #[must_use]
    pub fn mem_policy(mut self, policy: MemPolicy) -> Self {
        self.mem_policy = policy;
        self
    }

    /// Sets how those nodes are meant.
    #[must_use]
    pub fn mpol_flags(mut self, flags: MpolFlags) -> Self {
        self.mpol_flags = flags;
        self
    }

    /// Sets the user that they run as; they give up root's rights after their set-up.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Sets the group that they run as.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Keeps them on one NUMA node: where `affinity` is `Inherit` on the node's CPUs, of those that the cpuset allows, and where
    /// `mem_policy` is `Default` with its memory alone. A node that is not there, or none of whose CPUs is allowed, ends the test.
    #[must_use]
    pub fn numa_node(mut self, node: u32) -> Self {
        self.numa_node = Some(node);
        self
    }

    /// Makes the workers threads of one process.
    #[must_use]
    pub fn threads(mut self) -> Self {
        self.clone_mode = CloneMode::Thread;
        self
    }

    /// Workers on `cpus` CPUs. A factor's are rounded up to whole groups; without a number it is one group.
    ///
    /// # Errors
    /// For none, part of a group, and a factor that is not above 0.
    pub fn count(&self, cpus: usize) -> Result<usize, WorkersError> {
        let info = self.work_type.info();
        let group = info.group_size.max(1);
        if let Some(factor) = self.workers_pct {
            if !(factor > 0.0 && factor.is_finite()) {
                return Err(WorkersError::Factor(factor));
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and a float above usize saturates"
            )]
            let wanted = (cpus as f64 * factor).ceil() as usize;
            return Ok(wanted.max(1).next_multiple_of(group));
        }
        match self.num_workers {
            None => Ok(group),
            Some(0) => Err(WorkersError::Zero),
            Some(count) if count % group != 0 => Err(WorkersError::PartOfGroup {
                count,
                work: info.name,
                group,
            }),
            Some(count) => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_groups() {
        let spin = WorkSpec::default;
        let pairs = || spin().work_type(WorkType::futex_ping_pong(0));
        assert_eq!(spin().count(8), Ok(1));
        assert_eq!(pairs().count(8), Ok(2));
        assert_eq!(pairs().workers(4).count(8), Ok(4));
        assert_eq!(spin().workers(0).count(8), Err(WorkersError::Zero));
        let odd = pairs().workers(3).count(8).unwrap_err().to_string();
        assert!(
            odd.contains("FutexPingPong workers come in groups of 2"),
            "{odd}"
        );
        assert_eq!(spin().workers_pct(1.0).count(8), Ok(8));
        assert_eq!(spin().workers_pct(0.3).count(4), Ok(2));
        assert_eq!(pairs().workers_pct(0.1).count(4), Ok(2));
        for factor in [0.0, -1.0, f64::NAN] {
            assert!(spin().workers_pct(factor).count(4).is_err(), "{factor}");
        }
    }

    #[test]
    fn each_setter_sets_its_field() {
        let literal = WorkSpec {
            work_type: WorkType::Mixed,
            num_workers: Some(3),
            sched_policy: SchedPolicy::Idle,
            nice: Some(7),
            comm: Some("name".to_owned()),
            affinity: AffinityIntent::exact([1]),
            mem_policy: MemPolicy::bind([0]),
            mpol_flags: MpolFlags::STATIC_NODES,
            uid: Some(1),
            gid: Some(2),
            numa_node: Some(3),
            clone_mode: CloneMode::Thread,
            ..WorkSpec::default()
        };
        let built = WorkSpec::default()
            .workers_pct(2.0)
            .workers(3)
            .work_type(WorkType::Mixed)
            .sched_policy(SchedPolicy::Idle)
            .nice(7)
            .comm("name")
            .affinity(AffinityIntent::Exact(BTreeSet::from([1])))
            .mem_policy(MemPolicy::Bind(BTreeSet::from([0])))
            .mpol_flags(MpolFlags::STATIC_NODES)
            .uid(1)
            .gid(2)
            .numa_node(3)
            .threads();
        assert_eq!(built, literal);
        assert_eq!(
            WorkSpec::default().workers(3).workers_pct(2.0).num_workers,
            None
        );
    }

    #[test]
    fn short_forms_are_the_variants() {
        let ms = Duration::from_millis;
        assert_eq!(SchedPolicy::fifo(3), SchedPolicy::Fifo(3));
        assert_eq!(SchedPolicy::round_robin(3), SchedPolicy::RoundRobin(3));
        let deadline = SchedPolicy::Deadline {
            runtime: ms(1),
            deadline: ms(2),
            period: ms(3),
        };
        assert_eq!(SchedPolicy::deadline(ms(1), ms(2), ms(3)), deadline);
        assert_eq!(SchedClass::Rt.to_policy(), SchedPolicy::Fifo(50));
        assert_eq!(SchedClass::default().to_policy(), SchedPolicy::Normal);
        let subset = AffinityIntent::RandomSubset {
            from: BTreeSet::from([1, 2]),
            count: 1,
        };
        assert_eq!(AffinityIntent::random_subset([1, 2], 1), subset);
        for policy in [
            MemPolicy::bind([1]),
            MemPolicy::preferred(1),
            MemPolicy::preferred_many([1]),
            MemPolicy::interleave([1]),
            MemPolicy::weighted_interleave([1]),
        ] {
            assert_eq!(policy.node_set(), BTreeSet::from([1]), "{policy:?}");
        }
        assert!(MemPolicy::Local.node_set().is_empty());
        let both = MpolFlags::STATIC_NODES | MpolFlags::NUMA_BALANCING;
        assert_eq!(both.bits(), 1 << 15 | 1 << 13);
        assert_eq!(
            MpolFlags::NONE | MpolFlags::RELATIVE_NODES,
            MpolFlags::RELATIVE_NODES
        );
    }
}
