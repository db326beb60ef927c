//! Claims about values, labelled with their own source text.

use std::fmt::{Debug, Display};

use super::verdict::{AssertDetail, AssertResult, DetailKind};

/// Collects the outcomes of claims.
#[derive(Debug, Default)]
pub struct Verdict {
    result: AssertResult,
    held: usize,
}

impl Verdict {
    /// Nothing claimed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a claim about `value`; `claim!` gives it its source text as label.
    pub fn claim<T>(&mut self, label: &'static str, value: T) -> Claimed<'_, T> {
        Claimed {
            verdict: self,
            label,
            value,
        }
    }

    /// Adds a remark that never moves the verdict.
    pub fn note(&mut self, text: impl Into<String>) {
        self.result.note(text);
    }

    /// Claims that held so far.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The outcome of all claims.
    #[must_use]
    pub fn into_result(self) -> AssertResult {
        self.result
    }

    fn judge(&mut self, holds: Option<bool>, text: impl FnOnce() -> String) {
        self.judge_as(DetailKind::Other, holds, text);
    }

    /// Notes whether something holds; `None`: it could not be told.
    pub(crate) fn judge_as(
        &mut self,
        kind: DetailKind,
        holds: Option<bool>,
        text: impl FnOnce() -> String,
    ) {
        match holds {
            Some(true) => self.held += 1,
            Some(false) => self.result.push(AssertDetail::fail(kind, text())),
            None => self.result.push(AssertDetail::inconclusive(kind, text())),
        }
    }
}

impl From<Verdict> for AssertResult {
    fn from(verdict: Verdict) -> Self {
        verdict.into_result()
    }
}

/// A value that something is claimed about.
#[derive(Debug)]
#[must_use = "a claim without a comparison claims nothing"]
pub struct Claimed<'v, T> {
    verdict: &'v mut Verdict,
    label: &'static str,
    value: T,
}

impl<T: PartialOrd + Display> Claimed<'_, T> {
    /// The value is `limit` or more. A value that cannot be compared, such as NaN, is inconclusive.
    pub fn at_least(self, limit: T) {
        let Self {
            verdict,
            label,
            value,
        } = self;
        let holds = value.partial_cmp(&limit).map(std::cmp::Ordering::is_ge);
        verdict.judge(holds, || {
            format!("{label} is {value}, expected at least {limit}")
        });
    }

    /// The value is `limit` or less. A value that cannot be compared, such as NaN, is inconclusive.
    pub fn at_most(self, limit: T) {
        let Self {
            verdict,
            label,
            value,
        } = self;
        let holds = value.partial_cmp(&limit).map(std::cmp::Ordering::is_le);
        verdict.judge(holds, || {
            format!("{label} is {value}, expected at most {limit}")
        });
    }

    /// The value lies between the limits, both included. One that cannot be compared, such as NaN, is inconclusive.
    pub fn between(self, low: T, high: T) {
        let Self {
            verdict,
            label,
            value,
        } = self;
        let above = value.partial_cmp(&low).map(std::cmp::Ordering::is_ge);
        let below = value.partial_cmp(&high).map(std::cmp::Ordering::is_le);
        let holds = above.zip(below).map(|(above, below)| above && below);
        verdict.judge(holds, || {
            format!("{label} is {value}, expected {low} to {high}")
        });
    }
}

impl<T: PartialEq + Debug> Claimed<'_, T> {
    /// The value equals `expected`.
    pub fn equals(self, expected: T) {
        let Self {
            verdict,
            label,
            value,
        } = self;
        verdict.judge(Some(value == expected), || {
            format!("{label} is {value:?}, expected {expected:?}")
        });
    }
}

impl<T: Into<f64> + Copy> Claimed<'_, T> {
    /// The value is neither NaN nor infinite.
    pub fn is_finite(self) {
        let Self {
            verdict,
            label,
            value,
        } = self;
        let value: f64 = value.into();
        verdict.judge(Some(value.is_finite()), || {
            format!("{label} is {value}, expected a finite number")
        });
    }
}

/// Begins a claim whose label is the expression's source text: `claim!(v, stats.rate).at_least(3.0)`.
#[macro_export]
macro_rules! claim {
    ($verdict:expr, $value:expr $(,)?) => {
        $verdict.claim(::core::stringify!($value), $value)
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::Outcome;

    #[test]
    fn labels_come_from_the_source() {
        let mut verdict = Verdict::new();
        let rate = 2.5;
        claim!(verdict, rate * 2.0).at_least(6.0);
        claim!(verdict, rate).between(2.0, 3.0);
        assert_eq!(verdict.held(), 1);
        let result = verdict.into_result();
        assert_eq!(
            result.details[0].message,
            "rate * 2.0 is 5, expected at least 6"
        );
        assert!(result.is_fail());
    }

    #[test]
    fn what_cannot_be_compared_is_inconclusive_never_a_pass() {
        let mut verdict = Verdict::new();
        claim!(verdict, f64::NAN).at_most(1.0);
        claim!(verdict, f64::NAN).between(0.0, 1.0);
        assert_eq!(verdict.into_result().outcome(), Outcome::Inconclusive);
        let mut verdict = Verdict::new();
        claim!(verdict, f64::INFINITY).is_finite();
        claim!(verdict, "a").equals("b");
        assert_eq!(verdict.into_result().failure_details().count(), 2);
    }
}
