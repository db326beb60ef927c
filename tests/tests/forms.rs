//! The cases of the `forms` binary: each word of a scenario does in a guest what it says.

use ktstr_tests::CaseRun;

#[track_caller]
fn passes(case: &str) {
    let run = CaseRun::new(env!("CARGO_BIN_EXE_forms"), case, &[]).expect("the case runs");
    run.exits(0);
    let sidecar = run.sidecar.as_ref().expect("each run leaves a record");
    assert_eq!(sidecar.verdict.as_str(), "pass", "{}", run.text);
}

#[test]
fn each_worker_has_its_policy_its_user_and_its_cpus() {
    passes("how_workers_run");
}

#[test]
fn a_deadline_worker_is_one() {
    passes("deadline_worker");
}

#[test]
fn each_limit_is_in_force_and_five_per_cent_are_five_per_cent() {
    passes("limits");
}

#[test]
fn workers_are_where_they_were_started_and_operations_come_first() {
    passes("where_workers_go");
}

#[test]
fn holds_end_with_the_test_and_loops_begin_with_their_cgroups() {
    passes("how_long_steps_last");
}

#[test]
fn each_step_has_figures_of_each_cgroup() {
    passes("two_tenants");
}

#[test]
fn what_was_not_measured_is_inconclusive() {
    let run = CaseRun::new(env!("CARGO_BIN_EXE_forms"), "nothing_measured", &[]);
    let run = run.expect("the case runs");
    run.exits(2)
        .says(&["was not measured, expected at least 1"]);
}
