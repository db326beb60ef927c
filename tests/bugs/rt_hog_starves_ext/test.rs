//! An ordinary hog beside a FIFO one, under any scheduler.

use crate::support::{Task, during, ms, wait};
use ktstr::prelude::*;

declare_scheduler!(IMPATIENT, { name: "impatient-with-hogs", binary: "scx-fixture" });

#[ktstr_test(scheduler = IMPATIENT, topology = "1n1l2c1t", time = "virtual", duration_s = 5, watchdog_timeout_s = 2, auto_repro = false, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |_| {
        let _starves = Task::hog(1)?;
        let hog = Task::hog(1)?;
        hog.policy(libc::SCHED_FIFO, 1)?;
        wait(ms(4700));
        Ok(())
    })
}
