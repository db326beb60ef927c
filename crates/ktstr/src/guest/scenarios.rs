//! Canned scenarios, one line each.

use crate::model::ctx::Ctx;
use crate::model::scenario::{CgroupDef, CpusetSpec};
use crate::model::verdict::AssertResult;
use crate::model::work::WorkType;

use super::scenario::execute_defs;

/// Two cgroups of two spinning workers each, without limits, for the whole duration.
///
/// # Errors
/// As [`execute_defs`].
pub fn steady(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    execute_defs(ctx, vec![spinning("a"), spinning("b")])
}

/// One cgroup per LLC, bound to it, with one spinning worker per CPU.
///
/// # Errors
/// As [`execute_defs`].
pub fn steady_per_llc(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    let bound = |llc| {
        CgroupDef::named(format!("llc{llc}"))
            .cpuset(CpusetSpec::Llc(llc))
            .workers_pct(100.0)
    };
    execute_defs(ctx, (0..ctx.topology().llcs).map(bound).collect())
}

/// 32 spinning workers in one cgroup, more than most topologies have CPUs.
///
/// # Errors
/// As [`execute_defs`].
pub fn oversubscribed(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("crowd").workers(32)])
}

/// One cgroup of each work type, two workers each.
///
/// # Errors
/// As [`execute_defs`].
pub fn mixed_workloads(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    let of = |work: WorkType| CgroupDef::named(work.name()).workers(2).work(work);
    execute_defs(ctx, WorkType::ALL.into_iter().map(of).collect())
}

/// Two cgroups of spinning workers, nested one in the other's sibling.
///
/// # Errors
/// As [`execute_defs`].
pub fn nested_steady(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    execute_defs(ctx, vec![spinning("outer/left"), spinning("outer/right")])
}

fn spinning(name: &str) -> CgroupDef {
    CgroupDef::named(name).workers(2).work(WorkType::SpinWait)
}
