//! Whether a scheduler that the verifier let in schedules at all.

use crate::guest::scenario::execute_defs;
use crate::model::ctx::Ctx;
use crate::model::scenario::CgroupDef;
use crate::model::verdict::AssertResult;
use crate::model::work::SchedPolicy;

/// Two busy workers per CPU, of `SCHED_EXT`: a scheduler that switches only such tasks (`SCX_OPS_SWITCH_PARTIAL`) would see no
/// worker otherwise, and to the others they are tasks like any. The cell's checks demand progress of each.
pub(super) fn cell(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    let workers = ctx.topology().all().len() * 2;
    let cgroup = CgroupDef::named("verify")
        .workers(workers)
        .sched_policy(SchedPolicy::Ext);
    execute_defs(ctx, vec![cgroup])
}
