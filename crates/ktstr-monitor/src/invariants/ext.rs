//! `sched_ext`: dispatch queues, and what tasks say of being in them.

use super::Found;
use super::books::{Books, Dsq, ScxTask, Task};

/// `SCX_OPSS_*`: the low two bits of `ops_state`.
const QUEUED: u64 = 2;
const DISPATCHING: u64 = 3;
const STATE: u64 = 3;
/// `CGROUP_WEIGHT_MIN` and `MAX`, and the fair class's weight of nice 0.
const WEIGHT_MIN: u64 = 1;
const WEIGHT_MAX: u64 = 10_000;
const NICE_0: u64 = 1024;

/// Queues whose own lock, or whose CPU's, is free.
fn free_dsqs(books: &Books) -> impl Iterator<Item = &Dsq> {
    books.dsqs.iter().filter(|dsq| match dsq.cpu {
        Some(cpu) => books.free_cpu(cpu).is_some(),
        None => !dsq.locked,
    })
}

fn ext_tasks(books: &Books) -> impl Iterator<Item = (&Task, &ScxTask, u32)> {
    books.judged_tasks().filter_map(|(task, cpu)| {
        let scx = task.scx.as_ref()?;
        (task.class == Some("ext")).then_some((task, scx, cpu.cpu))
    })
}

pub(super) fn dsq_nr(books: &Books, found: &mut Found<'_>) {
    for dsq in free_dsqs(books) {
        let (Some(nr), Some(tasks)) = (dsq.nr, &dsq.tasks) else {
            continue;
        };
        if nr != tasks.len() as u64 {
            let count = tasks.len();
            let expected = format!("nr = {count} (tasks in its list)");
            found.push(dsq.cpu, &dsq.name, expected, format_args!("nr = {nr}"));
        }
    }
}

pub(super) fn dsq_link(books: &Books, found: &mut Found<'_>) {
    // A task's pointer may be set behind the queue's lock, under its runqueue's.
    if !books.all_free() {
        return;
    }
    for dsq in free_dsqs(books) {
        for task in dsq.tasks.iter().flatten() {
            let Some(task) = books.task(*task) else {
                continue;
            };
            if let Some(scx) = &task.scx
                && scx.dsq != dsq.kva
            {
                found.push(
                    dsq.cpu,
                    &task.name,
                    format_args!("scx.dsq = {} of {}, in whose list it is", dsq.kva, dsq.name),
                    scx.dsq,
                );
            }
        }
    }
}

pub(super) fn dsq_priq(books: &Books, found: &mut Found<'_>) {
    for dsq in free_dsqs(books) {
        let (Some(priq), Some(tasks)) = (&dsq.priq, &dsq.tasks) else {
            continue;
        };
        // A queue is by time of arrival or by priority, never both.
        if !priq.is_empty() && priq != tasks {
            found.push(
                dsq.cpu,
                &dsq.name,
                format_args!(
                    "the {} tasks of its tree in its list, in that order",
                    priq.len()
                ),
                format_args!("{} tasks in its list, or in another order", tasks.len()),
            );
        }
    }
}

pub(super) fn dsq_first(books: &Books, found: &mut Found<'_>) {
    for dsq in free_dsqs(books) {
        let (Some(first), Some(tasks)) = (dsq.first, &dsq.tasks) else {
            continue;
        };
        let expected = match dsq.is_user {
            true => tasks.first().copied().unwrap_or_default(),
            false => crate::Kva(0),
        };
        if first != expected {
            found.push(
                dsq.cpu,
                &dsq.name,
                format_args!("first_task = {expected}"),
                first,
            );
        }
    }
}

pub(super) fn nr_running(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(runnable) = cpu.scx.as_ref().and_then(|scx| scx.runnable.as_ref()) else {
            continue;
        };
        let running = match books.task(cpu.curr) {
            Some(task) if task.class == Some("ext") => {
                let queued = task.scx.as_ref().and_then(|scx| scx.queued);
                let Some(queued) = queued else { continue };
                u64::from(queued && !runnable.contains(&task.kva))
            }
            Some(_) => 0,
            None if cpu.curr == cpu.idle => 0,
            // It is on no list any more.
            None => continue,
        };
        found.equal(
            cpu.cpu,
            "struct scx_rq",
            (
                "nr_running",
                cpu.scx.as_ref().and_then(|scx| scx.nr_running),
            ),
            (
                "tasks in runnable_list and the running one",
                Some(runnable.len() as u64 + running),
            ),
        );
    }
}

pub(super) fn runnable(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let listed = cpu.scx.as_ref().and_then(|scx| scx.runnable.as_ref());
        for task in listed.into_iter().flatten() {
            let Some(task) = books.task(*task) else {
                continue;
            };
            let queued = task.scx.as_ref().and_then(|scx| scx.queued);
            if task.cpu != Some(cpu.cpu) || queued == Some(false) {
                found.push(
                    cpu.cpu,
                    &task.name,
                    "an entry of runnable_list to be queued on this CPU",
                    format_args!(
                        "task_cpu = {}, SCX_TASK_QUEUED = {}",
                        task.cpu.unwrap_or(u32::MAX),
                        u8::from(queued == Some(true))
                    ),
                );
            }
        }
    }
}

pub(super) fn ops_state(books: &Books, found: &mut Found<'_>) {
    for (task, scx, cpu) in ext_tasks(books) {
        let is_wrong = scx.linked || !scx.dsq.is_null() || scx.queued == Some(false);
        if scx.ops & STATE == QUEUED && is_wrong {
            found.push(
                cpu,
                &task.name,
                "a task that the BPF scheduler has (SCX_OPSS_QUEUED) to be queued, and in no DSQ",
                format_args!(
                    "SCX_TASK_QUEUED = {}, scx.dsq = {}, linked = {}",
                    u8::from(scx.queued == Some(true)),
                    scx.dsq,
                    u8::from(scx.linked)
                ),
            );
        }
    }
}

pub(super) fn lost(books: &Books, found: &mut Found<'_>) {
    for (task, scx, cpu) in ext_tasks(books) {
        let Some(owner) = books.free_cpu(cpu) else {
            continue;
        };
        let deferred = owner.scx.as_ref().and_then(|scx| scx.deferred.as_ref());
        let is_somewhere = scx.linked
            || matches!(scx.ops & STATE, QUEUED | DISPATCHING)
            || deferred.is_none_or(|deferred| deferred.contains(&task.kva))
            || scx.holding_cpu >= 0
            || scx.sticky_cpu >= 0;
        if scx.queued == Some(true) && task.on_rq == 1 && owner.curr != task.kva && !is_somewhere {
            found.push(
                cpu,
                &task.name,
                "a waiting task in a DSQ, with the BPF scheduler, or on its way",
                format_args!("none of them; ops_state = {:#x}", scx.ops),
            );
        }
    }
}

pub(super) fn local_cpu(books: &Books, found: &mut Found<'_>) {
    for dsq in free_dsqs(books).filter(|dsq| dsq.is_local) {
        for task in dsq.tasks.iter().flatten() {
            let Some(task) = books.task(*task) else {
                continue;
            };
            let cpu = dsq.cpu.unwrap_or(u32::MAX);
            let moves = task.migration_pending
                || task.migration_disabled != 0
                || books
                    .active
                    .as_ref()
                    .is_none_or(|active| !active.contains(&cpu));
            let allowed = task.allowed.as_ref();
            let is_forbidden = !moves && allowed.is_some_and(|allowed| !allowed.contains(&cpu));
            if task.cpu != Some(cpu) || is_forbidden {
                found.push(
                    cpu,
                    &task.name,
                    format_args!(
                        "a task in {} to be of that CPU and to be allowed there",
                        dsq.name
                    ),
                    format_args!(
                        "task_cpu = {}, allowed on {:?}",
                        task.cpu.unwrap_or(u32::MAX),
                        task.allowed
                    ),
                );
            }
        }
    }
}

pub(super) fn weight(books: &Books, found: &mut Found<'_>) {
    for (task, scx, cpu) in ext_tasks(books) {
        if scx.state_is_enabled != Some(true) {
            continue;
        }
        let expected = super::task::weight(task).map(|weight| {
            let rounded = weight.saturating_mul(100).saturating_add(NICE_0 / 2) / NICE_0;
            rounded.clamp(WEIGHT_MIN, WEIGHT_MAX)
        });
        let why = "by its nice value and policy";
        found.equal(cpu, &task.name, ("scx.weight", scx.weight), (why, expected));
    }
}

pub(super) fn disabled(books: &Books, found: &mut Found<'_>) {
    if books.scx.is_none_or(|scx| !scx.disabled) {
        return;
    }
    for (task, cpu) in books.judged_tasks() {
        if task.class == Some("ext") {
            found.push(
                cpu.cpu,
                &task.name,
                "no task of the ext class while no scheduler is attached",
                "class ext",
            );
        }
    }
    for cpu in books.free() {
        let nr = cpu.scx.as_ref().and_then(|scx| scx.nr_running);
        let why = "no scheduler is attached";
        found.equal(cpu.cpu, "struct scx_rq", ("nr_running", nr), (why, Some(0)));
    }
}

pub(super) fn transfer(books: &Books, found: &mut Found<'_>) {
    for (task, scx, cpu) in ext_tasks(books) {
        for (what, value) in [
            ("sticky_cpu", scx.sticky_cpu),
            ("holding_cpu", scx.holding_cpu),
        ] {
            if value >= 0 && task.on_rq != 2 {
                found.push(
                    cpu,
                    &task.name,
                    format_args!("{what} = -1 outside of a transfer"),
                    format_args!("{what} = {value}"),
                );
            }
        }
    }
}
