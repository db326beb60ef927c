//! Load that is meant to break things.

use super::{equal_steps, family, of_type, spinning, whole};
use crate::model::scenario::{CgroupDef, CpusetSpec, Op};

family! { "stress";
    /// New tasks all the time: forks that exit at once.
    forks(1) = |_| all_of(&["ForkExit", "ForkExit", "ForkExit"]);
    /// Every attribute of a task changes all the time: policy, nice value, affinity, cgroup.
    attributes(2) = |_| all_of(&["PolicyChurn", "NiceSweep", "AffinityChurn", "CrossAffinityChurn", "CgroupChurn"]);
    /// Page faults, cache pressure and migration of memory.
    memory(1) = |_| all_of(&["PageFaultChurn", "CachePressure", "NumaWorkingSetSweep", "NumaMigrationChurn"]);
    /// Files and the network.
    io(1) = |_| all_of(&["IoSyncWrite", "IoRandRead", "IoConvoy", "NetTraffic", "IrqWake"]);
    /// CPUs that go idle and come back all the time.
    idle(1) = |_| all_of(&["IdleChurn", "TimerLatency", "Bursty", "Sequence"]);
    /// Four times as many spinning workers as CPUs, half of them with the lowest weight.
    overload(1) = |_| whole(vec![
        CgroupDef::named("heavy").workers_pct(2.0),
        CgroupDef::named("light").workers_pct(2.0).nice(19).cpu_weight(1),
    ]);
    /// Wake-ups, churn and cpusets that change, all at once.
    everything(2) = |_| equal_steps(everything_defs(), vec![
        Vec::new(),
        vec![Op::set_cpuset("spin", CpusetSpec::exact([0]))],
        vec![
            Op::freeze_cgroup("spin"),
            Op::unfreeze_cgroup("spin"),
        ],
        vec![Op::remove_cgroup("w0-ForkExit")],
    ]);
}

/// One cgroup for each work type; a type may come more than once.
fn all_of(names: &[&str]) -> super::Plan {
    whole(defs_of(names))
}

fn defs_of(names: &[&str]) -> Vec<CgroupDef> {
    let of = |(number, name): (usize, &&str)| {
        CgroupDef::named(format!("w{number}-{name}")).work(of_type(name))
    };
    names.iter().enumerate().map(of).collect()
}

fn everything_defs() -> Vec<CgroupDef> {
    let mut defs = defs_of(&[
        "ForkExit",
        "FutexFanOut",
        "MutexContention",
        "AffinityChurn",
        "Mixed",
        "PageFaultChurn",
    ]);
    defs.push(spinning("spin").cpuset(CpusetSpec::disjoint(0, 2)));
    defs
}
