//! The tests that `cargo xtask demo` runs.

use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });
declare_scheduler!(STARVING, { name: "starving", binary: "scx-fixture", sched_args: ["--starve-pct", "50"] });
// Whatever `KTSTR_SCHEDULER` names; `cargo xtask demo --scheduler NAME` sets it.
declare_scheduler!(THIRD_PARTY, { name: "third-party", binary: "scx_rusty" });

fn two_groups(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("left")
                .workers(2)
                .cpuset(CpusetSpec::llc(0)),
            CgroupDef::named("right")
                .workers(2)
                .cpuset(CpusetSpec::llc(1)),
        ],
    )
}

#[ktstr_test(topology = "1n2l2c1t", duration_s = 3, not_stuck, isolation)]
fn demo_eevdf(ctx: &Ctx) -> Result<AssertResult> {
    two_groups(ctx)
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n2l2c1t", duration_s = 3, not_stuck, isolation)]
fn demo_fixture(ctx: &Ctx) -> Result<AssertResult> {
    two_groups(ctx)
}

/// Fails on purpose, to show what a failure looks like.
#[ktstr_test(scheduler = STARVING, topology = "1n1l2c1t", duration_s = 6, not_stuck, ignore)]
fn demo_starving(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(6)])
}

#[ktstr_test(scheduler = THIRD_PARTY, topology = "1n2l2c1t", duration_s = 3, memory_mib = 512, ignore)]
fn demo_third_party(ctx: &Ctx) -> Result<AssertResult> {
    two_groups(ctx)
}

ktstr::test_main!();
