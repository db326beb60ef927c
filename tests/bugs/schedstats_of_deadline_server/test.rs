//! A fair task wakes up on a CPU that was idle for long enough for its deadline server to have stopped.

use crate::support::{Task, during, ms, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 5, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |_| {
        std::fs::write("/proc/sys/kernel/sched_schedstats", "1")?;
        wait(ms(3500));
        let _task = Task::on(&[1], ms(5), ms(20))?;
        wait(ms(1000));
        Ok(())
    })
}
