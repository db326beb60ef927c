//! The later layout of sched_ext (`scx_root`), in memory built by hand, with two sets of types: a few written here, and
//! those of Linux 7.3 as they are (`tests/data/README.md`).
//!
//! The build machine's kernel has the old layout; the integration tests cover that one on a real guest.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::btf::Btf;
use crate::btf::build::Builder;
use crate::phys::SparseMem;
use crate::testing::{DIRECT, TEXT};
use crate::{Gpa, Kernel, Kva, PhysMem as _, Sampler};

const PER_CPU: u64 = 0x10_0000;
/// The scheduler's part of a CPU's area.
const PCPU: u64 = 0x8000;

/// The members that the readers touch, with the nesting of 7.3.
#[expect(clippy::too_many_lines, reason = "a list of types")]
fn types() -> Btf {
    let mut btf = Builder::new();
    let u32_ = btf.int("unsigned int", 4, false);
    let u64_ = btf.int("unsigned long", 8, false);
    let s64 = btf.int("long", 8, true);
    let character = btf.int("char", 1, true);
    let comm = btf.array(character, 16);
    let ops_name = btf.array(character, 128);
    let text = btf.ptr(character);
    let words = btf.ptr(u64_);
    let none = btf.array(u64_, 0);
    btf.enumeration(
        "scx_enable_state",
        &[
            ("SCX_ENABLING", 0),
            ("SCX_ENABLED", 1),
            ("SCX_DISABLING", 2),
            ("SCX_DISABLED", 3),
        ],
    );
    let kind = btf.enumeration(
        "scx_exit_kind",
        &[("SCX_EXIT_NONE", 0), ("SCX_EXIT_ERROR_BPF", 1025)],
    );
    btf.enumeration64(
        "scx_exit_code",
        &[
            ("SCX_ECODE_RSN_HOTPLUG", 1 << 32),
            ("SCX_ECODE_RSN_CGROUP_OFFLINE", 2 << 32),
            ("SCX_ECODE_ACT_RESTART", 1 << 48),
        ],
    );
    btf.enumeration(
        "scx_rq_flags",
        &[("SCX_RQ_ONLINE", 1), ("SCX_RQ_CLK_VALID", 32)],
    );
    let list = btf.structure(
        "list_head",
        16,
        &[("next", words, 0, 0), ("prev", words, 64, 0)],
    );
    let hash = btf.structure("rhash_head", 8, &[("next", words, 0, 0)]);
    let table = btf.structure(
        "bucket_table",
        64,
        &[
            ("size", u32_, 0, 0),
            ("nest", u32_, 32, 0),
            ("future_tbl", words, 256, 0),
            ("buckets", none, 512, 0),
        ],
    );
    let table = btf.ptr(table);
    let hashtable = btf.structure("rhashtable", 16, &[("tbl", table, 0, 0)]);
    let dsq = btf.structure(
        "scx_dispatch_q",
        64,
        &[
            ("list", list, 64, 0),
            ("nr", u32_, 192, 0),
            ("id", u64_, 256, 0),
            ("hash_node", hash, 320, 0),
        ],
    );
    let node = btf.structure(
        "scx_dsq_list_node",
        24,
        &[
            ("node", list, 0, 0),
            ("flags", u32_, 128, 0),
            ("priv", u32_, 160, 0),
        ],
    );
    let entity = btf.structure(
        "sched_ext_entity",
        64,
        &[
            ("dsq_list", node, 64, 0),
            ("dsq_vtime", u64_, 256, 0),
            ("slice", u64_, 320, 0),
            ("runnable_at", u64_, 384, 0),
        ],
    );
    let task = btf.structure(
        "task_struct",
        128,
        &[
            ("pid", u32_, 0, 0),
            ("comm", comm, 64, 0),
            ("scx", entity, 256, 0),
        ],
    );
    let task = btf.ptr(task);
    let info = btf.structure(
        "scx_exit_info",
        64,
        &[
            ("kind", kind, 0, 0),
            ("exit_code", s64, 64, 0),
            ("reason", text, 192, 0),
            ("bt", words, 256, 0),
            ("bt_len", u32_, 320, 0),
            ("msg", text, 384, 0),
            ("dump", text, 448, 0),
        ],
    );
    let info = btf.ptr(info);
    let events = btf.structure(
        "scx_event_stats",
        16,
        &[
            ("SCX_EV_SELECT_CPU_FALLBACK", s64, 0, 0),
            ("SCX_EV_DISPATCH_KEEP_LAST", s64, 64, 0),
        ],
    );
    let pcpu = btf.structure(
        "scx_sched_pcpu",
        96,
        &[("event_stats", events, 128, 0), ("bypass_dsq", dsq, 256, 0)],
    );
    let pcpu = btf.ptr(pcpu);
    btf.structure("scx_sched_pnode", 64, &[("global_dsq", dsq, 0, 0)]);
    let ops = btf.structure(
        "sched_ext_ops",
        136,
        &[("flags", u64_, 0, 0), ("name", ops_name, 64, 0)],
    );
    let ops_union = btf.structure("", 136, &[("ops", ops, 0, 0)]);
    btf.structure(
        "scx_sched",
        320,
        &[
            ("", ops_union, 0, 0),
            ("dsq_hash", hashtable, 1088, 0),
            ("pnode", words, 1216, 0),
            ("pcpu", pcpu, 1280, 0),
            ("bypass_depth", u32_, 1344, 0),
            ("watchdog_timeout", u64_, 1408, 0),
            ("exit_kind", u32_, 1472, 0),
            ("exit_info", info, 1536, 0),
        ],
    );
    let scx = btf.structure(
        "scx_rq",
        80,
        &[
            ("local_dsq", dsq, 0, 0),
            ("nr_running", u32_, 512, 0),
            ("flags", u32_, 544, 0),
        ],
    );
    btf.structure(
        "rq",
        128,
        &[
            ("nr_running", u32_, 0, 0),
            ("clock", u64_, 64, 0),
            ("curr", task, 128, 0),
            ("idle", task, 192, 0),
            ("scx", scx, 256, 0),
        ],
    );
    Btf::from_bytes(btf.finish()).unwrap()
}

/// The types of Linux 7.3.
fn shipped() -> Btf {
    let bytes = include_bytes!("../../tests/data/sched-ext-7.3.btf");
    Btf::from_bytes(bytes.to_vec()).unwrap()
}

/// Runs each test with both sets of types.
macro_rules! with_both {
    ($($name:ident),* $(,)?) => {
        mod of_our_own {
            $(#[test] fn $name() { super::$name(super::types()); })*
        }
        mod of_linux_7_3 {
            $(#[test] fn $name() { super::$name(super::shipped()); })*
        }
    };
}

with_both!(
    state_hangs_off_scx_root,
    queues_hang_off_the_scheduler,
    a_queue_that_leads_back_into_itself_ends_with_a_reason,
    the_watchdog_is_the_schedulers,
    a_shorter_watchdog_does_not_find_itself_late,
    the_sampler_follows_a_new_scheduler,
    the_sampler_follows_the_cpus_that_are_online,
    without_a_scheduler_there_is_still_a_state,
    flags_have_names,
);

/// Members that came with the tree of schedulers, in the types of 7.3 only.
mod tree {
    use super::*;

    /// The root, and one below it that has failed.
    fn two() -> (Arc<SparseMem>, Arc<Kernel>, u64) {
        let mut world = World::new(shipped());
        let root = world.scheduler();
        let child = world.scheduler();
        let path = world.text("/sub.slice");
        let name = Gpa(world.of("scx_sched", child, "ops.name") - DIRECT);
        world.memory.put(name, b"child\0");
        for (sched, id, level, kind) in [(root, 7, 0, 0), (child, 9, 1, 1025)] {
            world.set("scx_sched", sched, "id", id);
            world.set("scx_sched", sched, "level", level);
            world.set("scx_sched", sched, "exit_kind", kind);
        }
        world.set("scx_sched", root, "exit_info", 0);
        world.set("scx_sched", child, "cgrp_path", path);
        world.put(0x300, root);
        let links = [root, child].map(|sched| world.of("scx_sched", sched, "all"));
        let head = DIRECT + 0x320;
        world.link(head, &links);
        // A list's head is known by its place in the image.
        for at in [0x320, links[1] - DIRECT] {
            let next = world.memory.read_u64(Gpa(at)).unwrap();
            if next == head {
                world.put(at, TEXT + 0x320);
            }
        }
        world.runqueues();
        let rq = DIRECT + PER_CPU + 0x400;
        let rejected = world.task(71, "rejected");
        let stranded = world.task(72, "stranded");
        let reject = world.of("rq", rq, "scx.reject_dsq");
        world.dsq(reject, 1 << 63 | 5, &[rejected]);
        let rescue = world.of("rq", rq, "scx.rescue.dsq");
        world.dsq(rescue, 1 << 63 | 6, &[stranded]);
        world.set("task_struct", stranded, "scx.runnable_at", 4_300);
        let node = world.of("task_struct", stranded, "scx.runnable_node");
        let list = world.of("rq", rq, "scx.runnable_list");
        world.link(list, &[node]);
        let (memory, kernel) = world.kernel();
        (memory, kernel, child)
    }

    #[test]
    fn every_scheduler_has_its_own_story() {
        let (_, kernel, child) = two();
        let scx = kernel.scx().unwrap().unwrap();
        assert!(scx.problems.is_empty(), "{:?}", scx.problems);
        assert_eq!((scx.exit_kind, scx.exit), (Some(0), None));
        let [root, below] = &scx.schedulers[..] else {
            panic!("{:?}", scx.schedulers);
        };
        assert_eq!(
            (root.id, root.level, root.exit.as_ref()),
            (Some(7), Some(0), None)
        );
        assert_eq!(
            (below.id, below.level, below.kva),
            (Some(9), Some(1), Kva(child))
        );
        assert_eq!(below.cgroup.as_deref(), Some("/sub.slice"));
        assert_eq!(below.ops_name.as_deref(), Some("child"));
        assert_eq!(below.exit_kind_name.as_deref(), Some("error_bpf"));
        let exit = below.exit.as_ref().unwrap();
        assert_eq!(exit.msg.as_deref(), Some("fixture says no"));
        assert_eq!(below.events.as_ref().unwrap()["select_cpu_fallback"], 21);
    }

    #[test]
    fn queues_of_all_schedulers_are_listed_with_their_owner() {
        let (_, kernel, _) = two();
        let walk = kernel.dispatch_queues();
        assert!(walk.problems.is_empty(), "{:?}", walk.problems);
        let owners = |kind: DsqKind| -> Vec<Option<u64>> {
            let of_kind = walk.found.iter().filter(|dsq| dsq.kind == kind);
            of_kind.map(|dsq| dsq.scheduler).collect()
        };
        assert_eq!(owners(DsqKind::User), [Some(7), Some(9)]);
        assert_eq!(owners(DsqKind::Global { node: 0 }), [Some(7), Some(9)]);
        assert_eq!(owners(DsqKind::Bypass { cpu: 1 }), [Some(7), Some(9)]);
        assert_eq!(owners(DsqKind::Local { cpu: 1 }), [None]);
        let waiting = |kind| {
            let dsq = walk.found.iter().find(|dsq| dsq.kind == kind).unwrap();
            dsq.tasks[0].task.pid
        };
        assert_eq!(waiting(DsqKind::Reject { cpu: 0 }), 71);
        assert_eq!(waiting(DsqKind::Rescue { cpu: 0 }), 72);
    }

    #[test]
    fn tasks_that_wait_are_listed_by_cpu_with_the_time_they_waited() {
        let (_, kernel, _) = two();
        let walk = kernel.runqueues();
        assert!(walk.problems.is_empty(), "{:?}", walk.problems);
        let scx = walk.found[0].scx.as_ref().unwrap();
        let [task] = &scx.runnable[..] else {
            panic!("{:?}", scx.runnable);
        };
        assert_eq!(
            (task.task.pid, task.runnable_for, task.dsq_id),
            (72, Some(21), None)
        );
        assert!(walk.found[1].scx.as_ref().unwrap().runnable.is_empty());
        // These types are of a configuration without it; all else is there.
        let absent: Vec<_> = walk.problems.absent().iter().collect();
        assert_eq!(absent, ["struct rq.avg_irq.util_avg"]);
    }

    /// A task waits for as long as its own scheduler says.
    #[test]
    fn the_watchdogs_of_all_schedulers_are_held() {
        let (memory, kernel, child) = two();
        let offset = kernel
            .field_of("scx_sched", "watchdog_timeout")
            .unwrap()
            .offset;
        let at = Gpa(child + offset - DIRECT);
        assert_eq!(memory.read_u64(at).unwrap(), 30_000);
        let mut hold = WatchdogHold::new(Duration::from_secs(60), 1000).unwrap();
        assert_eq!(hold.apply(&kernel).unwrap().unwrap().observed, 60_000);
        assert_eq!(memory.read_u64(at).unwrap(), 60_000);
        // One that is given back before the kernel looked is given back to each.
        let mut shorter = WatchdogHold::new(Duration::from_secs(3), 1000).unwrap();
        shorter.apply(&kernel).unwrap();
        assert_eq!(memory.read_u64(at).unwrap(), 3_000);
        shorter.let_go(&kernel).unwrap();
        assert_eq!(memory.read_u64(at).unwrap(), 60_000);
    }
}

/// From 7.1 on the mask lies behind the structure, and no member names it.
#[test]
fn a_span_without_a_member_lies_behind_its_domain() {
    for has_member in [true, false] {
        let mut btf = Builder::new();
        let u32_ = btf.int("unsigned int", 4, false);
        let u64_ = btf.int("unsigned long", 8, false);
        let none = btf.array(u64_, 0);
        let mut members = vec![("parent", u64_, 0, 0), ("flags", u32_, 64, 0)];
        if has_member {
            members.push(("span", none, 128, 0));
        }
        let domain = btf.structure("sched_domain", 16, &members);
        let pointer = btf.ptr(domain);
        btf.structure("rq", 8, &[("sd", pointer, 0, 0)]);
        let btf = Btf::from_bytes(btf.finish()).unwrap();
        let mut world = World::new(btf);
        let domain = world.alloc(64);
        world.put(domain + 16 - DIRECT, 0b11);
        for cpu in 0..2 {
            world.put(PER_CPU + cpu * 0x1_0000 + 0x400, domain);
        }
        let (_, kernel) = world.kernel();
        let walk = kernel.sched_domains();
        assert!(walk.problems.is_empty(), "{:?}", walk.problems);
        let spans: Vec<_> = walk.found.iter().map(|domain| &domain.span[..]).collect();
        assert_eq!(spans, [[0, 1], [0, 1]], "member {has_member}");
    }
}

/// `CONFIG_FORCE_NR_CPUS` makes `nr_cpu_ids` a constant: there is no variable of that name.
#[test]
fn a_kernel_without_nr_cpu_ids_has_more_than_one_cpu() {
    let mut btf = Builder::new();
    let u64_ = btf.int("unsigned long", 8, false);
    let bits = btf.array(u64_, 2);
    btf.structure("cpumask", 16, &[("bits", bits, 0, 0)]);
    let world = World::new(Btf::from_bytes(btf.finish()).unwrap());
    let named = |names: &[(&str, u64)], memory: &Arc<SparseMem>, btf: &Btf| {
        let btf = Btf::from_bytes(btf.bytes().to_vec()).unwrap();
        crate::testing::kernel(Arc::clone(memory), btf, names)
    };
    let masks = ("__cpu_online_mask", TEXT + 0x108);
    let areas = ("__per_cpu_offset", TEXT + 0x200);
    let kernel = named(&[masks, areas], &world.memory, &world.btf);
    assert_eq!(kernel.nr_cpu_ids(), 128);
    assert_eq!(kernel.online_cpus().unwrap(), [0, 1]);
    // A mask that cannot be found is no machine of one CPU, unless there is but one.
    assert!(kernel.possible_cpus().is_err());
    let single = named(&[], &world.memory, &world.btf);
    assert_eq!(single.possible_cpus().unwrap(), [0]);
    let lost = named(
        &[("__cpu_online_mask", TEXT + (1 << 30)), areas],
        &world.memory,
        &world.btf,
    );
    assert!(lost.online_cpus().is_err());
    let walk = lost.runqueues();
    assert!(
        walk.problems
            .iter()
            .any(|problem| problem.what == "the online CPUs")
    );
}

/// Memory, and a heap in it.
struct World {
    memory: Arc<SparseMem>,
    btf: Btf,
    next: u64,
}

impl World {
    fn new(btf: Btf) -> Self {
        let world = Self {
            memory: Arc::new(SparseMem::new()),
            btf,
            next: 0x4000,
        };
        world.memory.populate(Gpa(0), 0x20_0000);
        world.put(0x100, 2);
        world.put(0x108, 0b11);
        for cpu in 0..2 {
            world.put(0x200 + cpu * 8, DIRECT + PER_CPU + cpu * 0x1_0000);
        }
        // Nothing is in the list of schedulers.
        world.put(0x320, TEXT + 0x320);
        // A state of 1 is "enabled"; the watchdog's stamp and the time are jiffies.
        for (at, value) in [(0x300, 0), (0x308, 1), (0x310, 4_000), (0x318, 4_321)] {
            world.put(at, value);
        }
        world
    }

    fn put(&self, gpa: u64, value: u64) {
        self.memory.put(Gpa(gpa), &value.to_le_bytes());
    }

    /// A zeroed object; its kernel address.
    fn alloc(&mut self, size: u64) -> u64 {
        self.next = (self.next + size).next_multiple_of(64);
        DIRECT + self.next - size.next_multiple_of(64)
    }

    fn alloc_of(&mut self, name: &str) -> u64 {
        let ty = self.btf.find_struct(name).unwrap().id();
        let size = self.btf.size_of(ty).unwrap();
        self.alloc(size)
    }

    fn text(&mut self, text: &str) -> u64 {
        let at = self.alloc(256);
        self.memory.put(Gpa(at - DIRECT), text.as_bytes());
        at
    }

    fn of(&self, name: &str, object: u64, path: &str) -> u64 {
        object + self.btf.member_of(name, path).unwrap().offset
    }

    fn set(&self, name: &str, object: u64, path: &str, value: u64) {
        let size = self.btf.member_of(name, path).unwrap().size;
        let raw = value.to_le_bytes();
        let at = Gpa(self.of(name, object, path) - DIRECT);
        self.memory.put(at, &raw[..usize::try_from(size).unwrap()]);
    }

    /// Links entries into a circle behind `head`.
    fn link(&self, head: u64, entries: &[u64]) {
        let mut at = head;
        for &entry in entries.iter().chain([&head]) {
            self.put(at - DIRECT, entry);
            at = entry;
        }
    }

    fn dsq(&mut self, at: u64, id: u64, tasks: &[u64]) {
        self.set("scx_dispatch_q", at, "id", id);
        self.set("scx_dispatch_q", at, "nr", tasks.len() as u64);
        let nodes: Vec<u64> = tasks
            .iter()
            .map(|&task| self.of("task_struct", task, "scx.dsq_list.node"))
            .collect();
        self.link(self.of("scx_dispatch_q", at, "list"), &nodes);
    }

    fn task(&mut self, pid: u64, comm: &str) -> u64 {
        let task = self.alloc_of("task_struct");
        self.set("task_struct", task, "pid", pid);
        self.memory.put(
            Gpa(self.of("task_struct", task, "comm") - DIRECT),
            comm.as_bytes(),
        );
        self.set("task_struct", task, "scx.slice", 20_000_000);
        task
    }

    /// A scheduler that failed, with a global and a user queue.
    fn scheduler(&mut self) -> u64 {
        let sched = self.alloc_of("scx_sched");
        let info = self.alloc_of("scx_exit_info");
        let (reason, msg) = (self.text("runtime error"), self.text("fixture says no"));
        let name = Gpa(self.of("scx_sched", sched, "ops.name") - DIRECT);
        self.memory.put(name, b"later");
        for (path, value) in [
            ("kind", 1025),
            ("exit_code", u64::MAX),
            ("reason", reason),
            ("msg", msg),
        ] {
            self.set("scx_exit_info", info, path, value);
        }
        if self.btf.member_of("scx_exit_info", "exit_cpu").is_some() {
            self.set("scx_exit_info", info, "exit_cpu", 3);
        }
        let (global, pnode) = (self.alloc_of("scx_sched_pnode"), self.alloc(8));
        let task = self.task(42, "waiting");
        self.dsq(global, 1 << 63 | 1, &[task]);
        self.put(pnode - DIRECT, global);
        let table = self.user_queue();
        // Per-CPU pointers are offsets into each CPU's area.
        for cpu in 0..2 {
            let area = PER_CPU + cpu * 0x1_0000 + PCPU;
            let stats = self.of("scx_sched_pcpu", area, "event_stats");
            let at = |event| self.of("scx_event_stats", stats, event);
            self.put(at("SCX_EV_SELECT_CPU_FALLBACK"), 10 + cpu);
            self.put(at("SCX_EV_DISPATCH_KEEP_LAST"), 5);
            let waiting = self.task(60 + cpu, "bypassed");
            let bypass = self.of("scx_sched_pcpu", DIRECT + area, "bypass_dsq");
            self.dsq(bypass, 1 << 63 | 3, &[waiting]);
        }
        for (path, value) in [
            ("dsq_hash.tbl", table),
            ("pnode", pnode),
            ("pcpu", PCPU),
            ("bypass_depth", 1),
            ("watchdog_timeout", 30_000),
            ("exit_kind", 1025),
            ("exit_info", info),
        ] {
            self.set("scx_sched", sched, path, value);
        }
        sched
    }

    /// A hash table of two buckets whose second holds a queue of two tasks and an iterator's cursor.
    fn user_queue(&mut self) -> u64 {
        let (table, queue) = (self.alloc(64 + 16), self.alloc_of("scx_dispatch_q"));
        let (first, second, cursor) = (
            self.task(7, "a"),
            self.task(8, "b"),
            self.alloc_of("task_struct"),
        );
        self.set("task_struct", cursor, "scx.dsq_list.flags", 1);
        self.dsq(queue, 0x77, &[first, cursor, second]);
        self.set("scx_dispatch_q", queue, "nr", 2);
        self.set("bucket_table", table, "size", 2);
        let buckets = self.of("bucket_table", table, "buckets") - DIRECT;
        let node = self.of("scx_dispatch_q", queue, "hash_node");
        // An empty bucket, and one that is locked (bit 0); chains end with an odd mark.
        self.put(buckets, 0);
        self.put(buckets + 8, node | 1);
        self.put(node - DIRECT, (DIRECT + buckets + 8) | 1);
        table
    }

    /// Two CPUs with one and two tasks, whose queues are empty.
    fn runqueues(&mut self) {
        for cpu in 0..2 {
            let rq = DIRECT + PER_CPU + cpu * 0x1_0000 + 0x400;
            self.set("rq", rq, "nr_running", cpu + 1);
            self.set("rq", rq, "clock", 1000 + cpu);
            self.set("rq", rq, "scx.flags", 33);
            for (path, id) in [
                ("scx.local_dsq", 1 << 63 | 2),
                ("scx.reject_dsq", 1 << 63 | 5),
                ("scx.rescue.dsq", 1 << 63 | 6),
            ] {
                if self.btf.member_of("rq", path).is_some() {
                    let dsq = self.of("rq", rq, path);
                    self.dsq(dsq, id, &[]);
                }
            }
            if self.btf.member_of("rq", "scx.runnable_list").is_some() {
                let list = self.of("rq", rq, "scx.runnable_list");
                self.link(list, &[]);
            }
        }
    }

    fn kernel(self) -> (Arc<SparseMem>, Arc<Kernel>) {
        let symbols = [
            ("_text", TEXT),
            ("nr_cpu_ids", TEXT + 0x100),
            ("__cpu_online_mask", TEXT + 0x108),
            ("__cpu_possible_mask", TEXT + 0x108),
            ("__per_cpu_offset", TEXT + 0x200),
            ("runqueues", 0x400),
            ("scx_root", TEXT + 0x300),
            ("scx_sched_all", TEXT + 0x320),
            ("scx_enable_state_var", TEXT + 0x308),
            ("scx_watchdog_timestamp", TEXT + 0x310),
            ("jiffies_64", TEXT + 0x318),
        ];
        let memory = Arc::clone(&self.memory);
        (
            memory,
            crate::testing::kernel(self.memory, self.btf, &symbols),
        )
    }
}

fn failed(btf: Btf) -> (Arc<SparseMem>, Arc<Kernel>) {
    let mut world = World::new(btf);
    let sched = world.scheduler();
    world.put(0x300, sched);
    world.runqueues();
    world.kernel()
}

fn state_hangs_off_scx_root(btf: Btf) {
    let (_, kernel) = failed(btf);
    let scx = kernel.scx().unwrap().unwrap();
    assert!(scx.problems.is_empty(), "{:?}", scx.problems);
    assert_eq!(scx.layout, ScxLayout::Root);
    assert_eq!(
        (scx.state.as_deref(), scx.ops_name.as_deref()),
        (Some("enabled"), Some("later"))
    );
    assert_eq!(
        (scx.exit_kind, scx.bypass_depth, scx.watchdog_timeout),
        (Some(1025), Some(1), Some(30_000))
    );
    assert_eq!(
        (scx.jiffies, scx.watchdog_timestamp),
        (Some(4321), Some(4000))
    );
    let exit = scx.exit.unwrap();
    assert_eq!(
        (exit.kind_name.as_str(), exit.exit_code),
        ("error_bpf", Some(-1))
    );
    // Our own types are of a kernel before 6.17.
    assert!([None, Some(3)].contains(&exit.exit_cpu));
    assert_eq!(
        (exit.reason.as_deref(), exit.msg.as_deref()),
        (Some("runtime error"), Some("fixture says no"))
    );
    let events = scx.events.unwrap();
    assert_eq!(
        (events["select_cpu_fallback"], events["dispatch_keep_last"]),
        (21, 10)
    );
}

#[test]
fn an_exits_code_has_the_kernels_words() {
    let (memory, kernel) = failed(types());
    let info = kernel
        .object("scx_sched", Kva(memory.read_u64(Gpa(0x300)).unwrap()))
        .and_then(|sched| sched.follow("exit_info"))
        .unwrap()
        .unwrap();
    let code = info.kva().0 - DIRECT + info.field("exit_code").unwrap().offset;
    let words = |value: u64| {
        memory.put(Gpa(code), &value.to_le_bytes());
        kernel.scx().unwrap().unwrap().exit.unwrap().exit_code_words
    };
    assert_eq!(words(281_479_271_677_952), ["hotplug", "restart"]);
    assert_eq!(words(2 << 32 | 77), ["cgroup_offline"]);
    // The scheduler's own part says nothing that the kernel has words for, and a negative code is all of its own.
    assert!(words(77).is_empty());
    assert!(words((-7_i64).cast_unsigned()).is_empty());
}

fn queues_hang_off_the_scheduler(btf: Btf) {
    let (_, kernel) = failed(btf);
    let walk = kernel.dispatch_queues();
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let find = |kind| walk.found.iter().find(|dsq| dsq.kind == kind).unwrap();
    assert_eq!(
        find(DsqKind::Global { node: 0 }).tasks[0].task.comm,
        "waiting"
    );
    let user = find(DsqKind::User);
    assert_eq!((user.id, user.nr), (Some(0x77), Some(2)));
    // The cursor between them is no task.
    let pids: Vec<i32> = user.tasks.iter().map(|task| task.task.pid).collect();
    assert_eq!(pids, [7, 8]);
    assert!(find(DsqKind::Local { cpu: 1 }).tasks.is_empty());
    let bypassed = &find(DsqKind::Bypass { cpu: 1 }).tasks;
    assert_eq!((bypassed[0].task.pid, bypassed.len()), (61, 1));
}

fn a_queue_that_leads_back_into_itself_ends_with_a_reason(btf: Btf) {
    let (memory, kernel) = failed(btf);
    let user = kernel.dispatch_queues().found.pop().unwrap();
    let offset = kernel
        .field_of("task_struct", "scx.dsq_list.node")
        .unwrap()
        .offset;
    let second = user.tasks[1].task.kva.0 + offset - DIRECT;
    let first = user.tasks[0].task.kva.0 + offset;
    memory.put(Gpa(second), &first.to_le_bytes());
    let walk = kernel.dispatch_queues();
    let why: Vec<_> = walk
        .problems
        .iter()
        .map(|problem| problem.why.clone())
        .collect();
    assert!(
        why.iter().any(|why| why.contains("a DSQ has a cycle")),
        "{why:?}"
    );
    assert_eq!(walk.found.last().unwrap().tasks.len(), 2);
}

fn the_watchdog_is_the_schedulers(btf: Btf) {
    let (_, kernel) = failed(btf);
    let change = kernel
        .override_watchdog(Duration::from_millis(2500), 1000)
        .unwrap()
        .unwrap();
    assert_eq!(
        (change.previous, change.wanted, change.observed),
        (30_000, 2500, 2500)
    );
    assert_eq!(kernel.scx().unwrap().unwrap().watchdog_timeout, Some(2500));
}

/// The kernel's first look is due by the old time-out: until it has come, its time is kept fresh.
fn a_shorter_watchdog_does_not_find_itself_late(btf: Btf) {
    const STAMP: Gpa = Gpa(0x310);
    const JIFFIES: Gpa = Gpa(0x318);
    let (memory, kernel) = failed(btf);
    let stamp = || memory.read_u64(STAMP).unwrap();
    let mut hold = WatchdogHold::new(Duration::from_millis(2500), 1000).unwrap();
    let mut apply = || hold.apply(&kernel).unwrap().unwrap();
    apply();
    assert_eq!(stamp(), 4321);
    memory.put(JIFFIES, &6000_u64.to_le_bytes());
    let again = apply();
    assert_eq!(
        (again.previous, again.observed, stamp()),
        (2500, 2500, 6000)
    );
    // The kernel has looked: the time is its own from then on.
    memory.put(STAMP, &6100_u64.to_le_bytes());
    memory.put(JIFFIES, &7000_u64.to_le_bytes());
    apply();
    apply();
    assert_eq!(stamp(), 6100);
    // Another scheduler brings its own time-out along.
    let sched = kernel.read_u64(kernel.symbol("scx_root").unwrap()).unwrap();
    let timeout = kernel.object("scx_sched", Kva(sched)).unwrap();
    let timeout = timeout.address_of("watchdog_timeout").unwrap();
    kernel.write(timeout, &20_000_u64.to_le_bytes()).unwrap();
    let again = apply();
    assert_eq!(
        (again.previous, again.observed, stamp()),
        (20_000, 2500, 7000)
    );
    // A longer one needs no help: the kernel looks more often than that.
    memory.put(STAMP, &7100_u64.to_le_bytes());
    let mut longer = WatchdogHold::new(Duration::from_secs(9), 1000).unwrap();
    assert_eq!(longer.apply(&kernel).unwrap().unwrap().observed, 9000);
    assert_eq!(stamp(), 7100);
}

fn the_sampler_follows_a_new_scheduler(btf: Btf) {
    let (memory, kernel) = failed(btf);
    let mut sampler = Sampler::new(Arc::clone(&kernel)).unwrap();
    let sample = sampler.sample(0, &[]).unwrap();
    assert_eq!(
        (sample.exit_kind, sample.events["select_cpu_fallback"]),
        (Some(1025), 21)
    );
    assert_eq!(
        (sample.cpus[1].nr_running, sample.cpus[1].rq_clock),
        (2, 1001)
    );
    // Gone: no counters, no exit kind, and the sample stands.
    let root = Gpa(0x300);
    let sched = memory.read_u64(root).unwrap();
    memory.put(root, &0_u64.to_le_bytes());
    let sample = sampler.sample(1, &[]).unwrap();
    assert_eq!((sample.exit_kind, sample.events.len()), (None, 0));
    memory.put(root, &sched.to_le_bytes());
    assert_eq!(sampler.sample(2, &[]).unwrap().exit_kind, Some(1025));
    // Disabled: its counters are freed, though the pointer to it may stay for a while.
    let state = Gpa(0x308);
    memory.put(state, &3_u32.to_le_bytes());
    assert_eq!(sampler.sample(3, &[]).unwrap().events.len(), 0);
    memory.put(state, &1_u32.to_le_bytes());
    assert!(!sampler.sample(4, &[]).unwrap().events.is_empty());
}

fn the_sampler_follows_the_cpus_that_are_online(btf: Btf) {
    let (memory, kernel) = failed(btf);
    let online = Gpa(0x108);
    memory.put(online, &1_u64.to_le_bytes());
    let mut sampler = Sampler::new(Arc::clone(&kernel)).unwrap();
    let mut seen = |mask: u64| -> Vec<u32> {
        memory.put(online, &mask.to_le_bytes());
        let sample = sampler.sample(0, &[]).unwrap();
        sample.cpus.iter().map(|cpu| cpu.cpu).collect()
    };
    assert_eq!(seen(1), [0]);
    assert_eq!(seen(3), [0, 1], "one that was switched on later");
    assert_eq!(seen(2), [1]);
}

fn without_a_scheduler_there_is_still_a_state(btf: Btf) {
    let (_, kernel) = World::new(btf).kernel();
    let scx = kernel.scx().unwrap().unwrap();
    assert_eq!(
        (scx.layout, scx.exit, scx.events),
        (ScxLayout::Root, None, None)
    );
    assert!(
        kernel
            .override_watchdog(Duration::from_secs(1), 1000)
            .unwrap()
            .is_none()
    );
}

fn flags_have_names(btf: Btf) {
    let (_, kernel) = failed(btf);
    let flags = &kernel.runqueues().found[0].scx.clone().unwrap().flag_names;
    assert_eq!(flags, &["ONLINE", "CLK_VALID"]);
}
