//! The fair class: counts, loads and trees of each `struct cfs_rq`.

use super::Found;
use super::books::{Books, Cfs, Cpu, Entity};

/// `PELT_MIN_DIVIDER` (`kernel/sched/pelt.h`).
const PELT_MIN_DIVIDER: u64 = 46_718;
/// `scale_load_down`'s shift, and the least that comes out.
const LOAD_SHIFT: u64 = 10;
const LEAST_LOAD: u64 = 2;
/// What `sched_setattr` takes as a slice, nanoseconds.
const LONGEST_SLICE: u64 = 100_000_000;
const SHORTEST_SLICE: u64 = 100_000;

/// An entity that a queue has, and what a group has queued itself.
type Child<'a> = (&'a Entity, Option<&'a Cfs>);

/// What a queue has; none where it cannot be known.
fn children<'a>(cpu: &'a Cpu, queue: &'a Cfs) -> Option<Vec<Child<'a>>> {
    let below = |entity: &Entity| cpu.cfs.iter().find(|one| one.kva == entity.my_q);
    if queue.h_curr.is_none() {
        let all = queue.queued()?;
        return all
            .map(|entity| match entity.is_task() {
                true => Some((entity, None)),
                // One that is being removed is in no list.
                false => Some((entity, Some(below(entity)?))),
            })
            .collect();
    }
    let tasks = cpu.cfs.first()?.queued()?;
    let tasks = tasks
        .filter(|entity| entity.cfs_rq == Some(queue.kva))
        .map(|entity| (entity, None));
    let groups = cpu.cfs.iter().filter_map(|group| {
        let entity = group.entity.as_ref()?;
        let here = entity.on_rq && entity.cfs_rq == Some(queue.kva);
        here.then_some((entity, Some(group)))
    });
    Some(tasks.chain(groups).collect())
}

/// Compares a member of each queue with what is computed from its children.
fn compare(
    books: &Books,
    found: &mut Found<'_>,
    what: &str,
    why: &str,
    member: impl Fn(&Cfs) -> Option<u64>,
    computed: impl Fn(&[Child<'_>]) -> Option<u64>,
) {
    for cpu in books.free() {
        for queue in &cpu.cfs {
            let expected = children(cpu, queue).and_then(|children| computed(&children));
            found.equal(cpu.cpu, &queue.name, (what, member(queue)), (why, expected));
        }
    }
}

fn sum(children: &[Child<'_>], one: impl Fn(&Child<'_>) -> Option<u64>) -> Option<u64> {
    children
        .iter()
        .try_fold(0_u64, |sum, child| Some(sum.wrapping_add(one(child)?)))
}

pub(super) fn nr(books: &Books, found: &mut Found<'_>) {
    compare(
        books,
        found,
        "number of queued entities",
        "those in the tree and the running one",
        |queue| queue.nr,
        |children| Some(children.len() as u64),
    );
}

pub(super) fn load(books: &Books, found: &mut Found<'_>) {
    compare(
        books,
        found,
        "load.weight",
        "sum of its entities' load.weight",
        |queue| queue.load,
        |children| sum(children, |(entity, _)| Some(entity.weight)),
    );
}

pub(super) fn h_nr_queued(books: &Books, found: &mut Found<'_>) {
    compare(
        books,
        found,
        "h_nr_queued",
        "its own tasks and those of queued groups below",
        |queue| queue.h_nr_queued,
        |children| {
            sum(children, |(_, group)| match group {
                Some(group) => group.h_nr_queued,
                None => Some(1),
            })
        },
    );
}

/// How many below are delayed, as the queue has it.
fn delayed(queue: &Cfs) -> Option<u64> {
    queue
        .h_nr_delayed
        .or_else(|| Some(queue.h_nr_queued?.wrapping_sub(queue.h_nr_runnable?)))
}

pub(super) fn h_nr_delayed(books: &Books, found: &mut Found<'_>) {
    compare(
        books,
        found,
        "number of delayed tasks",
        "its own and those of queued groups below",
        delayed,
        |children| {
            sum(children, |(entity, group)| match group {
                Some(group) => delayed(group),
                None => Some(u64::from(entity.delayed?)),
            })
        },
    );
}

pub(super) fn h_nr_runnable(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in &cpu.cfs {
            let expected = queue
                .h_nr_queued
                .zip(queue.h_nr_delayed)
                .map(|(queued, delayed)| queued.wrapping_sub(delayed));
            found.equal(
                cpu.cpu,
                &queue.name,
                ("h_nr_runnable", queue.h_nr_runnable),
                ("h_nr_queued - h_nr_delayed", expected),
            );
        }
    }
}

pub(super) fn h_nr_idle(books: &Books, found: &mut Found<'_>) {
    compare(
        books,
        found,
        "number of SCHED_IDLE tasks",
        "its own and those of queued groups below; all of an idle group",
        |queue| queue.h_nr_idle,
        |children| {
            sum(children, |(entity, group)| match group {
                Some(group) if group.idle? != 0 => group.h_nr_queued,
                Some(group) => group.h_nr_idle,
                None => Some(u64::from(entity.is_idle_policy)),
            })
        },
    );
}

pub(super) fn tree_order(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in &cpu.cfs {
            let Some(tree) = &queue.tree else { continue };
            for pair in tree.windows(2) {
                let [before, after] = pair else { continue };
                let (before, after) = (&before.entity, &after.entity);
                if let (Some(first), Some(second)) = (before.deadline, after.deadline)
                    && second.wrapping_sub(first).cast_signed() < 0
                {
                    found.push(
                        cpu.cpu,
                        &queue.name,
                        "deadlines that do not fall along the tree",
                        format_args!(
                            "{} with deadline {first} before {} with {second}",
                            before.name, after.name
                        ),
                    );
                }
            }
            let leftmost = queue.leftmost.0;
            if let Some(first) = tree.first()
                && books
                    .run_node
                    .is_some_and(|offset| first.entity.kva.wrapping_add(offset).0 != leftmost)
            {
                found.push(
                    cpu.cpu,
                    &queue.name,
                    format_args!("rb_leftmost at the first node, {}", first.entity.name),
                    format_args!("{leftmost:#x}"),
                );
            }
        }
    }
}

pub(super) fn tree_heap(books: &Books, found: &mut Found<'_>) {
    let earlier = |a: u64, b: u64| match a.wrapping_sub(b).cast_signed() > 0 {
        true => b,
        false => a,
    };
    for cpu in books.free() {
        for queue in &cpu.cfs {
            let Some(tree) = &queue.tree else { continue };
            for node in tree {
                let own = &node.entity;
                let below: Vec<&Entity> = node
                    .children
                    .iter()
                    .flatten()
                    .filter_map(|place| Some(&tree.get(*place)?.entity))
                    .collect();
                let over = |first: u64,
                            member: fn(&Entity) -> Option<u64>,
                            pick: &dyn Fn(u64, u64) -> u64| {
                    below
                        .iter()
                        .try_fold(first, |so_far, child| Some(pick(so_far, member(child)?)))
                };
                let members = [
                    (
                        "min_vruntime",
                        own.min_vruntime,
                        over(own.vruntime, |one| one.min_vruntime, &earlier),
                    ),
                    (
                        "min_slice",
                        own.min_slice,
                        over(own.slice, |one| one.min_slice, &u64::min),
                    ),
                    (
                        "max_slice",
                        own.max_slice,
                        over(own.slice, |one| one.max_slice, &u64::max),
                    ),
                ];
                for (what, member, expected) in members {
                    let name = format!("{} in {}", own.name, queue.name);
                    let why = "of its own and its children's in the tree";
                    found.equal(cpu.cpu, name, (what, member), (why, expected));
                }
            }
        }
    }
}

pub(super) fn tree_sum(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in &cpu.cfs {
            if queue.h_curr.is_some() && queue.of.is_some() {
                continue;
            }
            let (Some(tree), Some(zero)) = (&queue.tree, queue.zero) else {
                continue;
            };
            let (mut weights, mut products) = (0_u64, 0_i64);
            for node in tree {
                let entity = &node.entity;
                let weight = match (entity.h_weight, queue.shift) {
                    (Some(weight), Some(shift)) => (weight >> shift.min(63)).max(LEAST_LOAD),
                    _ => (entity.weight >> LOAD_SHIFT).max(LEAST_LOAD),
                };
                let key = entity.vruntime.wrapping_sub(zero).cast_signed();
                weights = weights.wrapping_add(weight);
                products = products.wrapping_add(key.wrapping_mul(weight.cast_signed()));
            }
            found.equal(
                cpu.cpu,
                &queue.name,
                ("sum of weights", queue.sum_weight),
                ("of the tree's entities", Some(weights)),
            );
            if let Some(sum) = queue.sum
                && sum != products
            {
                found.push(
                    cpu.cpu,
                    &queue.name,
                    format_args!("sum of (vruntime - zero_vruntime) * weight = {products} (of the tree's entities)"),
                    sum,
                );
            }
        }
    }
}

pub(super) fn curr(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let running = match books.task(cpu.curr) {
            Some(task) if task.class == Some("fair") => Some(&task.entity),
            Some(_) => None,
            None if cpu.curr == cpu.idle => None,
            // It is on no list any more.
            None => continue,
        };
        let mut expected = Vec::new();
        let mut next = running;
        while let Some(entity) = next.filter(|_| expected.len() <= cpu.cfs.len()) {
            expected.push((entity.cfs_rq, entity.kva));
            next = cpu
                .cfs
                .iter()
                .filter_map(|queue| queue.entity.as_ref())
                .find(|above| above.kva == entity.parent);
        }
        for queue in &cpu.cfs {
            let wanted = expected
                .iter()
                .find(|(of, _)| *of == Some(queue.kva))
                .map_or(crate::Kva(0), |(_, entity)| *entity);
            let curr = queue.h_curr.unwrap_or(queue.curr);
            if curr != wanted {
                found.push(
                    cpu.cpu,
                    &queue.name,
                    format_args!(
                        "curr = {wanted} (the running task is {})",
                        running.map_or("not of the fair class", |entity| &entity.name)
                    ),
                    curr,
                );
            }
        }
    }
}

pub(super) fn group_entity(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for group in &cpu.cfs {
            let (Some(entity), Some(nr)) = (&group.entity, group.nr) else {
                continue;
            };
            let queued = group.h_nr_queued.unwrap_or(nr);
            let wrong = match (entity.on_rq, entity.is_delayed()) {
                (true, true) => {
                    (nr != 0 || queued != 0).then_some("nothing queued in a delayed group")
                }
                (true, false) => (nr == 0).then_some("something queued in a queued group"),
                (false, _) => (nr != 0 && group.throttled == Some(0)).then_some(
                    "a group that has something queued to be queued, unless it is throttled",
                ),
            };
            if let Some(expected) = wrong {
                found.push(
                    cpu.cpu,
                    &group.name,
                    expected,
                    format_args!(
                        "entity on_rq = {}, sched_delayed = {}; {nr} entities and {queued} tasks queued",
                        u8::from(entity.on_rq),
                        u8::from(entity.is_delayed())
                    ),
                );
            }
        }
    }
}

pub(super) fn slice(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in &cpu.cfs {
            let Some(queued) = queue.queued() else {
                continue;
            };
            for entity in queued.filter(|entity| entity.is_task()) {
                if !(SHORTEST_SLICE..=LONGEST_SLICE).contains(&entity.slice) {
                    found.push(
                        cpu.cpu,
                        &entity.name,
                        "a slice of 0.1 to 100 ms",
                        format_args!("slice = {} ns", entity.slice),
                    );
                }
            }
        }
    }
}

/// A group's slice is that of a task below it.
pub(super) fn group_slice(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in cpu.cfs.iter().filter(|queue| queue.h_curr.is_none()) {
            let Some(queued) = queue.queued() else {
                continue;
            };
            for entity in queued.filter(|entity| !entity.is_task()) {
                if entity.slice > LONGEST_SLICE {
                    found.push(
                        cpu.cpu,
                        &entity.name,
                        "a slice of at most 100 ms",
                        format_args!("slice = {} ns", entity.slice),
                    );
                }
            }
        }
    }
}

pub(super) fn next(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in cpu.cfs.iter().filter(|queue| !queue.next.is_null()) {
            let Some(mut queued) = queue.queued() else {
                continue;
            };
            if !queued.any(|entity| entity.kva == queue.next && !entity.is_delayed()) {
                found.push(
                    cpu.cpu,
                    &queue.name,
                    "next to be an entity that it has queued, not delayed",
                    queue.next,
                );
            }
        }
    }
}

pub(super) fn pelt_sums(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let queues = cpu.cfs.iter().map(|queue| (&queue.name, &queue.avg));
        let groups = cpu
            .cfs
            .iter()
            .filter_map(|queue| Some((&queue.name, &queue.entity.as_ref()?.avg)));
        let tasks = books.tasks.iter().filter(|task| task.cpu == Some(cpu.cpu));
        let tasks = tasks.map(|task| (&task.name, &task.entity.avg));
        for (name, avg) in queues.chain(groups).chain(tasks) {
            // New ones have averages without sums.
            if avg.updated.is_none_or(|at| at == 0) {
                continue;
            }
            for (what, sum, mean) in [
                ("util", avg.util_sum, avg.util_avg),
                ("runnable", avg.runnable_sum, avg.runnable_avg),
            ] {
                if let (Some(sum), Some(mean)) = (sum, mean)
                    && sum < mean.wrapping_mul(PELT_MIN_DIVIDER)
                {
                    found.push(
                        cpu.cpu,
                        name,
                        format_args!("{what}_sum >= {what}_avg * {PELT_MIN_DIVIDER}"),
                        format_args!("{what}_sum = {sum}, {what}_avg = {mean}"),
                    );
                }
            }
        }
    }
}

pub(super) fn pelt_clock(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        let Some(root) = cpu.cfs.first() else {
            continue;
        };
        let now = cpu
            .clock_pelt
            .zip(cpu.lost_idle_time)
            .map(|(clock, lost)| clock.wrapping_sub(lost));
        if let (Some(updated), Some(now)) = (root.avg.updated, now)
            && updated.wrapping_sub(now).cast_signed() > 0
        {
            found.push(
                cpu.cpu,
                &root.name,
                format_args!("avg.last_update_time <= clock_pelt - lost_idle_time = {now}"),
                updated,
            );
        }
    }
}
