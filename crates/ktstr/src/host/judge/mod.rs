//! From what a run left to one verdict: functions of values, in this order:
//!
//! ```text
//!   Left ──findings──> guest's result + what the host saw ──callbacks──> + what they said
//!        ──fold──> + matcher + monitor thresholds + a callback's skip ──expectations──> Judged
//! ```
//!
//! Nothing here boots, waits or writes. What is called outside of it: a user's callbacks, and a payload's extractor.

pub(in crate::host) mod books;
pub(in crate::host) mod bug_summary;
pub(in crate::host) mod callbacks;
pub(in crate::host) mod captures;
pub(in crate::host) mod emulator;
pub(in crate::host) mod evaluate;
pub(in crate::host) mod expectations;
pub(in crate::host) mod findings;
pub(in crate::host) mod kernel_log;
pub(in crate::host) mod left;
#[cfg(test)]
pub(in crate::host) mod made_up;
pub(in crate::host) mod matcher;
pub(in crate::host) mod monitor;
pub(in crate::host) mod payload;
pub(in crate::host) mod scheduler_end;
#[cfg(test)]
mod table;
pub(in crate::host) mod text;

use callbacks::Called;
use expectations::Facts;
use ktstr_vmm::ExitReason;
use left::Left;

use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::AssertResult;

/// Everything after the callbacks but the expectations.
pub(in crate::host) fn fold(
    entry: &KtstrTestEntry,
    left: &Left,
    found: AssertResult,
    called: &Called,
) -> AssertResult {
    let mut result = found;
    add(&mut result, called.found.clone());
    if let Some(reason) = &called.skip
        && !result.is_fail()
    {
        return skipped(result, reason);
    }
    let mismatches = matcher::judge(entry, left, &result);
    add(&mut result, mismatches);
    if !result.is_skip() {
        result.merge(monitor::judge(
            &entry.merged_assert(),
            &entry.asked_assert(),
            left.vm.monitor.as_ref(),
        ));
        result.merge(captures::judge(&left.periodic));
    }
    result
}

/// Adds findings. Having found nothing is no finding: it does not lift a skip.
pub(in crate::host) fn add(result: &mut AssertResult, found: AssertResult) {
    if found.details.is_empty() {
        result.info_notes.extend(found.info_notes);
    } else {
        result.merge(found);
    }
}

/// A run of which a callback says that it could not be judged.
fn skipped(result: AssertResult, reason: &str) -> AssertResult {
    let mut skip = AssertResult::skip(reason);
    for detail in result.inconclusive_details() {
        skip.note(format!("not judged: {detail}"));
    }
    skip.info_notes.extend(result.info_notes);
    skip.stats = result.stats;
    skip
}

/// What decides on expectations beside the findings.
pub(in crate::host) fn facts(left: &Left, called: &Called) -> Facts {
    Facts {
        booted: left.vm.stages().last.is_some(),
        engine_died: matches!(left.vm.exit_reason, ExitReason::EngineDied { .. }),
        callback_failed: called.found.is_fail(),
        reproduced: false,
    }
}
