//! Sleeping tasks that are still on the queues of throttled cgroups change their class. Each sleeps shortly before its cgroup's
//! quota is used up, so that nothing else of the cgroup runs that could finish its dequeue.

use crate::support::{Task, cgroup, during, ms, set, wait};
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", time = "virtual", duration_s = 3, ignore)]
fn trigger(ctx: &Ctx) -> Result<AssertResult> {
    during(ctx, |root| {
        let _outside = Task::hog(1)?;
        let mut tasks = Vec::new();
        for (name, run_us) in [("a", 3400), ("b", 3900), ("c", 4300), ("d", 4700)] {
            let limited = cgroup(root, name)?;
            set(&limited, "cpu.max", "10000 100000")?;
            let hog = Task::within(&limited, 1, ms(10), ms(0))?;
            let run = std::time::Duration::from_micros(run_us);
            tasks.push((hog, Task::within(&limited, 1, run, ms(70))?, 0_u32));
        }
        for _ in 0..500 {
            wait(ms(5));
            for (_, task, asleep) in &mut tasks {
                *asleep = match task.state()? {
                    'S' => *asleep + 1,
                    _ => 0,
                };
                if *asleep == 3 {
                    task.policy(libc::SCHED_FIFO, 1)?;
                    task.policy(libc::SCHED_OTHER, 0)?;
                }
            }
        }
        Ok(())
    })
}
