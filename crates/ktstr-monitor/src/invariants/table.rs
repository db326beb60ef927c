//! All rules.

use super::Cost::{Cpu, Queued, Threads};
use super::Valid::{AnyStop, RqLockFree, TwoStops};
use super::{Cost, Invariant, Rule, Valid};
use super::{cfs, dl, domain, ext, group, psi, rt, runqueue, task};

const BOTH: &str = "6.12, 7.3";

const fn row(
    name: &'static str,
    what: &'static str,
    (valid, cost): (Valid, Cost),
    rule: Rule,
) -> Invariant {
    Invariant {
        name,
        what,
        kernels: BOTH,
        valid,
        cost,
        by_default: true,
        rule,
    }
}

/// All rules, by what they are about. Each was seen to hold at stops of busy guests of these kernels, and to fire.
pub const TABLE: &[Invariant] = &[
    row(
        "rq-nr-running",
        "nr_running of a runqueue is the sum of what its classes have queued",
        (RqLockFree, Cpu),
        runqueue::nr_running,
    ),
    row(
        "rq-clocks",
        "clock_pelt <= clock_task <= clock",
        (RqLockFree, Cpu),
        runqueue::clocks,
    ),
    row(
        "rq-curr",
        "the task that a runqueue says it runs is of its CPU and has on_cpu set",
        (RqLockFree, Cpu),
        runqueue::curr,
    ),
    row(
        "rq-on-cpu",
        "a task with on_cpu set is the one that its CPU runs",
        (RqLockFree, Threads),
        runqueue::on_cpu,
    ),
    row(
        "rq-own-classes",
        "each CPU's stopper is of the stop class and its idle task of the idle class",
        (AnyStop, Cpu),
        runqueue::own_classes,
    ),
    row(
        "rq-nr-uninterruptible",
        "nr_uninterruptible of all runqueues is the number of tasks in uninterruptible sleep",
        (RqLockFree, Threads),
        runqueue::nr_uninterruptible,
    ),
    row(
        "rq-online",
        "the runqueue of an active CPU is online",
        (TwoStops(1000), Cpu),
        runqueue::online,
    )
    .when_asked(),
    row(
        "cfs-nr",
        "a queue's number of entities is that of its tree and the running one",
        (RqLockFree, Queued),
        cfs::nr,
    ),
    row(
        "cfs-load",
        "a queue's load.weight is the sum of its entities'",
        (RqLockFree, Queued),
        cfs::load,
    ),
    row(
        "cfs-h-nr-queued",
        "h_nr_queued counts a queue's own tasks and those of queued groups below",
        (RqLockFree, Queued),
        cfs::h_nr_queued,
    ),
    row(
        "cfs-h-nr-delayed",
        "the number of delayed tasks is that of a queue's own and of queued groups below",
        (RqLockFree, Queued),
        cfs::h_nr_delayed,
    ),
    row(
        "cfs-h-nr-runnable",
        "what is queued is runnable or delayed",
        (RqLockFree, Queued),
        cfs::h_nr_runnable,
    ),
    row(
        "cfs-h-nr-idle",
        "the number of SCHED_IDLE tasks is that of a queue's own and of queued groups below",
        (RqLockFree, Queued),
        cfs::h_nr_idle,
    ),
    row(
        "cfs-tree-order",
        "deadlines do not fall along the tree, and rb_leftmost is its first node",
        (RqLockFree, Queued),
        cfs::tree_order,
    ),
    row(
        "cfs-tree-heap",
        "min_vruntime, min_slice and max_slice are of an entity and its children in the tree",
        (RqLockFree, Queued),
        cfs::tree_heap,
    ),
    row(
        "cfs-tree-sum",
        "sums of weights and of weighted keys are of the tree's entities",
        (RqLockFree, Queued),
        cfs::tree_sum,
    ),
    row(
        "cfs-curr",
        "each queue's curr is the entity of the running task at that level, or none",
        (RqLockFree, Queued),
        cfs::curr,
    ),
    row(
        "cfs-group-entity",
        "a group is queued in its parent while it has something queued",
        (RqLockFree, Queued),
        cfs::group_entity,
    ),
    row(
        "cfs-slice",
        "a queued task's slice is between 0.1 and 100 ms",
        (RqLockFree, Queued),
        cfs::slice,
    ),
    row(
        "cfs-group-slice",
        "a queued group's slice is at most 100 ms",
        (RqLockFree, Queued),
        cfs::group_slice,
    ),
    row(
        "cfs-next",
        "the buddy that is to run next is queued and not delayed",
        (RqLockFree, Queued),
        cfs::next,
    ),
    row(
        "cfs-tasks",
        "cfs_tasks has the queued fair tasks of its CPU and no others",
        (RqLockFree, Threads),
        task::listed,
    ),
    row(
        "pelt-sums",
        "no average of utilisation or runnability exceeds its sum",
        (RqLockFree, Threads),
        cfs::pelt_sums,
    ),
    row(
        "pelt-clock",
        "the root's averages are of no later time than its clock",
        (RqLockFree, Cpu),
        cfs::pelt_clock,
    ),
    row(
        "task-delayed",
        "a delayed task is of the fair class, queued, asleep and not running",
        (RqLockFree, Threads),
        task::delayed,
    ),
    row(
        "task-queued",
        "a task with on_rq = 1 is queued in its class",
        (RqLockFree, Threads),
        task::queued,
    ),
    row(
        "task-unqueued",
        "a task with on_rq = 0 is in no class's queue",
        (RqLockFree, Threads),
        task::unqueued,
    ),
    row(
        "task-place",
        "a queued fair task's cfs_rq is that of its CPU and its group",
        (RqLockFree, Threads),
        task::place,
    ),
    row(
        "task-allowed-cpu",
        "a queued task is on a CPU that it may use",
        (RqLockFree, Threads),
        task::allowed_cpu,
    ),
    row(
        "task-affinity-count",
        "nr_cpus_allowed is the weight of cpus_mask",
        (RqLockFree, Threads),
        task::affinity_count,
    ),
    row(
        "task-cpus-ptr",
        "cpus_ptr leads to the task's own mask, or to its CPU while migration is disabled",
        (RqLockFree, Threads),
        task::own_mask,
    ),
    row(
        "task-weight",
        "a queued fair task's weight is that of its nice value and policy",
        (RqLockFree, Threads),
        task::fair_weight,
    ),
    row(
        "psi-flags",
        "TSK_RUNNING is set while a task is runnable and not delayed, TSK_ONCPU while it runs",
        (RqLockFree, Threads),
        psi::flags,
    ),
    row(
        "group-load",
        "a group's load_avg is the sum of what its queues contribute",
        (RqLockFree, Queued),
        group::load,
    ),
    row(
        "group-offline-load",
        "a CPU that is offline contributes nothing to a group's load",
        (AnyStop, Queued),
        group::offline_load,
    ),
    row(
        "group-throttle-count",
        "throttle_count is the parent's, and one more for a queue that is throttled itself",
        (TwoStops(50), Queued),
        group::throttle_count,
    )
    .when_asked(),
    row(
        "group-throttled-list",
        "a queue is on its group's list of throttled ones exactly while it is throttled",
        (RqLockFree, Queued),
        group::throttled_list,
    ),
    row(
        "group-throttled-entity",
        "a throttled group's entity is off its queue",
        (RqLockFree, Queued),
        group::throttled_entity,
    ),
    row(
        "group-leaf-branch",
        "no branch of the list of leaves hangs loose",
        (RqLockFree, Cpu),
        group::leaf_list,
    ),
    row(
        "group-on-leaf-list",
        "a queue with entities is on the list of leaves unless it is throttled",
        (RqLockFree, Queued),
        group::on_leaf_list,
    ),
    row(
        "group-idle",
        "a queue's idle flag is its group's cpu.idle",
        (TwoStops(50), Queued),
        group::idle_flag,
    )
    .when_asked(),
    row(
        "group-weight",
        "a queued group's weight is between 2 and its shares",
        (TwoStops(50), Queued),
        group::weight,
    )
    .when_asked(),
    row(
        "rt-bitmap",
        "the bitmap has a bit for each queue that is not empty",
        (RqLockFree, Queued),
        rt::bitmap,
    ),
    row(
        "rt-nr-running",
        "rt_nr_running and rr_nr_running count the tasks in the queues",
        (RqLockFree, Queued),
        rt::nr_running,
    ),
    row(
        "rt-highest",
        "highest_prio.curr is the first priority that is queued",
        (RqLockFree, Queued),
        rt::highest,
    ),
    row(
        "rt-queued",
        "rt_queued is set while there are tasks",
        (RqLockFree, Cpu),
        rt::queued,
    ),
    row(
        "rt-pushable",
        "overloaded and highest_prio.next are those of the pushable tasks, which are in order",
        (RqLockFree, Queued),
        rt::pushable,
    ),
    row(
        "dl-nr-running",
        "dl_nr_running counts the entities in the tree",
        (RqLockFree, Queued),
        dl::nr_running,
    ),
    row(
        "dl-earliest",
        "earliest_dl.curr is the first deadline in the tree, which is in order",
        (RqLockFree, Queued),
        dl::earliest,
    ),
    row(
        "dl-bandwidth",
        "running_bw is no more than this_bw",
        (RqLockFree, Cpu),
        dl::bandwidth,
    ),
    row(
        "dl-server-queued",
        "a deadline server in the tree is active",
        (RqLockFree, Cpu),
        dl::queued_server,
    ),
    row(
        "dl-server-active",
        "an active deadline server is in the tree or has its timer set",
        (TwoStops(100), Cpu),
        dl::active_server,
    )
    .when_asked(),
    row(
        "ext-dsq-nr",
        "a DSQ's nr is the number of tasks in its list",
        (RqLockFree, Queued),
        ext::dsq_nr,
    )
    .when_asked(),
    row(
        "ext-dsq-link",
        "a task in a DSQ's list points at that DSQ",
        (RqLockFree, Queued),
        ext::dsq_link,
    )
    .when_asked(),
    row(
        "ext-dsq-priq",
        "a DSQ that is ordered by vtime has all of its tasks in its tree, in the order of its list",
        (RqLockFree, Queued),
        ext::dsq_priq,
    )
    .when_asked(),
    row(
        "ext-dsq-first",
        "first_task is the first of a scheduler's DSQ, and none of a built-in one",
        (RqLockFree, Queued),
        ext::dsq_first,
    )
    .when_asked(),
    row(
        "ext-nr-running",
        "nr_running of sched_ext is its runnable_list and the running task",
        (RqLockFree, Queued),
        ext::nr_running,
    )
    .when_asked(),
    row(
        "ext-runnable",
        "tasks in runnable_list are queued on that CPU",
        (RqLockFree, Queued),
        ext::runnable,
    )
    .when_asked(),
    row(
        "ext-ops-state",
        "a task that the BPF scheduler has is queued and in no DSQ",
        (RqLockFree, Threads),
        ext::ops_state,
    )
    .when_asked(),
    row(
        "ext-lost",
        "a waiting task is in a DSQ, with the BPF scheduler, or on its way",
        (RqLockFree, Threads),
        ext::lost,
    )
    .when_asked(),
    row(
        "ext-local-cpu",
        "tasks in a local DSQ are of that CPU and allowed there",
        (RqLockFree, Queued),
        ext::local_cpu,
    )
    .when_asked(),
    row(
        "ext-weight",
        "a task's weight in sched_ext is that of its nice value and policy",
        (RqLockFree, Threads),
        ext::weight,
    )
    .when_asked(),
    row(
        "ext-disabled",
        "no task is of the ext class while no scheduler is attached",
        (TwoStops(100), Threads),
        ext::disabled,
    )
    .when_asked(),
    row(
        "ext-transfer",
        "sticky_cpu and holding_cpu are set during a transfer only",
        (TwoStops(100), Threads),
        ext::transfer,
    )
    .when_asked(),
    row(
        "domain-span",
        "a domain's span has its CPU and as many as span_weight",
        (AnyStop, Cpu),
        domain::span,
    ),
    row(
        "domain-nesting",
        "a domain's span lies within its parent's",
        (AnyStop, Cpu),
        domain::nesting,
    ),
    row(
        "domain-groups",
        "a domain's groups make up its span",
        (AnyStop, Cpu),
        domain::groups,
    ),
];

/// Rules that seem to hold and do not, with the reason.
pub const DROPPED: &[(&str, &str)] = &[
    (
        "psi-counts",
        "the system's counts of a CPU are more than those of listed threads: one that exits is off the list before it leaves its CPU",
    ),
    (
        "cfs-runnable-weight",
        "a group entity's runnable_weight is not its queue's h_nr_runnable: set_delayed() and clear_delayed() change the counts without se_update_runnable()",
    ),
    (
        "cfs-util-est",
        "the root's util_est is not the sum of its tasks' up to 6.12: a delayed task that a class change finishes is subtracted twice",
    ),
    (
        "cfs-lag",
        "a queued entity's lag has no tight bound: it is clamped at dequeue and reweight only, so a bound is an alarm level and not a rule",
    ),
    (
        "dl-root-bandwidth",
        "total_bw of a root domain is not the sum of its entities' on 6.12: a rebuild of domains loses the servers'",
    ),
];
