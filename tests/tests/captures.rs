//! What the host sees of a guest: captures by name, watches, kernel memory, and the dump of a failure.

use ktstr::model::verdict::DetailKind;
use ktstr_tests::{CaseRun, strangers_scheduler};
use serde_json::Value;

#[track_caller]
fn run(case: &str, env: &[(&str, &str)]) -> CaseRun {
    CaseRun::new(env!("CARGO_BIN_EXE_captures"), case, env).expect("the case runs")
}

/// The variables of the fixture's `.bss` in a dump.
#[track_caller]
fn bss(dump: &Value) -> &Value {
    assert_eq!(dump["is_placeholder"], false, "{dump}");
    let maps = dump["maps"].as_array().expect("a dump has maps");
    let named = |map: &&Value| {
        map["name"]
            .as_str()
            .is_some_and(|name| name.ends_with(".bss"))
    };
    let map = maps.iter().find(named).expect("the fixture has a .bss");
    &map["contents"]["section"]
}

#[test]
fn captures_are_read_by_name() {
    run("captured_by_name", &[]).exits(0);
}

#[test]
fn each_write_to_a_watched_symbol_is_a_capture() {
    run("watched_writes", &[]).exits(0);
}

#[test]
fn a_fourth_watch_is_refused_with_the_reason() {
    run("fourth_watch", &[])
        .exits(2)
        .says(&["all 3 watches", "sysctl_oom_kill_allocating_task"]);
}

#[test]
fn a_misspelt_symbol_gets_near_names() {
    run("misspelt_watch", &[])
        .exits(2)
        .says(&["no symbol 'panic_on_ops'", "near: panic_on_oops"]);
}

#[test]
fn kernel_memory_is_written_and_read() {
    run("kernel_memory", &[]).exits(0);
}

/// In virtual time, where the guest is looked at often: at one stop alone its lock may be held.
#[test]
fn books_that_contradict_themselves_fail_a_test_unless_it_allows_that() {
    let found = "rq-nr-uninterruptible: all runqueues: expected sum of nr_uninterruptible = ";
    let broken = run("broken_books", &[]);
    broken.exits(1).says(&[found]);
    let details = &broken.sidecar.as_ref().expect("a record").result.details;
    let kinds: Vec<_> = details.iter().map(|detail| detail.kind).collect();
    assert_eq!(kinds, [DetailKind::Invariant]);
    let allowed = run("broken_books_that_are_allowed", &[]);
    allowed.exits(0);
    let notes = &allowed
        .sidecar
        .as_ref()
        .expect("a record")
        .result
        .info_notes;
    let text = format!("which this test allows: {found}");
    assert!(notes.iter().any(|note| note.contains(&text)), "{notes:?}");
}

/// By the test, and by the environment, which wins.
#[test]
fn rules_are_chosen_by_name() {
    run("broken_books_of_another_rule", &[]).exits(0);
    let env = [("KTSTR_INVARIANTS", "rq-nr-uninterruptible")];
    run("broken_books_of_another_rule", &env).exits(1);
}

#[test]
fn periodic_captures_keep_their_times() {
    run("periodic", &[]).exits(0);
}

#[test]
fn a_schedulers_maps_and_watchdog_are_prepared_before_the_test() {
    run("prepared", &[]).exits(0);
}

/// The kernel's watchdog finds a task, not itself, late; the scheduler's own time-out would have outlived the test.
#[test]
fn a_test_sets_the_watchdog_of_its_scheduler() {
    let run = run("patient_stall", &[]);
    run.exits(1).says(&["error_stall", "failed to run for"]);
    assert!(!run.text.contains("WatchdogOverride"), "{}", run.text);
}

#[test]
fn a_scheduler_keeps_its_own_watchdog_on_request() {
    run("lenient_by_choice", &[]).exits(0);
}

#[test]
fn a_map_that_is_not_there_is_named_with_those_that_are() {
    run("unprepared", &[])
        .exits(1)
        .says(&["no map 'no_map'", "cpu_dispatches"]);
}

#[test]
fn one_scheduler_after_the_other_shows_each_ones_maps() {
    run("replaced", &[]).exits(0);
}

/// The scheduler's wanted exit, minutes before, is not what the failure shows; and the second scenario is watched as the first.
#[test]
fn a_failure_after_a_wanted_restart_shows_its_own_moment() {
    let run = run("restarted_then_failed", &[]);
    run.exits(1)
        .says(&["by choice", "captured at the test's own verdict"]);
    run.lacks(&["post_vm", "captured at the scheduler's exit"]);
    let dump = run.dump();
    assert_eq!(dump["trigger"], "the test's own verdict");
    assert_eq!(dump["scx"]["state"], "enabled", "{}", dump["scx"]);
}

#[test]
fn a_scheduler_that_is_not_staged_is_named() {
    run("replaced_by_nobody", &[]).says(&["no scheduler 'nobody' is staged"]);
}

#[test]
fn captures_carry_each_schedulers_own_figures() {
    run("figures", &[]).exits(0);
}

#[test]
fn a_strangers_scheduler_tells_its_figures() {
    let Some(scheduler) = strangers_scheduler() else {
        return;
    };
    run("third_party_figures", &[("KTSTR_SCHEDULER", &scheduler)]).exits(0);
}

#[track_caller]
fn check_error_dump(run: &CaseRun) {
    run.exits(1).says(&[
        "captured at the scheduler's exit",
        "exit: error_bpf",
        "queue seven is gone",
        "stats={",
    ]);
    let dump = run.dump();
    assert_eq!(dump["scx"]["exit"]["kind"], 1025, "{}", dump["scx"]);
    let bss = bss(&dump);
    let count = |name: &str| bss["stats"][name].as_u64().unwrap_or_default();
    assert!(count("errors") >= 1 && count("dispatched") > 0, "{bss}");
    assert_eq!(
        bss["exit_info"]["kind"], 0,
        "the scheduler's own exit had not run yet"
    );
    let tasks = dump["tasks"].as_array().expect("a dump has tasks");
    assert!(tasks.iter().any(|task| task["comm"] == "scx-fixture"));
}

#[test]
fn an_error_shows_the_maps_as_they_were() {
    check_error_dump(&run("error_with_state", &[]));
}

#[track_caller]
fn check_repro(run: &CaseRun, case: &str) -> Value {
    let path = run.dir.path().join(format!("{case}.repro.json"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{error}:\n{}", run.text));
    let repro: Value = serde_json::from_slice(&bytes).expect("the artifact is JSON");
    assert_eq!(repro["reproduced"], true, "{repro:#}");
    assert_eq!(repro["found"]["kind"], 1025);
    assert_eq!(repro["probes"]["stopped"], true, "{:#}", repro["probes"]);
    let events = repro["events"].as_array().expect("a list");
    let switches = |event: &&Value| {
        event
            .as_str()
            .is_some_and(|text| text.contains("sched_switch:"))
    };
    assert!(events.iter().filter(switches).count() > 20, "{repro:#}");
    repro
}

#[test]
fn a_thrown_out_scheduler_is_run_again_with_probes() {
    let run = run("error_again", &[]);
    run.exits(1).says(&[
        "--- auto-repro",
        "a second run showed it again: error_bpf (scx_bpf_error: queue seven is gone)",
        "events before a scheduler's exit:",
        "error_again.repro.json",
    ]);
    let repro = check_repro(&run, "error_again");
    // A function on the stack of the exit, beside the events.
    let armed = repro["probes"]["armed"].as_array().expect("a list");
    let function = |name: &&Value| {
        name.as_str()
            .is_some_and(|name| !name.contains('/') && name != "sched_ext")
    };
    assert!(
        armed.iter().any(|name| function(&name)),
        "{:#}",
        repro["probes"]
    );
}

#[test]
fn a_wanted_failure_passes_when_its_repro_landed_and_only_then() {
    let wanted = run("error_again_is_wanted", &[]);
    wanted.exits(0);
    check_repro(&wanted, "error_again_is_wanted");
    run("failure_without_an_error", &[])
        .exits(1)
        .says(&["by choice", "no valid repro artifact"]);
}

/// Types and symbols then come out of the guest's own memory.
#[test]
fn an_error_shows_the_same_without_a_vmlinux() {
    let (_dir, image) = bare_image();
    check_error_dump(&run("error_with_state", &[("KTSTR_KERNEL", &image)]));
}

/// Captures by name, watches, kernel memory, prepared and replaced schedulers, the scheduler's own figures.
#[test]
fn everything_else_works_without_a_vmlinux() {
    let (_dir, image) = bare_image();
    for case in [
        "captured_by_name",
        "watched_writes",
        "kernel_memory",
        "periodic",
        "prepared",
        "replaced",
        "figures",
    ] {
        run(case, &[("KTSTR_KERNEL", &image)]).exits(0);
    }
}

/// Whether the test kernel has schedulers below schedulers (7.3 and later), by its own types.
fn has_trees_of_schedulers() -> bool {
    let kernel = ktstr::host::plan::kernel::resolve_test_kernel().expect("a test kernel");
    let vmlinux = kernel.vmlinux.clone().expect("its vmlinux");
    let types = std::fs::read(&vmlinux).expect("vmlinux is read");
    let name = b"\0sched_ext_ops_cid\0";
    types.windows(name.len()).any(|window| window == name)
}

/// The root goes on; what is shown is the child's. Where the kernel has no such schedulers, that is what is said.
#[test]
fn a_childs_scheduler_that_fails_is_named() {
    let run = run("child_with_state", &[]);
    if !has_trees_of_schedulers() {
        run.exits(1).says(&["sched_ext_ops_cid"]);
        return;
    }
    run.exits(1).says(&[
        "captured at the scheduler's exit",
        "sched_ext: fixture_root is enabled",
        "sched_ext: fixture_child schedules /scx-fixture-child",
        "exit of fixture_child: error_bpf (scx_bpf_error: the child gives up)",
        "queue User 0x7 of fixture_child: 2 waiting: scx-fixture",
    ]);
    let dump = run.dump();
    let schedulers = dump["scx"]["schedulers"].as_array().expect("a list");
    let of = |name: &str| {
        let mut found = schedulers.iter().filter(|one| one["ops_name"] == name);
        found.next().unwrap_or_else(|| panic!("{schedulers:#?}"))
    };
    let (root, child) = (of("fixture_root"), of("fixture_child"));
    assert_eq!((&root["level"], &root["exit_kind"]), (&0.into(), &0.into()));
    assert_eq!(
        (&child["level"], &child["exit_kind"], &child["cgroup"]),
        (&1.into(), &1025.into(), &"/scx-fixture-child".into())
    );
    assert_eq!(child["exit"]["msg"], "the child gives up");
    let queues = dump["dispatch_queues"].as_array().expect("a list");
    let its: Vec<&Value> = queues
        .iter()
        .filter(|queue| queue["scheduler"] == child["id"] && queue["id"] == 7)
        .collect();
    assert_eq!(its.len(), 1, "{queues:#?}");
    assert_eq!(its[0]["nr"], 2, "{its:#?}");
}

/// The test kernel's boot image with nothing beside it.
fn bare_image() -> (tempfile::TempDir, String) {
    let kernel = ktstr::host::plan::kernel::resolve_test_kernel().expect("a test kernel");
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("bzImage");
    std::fs::copy(&kernel.image, &image).expect("the image is copied");
    let path = image.to_str().expect("a plain path").to_owned();
    (dir, path)
}

/// The dump's reader finds the same state in it, with no help from the run.
#[test]
fn a_vmcore_is_kept_on_request_and_can_be_read() {
    let run = run("error_with_state", &[("KTSTR_VMCORE", "1")]);
    run.exits(1).says(&["error_with_state.vmcore"]);
    let path = run.dir.path().join("error_with_state.vmcore");
    let memory = ktstr_monitor::phys::Vmcore::open(&path).expect("an ELF vmcore");
    let kernel = ktstr_monitor::Kernel::attach(std::sync::Arc::new(memory), 0, None)
        .expect("the kernel is found");
    let scx = kernel
        .scx()
        .expect("sched_ext is read")
        .expect("it is there");
    assert_eq!(scx.exit.expect("an exit").kind, 1025);
    let tasks = kernel.tasks().found;
    assert!(tasks.iter().any(|task| task.comm == "scx-fixture"));
    let books = ktstr::host::tools::check::of_vmcore(&path, None).expect("its books are read");
    assert!(books.violations.is_empty(), "{:#?}", books.violations);
    assert!(books.problems.is_empty(), "{:#?}", books.problems);
}

/// The command that the message gives opens it: on every CPU the task, the registers and a stack of names are those of the
/// failure dump, though KASLR has moved the kernel.
#[test]
fn drgn_opens_a_vmcore_as_the_message_says() {
    let run = run("error_with_state", &[("KTSTR_VMCORE", "1")]);
    run.exits(1);
    let line = run.text.lines().find_map(|line| {
        let command = line.trim().strip_prefix("open it: drgn ")?;
        Some(command.split_whitespace().collect::<Vec<_>>())
    });
    let script = run.dir.path().join("look.py");
    std::fs::write(
        &script,
        r#"
import json
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.sched import cpu_curr
cpus = []
for cpu in for_each_online_cpu(prog):
    task = cpu_curr(prog, cpu)
    trace = prog.stack_trace(task)
    name = f"{task.comm.string_().decode()} ({task.pid.value_()})"
    cpus.append({"task": name, "rip": trace[0].pc, "names": [frame.name for frame in trace if frame.name]})
print(json.dumps(cpus))
"#,
    )
    .expect("the script is written");
    let output = std::process::Command::new(ktstr_tests::drgn())
        .args(line.expect("the message says how to open it"))
        .arg(script)
        .output()
        .expect("drgn runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let cpus: Vec<Value> = serde_json::from_str(&said).unwrap_or_else(|error| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {said}{complaint}")
    });
    let dump = run.dump();
    let vcpus = dump["vcpus"].as_array().expect("a dump has vCPUs");
    assert_eq!(cpus.len(), vcpus.len());
    for (found, wanted) in cpus.iter().zip(vcpus) {
        assert_eq!(
            (&found["task"], &found["rip"]),
            (&wanted["task"], &wanted["rip"])
        );
    }
    // The one that caught the scheduler's end is a kernel thread.
    let is_thread = |cpu: &Value| cpu["names"].to_string().contains("kthread");
    assert!(cpus.iter().any(is_thread), "{cpus:?}");
}

#[test]
fn a_strangers_scheduler_that_is_killed_shows_its_maps() {
    let Some(scheduler) = strangers_scheduler() else {
        return;
    };
    let run = run("third_party_killed", &[("KTSTR_SCHEDULER", &scheduler)]);
    run.exits(1)
        .says(&["captured at the scheduler's exit", ".bss"]);
    check_strangers_maps(&run.dump());
}

/// The scheduler's own names, with content.
#[track_caller]
fn check_strangers_maps(dump: &Value) {
    assert_eq!(dump["is_placeholder"], false);
    let maps = dump["maps"].as_array().expect("a dump has maps");
    assert!(maps.len() > 3, "{maps:?}");
    let bss = maps.iter().find(|map| {
        map["name"]
            .as_str()
            .is_some_and(|name| name.ends_with(".bss"))
    });
    let fields = bss.and_then(|bss| bss["contents"]["section"].as_object());
    assert!(fields.is_some_and(|fields| !fields.is_empty()), "{bss:?}");
}

#[test]
fn a_strangers_scheduler_whose_watchdog_is_tripped_shows_its_maps_and_the_task() {
    let Some(scheduler) = strangers_scheduler() else {
        return;
    };
    let run = run("third_party_stalls", &[("KTSTR_SCHEDULER", &scheduler)]);
    run.exits(1).says(&[
        "captured at the scheduler's exit",
        "exit: error_stall",
        "failed to run for",
        ".bss",
        "SchedulerCrashed",
        "a real-time task held a CPU: ",
        "SCHED_FIFO 50, last on cpu 1",
    ]);
    let dump = run.dump();
    assert_eq!(dump["scx"]["exit_kind"], 1026, "{}", dump["scx"]);
    check_strangers_maps(&dump);
}
