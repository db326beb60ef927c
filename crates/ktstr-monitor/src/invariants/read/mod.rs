//! Reads the books.

mod cfs;
mod domain;
mod ext;
mod group;
mod rt;
mod task;

use std::collections::{HashMap, HashSet};

use super::books::{Books, Cpu, Fellow};
use crate::{Error, Kernel, Kva, Object, Problems, Result};
use group::GroupParts;

/// Entries of one list or tree.
const MAX_ENTRIES: usize = 1 << 14;
/// The same over all lists and trees, and queues that are read, of a guest that has them lead into each other.
const MAX_ALL: usize = 1 << 17;
/// `SCHED_IDLE`.
const POLICY_IDLE: u64 = 5;
/// `struct rb_node`: the parent's address with the colour, right, left (`include/linux/rbtree_types.h`).
const RB_RIGHT: u64 = 8;
const RB_LEFT: u64 = 16;

pub(super) struct Reader<'k> {
    kernel: &'k Kernel,
    problems: Problems,
    /// Tasks by address, once they are read.
    names: HashMap<Kva, (String, u64)>,
    group_names: HashMap<Kva, String>,
    is_flat: bool,
    /// What may still be read.
    room: usize,
}

type Tree = Vec<(Kva, [Option<usize>; 2])>;

impl<'k> Reader<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Self {
        Self {
            kernel,
            problems: Problems::new(),
            names: HashMap::new(),
            group_names: HashMap::new(),
            // Groups have no trees of their own any more.
            room: MAX_ALL,
            is_flat: kernel.field_of("cfs_rq", "h_curr").is_ok(),
        }
    }

    pub(super) fn books(mut self) -> Books {
        let classes = self.classes();
        let tasks = self.tasks(&classes);
        let cpus = self.kernel.online_cpus();
        let cpus = self
            .problems
            .need("the online CPUs", cpus)
            .unwrap_or_default();
        let (groups, objects) = self.groups(&cpus);
        let mut books = Books {
            psi: self.psi_runs(),
            nr_cpu_ids: self.kernel.nr_cpu_ids(),
            run_node: self
                .kernel
                .field_of("sched_entity", "run_node")
                .ok()
                .map(|node| node.offset),
            active: self.active(),
            scx: self.scx(),
            ..Books::default()
        };
        for &cpu in &cpus {
            let one = self.cpu(cpu, &objects);
            books
                .cpus
                .extend(self.problems.need(&format!("runqueue of CPU {cpu}"), one));
        }
        books.offline_uninterruptible = self.offline_uninterruptible(&cpus);
        books.dsqs = self.dsqs();
        books.domains = self.domains(&cpus);
        books.index = tasks
            .iter()
            .enumerate()
            .map(|(at, task)| (task.kva, at))
            .collect();
        (books.tasks, books.groups, books.classes) = (tasks, groups, classes);
        books.problems = self.problems;
        books
    }

    fn uint(&mut self, object: &Object<'_>, path: &'static str) -> Option<u64> {
        self.problems.keep(path, object.uint(path))
    }

    fn pointer(&mut self, object: &Object<'_>, path: &'static str) -> Kva {
        Kva(self.uint(object, path).unwrap_or(0))
    }

    fn any(&mut self, object: &Object<'_>, paths: &[&'static str]) -> Option<u64> {
        paths
            .iter()
            .find(|path| object.field(path).is_ok())
            .and_then(|path| self.uint(object, path))
    }

    fn classes(&self) -> HashMap<u64, &'static str> {
        ["fair", "ext", "idle", "rt", "dl", "stop"]
            .into_iter()
            .filter_map(|name| {
                let at = self.kernel.symbols().find(&format!("{name}_sched_class"))?;
                Some((at, name))
            })
            .collect()
    }

    /// Addresses in a list; none where it could not be walked to its end.
    fn list(&mut self, what: &'static str, head: Kva) -> Option<Vec<Kva>> {
        let mut problems = Problems::new();
        let found = self
            .kernel
            .walk_list(what, head, MAX_ENTRIES.min(self.room), &mut problems);
        self.room = self.room.saturating_sub(found.len());
        let whole = problems.is_empty();
        self.problems.extend(problems);
        whole.then_some(found)
    }

    /// The nodes of a tree in order, each with the places of its children.
    fn tree(&mut self, what: &'static str, root: Kva) -> Option<Tree> {
        let tree = self.walk_tree(what, root, MAX_ENTRIES.min(self.room));
        let read = tree.as_ref().map_or(MAX_ENTRIES, Vec::len);
        self.room = self.room.saturating_sub(read);
        self.problems.need(what, tree)
    }

    fn walk_tree(&self, what: &'static str, root: Kva, limit: usize) -> Result<Tree> {
        let mut order: Tree = Vec::new();
        let mut children: HashMap<Kva, [Kva; 2]> = HashMap::new();
        let (mut stack, mut seen) = (Vec::new(), HashSet::new());
        let mut at = root;
        while !at.is_null() || !stack.is_empty() {
            while !at.is_null() {
                if !seen.insert(at) {
                    return Err(Error::Cycle { what, at });
                }
                if seen.len() > limit {
                    return Err(Error::TooLong { what, limit });
                }
                let left = Kva(self.kernel.read_u64(at.wrapping_add(RB_LEFT))?);
                let right = Kva(self.kernel.read_u64(at.wrapping_add(RB_RIGHT))?);
                children.insert(at, [left, right]);
                stack.push(at);
                at = left;
            }
            let Some(node) = stack.pop() else { break };
            order.push((node, [None, None]));
            at = children.get(&node).map_or(Kva(0), |[_, right]| *right);
        }
        let places: HashMap<Kva, usize> = order
            .iter()
            .enumerate()
            .map(|(place, (node, _))| (*node, place))
            .collect();
        for (node, slots) in &mut order {
            if let Some(below) = children.get(node) {
                *slots = below.map(|child| places.get(&child).copied());
            }
        }
        Ok(order)
    }

    /// Whether a CPU has the lock, or is between choosing a task and switching to it with the lock dropped.
    fn busy(&self, rq: &Object<'_>) -> Result<Option<&'static str>> {
        let mut holder = *rq;
        if rq.uint("core_enabled").is_ok_and(|enabled| enabled != 0)
            && let Some(core) = rq.follow("core")?
        {
            holder = core;
        }
        if holder.uint("__lock.raw_lock.val.counter")? != 0 {
            return Ok(Some("its lock is held"));
        }
        let curr = rq.follow_some("curr")?;
        let leaves =
            curr.uint("on_rq")? == 0 || curr.uint("se.sched_delayed").is_ok_and(|value| value != 0);
        if leaves && curr.kva() != rq.pointer("idle")? {
            return Ok(Some("it is in the middle of a switch"));
        }
        Ok(None)
    }

    fn cpu(&mut self, cpu: u32, groups: &[GroupParts]) -> Result<Cpu> {
        let kernel = self.kernel;
        let rq = kernel.object("rq", kernel.per_cpu_symbol("runqueues", cpu)?)?;
        let mut found = Cpu {
            cpu,
            busy: self.busy(&rq)?,
            curr: rq.pointer("curr")?,
            idle: rq.pointer("idle")?,
            ..Cpu::default()
        };
        found.nr_running = self.uint(&rq, "nr_running");
        found.nr_uninterruptible = self.uint(&rq, "nr_uninterruptible");
        found.clock = self.uint(&rq, "clock");
        found.clock_task = self.uint(&rq, "clock_task");
        found.clock_pelt = self.uint(&rq, "clock_pelt");
        found.lost_idle_time = self.uint(&rq, "lost_idle_time");
        found.online = self.uint(&rq, "online");
        if let Some(stop) = self.problems.keep("rq.stop", rq.follow("stop")).flatten() {
            found.stop = Some(Fellow {
                class: self.uint(&stop, "sched_class"),
                on_rq: self.uint(&stop, "on_rq"),
            });
        }
        if let Some(idle) = self.problems.keep("rq.idle", rq.follow("idle")).flatten() {
            found.idle_class = self.uint(&idle, "sched_class");
        }
        if let (Ok(branch), Ok(head)) = (
            rq.pointer("tmp_alone_branch"),
            rq.address_of("leaf_cfs_rq_list"),
        ) {
            found.leaf_ends = Some(branch == head);
        }
        if found.busy.is_some() {
            return Ok(found);
        }
        let root = rq.member("cfs")?;
        let root = self.cfs(&root, None, None);
        found.cfs.push(root);
        for (place, (_, on_cpu)) in groups.iter().enumerate() {
            let here = on_cpu.iter().flatten().find(|here| here.cpu == cpu);
            self.room = self.room.saturating_sub(1);
            if self.room == 0 {
                let limit = MAX_ALL;
                let what = "queues of groups";
                self.problems.note(what, &Error::TooLong { what, limit });
                break;
            }
            if let Some(here) = here
                && let Ok(queue) = kernel.object("cfs_rq", here.cfs_rq)
            {
                let queue = self.cfs(&queue, Some(place), here.entity);
                found.cfs.push(queue);
            }
        }
        if let Ok(head) = rq.address_of("cfs_tasks") {
            let offset = kernel.field_of("task_struct", "se.group_node")?.offset;
            found.cfs_tasks = self
                .list("a runqueue's fair tasks", head)
                .map(|nodes| nodes.iter().map(|node| node.wrapping_sub(offset)).collect());
        }
        found.rt = self.rt(&rq);
        found.dl = self.dl(&rq);
        for (name, path) in [("fair server", "fair_server"), ("ext server", "ext_server")] {
            if let Ok(server) = rq.member(path) {
                found.servers.push(self.server(name, &server));
            }
        }
        found.scx = self.scx_rq(&rq)?;
        Ok(found)
    }

    fn possible(&self) -> Result<Vec<u32>> {
        let mask = self.kernel.symbol("__cpu_possible_mask")?;
        self.kernel.cpus_of_mask(mask)
    }

    fn offline_uninterruptible(&mut self, online: &[u32]) -> Option<Vec<u64>> {
        let offline = self.possible().ok()?;
        let offline = offline.into_iter().filter(|cpu| !online.contains(cpu));
        offline
            .map(|cpu| {
                let rq = self.kernel.per_cpu_symbol("runqueues", cpu).ok()?;
                let rq = self.kernel.object("rq", rq).ok()?;
                self.uint(&rq, "nr_uninterruptible")
            })
            .collect()
    }

    fn active(&mut self) -> Option<Vec<u32>> {
        let mask = self.kernel.symbol("__cpu_active_mask").ok()?;
        let cpus = self.kernel.cpus_of_mask(mask);
        self.problems.keep("the active CPUs", cpus)
    }

    fn psi_runs(&self) -> bool {
        let disabled = self.kernel.global("psi_disabled", 4);
        disabled.ok() == Some(0)
    }
}
