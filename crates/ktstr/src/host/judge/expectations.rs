//! What a test expects of its own verdict: `expect_err`, `expect_auto_repro`, `allow_inconclusive`. The last word on a run.

use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};

/// What decides beside the findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::host) struct Facts {
    /// The guest came as far as its own init.
    pub(in crate::host) booted: bool,
    /// The engine ended under the guest.
    pub(in crate::host) engine_died: bool,
    /// A callback failed.
    pub(in crate::host) callback_failed: bool,
    /// A second run showed the failure again, and its artifact landed.
    pub(in crate::host) reproduced: bool,
}

/// The final verdict.
#[derive(Debug, Clone)]
pub(in crate::host) struct Judged {
    /// It, with all findings.
    pub(in crate::host) result: AssertResult,
    /// The pass stands for a failure that was expected: its evidence is kept.
    pub(in crate::host) was_failure: bool,
}

/// No failure of these kinds is ever the expected one: they are about the harness, not about the scheduler.
fn is_never_expected(detail: &AssertDetail) -> bool {
    matches!(
        detail.kind,
        DetailKind::Setup | DetailKind::PostVm | DetailKind::Matcher | DetailKind::EngineDied
    )
}

/// Applies the expectations of `entry`.
pub(in crate::host) fn apply(entry: &KtstrTestEntry, result: AssertResult, facts: Facts) -> Judged {
    let blocked = !facts.booted
        || facts.engine_died
        || facts.callback_failed
        || result.failure_details().any(is_never_expected);
    let expects = entry.expect_err || entry.expect_auto_repro;
    match result.outcome() {
        Outcome::Fail if entry.expect_err && !blocked => turned(result, "expected failure"),
        Outcome::Fail if entry.expect_auto_repro && facts.reproduced && !blocked => {
            turned(result, "expected failure, seen again by auto-repro")
        }
        Outcome::Fail if expects && !facts.booted => {
            as_it_is(result.with_note("a guest that never started is not the expected failure"))
        }
        Outcome::Fail if entry.expect_auto_repro && !facts.reproduced => {
            failed(result, "expect_auto_repro: no valid repro artifact landed")
        }
        Outcome::Pass if entry.expect_auto_repro => failed(
            result,
            "the test passed, but expect_auto_repro says that it must fail",
        ),
        Outcome::Pass if entry.expect_err => failed(
            result,
            "the test passed, but expect_err says that it must fail",
        ),
        Outcome::Inconclusive if entry.allow_inconclusive => as_it_is(turned_to_pass(
            result,
            Outcome::Inconclusive,
            "inconclusive, which this test allows",
        )),
        _ => as_it_is(result),
    }
}

fn as_it_is(result: AssertResult) -> Judged {
    Judged {
        result,
        was_failure: false,
    }
}

fn failed(mut result: AssertResult, text: &str) -> Judged {
    result.push(AssertDetail::fail(DetailKind::Other, text));
    as_it_is(result)
}

/// A failure as the pass that it stands for.
fn turned(result: AssertResult, what: &str) -> Judged {
    Judged {
        result: turned_to_pass(result, Outcome::Fail, what),
        was_failure: true,
    }
}

/// Findings of that outcome become notes.
fn turned_to_pass(result: AssertResult, outcome: Outcome, what: &str) -> AssertResult {
    let mut passed = AssertResult::pass();
    for detail in &result.details {
        if detail.outcome == outcome {
            passed.note(format!("{what}: {detail}"));
        }
    }
    passed.info_notes.extend(result.info_notes);
    passed.stats = result.stats;
    passed
}
