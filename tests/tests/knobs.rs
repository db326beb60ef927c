//! Attributes, keys, variables and operations, each seen to make a difference. `knobs.toml` names these tests.

use std::path::Path;
use std::process::{Command, Output};

use ktstr_tests::CaseRun;

const KNOBS: &str = env!("CARGO_BIN_EXE_knobs");

#[track_caller]
fn run(case: &str, env: &[(&str, &str)]) -> CaseRun {
    CaseRun::new(KNOBS, case, env).expect("the case runs")
}

/// The binary with these arguments and variables, and no directory for its artifacts.
#[track_caller]
fn plainly(args: &[&str], env: &[(&str, &str)]) -> (Output, String) {
    let mut command = Command::new(KNOBS);
    command.args(args);
    for name in ["KTSTR_SIDECAR_DIR", "KTSTR_RUN_DIR", "KTSTR_RUN_ID"] {
        command.env_remove(name);
    }
    let output = command.envs(env.iter().copied()).output();
    let output = output.expect("the binary runs");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output, text)
}

#[test]
fn a_guest_has_the_defaults_and_what_is_turned_differs() {
    run("machine_of_defaults", &[("RUST_LOG", "")]).exits(0);
    // What is meant for the host itself is no scheduler's.
    let log = ("RUST_LOG", "ktstr=warn,scx_mine=debug");
    run("machine_turned", &[log])
        .exits(0)
        .says(&["post_vm was called"]);
}

#[test]
fn of_a_failed_guests_callbacks_the_unconditional_one_is_called() {
    let run = run("fails_in_the_guest", &[("KTSTR_VERBOSE", "1")]);
    run.exits(1)
        .says(&["by choice", "the unconditional callback was called"]);
    // Unasked, it is shown of guests that died: `an_error_of_the_test_has_its_text` in verdicts.rs sees none.
    run.says(&["--- console (guest: ", "VM ended by power off"]);
    run.lacks(&["the ordinary callback was called"]);
}

#[test]
fn every_operation_on_cgroups_programs_and_interrupts_is_seen() {
    run("operations", &[]).exits(0);
}

/// The emulator's threads may use one of the host's CPUs.
#[test]
fn a_cpu_budget_confines_the_emulator() {
    let mut allowed = String::new();
    let run = CaseRun::interrupted(KNOBS, "on_one_host_cpu", "payload starting", |pid| {
        let emulator = ktstr_tests::child_named(pid, "qemu-system")?;
        let pid = emulator.as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        Ok(())
    });
    run.expect("the case runs").exits(0);
    assert!(allowed.parse::<u32>().is_ok(), "one CPU, not '{allowed}'");
}

#[test]
fn a_scheduler_at_a_path_is_looked_for_there() {
    run("scheduler_at_a_path", &[]).exits(1).says(&[
        "/no/such/place/scx_mine",
        "the declared path",
        "[sched=elsewhere]",
    ]);
}

#[test]
fn an_inconclusive_outcome_passes_where_it_is_allowed() {
    run("inconclusive_is_allowed", &[]).exits(0);
    run("inconclusive_is_not_allowed", &[]).exits(2);
}

/// Of this binary's tests one alone is not ignored.
#[test]
fn ignored_tests_are_listed_and_not_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("a plain path");
    let (output, text) = plainly(&[], &[("KTSTR_SIDECAR_DIR", path)]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed; 0 failed"), "{text}");
    assert!(text.contains("machine_turned"), "{text}");
    assert!(dir.path().join("runs_by_itself.json").is_file());
}

/// Presets of `case` in the gauntlet's list.
#[track_caller]
fn presets_of(case: &str, list: &str) -> Vec<String> {
    let at = format!("{case}@");
    let names = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test")?.strip_prefix(&at));
    names.map(str::to_owned).collect()
}

#[test]
fn constraints_choose_the_presets_of_the_gauntlet() {
    let (_, plain) = plainly(&["--list"], &[]);
    assert!(!plain.contains('@'), "{plain}");
    let (_, list) = plainly(&["--list"], &[("KTSTR_GAUNTLET", "1")]);
    let of = |case| presets_of(case, &list);
    let anywhere = of("machine_turned");
    assert!(anywhere.len() > 5, "{list}");
    assert_eq!(
        of("limited_in_cpus"),
        [
            "12cpu-3llc-smt",
            "14cpu-7llc-nosmt",
            "15cpu-5llc-nosmt",
            "9cpu-3llc-nosmt"
        ]
    );
    let llcs = of("limited_in_llcs");
    for (preset, is_there) in [
        ("9cpu-3llc-nosmt", true),
        ("14cpu-7llc-nosmt", true),
        ("4cpu-2llc-nosmt", false),
        ("64cpu-8llc-smt", false),
    ] {
        assert_eq!(
            llcs.iter().any(|name| name == preset),
            is_there,
            "{preset}: {llcs:?}"
        );
    }
    let nodes = of("limited_in_nodes");
    assert!(
        !nodes.is_empty() && nodes.iter().all(|name| name.starts_with("2numa-")),
        "{nodes:?}"
    );
    let smt = of("limited_to_smt");
    assert!(
        !smt.is_empty() && smt.iter().all(|name| name.ends_with("-smt")),
        "{smt:?}"
    );
}

/// None of these boots anything: the kernel is not there.
#[test]
fn the_environment_says_which_kernel_and_where_caches_lie() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().to_str().expect("a plain path");
    let empty = [("KTSTR_KERNEL", ""), ("KTSTR_TEST_KERNEL", "")];
    let kernels = format!("{cache}/kernels");
    run(
        "on_one_host_cpu",
        &[&empty[..], &[("KTSTR_CACHE_DIR", cache)]].concat(),
    )
    .exits(1)
    .says(&[kernels.as_str(), "cargo ktstr kernel build"]);
    run(
        "on_one_host_cpu",
        &[("KTSTR_KERNEL", "/no/one"), ("KTSTR_TEST_KERNEL", "")],
    )
    .exits(1)
    .says(&["/no/one"]);
    run(
        "on_one_host_cpu",
        &[
            ("KTSTR_KERNEL", "/no/one"),
            ("KTSTR_TEST_KERNEL", "/no/two"),
        ],
    )
    .exits(1)
    .says(&["/no/two"])
    .lacks(&["/no/one"]);
}

#[test]
fn tests_on_the_host_have_their_cgroups_where_that_is_asked_for() {
    let case = "place_on_the_host";
    let below = |parent: &str| run(case, &[("KTSTR_HOST_CGROUP_PARENT", parent)]);
    below("")
        .exits(0)
        .says(&["cgroups below /sys/fs/cgroup/ktstr/"]);
    let mine = "/sys/fs/cgroup/mine/tests";
    below(mine)
        .exits(0)
        .says(&["cgroups below /sys/fs/cgroup/mine/tests/"]);
    below("/tmp").exits(1).says(&[
        "Setup:",
        "KTSTR_HOST_CGROUP_PARENT is '/tmp', expected a cgroup below /sys/fs/cgroup",
    ]);
}

#[test]
fn a_lock_directory_that_cannot_be_used_is_named() {
    let run = run("on_one_host_cpu", &[("KTSTR_LOCK_DIR", "/dev/null/x")]);
    run.exits(1).says(&["/dev/null/x"]);
}

/// A host that is full; what lacks its kernel or its scheduler has nothing to wait for.
#[test]
fn what_cannot_run_does_not_queue() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("a plain path");
    let all = dir.path().join("vm-1-0-9999c-10m.lock");
    let file = std::fs::File::create(&all).expect("a lock file");
    file.lock().expect("the lock");
    // If one queues all the same, it must not do so for ever.
    let giver = std::thread::spawn(move || {
        std::thread::park_timeout(std::time::Duration::from_secs(120));
        drop(file);
    });
    for (case, env, says) in [
        (
            "on_one_host_cpu",
            ("KTSTR_KERNEL", "/no/kernel"),
            "/no/kernel",
        ),
        (
            "scheduler_at_a_path",
            ("KTSTR_KERNEL", ""),
            "/no/such/place/scx_mine",
        ),
    ] {
        run(case, &[("KTSTR_LOCK_DIR", path), env])
            .exits(1)
            .says(&[says])
            .lacks(&["waits for"]);
    }
    giver.thread().unpark();
    giver.join().expect("the lock's holder ends");
}

/// What a run is called, and how much is told of a pass.
#[test]
fn a_runs_directory_has_the_name_that_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().to_str().expect("a plain path");
    let case = ["--exact", "runs_by_itself"];
    let (_, quiet) = plainly(
        &case,
        &[("CARGO_TARGET_DIR", target), ("KTSTR_RUN_ID", "nightly-7")],
    );
    let record = |path: &str| dir.path().join(path).join("runs_by_itself.json").is_file();
    assert!(record("ktstr/nightly-7"), "{quiet}");
    let run_dir = format!("{target}/together");
    let (_, verbose) = plainly(
        &case,
        &[("KTSTR_RUN_DIR", run_dir.as_str()), ("KTSTR_VERBOSE", "1")],
    );
    assert!(
        Path::new(&run_dir).join("runs_by_itself.json").is_file(),
        "{verbose}"
    );
    let told = |text: &str| text.contains("runs_by_itself: pass on");
    assert!(told(&verbose) && !told(&quiet), "{verbose}");
}
