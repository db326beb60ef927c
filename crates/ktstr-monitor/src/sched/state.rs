//! Single facts about tasks, groups and CPUs, read so often that each costs a few words of memory: what a test waits for.

use super::group::MAX_GROUPS;
use crate::bytes::low32;
use crate::{Error, Kernel, Kva, Object, Problems, Result};

/// `TASK_ON_RQ_QUEUED` (`kernel/sched/sched.h`).
const QUEUED: u64 = 1;
/// `scale_load_down` (`kernel/sched/sched.h`): what it shifts by, and the least that comes out.
const LOAD_SHIFT: u32 = 10;
const LEAST_LOAD: u64 = 2;

impl Kernel {
    /// Addresses of the threads with this name (`task_struct.comm`, at most 15 bytes).
    ///
    /// # Errors
    /// When the list of tasks is missing.
    pub fn threads_named(&self, name: &str) -> Result<Vec<Kva>> {
        let threads = self.threads(&mut Problems::new())?;
        let is_it = |kva: &Kva| self.is_thread_named(*kva, name).unwrap_or(false);
        Ok(threads.into_iter().filter(is_it).collect())
    }

    /// Whether the task at this address has this name; one that has ended may have left its place to another.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_thread_named(&self, task: Kva, name: &str) -> Result<bool> {
        Ok(self.object("task_struct", task)?.text("comm")? == name)
    }

    /// Whether a task sleeps and is still queued, so that its lag runs out (`sched_entity.sched_delayed`, 6.12 and later).
    ///
    /// # Errors
    /// [`Error::NoField`] before 6.12, or when it cannot be read.
    pub fn is_delayed(&self, task: Kva) -> Result<bool> {
        let task = self.object("task_struct", task)?;
        Ok(task.uint("se.sched_delayed")? != 0)
    }

    /// Whether a task is on a runqueue, be it running, waiting or delayed (`task_struct.on_rq`).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_queued(&self, task: Kva) -> Result<bool> {
        Ok(self.object("task_struct", task)?.uint("on_rq")? == QUEUED)
    }

    /// The task that a CPU runs (`rq.curr`).
    ///
    /// # Errors
    /// When the runqueue cannot be read.
    pub fn current_of(&self, cpu: u32) -> Result<Kva> {
        self.rq_of(cpu)?.pointer("curr")
    }

    /// Whether a CPU runs its idle task (`rq.curr == rq.idle`).
    ///
    /// # Errors
    /// When the runqueue cannot be read.
    pub fn is_cpu_idle(&self, cpu: u32) -> Result<bool> {
        let rq = self.rq_of(cpu)?;
        Ok(rq.pointer("curr")? == rq.pointer("idle")?)
    }

    fn rq_of(&self, cpu: u32) -> Result<Object<'_>> {
        self.object("rq", self.per_cpu_symbol("runqueues", cpu)?)
    }

    /// Whether a queued task of the fair class has had more than its share: the virtual time of its queue is behind its own
    /// (`kernel/sched/fair.c: vruntime_eligible`), as of the last update of the running task's. False for one that is not queued.
    ///
    /// # Errors
    /// [`Error::NoField`] on a kernel without EEVDF (before 6.6) or with `min_vruntime` in its place, or when it cannot be read.
    pub fn is_ineligible(&self, task: Kva) -> Result<bool> {
        let task = self.object("task_struct", task)?;
        let se = task.member("se")?;
        let queued = task.uint("on_rq")? == QUEUED && se.uint("on_rq")? != 0;
        if !queued
            || self.symbols().find("fair_sched_class") != Some(task.pointer("sched_class")?.0)
        {
            return Ok(false);
        }
        // 7.2: all tasks of a CPU are in one tree, whatever group they are of.
        let queue = match se.field("h_load").is_ok() {
            true => {
                let cpu = task.u32("thread_info.cpu").or_else(|_| task.u32("cpu"))?;
                self.rq_of(cpu)?.member("cfs")?
            }
            false => se.follow_some("cfs_rq")?,
        };
        let zero = queue.uint("zero_vruntime")?;
        let any = |newer, older| queue.uint(newer).or_else(|_| queue.uint(older));
        let mut sum = i128::from(any("sum_w_vruntime", "avg_vruntime")?.cast_signed());
        let mut weights = i128::from(any("sum_weight", "avg_load")?.cast_signed());
        let key = |entity: &Object<'_>| -> Result<i128> {
            let vruntime = entity.uint("vruntime")?;
            Ok(i128::from(vruntime.wrapping_sub(zero).cast_signed()))
        };
        if let Some(curr) = queue.follow("curr")?
            && curr.uint("on_rq")? != 0
        {
            let weight = i128::from(weight(&queue, &curr)?);
            sum += key(&curr)? * weight;
            weights += weight;
        }
        Ok(sum < key(&se)? * weights)
    }

    /// The address of the `task_group` of a cgroup, by its path in the unified hierarchy; `None` where none is there.
    ///
    /// # Errors
    /// [`Error::NoSymbol`] without the `cpu` controller.
    pub fn task_group_named(&self, path: &str) -> Result<Option<Kva>> {
        let head = self.symbol("task_groups")?;
        let groups = self.walk_list("task groups", head, MAX_GROUPS, &mut Problems::new());
        for node in groups {
            let group = self.container_of(node, "task_group", "list")?;
            if self.is_group_named(group.kva(), path).unwrap_or(false) {
                return Ok(Some(group.kva()));
            }
        }
        Ok(None)
    }

    /// Whether the `task_group` at this address is that of the cgroup with this path.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_group_named(&self, group: Kva, path: &str) -> Result<bool> {
        let group = self.object("task_group", group)?;
        let Some(cgroup) = group.follow("css.cgroup")? else {
            return Ok(false);
        };
        Ok(self.cgroup_path(&cgroup)? == path)
    }

    /// Whether a group's bandwidth is used up on a CPU (`cfs_rq.throttled`).
    ///
    /// # Errors
    /// [`Error::NoField`] without `CONFIG_CFS_BANDWIDTH`, or when it cannot be read.
    pub fn is_group_throttled(&self, group: Kva, cpu: u32) -> Result<bool> {
        self.is_throttled(&self.object("task_group", group)?, cpu)
    }

    /// Whether this kernel has what the functions of this file read: each name with the reason why not.
    ///
    /// # Errors
    /// [`Error::NoType`] or [`Error::NoField`] for the first that is missing.
    pub fn has_state(&self, fact: Fact) -> Result<()> {
        let (ty, paths): (_, &[&'static str]) = match fact {
            Fact::Delayed => ("sched_entity", &["sched_delayed"]),
            Fact::Queued => ("task_struct", &["on_rq", "comm"]),
            Fact::Current => ("rq", &["curr", "idle"]),
            Fact::Ineligible => ("cfs_rq", &["zero_vruntime", "curr"]),
            Fact::Throttled => ("cfs_rq", &["throttled"]),
        };
        paths
            .iter()
            .try_for_each(|path| self.field_of(ty, path).map(drop))
    }
}

/// What a kernel may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// [`Kernel::is_delayed`].
    Delayed,
    /// [`Kernel::is_queued`].
    Queued,
    /// [`Kernel::current_of`] and [`Kernel::is_cpu_idle`].
    Current,
    /// [`Kernel::is_ineligible`].
    Ineligible,
    /// [`Kernel::is_group_throttled`].
    Throttled,
}

/// `avg_vruntime_weight` and its like: with one tree per CPU the queue has a shift of its own.
fn weight(queue: &Object<'_>, entity: &Object<'_>) -> Result<u64> {
    let Ok(full) = entity.uint("h_load.weight") else {
        return Ok((entity.uint("load.weight")? >> LOAD_SHIFT).max(LEAST_LOAD));
    };
    let shift = low32(queue.uint("sum_shift").unwrap_or(0));
    let scaled = full.checked_shr(shift).ok_or(Error::Implausible {
        what: "sum_shift",
        value: u64::from(shift),
    })?;
    Ok(scaled.max(LEAST_LOAD))
}
