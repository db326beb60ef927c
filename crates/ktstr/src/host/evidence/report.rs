//! The last stage of a run: what the user is told, and the stored record.

use crate::host::evidence::artifacts::vmcore_path;
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::judged::Judgement;
use crate::host::evidence::leave::leave_evidence;
use crate::host::evidence::message;
use crate::host::evidence::parts::message_parts;
use crate::host::evidence::place::Place;
use crate::host::evidence::record::make_sidecar;
use crate::host::evidence::repro::{self, FirstRun, Repro};
use crate::host::evidence::sidecar::Sidecar;
use crate::host::judge::expectations::{self, Facts, Judged};
use crate::host::judge::text;
use crate::host::plan::planned::{Planned, Test};
use crate::model::entry::KtstrTestEntry;
use crate::model::names::file_stem;
use crate::model::verdict::Outcome;

/// The verdict and the message that the user gets of one test.
#[derive(Debug)]
pub struct Report {
    /// The final verdict.
    pub outcome: Outcome,
    /// The failure message, or the skip reason; empty for a pass.
    pub text: String,
    /// What went wrong beside the test, whatever its verdict: a record that could not be written.
    pub warnings: Vec<String>,
    /// The stored record.
    pub sidecar: Sidecar,
}

/// Applies what `test` expects of its verdict, runs it again where that tells more, and stores the record.
pub(in crate::host) fn record(
    test: &Test<'_>,
    place: Place,
    planned: Option<&Planned>,
    judgement: Judgement,
) -> Report {
    let Test { entry, config, .. } = *test;
    let Judgement {
        result,
        facts,
        mut evidence,
    } = judgement;
    let first = FirstRun {
        entry,
        failure: evidence.failure.as_ref(),
        programs: planned.map(|planned| &planned.programs),
        result: &result,
    };
    evidence.repro = repro::attempt(&first, config, &place.dir);
    let landed = evidence
        .repro
        .as_ref()
        .and_then(|repro| repro.as_ref().ok());
    let reproduced = landed.is_some_and(Repro::is_valid);
    if let Some(left) = &mut evidence.left {
        left.vm.expect_auto_repro_satisfied = entry.expect_auto_repro && reproduced;
    }
    let facts = Facts {
        reproduced,
        ..facts
    };
    let judged = expectations::apply(entry, result, facts);
    let mut report = compose(entry, judged, evidence, &place);
    report.sidecar.binary.clone_from(&config.binary);
    report.sidecar.dir.clone_from(&place.dir);
    report.warnings = place.warnings;
    if let Err(error) = report.sidecar.write(&place.dir) {
        // The record is a copy of the verdict, never the verdict: its loss is told and changes nothing.
        let text = format!("{error}: {}", error.source);
        report.warnings.push(text);
    }
    report
}

/// Words and files for the final verdict.
fn compose(
    entry: &KtstrTestEntry,
    judged: Judged,
    mut evidence: Evidence,
    place: &Place,
) -> Report {
    let dir = &place.dir;

    let Judged {
        mut result,
        was_failure,
    } = judged;
    evidence.whole_findings =
        text::make_readable(&mut result, &format!("{}.findings", file_stem(entry.name)));
    let outcome = result.outcome();
    let mut text = String::new();
    let mut cause = None;
    match outcome {
        // An expected failure may be worth a look, too.
        Outcome::Pass if was_failure => drop(leave_evidence(entry, &result, &evidence, dir)),
        // A scheduler's exit that was no failure in the end.
        Outcome::Pass => drop(std::fs::remove_file(vmcore_path(dir, entry.name))),
        Outcome::Skip => {
            let reasons: Vec<&str> = result
                .skip_details()
                .map(|detail| detail.message.as_str())
                .collect();
            text = reasons.join("; ");
        }
        Outcome::Fail | Outcome::Inconclusive => {
            let artifacts = leave_evidence(entry, &result, &evidence, dir);
            let parts = message_parts(entry, &result, &evidence, artifacts);
            cause = Some(message::cause(&parts));
            text = message::render(&parts);
        }
    }
    let sidecar = Sidecar {
        cause,
        ..make_sidecar(entry, result, &evidence, &place.started, &text)
    };
    Report {
        outcome,
        text,
        warnings: Vec::new(),
        sidecar,
    }
}
