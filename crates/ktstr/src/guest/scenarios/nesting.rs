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
        CgroupDef::named("small").workers(0).cpu_weight(50),
        spinning("small/less").cpu_weight(100),
        spinning("small/more").cpu_weight(300),
        spinning("large").cpu_weight(100),
    ]);
    /// A quota on a parent that two children share, beside one without.
    quota(1) = |_| whole(vec![
        CgroupDef::named("limited").workers(0).cpu_max(Duration::from_millis(20), Duration::from_millis(100)),
        spinning("limited/a"),
        spinning("limited/b"),
        spinning("free"),
    ]);
    /// A parent's cpuset that bounds its children's.
    cpusets(2) = |_| whole(vec![
        CgroupDef::named("half").workers(0).cpuset(CpusetSpec::Disjoint { index: 0, of: 2 }),
        spinning("half/all"),
        spinning("other").cpuset(CpusetSpec::Disjoint { index: 1, of: 2 }),
    ]);
    /// Tasks are moved down, across and up a tree.
    task_move(1) = |_| equal_steps(vec![
        spinning("top"),
        CgroupDef::named("tree/left").workers(0),
        CgroupDef::named("tree/right").workers(0),
    ], vec![
        ("top", Vec::new()),
        ("down", vec![moved("top", "tree/left")]),
        ("across", vec![moved("tree/left", "tree/right")]),
        ("up", vec![moved("tree/right", "top")]),
    ]);
    /// Threads of one process in cgroups of their own.
    threaded(1) = |_| whole(vec![
        CgroupDef::named("process/left").workers(2).threaded(),
        CgroupDef::named("process/right").workers(2).threaded(),
        spinning("beside"),
    ]);
}

fn moved(from: &str, to: &str) -> Op {
    Op::MoveAllTasks {
        from: from.to_owned(),
        to: to.to_owned(),
    }
}
