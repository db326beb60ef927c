//! Sleeping tasks that are still on their queue become real-time tasks and ordinary ones again.

use crate::support::{Task, during, ms, wait, when_asleep};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 3, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |_| {
        let _hog = Task::hog(1)?;
        // Of different times, so that some sleep when they have had more than their share.
        let mut tasks = Vec::new();
        for (run, sleep) in [(2, 19), (3, 23), (5, 29)] {
            tasks.push(Task::on(&[1], ms(run), ms(sleep))?);
        }
        when_asleep(&tasks, ms(2600), |task| {
            task.policy(libc::SCHED_FIFO, 1)?;
            wait(ms(120));
            task.policy(libc::SCHED_OTHER, 0)
        })
    })
}
