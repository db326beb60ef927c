//! A task sleeps and wakes again and again beside a hog.

use crate::support::{Task, during, ms, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 2, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |_| {
        let _hog = Task::hog(1)?;
        let _sleeper = Task::on(&[1], ms(2), ms(20))?;
        wait(ms(1700));
        Ok(())
    })
}
