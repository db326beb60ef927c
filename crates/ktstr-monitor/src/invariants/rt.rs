//! The real-time class: the bitmap, the queues and what is kept of them.

use super::Found;
use super::books::Books;

/// `MAX_RT_PRIO`, where the bitmap has a bit that is always set.
const DELIMITER: u64 = 100;
/// What stands for "none".
const NONE: u64 = 99;
/// `SCHED_RR`.
const ROUND_ROBIN: u64 = 2;

const RT: &str = "struct rt_rq";

pub(super) fn bitmap(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let (Some(bits), Some(listed)) = (&cpu.rt.bits, &cpu.rt.listed) else {
            continue;
        };
        let mut expected: Vec<u64> = listed.iter().map(|(prio, _)| *prio).collect();
        expected.push(DELIMITER);
        expected.sort_unstable();
        expected.dedup();
        if *bits != expected {
            found.push(
                cpu.cpu,
                RT,
                format_args!("bits {expected:?} (queues that are not empty, and the delimiter)"),
                format_args!("bits {bits:?}"),
            );
        }
    }
}

pub(super) fn nr_running(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(listed) = &cpu.rt.listed else {
            continue;
        };
        found.equal(
            cpu.cpu,
            RT,
            ("rt_nr_running", cpu.rt.nr_running),
            ("tasks in its queues", Some(listed.len() as u64)),
        );
        let tasks: Option<Vec<_>> = listed.iter().map(|(_, task)| books.task(*task)).collect();
        let robin = tasks.map(|tasks| {
            let robins = tasks.iter().filter(|task| task.policy == ROUND_ROBIN);
            robins.count() as u64
        });
        found.equal(
            cpu.cpu,
            RT,
            ("rr_nr_running", cpu.rt.rr_nr_running),
            ("SCHED_RR tasks in its queues", robin),
        );
    }
}

pub(super) fn highest(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let first = cpu.rt.listed.as_ref().map(|listed| {
            let priorities = listed.iter().map(|(prio, _)| *prio);
            priorities.min().unwrap_or(NONE)
        });
        found.equal(
            cpu.cpu,
            RT,
            ("highest_prio.curr", cpu.rt.highest),
            ("first priority that is queued, or 99", first),
        );
    }
}

pub(super) fn queued(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free().filter(|cpu| !cpu.rt.has_groups) {
        let expected = cpu.rt.nr_running.map(|nr| u64::from(nr > 0));
        found.equal(
            cpu.cpu,
            RT,
            ("rt_queued", cpu.rt.queued),
            ("whether it has tasks", expected),
        );
    }
}

pub(super) fn pushable(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(pushable) = &cpu.rt.pushable else {
            continue;
        };
        found.equal(
            cpu.cpu,
            RT,
            ("overloaded", cpu.rt.overloaded),
            (
                "whether it has pushable tasks",
                Some(u64::from(!pushable.is_empty())),
            ),
        );
        found.equal(
            cpu.cpu,
            RT,
            ("highest_prio.next", cpu.rt.next),
            (
                "priority of the first pushable task, or 99",
                Some(pushable.first().copied().unwrap_or(NONE)),
            ),
        );
        if !pushable.is_sorted() {
            found.push(
                cpu.cpu,
                RT,
                "pushable tasks in order of priority",
                format_args!("{pushable:?}"),
            );
        }
    }
}
