//! Tasks, each alone in its cgroup, sleep again and again beside a hog: their cgroups leave the queue late.

use crate::support::{Task, cgroup, during, ms, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 3, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |root| {
        let _hog = Task::hog(1)?;
        let mut sleepers = Vec::new();
        for (name, sleep) in [("a", 13), ("b", 17), ("c", 23)] {
            sleepers.push(Task::within(&cgroup(root, name)?, 1, ms(4), ms(sleep))?);
        }
        wait(ms(2700));
        drop(sleepers);
        Ok(())
    })
}
