//! Three tasks are pinned to a CPU of one cache, three others may use all CPUs again after a while on two of the other cache.

use std::fs;

use crate::support::{Task, during, ms, wait};
use anyhow::Context as _;
use ktstr::prelude::*;

#[ktstr_test(topology = "1n2l2c1t", time = "virtual", duration_s = 5, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    let mut idle_ms = 0;
    let mut result = during(ctx, |_| {
        let mut tasks = Vec::new();
        for _ in 0..3 {
            tasks.push(Task::hog(3)?);
        }
        for _ in 0..3 {
            tasks.push(Task::on(&[0, 1], ms(1000), ms(0))?);
        }
        wait(ms(1000));
        for task in tasks.iter().skip(3) {
            task.may_use(&[0, 1, 2, 3]);
        }
        wait(ms(200));
        let before = idle_of(2)?;
        wait(ms(3000));
        idle_ms = idle_of(2)? - before;
        Ok(())
    })?;
    if idle_ms > 2000 {
        let text = format!(
            "CPU 2 was idle for {idle_ms} of 3000 ms while three tasks that may use it shared CPUs 0 and 1"
        );
        result.merge(AssertResult::fail(DetailKind::Unfair, text));
    }
    Ok(result)
}

/// How long it has been idle, by the kernel's ticks of 10 ms.
fn idle_of(cpu: usize) -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat
        .lines()
        .find(|line| line.starts_with(&format!("cpu{cpu} ")));
    let idle = line.and_then(|line| line.split_whitespace().nth(4));
    Ok(idle.context("a CPU without idle time")?.parse::<u64>()? * 10)
}
