//! The kernel's own books: what contradicts itself is a finding.

use ktstr_monitor::invariants;

use crate::host::watch::coordinator::BooksSeen;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// Findings of one run at most; what is broken in one place shows in others.
const MAX_FINDINGS: usize = 8;

/// Judges what was found at all stops. `allowed` names a rule that may be broken.
pub(in crate::host) fn judge(seen: Option<&BooksSeen>, allowed: Option<&str>) -> AssertResult {
    let mut found = AssertResult::pass();
    let Some(seen) = seen else {
        return found;
    };
    let (mut told, mut left_out) = (0, 0);
    for violation in &seen.violations {
        if Some(violation.invariant) == allowed {
            found.note(format!(
                "invariant broken, which this test allows: {violation}"
            ));
            continue;
        }
        told += 1;
        if told > MAX_FINDINGS {
            left_out += 1;
            continue;
        }
        let rule = invariants::find(violation.invariant).map_or("", |rule| rule.what);
        found.push(AssertDetail::fail(
            DetailKind::Invariant,
            format!("the kernel's books: {violation}; the rule: {rule}"),
        ));
    }
    if left_out > 0 {
        found.note(format!(
            "{left_out} more violations of invariants were found"
        ));
    }
    if seen.stops > 0 && seen.judged == 0 {
        found.note(format!(
            "no runqueue could be judged at {} stops: its lock was held at each",
            seen.stops
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use ktstr_monitor::invariants::Violation;

    use super::*;
    use crate::model::verdict::Outcome;

    fn seen(count: usize) -> BooksSeen {
        let violation = Violation {
            invariant: "cfs-h-nr-queued",
            cpu: Some(1),
            entity: String::from("cgroup /ktstr/left"),
            expected: String::from("h_nr_queued = 2"),
            found: String::from("h_nr_queued = 1"),
        };
        BooksSeen {
            violations: vec![violation; count],
            stops: 3,
            judged: 6,
            unjudged: 1,
        }
    }

    #[test]
    fn a_violation_fails_the_test_unless_it_is_allowed() {
        let found = judge(Some(&seen(1)), Some("cfs-load"));
        assert_eq!(found.outcome(), Outcome::Fail);
        let detail = &found.details[0];
        assert_eq!(detail.kind, DetailKind::Invariant);
        let text = "cfs-h-nr-queued: CPU 1: cgroup /ktstr/left: expected h_nr_queued = 2, found h_nr_queued = 1";
        assert!(detail.message.contains(text), "{}", detail.message);
        let allowed = judge(Some(&seen(1)), Some("cfs-h-nr-queued"));
        assert!(allowed.is_pass());
        assert!(allowed.info_notes[0].contains("which this test allows"));
    }

    #[test]
    fn many_are_counted_and_none_is_a_pass() {
        let many = judge(Some(&seen(20)), None);
        assert_eq!(many.details.len(), MAX_FINDINGS);
        assert!(many.info_notes[0].contains("12 more"));
        for none in [None, Some(seen(0))] {
            let found = judge(none.as_ref(), None);
            assert!(found.is_pass() && found.info_notes.is_empty());
        }
    }

    #[test]
    fn stops_without_a_judged_runqueue_are_told() {
        let blind = BooksSeen {
            judged: 0,
            ..seen(0)
        };
        assert!(judge(Some(&blind), None).info_notes[0].contains("at 3 stops"));
    }
}
