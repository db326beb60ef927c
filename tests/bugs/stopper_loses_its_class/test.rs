//! Any scheduler attaches.

use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "any", binary: "scx-fixture" });

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", time = "virtual", duration_s = 1, auto_repro = false, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("any").workers(2)])
}
