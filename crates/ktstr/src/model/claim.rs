//! Claims about values, labelled with their own source text.

use std::cell::RefCell;
use std::fmt::{Debug, Display};

use super::verdict::{AssertDetail, AssertResult, DetailKind};

/// Collects the outcomes of claims.
///
/// It must end in the test's result: `into_result()`, or `result.merge(verdict.into())`. One that is dropped keeps its failed
/// claims for the running test, whose result takes them over; outside of a test the drop panics.
#[derive(Debug, Default)]
#[must_use = "claims count only in the test's result; return it, or merge it into the result"]
pub struct Verdict {
    result: AssertResult,
    held: Vec<String>,
}

/// Why a result that was turned into an error is none of a fault: it could not be judged. Whoever runs a test or a callback knows
/// it by this, and makes it inconclusive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("inconclusive: {0}")]
pub struct Inconclusive(String);

thread_local! {
    /// Findings of verdicts that were dropped, while they are being collected.
    static DROPPED: RefCell<Option<Vec<AssertDetail>>> = const { RefCell::new(None) };
}

/// Runs `function` and returns with its value the findings of all verdicts that it dropped.
pub(crate) fn collect_dropped<R>(function: impl FnOnce() -> R) -> (R, Vec<AssertDetail>) {
    let before = DROPPED.replace(Some(Vec::new()));
    let value = function();
    let dropped = DROPPED.replace(before).unwrap_or_default();
    (value, dropped)
}

impl Drop for Verdict {
    fn drop(&mut self) {
        let lost = std::mem::take(&mut self.result).details;
        if lost.is_empty() {
            return;
        }
        let unclaimed = DROPPED.with_borrow_mut(|dropped| match dropped {
            Some(dropped) => {
                dropped.extend(lost.into_iter().map(told_as_dropped));
                None
            }
            None => Some(lost),
        });
        if let Some(lost) = unclaimed
            && !std::thread::panicking()
        {
            let texts: Vec<String> = lost.iter().map(ToString::to_string).collect();
            panic!(
                "a Verdict was dropped with findings; use its into_result(): {}",
                texts.join("; ")
            );
        }
    }
}

fn told_as_dropped(mut detail: AssertDetail) -> AssertDetail {
    detail
        .message
        .push_str(" (its Verdict was dropped; return it, or merge it into the test's result)");
    detail
}

impl Verdict {
    /// Nothing claimed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a claim about `value`; `claim!` gives it its source text as label.
    pub fn claim<T>(&mut self, label: &'static str, value: T) -> Claimed<'_, T> {
        Claimed {
            result: &mut self.result,
            held: Some(&mut self.held),
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
        self.held.len()
    }

    /// Whether every claim held so far.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.result.is_pass()
    }

    /// Whether a claim failed.
    #[must_use]
    pub fn is_fail(&self) -> bool {
        self.result.is_fail()
    }

    /// Whether no claim failed, and one could not be judged.
    #[must_use]
    pub fn is_inconclusive(&self) -> bool {
        self.result.is_inconclusive()
    }

    /// Takes over the findings, notes and figures of `other`.
    pub fn merge(&mut self, other: AssertResult) {
        self.result.merge(other);
    }

    /// For the end of a function that returns a plain result: what held and what was noted is logged (on the guest's or the
    /// host's standard error); claims that failed are the error, or, where none did, those that could not be judged.
    ///
    /// # Errors
    /// With every failed claim, or with every one that could not be judged, which makes the test inconclusive.
    pub fn into_anyhow_or_log(mut self) -> anyhow::Result<()> {
        for text in std::mem::take(&mut self.held) {
            eprintln!("ktstr: held: {text}");
        }
        self.into_result().into_anyhow_or_log()
    }

    /// The outcome of all claims.
    #[must_use]
    pub fn into_result(mut self) -> AssertResult {
        std::mem::take(&mut self.result)
    }

    /// Notes whether something holds; `None`: it could not be told.
    pub(crate) fn judge_as(
        &mut self,
        kind: DetailKind,
        holds: Option<bool>,
        text: impl FnOnce() -> String,
    ) {
        judge(&mut self.result, Some(&mut self.held), kind, holds, text);
    }
}

fn judge(
    result: &mut AssertResult,
    held: Option<&mut Vec<String>>,
    kind: DetailKind,
    holds: Option<bool>,
    text: impl FnOnce() -> String,
) {
    match holds {
        Some(true) => {
            if let Some(held) = held {
                held.push(text());
            }
        }
        Some(false) => result.push(AssertDetail::fail(kind, text())),
        None => result.push(AssertDetail::inconclusive(kind, text())),
    }
}

impl AssertResult {
    /// Begins a claim about `value` whose outcome is this result's; `claim!` gives it its source text as label.
    pub fn claim<T>(&mut self, label: &'static str, value: T) -> Claimed<'_, T> {
        Claimed {
            result: self,
            held: None,
            label,
            value,
        }
    }
}

impl AssertResult {
    /// For the end of a function that returns a plain result: notes and the reason of a skip are logged on standard error;
    /// failures are the error, or, where there are none, what could not be judged.
    ///
    /// # Errors
    /// With every failure, or with everything that could not be judged, which makes the test inconclusive.
    pub fn into_anyhow_or_log(self) -> anyhow::Result<()> {
        for note in &self.info_notes {
            eprintln!("ktstr: note: {note}");
        }
        for skip in self.skip_details() {
            eprintln!("ktstr: SKIP: {skip}");
        }
        let join = |details: Vec<&AssertDetail>| {
            let texts: Vec<&str> = details.iter().map(|d| d.message.as_str()).collect();
            texts.join("; ")
        };
        if self.is_fail() {
            anyhow::bail!("{}", join(self.failure_details().collect()));
        }
        if self.is_inconclusive() {
            return Err(Inconclusive(join(self.inconclusive_details().collect())).into());
        }
        Ok(())
    }
}

impl From<Verdict> for AssertResult {
    fn from(verdict: Verdict) -> Self {
        verdict.into_result()
    }
}

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
pub struct Claimed<'v, V> {
    result: &'v mut AssertResult,
    held: Option<&'v mut Vec<String>>,
    label: &'static str,
    value: V,
}

impl<V> Claimed<'_, V> {
    fn judged<T>(
        self,
        expected: &str,
        holds: impl FnOnce(&T) -> Option<bool>,
        show: impl FnOnce(&T) -> String,
    ) where
        V: MeasuredAs<T>,
    {
        let Self {
            result,
            held,
            label,
            value,
        } = self;
        let value = value.measured();
        let holds = value.as_ref().and_then(holds);
        judge(result, held, DetailKind::Other, holds, || match &value {
            Some(value) => format!("{label} is {}, expected {expected}", show(value)),
            None => format!("{label} was not measured, expected {expected}"),
        });
    }

    /// The value is `limit` or more.
    pub fn at_least<T: PartialOrd + Display>(self, limit: T)
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| value.partial_cmp(&limit).map(std::cmp::Ordering::is_ge);
        self.judged(&format!("at least {limit}"), holds, T::to_string);
    }

    /// The value is `limit` or less.
    pub fn at_most<T: PartialOrd + Display>(self, limit: T)
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| value.partial_cmp(&limit).map(std::cmp::Ordering::is_le);
        self.judged(&format!("at most {limit}"), holds, T::to_string);
    }

    /// The value lies between the limits, both included.
    pub fn between<T: PartialOrd + Display>(self, low: T, high: T)
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| {
            let above = value.partial_cmp(&low).map(std::cmp::Ordering::is_ge);
            let below = value.partial_cmp(&high).map(std::cmp::Ordering::is_le);
            above.zip(below).map(|(above, below)| above && below)
        };
        self.judged(&format!("{low} to {high}"), holds, T::to_string);
    }

    /// The value equals `expected`.
    pub fn equals<T: PartialEq + Debug>(self, expected: T)
    where
        V: MeasuredAs<T>,
    {
        let holds = |value: &T| Some(*value == expected);
        self.judged(&format!("{expected:?}"), holds, |value| {
            format!("{value:?}")
        });
    }
}

impl<T: Into<f64> + Copy> Claimed<'_, T> {
    /// The value is neither NaN nor infinite.
    pub fn is_finite(self) {
        let holds = |value: &T| Some((*value).into().is_finite());
        let show = |value: &T| (*value).into().to_string();
        self.judged("a finite number", holds, show);
    }
}

/// Begins a claim whose label is the expression's source text: `claim!(v, stats.rate).at_least(3.0)`. It goes into a
/// [`Verdict`](crate::Verdict), or straight into an [`AssertResult`](crate::prelude::AssertResult).
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

    #[test]
    fn what_was_not_measured_is_inconclusive_whatever_is_claimed() {
        let mut result = AssertResult::pass();
        let p99: Option<u64> = None;
        claim!(result, p99).at_most(5_000_000);
        assert!(result.is_inconclusive());
        assert_eq!(
            result.details[0].message,
            "p99 was not measured, expected at most 5000000"
        );
        let mut result = AssertResult::pass();
        claim!(result, Some(3.5)).between(3.0, 4.0);
        claim!(result, Some(3)).at_least(3);
        claim!(result, Some(3)).equals(3);
        claim!(result, Some(3)).equals(Some(3));
        assert!(result.is_pass(), "{result:?}");
        claim!(result, Some(9)).at_most(8);
        assert_eq!(
            result.details[0].message,
            "Some(9) is 9, expected at most 8"
        );
        assert!(result.is_fail());
    }

    #[test]
    fn the_end_of_a_plain_function_is_an_error_of_what_did_not_hold() {
        let mut held = Verdict::new();
        claim!(held, 5).at_least(4);
        held.note("seen");
        assert!(held.is_pass() && held.into_anyhow_or_log().is_ok());
        let mut failed = Verdict::new();
        claim!(failed, 3).at_least(4);
        claim!(failed, None::<u64>).at_least(4);
        claim!(failed, 2).at_least(4);
        assert!(failed.is_fail());
        let error = failed.into_anyhow_or_log().unwrap_err();
        let expected = "3 is 3, expected at least 4; 2 is 2, expected at least 4";
        assert_eq!(error.to_string(), expected);
        assert!(error.downcast_ref::<Inconclusive>().is_none());
        let mut open = Verdict::new();
        claim!(open, None::<u64>).at_least(4);
        open.merge(AssertResult::pass().with_note("more"));
        assert!(open.is_inconclusive());
        let error = open.into_anyhow_or_log().unwrap_err();
        assert!(error.downcast_ref::<Inconclusive>().is_some(), "{error}");
        assert!(AssertResult::skip("no reason").into_anyhow_or_log().is_ok());
    }

    #[test]
    fn a_dropped_verdict_loses_nothing() {
        let ((), dropped) = collect_dropped(|| {
            let mut verdict = Verdict::new();
            claim!(verdict, 3).at_least(4);
            claim!(verdict, 5).at_least(4);
        });
        let [detail] = dropped.as_slice() else {
            panic!("{dropped:?}")
        };
        assert!(
            detail
                .message
                .starts_with("3 is 3, expected at least 4 (its Verdict was dropped")
        );
        let ((), dropped) = collect_dropped(|| {
            let mut verdict = Verdict::new();
            claim!(verdict, 3).at_least(4);
            assert!(verdict.into_result().is_fail());
        });
        assert!(dropped.is_empty(), "{dropped:?}");
    }

    #[test]
    #[should_panic(expected = "a Verdict was dropped with findings")]
    fn outside_of_a_test_the_drop_itself_is_loud() {
        let mut verdict = Verdict::new();
        claim!(verdict, 3).at_least(4);
        drop(verdict);
    }
}
