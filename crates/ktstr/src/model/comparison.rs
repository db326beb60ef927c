//! Claims about values, labelled with their own source text: `claim!(v, stats.rate).at_least(3.0)`.
//!
//! A claim ends with a comparison, which gives back what the claim went into. A value that was not measured (`None`) or cannot
//! be compared (NaN) makes the claim inconclusive, never a pass; where its absence itself is a fault, `claim_present!` says so.

use std::fmt::{Debug, Display};

use super::claim::Verdict;
use super::verdict::{AssertDetail, AssertResult, DetailKind};

/// What takes the outcomes of claims: a [`Verdict`], or an [`AssertResult`].
pub trait Judge {
    /// Takes over what became of a claim; `holds` is `None` when it could not be judged. The text is made only if it is kept.
    fn judge(&mut self, kind: DetailKind, holds: Option<bool>, text: impl FnOnce() -> String);
}

impl Judge for Verdict {
    fn judge(&mut self, kind: DetailKind, holds: Option<bool>, text: impl FnOnce() -> String) {
        match holds {
            Some(true) => self.hold(text()),
            Some(false) => self.push(AssertDetail::fail(kind, text())),
            None => self.push(AssertDetail::inconclusive(kind, text())),
        }
    }
}

impl Judge for AssertResult {
    fn judge(&mut self, kind: DetailKind, holds: Option<bool>, text: impl FnOnce() -> String) {
        match holds {
            Some(true) => {}
            Some(false) => self.push(AssertDetail::fail(kind, text())),
            None => self.push(AssertDetail::inconclusive(kind, text())),
        }
    }
}

macro_rules! begins_claims {
    ($($type:ty),*) => { $(
        impl $type {
            /// Begins a claim about `value`; `claim!` gives it its source text as label.
            pub fn claim<T>(&mut self, label: &'static str, value: T) -> Claimed<'_, T, Self> {
                Claimed::new(self, label, value)
            }

            /// Begins a claim about a value that has to be there: `None` fails the test at once, and what is claimed of it then
            /// adds nothing. `claim_present!` gives it its source text as label.
            pub fn claim_present<T>(
                &mut self,
                label: &'static str,
                value: Option<T>,
            ) -> Claimed<'_, Option<T>, Self> {
                let absent = value.is_none();
                if absent {
                    self.judge(DetailKind::Other, Some(false), || {
                        format!("{label} was not measured, and has to be there")
                    });
                }
                let mut claimed = Claimed::new(self, label, value);
                claimed.settled = absent;
                claimed
            }
        }
    )* };
}

begins_claims!(Verdict, AssertResult);

/// A value that may not have been measured, as what it is compared with.
pub trait MeasuredAs<T> {
    /// The value; `None` when there is none.
    fn measured(self) -> Option<T>;
}

impl<T> MeasuredAs<T> for T {
    fn measured(self) -> Option<T> {
        Some(self)
    }
}

impl<T> MeasuredAs<T> for Option<T> {
    fn measured(self) -> Option<T> {
        self
    }
}

/// A value that something is claimed about. One that was not measured (`None`), or cannot be compared (NaN), is inconclusive.
#[derive(Debug)]
#[must_use = "a claim without a comparison claims nothing"]
pub struct Claimed<'v, V, J = Verdict> {
    into: &'v mut J,
    label: &'static str,
    value: V,
    kind: DetailKind,
    because: Option<String>,
    /// It failed already, for want of a value.
    settled: bool,
}

impl<'v, V, J> Claimed<'v, V, J> {
    fn new(into: &'v mut J, label: &'static str, value: V) -> Self {
        Self {
            into,
            label,
            value,
            kind: DetailKind::Other,
            because: None,
            settled: false,
        }
    }

    /// Says why it is claimed; the reason ends the message: `claim!(v, gap).at_most(50)` with `.because("it has a CPU of its
    /// own")` before the comparison.
    pub fn because(mut self, reason: &str) -> Self {
        self.because = Some(reason.to_owned());
        self
    }

    /// Says what the claim is about, by which tools select; `DetailKind::Other` unless said.
    pub const fn kind(mut self, kind: DetailKind) -> Self {
        self.kind = kind;
        self
    }
}

impl<'v, V, J: Judge> Claimed<'v, V, J> {
    fn judged<T>(
        self,
        expected: &str,
        holds: impl FnOnce(&T) -> Option<bool>,
        show: impl FnOnce(&T) -> String,
    ) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let Self {
            into, label, kind, ..
        } = self;
        if self.settled {
            return into;
        }
        let value = self.value.measured();
        let holds = value.as_ref().and_then(holds);
        into.judge(kind, holds, || {
            let mut text = match &value {
                Some(value) => format!("{label} is {}, expected {expected}", show(value)),
                None => format!("{label} was not measured, expected {expected}"),
            };
            if let Some(reason) = self.because {
                text.push_str(", because ");
                text.push_str(&reason);
            }
            text
        });
        into
    }

    /// The value is `limit` or more.
    pub fn at_least<T: PartialOrd + Display>(self, limit: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| value.partial_cmp(&limit).map(std::cmp::Ordering::is_ge);
        self.judged(&format!("at least {limit}"), holds, T::to_string)
    }

    /// The value is `limit` or less.
    pub fn at_most<T: PartialOrd + Display>(self, limit: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| value.partial_cmp(&limit).map(std::cmp::Ordering::is_le);
        self.judged(&format!("at most {limit}"), holds, T::to_string)
    }

    /// The value is above `limit`.
    pub fn gt<T: PartialOrd + Display>(self, limit: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| value.partial_cmp(&limit).map(std::cmp::Ordering::is_gt);
        self.judged(&format!("more than {limit}"), holds, T::to_string)
    }

    /// The value is below `limit`.
    pub fn lt<T: PartialOrd + Display>(self, limit: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| value.partial_cmp(&limit).map(std::cmp::Ordering::is_lt);
        self.judged(&format!("less than {limit}"), holds, T::to_string)
    }

    /// The value lies between the limits, both included.
    pub fn between<T: PartialOrd + Display>(self, low: T, high: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| {
            let above = value.partial_cmp(&low).map(std::cmp::Ordering::is_ge);
            let below = value.partial_cmp(&high).map(std::cmp::Ordering::is_le);
            above.zip(below).map(|(above, below)| above && below)
        };
        self.judged(&format!("{low} to {high}"), holds, T::to_string)
    }

    /// The value is not further than `tolerance` from `target`, the tolerance included.
    pub fn near(self, target: f64, tolerance: f64) -> &'v mut J
    where
        V: MeasuredAs<f64>,
    {
        let holds = |value: &f64| {
            let apart = (value - target).abs();
            apart.partial_cmp(&tolerance).map(std::cmp::Ordering::is_le)
        };
        let expected = format!("{target} within {tolerance}");
        self.judged(&expected, holds, f64::to_string)
    }

    /// The same as [`eq`](Self::eq).
    pub fn equals<T: PartialEq + Debug>(self, expected: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        self.eq(expected)
    }

    /// The value equals `expected`.
    pub fn eq<T: PartialEq + Debug>(self, expected: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| Some(*value == expected);
        self.judged(&format!("{expected:?}"), holds, |value| {
            format!("{value:?}")
        })
    }

    /// The value differs from `unwanted`.
    pub fn ne<T: PartialEq + Debug>(self, unwanted: T) -> &'v mut J
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| differs(value, &unwanted);
        self.judged(&format!("anything but {unwanted:?}"), holds, |value| {
            format!("{value:?}")
        })
    }
}

/// Whether two values differ; `None` when one does not even equal itself (NaN), so that nothing can be told.
#[allow(
    clippy::eq_op,
    reason = "a value that differs from itself is what is looked for"
)]
fn differs<T: PartialEq>(one: &T, other: &T) -> Option<bool> {
    (one == one && other == other).then_some(one != other)
}

impl<'v, T: Into<f64> + Copy, J: Judge> Claimed<'v, T, J> {
    /// The value is neither NaN nor infinite.
    pub fn is_finite(self) -> &'v mut J {
        let holds = |value: &T| Some((*value).into().is_finite());
        let show = |value: &T| (*value).into().to_string();
        self.judged("a finite number", holds, show)
    }
}

/// Begins a claim whose label is the expression's source text: `claim!(v, stats.rate).at_least(3.0)`. It goes into a
/// [`Verdict`](crate::Verdict), or straight into an [`AssertResult`](crate::prelude::AssertResult), which the comparison gives
/// back.
#[macro_export]
macro_rules! claim {
    ($verdict:expr, $value:expr $(,)?) => {
        $verdict.claim(::core::stringify!($value), $value)
    };
}

/// Begins a claim about an `Option` that has to be there: `claim_present!(v, stats.wake_p99_ns).at_most(5_000_000)`. `None` fails
/// the test, where [`claim!`](crate::claim) would leave it unjudged.
#[macro_export]
macro_rules! claim_present {
    ($verdict:expr, $value:expr $(,)?) => {
        $verdict.claim_present(::core::stringify!($value), $value)
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::Outcome;

    /// What one claim alone makes of a test.
    fn of(claim: impl FnOnce(&mut AssertResult)) -> Outcome {
        let mut result = AssertResult::pass();
        claim(&mut result);
        result.outcome()
    }

    #[track_caller]
    fn check(outcome: Outcome, claims: Vec<fn(&mut AssertResult)>) {
        for (index, claim) in claims.into_iter().enumerate() {
            assert_eq!(of(claim), outcome, "claim {index}");
        }
    }

    #[test]
    fn each_comparison_holds_and_fails_at_its_limit() {
        check(
            Outcome::Pass,
            vec![
                |r| {
                    claim!(r, 3).ne(4);
                },
                |r| {
                    claim!(r, 3).lt(4);
                },
                |r| {
                    claim!(r, 3).gt(2);
                },
                |r| {
                    claim!(r, 3).eq(3);
                },
                |r| {
                    claim!(r, 3).equals(3);
                },
                |r| {
                    claim!(r, 1.5).near(1.0, 0.5);
                },
                |r| {
                    claim!(r, Some(0.5)).near(1.0, 0.5);
                },
            ],
        );
        check(
            Outcome::Fail,
            vec![
                |r| {
                    claim!(r, 3).ne(3);
                },
                |r| {
                    claim!(r, 3).lt(3);
                },
                |r| {
                    claim!(r, 3).gt(3);
                },
                |r| {
                    claim!(r, 3).eq(4);
                },
                |r| {
                    claim!(r, 3).equals(4);
                },
                |r| {
                    claim!(r, 1.75).near(1.0, 0.5);
                },
                |r| {
                    claim!(r, 0.25).near(1.0, 0.5);
                },
            ],
        );
        check(
            Outcome::Inconclusive,
            vec![
                |r| {
                    claim!(r, f64::NAN).ne(3.0);
                },
                |r| {
                    claim!(r, f64::NAN).lt(3.0);
                },
                |r| {
                    claim!(r, f64::NAN).gt(3.0);
                },
                |r| {
                    claim!(r, f64::NAN).near(3.0, 1.0);
                },
                |r| {
                    claim!(r, 3.0).near(3.0, f64::NAN);
                },
                |r| {
                    claim!(r, None::<u64>).ne(3);
                },
            ],
        );
    }

    #[test]
    fn a_claim_has_its_reason_and_its_kind() {
        let mut result = AssertResult::pass();
        claim!(result, 3)
            .kind(DetailKind::Migration)
            .because("it has a CPU of its own")
            .lt(3);
        assert_eq!(
            result.details[0],
            AssertDetail::fail(
                DetailKind::Migration,
                "3 is 3, expected less than 3, because it has a CPU of its own"
            )
        );
    }

    #[test]
    fn a_comparison_gives_back_what_the_claim_went_into() {
        let mut verdict = Verdict::new();
        claim!(verdict, 3)
            .at_least(2)
            .claim("four", 4)
            .between(4, 5)
            .note("both");
        assert_eq!(verdict.held(), 2);
        assert_eq!(verdict.into_result().info_notes, ["both"]);
    }

    #[test]
    fn what_has_to_be_there_fails_once_by_its_absence() {
        let mut verdict = Verdict::new();
        claim_present!(verdict, Some(3.5)).at_least(3.0);
        assert_eq!((verdict.held(), verdict.is_pass()), (1, true));
        let p99: Option<f64> = None;
        claim_present!(verdict, p99).at_most(1.0);
        let result = verdict.into_result();
        let told: Vec<&str> = result.failure_details().map(|d| &*d.message).collect();
        assert_eq!(told, ["p99 was not measured, and has to be there"]);
        assert_eq!(result.details.len(), 1);
        assert_eq!(
            of(|r| {
                claim_present!(r, Some(9)).at_most(8);
            }),
            Outcome::Fail
        );
    }
}
