//! A condition on a kernel's state, as it is looked at.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ktstr_monitor::sched::Fact;
use ktstr_monitor::{Kernel, Kva};
use ktstr_wire::StateTest;

use crate::model::call::panic_text;
use crate::model::scenario::custom_cond;

/// How long it is believed which tasks and groups have which names.
const NAMES_FOR: Duration = Duration::from_millis(1);

/// Where a state can have changed, newest kernel's name first; the guest is looked at before the function is executed.
///
/// - after a switch: `finish_task_switch`, static, so the compiler may add a suffix;
/// - after a wake-up: `wakeup_preempt` (6.7: e23edc86b09d renamed it), `check_preempt_curr` before;
/// - at a tick, when the running task has been charged: `sched_balance_trigger` (6.10: 983be0628c06), `trigger_load_balance`
///   before; on a kernel for one CPU the tick itself, `sched_tick` (6.10) or `scheduler_tick`.
pub(super) const PLACES: [(&str, &[&str]); 3] = [
    ("a context switch", &["finish_task_switch"]),
    ("a wake-up", &["wakeup_preempt", "check_preempt_curr"]),
    (
        "a tick",
        &[
            "sched_balance_trigger",
            "trigger_load_balance",
            "sched_tick",
            "scheduler_tick",
        ],
    ),
];

/// A condition, and what is known of the names in it.
#[derive(Debug)]
pub(super) struct Condition {
    any: Vec<Vec<StateTest>>,
    tasks: HashMap<String, Vec<Kva>>,
    groups: HashMap<String, Option<Kva>>,
    looked_up: Option<Instant>,
}

impl Condition {
    /// A condition on this kernel, with the reason where the kernel lacks what it needs.
    pub(super) fn new(kernel: &Kernel, any: &[Vec<StateTest>]) -> Result<Self, String> {
        let mut condition = Self {
            any: any.to_vec(),
            tasks: HashMap::new(),
            groups: HashMap::new(),
            looked_up: None,
        };
        for test in any.iter().flatten() {
            let fact = match test {
                StateTest::TaskDelayed(_) => Fact::Delayed,
                StateTest::TaskQueued(_) => Fact::Queued,
                StateTest::TaskIneligible(_) => Fact::Ineligible,
                StateTest::TaskRunsOn { .. } | StateTest::CpuIdle(_) => Fact::Current,
                StateTest::CgroupThrottledOn { .. } => Fact::Throttled,
                StateTest::Custom(number) => {
                    custom_cond(*number)
                        .ok_or_else(|| format!("this binary registers no condition {number}"))?;
                    continue;
                }
            };
            kernel
                .has_state(fact)
                .map_err(|error| format!("this kernel cannot be in that state: {error}"))?;
            match test {
                StateTest::TaskDelayed(name)
                | StateTest::TaskQueued(name)
                | StateTest::TaskIneligible(name)
                | StateTest::TaskRunsOn { name, .. } => {
                    condition.tasks.insert(name.clone(), Vec::new());
                }
                StateTest::CgroupThrottledOn { path, .. } => {
                    condition.groups.insert(path.clone(), None);
                }
                StateTest::CpuIdle(_) | StateTest::Custom(_) => {}
            }
        }
        Ok(condition)
    }

    /// Whether it holds.
    pub(super) fn holds(&mut self, kernel: &Kernel, now: Instant) -> Result<bool, String> {
        let is_known = |since: Instant| now.saturating_duration_since(since) < NAMES_FOR;
        if !self.looked_up.is_some_and(is_known) {
            self.look_up(kernel).map_err(|error| error.to_string())?;
            self.looked_up = Some(now);
        }
        for all in &self.any {
            if self.all(kernel, all)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn look_up(&mut self, kernel: &Kernel) -> ktstr_monitor::Result<()> {
        for (name, known) in &mut self.tasks {
            *known = kernel.threads_named(name)?;
        }
        for (path, known) in &mut self.groups {
            let is_it = |group: Kva| kernel.is_group_named(group, path).unwrap_or(false);
            if !known.is_some_and(is_it) {
                *known = kernel.task_group_named(path)?;
            }
        }
        Ok(())
    }

    fn all(&self, kernel: &Kernel, tests: &[StateTest]) -> Result<bool, String> {
        for test in tests {
            let holds = match test {
                StateTest::Custom(number) => custom(kernel, *number)?,
                _ => self.one(kernel, test).map_err(|error| error.to_string())?,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn one(&self, kernel: &Kernel, test: &StateTest) -> ktstr_monitor::Result<bool> {
        match test {
            StateTest::TaskDelayed(name) => self.any_task(kernel, name, Kernel::is_delayed),
            StateTest::TaskQueued(name) => self.any_task(kernel, name, Kernel::is_queued),
            StateTest::TaskIneligible(name) => self.any_task(kernel, name, Kernel::is_ineligible),
            StateTest::TaskRunsOn { name, cpu } => {
                let current = kernel.current_of(*cpu)?;
                self.any_task(kernel, name, |_, task| Ok(task == current))
            }
            StateTest::CgroupThrottledOn { path, cpu } => {
                match self.groups.get(path).copied().flatten() {
                    Some(group) => kernel.is_group_throttled(group, *cpu),
                    None => Ok(false),
                }
            }
            StateTest::CpuIdle(cpu) => kernel.is_cpu_idle(*cpu),
            StateTest::Custom(_) => Ok(false),
        }
    }

    fn any_task(
        &self,
        kernel: &Kernel,
        name: &str,
        holds: impl Fn(&Kernel, Kva) -> ktstr_monitor::Result<bool>,
    ) -> ktstr_monitor::Result<bool> {
        for task in self.tasks.get(name).into_iter().flatten() {
            // One that has ended since it was looked up is none of these.
            if kernel.is_thread_named(*task, name)? && holds(kernel, *task)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Asks a function of the test's author, whose panic is a reason like any other.
fn custom(kernel: &Kernel, number: u32) -> Result<bool, String> {
    let Some(custom) = custom_cond(number) else {
        return Ok(false);
    };
    catch_unwind(AssertUnwindSafe(|| (custom.holds)(kernel)))
        .map_err(|panic| format!("{} panicked: {}", custom.name, panic_text(&*panic)))
}
