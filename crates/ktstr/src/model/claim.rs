//! What collects the outcomes of claims; the claims themselves are in [`comparison`](super::comparison).

use std::cell::RefCell;

use super::verdict::{AssertDetail, AssertResult, NoteValue, Outcome};

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

    /// Adds a remark that never moves the verdict.
    pub fn note(&mut self, text: impl Into<String>) -> &mut Self {
        self.result.note(text);
        self
    }

    /// Adds a named figure or text that never moves the verdict; see [`AssertResult::note_value`].
    pub fn note_value(
        &mut self,
        name: impl Into<String>,
        value: impl Into<NoteValue>,
    ) -> &mut Self {
        self.result.note_value(name, value);
        self
    }

    /// Makes the test a skipped one, with the reason, whatever held. A claim that failed or that could not be judged wins over
    /// it, before or after, and so does the result of a scenario that ran, once it is merged.
    pub fn skip(&mut self, reason: impl Into<String>) -> &mut Self {
        self.result.record_skip(reason);
        self
    }

    /// [`skip`](Self::skip), if `condition` holds: `v.skip_if(ctx.topology().threads < 2, "needs SMT")`.
    pub fn skip_if(&mut self, condition: bool, reason: impl Into<String>) -> &mut Self {
        if condition {
            self.skip(reason);
        }
        self
    }

    /// Adds something that could not be judged: `v.inconclusive("too few samples".into())`. What `detail` alone would make of
    /// the test does not count. A claim that failed wins over it.
    pub fn inconclusive(&mut self, detail: AssertDetail) -> &mut Self {
        self.result.push(AssertDetail {
            outcome: Outcome::Inconclusive,
            ..detail
        });
        self
    }

    /// [`inconclusive`](Self::inconclusive), if `condition` holds.
    pub fn inconclusive_if(&mut self, condition: bool, detail: AssertDetail) -> &mut Self {
        if condition {
            self.inconclusive(detail);
        }
        self
    }

    /// Notes a claim that held.
    pub(super) fn hold(&mut self, text: String) {
        self.held.push(text);
    }

    /// Adds a finding.
    pub(super) fn push(&mut self, detail: AssertDetail) {
        self.result.push(detail);
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

    /// Whether the test counts as skipped.
    #[must_use]
    pub fn is_skip(&self) -> bool {
        self.result.is_skip()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim;
    use crate::model::verdict::DetailKind;

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
        claim!(verdict, "a").eq("b");
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
        claim!(result, Some(3)).eq(3);
        claim!(result, Some(3)).eq(Some(3));
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
    fn a_skip_counts_unless_a_claim_did_not_hold() {
        let mut skipped = Verdict::new();
        claim!(skipped, 5).at_least(4);
        skipped.skip_if(false, "never").skip_if(true, "needs SMT");
        assert!(skipped.is_skip() && !skipped.is_pass());
        let result = skipped.into_result();
        let reasons: Vec<&str> = result.skip_details().map(|d| &*d.message).collect();
        assert_eq!(reasons, ["needs SMT"]);
        assert!(result.is_skip() && result.into_anyhow_or_log().is_ok());

        let mut before = Verdict::new();
        claim!(before, 3).at_least(4);
        before.skip("needs SMT");
        assert!(before.into_result().is_fail());
        let mut after = Verdict::new();
        after.skip("needs SMT");
        claim!(after, 3).at_least(4);
        assert!(after.into_result().is_fail());
        let mut open = Verdict::new();
        open.skip("needs SMT")
            .inconclusive_if(true, "no samples".into());
        assert!(open.into_result().is_inconclusive());
    }

    #[test]
    fn notes_and_figures_of_a_verdict_are_the_results() {
        let mut verdict = Verdict::new();
        verdict.note("seen").note_value("rounds", 3);
        let result = verdict.into_result();
        assert_eq!(result.info_notes, ["seen", "rounds: 3"]);
        assert_eq!(result.stats.ext_metrics["rounds"], 3.0);
    }

    #[test]
    fn what_is_called_inconclusive_is_so_whatever_its_detail_says() {
        let mut verdict = Verdict::new();
        let detail = AssertDetail::fail(DetailKind::Benchmark, "too few samples");
        verdict.inconclusive_if(false, detail.clone());
        assert!(verdict.is_pass());
        verdict.inconclusive(detail);
        assert!(verdict.is_inconclusive());
        claim!(verdict, 3).at_least(4);
        assert!(verdict.into_result().is_fail());
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
