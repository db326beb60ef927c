//! Runqueues: counts, clocks, and the running task.

use super::Found;
use super::books::{Books, Cpu};

/// `TASK_NEW`: forked, and not woken for the first time yet.
const TASK_NEW: u64 = 0x800;

const RQ: &str = "struct rq";

pub(super) fn nr_running(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some((nr, sum, words)) = sum_of_classes(cpu) else {
            continue;
        };
        // Kernels up to 6.16 count a queued server as a task, later ones do not.
        let servers = cpu.servers.iter().filter(|server| server.queued).count() as u64;
        if nr != sum && Some(nr) != sum.checked_sub(servers) {
            found.push(
                cpu.cpu,
                RQ,
                format_args!("nr_running = {words} = {sum}"),
                format_args!("nr_running = {nr}"),
            );
        }
    }
}

fn sum_of_classes(cpu: &Cpu) -> Option<(u64, u64, String)> {
    let fair = cpu.cfs.first()?.h_nr_queued?;
    let rt = match cpu.rt.queued? {
        0 => 0,
        _ => cpu.rt.nr_running?,
    };
    let dl = cpu.dl.nr_running?;
    let ext = match &cpu.scx {
        Some(scx) => scx.nr_running?,
        None => 0,
    };
    let stop = u64::from(cpu.stop.as_ref().and_then(|stop| stop.on_rq) == Some(1));
    let words = format!("{fair} fair + {rt} rt + {dl} deadline + {ext} ext + {stop} stop");
    let sum = [rt, dl, ext, stop]
        .iter()
        .fold(fair, |sum, more| sum.wrapping_add(*more));
    Some((cpu.nr_running?, sum, words))
}

pub(super) fn clocks(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let clocks = [
            ("clock_task", cpu.clock_task, "clock", cpu.clock),
            ("clock_pelt", cpu.clock_pelt, "clock_task", cpu.clock_task),
        ];
        for (slow, behind, fast, ahead) in clocks {
            if let (Some(behind), Some(ahead)) = (behind, ahead)
                && behind > ahead
            {
                found.push(
                    cpu.cpu,
                    RQ,
                    format_args!("{slow} <= {fast} = {ahead} ns"),
                    format_args!("{slow} = {behind} ns"),
                );
            }
        }
    }
}

pub(super) fn curr(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(task) = books.task(cpu.curr) else {
            continue;
        };
        if !task.on_cpu || task.cpu != Some(cpu.cpu) {
            let on = u8::from(task.on_cpu);
            let place = task.cpu.unwrap_or(u32::MAX);
            found.push(
                cpu.cpu,
                &task.name,
                format_args!(
                    "the runqueue's curr to have on_cpu = 1 and task_cpu = {}",
                    cpu.cpu
                ),
                format_args!("on_cpu = {on}, task_cpu = {place}"),
            );
        }
    }
}

pub(super) fn on_cpu(books: &Books, found: &mut Found<'_>) {
    for (task, cpu) in books.judged_tasks() {
        if task.on_cpu && cpu.curr != task.kva {
            found.push(
                cpu.cpu,
                &task.name,
                "the CPU's curr to be the task that has on_cpu set",
                format_args!("on_cpu = 1 while curr is {}", books.task_name(cpu.curr)),
            );
        }
    }
}

pub(super) fn own_classes(books: &Books, found: &mut Found<'_>) {
    for cpu in &books.cpus {
        let stop = cpu.stop.as_ref().and_then(|stop| stop.class);
        for (who, class, wanted) in [
            ("the stopper", stop, "stop"),
            ("the idle task", cpu.idle_class, "idle"),
        ] {
            let Some(class) = class else { continue };
            let name = books.classes.get(&class).copied().unwrap_or("unknown");
            if name != wanted {
                found.push(
                    cpu.cpu,
                    who,
                    format_args!("sched_class = {wanted}_sched_class"),
                    format_args!("{name} ({class:#x})"),
                );
            }
        }
    }
}

pub(super) fn nr_uninterruptible(books: &Books, found: &mut Found<'_>) {
    if !books.all_free() {
        return;
    }
    // A task's sleep and its wake-up may be counted on different CPUs, also on one that went offline since, so only the sum
    // of all means something. The member has 32 bits or 64.
    let Some(offline) = &books.offline_uninterruptible else {
        return;
    };
    let counts = books.cpus.iter().map(|cpu| cpu.nr_uninterruptible);
    let counts = counts.chain(offline.iter().map(|count| Some(*count)));
    let Some(sum) = counts.sum::<Option<Wrapping>>() else {
        return;
    };
    let sleepers = books.tasks.iter().filter(|task| {
        let sleeps = task.on_rq == 0 && task.state != 0 && task.state & TASK_NEW == 0;
        sleeps && task.counts_as_load
    });
    let sleepers = i32::try_from(sleepers.count()).unwrap_or(i32::MAX);
    if sum.0 != sleepers {
        found.push(
            None,
            "all runqueues",
            format_args!("sum of nr_uninterruptible = {sleepers} (tasks in uninterruptible sleep)"),
            sum.0,
        );
    }
}

/// A sum of 32 bits that wraps.
struct Wrapping(i32);

impl std::iter::Sum<u64> for Wrapping {
    fn sum<I: Iterator<Item = u64>>(all: I) -> Self {
        Self(all.fold(0, |sum: i32, more| {
            sum.wrapping_add(crate::bytes::low32(more).cast_signed())
        }))
    }
}

pub(super) fn online(books: &Books, found: &mut Found<'_>) {
    let Some(active) = &books.active else { return };
    for cpu in books.free() {
        if active.contains(&cpu.cpu) && cpu.online == Some(0) {
            found.push(
                cpu.cpu,
                RQ,
                "rq->online = 1 on an active CPU",
                "rq->online = 0",
            );
        }
    }
}
