//! A task sets the affinity that it has, and its cpuset grows. No rule of the books tells that: only what the user asked for does.

use crate::support::{Task, cgroup, during, ms, set, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l4c1t", time = "virtual", duration_s = 1, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    let mut allowed = String::new();
    let mut result = during(ctx, |root| {
        let limited = cgroup(root, "limited")?;
        set(&limited, "cpuset.cpus", "0-1")?;
        let task = Task::unbound(&limited, ms(1), ms(10))?;
        wait(ms(100));
        task.may_use(&[0, 1]);
        set(&limited, "cpuset.cpus", "0-3")?;
        wait(ms(100));
        let status = task.proc("status")?;
        let line = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list:"));
        allowed = line.unwrap_or_default().replace('\t', " ");
        Ok(())
    })?;
    if allowed != "Cpus_allowed_list: 0-1" {
        let text = format!("a task that asked for CPUs 0 and 1 has {allowed}");
        result.merge(AssertResult::fail(DetailKind::Isolation, text));
    }
    Ok(result)
}
