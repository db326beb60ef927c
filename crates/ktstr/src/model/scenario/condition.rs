//! Conditions on the kernel's state, at which a step ends.

use std::fmt;
use std::time::Duration;

use ktstr_monitor::Kernel;
use ktstr_wire::{MAX_STATE_TESTS, StateTest};

use super::super::cpuset::CpuMap;

/// Longest name that the kernel keeps of a task (`TASK_COMM_LEN` and its NUL).
const COMM_BYTES: usize = 15;

/// A condition on the state of the guest's kernel, evaluated by the host: a fact about a task, a cgroup or a CPU, or several of them
/// joined by [`and`](Self::and) and [`or`](Self::or).
///
/// A task is named by its `comm`, which [`WorkSpec::comm`](super::super::work::WorkSpec::comm) sets; with several of that name the
/// condition holds when it holds for one of them. A cgroup has the name that operations use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cond {
    /// Alternatives, of each of which all is true.
    any: Vec<Vec<StateTest>>,
}

/// A function of an author's on the kernel's state; [`ktstr_condition`](crate::ktstr_condition) registers it.
#[derive(Debug)]
pub struct CustomCond {
    /// Its path.
    pub name: &'static str,
    /// Whether the condition holds. The host calls it, with the guest standing still where there is virtual time.
    pub holds: fn(&Kernel) -> bool,
}

/// Every function of this binary that a step can wait for. Guest and host are one binary, so a place in it means one function.
#[linkme::distributed_slice]
pub static KTSTR_CONDITIONS: [CustomCond];

/// A condition that cannot be watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CondError {
    /// No such CPU.
    #[error("{condition}: this guest has CPUs 0 to {last}")]
    NoCpu {
        /// The condition.
        condition: String,
        /// The last CPU.
        last: u32,
    },
    /// The kernel has no task or cgroup of such a name.
    #[error("{condition}: a task's name has 1 to {COMM_BYTES} bytes, a cgroup's 1 to 200")]
    Name {
        /// The condition.
        condition: String,
    },
    /// `and` of alternatives multiplies them.
    #[error(
        "a condition of {found} facts; expected at most {MAX_STATE_TESTS}, alternatives joined by `and` multiplied out"
    )]
    TooLarge {
        /// How many.
        found: usize,
    },
    /// The guest cannot tell the host which function it is.
    #[error("Cond::custom: its function is not registered; write #[ktstr_condition] above it")]
    Unregistered,
    /// Nothing would be waited for.
    #[error("Step::until(…, 0): expected a time above 0 in which the condition can come about")]
    NoTime,
}

/// A task, for a condition on it; see [`Cond::task`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskCond(String);

/// A cgroup, for a condition on it; see [`Cond::cgroup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupCond(String);

/// A CPU's runqueue, for a condition on it; see [`Cond::rq`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RqCond(u32);

impl Cond {
    /// Tasks with this `comm`.
    pub fn task(name: impl Into<String>) -> TaskCond {
        TaskCond(name.into())
    }

    /// The cgroup of this name, relative to the workload root as in operations.
    pub fn cgroup(name: impl Into<String>) -> CgroupCond {
        CgroupCond(name.into())
    }

    /// The runqueue of a CPU.
    #[must_use]
    pub const fn rq(cpu: u32) -> RqCond {
        RqCond(cpu)
    }

    /// Whatever a function finds in the kernel's memory. Write [`#[ktstr_condition]`](crate::ktstr_condition) above the function: it
    /// is called in the host's process, at each switch, wake-up and tick in virtual time and about every millisecond without. What it
    /// cannot read is not the state that it looks for; one that panics ends the test.
    #[must_use]
    pub fn custom(holds: fn(&Kernel) -> bool) -> Self {
        let mut known = KTSTR_CONDITIONS.iter();
        let number = known.position(|known| std::ptr::fn_addr_eq(known.holds, holds));
        let number = number.and_then(|number| u32::try_from(number).ok());
        Self::of(StateTest::Custom(number.unwrap_or(u32::MAX)))
    }

    /// Both at the same moment.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let pairs = self.any.iter().flat_map(|one| {
            let join = move |two: &Vec<StateTest>| [one.as_slice(), two].concat();
            other.any.iter().map(join)
        });
        // What is too large is refused before the run; it need not be built whole.
        Self {
            any: pairs.take(MAX_STATE_TESTS + 1).collect(),
        }
    }

    /// One of them, or both.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.any.extend(other.any);
        self
    }

    fn of(test: StateTest) -> Self {
        Self {
            any: vec![vec![test]],
        }
    }

    /// Whether it can be watched on these CPUs; asked before a scenario begins.
    ///
    /// # Errors
    /// For a CPU that is not there, a name that no task or cgroup can have, and for too many facts.
    pub(crate) fn validate(&self, topology: CpuMap) -> Result<(), CondError> {
        let found = self.any.iter().map(Vec::len).sum();
        if found > MAX_STATE_TESTS {
            return Err(CondError::TooLarge { found });
        }
        let last = topology.total_cpus().saturating_sub(1);
        for test in self.any.iter().flatten() {
            if let StateTest::Custom(number) = test
                && custom_cond(*number).is_none()
            {
                return Err(CondError::Unregistered);
            }
            let condition = || words(test);
            let (cpu, name) = match test {
                StateTest::TaskDelayed(name)
                | StateTest::TaskQueued(name)
                | StateTest::TaskIneligible(name) => (0, (1..=COMM_BYTES).contains(&name.len())),
                StateTest::TaskRunsOn { name, cpu } => {
                    (*cpu, (1..=COMM_BYTES).contains(&name.len()))
                }
                StateTest::CgroupThrottledOn { path, cpu } => {
                    (*cpu, (1..=200).contains(&path.len()))
                }
                StateTest::CpuIdle(cpu) => (*cpu, true),
                _ => (0, true),
            };
            if cpu > last {
                let condition = condition();
                return Err(CondError::NoCpu { condition, last });
            }
            if !name {
                let condition = condition();
                return Err(CondError::Name { condition });
            }
        }
        Ok(())
    }

    /// The CPUs that it is about.
    pub(crate) fn cpus(&self) -> Vec<u32> {
        let cpus = self.any.iter().flatten().filter_map(|test| match test {
            StateTest::TaskRunsOn { cpu, .. }
            | StateTest::CgroupThrottledOn { cpu, .. }
            | StateTest::CpuIdle(cpu) => Some(*cpu),
            _ => None,
        });
        cpus.collect()
    }

    /// As the host is asked for it: `path` makes a cgroup's path of its name.
    pub(crate) fn tests(&self, path: impl Fn(&str) -> String) -> Vec<Vec<StateTest>> {
        let mut any = self.any.clone();
        for test in any.iter_mut().flatten() {
            if let StateTest::CgroupThrottledOn { path: name, .. } = test {
                *name = path(name);
            }
        }
        any
    }
}

impl TaskCond {
    /// It sleeps and is still queued, so that it pays for what it had too much (delayed dequeue of 6.12 and later).
    #[must_use]
    pub fn delayed(self) -> Cond {
        Cond::of(StateTest::TaskDelayed(self.0))
    }

    /// It is on a runqueue: it runs, waits for a CPU, or is delayed.
    #[must_use]
    pub fn queued(self) -> Cond {
        Cond::of(StateTest::TaskQueued(self.0))
    }

    /// It is queued in the fair class and has had more than its share (EEVDF does not pick it then), as the kernel's figures of that
    /// moment say.
    #[must_use]
    pub fn ineligible(self) -> Cond {
        Cond::of(StateTest::TaskIneligible(self.0))
    }

    /// This CPU runs it.
    #[must_use]
    pub fn runs_on(self, cpu: u32) -> Cond {
        Cond::of(StateTest::TaskRunsOn { name: self.0, cpu })
    }
}

impl CgroupCond {
    /// What `cpu.max` gives it is used up on this CPU.
    #[must_use]
    pub fn throttled_on(self, cpu: u32) -> Cond {
        Cond::of(StateTest::CgroupThrottledOn { path: self.0, cpu })
    }
}

impl RqCond {
    /// The CPU runs its idle task.
    #[must_use]
    pub fn idle(self) -> Cond {
        Cond::of(StateTest::CpuIdle(self.0))
    }
}

/// The registered function of that number.
pub(crate) fn custom_cond(number: u32) -> Option<&'static CustomCond> {
    KTSTR_CONDITIONS.get(usize::try_from(number).ok()?)
}

/// As a test says it.
fn words(test: &StateTest) -> String {
    match test {
        StateTest::TaskDelayed(name) => format!("task({name:?}).delayed()"),
        StateTest::TaskQueued(name) => format!("task({name:?}).queued()"),
        StateTest::TaskIneligible(name) => format!("task({name:?}).ineligible()"),
        StateTest::TaskRunsOn { name, cpu } => format!("task({name:?}).runs_on({cpu})"),
        StateTest::CgroupThrottledOn { path, cpu } => {
            format!("cgroup({path:?}).throttled_on({cpu})")
        }
        StateTest::CpuIdle(cpu) => format!("rq({cpu}).idle()"),
        StateTest::Custom(number) => match custom_cond(*number) {
            Some(custom) => format!("custom({})", custom.name),
            None => String::from("custom(a function that is not registered)"),
        },
    }
}

impl fmt::Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |tests: &Vec<StateTest>| {
            let tests: Vec<String> = tests.iter().map(words).collect();
            tests.join(" and ")
        };
        let any: Vec<String> = self.any.iter().map(all).collect();
        f.write_str(&any.join(", or "))
    }
}

/// At which state of the kernel a step ends; see [`Step::until`](super::Step::until).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    /// The state.
    pub condition: Cond,
    /// How long it may take to come about, above 0.
    pub at_most: Duration,
    /// Whether it is a failure when it does not, and not only inconclusive.
    pub or_fail: bool,
}

impl Until {
    /// Whether it can be watched at all; asked before a scenario begins.
    ///
    /// # Errors
    /// As [`Cond::validate`], and without time.
    pub(crate) fn validate(&self, topology: CpuMap) -> Result<(), CondError> {
        if self.at_most.is_zero() {
            return Err(CondError::NoTime);
        }
        self.condition.validate(topology)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(condition: &Cond, text: &str) {
        assert_eq!(condition.to_string(), text);
    }

    #[test]
    fn conditions_are_alternatives_of_facts() {
        let delayed = || Cond::task("w").delayed();
        let throttled = || Cond::cgroup("g").throttled_on(1);
        check(
            &delayed().and(throttled()),
            r#"task("w").delayed() and cgroup("g").throttled_on(1)"#,
        );
        check(
            &Cond::rq(0)
                .idle()
                .or(Cond::task("x").runs_on(2))
                .and(Cond::task("y").queued()),
            r#"rq(0).idle() and task("y").queued(), or task("x").runs_on(2) and task("y").queued()"#,
        );
        check(&Cond::task("z").ineligible(), r#"task("z").ineligible()"#);
        let tests = delayed()
            .and(throttled())
            .tests(|name| format!("/root/{name}"));
        let path = String::from("/root/g");
        let expected = [
            StateTest::TaskDelayed(String::from("w")),
            StateTest::CgroupThrottledOn { path, cpu: 1 },
        ];
        assert_eq!(tests, [expected]);
    }

    #[linkme::distributed_slice(KTSTR_CONDITIONS)]
    static REGISTERED: CustomCond = CustomCond {
        name: "tests::never",
        holds: never,
    };

    fn never(kernel: &Kernel) -> bool {
        kernel.symbols().find("no such symbol").is_some()
    }

    #[test]
    fn a_function_is_known_by_its_registration() {
        let condition = Cond::custom(never);
        check(&condition, "custom(tests::never)");
        assert_eq!(condition.validate(CpuMap::new(1, 1, 1, 1)), Ok(()));
        let forgotten = Cond::custom(|kernel| kernel.jiffies().is_ok());
        refused(
            forgotten.and(condition),
            Duration::from_secs(1),
            "write #[ktstr_condition] above it",
        );
    }

    #[track_caller]
    fn refused(condition: Cond, at_most: Duration, text: &str) {
        let until = Until {
            condition,
            at_most,
            or_fail: false,
        };
        let error = until
            .validate(CpuMap::new(1, 2, 2, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains(text), "{error}");
    }

    #[test]
    fn conditions_that_cannot_be_are_told_before_the_run() {
        let second = Duration::from_secs(1);
        refused(
            Cond::rq(4).idle(),
            second,
            "rq(4).idle(): this guest has CPUs 0 to 3",
        );
        refused(Cond::task("").queued(), second, "1 to 15 bytes");
        refused(
            Cond::task("sixteen letters!").delayed(),
            second,
            "1 to 15 bytes",
        );
        refused(
            Cond::cgroup("").throttled_on(0),
            second,
            "a cgroup's 1 to 200",
        );
        refused(Cond::rq(0).idle(), Duration::ZERO, "above 0");
        let either = || Cond::rq(0).idle().or(Cond::rq(1).idle());
        let many = (0..5).fold(either(), |all, _| all.and(either()));
        refused(many, second, "expected at most 64");
        let fine = Until {
            condition: either().and(either()),
            at_most: second,
            or_fail: true,
        };
        assert_eq!(fine.validate(CpuMap::new(1, 2, 2, 1)), Ok(()));
    }
}
