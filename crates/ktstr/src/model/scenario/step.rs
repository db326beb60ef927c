//! Steps: what happens, which cgroups are there, and for how long.

use std::time::Duration;

use super::super::ctx::Ctx;
use super::super::payload::Payload;
use super::{CgroupDef, Cond, Op, Until};

/// How long a step lasts. All holds together last no longer than the test's duration: one is cut to what earlier ones left of it.
/// The time that operations and set-up take does not count.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum HoldSpec {
    /// This share (above 0; 1.0 is all) of the test's duration.
    Frac(f64),
    /// This long.
    Fixed(Duration),
    /// For what earlier holds left of the test's duration.
    Rest,
    /// For what earlier holds left of the test's duration. The step's cgroups are made once; its operations run at once and again at this
    /// interval.
    Loop {
        /// Time from one round to the next; not zero.
        interval: Duration,
    },
    /// To the first moment at which the kernel is in a certain state; made by [`HoldSpec::until`].
    Until(&'static Until),
}

/// A hold that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// A share that is not above 0.
    #[error("HoldSpec::frac({0}): a share of the test's duration is above 0, 1.0 being all of it")]
    Frac(f64),
    /// A loop without a pause.
    #[error("HoldSpec::loop_at(0): a loop needs an interval above 0, for example 100 ms")]
    Interval,
}

/// A hold of this length.
impl From<Duration> for HoldSpec {
    fn from(time: Duration) -> Self {
        Self::Fixed(time)
    }
}

impl HoldSpec {
    /// The whole duration of the test.
    pub const FULL: Self = Self::Frac(1.0);

    /// What earlier holds left of the test's duration. Where they left nothing, the result says so.
    pub const REST: Self = Self::Rest;

    /// A share (above 0; 1.0 is all) of the test's duration.
    #[must_use]
    pub const fn frac(share: f64) -> Self {
        Self::Frac(share)
    }

    /// This long.
    #[must_use]
    pub const fn fixed(time: Duration) -> Self {
        Self::Fixed(time)
    }

    /// For what is left of the test, with the step's operations again at this interval.
    #[must_use]
    pub const fn loop_at(interval: Duration) -> Self {
        Self::Loop { interval }
    }

    /// To the first moment at which the kernel is in this state; see [`Step::until`]. What it consists of is kept until the process
    /// ends, which a test's does with the test.
    #[must_use]
    pub fn until(condition: Cond, at_most: Duration) -> Self {
        Self::Until(Box::leak(Box::new(Until {
            condition,
            at_most,
            or_fail: false,
        })))
    }

    /// Whether it can be at all; asked before a scenario begins.
    ///
    /// # Errors
    /// For a share that is zero, negative or no number, and for a loop without a pause.
    pub fn validate(self) -> Result<(), HoldError> {
        match self {
            Self::Frac(share) if !(share > 0.0 && share.is_finite()) => Err(HoldError::Frac(share)),
            Self::Loop { interval } if interval.is_zero() => Err(HoldError::Interval),
            _ => Ok(()),
        }
    }

    /// How long it asks for, given the test's duration and what earlier holds took of it.
    #[must_use]
    pub fn wanted(self, duration: Duration, held: Duration) -> Duration {
        match self {
            Self::Frac(share) if share > 0.0 => {
                Duration::try_from_secs_f64(duration.as_secs_f64() * share).unwrap_or(Duration::MAX)
            }
            Self::Frac(_) => Duration::ZERO,
            Self::Fixed(time) => time,
            Self::Until(until) => until.at_most,
            Self::Rest | Self::Loop { .. } => duration.saturating_sub(held),
        }
    }

    /// How long it lasts: what it asks for, cut to what earlier holds left of the test's duration.
    #[must_use]
    pub fn resolve(self, duration: Duration, held: Duration) -> Duration {
        let left = duration.saturating_sub(held);
        self.wanted(duration, held).min(left)
    }
}

/// The cgroups of a step: a list, or a function that makes it in the guest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Setup {
    /// These.
    Defs(Vec<CgroupDef>),
    /// What this says when the step begins, for example by the guest's CPUs.
    Factory(fn(&Ctx) -> Vec<CgroupDef>),
    /// Those of a step that has a name; made by [`Step::named`].
    Named {
        /// The step's name.
        name: String,
        /// Its cgroups.
        cgroups: Box<Self>,
    },
}

impl Setup {
    /// What this function says when the step begins.
    #[must_use]
    pub const fn with_factory(factory: fn(&Ctx) -> Vec<CgroupDef>) -> Self {
        Self::Factory(factory)
    }

    /// The cgroups.
    #[must_use]
    pub fn defs(&self, ctx: &Ctx) -> Vec<CgroupDef> {
        match self {
            Self::Defs(defs) => defs.clone(),
            Self::Factory(factory) => factory(ctx),
            Self::Named { cgroups, .. } => cgroups.defs(ctx),
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::Defs(Vec::new())
    }
}

impl From<Vec<CgroupDef>> for Setup {
    fn from(defs: Vec<CgroupDef>) -> Self {
        Self::Defs(defs)
    }
}

/// One step: operations, then cgroups, then a hold; what it made is torn down at its end. In a [`HoldSpec::Loop`] the cgroups
/// come first.
#[derive(Debug, Clone)]
pub struct Step {
    /// Cgroups made after the operations.
    pub setup: Setup,
    /// Operations at its start, in order.
    pub ops: Vec<Op>,
    /// How long it lasts.
    pub hold: HoldSpec,
}

impl Default for Step {
    /// Nothing, for the whole duration.
    fn default() -> Self {
        Self::hold(HoldSpec::FULL)
    }
}

impl Step {
    /// Operations and a hold.
    #[must_use]
    pub fn new(ops: Vec<Op>, hold: impl Into<HoldSpec>) -> Self {
        Self {
            setup: Setup::default(),
            ops,
            hold: hold.into(),
        }
    }

    /// Gives it a name, by which its figures are found and which messages have beside its number.
    ///
    /// ```
    /// use ktstr::prelude::*;
    /// use std::time::Duration;
    ///
    /// fn upgrade(ctx: &Ctx, next: &'static Scheduler) -> Result<AssertResult> {
    ///     let result = execute_steps(ctx, vec![
    ///         Step::hold(Duration::from_secs(3)).named("old"),
    ///         Step::with_op(Op::replace_scheduler(next), HoldSpec::REST).named("new"),
    ///     ])?;
    ///     let rate = |step: &str| result.stats.phase(step).and_then(PhaseBucket::iteration_rate);
    ///     let (old, new) = (rate("old"), rate("new"));
    ///     # let _ = (old, new);
    ///     Ok(result)
    /// }
    /// ```
    ///
    /// No two steps of a scenario have the same name, and none is called `baseline`, `step 1` or like another number.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        let cgroups = match self.setup {
            Setup::Named { cgroups, .. } => cgroups,
            plain => Box::new(plain),
        };
        self.setup = Setup::Named {
            name: name.into(),
            cgroups,
        };
        self
    }

    /// Its name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.setup {
            Setup::Named { name, .. } => Some(name),
            _ => None,
        }
    }

    /// One operation and a hold.
    #[must_use]
    pub fn with_op(op: Op, hold: impl Into<HoldSpec>) -> Self {
        Self::new(vec![op], hold)
    }

    /// Cgroups and a hold.
    #[must_use]
    pub fn with_defs(defs: Vec<CgroupDef>, hold: impl Into<HoldSpec>) -> Self {
        Self {
            setup: defs.into(),
            ..Self::new(Vec::new(), hold)
        }
    }

    /// A payload, which runs with its default arguments, and a hold.
    #[must_use]
    pub fn with_payload(payload: &'static Payload, hold: impl Into<HoldSpec>) -> Self {
        let none: [String; 0] = [];
        Self::with_op(Op::run_payload(payload, none), hold)
    }

    /// A hold alone: what is there goes on.
    #[must_use]
    pub fn hold(hold: impl Into<HoldSpec>) -> Self {
        Self::new(Vec::new(), hold)
    }

    /// Ends at the first moment at which the kernel is in this state, and lasts `at_most` that long, within the test's duration. The
    /// next step's operations act in that state: see the chapter "Writing tests" of the guide. In virtual time that moment is exact,
    /// which means that the condition is looked at after each context switch and wake-up and at each tick; elsewhere the host looks
    /// every millisecond or so, and the result says that. A state that is not reached makes the test inconclusive, or a failure with
    /// [`or_fail`](Self::or_fail), and ends the scenario.
    #[must_use]
    pub fn until(condition: Cond, at_most: Duration) -> Self {
        Self::hold(HoldSpec::until(condition, at_most))
    }

    /// Of a [`Step::until`] a state: one that is not reached is a failure, not only inconclusive.
    #[must_use]
    pub fn or_fail(mut self) -> Self {
        if let HoldSpec::Until(until) = self.hold {
            self.hold = HoldSpec::Until(Box::leak(Box::new(Until {
                or_fail: true,
                ..until.clone()
            })));
        }
        self
    }

    /// Its operations, in the place of those that it has. They run before its cgroups get their workers.
    #[must_use]
    pub fn set_ops(mut self, ops: Vec<Op>) -> Self {
        self.ops = ops;
        self
    }

    /// Its hold, in the place of the one that it has.
    #[must_use]
    pub fn set_hold(mut self, hold: impl Into<HoldSpec>) -> Self {
        self.hold = hold.into();
        self
    }
}

/// A name that a step cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepNameError {
    /// Two steps of this name.
    #[error("two steps are named {0:?}, so the name finds neither phase; name them differently")]
    Twice(String),
    /// What phases without a name are called, or nothing.
    #[error(
        "a step is named {0:?}, which is empty or what steps without a name are called; choose another name"
    )]
    Taken(String),
}

/// Checks that each name finds one step.
///
/// # Errors
/// For the first name that does not.
pub fn validate_names(steps: &[Step]) -> Result<(), StepNameError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in steps.iter().filter_map(Step::name) {
        let number = name.strip_prefix("step ").map(str::parse::<u64>);
        if name.trim().is_empty() || name == "baseline" || matches!(number, Some(Ok(_))) {
            return Err(StepNameError::Taken(name.to_owned()));
        }
        if !seen.insert(name) {
            return Err(StepNameError::Twice(name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: Duration = Duration::from_secs(10);

    #[track_caller]
    fn check(hold: HoldSpec, gone_s: u64, lasts_ms: u128) {
        let lasts = hold.resolve(TOTAL, Duration::from_secs(gone_s));
        assert_eq!(lasts.as_millis(), lasts_ms, "{hold:?} after {gone_s} s");
    }

    #[test]
    fn no_hold_outlasts_the_test() {
        check(HoldSpec::FULL, 0, 10_000);
        check(HoldSpec::FULL, 4, 6_000);
        check(HoldSpec::FULL, 10, 0);
        check(HoldSpec::frac(0.25), 4, 2_500);
        check(HoldSpec::frac(0.25), 9, 1_000);
        check(HoldSpec::fixed(Duration::from_secs(3)), 4, 3_000);
        check(HoldSpec::fixed(Duration::from_secs(3)), 9, 1_000);
        check(HoldSpec::loop_at(Duration::from_secs(1)), 4, 6_000);
        check(HoldSpec::REST, 4, 6_000);
        check(HoldSpec::REST, 10, 0);
        check(Duration::from_secs(3).into(), 4, 3_000);
        let until = HoldSpec::until(Cond::rq(0).idle(), Duration::from_secs(3));
        check(until, 4, 3_000);
        check(until, 9, 1_000);
    }

    #[test]
    fn holds_that_cannot_be_are_told() {
        for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = HoldSpec::frac(share).validate().unwrap_err().to_string();
            assert!(error.contains("above 0"), "{error}");
        }
        let error = HoldSpec::loop_at(Duration::ZERO).validate().unwrap_err();
        assert_eq!(error, HoldError::Interval);
        for good in [HoldSpec::FULL, HoldSpec::fixed(Duration::ZERO)] {
            assert_eq!(good.validate(), Ok(()));
        }
    }

    #[test]
    fn each_builder_sets_its_part() {
        let op = || Op::stop_cgroup("a");
        let half = HoldSpec::frac(0.5);
        let step = Step::with_defs(vec![CgroupDef::named("a")], HoldSpec::FULL)
            .set_ops(vec![op(), op()])
            .set_ops(vec![op()])
            .set_hold(half);
        assert_eq!((step.ops, step.hold), (vec![op()], half));
        assert_eq!(Step::with_op(op(), half).ops, [op()]);
        let nothing = Step::hold(half);
        assert!(nothing.ops.is_empty() && nothing.hold == half);
        static BENCH: Payload = Payload::binary("bench", "bench");
        let with = Step::with_payload(&BENCH, half);
        assert_eq!(with.ops, [Op::run_payload(&BENCH, [""; 0])]);
        assert_eq!(Step::default().hold, HoldSpec::FULL);
        let second = Duration::from_secs(1);
        let until = |step: Step| match step.hold {
            HoldSpec::Until(until) => until.clone(),
            other => panic!("{other:?}"),
        };
        let idle = || Step::until(Cond::rq(0).idle(), second);
        assert_eq!(until(idle()).at_most, second);
        assert!(!until(idle()).or_fail && until(idle().or_fail()).or_fail);
        assert_eq!(Step::default().or_fail().hold, HoldSpec::FULL);
        let ctx = crate::model::ctx::tests::any();
        assert_eq!(step.setup.defs(&ctx), [CgroupDef::named("a")]);
        let made = Setup::with_factory(|ctx| vec![CgroupDef::named(ctx.name().to_owned())]);
        assert_eq!(made.defs(&ctx)[0].name, ctx.name());
        assert!(Setup::default().defs(&ctx).is_empty());
    }

    #[test]
    fn a_name_stays_with_its_step() {
        let defs = || vec![CgroupDef::named("a")];
        let step = Step::with_defs(defs(), HoldSpec::REST)
            .named("first")
            .named("swap")
            .set_ops(vec![Op::stop_cgroup("a")])
            .set_hold(Duration::from_secs(1));
        assert_eq!(step.name(), Some("swap"));
        assert_eq!(step.setup.defs(&crate::model::ctx::tests::any()), defs());
        assert_eq!(step.hold, HoldSpec::fixed(Duration::from_secs(1)));
        assert_eq!(Step::hold(HoldSpec::FULL).name(), None);
    }

    #[test]
    fn a_name_finds_one_step() {
        let check = |names: &[&str]| {
            let steps = names
                .iter()
                .map(|name| Step::hold(HoldSpec::REST).named(*name));
            let steps: Vec<Step> = steps.chain([Step::default(), Step::default()]).collect();
            validate_names(&steps)
        };
        assert_eq!(check(&["old", "step by step", "new"]), Ok(()));
        let twice = StepNameError::Twice(String::from("old"));
        assert_eq!(check(&["old", "new", "old"]), Err(twice));
        for taken in ["", " ", "baseline", "step 2"] {
            let expected = StepNameError::Taken(taken.to_owned());
            assert_eq!(check(&[taken]), Err(expected));
        }
    }
}
