//! The cases of the `lifecycle` binary: what was declared takes effect, or the test does not begin; what ends badly is told.

use ktstr_tests::CaseRun;

#[track_caller]
fn run(case: &str) -> CaseRun {
    CaseRun::new(env!("CARGO_BIN_EXE_lifecycle"), case, &[]).expect("the case runs")
}

#[track_caller]
fn verdict(run: &CaseRun) -> &str {
    let sidecar = run.sidecar.as_ref().expect("each run leaves a record");
    sidecar.verdict.as_str()
}

/// `enable: ["exit 1"]` passed: no shell in the guest, its status ignored, and "attached" told.
#[test]
fn an_enable_command_that_fails_is_a_fault_of_the_set_up() {
    let run = run("switch_fails");
    run.exits(1).says(&[
        "Setup:",
        "enable command 'echo nobody is home; exit 3' failed: exit status 3: nobody is home",
    ]);
}

#[test]
fn commands_turn_a_scheduler_of_the_kernel_on_and_off() {
    let run = run("switch_works");
    run.exits(0);
    assert_eq!(verdict(&run), "pass");
}

#[test]
fn a_disable_command_that_fails_is_told() {
    run("switch_does_not_let_go").exits(1).says(&[
        "disable command",
        "exit status 4",
        "cannot let go",
    ]);
}

#[test]
fn every_key_of_a_declaration_takes_effect() {
    let run = run("declaration_takes_effect");
    run.exits(0);
    assert_eq!(verdict(&run), "pass");
}

/// Settings, parameters and CPUs: all that is missing is named at once, and no test runs without it.
#[test]
fn what_the_guest_lacks_of_the_declaration_is_named_before_the_test() {
    let run = run("guest_lacks_what_was_declared");
    run.exits(1).says(&[
        "Setup:",
        "kernel.no_such_setting=1",
        "does not know the parameter 'no_such_parameter=5'",
        "2 CPUs are declared",
        "CPU 1 not",
    ]);
    let stats = &run.sidecar.as_ref().unwrap().result.stats;
    assert!(stats.cgroups.is_empty(), "the test ran: {stats:?}");
}

#[test]
fn a_kernel_outside_of_the_declared_ones_is_a_skip() {
    for name in ["declared_for_another_kernel", "staged_for_another_kernel"] {
        let run = run(name);
        run.exits(0).says(&[
            "SKIP",
            "scheduler 'elsewhere' is declared for kernels 2.6..3.2",
        ]);
        assert_eq!(verdict(&run), "skip");
        assert_eq!(
            run.sidecar.as_ref().unwrap().vm_ms,
            None,
            "nothing was booted"
        );
    }
}

/// It was inconclusive, and the rest was judged under the kernel's own scheduler.
#[test]
fn a_replacement_that_never_attaches_fails_and_ends_the_scenario() {
    let run = run("replacement_never_attaches");
    run.exits(1).says(&[
        "ReplaceScheduler: no scheduler is in charge now",
        "1 of 2 steps were not begun",
    ]);
    let stats = &run.sidecar.as_ref().unwrap().result.stats;
    assert!(stats.cgroups.is_empty(), "the second step ran: {stats:?}");
}

#[test]
fn a_restart_that_never_attaches_fails_and_ends_the_scenario() {
    let run = run("restart_never_attaches");
    run.exits(1).says(&[
        "RestartScheduler: no scheduler is in charge now",
        "1 of 2 steps were not begun",
    ]);
    assert!(!run.text.contains("refused by the host"), "{}", run.text);
}

#[test]
fn a_cpu_that_goes_off_ends_a_scheduler_that_does_not_follow() {
    run("a_cpu_goes_off_under_the_scheduler")
        .exits(1)
        .says(&["SchedulerCrashed", "hotplug"]);
}

#[test]
fn all_that_a_scheduler_said_is_in_its_log() {
    let run = run("talkative_scheduler");
    run.exits(1)
        .says(&["talkative_scheduler.sched.log", "the last"]);
    assert!(!run.text.contains("the first of many"), "{}", run.text);
    let log = run.dir.path().join("talkative_scheduler.sched.log");
    let log = std::fs::read_to_string(log).expect("the log that is named");
    assert!(log.contains("the first of many"), "{log}");
    assert_eq!(log.matches("two").count(), 100, "{log}");
}

#[test]
fn a_second_scenario_after_a_restart_is_no_death() {
    run("second_scenario_after_a_restart").exits(0);
}

#[test]
fn a_scheduler_that_restarts_itself_is_not_dead_and_is_counted() {
    let run = run("scheduler_restarts_itself");
    run.exits(0);
    let result = &run.sidecar.as_ref().unwrap().result;
    assert_eq!(
        result.stats.ext_metrics.get("scheduler.restarts"),
        Some(&1.0),
        "{result:?}"
    );
    let told = result
        .info_notes
        .iter()
        .any(|note| note.contains("restarted itself 1 times"));
    assert!(told, "{:?}", result.info_notes);
}

#[test]
fn a_failure_after_the_schedulers_own_restart_shows_its_own_moment() {
    let run = run("fails_after_its_schedulers_restart");
    run.exits(1)
        .says(&["a reason of its own", "captured at the test's own verdict"]);
    let dump = run.dump();
    assert_eq!(dump["scx"]["state"], "enabled", "{}", dump["scx"]);
    assert_eq!(dump["scx"]["enable_seq"], 2, "{}", dump["scx"]);
}

#[test]
fn a_scheduler_that_ends_untidily_when_it_is_stopped_fails_the_test() {
    run("untidy_end")
        .exits(1)
        .says(&["exit status 5", "left processes behind", "scx-fixture"]);
    run("aborts_at_its_stop").exits(1).says(&[
        "SchedulerCrashed",
        "failed while it was being stopped",
        "killed by signal 6",
    ]);
    run("stays_at_its_stop")
        .exits(1)
        .says(&["SchedulerCrashed", "had to be killed"]);
}

#[test]
fn isolation_fails_when_workers_stray_to_their_former_cpus() {
    run("workers_stray_after_their_cpuset_moved")
        .exits(1)
        .says(&["Isolation:", "ran on cpus 0 outside its cpuset 1"]);
}

#[test]
fn a_move_of_cpusets_alone_breaks_no_isolation() {
    run("workers_follow_their_cpuset").exits(0);
}

#[test]
fn workers_whose_only_cpu_goes_break_no_isolation() {
    run("cpuset_loses_its_cpu").exits(0);
    run("cpuset_has_its_cpu_back").exits(0);
}

#[test]
fn who_held_the_cpu_is_named() {
    run("held_back").exits(1).says(&[
        "a real-time task held a CPU: hog (pid",
        "SCHED_FIFO 50",
        "its cgroup was throttled by cpu.max",
    ]);
}
