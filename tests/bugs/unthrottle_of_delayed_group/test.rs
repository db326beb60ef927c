//! The only task of a cgroup beside a throttled child sleeps when the child's new period begins.

use crate::support::{Task, cgroup, during, ms, set, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 4, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |root| {
        let parent = cgroup(root, "parent")?;
        let (limited, free) = (cgroup(&parent, "limited")?, cgroup(&parent, "free")?);
        set(&limited, "cpu.max", "2000 20000")?;
        let _hog = Task::hog(1)?;
        let _starves = Task::within(&limited, 1, ms(10), ms(0))?;
        let _sleeper = Task::within(&free, 1, ms(5), ms(30))?;
        wait(ms(3700));
        Ok(())
    })
}
