//! A scheduler leaves and attaches while many tasks have just fallen asleep.

use crate::support::{Task, ms};
use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "attaching", binary: "scx-fixture" });

#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", time = "virtual", duration_s = 3, auto_repro = false, ignore
)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    let hogs = [Task::hog(0)?, Task::hog(1)?];
    for hog in &hogs {
        hog.nice(10);
    }
    let mut sleepers = Vec::new();
    for n in 0..8_u64 {
        let cpu = usize::try_from(n % 2)?;
        sleepers.push(Task::on(&[cpu], ms(2), ms(25 + 2 * n))?);
    }
    let steps = vec![
        Step::with_op(Op::detach_scheduler(), HoldSpec::frac(0.2)),
        Step::with_op(Op::attach_scheduler(&FIXTURE), HoldSpec::frac(0.3)),
    ];
    execute_steps(ctx, steps)
}
