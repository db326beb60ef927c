//! Fair runqueues and their entities.

use super::super::books::{Avg, Cfs, Entity, Node};
use super::{POLICY_IDLE, Reader};
use crate::{Kva, Object};

impl Reader<'_> {
    pub(super) fn cfs(
        &mut self,
        queue: &Object<'_>,
        of: Option<usize>,
        entity: Option<Kva>,
    ) -> Cfs {
        let group = match of {
            Some(_) => self.pointer(queue, "tg"),
            None => Kva(0),
        };
        let name = match of {
            None => String::from("root cfs_rq"),
            Some(_) => self
                .group_names
                .get(&group)
                .cloned()
                .unwrap_or_else(|| format!("cgroup at {group}")),
        };
        let has_tree = of.is_none() || !self.is_flat;
        let tree = match has_tree {
            true => self.entities(queue),
            false => Some(Vec::new()),
        };
        let curr = self.pointer(queue, "curr");
        Cfs {
            kva: queue.kva(),
            name,
            group,
            of,
            nr: self.any(queue, &["nr_queued", "nr_running"]),
            h_nr_queued: self.any(queue, &["h_nr_queued", "h_nr_running"]),
            h_nr_runnable: match queue.field("h_nr_queued") {
                Ok(_) => self.uint(queue, "h_nr_runnable"),
                Err(_) => None,
            },
            h_nr_delayed: self.uint(queue, "h_nr_delayed"),
            h_nr_idle: self.any(queue, &["h_nr_idle", "idle_h_nr_running"]),
            idle: self.uint(queue, "idle"),
            load: self.uint(queue, "load.weight"),
            sum: self
                .any(queue, &["sum_w_vruntime", "avg_vruntime"])
                .map(u64::cast_signed),
            sum_weight: self.any(queue, &["sum_weight", "avg_load"]),
            zero: self.uint(queue, "zero_vruntime"),
            shift: self.uint(queue, "sum_shift"),
            tree,
            leftmost: self.pointer(queue, "tasks_timeline.rb_leftmost"),
            running: (!curr.is_null() && has_tree)
                .then(|| self.entity(curr))
                .flatten(),
            curr,
            h_curr: self.uint(queue, "h_curr").map(Kva),
            next: self.pointer(queue, "next"),
            on_list: self.uint(queue, "on_list"),
            throttled: self.uint(queue, "throttled"),
            throttle_count: self.uint(queue, "throttle_count"),
            avg: self.avg(queue),
            entity: entity.and_then(|entity| self.entity(entity)),
        }
    }

    pub(super) fn entities(&mut self, queue: &Object<'_>) -> Option<Vec<Node>> {
        let root = self.pointer(queue, "tasks_timeline.rb_root.rb_node");
        let offset = self
            .kernel
            .field_of("sched_entity", "run_node")
            .ok()?
            .offset;
        let tree = self.tree("a tree of fair entities", root)?;
        tree.into_iter()
            .map(|(node, children)| {
                let entity = self.entity(node.wrapping_sub(offset))?;
                Some(Node { entity, children })
            })
            .collect()
    }

    pub(super) fn entity(&mut self, kva: Kva) -> Option<Entity> {
        let entity = self.kernel.object("sched_entity", kva).ok()?;
        let my_q = self.pointer(&entity, "my_q");
        let mut found = Entity {
            kva,
            my_q,
            cfs_rq: self.uint(&entity, "cfs_rq").map(Kva),
            depth: self.uint(&entity, "depth"),
            parent: self.pointer(&entity, "parent"),
            weight: self.uint(&entity, "load.weight")?,
            h_weight: self.uint(&entity, "h_load.weight"),
            on_rq: self.uint(&entity, "on_rq")? != 0,
            delayed: self.uint(&entity, "sched_delayed").map(|value| value != 0),
            deadline: self.uint(&entity, "deadline"),
            vruntime: self.uint(&entity, "vruntime")?,
            min_vruntime: self.uint(&entity, "min_vruntime"),
            slice: self.uint(&entity, "slice").unwrap_or(0),
            min_slice: self.uint(&entity, "min_slice"),
            max_slice: self.uint(&entity, "max_slice"),
            avg: self.avg(&entity),
            ..Entity::default()
        };
        if my_q.is_null() {
            let offset = self.kernel.field_of("task_struct", "se").ok()?.offset;
            let task = kva.wrapping_sub(offset);
            let (name, policy) = self.task_name(task);
            (found.name, found.is_idle_policy) = (name, policy == POLICY_IDLE);
        } else {
            let group = self.kernel.object("cfs_rq", my_q).ok();
            let group = group.map(|group| self.pointer(&group, "tg"));
            let known = group.and_then(|group| self.group_names.get(&group));
            found.name = known.map_or_else(|| format!("group entity at {kva}"), Clone::clone);
        }
        Some(found)
    }

    pub(super) fn avg(&mut self, holder: &Object<'_>) -> Avg {
        Avg {
            updated: self.uint(holder, "avg.last_update_time"),
            runnable_sum: self.uint(holder, "avg.runnable_sum"),
            runnable_avg: self.uint(holder, "avg.runnable_avg"),
            util_sum: self.uint(holder, "avg.util_sum"),
            util_avg: self.uint(holder, "avg.util_avg"),
        }
    }
}
