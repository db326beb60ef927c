//! A task wakes up in a child of a throttled cgroup.

use crate::support::{Task, cgroup, during, ms, set, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 2, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |root| {
        let parent = cgroup(root, "limited")?;
        let child = cgroup(&parent, "child")?;
        set(&parent, "cpu.max", "10000 100000")?;
        let hog = Task::within(&child, 1, ms(10), ms(0))?;
        let sleeper = Task::within(&child, 1, ms(1) / 5, ms(15))?;
        wait(ms(1000));
        hog.end();
        sleeper.end();
        wait(ms(600));
        Ok(())
    })
}
