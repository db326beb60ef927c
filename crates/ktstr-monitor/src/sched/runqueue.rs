//! `struct rq`, one per CPU (`kernel/sched/sched.h`). Read without `rq->__lock`: members may be of different moments.

use serde::Serialize;

use super::scx::sched_pcpu;
use super::{DlServer, ScxPlaces, TaskRef, Walk};
use crate::{Kernel, Object, Problems, Result};

/// One CPU's runqueue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Runqueue {
    /// The CPU.
    pub cpu: u32,
    /// Runnable tasks of all classes, the running one included.
    pub nr_running: Option<u64>,
    /// Runnable tasks of the fair class.
    pub cfs_nr_running: Option<u64>,
    /// Runnable tasks of the real-time class.
    pub rt_nr_running: Option<u64>,
    /// The scheduler's clock on this CPU, nanoseconds.
    pub clock: Option<u64>,
    /// The clock less the time of interrupts and steal, nanoseconds.
    pub clock_task: Option<u64>,
    /// Context switches since boot.
    pub nr_switches: Option<u64>,
    /// Tasks that went into uninterruptible sleep here less those that woke here.
    pub nr_uninterruptible: Option<i64>,
    /// Tasks that wait for I/O.
    pub nr_iowait: Option<i64>,
    /// Capacity for fair tasks, 1024 for a whole CPU.
    pub cpu_capacity: Option<u64>,
    /// Average utilisation by interrupts, of 1024.
    pub avg_irq_util: Option<u64>,
    /// The running task.
    pub curr: Option<TaskRef>,
    /// Whether the running task is the idle task.
    pub is_idle: Option<bool>,
    /// The server that runs fair tasks when real-time ones would starve them (6.8 and later).
    pub fair_server: Option<DlServer>,
    /// The same of sched_ext's tasks (7.0 and later).
    pub ext_server: Option<DlServer>,
    /// sched_ext's part.
    pub scx: Option<RunqueueScx>,
    /// Counters of `/proc/schedstat` (`CONFIG_SCHEDSTATS`).
    pub schedstat: Option<SchedStat>,
}

/// `struct scx_rq`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunqueueScx {
    /// Runnable tasks of the ext class.
    pub nr_running: Option<u64>,
    /// Tasks in the local dispatch queue.
    pub local_dsq_depth: Option<u64>,
    /// `enum scx_rq_flags`.
    pub flags: Option<u64>,
    /// Names of the flags that are set.
    pub flag_names: Vec<String>,
    /// Whether a higher class has the CPU.
    pub cpu_released: Option<bool>,
    /// Target of `scx_bpf_cpuperf_set`.
    pub cpuperf_target: Option<u64>,
    /// Counts the CPU's pick-next-task operations (`kick_sync` since 6.19).
    pub pnt_seq: Option<u64>,
    /// CPUs that this one has yet to kick.
    pub kick: KickMasks,
    /// Tasks that wait for this CPU, the one that became runnable first in front: what the watchdog looks at.
    pub runnable: Vec<RunnableTask>,
}

/// CPUs in `scx_rq::cpus_to_*`; in the scheduler's part of a CPU's area since 7.2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KickMasks {
    /// To be kicked.
    pub kick: Vec<u32>,
    /// To be kicked if they are idle.
    pub kick_if_idle: Vec<u32>,
    /// Whose running task is to be preempted.
    pub preempt: Vec<u32>,
    /// To be waited for.
    pub wait: Vec<u32>,
}

/// A task on `scx_rq::runnable_list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunnableTask {
    /// The task.
    #[serde(flatten)]
    pub task: TaskRef,
    /// For how long it has been runnable, jiffies.
    pub runnable_for: Option<u64>,
    /// Id of the dispatch queue that it is in; none while the BPF scheduler has it.
    pub dsq_id: Option<u64>,
}

/// Runnable tasks that are read per CPU.
const MAX_RUNNABLE: usize = 4096;

/// A CPU's line of `/proc/schedstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SchedStat {
    /// Calls of `sched_yield`. This one and the four below are counted while `kernel.sched_schedstats` is on; None else.
    pub yld_count: Option<u64>,
    /// Calls of `schedule`.
    pub sched_count: Option<u64>,
    /// Those that went idle.
    pub sched_goidle: Option<u64>,
    /// Wake-ups.
    pub ttwu_count: Option<u64>,
    /// Wake-ups of tasks that were last here.
    pub ttwu_local: Option<u64>,
    /// Time that tasks ran, nanoseconds.
    pub rq_cpu_time: Option<u64>,
    /// Time that tasks waited, nanoseconds.
    pub run_delay: Option<u64>,
    /// Time slices run.
    pub pcount: Option<u64>,
}

impl Kernel {
    /// The runqueue of one CPU.
    ///
    /// # Errors
    /// When the kernel's runqueues cannot be found at all.
    pub fn runqueue(&self, cpu: u32, problems: &mut Problems) -> Result<Runqueue> {
        let rq = self.object("rq", self.per_cpu_symbol("runqueues", cpu)?)?;
        Ok(Runqueue {
            cpu,
            nr_running: problems.keep("rq.nr_running", rq.uint("nr_running")),
            cfs_nr_running: problems.keep("rq.cfs", {
                // 6.14: 736c55a02c47 renamed it, and set those apart that sleep and were not dequeued yet.
                rq.uint("cfs.h_nr_runnable")
                    .or_else(|_| rq.uint("cfs.h_nr_queued"))
                    .or_else(|_| rq.uint("cfs.h_nr_running"))
            }),
            rt_nr_running: problems.keep("rq.rt", rq.uint("rt.rt_nr_running")),
            clock: problems.keep("rq.clock", rq.uint("clock")),
            clock_task: problems.keep("rq.clock_task", rq.uint("clock_task")),
            nr_switches: problems.keep("rq.nr_switches", rq.uint("nr_switches")),
            nr_uninterruptible: problems
                .keep("rq.nr_uninterruptible", rq.int("nr_uninterruptible")),
            nr_iowait: problems.keep("rq.nr_iowait", rq.int("nr_iowait")),
            cpu_capacity: problems.keep("rq.cpu_capacity", rq.uint("cpu_capacity")),
            avg_irq_util: problems.keep("rq.avg_irq", rq.uint("avg_irq.util_avg")),
            curr: problems
                .keep("rq.curr", rq.follow("curr"))
                .flatten()
                .and_then(|task| problems.keep("rq.curr", TaskRef::read(&task))),
            is_idle: is_idle(&rq, problems),
            fair_server: DlServer::read(&rq, "fair_server", problems),
            ext_server: DlServer::read(&rq, "ext_server", problems),
            scx: self.runqueue_scx(&rq, cpu, problems),
            schedstat: schedstat(&rq, self.counts_schedstats(), problems),
        })
    }

    /// The runqueues of all CPUs that are online.
    #[must_use]
    pub fn runqueues(&self) -> Walk<Vec<Runqueue>> {
        let mut problems = Problems::new();
        let cpus = problems.need("the online CPUs", self.online_cpus());
        let found = cpus
            .unwrap_or_default()
            .into_iter()
            .filter_map(|cpu| {
                let result = self.runqueue(cpu, &mut problems);
                problems.need(&format!("runqueue of CPU {cpu}"), result)
            })
            .collect();
        Walk { found, problems }
    }

    fn runqueue_scx(
        &self,
        rq: &Object<'_>,
        cpu: u32,
        problems: &mut Problems,
    ) -> Option<RunqueueScx> {
        let scx = problems.keep("rq.scx", rq.member("scx"))?;
        let flags = problems.keep("rq.scx.flags", scx.uint("flags"));
        Some(RunqueueScx {
            nr_running: problems.keep("rq.scx.nr_running", scx.uint("nr_running")),
            local_dsq_depth: problems.keep("rq.scx.local_dsq", scx.uint("local_dsq.nr")),
            flags,
            flag_names: flags.map_or_else(Vec::new, |flags| {
                self.flag_names("scx_rq_flags", "SCX_RQ_", flags)
            }),
            cpu_released: problems
                .keep("rq.scx.cpu_released", scx.uint("cpu_released"))
                .map(|value| value & 1 != 0),
            cpuperf_target: problems.keep("rq.scx.cpuperf_target", scx.uint("cpuperf_target")),
            pnt_seq: problems.keep("rq.scx.pnt_seq", {
                // 6.19: renamed, and it counts what kicks wait for.
                scx.uint("kick_sync").or_else(|_| scx.uint("pnt_seq"))
            }),
            kick: self.kick_masks(&scx, cpu, problems),
            runnable: self.runnable_tasks(&scx, problems),
        })
    }

    /// Whether `kernel.sched_schedstats` is on. A kernel in which the key cannot be found is taken to count.
    pub(crate) fn counts_schedstats(&self) -> bool {
        self.static_key("sched_schedstats").unwrap_or(true)
    }

    /// Whether `kernel.bpf_stats_enabled` is on. A kernel in which the key cannot be found is taken to count.
    pub(crate) fn counts_bpf_stats(&self) -> bool {
        self.static_key("bpf_stats_enabled_key").unwrap_or(true)
    }

    /// A `struct static_key`'s count of users that want it on; its first member (`include/linux/jump_label.h`).
    fn static_key(&self, name: &str) -> Option<bool> {
        let key = self.symbol(name).ok()?;
        Some(self.read_u32(key).ok()? != 0)
    }

    /// The masks of a CPU, of all schedulers together where each has its own.
    fn kick_masks(&self, scx: &Object<'_>, cpu: u32, problems: &mut Problems) -> KickMasks {
        let mut holders = vec![*scx];
        if scx.field("cpus_to_kick").is_err() {
            let places = problems.keep("sched_ext state", ScxPlaces::find(self));
            let schedulers = places
                .flatten()
                .map_or_else(Vec::new, |places| places.schedulers(self, problems));
            holders = schedulers
                .iter()
                .filter_map(|sched| problems.keep("scx_sched.pcpu", sched_pcpu(sched, cpu)))
                .collect();
        }
        let mut union = |path: &'static str| {
            let mut cpus: Vec<u32> = Vec::new();
            for holder in &holders {
                cpus.extend(problems.keep(path, holder.cpus(path)).unwrap_or_default());
            }
            cpus.sort_unstable();
            cpus.dedup();
            cpus
        };
        KickMasks {
            kick: union("cpus_to_kick"),
            kick_if_idle: union("cpus_to_kick_if_idle"),
            preempt: union("cpus_to_preempt"),
            wait: union("cpus_to_wait"),
        }
    }

    fn runnable_tasks(&self, scx: &Object<'_>, problems: &mut Problems) -> Vec<RunnableTask> {
        let head = scx.address_of("runnable_list");
        let Some(head) = problems.keep("rq.scx.runnable_list", head) else {
            return Vec::new();
        };
        let now = self.jiffies().ok();
        self.walk_list("a runnable list", head, MAX_RUNNABLE, problems)
            .into_iter()
            .filter_map(|node| {
                let task = self.container_of(node, "task_struct", "scx.runnable_node");
                let task = problems.keep("a runnable task", task)?;
                let since = problems.keep("task.scx.runnable_at", task.uint("scx.runnable_at"));
                let dsq = problems.keep("task.scx.dsq", task.follow("scx.dsq"));
                Some(RunnableTask {
                    task: problems.need("a runnable task", TaskRef::read(&task))?,
                    // A task may have become runnable after the time was read.
                    runnable_for: now
                        .zip(since)
                        .map(|(now, since)| now.wrapping_sub(since))
                        .filter(|&age| age <= u64::MAX / 2),
                    dsq_id: dsq
                        .flatten()
                        .and_then(|dsq| problems.keep("task.scx.dsq.id", dsq.uint("id"))),
                })
            })
            .collect()
    }

    /// Names of the bits of `flags` that an enum knows, without their common prefix.
    pub(crate) fn flag_names(&self, enum_name: &str, prefix: &str, flags: u64) -> Vec<String> {
        let Some(ty) = self.btf().find_enum(enum_name) else {
            return Vec::new();
        };
        ty.enumerators()
            .filter(|entry| entry.value.is_power_of_two() && flags & entry.value != 0)
            .map(|entry| {
                let name = entry.name;
                name.strip_prefix(prefix).unwrap_or(name).to_owned()
            })
            .collect()
    }
}

fn is_idle(rq: &Object<'_>, problems: &mut Problems) -> Option<bool> {
    let curr = problems.keep("rq.curr", rq.pointer("curr"))?;
    let idle = problems.keep("rq.idle", rq.pointer("idle"))?;
    Some(curr == idle)
}

fn schedstat(rq: &Object<'_>, counts: bool, problems: &mut Problems) -> Option<SchedStat> {
    // Without CONFIG_SCHEDSTATS the members are not there.
    problems.keep("rq.sched_count", rq.field("sched_count"))?;
    let mut read = |path| problems.keep(path, rq.uint(path));
    // What is not counted is unknown, not 0.
    let mut counted = |path| counts.then(|| read(path)).flatten();
    Some(SchedStat {
        yld_count: counted("yld_count"),
        sched_count: counted("sched_count"),
        sched_goidle: counted("sched_goidle"),
        ttwu_count: counted("ttwu_count"),
        ttwu_local: counted("ttwu_local"),
        rq_cpu_time: read("rq_cpu_time"),
        run_delay: read("rq_sched_info.run_delay"),
        pcount: read("rq_sched_info.pcount"),
    })
}
