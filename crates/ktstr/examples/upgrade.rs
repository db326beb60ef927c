//! A scheduler is replaced by its next version while the work goes on, which costs no more than half of the throughput.

use ktstr::prelude::*;

declare_scheduler!(OLD, { name: "old", binary: "scx-fixture" });
declare_scheduler!(NEXT, { name: "next", binary: "scx-fixture" });

#[ktstr_test(scheduler = OLD, staged_schedulers = [NEXT], topology = "1n2l2c1t", duration_s = 6)]
fn upgrade_in_flight(ctx: &Ctx) -> Result<AssertResult> {
    let third = HoldSpec::frac(1.0 / 3.0);
    let mut result = execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(4)]),
        vec![
            Step::hold(third).named("old"),
            Step::with_op(Op::replace_scheduler(&NEXT), third).named("swap"),
            Step::hold(HoldSpec::REST).named("new"),
        ],
    )?;
    let rate = |step: &str| result.stats.phase(step)?.iteration_rate();
    let kept = rate("new").zip(rate("old")).map(|(new, old)| new / old);
    claim!(result, kept).at_least(0.5);
    Ok(result)
}

ktstr::test_main!();
