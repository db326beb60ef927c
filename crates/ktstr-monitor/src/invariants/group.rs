//! cgroups: shares of load, weights, throttling.

use super::Found;
use super::books::{Books, Cfs, Cpu, Group};

/// `MIN_SHARES`.
const LEAST_SHARES: u64 = 2;

/// Each group's queue on each CPU that is judged.
fn queues(books: &Books) -> impl Iterator<Item = (&Cpu, &Cfs, &Group)> {
    books.free().flat_map(move |cpu| {
        cpu.cfs
            .iter()
            .filter_map(move |queue| Some((cpu, queue, books.groups.get(queue.of?)?)))
    })
}

fn parent_queue<'a>(cpu: &'a Cpu, group: &Group, books: &Books) -> Option<&'a Cfs> {
    let parent = books
        .groups
        .iter()
        .position(|one| one.kva == group.parent)?;
    match books.groups.get(parent)?.is_root {
        true => cpu.cfs.first(),
        false => cpu.cfs.iter().find(|queue| queue.of == Some(parent)),
    }
}

pub(super) fn load(books: &Books, found: &mut Found<'_>) {
    if !books.all_free() {
        return;
    }
    for group in books.groups.iter().filter(|group| !group.is_root) {
        if let (Some(load), Some(sum)) = (group.load_avg, group.contribs)
            && load != sum
        {
            found.push(
                None,
                &group.name,
                format_args!("load_avg = {sum} (sum of tg_load_avg_contrib over all CPUs)"),
                load,
            );
        }
    }
}

pub(super) fn offline_load(books: &Books, found: &mut Found<'_>) {
    for group in books.groups.iter().filter(|group| !group.is_root) {
        for (cpu, contrib) in group.offline.iter().filter(|(_, contrib)| *contrib != 0) {
            found.push(
                *cpu,
                &group.name,
                "tg_load_avg_contrib = 0 on a CPU that is offline",
                format_args!(
                    "{contrib} of the group's load_avg {}",
                    group.load_avg.unwrap_or(0)
                ),
            );
        }
    }
}

pub(super) fn throttle_count(books: &Books, found: &mut Found<'_>) {
    for (cpu, queue, group) in queues(books) {
        let above = parent_queue(cpu, group, books).and_then(|parent| parent.throttle_count);
        let expected = above
            .zip(queue.throttled)
            .map(|(above, own)| above.wrapping_add(own));
        let why = "its parent's, and 1 if it is throttled itself";
        let member = ("throttle_count", queue.throttle_count);
        found.equal(cpu.cpu, &queue.name, member, (why, expected));
    }
}

pub(super) fn throttled_list(books: &Books, found: &mut Found<'_>) {
    for (cpu, queue, group) in queues(books) {
        let (Some(list), Some(throttled)) = (&group.throttled, queue.throttled) else {
            continue;
        };
        if !group.bandwidth_locked && list.contains(&queue.kva) != (throttled != 0) {
            found.push(
                cpu.cpu,
                &queue.name,
                "a queue to be on its group's throttled_cfs_rq exactly while it is throttled",
                format_args!(
                    "throttled = {throttled}, {} the list",
                    match throttled {
                        0 => "on",
                        _ => "not on",
                    }
                ),
            );
        }
    }
}

pub(super) fn throttled_entity(books: &Books, found: &mut Found<'_>) {
    for (cpu, queue, _) in queues(books) {
        // Where throttling is the tasks' own, the group stays while one runs in the kernel.
        if queue.h_curr.is_none()
            && queue.throttled.is_some_and(|throttled| throttled != 0)
            && let Some(entity) = &queue.entity
            && entity.on_rq
        {
            found.push(
                cpu.cpu,
                &queue.name,
                "the entity of a throttled group off its queue",
                "on_rq = 1",
            );
        }
    }
}

pub(super) fn leaf_list(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        if cpu.leaf_ends == Some(false) {
            found.push(
                cpu.cpu,
                "leaf_cfs_rq_list",
                "tmp_alone_branch = &rq->leaf_cfs_rq_list",
                "a branch that was not connected",
            );
        }
    }
}

pub(super) fn on_leaf_list(books: &Books, found: &mut Found<'_>) {
    for cpu in books.free() {
        for queue in &cpu.cfs {
            let throttled = queue.throttle_count.is_some_and(|count| count > 0);
            let is_flat = queue.h_curr.is_some();
            if queue.nr.is_some_and(|nr| nr > 0)
                && queue.on_list == Some(0)
                && (is_flat || !throttled)
            {
                found.push(
                    cpu.cpu,
                    &queue.name,
                    "a queue with entities to be on the list of leaves",
                    "on_list = 0",
                );
            }
        }
    }
}

pub(super) fn idle_flag(books: &Books, found: &mut Found<'_>) {
    for (cpu, queue, group) in queues(books) {
        let expected = group.idle.map(|idle| u64::from(idle != 0));
        let member = ("cfs_rq->idle", queue.idle);
        found.equal(cpu.cpu, &queue.name, member, ("cpu.idle", expected));
    }
}

pub(super) fn weight(books: &Books, found: &mut Found<'_>) {
    for (cpu, queue, group) in queues(books) {
        let (Some(entity), Some(shares)) = (&queue.entity, group.shares) else {
            continue;
        };
        let is_exempt = queue.h_curr.is_some()
            || entity.is_delayed()
            || !entity.on_rq
            || queue.throttle_count.is_none_or(|count| count > 0);
        if !is_exempt && !(LEAST_SHARES..=shares.max(LEAST_SHARES)).contains(&entity.weight) {
            found.push(
                cpu.cpu,
                &queue.name,
                format_args!("load.weight between {LEAST_SHARES} and the group's shares, {shares}"),
                entity.weight,
            );
        }
    }
}
