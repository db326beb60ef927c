//! Two groups swap their LLCs, and the scheduler's own counter, read out of its memory before and after, says that it went on
//! placing tasks.

use ktstr::prelude::*;

declare_scheduler!(MINE, { name: "mine", binary: "scx-fixture" });

#[ktstr_test(scheduler = MINE, topology = "1n2l2c1t", duration_s = 4, not_stuck, post_vm = it_kept_dispatching)]
fn groups_swap_their_llcs(ctx: &Ctx) -> Result<AssertResult> {
    let group = |name, llc| {
        CgroupDef::named(name)
            .workers(2)
            .cpuset(CpusetSpec::Llc(llc))
    };
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![group("a", 0), group("b", 1)]),
        vec![
            Step::with_op(Op::capture_snapshot("before"), HoldSpec::frac(0.5)),
            Step::with_op(Op::swap_cpusets("a", "b"), HoldSpec::frac(0.5)),
            Step::with_op(Op::capture_snapshot("after"), HoldSpec::frac(0.1)),
        ],
    )
}

fn it_kept_dispatching(vm: &VmResult) -> Result<AssertResult> {
    let mut result = AssertResult::pass();
    claim!(result, dispatched(vm, "after")? - dispatched(vm, "before")?).at_least(1);
    Ok(result)
}

fn dispatched(vm: &VmResult, capture: &str) -> Result<u64> {
    let counter = vm
        .snapshot(capture)?
        .live_var("stats.dispatched")?
        .as_u64()?;
    Ok(counter)
}

ktstr::test_main!();
