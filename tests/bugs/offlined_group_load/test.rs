//! A cgroup has load on a CPU that goes offline.

use crate::support::{Task, cgroup, during, ms, online, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l3c1t", time = "virtual", duration_s = 2, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |root| {
        let (a, b) = (cgroup(root, "a")?, cgroup(root, "b")?);
        let _a1 = Task::within(&a, 1, ms(10), ms(0))?;
        let _b1 = Task::within(&b, 1, ms(10), ms(0))?;
        let a2 = Task::within(&a, 2, ms(10), ms(0))?;
        a2.nice(-20);
        wait(ms(1000));
        online(2, false)?;
        a2.end();
        wait(ms(600));
        Ok(())
    })
}
