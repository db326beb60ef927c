//! `expect_scx_bpf_error_contains` and `_matches`.

use crate::host::judge::bug_summary::without_verifier_logs;
use crate::host::judge::left::Left;
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// The text must be in a finding, the scheduler's log, the console or the captured exit. A run that was skipped had no error
/// to have.
pub(in crate::host) fn judge(
    entry: &KtstrTestEntry,
    left: &Left,
    found: &AssertResult,
) -> AssertResult {
    let mut mismatches = AssertResult::pass();
    if found.is_skip() {
        return mismatches;
    }
    let details = found.details.iter().map(|detail| detail.message.clone());
    let mut texts: Vec<String> = details.collect();
    texts.extend([
        without_verifier_logs(&left.vm.scheduler_log()),
        left.vm.stderr.clone(),
    ]);
    texts.extend(left.exit.iter().flat_map(|exit| exit.texts.iter().cloned()));
    let mut expect = |what: String, is_in: &dyn Fn(&str) -> bool| {
        if !texts.iter().any(|text| is_in(text)) {
            let text = format!(
                "expected scheduler error not found: no scx_bpf_error text {what} in scheduler log, console or dump"
            );
            mismatches.push(AssertDetail::fail(DetailKind::Matcher, text));
        }
    };
    if let Some(wanted) = entry.expect_scx_bpf_error_contains {
        expect(format!("with '{wanted}'"), &|text| text.contains(wanted));
    }
    // A pattern that does not compile was refused with the entry.
    if let Some(pattern) = entry.expect_scx_bpf_error_matches
        && let Ok(regex) = regex::Regex::new(pattern)
    {
        expect(format!("that matches '{pattern}'"), &|text| {
            text.lines().any(|line| regex.is_match(line))
        });
    }
    mismatches
}
