//! Readers of servers, groups and stacks, in memory built by hand with types of our own.

use std::sync::Arc;

use crate::btf::Btf;
use crate::btf::build::Builder;
use crate::phys::SparseMem;
use crate::testing::{DIRECT, TEXT, kernel};
use crate::{Gpa, Kernel, Kva, Problems};

const TASK: u64 = 0x8000;
const STACK: u64 = 0xc000;
const GROUPS: u64 = 0x1_0000;
const QUEUES: u64 = 0x1_1000;
const CGROUP: u64 = 0x1_2000;

/// `tables`: whether a group's `cfs_rq` is an array of pointers, as up to 7.1, or a per-CPU object.
fn types(tables: bool) -> Btf {
    let mut btf = Builder::new();
    let u32_ = btf.int("unsigned int", 4, false);
    let u64_ = btf.int("unsigned long", 8, false);
    let s64 = btf.int("long", 8, true);
    let character = btf.int("char", 1, true);
    let comm = btf.array(character, 16);
    let text = btf.ptr(character);
    let list = btf.structure(
        "list_head",
        16,
        &[("next", u64_, 0, 0), ("prev", u64_, 64, 0)],
    );
    let server = btf.structure(
        "sched_dl_entity",
        64,
        &[
            ("dl_runtime", u64_, 0, 0),
            ("dl_period", u64_, 64, 0),
            ("runtime", s64, 128, 0),
            ("deadline", u64_, 192, 0),
            ("dl_throttled", u32_, 256, 1),
            ("dl_defer", u32_, 257, 1),
            ("dl_defer_running", u32_, 258, 1),
        ],
    );
    btf.structure(
        "rq",
        128,
        &[("nr_running", u32_, 0, 0), ("fair_server", server, 64, 0)],
    );
    let queue = btf.structure("cfs_rq", 16, &[("throttled", u32_, 64, 0)]);
    let queue = btf.ptr(queue);
    let queue = if tables { btf.ptr(queue) } else { queue };
    let node = btf.structure(
        "kernfs_node",
        16,
        &[("name", text, 0, 0), ("__parent", u64_, 64, 0)],
    );
    // The parent is a pointer to the same type; the next number.
    let node = btf.ptr(node);
    let cgroup = btf.structure("cgroup", 8, &[("kn", node, 0, 0)]);
    let cgroup = btf.ptr(cgroup);
    let css = btf.structure("cgroup_subsys_state", 8, &[("cgroup", cgroup, 0, 0)]);
    let scx = btf.structure("scx_task_group", 8, &[("weight", u32_, 0, 0)]);
    let bandwidth = btf.structure(
        "cfs_bandwidth",
        32,
        &[
            ("period", u64_, 0, 0),
            ("quota", u64_, 64, 0),
            ("nr_throttled", u32_, 128, 0),
            ("throttled_time", u64_, 192, 0),
        ],
    );
    btf.structure(
        "task_group",
        96,
        &[
            ("css", css, 0, 0),
            ("cfs_rq", queue, 64, 0),
            ("shares", u64_, 128, 0),
            ("idle", u32_, 192, 0),
            ("scx", scx, 224, 0),
            ("list", list, 256, 0),
            ("cfs_bandwidth", bandwidth, 384, 0),
        ],
    );
    let thread = btf.structure("thread_struct", 8, &[("sp", u64_, 0, 0)]);
    btf.structure(
        "task_struct",
        64,
        &[
            ("stack", u64_, 0, 0),
            ("pid", u32_, 64, 0),
            ("comm", comm, 128, 0),
            ("thread", thread, 256, 0),
        ],
    );
    Btf::from_bytes(btf.finish()).unwrap()
}

fn put(memory: &SparseMem, at: u64, value: u64) {
    memory.put(Gpa(at), &value.to_le_bytes());
}

fn world(tables: bool) -> (Arc<SparseMem>, Arc<Kernel>) {
    let memory = Arc::new(SparseMem::new());
    memory.populate(Gpa(0), 0x4_0000);
    put(&memory, 0x100, 2);
    put(&memory, 0x108, 0b11);
    for cpu in 0..2 {
        put(&memory, 0x200 + cpu * 8, DIRECT + 0x2_0000 + cpu * 0x1_0000);
    }
    let symbols = [
        ("_text", TEXT),
        ("slow_path", TEXT + 0x1000),
        ("fast_path", TEXT + 0x1100),
        ("_etext", TEXT + 0x2000),
        ("nr_cpu_ids", TEXT + 0x100),
        ("__cpu_online_mask", TEXT + 0x108),
        ("__cpu_possible_mask", TEXT + 0x108),
        ("__per_cpu_offset", TEXT + 0x200),
        ("runqueues", 0x400),
        ("task_groups", TEXT + 0x300),
    ];
    let kernel = kernel(Arc::clone(&memory), types(tables), &symbols);
    (memory, kernel)
}

#[test]
fn a_server_tells_its_budget_and_whether_it_may_spend_it() {
    let (memory, kernel) = world(true);
    let server = 0x3_0400 + 8;
    for (at, value) in [
        (0, 50_000_000),
        (8, 1_000_000_000),
        (16, u64::MAX - 9),
        (24, 777),
        (32, 0b101),
    ] {
        put(&memory, server + at, value);
    }
    let mut problems = Problems::new();
    let rq = kernel.runqueue(1, &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let found = rq.fair_server.unwrap();
    assert_eq!(found.dl_runtime, Some(50_000_000));
    assert_eq!((found.runtime, found.deadline), (Some(-10), Some(777)));
    let flags = (found.throttled, found.deferred, found.running);
    assert_eq!(flags, (Some(true), Some(false), Some(true)));
    // What came later is absent, and listed so.
    assert_eq!((found.active, rq.ext_server), (None, None));
    let absent = problems.absent();
    assert!(absent.contains("struct rq.ext_server"), "{absent:?}");
    assert!(
        absent.contains("struct sched_dl_entity.dl_server_active"),
        "{absent:?}"
    );
}

/// Two groups: the root, without limits, and one that is throttled on CPU 1.
#[test]
fn groups_tell_their_weight_and_where_they_are_throttled() {
    for tables in [true, false] {
        let (memory, kernel) = world(tables);
        let groups = [GROUPS, GROUPS + 0x100];
        let head = TEXT + 0x300;
        put(&memory, 0x300, DIRECT + groups[0] + 32);
        put(&memory, groups[0] + 32, DIRECT + groups[1] + 32);
        put(&memory, groups[1] + 32, head);
        for group in groups {
            put(&memory, group + 48, 100_000_000);
            put(&memory, group + 56, u64::MAX);
        }
        let limited = groups[1];
        put(&memory, limited, DIRECT + CGROUP);
        put(&memory, CGROUP, DIRECT + CGROUP + 0x40);
        put(&memory, limited + 16, 2048);
        put(&memory, limited + 24, 200 << 32);
        put(&memory, limited + 56, 10_000_000);
        put(&memory, limited + 64, 7);
        put(&memory, limited + 72, 1_234);
        let queue = |cpu: u64| match tables {
            true => QUEUES + 0x100 + cpu * 0x40,
            false => 0x2_0000 + cpu * 0x1_0000 + 0x800,
        };
        let table = match tables {
            true => DIRECT + QUEUES,
            false => 0x800,
        };
        put(&memory, limited + 8, table);
        for cpu in 0..2 {
            put(&memory, QUEUES + cpu * 8, DIRECT + queue(cpu));
            put(&memory, queue(cpu) + 8, cpu);
        }
        let walk = kernel.task_groups();
        assert!(walk.problems.is_empty(), "{:?}", walk.problems);
        let [root, found] = &walk.found[..] else {
            panic!("{:?}", walk.found);
        };
        assert_eq!((root.quota, root.cgroup.as_ref()), (None, None));
        assert!(root.throttled_cpus.is_empty());
        assert_eq!(found.cgroup.as_deref(), Some("/"));
        assert_eq!((found.weight, found.shares), (Some(200), Some(2048)));
        assert_eq!(
            (found.quota, found.period),
            (Some(10_000_000), Some(100_000_000))
        );
        assert_eq!(
            (found.nr_throttled, found.throttled_time),
            (Some(7), Some(1_234))
        );
        assert_eq!(found.throttled_cpus, [1], "tables {tables}");
    }
}

#[test]
fn a_stack_shows_what_follows_a_call() {
    let (memory, kernel) = world(true);
    // A direct call before 0x1010, an indirect one before 0x1120, and none before 0x1200.
    memory.put(Gpa(0x1010 - 5), &[0xe8]);
    memory.put(Gpa(0x1120 - 2), &[0xff, 0xd0]);
    put(&memory, TASK, DIRECT + STACK);
    let pointer = STACK + (16 << 10) - 64;
    put(&memory, TASK + 32, DIRECT + pointer);
    let words = [
        1,
        TEXT + 0x1010,
        TEXT + 0x1200,
        DIRECT + 8,
        TEXT + 0x1120,
        TEXT + 0x2010,
    ];
    for (at, word) in (pointer..).step_by(8).zip(words) {
        put(&memory, at, word);
    }
    let task = kernel.object("task_struct", Kva(DIRECT + TASK)).unwrap();
    let stack = kernel.task_stack(&task).unwrap();
    assert_eq!(stack, ["slow_path+0x10", "fast_path+0x20"]);
    // A pointer that is not into the stack leads nowhere.
    put(&memory, TASK + 32, DIRECT + STACK - 8);
    assert!(kernel.task_stack(&task).unwrap().is_empty());
}

/// States are an enum of their own in old kernels, and among the flags in new ones.
#[test]
fn a_tasks_state_and_flags_have_names() {
    for is_new in [false, true] {
        let mut btf = Builder::new();
        let u32_ = btf.int("unsigned int", 4, false);
        let u64_ = btf.int("unsigned long", 8, false);
        let character = btf.int("char", 1, true);
        let comm = btf.array(character, 16);
        let mut flags = vec![
            ("SCX_TASK_QUEUED", 1),
            ("SCX_TASK_DEQD_FOR_SLEEP", 8),
            ("SCX_TASK_STATE_SHIFT", 8),
            ("SCX_TASK_STATE_BITS", 2),
        ];
        if is_new {
            flags.pop();
            flags.extend([
                ("SCX_TASK_STATE_BITS", 3),
                ("SCX_TASK_READY", 3 << 8),
                ("SCX_TASK_ENABLED", 4 << 8),
            ]);
        } else {
            btf.enumeration(
                "scx_task_state",
                &[("SCX_TASK_READY", 2), ("SCX_TASK_ENABLED", 3)],
            );
        }
        btf.enumeration("scx_ent_flags", &flags);
        btf.enumeration(
            "scx_ops_state",
            &[("SCX_OPSS_NONE", 0), ("SCX_OPSS_QUEUED", 2)],
        );
        let sched = btf.structure("scx_sched", 8, &[("id", u64_, 0, 0)]);
        let sched = btf.ptr(sched);
        let entity = btf.structure(
            "sched_ext_entity",
            32,
            &[
                ("sched", sched, 0, 0),
                ("flags", u32_, 64, 0),
                ("runnable_cpu", u32_, 96, 0),
                ("ops_state", u64_, 128, 0),
            ],
        );
        btf.structure(
            "task_struct",
            64,
            &[
                ("pid", u32_, 0, 0),
                ("tgid", u32_, 32, 0),
                ("comm", comm, 64, 0),
                ("scx", entity, 192, 0),
            ],
        );
        let btf = Btf::from_bytes(btf.finish()).unwrap();
        let memory = Arc::new(SparseMem::new());
        memory.populate(Gpa(0), 0x2_0000);
        put(&memory, 0x9000, 7);
        put(&memory, TASK + 24, DIRECT + 0x9000);
        let state = if is_new { 4 << 8 } else { 3 << 8 };
        put(&memory, TASK + 32, state | 1 | 2 << 12 | 1 << 32);
        put(&memory, TASK + 40, 99 << 2 | 2);
        let kernel = kernel(memory, btf, &[("_text", TEXT)]);
        let task = kernel.object("task_struct", Kva(DIRECT + TASK)).unwrap();
        let scx = kernel
            .task(&task, &mut Problems::new())
            .unwrap()
            .scx
            .unwrap();
        assert_eq!(scx.state.as_deref(), Some("enabled"), "{scx:?}");
        assert_eq!(scx.flag_names, ["queued"]);
        assert_eq!(scx.ops_state_name.as_deref(), Some("queued"));
        assert_eq!((scx.scheduler, scx.runnable_cpu), (Some(7), Some(1)));
    }
}
