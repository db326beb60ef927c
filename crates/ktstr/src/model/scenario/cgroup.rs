//! A cgroup: its limits and the work in it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::checks::Assert;
use super::super::payload::Payload;
use super::super::work::{
    AffinityIntent, CloneMode, MemPolicy, MpolFlags, SchedPolicy, WorkSpec, WorkType,
};
use super::CpusetSpec;

/// A cgroup, its limits and the work in it.
///
/// Without any [`work`](Self::work), one worker spins. `workers`, `workers_pct`, `work_type`, `sched_policy`, `affinity`,
/// `mem_policy` and `mpol_flags` are of the first work, which they make if it is missing; `nice`, `comm`, `uid`, `gid` and
/// `numa_node` hold for every work that does not say, in whatever order they are written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CgroupDef {
    /// Name relative to the workload root; a slash nests.
    pub name: String,
    /// CPUs; `None`: all of the parent's.
    pub cpuset: Option<CpusetSpec>,
    /// Memory nodes; `None`: all of the parent's.
    pub cpuset_mems: Option<BTreeSet<usize>>,
    /// Weight and quota.
    pub cpu: Option<CpuLimits>,
    /// Limits of memory.
    pub memory: Option<MemoryLimits>,
    /// Share of the disks.
    pub io: Option<IoLimits>,
    /// Limit of the number of tasks.
    pub pids: Option<PidsLimits>,
    /// The works; none means one spinning worker.
    pub works: Vec<WorkSpec>,
    /// Whether no works mean no workers.
    pub without_workers: bool,
    /// Nice value of each work that does not say.
    pub default_nice: Option<i32>,
    /// Name of the tasks of each work that does not say.
    pub default_comm: Option<String>,
    /// User of each work that does not say.
    pub default_uid: Option<u32>,
    /// Group of each work that does not say.
    pub default_gid: Option<u32>,
    /// NUMA node of each work that does not say.
    pub default_numa_node: Option<u32>,
    /// A program that runs in it, after its workers have started.
    pub payload: Option<&'static Payload>,
    /// Checks of its workers alone, above the test's.
    pub assert: Assert,
    /// Whether the cgroup is a threaded one. It needs a parent in the scenario, which holds the workers' process, and
    /// its works are threads, whatever they say.
    pub threaded: bool,
}

/// `cpu.weight` and `cpu.max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimits {
    /// CPU time in each period, microseconds; `None`: as much as there is.
    pub max_quota_us: Option<u64>,
    /// Length of a period, microseconds: 1,000 to 1,000,000; 100,000 unless said.
    pub max_period_us: u64,
    /// Share against its siblings, 1 to 10,000; `None`: the kernel's 100.
    pub weight: Option<u32>,
}

impl Default for CpuLimits {
    fn default() -> Self {
        Self {
            max_quota_us: None,
            max_period_us: 100_000,
            weight: None,
        }
    }
}

/// `memory.max`, `memory.high`, `memory.low` and `memory.swap.max`, bytes; `None`: the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// More is refused, in the end by the OOM killer.
    pub max: Option<u64>,
    /// Above this the tasks are slowed and their memory is reclaimed.
    pub high: Option<u64>,
    /// Below this memory is not reclaimed while others have some.
    pub low: Option<u64>,
    /// More is not swapped out.
    pub swap_max: Option<u64>,
}

/// `io.weight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// Share of each disk's time against its siblings, 1 to 10,000; `None`: the kernel's 100.
    pub weight: Option<u16>,
}

/// `pids.max`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsLimits {
    /// Tasks; `None`: as many as there is room for.
    pub max: Option<u64>,
}

impl CgroupDef {
    /// A cgroup of this name without limits, with one spinning worker.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cpuset: None,
            cpuset_mems: None,
            cpu: None,
            memory: None,
            io: None,
            pids: None,
            works: Vec::new(),
            without_workers: false,
            default_nice: None,
            default_comm: None,
            default_uid: None,
            default_gid: None,
            default_numa_node: None,
            payload: None,
            assert: Assert::NO_OVERRIDES,
            threaded: false,
        }
    }

    fn first(mut self, change: impl FnOnce(WorkSpec) -> WorkSpec) -> Self {
        let first = match self.works.is_empty() {
            true => WorkSpec::default(),
            false => self.works.remove(0),
        };
        self.works.insert(0, change(first));
        self
    }

    fn cpu_limits(mut self, change: impl FnOnce(&mut CpuLimits)) -> Self {
        change(self.cpu.get_or_insert_default());
        self
    }

    fn memory_limits(mut self, change: impl FnOnce(&mut MemoryLimits)) -> Self {
        change(self.memory.get_or_insert_default());
        self
    }

    /// Workers of its first work: at least one, and whole groups of its work type (pairs, for a ping-pong). A cgroup without
    /// workers is made by [`Op::add_cgroup`](super::Op::add_cgroup), or, with limits, by
    /// [`without_workers`](Self::without_workers).
    #[must_use]
    pub fn workers(self, count: usize) -> Self {
        self.first(|work| work.workers(count))
    }

    /// As many workers of its first work as CPUs in the cpuset times this factor, rounded up: 1.0 is one for each CPU.
    #[must_use]
    pub fn workers_pct(self, factor: f64) -> Self {
        self.first(|work| work.workers_pct(factor))
    }

    /// What the workers of its first work do.
    #[must_use]
    pub fn work_type(self, work_type: WorkType) -> Self {
        self.first(|work| work.work_type(work_type))
    }

    /// Policy of its first work.
    #[must_use]
    pub fn sched_policy(self, policy: SchedPolicy) -> Self {
        self.first(|work| work.sched_policy(policy))
    }

    /// CPUs of its first work.
    #[must_use]
    pub fn affinity(self, affinity: AffinityIntent) -> Self {
        self.first(|work| work.affinity(affinity))
    }

    /// NUMA nodes of its first work's memory.
    #[must_use]
    pub fn mem_policy(self, policy: MemPolicy) -> Self {
        self.first(|work| work.mem_policy(policy))
    }

    /// How its first work's memory policy is meant.
    #[must_use]
    pub fn mpol_flags(self, flags: MpolFlags) -> Self {
        self.first(|work| work.mpol_flags(flags))
    }

    /// Adds a work beside those that are there; may be repeated.
    #[must_use]
    pub fn work(mut self, work: WorkSpec) -> Self {
        self.works.push(work);
        self
    }

    /// No workers unless works are added: a cgroup for others to move to, or a parent with limits.
    #[must_use]
    pub fn without_workers(mut self) -> Self {
        self.without_workers = true;
        self
    }

    /// Sets the cpuset.
    #[doc(alias = "with_cpuset")]
    #[must_use]
    pub fn cpuset(mut self, spec: CpusetSpec) -> Self {
        self.cpuset = Some(spec);
        self
    }

    /// Sets the memory nodes (`cpuset.mems`).
    #[must_use]
    pub fn cpuset_mems(mut self, nodes: BTreeSet<usize>) -> Self {
        self.cpuset_mems = Some(nodes);
        self
    }

    /// Share against its siblings (`cpu.weight`), 1 to 10,000; the kernel's default is 100.
    #[must_use]
    pub fn cpu_weight(self, weight: u32) -> Self {
        self.cpu_limits(|cpu| cpu.weight = Some(weight))
    }

    /// At most `quota` of CPU time in each `period` (`cpu.max`); a period is 1 ms to 1 s.
    #[must_use]
    pub fn cpu_quota(self, quota: Duration, period: Duration) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.cpu_limits(|cpu| {
            cpu.max_quota_us = Some(micros(quota));
            cpu.max_period_us = micros(period);
        })
    }

    /// At most this many per cent of one CPU, in periods of 100 ms: 5 is a twentieth of a CPU, 200 is two CPUs.
    #[must_use]
    pub fn cpu_quota_pct(self, pct: u32) -> Self {
        self.cpu_quota(Duration::from_millis(1) * pct, Duration::from_millis(100))
    }

    /// Lifts the quota.
    #[must_use]
    pub fn cpu_unlimited(self) -> Self {
        self.cpu_limits(|cpu| cpu.max_quota_us = None)
    }

    /// Bytes of memory above which its tasks are refused (`memory.max`).
    #[must_use]
    pub fn memory_max(self, bytes: u64) -> Self {
        self.memory_limits(|memory| memory.max = Some(bytes))
    }

    /// Bytes of memory above which its tasks are slowed (`memory.high`).
    #[must_use]
    pub fn memory_high(self, bytes: u64) -> Self {
        self.memory_limits(|memory| memory.high = Some(bytes))
    }

    /// Bytes of memory that are left to it while others have some (`memory.low`).
    #[must_use]
    pub fn memory_low(self, bytes: u64) -> Self {
        self.memory_limits(|memory| memory.low = Some(bytes))
    }

    /// Bytes that may be swapped out (`memory.swap.max`). A kernel without swap (`CONFIG_SWAP`), as ktstr builds them, has no
    /// such limit, which ends the test. It limits something once the test has made a swap area (`swapon`).
    #[must_use]
    pub fn memory_swap_max(self, bytes: u64) -> Self {
        self.memory_limits(|memory| memory.swap_max = Some(bytes))
    }

    /// Lifts `memory.swap.max`.
    #[must_use]
    pub fn memory_swap_unlimited(self) -> Self {
        self.memory_limits(|memory| memory.swap_max = None)
    }

    /// Share of a disk's time against its siblings (`io.weight`), 1 to 10,000; the kernel's default is 100. A kernel without
    /// `CONFIG_BLK_CGROUP_IOCOST`, as ktstr builds them, has no such share, which ends the test. It holds for disks whose cost
    /// model is on: the test writes `io.cost.qos` for them (Documentation/admin-guide/cgroup-v2.rst).
    #[must_use]
    pub fn io_weight(mut self, weight: u16) -> Self {
        self.io = Some(IoLimits {
            weight: Some(weight),
        });
        self
    }

    /// Lifts `memory.max`.
    #[must_use]
    pub fn memory_unlimited(self) -> Self {
        self.memory_limits(|memory| memory.max = None)
    }

    /// Tasks that it may hold (`pids.max`).
    #[must_use]
    pub fn pids_max(mut self, tasks: u64) -> Self {
        self.pids = Some(PidsLimits { max: Some(tasks) });
        self
    }

    /// Lifts `pids.max`.
    #[must_use]
    pub fn pids_unlimited(mut self) -> Self {
        self.pids = Some(PidsLimits { max: None });
        self
    }

    /// Nice value, -20 to 19, of each work that does not say.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.default_nice = Some(nice);
        self
    }

    /// Name of the tasks of each work that does not say; the kernel keeps 15 bytes.
    #[must_use]
    pub fn comm(mut self, comm: impl Into<String>) -> Self {
        self.default_comm = Some(comm.into());
        self
    }

    /// User of each work that does not say; 0 unless set.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.default_uid = Some(uid);
        self
    }

    /// Group of each work that does not say; 0 unless set.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.default_gid = Some(gid);
        self
    }

    /// NUMA node whose CPUs and memory each work gets that does not say; see [`WorkSpec::numa_node`].
    #[must_use]
    pub fn numa_node(mut self, node: u32) -> Self {
        self.default_numa_node = Some(node);
        self
    }

    /// A program that runs in it with its default arguments, after its workers have started; it ends with the cgroup's step.
    #[must_use]
    pub fn workload(mut self, payload: &'static Payload) -> Self {
        self.payload = Some(payload);
        self
    }

    /// Checks of its own: they hold for its workers alone, each in the place of the test's check of that name. A later call adds to
    /// an earlier one.
    ///
    /// A latency that only the interactive ones of a test are to keep:
    ///
    /// ```
    /// use ktstr::prelude::*;
    ///
    /// # use std::time::Duration;
    /// let chat = CgroupDef::named("chat")
    ///     .work_type(WorkType::bursty(Duration::from_millis(1), Duration::from_millis(5)))
    ///     .assert(Assert::NO_OVERRIDES.max_p99_wake_latency_ns(5_000_000));
    /// assert_eq!(chat.assert.max_p99_wake_latency_ns, Some(5_000_000));
    /// ```
    ///
    /// Workers that an operation moves elsewhere keep them. Checks of the monitor are of the whole guest and have no place here:
    /// the scenario ends with a failure that names them.
    #[must_use]
    pub const fn assert(mut self, checks: Assert) -> Self {
        self.assert = self.assert.merge(checks);
        self
    }

    /// Makes it a threaded cgroup.
    #[must_use]
    pub fn threaded(mut self) -> Self {
        self.threaded = true;
        self
    }

    /// The works with everything filled in that they leave to the cgroup.
    #[must_use]
    pub fn merged_works(&self) -> Vec<WorkSpec> {
        let spinning = [WorkSpec::default()];
        let works = if self.works.is_empty() && !self.without_workers {
            &spinning[..]
        } else {
            &self.works
        };
        works.iter().map(|work| self.fill_in(work)).collect()
    }

    fn fill_in(&self, work: &WorkSpec) -> WorkSpec {
        WorkSpec {
            nice: work.nice.or(self.default_nice),
            comm: work.comm.clone().or_else(|| self.default_comm.clone()),
            uid: work.uid.or(self.default_uid),
            gid: work.gid.or(self.default_gid),
            numa_node: work.numa_node.or(self.default_numa_node),
            clone_mode: if self.threaded {
                CloneMode::Thread
            } else {
                work.clone_mode
            },
            ..work.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_and_what_they_do_are_of_the_first_work() {
        let def = CgroupDef::named("a")
            .workers(4)
            .work(
                WorkSpec::default()
                    .workers(1)
                    .work_type(WorkType::YieldHeavy),
            )
            .work_type(WorkType::Mixed)
            .sched_policy(SchedPolicy::Idle)
            .affinity(AffinityIntent::SingleCpu)
            .mem_policy(MemPolicy::Local)
            .mpol_flags(MpolFlags::STATIC_NODES);
        let [first, second] = &def.merged_works()[..] else {
            panic!("{def:?}")
        };
        assert_eq!((first.num_workers, second.num_workers), (Some(4), Some(1)));
        assert_eq!(first.work_type, WorkType::Mixed);
        assert_eq!(second.work_type, WorkType::YieldHeavy);
        assert_eq!(first.sched_policy, SchedPolicy::Idle);
        assert_eq!(first.affinity, AffinityIntent::SingleCpu);
        assert_eq!(first.mem_policy, MemPolicy::Local);
        assert_eq!(first.mpol_flags, MpolFlags::STATIC_NODES);
        let plain = WorkSpec::default()
            .workers(1)
            .work_type(WorkType::YieldHeavy);
        assert_eq!(*second, plain);
        let scaled = CgroupDef::named("b").workers(2).workers_pct(1.5);
        assert_eq!(
            (scaled.works[0].num_workers, scaled.works[0].workers_pct),
            (None, Some(1.5))
        );
    }

    #[test]
    fn names_and_users_are_of_each_work_that_does_not_say() {
        let own = WorkSpec::default().nice(-5).comm("own").uid(1).gid(2);
        let own = own.numa_node(1);
        let def = CgroupDef::named("a")
            .work(own.clone())
            .nice(5)
            .comm("mine")
            .work(WorkSpec::default());
        let def = def.uid(7).gid(8).numa_node(0);
        let [said, open] = &def.merged_works()[..] else {
            panic!("{def:?}")
        };
        assert_eq!(*said, own);
        assert_eq!((open.nice, open.comm.as_deref()), (Some(5), Some("mine")));
        assert_eq!((open.uid, open.gid), (Some(7), Some(8)));
        assert_eq!(open.numa_node, Some(0));
    }

    #[test]
    fn without_works_one_worker_spins_unless_there_shall_be_none() {
        assert_eq!(CgroupDef::named("a").merged_works(), [WorkSpec::default()]);
        assert!(
            CgroupDef::named("a")
                .without_workers()
                .merged_works()
                .is_empty()
        );
        let threaded = CgroupDef::named("a/b").threaded().merged_works();
        assert_eq!(threaded[0].clone_mode, CloneMode::Thread);
    }

    #[test]
    fn limits_are_kept_apart() {
        let def = CgroupDef::named("a").cpu_weight(50).cpu_quota_pct(5);
        let cpu = def.cpu.unwrap();
        assert_eq!(
            (cpu.max_quota_us, cpu.max_period_us, cpu.weight),
            (Some(5_000), 100_000, Some(50))
        );
        let cpu = def.cpu_unlimited().cpu.unwrap();
        assert_eq!((cpu.max_quota_us, cpu.weight), (None, Some(50)));
        let ms = Duration::from_millis;
        let cpu = CgroupDef::named("a").cpu_quota(ms(20), ms(50)).cpu.unwrap();
        assert_eq!(
            (cpu.max_quota_us, cpu.max_period_us),
            (Some(20_000), 50_000)
        );
        let def = CgroupDef::named("a")
            .memory_max(3)
            .memory_high(2)
            .memory_low(1)
            .memory_swap_max(4)
            .io_weight(200)
            .pids_max(9);
        let memory = def.memory.unwrap();
        assert_eq!(
            (memory.max, memory.high, memory.low, memory.swap_max),
            (Some(3), Some(2), Some(1), Some(4))
        );
        let io = IoLimits { weight: Some(200) };
        assert_eq!(def.io, Some(io));
        assert_eq!(def.pids, Some(PidsLimits { max: Some(9) }));
        let def = def.memory_unlimited().pids_unlimited();
        let def = def.memory_swap_unlimited();
        let memory = def.memory.unwrap();
        assert_eq!(
            (memory.max, memory.swap_max, def.pids.unwrap().max),
            (None, None, None)
        );
        let def = CgroupDef::named("a")
            .cpuset(CpusetSpec::llc(1))
            .cpuset_mems([0].into());
        assert_eq!(
            (def.cpuset, def.cpuset_mems),
            (Some(CpusetSpec::Llc(1)), Some([0].into()))
        );
    }
}
