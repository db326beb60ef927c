//! Whether a scheduler that the verifier let in schedules at all.

use crate::guest::scenario::execute_defs;
use crate::model::ctx::Ctx;
use crate::model::scenario::CgroupDef;
use crate::model::verdict::AssertResult;

/// Two busy workers per CPU in a cgroup; each must get on, and the scheduler must outlive them.
pub(super) fn cell(ctx: &Ctx) -> anyhow::Result<AssertResult> {
    let workers = ctx.topology().all().len() * 2;
    execute_defs(ctx, vec![CgroupDef::named("verify").workers(workers)])
}
