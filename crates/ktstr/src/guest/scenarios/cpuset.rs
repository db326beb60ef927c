//! Cpusets that are set, resized, swapped and lifted under running workers.

use super::{equal_steps, family, repeated, spinning, whole};
use crate::model::scenario::{CgroupDef, CpusetSpec, Op};

family! { "cpuset";
    /// Two cgroups run everywhere, then on halves of their own.
    apply(2) = |_| equal_steps(vec![spinning("a"), spinning("b")], vec![
        Vec::new(),
        vec![set("a", half(0)), set("b", half(1))],
    ]);
    /// Two cgroups run on halves of their own, then everywhere.
    clear(2) = |_| equal_steps(halves(), vec![
        Vec::new(),
        vec![lift("a"), lift("b")],
    ]);
    /// One cgroup shrinks to one CPU while the other grows, and back.
    resize(2) = |map| equal_steps(halves(), vec![
        Vec::new(),
        vec![set("a", CpusetSpec::exact([0])), set("b", CpusetSpec::exact(1..map.total_cpus() as usize))],
        vec![set("a", half(0)), set("b", half(1))],
    ]);
    /// Two cgroups exchange their halves five times a second.
    swap(2) = |_| repeated(halves(), vec![Op::swap_cpusets("a", "b")]);
    /// One cgroup for each CPU, as many as four, none of which share one.
    disjoint(2) = |map| {
        let of = map.total_cpus().clamp(2, 5) as usize - 1;
        let of = if map.total_cpus() == 2 { 2 } else { of };
        let share = |index| CgroupDef::named(format!("share{index}"))
            .workers(2)
            .cpuset(CpusetSpec::disjoint(index, of));
        whole((0..of).map(share).collect())
    };
    /// Two halves that reach into each other.
    overlap(2) = |_| whole((0..2).map(|index| CgroupDef::named(format!("half{index}"))
        .workers(2)
        .cpuset(CpusetSpec::overlap(index, 2, 0.5))).collect());
}

fn half(index: usize) -> CpusetSpec {
    CpusetSpec::disjoint(index, 2)
}

fn halves() -> Vec<CgroupDef> {
    vec![spinning("a").cpuset(half(0)), spinning("b").cpuset(half(1))]
}

fn set(cgroup: &str, cpus: CpusetSpec) -> Op {
    Op::set_cpuset(cgroup, cpus)
}

fn lift(cgroup: &str) -> Op {
    Op::clear_cpuset(cgroup)
}
