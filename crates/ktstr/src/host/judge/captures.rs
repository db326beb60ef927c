//! Whether the periodic captures that a test asked for were made.

use crate::host::watch::coordinator::PeriodicTally;
use crate::model::snapshot::MAX_REPORTS;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// What a run left of them.
#[derive(Debug, Clone, Default)]
pub(in crate::host) struct Periodic {
    pub(in crate::host) tally: PeriodicTally,
    /// Scenarios that began.
    pub(in crate::host) scenarios: u16,
    /// Those that hold the guest's state.
    pub(in crate::host) real: u32,
    /// Why the kernel's memory could not be read, if so.
    pub(in crate::host) blind: Option<String>,
    /// Captures of any kind that made room for later ones.
    pub(in crate::host) evicted: u64,
}

/// A test that got none of those it asked for has not seen what it wanted to see: inconclusive. Fewer than asked for are a note.
pub(in crate::host) fn judge(periodic: &Periodic) -> AssertResult {
    let PeriodicTally { target, fired, .. } = periodic.tally;
    let mut result = AssertResult::pass();
    if let Some(reason) = &periodic.blind {
        result.note(format!(
            "the kernel's memory could not be read: {reason}; so there are no monitor, captures, watchdog override and vmcore"
        ));
    }
    if periodic.evicted > 0 {
        result.note(format!(
            "{} captures made room for later ones: {MAX_REPORTS} are kept",
            periodic.evicted
        ));
    }
    if target == 0 || periodic.real >= target {
        return result;
    }
    let text = format!(
        "periodic captures: {fired} of {target} were tried, {} show the guest's state: {}",
        periodic.real,
        why(periodic)
    );
    if periodic.real == 0 {
        result.push(AssertDetail::inconclusive(DetailKind::Monitor, text));
    } else {
        result.note(text);
    }
    result
}

fn why(periodic: &Periodic) -> String {
    let PeriodicTally {
        fired,
        missed,
        gave_up,
        ..
    } = periodic.tally;
    if let Some(reason) = &periodic.blind {
        return format!("the kernel's memory cannot be read: {reason}");
    }
    if periodic.scenarios == 0 {
        return String::from("no scenario began");
    }
    let mut reasons = Vec::new();
    if gave_up {
        reasons.push(String::from(
            "several in a row failed, and no more were tried (the captures have the reasons)",
        ));
    } else if periodic.real < fired {
        let failed = fired - periodic.real;
        reasons.push(format!("{failed} failed or made room for later ones"));
    }
    if missed > 0 {
        reasons.push(format!(
            "{missed} were skipped, because the host was late for them"
        ));
    }
    if reasons.is_empty() {
        reasons.push(String::from(
            "the scenario ended before the others were due; they are spread over duration_s, so let the steps fill it",
        ));
    }
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::Outcome;

    #[track_caller]
    fn check(numbers: [u32; 4], gave_up: bool, blind: Option<&str>, outcome: Outcome, part: &str) {
        let [target, fired, real, missed] = numbers;
        let periodic = Periodic {
            tally: PeriodicTally {
                target,
                fired,
                missed,
                gave_up,
            },
            scenarios: u16::from(fired > 0 || blind.is_none()),
            real,
            blind: blind.map(str::to_owned),
            evicted: 0,
        };
        let judged = judge(&periodic);
        assert_eq!(judged.outcome(), outcome, "{judged:?}");
        let details = judged.details.iter().map(|detail| &detail.message);
        let texts: Vec<&String> = details.chain(&judged.info_notes).collect();
        let said = texts.iter().any(|text| text.contains(part));
        assert!(said || texts.is_empty() && part.is_empty(), "{texts:?}");
    }

    #[test]
    fn captures_that_were_not_made_are_told_and_none_at_all_is_inconclusive() {
        use Outcome::{Inconclusive, Pass};
        check([0, 0, 0, 0], false, None, Pass, "");
        check([3, 3, 3, 0], false, None, Pass, "");
        check(
            [10, 4, 4, 0],
            false,
            None,
            Pass,
            "4 of 10 were tried, 4 show",
        );
        check([10, 4, 4, 0], false, None, Pass, "let the steps fill it");
        check([10, 7, 7, 3], false, None, Pass, "3 were skipped");
        check([10, 5, 2, 0], true, None, Pass, "several in a row failed");
        check(
            [10, 0, 0, 0],
            false,
            None,
            Inconclusive,
            "before the others were due",
        );
        check(
            [2, 0, 0, 0],
            false,
            Some("no BTF"),
            Inconclusive,
            "cannot be read: no BTF",
        );
        check([2, 2, 0, 0], false, None, Inconclusive, "2 failed");
    }

    #[test]
    fn a_test_without_a_scenario_is_told_so() {
        let periodic = Periodic {
            tally: PeriodicTally {
                target: 2,
                ..PeriodicTally::default()
            },
            ..Periodic::default()
        };
        let judged = judge(&periodic);
        assert!(judged.details[0].message.contains("no scenario began"));
    }

    #[test]
    fn a_blind_run_and_captures_that_made_room_are_told() {
        let periodic = Periodic {
            blind: Some("no BTF".to_owned()),
            evicted: 7,
            ..Periodic::default()
        };
        let judged = judge(&periodic);
        assert!(judged.is_pass(), "{judged:?}");
        let notes = judged.info_notes.join("\n");
        assert!(notes.contains("no BTF; so there are no monitor"), "{notes}");
        assert!(notes.contains("7 captures made room"), "{notes}");
    }
}
