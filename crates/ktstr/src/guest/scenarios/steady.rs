//! Workloads that do not change.

use super::{Plan, family, of_type, spinning, whole};
use crate::model::cpuset::CpuMap;
use crate::model::scenario::{CgroupDef, CpusetSpec};

family! { "steady";
    /// Two cgroups of two spinning workers each, without limits, for the whole duration.
    steady(1) = |_| whole(vec![spinning("a"), spinning("b")]);
    /// One cgroup per LLC, bound to it, with one spinning worker per CPU.
    steady_llc(1) = per_llc;
    /// 32 spinning workers in one cgroup, more than most topologies have CPUs.
    oversubscribed(1) = |_| whole(vec![CgroupDef::named("crowd").workers(32)]);
    /// Seven cgroups that spin, yield, burst, ping-pong, pipe, compute in caches and do a bit of everything, side by side.
    mixed_workloads(1) = |_| whole(mixed());
}

fn per_llc(map: &CpuMap) -> Plan {
    let bound = |llc| {
        CgroupDef::named(format!("llc{llc}"))
            .cpuset(CpusetSpec::llc(llc))
            .workers_pct(1.0)
    };
    whole((0..map.llcs as usize).map(bound).collect())
}

fn mixed() -> Vec<CgroupDef> {
    let names = [
        "SpinWait",
        "YieldHeavy",
        "Bursty",
        "FutexPingPong",
        "PipeIo",
        "CachePressure",
        "Mixed",
    ];
    let of = |name: &str| CgroupDef::named(name).work(of_type(name));
    names.into_iter().map(of).collect()
}
