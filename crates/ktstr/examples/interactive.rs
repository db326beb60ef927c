//! A group that sleeps most of the time keeps its wake-up latency beside one that never does.

use std::time::Duration;

use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", duration_s = 3, not_stuck)]
fn interactive_beside_batch(ctx: &Ctx) -> Result<AssertResult> {
    let ms = Duration::from_millis;
    // An emulated guest on a busy host is slow.
    let quick = Assert::NO_OVERRIDES.max_p99_wake_latency_ns(500_000_000);
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("batch").workers(4).cpu_weight(50),
            CgroupDef::named("chat")
                .workers(2)
                .work_type(WorkType::bursty(ms(1), ms(9)))
                .assert(quick),
        ],
    )
}

ktstr::test_main!();
