//! Real-time and deadline runqueues, and servers.

use super::super::books::{Dl, Rt, Server};
use super::Reader;
use crate::{Kva, Object};

/// `MAX_RT_PRIO`.
const RT_PRIOS: u64 = 100;

impl Reader<'_> {
    pub(super) fn rt(&mut self, rq: &Object<'_>) -> Rt {
        let Some(rt) = self.problems.keep("rq.rt", rq.member("rt")) else {
            return Rt::default();
        };
        let mut found = Rt {
            nr_running: self.uint(&rt, "rt_nr_running"),
            rr_nr_running: self.uint(&rt, "rr_nr_running"),
            queued: self.uint(&rt, "rt_queued"),
            has_groups: rt.field("rt_throttled").is_ok(),
            highest: self.uint(&rt, "highest_prio.curr"),
            next: self.uint(&rt, "highest_prio.next"),
            overloaded: self.uint(&rt, "overloaded"),
            ..Rt::default()
        };
        if let Ok(bitmap) = rt.bytes("active.bitmap") {
            let bit = |prio: &u64| {
                let byte = usize::try_from(prio / 8).ok().and_then(|at| bitmap.get(at));
                byte.is_some_and(|byte| byte >> (prio % 8) & 1 != 0)
            };
            found.bits = Some((0..=RT_PRIOS).filter(bit).collect());
        }
        if let (Ok(queues), Ok(entity)) = (
            rt.address_of("active.queue"),
            self.kernel.field_of("task_struct", "rt.run_list"),
        ) && !found.has_groups
        {
            let mut listed = Some(Vec::new());
            for prio in 0..RT_PRIOS {
                let head = queues.wrapping_add(prio * 16);
                let nodes = self.list("a queue of real-time tasks", head);
                listed = listed.zip(nodes).map(|(mut listed, nodes)| {
                    let task = |node: Kva| (prio, node.wrapping_sub(entity.offset));
                    listed.extend(nodes.into_iter().map(task));
                    listed
                });
            }
            found.listed = listed;
        }
        if let (Ok(head), Ok(node)) = (
            rt.address_of("pushable_tasks.node_list"),
            self.kernel.field_of("plist_node", "node_list"),
        ) {
            let nodes = self.list("pushable tasks", head);
            found.pushable = nodes.and_then(|nodes| {
                let prio = |at: Kva| {
                    let at = at.wrapping_sub(node.offset);
                    let node = self.kernel.object("plist_node", at).ok()?;
                    self.uint(&node, "prio")
                };
                nodes.into_iter().map(prio).collect()
            });
        }
        found
    }

    pub(super) fn dl(&mut self, rq: &Object<'_>) -> Dl {
        let Some(dl) = self.problems.keep("rq.dl", rq.member("dl")) else {
            return Dl::default();
        };
        let root = self.pointer(&dl, "root.rb_root.rb_node");
        let deadlines = self.tree("a tree of deadlines", root).and_then(|nodes| {
            let read = |(node, _): (Kva, _)| {
                let entity = self
                    .kernel
                    .container_of(node, "sched_dl_entity", "rb_node")
                    .ok()?;
                self.uint(&entity, "deadline")
            };
            nodes.into_iter().map(read).collect()
        });
        Dl {
            nr_running: self.uint(&dl, "dl_nr_running"),
            earliest: self.uint(&dl, "earliest_dl.curr"),
            running_bw: self.uint(&dl, "running_bw"),
            this_bw: self.uint(&dl, "this_bw"),
            deadlines,
        }
    }

    pub(super) fn server(&mut self, name: &'static str, server: &Object<'_>) -> Server {
        let timer = self.any(server, &["dl_timer.is_queued", "dl_timer.state"]);
        Server {
            name,
            queued: self.in_tree(server, "rb_node"),
            active: self
                .uint(server, "dl_server_active")
                .map(|active| active != 0),
            throttled: self.uint(server, "dl_throttled").unwrap_or(0) != 0,
            runtime: self.uint(server, "dl_runtime").unwrap_or(0),
            timer: timer.map(|state| state & 1 != 0),
        }
    }

    /// `RB_EMPTY_NODE`: a node that is in no tree is its own parent.
    pub(super) fn in_tree(&mut self, holder: &Object<'_>, path: &'static str) -> bool {
        let read = holder
            .address_of(path)
            .and_then(|at| Ok((at, self.kernel.read_u64(at)?)));
        let read = self.problems.keep(path, read);
        read.is_some_and(|(at, parent)| parent != at.0)
    }
}
