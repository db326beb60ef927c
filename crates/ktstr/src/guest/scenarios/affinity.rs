//! Workers that are bound to CPUs, and bound anew.

use super::{equal_steps, family, of_type, repeated, spinning, whole};
use crate::model::scenario::{CgroupDef, Op};
use crate::model::work::AffinityIntent;

family! { "affinity";
    /// One spinning worker on each CPU, bound to it.
    pinned(1) = |_| whole(vec![CgroupDef::named("pinned").workers_pct(1.0).affinity(AffinityIntent::OneCpuEach)]);
    /// Spinning workers bound to one LLC each.
    llc_aligned(1) = |_| whole(vec![CgroupDef::named("aligned").workers_pct(1.0).affinity(AffinityIntent::OneLlcEach)]);
    /// Workers run anywhere, are all bound to one CPU, then to one LLC each, and are set free again.
    change(2) = |_| equal_steps(vec![spinning("a"), spinning("b")], vec![
        Vec::new(),
        vec![bind(AffinityIntent::OneCpuEach)],
        vec![bind(AffinityIntent::OneLlcEach)],
        vec![bind(AffinityIntent::Inherit)],
    ]);
    /// Affinities change five times a second from outside.
    flipping(2) = |_| repeated(vec![spinning("a"), spinning("b")], vec![
        bind(AffinityIntent::OneCpuEach),
        bind(AffinityIntent::Inherit),
    ]);
    /// Workers bind themselves and each other to other CPUs all the time, beside spinning ones.
    churn(2) = |_| whole(vec![
        CgroupDef::named("self").work(of_type("AffinityChurn")),
        CgroupDef::named("cross").work(of_type("CrossAffinityChurn")),
        spinning("beside"),
    ]);
}

fn bind(affinity: AffinityIntent) -> Op {
    Op::set_affinity("a", affinity)
}
