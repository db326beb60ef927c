//! `struct task_group`: what a cgroup's `cpu` controller was told, and whether its bandwidth is used up.

use serde::Serialize;

use super::Walk;
use crate::btf::Kind;
use crate::{Kernel, Object, Problems, Result};

/// More cgroups than a test makes.
pub(super) const MAX_GROUPS: usize = 4096;
/// `RUNTIME_INF`, as a quota: none.
const NO_QUOTA: u64 = u64::MAX;

/// One cgroup with a `cpu` controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskGroup {
    /// Path in the unified hierarchy; none for groups that belong to no cgroup.
    pub cgroup: Option<String>,
    /// `cpu.weight`, as sched_ext keeps it.
    pub weight: Option<u64>,
    /// `cpu.weight` as the fair class keeps it, 1024 for the default.
    pub shares: Option<u64>,
    /// `cpu.idle`.
    pub idle: Option<bool>,
    /// `cpu.max`: nanoseconds of each period; none without a limit.
    pub quota: Option<u64>,
    /// `cpu.max`: the period, nanoseconds.
    pub period: Option<u64>,
    /// Periods in which it was throttled.
    pub nr_throttled: Option<u64>,
    /// Time that it was throttled, nanoseconds, summed over CPUs.
    pub throttled_time: Option<u64>,
    /// CPUs on which its tasks are throttled now.
    pub throttled_cpus: Vec<u32>,
}

impl Kernel {
    /// All groups, the root first; none on a kernel without the `cpu` controller.
    #[must_use]
    pub fn task_groups(&self) -> Walk<Vec<TaskGroup>> {
        let mut problems = Problems::new();
        let mut found = Vec::new();
        let cpus = problems.need("the online CPUs", self.online_cpus());
        let cpus = cpus.unwrap_or_default();
        if let Some(head) = problems.keep("task groups", self.symbol("task_groups")) {
            for node in self.walk_list("task groups", head, MAX_GROUPS, &mut problems) {
                let group = self.container_of(node, "task_group", "list");
                if let Some(group) = problems.keep("a task group", group) {
                    found.push(self.task_group(&group, &cpus, &mut problems));
                }
            }
        }
        Walk { found, problems }
    }

    fn task_group(&self, group: &Object<'_>, cpus: &[u32], problems: &mut Problems) -> TaskGroup {
        let cgroup = group
            .follow("css.cgroup")
            .and_then(|cgroup| cgroup.map(|cgroup| self.cgroup_path(&cgroup)).transpose());
        let quota = problems.keep("cfs_bandwidth.quota", group.uint("cfs_bandwidth.quota"));
        let mut number = |path| problems.keep(path, group.uint(path));
        TaskGroup {
            shares: number("shares"),
            idle: number("idle").map(|idle| idle != 0),
            quota: quota.filter(|&quota| quota != NO_QUOTA),
            period: number("cfs_bandwidth.period"),
            nr_throttled: number("cfs_bandwidth.nr_throttled"),
            throttled_time: number("cfs_bandwidth.throttled_time"),
            cgroup: problems.keep("task_group.css.cgroup", cgroup).flatten(),
            weight: problems.keep("task_group.scx.weight", {
                // 6.18: moved into a struct.
                group
                    .uint("scx.weight")
                    .or_else(|_| group.uint("scx_weight"))
            }),
            throttled_cpus: cpus
                .iter()
                .copied()
                .filter(|&cpu| {
                    let throttled = self.is_throttled(group, cpu);
                    problems.keep("cfs_rq.throttled", throttled) == Some(true)
                })
                .collect(),
        }
    }

    /// The root group has no `cfs_rq` of its own to be throttled.
    pub(super) fn is_throttled(&self, group: &Object<'_>, cpu: u32) -> Result<bool> {
        let table = group.pointer("cfs_rq")?;
        if table.is_null() {
            return Ok(false);
        }
        // A table with one pointer for each CPU; from 7.2 on a per-CPU object.
        let is_table = self
            .btf()
            .resolve(group.field("cfs_rq")?.ty)
            .and_then(|pointer| self.btf().resolve(pointer.target()?))
            .is_some_and(|target| target.kind() == Kind::Ptr);
        let queue = match is_table {
            true => crate::Kva(self.read_u64(table.wrapping_add(u64::from(cpu) * 8))?),
            false => self.per_cpu(table, cpu)?,
        };
        if queue.is_null() {
            return Ok(false);
        }
        Ok(self.object("cfs_rq", queue)?.uint("throttled")? != 0)
    }
}
