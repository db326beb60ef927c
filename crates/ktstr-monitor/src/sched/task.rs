//! `struct task_struct`: all threads, by process. Read without `tasklist_lock`; a list that changes underfoot ends early.

use serde::Serialize;

use super::Walk;
use crate::{Kernel, Kva, Object, Problems, Result};

/// More than `pid_max` of any machine that a test would boot.
const MAX_TASKS: usize = 1 << 16;

/// Enough to say which task is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskRef {
    /// Thread id; 0 for idle tasks.
    pub pid: i32,
    /// Name.
    pub comm: String,
    /// Address of its `task_struct`.
    pub kva: Kva,
}

impl TaskRef {
    pub(crate) fn read(task: &Object<'_>) -> Result<Self> {
        Ok(Self {
            pid: task.i32("pid")?,
            comm: task.text("comm")?,
            kva: task.kva(),
        })
    }
}

/// A thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Thread id.
    pub pid: i32,
    /// Process id.
    pub tgid: i32,
    /// Process id of the parent.
    pub ppid: Option<i32>,
    /// Name.
    pub comm: String,
    /// Address of its `task_struct`.
    pub kva: Kva,
    /// The letter of `/proc/PID/stat`.
    pub state: Option<char>,
    /// The CPU it runs on or ran on last.
    pub cpu: Option<u32>,
    /// Whether a CPU runs it now.
    pub on_cpu: Option<bool>,
    /// Whether it is on a runqueue.
    pub on_rq: Option<bool>,
    /// Effective priority, 0 to 139.
    pub prio: Option<i32>,
    /// Nice value.
    pub nice: Option<i32>,
    /// `SCHED_*` number.
    pub policy: Option<u64>,
    /// Name of the class that schedules it (`fair`, `ext`, `rt`, …).
    pub sched_class: Option<String>,
    /// CPUs it may use.
    pub cpus_allowed: Option<Vec<u32>>,
    /// `PF_*` flags.
    pub flags: Option<u64>,
    /// Whether it is a kernel thread.
    pub is_kthread: Option<bool>,
    /// CPU time, nanoseconds.
    pub sum_exec_runtime: Option<u64>,
    /// Voluntary context switches.
    pub nvcsw: Option<u64>,
    /// Involuntary context switches.
    pub nivcsw: Option<u64>,
    /// When it began, nanoseconds since boot, suspend included.
    pub start_boottime: Option<u64>,
    /// Path of its cgroup in the unified hierarchy.
    pub cgroup: Option<String>,
    /// Return addresses on its kernel stack, the innermost first, while it waits for a CPU or sleeps uninterruptibly;
    /// left-overs of earlier calls are among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
    /// sched_ext's part.
    pub scx: Option<TaskScx>,
}

/// `struct sched_ext_entity`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskScx {
    /// Id of the dispatch queue it is in.
    pub dsq_id: Option<u64>,
    /// Weight by nice value or cgroup.
    pub weight: Option<u64>,
    /// Remaining slice, nanoseconds.
    pub slice: Option<u64>,
    /// Key of priority queues.
    pub dsq_vtime: Option<u64>,
    /// CPU it must go to next, -1 for none.
    pub sticky_cpu: Option<i32>,
    /// CPU that holds it during a transfer, -1 for none.
    pub holding_cpu: Option<i32>,
    /// When it became runnable, jiffies.
    pub runnable_at: Option<u64>,
    /// Flags as the kernel keeps them, the task's state included.
    pub flags: Option<u64>,
    /// Names of the flags that are set: `queued`.
    pub flag_names: Vec<String>,
    /// The task's state in sched_ext: none, init, ready, enabled.
    pub state: Option<String>,
    /// `ops_state` as the kernel keeps it, sequence number included.
    pub ops_state: Option<u64>,
    /// Its owner: none (the kernel), queueing, queued (the BPF scheduler), dispatching.
    pub ops_state_name: Option<String>,
    /// [Number](crate::sched::ScxScheduler::id) of its scheduler, where the kernel numbers them.
    pub scheduler: Option<u64>,
    /// The queue that it was dispatched to directly, until it gets there; 0 for none.
    pub ddsp_dsq_id: Option<u64>,
    /// The CPU that `ops.select_cpu` chose (6.15 and later).
    pub selected_cpu: Option<i32>,
    /// The CPU that it is runnable on, -1 for none (6.19 and later).
    pub runnable_cpu: Option<i32>,
}

impl Kernel {
    /// All threads of all processes, idle tasks excepted.
    #[must_use]
    pub fn tasks(&self) -> Walk<Vec<Task>> {
        let mut problems = Problems::new();
        let mut found = Vec::new();
        let threads = self.threads(&mut problems);
        for kva in problems.need("the task list", threads).unwrap_or_default() {
            let task = self
                .object("task_struct", kva)
                .and_then(|task| self.task(&task, &mut problems));
            found.extend(problems.need("a task", task));
        }
        Walk { found, problems }
    }

    /// Addresses of all `task_struct`s, idle tasks excepted.
    ///
    /// # Errors
    /// When the list's head or type is missing.
    pub fn threads(&self, problems: &mut Problems) -> Result<Vec<Kva>> {
        let init = self.object("task_struct", self.symbol("init_task")?)?;
        let link = init.field("tasks")?.offset;
        // 6.7 removed thread_group; thread_head has been there since 3.14.
        let thread_link = init.field("thread_node")?.offset;
        let head = init.address_of("tasks")?;
        let mut threads = Vec::new();
        for entry in self.walk_list("the task list", head, MAX_TASKS, problems) {
            let leader = Object::new(self, init.type_id(), entry.wrapping_sub(link));
            let signal = match leader.follow_some("signal") {
                Ok(signal) => signal,
                Err(error) => {
                    problems.note("a task's signal_struct", &error);
                    threads.push(leader.kva());
                    continue;
                }
            };
            let room = MAX_TASKS.saturating_sub(threads.len());
            let head = signal.address_of("thread_head")?;
            let nodes = self.walk_list("a thread list", head, room, problems);
            if nodes.is_empty() {
                threads.push(leader.kva());
            }
            threads.extend(nodes.into_iter().map(|node| node.wrapping_sub(thread_link)));
        }
        threads.truncate(MAX_TASKS);
        Ok(threads)
    }

    /// Everything about one task.
    ///
    /// # Errors
    /// When not even its ids and name can be read.
    pub fn task(&self, task: &Object<'_>, problems: &mut Problems) -> Result<Task> {
        let flags = problems.keep("task.flags", task.uint("flags"));
        let flag = |value: u64| value & 1 != 0;
        Ok(Task {
            pid: task.i32("pid")?,
            tgid: task.i32("tgid")?,
            comm: task.text("comm")?,
            kva: task.kva(),
            ppid: problems
                .keep("task.real_parent", task.follow("real_parent"))
                .flatten()
                .and_then(|parent| problems.keep("parent.tgid", parent.i32("tgid"))),
            state: state(task, problems),
            cpu: problems.keep("task.cpu", {
                task.u32("thread_info.cpu").or_else(|_| task.u32("cpu"))
            }),
            on_cpu: problems.keep("task.on_cpu", task.uint("on_cpu")).map(flag),
            on_rq: problems
                .keep("task.on_rq", task.uint("on_rq"))
                .map(|value| value != 0),
            prio: problems.keep("task.prio", task.i32("prio")),
            nice: problems
                .keep("task.static_prio", task.i32("static_prio"))
                .map(|prio| prio.wrapping_sub(120)),
            policy: problems.keep("task.policy", task.uint("policy")),
            sched_class: problems
                .keep("task.sched_class", task.pointer("sched_class"))
                .and_then(|class| self.class_name(class)),
            cpus_allowed: self.cpus_allowed(task, problems),
            is_kthread: flags.map(|flags| flags & PF_KTHREAD != 0),
            flags,
            sum_exec_runtime: problems.keep("task.se", task.uint("se.sum_exec_runtime")),
            nvcsw: problems.keep("task.nvcsw", task.uint("nvcsw")),
            nivcsw: problems.keep("task.nivcsw", task.uint("nivcsw")),
            start_boottime: problems.keep("task.start_boottime", task.uint("start_boottime")),
            cgroup: problems
                .keep("task.cgroup", self.task_cgroup(task))
                .flatten(),
            stack: self.stack_of_waiting(task, problems),
            scx: problems
                .keep("task.scx", task.member("scx"))
                .map(|scx| read_scx(&scx, problems)),
        })
    }

    /// Of a task that wants to run or sleeps uninterruptibly, and does not run: the tasks worth a stack trace.
    fn stack_of_waiting(&self, task: &Object<'_>, problems: &mut Problems) -> Vec<String> {
        let flag = |path| task.uint(path).is_ok_and(|value| value != 0);
        let sleeps = task.uint("__state").is_ok_and(|state| state & 0x407 == 2);
        if flag("on_cpu") || !(flag("on_rq") || sleeps) {
            return Vec::new();
        }
        let stack = self.task_stack(task);
        problems.keep("task.stack", stack).unwrap_or_default()
    }

    /// The class whose symbol has this address; `__sched_class_highest` and the like are other names for some.
    fn class_name(&self, class: Kva) -> Option<String> {
        const CLASSES: [&str; 6] = ["fair", "ext", "idle", "rt", "dl", "stop"];
        CLASSES
            .into_iter()
            .find(|name| self.symbols().find(&format!("{name}_sched_class")) == Some(class.0))
            .map(str::to_owned)
    }

    fn cpus_allowed(&self, task: &Object<'_>, problems: &mut Problems) -> Option<Vec<u32>> {
        problems.keep("task.cpus_ptr", task.cpus("cpus_ptr"))
    }
}

const PF_KTHREAD: u64 = 0x0020_0000;

/// The letter of `/proc/PID/stat` (`fs/proc/array.c: task_state_array`, `include/linux/sched.h: __task_state_index`).
fn state(task: &Object<'_>, problems: &mut Problems) -> Option<char> {
    const LETTERS: &[u8] = b"RSDTtXZPI";
    /// `TASK_REPORT`: states with a letter of their own.
    const REPORT: u64 = 0x7f;
    const IDLE: u64 = 0x402;
    const RTLOCK_WAIT: u64 = 0x1000;
    const FROZEN: u64 = 0x8000;
    let current = problems.keep("task.__state", {
        task.uint("__state").or_else(|_| task.uint("state"))
    })?;
    let exit = problems.keep("task.exit_state", task.uint("exit_state"))?;
    let mut reported = (current | exit) & REPORT;
    if current & IDLE == IDLE {
        reported = REPORT + 1;
    } else if current & (RTLOCK_WAIT | FROZEN) != 0 {
        reported = 2;
    }
    let index = 64 - reported.leading_zeros();
    LETTERS.get(index as usize).map(|&letter| letter.into())
}

fn read_scx(scx: &Object<'_>, problems: &mut Problems) -> TaskScx {
    let kernel = scx.kernel();
    let dsq = problems.keep("task.scx.dsq", scx.follow("dsq")).flatten();
    let sched = problems.keep("task.scx.sched", scx.follow("sched"));
    let flags = problems.keep("task.scx.flags", scx.uint("flags"));
    let ops_state = problems.keep("task.scx.ops_state", scx.uint("ops_state"));
    TaskScx {
        state: flags.and_then(|flags| scx_state(kernel, flags)),
        flag_names: flags.map_or_else(Vec::new, |flags| scx_flag_names(kernel, flags)),
        flags,
        // The low two bits; the rest is a sequence number (`SCX_OPSS_STATE_MASK`).
        ops_state_name: ops_state
            .map(|state| kernel.lower_name("scx_ops_state", "SCX_OPSS_", state & 3)),
        ops_state,
        scheduler: sched
            .flatten()
            .and_then(|sched| problems.keep("scx_sched.id", sched.uint("id"))),
        ddsp_dsq_id: problems.keep("task.scx.ddsp_dsq_id", scx.uint("ddsp_dsq_id")),
        selected_cpu: problems.keep("task.scx.selected_cpu", scx.i32("selected_cpu")),
        runnable_cpu: problems.keep("task.scx.runnable_cpu", scx.i32("runnable_cpu")),
        dsq_id: dsq.and_then(|dsq| problems.keep("task.scx.dsq.id", dsq.uint("id"))),
        weight: problems.keep("task.scx.weight", scx.uint("weight")),
        slice: problems.keep("task.scx.slice", scx.uint("slice")),
        dsq_vtime: problems.keep("task.scx.dsq_vtime", scx.uint("dsq_vtime")),
        sticky_cpu: problems.keep("task.scx.sticky_cpu", scx.i32("sticky_cpu")),
        holding_cpu: problems.keep("task.scx.holding_cpu", scx.i32("holding_cpu")),
        runnable_at: problems.keep("task.scx.runnable_at", scx.uint("runnable_at")),
    }
}

/// The bits of `scx.flags` that are a state, and how far up they stand.
fn scx_state_bits(kernel: &Kernel) -> Option<(u64, u64)> {
    let value = |name| kernel.btf().enumerator("scx_ent_flags", name);
    let (shift, bits) = (
        value("SCX_TASK_STATE_SHIFT")?,
        value("SCX_TASK_STATE_BITS")?,
    );
    let mask = (1_u64.checked_shl(u32::try_from(bits).ok()?)?).checked_sub(1)?;
    (shift < 32).then_some((mask << shift, shift))
}

/// A task's state by name: among the flags in new kernels, an enum of its own in old ones.
fn scx_state(kernel: &Kernel, flags: u64) -> Option<String> {
    let (mask, shift) = scx_state_bits(kernel)?;
    if kernel.btf().find_enum("scx_task_state").is_some() {
        return Some(kernel.lower_name("scx_task_state", "SCX_TASK_", (flags & mask) >> shift));
    }
    let named = ["NONE", "INIT_BEGIN", "INIT", "READY", "ENABLED", "DEAD"];
    named
        .into_iter()
        .find(|name| {
            let name = format!("SCX_TASK_{name}");
            kernel.btf().enumerator("scx_ent_flags", &name) == Some(flags & mask)
        })
        .map(str::to_ascii_lowercase)
}

/// Names of single bits below the state; above it are a reason for another enqueue and a cursor's mark.
fn scx_flag_names(kernel: &Kernel, flags: u64) -> Vec<String> {
    let Some((mask, shift)) = scx_state_bits(kernel) else {
        return Vec::new();
    };
    let own = flags & !mask & ((1 << shift) - 1);
    let Some(ty) = kernel.btf().find_enum("scx_ent_flags") else {
        return Vec::new();
    };
    ty.enumerators()
        .filter(|entry| entry.value.is_power_of_two() && own & entry.value != 0)
        // A count of bits, or of places, is no flag.
        .filter(|entry| !entry.name.ends_with("_SHIFT") && !entry.name.ends_with("_BITS"))
        .filter_map(|entry| entry.name.strip_prefix("SCX_TASK_"))
        .map(str::to_ascii_lowercase)
        .collect()
}
