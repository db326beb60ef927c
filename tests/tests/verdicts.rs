//! Each case of the `cases` binary gets its own right verdict, message and artifacts.

use ktstr::model::verdict::DetailKind;
use ktstr_tests::CaseRun;

#[track_caller]
fn run(case: &str) -> CaseRun {
    run_with(case, &[])
}

#[track_caller]
fn run_with(case: &str, env: &[(&str, &str)]) -> CaseRun {
    CaseRun::new(env!("CARGO_BIN_EXE_cases"), case, env).expect("the case runs")
}

#[track_caller]
fn passes(case: &str) -> CaseRun {
    let run = run(case);
    run.exits(0);
    let sidecar = run.sidecar.as_ref().expect("a pass leaves a sidecar");
    assert_eq!(sidecar.verdict.as_str(), "pass");
    assert_eq!(sidecar.engine.as_deref(), Some("tcg"));
    assert!(sidecar.boot_ms.is_some_and(|ms| ms > 0), "{sidecar:?}");
    // What `cleanup_budget_ms` is about is measured in each run.
    assert!(sidecar.cleanup_ms.is_some(), "{sidecar:?}");
    run
}

#[track_caller]
fn fails(case: &str, needles: &[&str]) -> CaseRun {
    let run = run(case);
    run.exits(1).says(&[case, "failed:"]).says(needles);
    assert_eq!(
        run.sidecar
            .as_ref()
            .expect("a failure leaves a sidecar")
            .verdict
            .as_str(),
        "fail"
    );
    run.dump();
    run
}

#[test]
fn eevdf_passes() {
    let run = passes("eevdf_two_groups");
    let stats = &run.sidecar.as_ref().unwrap().result.stats;
    assert_eq!(stats.cgroups.len(), 2);
    assert!(
        stats
            .cgroups
            .iter()
            .all(|group| group.workers == 2 && group.iterations > 0),
        "{stats:?}"
    );
}

#[test]
fn the_fixture_passes() {
    let run = passes("fixture_two_groups");
    let sidecar = run.sidecar.as_ref().unwrap();
    assert_eq!(sidecar.scheduler.as_deref(), Some("fixture"));
    assert_eq!(sidecar.topology, "1n2l2c1t");
}

#[test]
fn a_disk_and_a_network_card_are_there_and_counted() {
    passes("disk_and_network");
}

/// 6.12 has no counter of it (`SCX_EV_SELECT_CPU_FALLBACK` came with 6.15): no pass that was not measured.
#[test]
fn a_rate_that_the_kernel_does_not_count_is_no_pass() {
    let run = run("fallbacks_that_may_not_be_counted");
    let record = run.sidecar.as_ref().expect("a record");
    let release = record.kernel_release.as_deref();
    if release.is_some_and(|release| release.starts_with("6.12.")) {
        run.exits(2)
            .says(&["does not count", "select_cpu_fallback"]);
    } else {
        run.exits(0);
    }
}

/// The lab runs these under kvm, and expects the same.
#[test]
fn a_single_cpu_suffices_for_the_fixture_and_its_fault() {
    passes("fixture_one_cpu");
    fails("erroring_one_cpu", &["queue seven is gone"]);
}

#[test]
fn four_work_types_run_side_by_side() {
    let run = passes("fixture_mixed_work");
    let stats = &run.sidecar.as_ref().unwrap().result.stats;
    assert!(
        stats.cgroups.iter().all(|group| group.iterations > 0),
        "{stats:?}"
    );
}

#[test]
fn starvation_is_told_from_a_stall() {
    let run = fails("starving_fixture", &["[sched=starving]", "cgroup"]);
    let sidecar = run.sidecar.as_ref().unwrap();
    let kinds: Vec<DetailKind> = sidecar
        .result
        .failure_details()
        .map(|detail| detail.kind)
        .collect();
    let starved = [DetailKind::Starved, DetailKind::Stuck, DetailKind::Unfair];
    assert!(
        !kinds.is_empty() && kinds.iter().all(|kind| starved.contains(kind)),
        "{kinds:?}"
    );
    run.lacks(&["error_stall", "SchedulerCrashed", "BUG SUMMARY"]);
}

/// What the monitor sampled of a real run is held against the test's own threshold.
#[test]
fn a_lopsided_machine_fails_where_its_threshold_is_enforced() {
    let needles = [
        "Monitor: monitor: max_imbalance_ratio: imbalance ratio ",
        ", allowed 2.0, for 5 samples in a row, from ",
    ];
    let run = fails("lopsided_beyond_the_threshold", &needles);
    let result = &run.sidecar.as_ref().unwrap().result;
    let kinds: Vec<DetailKind> = result.failure_details().map(|detail| detail.kind).collect();
    assert_eq!(kinds, [DetailKind::Monitor], "{}", run.text);
    // Without samples to judge it would be inconclusive.
    passes("lopsided_within_the_threshold");
}

/// The kernel itself ejects a scheduler that sends a thread to a CPU that it may not use.
#[test]
fn a_scheduler_that_ignores_cpusets_is_thrown_out_and_the_cpu_is_named() {
    fails(
        "straying_fixture",
        &[
            "[sched=straying]",
            "BUG SUMMARY:",
            "not allowed for",
            "SchedulerCrashed",
        ],
    );
}

#[test]
fn a_failed_claim_shows_its_source_text_and_both_values() {
    fails(
        "derived_claims",
        &["ctx.duration().as_secs()", "is 1, expected at least 9"],
    )
    .lacks(&["Load.cpus", "Load.one_minute"]);
}

/// Somebody else may kill QEMU: the kernel under memory pressure, an administrator.
#[test]
fn an_emulator_that_is_killed_is_told_at_once() {
    let exe = env!("CARGO_BIN_EXE_cases");
    let run = CaseRun::interrupted(exe, "emulator_killed", "payload starting", |pid| {
        let emulator = ktstr_tests::child_named(pid, "qemu-system")?;
        rustix::process::kill_process(emulator, rustix::process::Signal::KILL)?;
        Ok(())
    })
    .expect("the case runs");
    run.exits(1)
        .says(&["emulator_killed", "failed:", "died with signal 9"]);
    let sidecar = run.sidecar.as_ref().expect("a failure leaves a sidecar");
    assert!(!sidecar.timed_out && sidecar.vm_ms.is_some_and(|ms| ms < 45_000));
    run.dump();
}

#[test]
fn a_stalled_task_ends_with_the_kernels_watchdog() {
    fails(
        "stalling_fixture",
        &["BUG SUMMARY:", "stall", "SchedulerCrashed"],
    );
}

#[test]
fn an_error_of_the_scheduler_is_the_bug_summary() {
    fails(
        "erroring_fixture",
        &["BUG SUMMARY:", "queue seven is gone", "SchedulerCrashed"],
    );
}

#[test]
fn an_expected_error_is_a_pass() {
    let run = run("expected_error");
    run.exits(0);
    // An expected failure may be worth a look, too.
    assert_eq!(run.dump()["is_placeholder"], false);
}

#[test]
fn an_expected_pattern_is_a_pass() {
    run("expected_pattern").exits(0);
}

#[test]
fn a_host_only_test_boots_nothing_and_may_panic() {
    let run = run("on_the_host");
    run.exits(0);
    let sidecar = run.sidecar.as_ref().expect("a pass leaves a sidecar");
    assert_eq!((sidecar.engine.as_deref(), sidecar.vm_ms), (None, None));
    // Not even a kernel is needed.
    run_with("panics_on_the_host", &[("KTSTR_KERNEL", "/no/such/kernel")])
        .exits(1)
        .says(&["no VM was hurt", "host_only: no VM was booted"])
        .dump();
}

#[test]
fn an_unmet_expectation_is_never_turned_around() {
    run("unmet_expectation")
        .exits(1)
        .says(&["some other text", "not found"]);
}

#[test]
fn a_scheduler_that_leaves_is_told_from_one_that_crashes() {
    fails("leaving_fixture", &["SchedulerExitedCleanly"]);
}

#[test]
fn a_refused_program_shows_the_verifiers_log() {
    fails(
        "unverifiable_fixture",
        &[
            "BUG SUMMARY: the verifier refused 'fixture_dispatch' at fixture.bpf.c:",
            "processed",
            "insns",
        ],
    );
}

#[test]
fn a_scheduler_that_dies_at_start_shows_its_own_words() {
    let needle = "BUG SUMMARY: error: unexpected argument '--no-such-flag' found";
    let run = fails("scheduler_refuses_to_start", &[needle]);
    assert!(
        run.sidecar.as_ref().unwrap().vm_ms.unwrap() < 30_000,
        "a death at start must be told at once"
    );
}

#[test]
fn a_missing_scheduler_names_the_next_step() {
    fails(
        "scheduler_missing",
        &["scx-no-such-scheduler", "KTSTR_SCHEDULER", "engine: none"],
    );
}

#[test]
fn a_panic_of_the_test_has_its_text() {
    fails("function_panics", &["a bug in the test itself"]);
}

#[test]
fn an_error_of_the_test_has_its_text() {
    fails("function_errs", &["the test could not be set up"]).lacks(&["--- console"]);
}

#[test]
fn a_fatal_signal_ends_the_test_and_not_the_guest() {
    let run = run_with("stack_overflows", &[("KTSTR_VMCORE", "1")]);
    run.exits(1)
        .says(&["has overflowed its stack", "killed by signal 6"]);
    let sidecar = run.sidecar.as_ref().unwrap();
    assert_eq!(sidecar.exit_reason.as_deref(), Some("power off"));
    assert!(!run.text.contains("guest crashed"), "{}", run.text);
    // The test could not ask for it any more; init did.
    let dump = run.dump();
    assert_eq!(dump["is_placeholder"], false);
    assert_eq!(dump["trigger"], "the end of the test's process");
    let core = run.dir.path().join("stack_overflows.vmcore");
    assert!(core.is_file(), "{}", run.text);
}

#[test]
fn a_kernel_panic_is_a_crash_not_a_time_out() {
    let run = fails("guest_kernel_panics", &["guest crashed", "Kernel panic"]);
    assert!(!run.sidecar.as_ref().unwrap().timed_out);
    // Captured where it began, with the CPU's registers: at the kernel's own function.
    let dump = run.dump();
    assert_eq!(dump["trigger"], "the guest's kernel panic");
    let vcpus = dump["vcpus"].as_array().expect("vCPUs");
    let symbol = vcpus[0]["symbol"].as_str().unwrap_or_default();
    assert!(symbol.contains("panic"), "{:?}", dump["vcpus"]);
}

#[test]
fn the_death_of_init_is_a_crash() {
    let run = fails("init_killed", &["guest crashed"]);
    assert!(!run.sidecar.as_ref().unwrap().timed_out);
}

#[test]
fn a_hang_ends_at_the_deadline_and_says_where() {
    let run = fails(
        "deadline_hit",
        &[
            "timed out with no result",
            "VM deadline",
            "hint:",
            "the test started",
        ],
    );
    assert!(run.sidecar.as_ref().unwrap().timed_out);
    // A last look at the guest before it is ended.
    let dump = run.dump();
    assert_eq!(dump["is_placeholder"], false);
    assert_eq!(dump["trigger"], "the VM's deadline");
}

#[test]
fn declared_memory_is_a_floor_under_which_no_guest_is() {
    passes("declares_little_memory");
}

#[test]
fn performance_mode_is_a_skip_with_its_reason() {
    let run = run("needs_performance_mode");
    run.exits(0).says(&["ktstr: SKIP:", "performance mode"]);
    assert_eq!(run.sidecar.as_ref().unwrap().verdict.as_str(), "skip");
}

#[test]
fn inconclusive_has_its_own_exit_code() {
    run("inconclusive")
        .exits(2)
        .says(&["inconclusive:", "the clock could not be read"]);
}

#[test]
fn a_skip_in_the_guest_leaves_as_a_skip() {
    let run = run("guest_skips");
    run.exits(0).says(&["no such device in this guest"]);
    assert_eq!(run.sidecar.as_ref().unwrap().verdict.as_str(), "skip");
}

#[test]
fn the_declared_topology_is_the_guests() {
    passes("topology_is_real");
}

#[test]
fn a_callbacks_error_fails_the_test() {
    fails("post_vm_fails", &["post_vm: the callback did not like it"]);
}

#[test]
fn a_missing_emulator_names_the_command_that_mends_it() {
    let run = run_with("smallest", &[("KTSTR_QEMU", "/no/such/qemu")]);
    run.exits(1).says(&["/no/such/qemu", "qemu-system-x86"]);
    run.dump();
}

#[test]
fn a_missing_kernel_names_the_command_that_mends_it() {
    let run = run_with("smallest", &[("KTSTR_KERNEL", "/no/such/kernel")]);
    run.exits(1)
        .says(&["/no/such/kernel", "cargo ktstr kernel build"]);
    run.dump();
}

/// At once, with what was measured: a kernel would be emulated for minutes.
#[test]
fn kvm_is_refused_where_no_kernel_survives_it() {
    if ktstr_vmm::probe().engine == ktstr_vmm::Engine::Kvm {
        let run = run_with("smallest", &[("KTSTR_ENGINE", "kvm")]);
        run.exits(0);
        return;
    }
    let run = run_with("smallest", &[("KTSTR_ENGINE", "kvm")]);
    run.exits(1)
        .says(&["engine kvm: it was asked for, and ", "use auto or tcg"]);
}

#[test]
fn a_wrong_engine_name_lists_the_right_ones() {
    run_with("smallest", &[("KTSTR_ENGINE", "vmware")])
        .exits(1)
        .says(&["auto, kvm or tcg"]);
}
