//! Threads: what their own members say of being queued, and where.

use std::collections::{HashMap, HashSet};

use super::Found;
use super::books::{Books, Cpu, Task};
use crate::Kva;

/// `TASK_ON_RQ_QUEUED`; a task that is carried to another runqueue has 2.
const QUEUED: u64 = 1;
/// `sched_prio_to_weight`: nice -20 to 19 (`kernel/sched/core.c`).
const WEIGHTS: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87,
    70, 56, 45, 36, 29, 23, 18, 15,
];
/// `WEIGHT_IDLEPRIO`.
const IDLE_WEIGHT: u64 = 3;
/// `SCHED_IDLE`.
const POLICY_IDLE: u64 = 5;

/// Weight by nice value and policy, before it is scaled.
pub(super) fn weight(task: &Task) -> Option<u64> {
    if task.policy == POLICY_IDLE {
        return Some(IDLE_WEIGHT);
    }
    let nice = usize::try_from(task.static_prio.checked_sub(100)?).ok()?;
    WEIGHTS.get(nice).copied()
}

pub(super) fn delayed(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        if !task.entity.is_delayed() || task.on_rq == 2 {
            continue;
        }
        let is_right = task.class == Some("fair")
            && task.entity.on_rq
            && task.on_rq == QUEUED
            && task.state != 0
            && !task.on_cpu;
        if !is_right {
            found.push(
                cpu.cpu,
                &task.name,
                "a delayed task to be of the fair class, queued, asleep and not running",
                state_of(task),
            );
        }
    }
}

fn state_of(task: &Task) -> String {
    format!(
        "class {}, on_rq = {}, se.on_rq = {}, sched_delayed = {}, __state = {:#x}, on_cpu = {}",
        task.class.unwrap_or("unknown"),
        task.on_rq,
        u8::from(task.entity.on_rq),
        u8::from(task.entity.is_delayed()),
        task.state,
        u8::from(task.on_cpu)
    )
}

pub(super) fn queued(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        if task.on_rq != QUEUED {
            continue;
        }
        let (is_queued, what) = match task.class {
            Some("fair") => (task.entity.on_rq || task.throttled, "se.on_rq"),
            Some("rt") => (task.rt_on_rq, "rt.on_rq"),
            Some("dl") => (
                task.dl_queued || task.dl_throttled,
                "in the deadline tree, or throttled",
            ),
            Some("ext") => (
                task.scx.as_ref().and_then(|scx| scx.queued) != Some(false),
                "SCX_TASK_QUEUED",
            ),
            _ => continue,
        };
        if !is_queued {
            found.push(
                cpu.cpu,
                &task.name,
                format_args!("a task with on_rq = 1 to be queued in its class ({what})"),
                state_of(task),
            );
        }
    }
}

pub(super) fn unqueued(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        let somewhere = task.entity.on_rq || task.rt_on_rq || task.dl_queued;
        if task.on_rq == 0 && somewhere {
            found.push(
                cpu.cpu,
                &task.name,
                "a task with on_rq = 0 to be in no class's queue",
                format_args!(
                    "{}, rt.on_rq = {}, in the deadline tree = {}",
                    state_of(task),
                    task.rt_on_rq,
                    task.dl_queued
                ),
            );
        }
    }
}

pub(super) fn place(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        if task.class != Some("fair") || task.on_rq != QUEUED {
            continue;
        }
        let Some(queue) = task.entity.cfs_rq else {
            continue;
        };
        let Some(own) = cpu.cfs.iter().find(|own| own.kva == queue) else {
            if let Some(owner) = owner_of(books, queue) {
                found.push(
                    cpu.cpu,
                    &task.name,
                    format_args!("se.cfs_rq of CPU {}", cpu.cpu),
                    format_args!("se.cfs_rq of CPU {}", owner.cpu),
                );
            }
            continue;
        };
        let in_group = own.of.is_none() || own.group == task.group;
        let depth = own.entity.as_ref().map_or(Some(0), |above| {
            above.depth.map(|depth| depth.wrapping_add(1))
        });
        if !in_group || (depth.is_some() && task.entity.depth != depth) {
            found.push(
                cpu.cpu,
                &task.name,
                format_args!(
                    "se.cfs_rq of its own task group, {} levels deep",
                    depth.unwrap_or(0)
                ),
                format_args!(
                    "se.cfs_rq of {}, se.depth = {}",
                    own.name,
                    task.entity.depth.unwrap_or(0)
                ),
            );
        }
    }
}

fn owner_of(books: &Books, queue: Kva) -> Option<&Cpu> {
    books
        .free()
        .find(|cpu| cpu.cfs.iter().any(|own| own.kva == queue))
}

pub(super) fn listed(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(listed) = &cpu.cfs_tasks else {
            continue;
        };
        for task in listed.iter().filter_map(|kva| books.task(*kva)) {
            if task.class != Some("fair") || task.cpu != Some(cpu.cpu) || !task.entity.on_rq {
                found.push(
                    cpu.cpu,
                    &task.name,
                    "an entry of cfs_tasks to be a queued task of the fair class and of this CPU",
                    format_args!(
                        "{}, task_cpu = {}",
                        state_of(task),
                        task.cpu.unwrap_or(u32::MAX)
                    ),
                );
            }
        }
    }
    let listed: HashMap<u32, HashSet<Kva>> = books
        .free()
        .filter_map(|cpu| Some((cpu.cpu, cpu.cfs_tasks.as_ref()?.iter().copied().collect())))
        .collect();
    for (task, cpu) in books.judged_tasks() {
        if let Some(listed) = listed.get(&cpu.cpu)
            && task.class == Some("fair")
            && task.entity.on_rq
            && !listed.contains(&task.kva)
        {
            found.push(
                cpu.cpu,
                &task.name,
                "a queued task of the fair class to be in cfs_tasks",
                state_of(task),
            );
        }
    }
}

pub(super) fn allowed_cpu(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        // A stopper on its way moves such a task, and so does a CPU's going offline.
        let moves = task.migration_pending
            || task.migration_disabled != 0
            || cpu.stop.as_ref().is_none_or(|stop| stop.on_rq != Some(0))
            || books
                .active
                .as_ref()
                .is_none_or(|active| !active.contains(&cpu.cpu));
        if let Some(allowed) = &task.allowed
            && task.on_rq == QUEUED
            && !moves
            && !allowed.contains(&cpu.cpu)
        {
            found.push(
                cpu.cpu,
                &task.name,
                format_args!("queued on one of the CPUs {allowed:?} that it may use"),
                format_args!("queued on CPU {}", cpu.cpu),
            );
        }
    }
}

pub(super) fn affinity_count(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        let (Some(count), Some(mask)) = (task.nr_cpus_allowed, &task.cpus_mask) else {
            continue;
        };
        let weight = mask.len() as u64;
        // A mask of all bits, as the first task has, counts CPUs that cannot be.
        let has_all = weight == u64::from(books.nr_cpu_ids) && count > weight;
        if count != weight && !has_all {
            found.push(
                cpu.cpu,
                &task.name,
                format_args!("nr_cpus_allowed = {weight} (weight of cpus_mask)"),
                count,
            );
        }
    }
}

pub(super) fn own_mask(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        let (Some(own), Some(allowed)) = (task.has_own_mask, &task.allowed) else {
            continue;
        };
        if task.migration_disabled == 0 && !own {
            found.push(
                cpu.cpu,
                &task.name,
                "cpus_ptr = &cpus_mask while migration is not disabled",
                "cpus_ptr at another mask",
            );
        }
        if task.migration_disabled != 0 && !task.on_cpu && *allowed != [cpu.cpu] {
            found.push(
                cpu.cpu,
                &task.name,
                format_args!(
                    "*cpus_ptr = CPU {} while migration is disabled and it does not run",
                    cpu.cpu
                ),
                format_args!("{allowed:?}"),
            );
        }
    }
}

pub(super) fn fair_weight(books: &Books, found: &mut Found<'_>) {
    // A task whose nice value changed while it was of the ext class keeps its old weight when it comes back.
    if books.scx.is_some_and(|scx| !scx.unused) {
        return;
    }
    for (task, cpu) in books.judged_tasks() {
        if task.class != Some("fair") || !task.entity.on_rq {
            continue;
        }
        let expected = weight(task).map(|weight| weight << 10);
        let why = "by its nice value and policy";
        let member = ("se.load.weight", Some(task.entity.weight));
        found.equal(cpu.cpu, &task.name, member, (why, expected));
    }
}
