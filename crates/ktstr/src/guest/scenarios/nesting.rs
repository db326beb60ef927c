//! Cgroups in cgroups.

use std::time::Duration;

use super::{equal_steps, family, spinning, whole};
use crate::model::scenario::{CgroupDef, CpusetSpec, Op};

family! { "nesting";
    /// Two cgroups of spinning workers below a common one.
    nested_steady(1) = |_| whole(vec![spinning("outer/left"), spinning("outer/right")]);
    /// Spinning workers five levels down, beside some at the top.
    deep(1) = |_| whole(vec![spinning("a/b/c/d/e"), spinning("top")]);
    /// Weights on two levels: a quarter of a third against two thirds.
    weights(1) = |_| whole(vec![
        CgroupDef::named("small").without_workers().cpu_weight(50),
        spinning("small/less").cpu_weight(100),
        spinning("small/more").cpu_weight(300),
        spinning("large").cpu_weight(100),
    ]);
    /// A quota on a parent that two children share, beside one without.
    quota(1) = |_| whole(vec![
        CgroupDef::named("limited").without_workers().cpu_quota(Duration::from_millis(20), Duration::from_millis(100)),
        spinning("limited/a"),
        spinning("limited/b"),
        spinning("free"),
    ]);
    /// A parent's cpuset that bounds its children's.
    cpusets(2) = |_| whole(vec![
        CgroupDef::named("half").without_workers().cpuset(CpusetSpec::disjoint(0, 2)),
        spinning("half/all"),
        spinning("other").cpuset(CpusetSpec::disjoint(1, 2)),
    ]);
    /// Tasks are moved down, across and up a tree.
    task_move(1) = |_| equal_steps(vec![
        spinning("top"),
        CgroupDef::named("tree/left").without_workers(),
        CgroupDef::named("tree/right").without_workers(),
    ], vec![
        Vec::new(),
        vec![moved("top", "tree/left")],
        vec![moved("tree/left", "tree/right")],
        vec![moved("tree/right", "top")],
    ]);
    /// Threads of one process in cgroups of their own.
    threaded(1) = |_| whole(vec![
        CgroupDef::named("process/left").workers(2).threaded(),
        CgroupDef::named("process/right").workers(2).threaded(),
        spinning("beside"),
    ]);
}

fn moved(from: &str, to: &str) -> Op {
    Op::move_all_tasks(from, to)
}
