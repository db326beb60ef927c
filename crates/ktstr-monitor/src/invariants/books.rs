//! What the rules look at, read once per stop. A member that this kernel does not have is `None`, and so is a list or tree
//! that could not be walked to its end: rules pass such over, and the reason is among the problems.

use std::collections::HashMap;

use super::Unjudged;
use crate::{Kva, Problems};

/// All of one stop.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) cpus: Vec<Cpu>,
    pub(super) tasks: Vec<Task>,
    /// Places of tasks, by address.
    pub(super) index: HashMap<Kva, usize>,
    pub(super) groups: Vec<Group>,
    pub(super) dsqs: Vec<Dsq>,
    /// None without sched_ext.
    pub(super) scx: Option<Scx>,
    pub(super) active: Option<Vec<u32>>,
    pub(super) classes: HashMap<u64, &'static str>,
    pub(super) psi: bool,
    /// `nr_uninterruptible` of CPUs that are possible and not online.
    pub(super) offline_uninterruptible: Option<Vec<u64>>,
    pub(super) nr_cpu_ids: u32,
    /// Offset of the tree's node in an entity.
    pub(super) run_node: Option<u64>,
    pub(super) domains: Option<Vec<Domain>>,
    pub(super) problems: Problems,
}

#[derive(Debug, Default)]
pub(super) struct Cpu {
    pub(super) cpu: u32,
    /// Why it is not judged.
    pub(super) busy: Option<&'static str>,
    pub(super) nr_running: Option<u64>,
    pub(super) nr_uninterruptible: Option<u64>,
    pub(super) clock: Option<u64>,
    pub(super) clock_task: Option<u64>,
    pub(super) clock_pelt: Option<u64>,
    pub(super) lost_idle_time: Option<u64>,
    pub(super) online: Option<u64>,
    pub(super) curr: Kva,
    pub(super) idle: Kva,
    pub(super) stop: Option<Fellow>,
    pub(super) idle_class: Option<u64>,
    pub(super) leaf_ends: Option<bool>,
    /// The root's first, then those of groups.
    pub(super) cfs: Vec<Cfs>,
    /// Tasks of the fair class that load balancing may choose from.
    pub(super) cfs_tasks: Option<Vec<Kva>>,
    pub(super) rt: Rt,
    pub(super) dl: Dl,
    pub(super) servers: Vec<Server>,
    pub(super) scx: Option<ScxRq>,
}

/// A task that is in no list.
#[derive(Debug, Default)]
pub(super) struct Fellow {
    pub(super) class: Option<u64>,
    pub(super) on_rq: Option<u64>,
}

/// `struct cfs_rq`.
#[derive(Debug, Default)]
pub(super) struct Cfs {
    pub(super) kva: Kva,
    pub(super) name: String,
    pub(super) group: Kva,
    /// Place in [`Books::groups`]; none of the root.
    pub(super) of: Option<usize>,
    /// Entities of its own, the running one included.
    pub(super) nr: Option<u64>,
    pub(super) h_nr_queued: Option<u64>,
    pub(super) h_nr_runnable: Option<u64>,
    pub(super) h_nr_delayed: Option<u64>,
    pub(super) h_nr_idle: Option<u64>,
    pub(super) idle: Option<u64>,
    pub(super) load: Option<u64>,
    pub(super) sum: Option<i64>,
    pub(super) sum_weight: Option<u64>,
    pub(super) zero: Option<u64>,
    pub(super) shift: Option<u64>,
    /// In order of the tree.
    pub(super) tree: Option<Vec<Node>>,
    pub(super) leftmost: Kva,
    pub(super) curr: Kva,
    pub(super) h_curr: Option<Kva>,
    pub(super) next: Kva,
    /// The running one, which is in no tree.
    pub(super) running: Option<Entity>,
    pub(super) on_list: Option<u64>,
    pub(super) throttled: Option<u64>,
    pub(super) throttle_count: Option<u64>,
    pub(super) avg: Avg,
    /// Of the group in its parent.
    pub(super) entity: Option<Entity>,
}

/// An entity in a tree.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) entity: Entity,
    /// Places of its children in the same list.
    pub(super) children: [Option<usize>; 2],
}

/// `struct sched_entity`.
#[derive(Debug, Default, Clone)]
pub(super) struct Entity {
    pub(super) kva: Kva,
    pub(super) name: String,
    /// What a group has queued; null for a task.
    pub(super) my_q: Kva,
    pub(super) cfs_rq: Option<Kva>,
    pub(super) depth: Option<u64>,
    pub(super) parent: Kva,
    pub(super) weight: u64,
    pub(super) h_weight: Option<u64>,
    pub(super) on_rq: bool,
    pub(super) delayed: Option<bool>,
    pub(super) deadline: Option<u64>,
    pub(super) vruntime: u64,
    pub(super) min_vruntime: Option<u64>,
    pub(super) slice: u64,
    pub(super) min_slice: Option<u64>,
    pub(super) max_slice: Option<u64>,
    pub(super) avg: Avg,
    /// Of a task: whether its policy is `SCHED_IDLE`.
    pub(super) is_idle_policy: bool,
}

/// `struct sched_avg`.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Avg {
    pub(super) updated: Option<u64>,
    pub(super) runnable_sum: Option<u64>,
    pub(super) runnable_avg: Option<u64>,
    pub(super) util_sum: Option<u64>,
    pub(super) util_avg: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) kva: Kva,
    pub(super) name: String,
    pub(super) parent: Kva,
    pub(super) is_root: bool,
    pub(super) shares: Option<u64>,
    pub(super) idle: Option<u64>,
    pub(super) load_avg: Option<u64>,
    /// Sum over all CPUs that are possible.
    pub(super) contribs: Option<u64>,
    /// CPUs that are possible and not online, with what they contribute.
    pub(super) offline: Vec<(u32, u64)>,
    pub(super) throttled: Option<Vec<Kva>>,
    pub(super) bandwidth_locked: bool,
}

/// `struct rt_rq`.
#[derive(Debug, Default)]
pub(super) struct Rt {
    pub(super) nr_running: Option<u64>,
    pub(super) rr_nr_running: Option<u64>,
    pub(super) queued: Option<u64>,
    pub(super) has_groups: bool,
    pub(super) highest: Option<u64>,
    pub(super) next: Option<u64>,
    pub(super) overloaded: Option<u64>,
    /// Priorities whose bit is set, the delimiter at 100 included.
    pub(super) bits: Option<Vec<u64>>,
    /// Priority and task of what is queued.
    pub(super) listed: Option<Vec<(u64, Kva)>>,
    /// Priorities of those that may be pushed away, as the list has them.
    pub(super) pushable: Option<Vec<u64>>,
}

/// `struct dl_rq`.
#[derive(Debug, Default)]
pub(super) struct Dl {
    pub(super) nr_running: Option<u64>,
    pub(super) earliest: Option<u64>,
    pub(super) running_bw: Option<u64>,
    pub(super) this_bw: Option<u64>,
    /// Deadlines in order of the tree.
    pub(super) deadlines: Option<Vec<u64>>,
}

/// A deadline server.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) queued: bool,
    pub(super) active: Option<bool>,
    pub(super) throttled: bool,
    pub(super) runtime: u64,
    pub(super) timer: Option<bool>,
}

/// `struct scx_rq`.
#[derive(Debug, Default)]
pub(super) struct ScxRq {
    pub(super) nr_running: Option<u64>,
    pub(super) runnable: Option<Vec<Kva>>,
    pub(super) deferred: Option<Vec<Kva>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scx {
    pub(super) enabled: bool,
    pub(super) disabled: bool,
    /// No scheduler was ever attached.
    pub(super) unused: bool,
}

/// `struct scx_dispatch_q`.
#[derive(Debug, Default)]
pub(super) struct Dsq {
    pub(super) kva: Kva,
    pub(super) name: String,
    /// Of a CPU's own.
    pub(super) cpu: Option<u32>,
    pub(super) is_local: bool,
    pub(super) is_user: bool,
    pub(super) locked: bool,
    pub(super) nr: Option<u64>,
    pub(super) first: Option<Kva>,
    pub(super) tasks: Option<Vec<Kva>>,
    /// Tasks in its tree, in order.
    pub(super) priq: Option<Vec<Kva>>,
}

/// A thread.
#[derive(Debug, Default)]
pub(super) struct Task {
    pub(super) kva: Kva,
    pub(super) name: String,
    pub(super) cpu: Option<u32>,
    pub(super) class: Option<&'static str>,
    pub(super) state: u64,
    pub(super) on_rq: u64,
    pub(super) on_cpu: bool,
    pub(super) policy: u64,
    pub(super) static_prio: u64,
    pub(super) counts_as_load: bool,
    pub(super) throttled: bool,
    pub(super) group: Kva,
    pub(super) entity: Entity,
    pub(super) rt_on_rq: bool,
    pub(super) dl_queued: bool,
    pub(super) dl_throttled: bool,
    pub(super) nr_cpus_allowed: Option<u64>,
    pub(super) cpus_mask: Option<Vec<u32>>,
    pub(super) allowed: Option<Vec<u32>>,
    pub(super) has_own_mask: Option<bool>,
    pub(super) migration_disabled: u64,
    pub(super) migration_pending: bool,
    pub(super) psi_flags: Option<u64>,
    pub(super) scx: Option<ScxTask>,
}

/// `struct sched_ext_entity`.
#[derive(Debug, Default)]
pub(super) struct ScxTask {
    pub(super) queued: Option<bool>,
    pub(super) state_is_enabled: Option<bool>,
    pub(super) ops: u64,
    pub(super) dsq: Kva,
    pub(super) linked: bool,
    pub(super) weight: Option<u64>,
    pub(super) sticky_cpu: i64,
    pub(super) holding_cpu: i64,
}

/// One level of a CPU's sched domains.
#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) cpu: u32,
    pub(super) depth: usize,
    pub(super) span: Vec<u32>,
    pub(super) weight: Option<u64>,
    /// CPUs and weight of each group.
    pub(super) groups: Vec<(Vec<u32>, Option<u64>)>,
}

impl Books {
    /// CPUs whose runqueue's lock is free.
    pub(super) fn free(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(|cpu| cpu.busy.is_none())
    }

    /// A runqueue whose lock is free.
    pub(super) fn free_cpu(&self, cpu: u32) -> Option<&Cpu> {
        self.free().find(|one| one.cpu == cpu)
    }

    /// The furthest clock: those of idle CPUs stand.
    pub(super) fn now(&self) -> u64 {
        let clocks = self.cpus.iter().filter_map(|cpu| cpu.clock);
        clocks.max().unwrap_or(0)
    }

    /// Whether all of them are free.
    pub(super) fn all_free(&self) -> bool {
        !self.cpus.is_empty() && self.cpus.iter().all(|cpu| cpu.busy.is_none())
    }

    pub(super) fn unjudged(&self) -> Vec<Unjudged> {
        let busy = |cpu: &Cpu| {
            let why = cpu.busy?;
            Some(Unjudged { cpu: cpu.cpu, why })
        };
        self.cpus.iter().filter_map(busy).collect()
    }

    /// Tasks whose runqueue's lock is free, with that runqueue.
    pub(super) fn judged_tasks(&self) -> impl Iterator<Item = (&Task, &Cpu)> {
        self.tasks
            .iter()
            .filter_map(|task| Some((task, self.free_cpu(task.cpu?)?)))
    }

    pub(super) fn task(&self, kva: Kva) -> Option<&Task> {
        self.tasks.get(*self.index.get(&kva)?)
    }

    /// A task's name, or its address.
    pub(super) fn task_name(&self, kva: Kva) -> String {
        self.task(kva)
            .map_or_else(|| format!("task at {kva}"), |task| task.name.clone())
    }
}

impl Cfs {
    /// Entities that it has queued.
    pub(super) fn queued(&self) -> Option<impl Iterator<Item = &Entity>> {
        let tree = self.tree.as_ref()?;
        Some(
            tree.iter()
                .map(|node| &node.entity)
                .chain(self.running.as_ref().filter(|entity| entity.on_rq)),
        )
    }
}

impl Entity {
    pub(super) fn is_task(&self) -> bool {
        self.my_q.is_null()
    }

    pub(super) fn is_delayed(&self) -> bool {
        self.delayed == Some(true)
    }
}
