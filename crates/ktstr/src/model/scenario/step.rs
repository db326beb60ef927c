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

impl HoldSpec {
    /// The whole duration of the test.
    pub const FULL: Self = Self::Frac(1.0);

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
            Self::Loop { .. } => duration.saturating_sub(held),
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
    pub fn new(ops: Vec<Op>, hold: HoldSpec) -> Self {
        Self {
            setup: Setup::default(),
            ops,
            hold,
        }
    }

    /// One operation and a hold.
    #[must_use]
    pub fn with_op(op: Op, hold: HoldSpec) -> Self {
        Self::new(vec![op], hold)
    }

    /// Cgroups and a hold.
    #[must_use]
    pub fn with_defs(defs: Vec<CgroupDef>, hold: HoldSpec) -> Self {
        Self {
            setup: defs.into(),
            ..Self::new(Vec::new(), hold)
        }
    }

    /// A payload, which runs with its default arguments, and a hold.
    #[must_use]
    pub fn with_payload(payload: &'static Payload, hold: HoldSpec) -> Self {
        let none: [String; 0] = [];
        Self::with_op(Op::run_payload(payload, none), hold)
    }

    /// A hold alone: what is there goes on.
    #[must_use]
    pub fn hold(hold: HoldSpec) -> Self {
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
    pub fn set_hold(mut self, hold: HoldSpec) -> Self {
        self.hold = hold;
        self
    }
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
        static BENCH: Payload = Payload::binary("bench");
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
}
