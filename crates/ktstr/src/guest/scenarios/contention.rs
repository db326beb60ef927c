//! Workers that wait for each other.

use super::{family, of_type, spinning, whole};
use crate::model::scenario::{CgroupDef, Op};
use crate::model::work::WorkSpec;

family! { "contention";
    /// Four workers take one lock in turn, beside spinning ones.
    mutex(1) = |_| beside(&["MutexContention"]);
    /// A lock holder that is lifted into a higher class by priority inheritance.
    priority_inversion(1) = |_| beside(&["PriorityInversion"]);
    /// One waker for many sleepers: by futex, by broadcast and by epoll.
    wake_ups(1) = |_| beside(&["FutexFanOut", "ThunderingHerd", "EpollStorm"]);
    /// Pairs that pass a byte, a block, a signal and a turn to each other.
    pairs(1) = |_| beside(&["PipeIo", "CachePipe", "SignalStorm", "FutexPingPong"]);
    /// A baton that goes round while spinning workers want its CPUs.
    chain(1) = |_| beside(&["WakeChain"]);
    /// Higher classes that take CPUs away: at a fine grain and for long.
    preemption(1) = |_| beside(&["PreemptStorm", "RtStarvation"]);
    /// One worker for each CPU in the guest's root cgroup, outside the workload's, beside two cgroups.
    host_contention(1) = |_| {
        let mut plan = whole(vec![spinning("a"), spinning("b")]);
        let host = Op::spawn_host(WorkSpec::default().workers_pct(1.0));
        plan.steps = plan.steps.into_iter().map(|step| step.set_ops(vec![host.clone()])).collect();
        plan
    };
    /// The schbench benchmark, with spinning workers in its way.
    schbench(1) = |_| beside(&["Schbench"]);
}

/// One cgroup for each work type, and one that spins.
fn beside(names: &[&str]) -> super::Plan {
    let of = |name: &&str| CgroupDef::named(*name).work(of_type(name));
    let mut defs: Vec<CgroupDef> = names.iter().map(of).collect();
    defs.push(spinning("beside"));
    whole(defs)
}
