//! `struct scx_dispatch_q`: local, global and user-defined dispatch queues, and the tasks in them.

use serde::Serialize;

use super::{ScxLayout, ScxPlaces, TaskRef, Walk};
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
    /// Where tasks wait that a scheduler may not have on this CPU (7.1 and later).
    Reject {
        /// The CPU.
        cpu: u32,
    },
    /// Where tasks wait that the kernel runs itself because no scheduler does (7.2 and later).
    Rescue {
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
    /// [Number](crate::sched::ScxScheduler::id) of the scheduler that it belongs to, where the kernel numbers them; a
    /// CPU's own queues belong to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<u64>,
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
    /// All dispatch queues: those of online CPUs, and of each scheduler the global ones and those that it made.
    #[must_use]
    pub fn dispatch_queues(&self) -> Walk<Vec<DispatchQueue>> {
        let mut problems = Problems::new();
        let mut room = MAX_QUEUED_TOTAL;
        let places = self.places_of_queues(&mut problems);
        let found = places
            .into_iter()
            .map(|(kind, owner, dsq)| {
                self.dispatch_queue(kind, owner.as_ref(), &dsq, &mut room, &mut problems)
            })
            .collect();
        Walk { found, problems }
    }

    /// The same, unread: which one, its scheduler, and where it lies.
    pub(crate) fn places_of_queues<'k>(
        &'k self,
        problems: &mut Problems,
    ) -> Vec<(DsqKind, Option<Object<'k>>, Object<'k>)> {
        let mut found = Vec::new();
        let cpus = problems.need("the online CPUs", self.online_cpus());
        let cpus = cpus.unwrap_or_default();
        for &cpu in &cpus {
            let rq = self
                .per_cpu_symbol("runqueues", cpu)
                .and_then(|kva| self.object("rq", kva));
            let Some(rq) = problems.keep("a runqueue", rq) else {
                continue;
            };
            let own = [
                (DsqKind::Local { cpu }, "scx.local_dsq"),
                (DsqKind::Reject { cpu }, "scx.reject_dsq"),
                (DsqKind::Rescue { cpu }, "scx.rescue.dsq"),
            ];
            for (kind, path) in own {
                if let Some(dsq) = problems.keep("a CPU's DSQ", rq.member(path)) {
                    found.push((kind, None, dsq));
                }
            }
        }
        let places = problems.keep("sched_ext state", ScxPlaces::find(self));
        if let Some(places) = places.flatten() {
            let owners = match places.layout {
                ScxLayout::Globals => vec![None],
                ScxLayout::Root => {
                    let all = places.schedulers(self, problems);
                    all.into_iter().map(Some).collect()
                }
            };
            for owner in owners {
                let queues = self.queues_of(owner.as_ref(), &cpus, problems);
                found.extend(queues.into_iter().map(|(kind, dsq)| (kind, owner, dsq)));
            }
        }
        found
    }

    /// Addresses of the tasks in a queue; none where the list cannot be walked to its end.
    pub(crate) fn tasks_of_queue(
        &self,
        dsq: &Object<'_>,
        limit: usize,
        problems: &mut Problems,
    ) -> Result<Option<Vec<Kva>>> {
        let head = dsq.address_of("list")?;
        let link = self.field_of("task_struct", "scx.dsq_list.node")?.offset;
        let mut own = Problems::new();
        let nodes = self.walk_list("a DSQ", head, limit, &mut own);
        let whole = own.is_empty();
        problems.extend(own);
        let is_cursor = |node: &Kva| {
            let node = self.container_of(*node, "scx_dsq_list_node", "node");
            let flags = node.and_then(|node| node.uint("flags"));
            flags.is_ok_and(|flags| flags & ITER_CURSOR != 0)
        };
        let tasks = nodes.into_iter().filter(|node| !is_cursor(node));
        let tasks = tasks.map(|node| node.wrapping_sub(link)).collect();
        Ok(whole.then_some(tasks))
    }

    /// A scheduler's own: one for each node, one for each CPU while it is bypassed, and those that it made.
    fn queues_of<'k>(
        &'k self,
        owner: Option<&Object<'k>>,
        cpus: &[u32],
        problems: &mut Problems,
    ) -> Vec<(DsqKind, Object<'k>)> {
        let globals = self.global_queues(owner, problems);
        let globals = problems.keep("global DSQs", globals).unwrap_or_default();
        let mut queues: Vec<_> = globals
            .into_iter()
            .map(|(node, dsq)| (DsqKind::Global { node }, dsq))
            .collect();
        for (sched, &cpu) in owner
            .iter()
            .flat_map(|sched| cpus.iter().map(move |cpu| (sched, cpu)))
        {
            let bypass = problems.keep("a bypass DSQ", self.bypass_queue(sched, cpu));
            queues.extend(bypass.map(|dsq| (DsqKind::Bypass { cpu }, dsq)));
        }
        let user = self.user_queues(owner, problems);
        let user = problems.keep("user DSQs", user).unwrap_or_default();
        queues.extend(user.into_iter().map(|dsq| (DsqKind::User, dsq)));
        queues
    }

    fn dispatch_queue(
        &self,
        kind: DsqKind,
        owner: Option<&Object<'_>>,
        dsq: &Object<'_>,
        room: &mut usize,
        problems: &mut Problems,
    ) -> DispatchQueue {
        let tasks = self.queued_tasks(dsq, MAX_QUEUED.min(*room), problems);
        let tasks = problems.keep("dsq.list", tasks).unwrap_or_default();
        *room = room.saturating_sub(tasks.len());
        DispatchQueue {
            kind,
            scheduler: owner.and_then(|sched| problems.keep("scx_sched.id", sched.uint("id"))),
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

    /// One per node: an array of pointers, in one of three places. None before a scheduler was ever attached.
    fn global_queues(
        &self,
        owner: Option<&Object<'_>>,
        problems: &mut Problems,
    ) -> Result<Vec<(u32, Object<'_>)>> {
        let (table, is_pnode) = match owner {
            // 6.19: sched_ext: Use a single-purpose struct per node.
            Some(sched) => match sched.pointer("pnode") {
                Ok(table) => (table, true),
                Err(_) => (sched.pointer("global_dsqs")?, false),
            },
            None => (Kva(self.global("global_dsqs", 8)?), false),
        };
        self.by_node(table, problems)
            .into_iter()
            .map(|(node, pointer)| {
                let dsq = if is_pnode {
                    self.object("scx_sched_pnode", pointer)?
                        .member("global_dsq")?
                } else {
                    self.object("scx_dispatch_q", pointer)?
                };
                Ok((node, dsq))
            })
            .collect()
    }

    /// In `struct rq` at first, in the scheduler's part of a CPU's area later.
    fn bypass_queue(&self, sched: &Object<'_>, cpu: u32) -> Result<Object<'_>> {
        if self.field_of("scx_sched_pcpu", "bypass_dsq").is_ok() {
            let area = self.per_cpu(sched.pointer("pcpu")?, cpu)?;
            return self.object("scx_sched_pcpu", area)?.member("bypass_dsq");
        }
        let rq = self.per_cpu_symbol("runqueues", cpu)?;
        self.object("rq", rq)?.member("scx.bypass_dsq")
    }

    /// The members of `dsq_hash`.
    fn user_queues(
        &self,
        owner: Option<&Object<'_>>,
        problems: &mut Problems,
    ) -> Result<Vec<Object<'_>>> {
        let table = match owner {
            Some(sched) => sched.address_of("dsq_hash")?,
            None => self.symbol("dsq_hash")?,
        };
        self.walk_rhashtable(table, problems)?
            .into_iter()
            .map(|node| self.container_of(node, "scx_dispatch_q", "hash_node"))
            .collect()
    }

    /// Addresses of the `struct rhash_head`s of a table, those being moved to its successor included. A bucket that
    /// cannot be read costs its own entries.
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
                let bucket = self.walk_bucket(head, room, problems);
                let bucket = problems.need("a bucket of a hash table", bucket);
                entries.extend(bucket.unwrap_or_default());
            }
            next = problems
                .keep("a hash table's successor", buckets.follow("future_tbl"))
                .flatten();
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
