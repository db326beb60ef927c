//! What becomes of a run whose verdict is in, and of its callbacks.

use std::fs;
use std::process::Command;

use ktstr::model::verdict::{DetailKind, Outcome};
use ktstr_tests::CaseRun;

const ENDINGS: &str = env!("CARGO_BIN_EXE_endings");

#[track_caller]
fn run(case: &str) -> CaseRun {
    CaseRun::new(ENDINGS, case, &[]).expect("the case runs")
}

/// The case fails with this code, and its record has a finding of that kind and outcome.
#[track_caller]
fn fails(case: &str, kind: DetailKind, needle: &str) -> CaseRun {
    let run = run(case);
    run.exits(1).says(&[needle]);
    let sidecar = run.sidecar.as_ref().expect("a failure leaves a record");
    assert_eq!(sidecar.verdict, Outcome::Fail);
    let kinds: Vec<DetailKind> = sidecar
        .result
        .failure_details()
        .map(|detail| detail.kind)
        .collect();
    assert!(kinds.contains(&kind), "{kinds:?} in:\n{}", run.text);
    run.dump();
    run
}

#[test]
fn a_pass_must_still_end_by_power_off() {
    let run = fails(
        "panics_after_its_verdict",
        DetailKind::GuestCrashed,
        "guest crashed after its verdict",
    );
    let sidecar = run.sidecar.as_ref().expect("a record");
    assert_eq!(sidecar.exit_reason.as_deref(), Some("kernel panic"));
    for case in ["resets_after_its_verdict", "reboots_after_its_verdict"] {
        fails(
            case,
            DetailKind::GuestCrashed,
            "after its verdict, not by power-off",
        );
    }
    fails(
        "scheduler_panics_the_kernel_at_its_stop",
        DetailKind::GuestCrashed,
        "guest crashed after its verdict",
    );
}

#[test]
fn a_kernel_oops_fails_a_test_that_passed() {
    let run = fails(
        "kernel_oops",
        DetailKind::KernelWarning,
        "the kernel warned: BUG: kernel NULL pointer dereference",
    );
    run.says(&["kernel_oops.dmesg", "kernel: 6."]);
}

#[test]
fn a_kernel_warning_that_is_allowed_is_a_note() {
    let run = run("kernel_oops_that_is_allowed");
    run.exits(0);
    let notes = &run.sidecar.as_ref().expect("a record").result.info_notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("which this test allows: BUG: kernel NULL")),
        "{notes:?}"
    );
}

#[test]
fn a_panic_of_a_callback_is_a_finding() {
    let run = fails("callback_panics", DetailKind::PostVm, "post_vm: panicked: ");
    run.says(&["captures", "left: 0"])
        .lacks(&["success is false", "log is missing"]);
}

#[test]
fn a_callback_may_skip() {
    let run = run("callback_skips");
    run.exits(0)
        .says(&["ktstr: SKIP: callback_skips: post_vm: no capture came"]);
    assert_eq!(
        run.sidecar.as_ref().expect("a record").verdict,
        Outcome::Skip
    );
}

#[test]
fn a_message_is_short_and_names_the_files_that_have_the_rest() {
    let run = fails(
        "says_too_much",
        DetailKind::PostVm,
        "post_vm_unconditional: dump.len() is ",
    );
    run.says(&["60 earlier lines are in says_too_much.output", "line 99"]);
    run.lacks(&["success is true", "\u{1b}", "line 59\n"]);
    assert!(run.text.len() < 100_000, "{} bytes", run.text.len());
    let file =
        |name: &str| fs::read_to_string(run.dir.path().join(name)).expect("the file is there");
    assert!(file("says_too_much.output").contains("line 0"));
    assert_eq!(
        file("says_too_much.findings").matches("red").count(),
        100_000
    );
    let record = file("says_too_much.json");
    assert!(record.len() < 200_000, "{} bytes", record.len());
}

/// No verdict comes of a record that cannot be written, but a word.
#[test]
fn a_lost_record_of_a_passing_test_is_told() {
    let env = [("KTSTR_SIDECAR_DIR", "/proc/no/such/place")];
    let run = CaseRun::new(ENDINGS, "passes_on_the_host", &env).expect("the case runs");
    run.exits(0).says(&[
        "ktstr: warning: passes_on_the_host: failed to",
        "/proc/no/such/place",
    ]);
    // Nor does it depend on whether an older record lies in the way: this one cannot be removed or replaced.
    let dir = tempfile::tempdir().expect("a directory");
    let old = dir.path().join("passes_on_the_host.json");
    fs::create_dir_all(old.join("held")).expect("a directory in the record's place");
    let env = [(
        "KTSTR_SIDECAR_DIR",
        dir.path().to_str().expect("a plain path"),
    )];
    let run = CaseRun::new(ENDINGS, "passes_on_the_host", &env).expect("the case runs");
    run.exits(0).says(&[
        "ktstr: warning: passes_on_the_host: failed to remove the stale",
        "ktstr: warning: passes_on_the_host: failed to rename into place",
    ]);
}

#[test]
fn the_exit_code_is_the_worst_of_all_tests() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |filter: &str| {
        let mut command = Command::new(ENDINGS);
        command.args([filter, "--include-ignored"]);
        command
            .env("KTSTR_SIDECAR_DIR", dir.path())
            .env("KTSTR_LOCK_DIR", "/dev/null/x");
        command.output().expect("the binary runs").status.code()
    };
    assert_eq!(run("inconclusive_on_the_host"), Some(2));
    // The other one cannot have its place among the VMs of this host.
    assert_eq!(run("inconclusive"), Some(1));
}
