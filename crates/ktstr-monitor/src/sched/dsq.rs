//! `struct scx_dispatch_q`: local, global and user-defined dispatch queues, and the tasks in them.

use serde::Serialize;

use super::{ScxPlaces, TaskRef, Walk};
use crate::{Error, Kernel, Kva, Object, Problems, Result};

const MAX_QUEUES: usize = 4096;
const MAX_BUCKETS: u64 = 1 << 16;
/// Queued tasks that are read per queue; the count is told apart.
const MAX_QUEUED: usize = 4096;
/// The same over all queues: a task is in one at most.
const MAX_QUEUED_TOTAL: usize = 1 << 16;
/// `SCX_DSQ_LNODE_ITER_CURSOR`: a place of an iterator, no task.
const ITER_CURSOR: u64 = 1;

/// Which queue it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DsqKind {
    /// A CPU's local queue.
    Local {
        /// The CPU.
        cpu: u32,
    },
    /// The global queue of a node.
    Global {
        /// The node.
        node: u32,
    },
    /// Where tasks of a CPU wait while the scheduler is bypassed (6.18 and later; before, they are in the global one).
    Bypass {
        /// The CPU.
        cpu: u32,
    },
    /// Made by the BPF scheduler.
    User,
}

/// A dispatch queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DispatchQueue {
    /// Which.
    pub kind: DsqKind,
    /// Its id.
    pub id: Option<u64>,
    /// How many tasks it says it holds.
    pub nr: Option<u64>,
    /// Its tasks in order, as far as they could be walked.
    pub tasks: Vec<QueuedTask>,
}

/// A task in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedTask {
    /// The task.
    #[serde(flatten)]
    pub task: TaskRef,
    /// Its key in a priority queue.
    pub dsq_vtime: Option<u64>,
    /// Its remaining slice, nanoseconds.
    pub slice: Option<u64>,
    /// When it became runnable, jiffies.
    pub runnable_at: Option<u64>,
}

impl Kernel {
    /// All dispatch queues: local ones of online CPUs, global ones, and those that the scheduler made.
    #[must_use]
    pub fn dispatch_queues(&self) -> Walk<Vec<DispatchQueue>> {
        let mut problems = Problems::new();
        let mut found = Vec::new();
        let mut room = MAX_QUEUED_TOTAL;
        for cpu in self.online_cpus() {
            let local = self
                .per_cpu_symbol("runqueues", cpu)
                .and_then(|kva| self.object("rq", kva)?.member("scx.local_dsq"));
            if let Some(dsq) = problems.keep("a local DSQ", local) {
                let kind = DsqKind::Local { cpu };
                found.push(self.dispatch_queue(kind, &dsq, &mut room, &mut problems));
            }
        }
        if let Some(places) = problems
            .keep("sched_ext state", ScxPlaces::find(self))
            .flatten()
        {
            let globals = self.global_queues(&places);
            let globals = problems.keep("global DSQs", globals).unwrap_or_default();
            for (node, dsq) in globals {
                let kind = DsqKind::Global { node };
                found.push(self.dispatch_queue(kind, &dsq, &mut room, &mut problems));
            }
            let bypass = self.bypass_queues(&places);
            for (cpu, dsq) in problems.keep("bypass DSQs", bypass).unwrap_or_default() {
                let kind = DsqKind::Bypass { cpu };
                found.push(self.dispatch_queue(kind, &dsq, &mut room, &mut problems));
            }
            let user = self.user_queues(&places, &mut problems);
            for dsq in problems.keep("user DSQs", user).unwrap_or_default() {
                found.push(self.dispatch_queue(DsqKind::User, &dsq, &mut room, &mut problems));
            }
        }
        Walk { found, problems }
    }

    fn dispatch_queue(
        &self,
        kind: DsqKind,
        dsq: &Object<'_>,
        room: &mut usize,
        problems: &mut Problems,
    ) -> DispatchQueue {
        let tasks = self.queued_tasks(dsq, MAX_QUEUED.min(*room), problems);
        let tasks = problems.keep("dsq.list", tasks).unwrap_or_default();
        *room = room.saturating_sub(tasks.len());
        DispatchQueue {
            kind,
            id: problems.keep("dsq.id", dsq.uint("id")),
            nr: problems.keep("dsq.nr", dsq.uint("nr")),
            tasks,
        }
    }

    fn queued_tasks(
        &self,
        dsq: &Object<'_>,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Vec<QueuedTask>> {
        let head = dsq.address_of("list")?;
        let mut tasks = Vec::new();
        for node in self.walk_list("a DSQ", head, limit, problems) {
            let task = self.container_of(node, "task_struct", "scx.dsq_list.node")?;
            // A cursor lies in an iterator on some stack; only its flags may be read.
            let flags = self
                .container_of(node, "scx_dsq_list_node", "node")
                .and_then(|node| node.uint("flags"));
            if flags.is_ok_and(|flags| flags & ITER_CURSOR != 0) {
                continue;
            }
            let Some(reference) = problems.need("a queued task", TaskRef::read(&task)) else {
                continue;
            };
            tasks.push(QueuedTask {
                task: reference,
                dsq_vtime: problems.keep("task.scx.dsq_vtime", task.uint("scx.dsq_vtime")),
                slice: problems.keep("task.scx.slice", task.uint("scx.slice")),
                runnable_at: problems.keep("task.scx.runnable_at", task.uint("scx.runnable_at")),
            });
        }
        Ok(tasks)
    }

    /// One per node: an array of pointers, in one of three places. The kernel makes the table with its first scheduler; and a
    /// node that cannot be has no queue.
    fn global_queues(&self, places: &ScxPlaces) -> Result<Vec<(u32, Object<'_>)>> {
        let nodes = self.global("nr_node_ids", 4).unwrap_or(1).clamp(1, 1024);
        let (table, is_pnode) = match places.sched(self)? {
            // 6.19: sched_ext: Use a single-purpose struct per node.
            Some(sched) => match sched.pointer("pnode") {
                Ok(table) => (table, true),
                Err(_) => (sched.pointer("global_dsqs")?, false),
            },
            None => (Kva(self.global("global_dsqs", 8)?), false),
        };
        let mut queues = Vec::new();
        if table.is_null() {
            return Ok(queues);
        }
        for (number, node) in (0_u32..).zip(0..nodes) {
            let pointer = Kva(self.read_u64(table.wrapping_add(node * 8))?);
            if pointer.is_null() {
                continue;
            }
            let queue = if is_pnode {
                self.object("scx_sched_pnode", pointer)?
                    .member("global_dsq")?
            } else {
                self.object("scx_dispatch_q", pointer)?
            };
            queues.push((number, queue));
        }
        Ok(queues)
    }

    /// One per CPU: in `struct rq` at first, in the scheduler's part of a CPU's area later.
    fn bypass_queues(&self, places: &ScxPlaces) -> Result<Vec<(u32, Object<'_>)>> {
        let Some(sched) = places.sched(self)? else {
            return Ok(Vec::new());
        };
        let later = self.field_of("scx_sched_pcpu", "bypass_dsq").is_ok();
        self.online_cpus()
            .into_iter()
            .map(|cpu| {
                let dsq = if later {
                    let area = self.per_cpu(sched.pointer("pcpu")?, cpu)?;
                    self.object("scx_sched_pcpu", area)?.member("bypass_dsq")
                } else {
                    let rq = self.per_cpu_symbol("runqueues", cpu)?;
                    self.object("rq", rq)?.member("scx.bypass_dsq")
                };
                Ok((cpu, dsq?))
            })
            .collect()
    }

    /// The members of `dsq_hash`.
    fn user_queues(&self, places: &ScxPlaces, problems: &mut Problems) -> Result<Vec<Object<'_>>> {
        let table = match places.sched(self)? {
            Some(sched) => sched.address_of("dsq_hash")?,
            None => self.symbol("dsq_hash")?,
        };
        self.walk_rhashtable(table, problems)?
            .into_iter()
            .map(|node| self.container_of(node, "scx_dispatch_q", "hash_node"))
            .collect()
    }

    /// Addresses of the `struct rhash_head`s of a table, those being moved to its successor included.
    fn walk_rhashtable(&self, table: Kva, problems: &mut Problems) -> Result<Vec<Kva>> {
        let mut entries = Vec::new();
        let mut next = self.object("rhashtable", table)?.follow("tbl")?;
        // A resize has one successor, seldom two.
        for _ in 0..4 {
            let Some(buckets) = next else { break };
            let size = buckets.uint("size")?;
            if size > MAX_BUCKETS || buckets.uint("nest")? != 0 {
                return Err(Error::Implausible {
                    what: "size of a hash table",
                    value: size,
                });
            }
            let first = buckets.address_of("buckets")?;
            for number in 0..size {
                let head = first.wrapping_add(number * 8);
                let room = MAX_QUEUES.saturating_sub(entries.len());
                entries.extend(self.walk_bucket(head, room, problems)?);
            }
            next = buckets.follow("future_tbl")?;
        }
        Ok(entries)
    }

    /// Bit 0 of a bucket is its lock; a chain ends with an odd pointer or null (`include/linux/rhashtable.h: rht_ptr`).
    fn walk_bucket(&self, head: Kva, room: usize, problems: &mut Problems) -> Result<Vec<Kva>> {
        let first = Kva(self.read_u64(head)? & !1);
        if first.is_null() || first == head {
            return Ok(Vec::new());
        }
        let mut entries = vec![first];
        entries.extend(self.walk_hlist("a DSQ hash chain", first, room, problems));
        Ok(entries)
    }
}
