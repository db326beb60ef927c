//! A scenario as data: cgroups with workers, steps with operations, and what lives across all of them.
//!
//! ```text
//! Backdrop ──────────────────────────────────────────────▶ torn down last
//!   Step 0: ops, setup, hold ─▶ Step 1: ops, setup, hold ─▶ …   each torn down at its end
//! ```

mod cpuset_spec;
mod op;

pub use cpuset_spec::{CpusetError, CpusetSpec};
pub use op::{KernelPlace, KernelTarget, Op};

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::work::{Affinity, CloneMode, MemPolicy, SchedPolicy, WorkSpec, WorkType, WorkerCount};

/// Workers of a cgroup whose definition does not say.
pub const DEFAULT_WORKERS: usize = 2;

/// A cgroup, its limits and the work in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CgroupDef {
    /// Name relative to the workload root; a slash nests.
    pub name: String,
    /// CPUs; `None`: all of the parent's.
    pub cpuset: Option<CpusetSpec>,
    /// Memory nodes, in the kernel's list form.
    pub mems: Option<String>,
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u32>,
    /// `cpu.max`: quota in each period.
    pub cpu_max: Option<CpuMax>,
    /// The work; none given means spinning.
    pub works: Vec<WorkSpec>,
    /// Workers of each work that does not say.
    pub workers: Option<WorkerCount>,
    /// Policy of each work that does not say.
    pub policy: SchedPolicy,
    /// Nice value of each work that does not say.
    pub nice: i32,
    /// Name of each work's tasks that does not say.
    pub comm: Option<String>,
    /// CPUs of each work that does not say.
    pub affinity: Affinity,
    /// NUMA nodes of each work's memory that does not say.
    pub mem_policy: MemPolicy,
    /// Whether the cgroup is a threaded one. It needs a parent in the scenario, which holds the workers' process, and
    /// its works are threads, whatever they say.
    pub threaded: bool,
}

/// `cpu.max`: at most `quota` of CPU time in each `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMax {
    /// CPU time allowed.
    pub quota: Duration,
    /// Length of a period, 1 ms to 1 s.
    pub period: Duration,
}

impl CgroupDef {
    /// A cgroup of this name without limits, with [`DEFAULT_WORKERS`] spinning workers.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cpuset: None,
            mems: None,
            cpu_weight: None,
            cpu_max: None,
            works: Vec::new(),
            workers: None,
            policy: SchedPolicy::Other,
            nice: 0,
            comm: None,
            affinity: Affinity::Inherit,
            mem_policy: MemPolicy::Default,
            threaded: false,
        }
    }

    /// Exactly this many workers for each work that does not say; 0 makes an empty cgroup.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(WorkerCount::Exactly(count));
        self
    }

    /// As many workers as this many percent of the cpuset's CPUs.
    #[must_use]
    pub fn workers_pct(mut self, pct: f64) -> Self {
        self.workers = Some(WorkerCount::PctOfCpus(pct));
        self
    }

    /// Sets the cpuset.
    #[must_use]
    pub fn cpuset(mut self, spec: CpusetSpec) -> Self {
        self.cpuset = Some(spec);
        self
    }

    /// Sets the memory nodes, in the kernel's list form.
    #[must_use]
    pub fn mems(mut self, mems: impl Into<String>) -> Self {
        self.mems = Some(mems.into());
        self
    }

    /// Sets `cpu.weight`.
    #[must_use]
    pub fn cpu_weight(mut self, weight: u32) -> Self {
        self.cpu_weight = Some(weight);
        self
    }

    /// Sets `cpu.max`.
    #[must_use]
    pub fn cpu_max(mut self, quota: Duration, period: Duration) -> Self {
        self.cpu_max = Some(CpuMax { quota, period });
        self
    }

    /// Adds a work; may be repeated.
    #[must_use]
    pub fn work(mut self, work: impl Into<WorkSpec>) -> Self {
        self.works.push(work.into());
        self
    }

    /// Sets the policy of each work that does not say.
    #[must_use]
    pub fn policy(mut self, policy: SchedPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the nice value of each work that does not say.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = nice;
        self
    }

    /// Sets the tasks' name of each work that does not say.
    #[must_use]
    pub fn comm(mut self, comm: impl Into<String>) -> Self {
        self.comm = Some(comm.into());
        self
    }

    /// Sets the CPUs of each work that does not say.
    #[must_use]
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = affinity;
        self
    }

    /// Sets the NUMA nodes of each work's memory that does not say.
    #[must_use]
    pub fn mem_policy(mut self, policy: MemPolicy) -> Self {
        self.mem_policy = policy;
        self
    }

    /// Makes it a threaded cgroup.
    #[must_use]
    pub fn threaded(mut self) -> Self {
        self.threaded = true;
        self
    }

    /// The works with everything filled in that they leave to the cgroup.
    pub fn resolved_works(&self) -> Vec<WorkSpec> {
        let spinning = [WorkSpec::new(WorkType::SpinWait)];
        let works = if self.works.is_empty() {
            &spinning[..]
        } else {
            &self.works
        };
        works.iter().map(|work| self.fill_in(work)).collect()
    }

    fn fill_in(&self, work: &WorkSpec) -> WorkSpec {
        let default_count = WorkerCount::Exactly(DEFAULT_WORKERS);
        WorkSpec {
            workers: work.workers.or(self.workers).or(Some(default_count)),
            policy: work.policy.or(Some(self.policy)),
            nice: work.nice.or(Some(self.nice)),
            comm: work.comm.clone().or_else(|| self.comm.clone()),
            affinity: work
                .affinity
                .clone()
                .or_else(|| Some(self.affinity.clone())),
            mem_policy: work
                .mem_policy
                .clone()
                .or_else(|| Some(self.mem_policy.clone())),
            clone_mode: if self.threaded {
                CloneMode::Thread
            } else {
                work.clone_mode
            },
            ..work.clone()
        }
    }
}

/// How long a step lasts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum HoldSpec {
    /// This share (0 to 1) of the test's duration.
    Frac(f64),
    /// This long.
    Fixed(Duration),
    /// For what is left of the test's duration; the step's operations are repeated at this interval.
    Loop {
        /// Time from one round to the next.
        interval: Duration,
    },
}

impl HoldSpec {
    /// The whole duration of the test.
    pub const FULL: Self = Self::Frac(1.0);

    /// How long to hold, given the test's duration and how much of it is gone.
    pub fn resolve(self, duration: Duration, elapsed: Duration) -> Duration {
        match self {
            Self::Frac(share) if share.is_finite() => duration.mul_f64(share.clamp(0.0, 1.0)),
            Self::Frac(_) => Duration::ZERO,
            Self::Fixed(time) => time,
            Self::Loop { .. } => duration.saturating_sub(elapsed),
        }
    }
}

/// One step: operations, then cgroups, then a hold; what it made is torn down at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Name in the timeline; empty: its number.
    pub name: String,
    /// Operations at its start, in order.
    pub ops: Vec<Op>,
    /// Cgroups made after the operations.
    pub setup: Vec<CgroupDef>,
    /// How long it lasts.
    pub hold: HoldSpec,
}

impl Step {
    /// Operations and a hold.
    pub fn new(ops: Vec<Op>, hold: HoldSpec) -> Self {
        Self {
            name: String::new(),
            ops,
            setup: Vec::new(),
            hold,
        }
    }

    /// Cgroups and a hold.
    pub fn with_defs(setup: Vec<CgroupDef>, hold: HoldSpec) -> Self {
        Self {
            setup,
            ..Self::new(Vec::new(), hold)
        }
    }

    /// Gives it a name for the timeline.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds cgroups.
    #[must_use]
    pub fn setup(mut self, defs: Vec<CgroupDef>) -> Self {
        self.setup.extend(defs);
        self
    }
}

/// What lives across all steps; torn down last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Backdrop {
    /// Cgroups with their workers.
    pub cgroups: Vec<CgroupDef>,
    /// Operations after they are made.
    pub ops: Vec<Op>,
}

impl Backdrop {
    /// Nothing.
    pub const EMPTY: Self = Self {
        cgroups: Vec::new(),
        ops: Vec::new(),
    };

    /// These cgroups.
    pub fn new(cgroups: Vec<CgroupDef>) -> Self {
        Self {
            cgroups,
            ops: Vec::new(),
        }
    }

    /// Adds an operation.
    #[must_use]
    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_fills_in_what_a_work_leaves_open() {
        let def = CgroupDef::named("a")
            .workers(4)
            .nice(5)
            .work(WorkType::YieldHeavy)
            .work(WorkSpec::new(WorkType::SpinWait).workers(1).nice(-5));
        let works = def.resolved_works();
        assert_eq!(works[0].workers, Some(WorkerCount::Exactly(4)));
        assert_eq!(works[0].nice, Some(5));
        assert_eq!(works[1].workers, Some(WorkerCount::Exactly(1)));
        assert_eq!(works[1].nice, Some(-5));
        let bare = CgroupDef::named("b").resolved_works();
        assert_eq!(bare[0].work_type, WorkType::SpinWait);
        assert_eq!(bare[0].workers, Some(WorkerCount::Exactly(DEFAULT_WORKERS)));
    }

    #[test]
    fn holds() {
        let (total, gone) = (Duration::from_secs(10), Duration::from_secs(4));
        assert_eq!(HoldSpec::FULL.resolve(total, gone), total);
        assert_eq!(HoldSpec::Frac(0.25).resolve(total, gone).as_millis(), 2_500);
        assert_eq!(
            HoldSpec::Frac(f64::NAN).resolve(total, gone),
            Duration::ZERO
        );
        let interval = Duration::from_secs(1);
        assert_eq!(
            HoldSpec::Loop { interval }.resolve(total, gone).as_secs(),
            6
        );
    }
}
