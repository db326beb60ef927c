//! `cargo xtask lab`: how it ends, and what it leaves.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For waits that take milliseconds on a quiet host.
const LONG: Duration = Duration::from_secs(60);

/// With Ctrl-C as a terminal has it: what is started in the background by a script ignores it.
fn lab() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_xtask"), "lab"]);
    command
}

/// Looks until `find` finds; `None` after a minute.
fn poll<T>(find: impl Fn() -> Option<T>) -> Option<T> {
    let until = Instant::now() + LONG;
    while Instant::now() < until {
        if let Some(found) = find() {
            return Some(found);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    None
}

/// The emulator that `parent` has started.
fn emulator_of(parent: u32) -> Option<String> {
    std::fs::read_dir(format!("/proc/{parent}/task"))
        .ok()?
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|children| {
            let children: Vec<String> = children.split_whitespace().map(String::from).collect();
            children
        })
        .find(|child| {
            std::fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name.starts_with("qemu"))
        })
}

/// Starts a lab whose command does not end; gives its emulator, too.
fn endless(deadline: &str) -> (Child, String) {
    let child = lab()
        .args(["--deadline", deadline, "--", "busybox", "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .expect("xtask starts");
    let emulator = poll(|| emulator_of(child.id())).expect("an emulator is started");
    (child, emulator)
}

#[track_caller]
fn check_gone(emulator: &str) {
    let process = format!("/proc/{emulator}");
    let gone = poll(|| (!Path::new(&process).exists()).then_some(()));
    assert!(gone.is_some(), "the emulator, process {emulator}, is left");
}

#[test]
fn a_deadline_has_its_own_status_and_leaves_no_emulator() {
    let (mut child, emulator) = endless("5");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(124), "as timeout(1) says it");
    check_gone(&emulator);
}

#[test]
fn ctrl_c_leaves_no_emulator() {
    let (mut child, emulator) = endless("600");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    check_gone(&emulator);
}

/// Runs itself in the lab, as cargo's runner would run it, and there finds a genuine /dev/kvm or fails as it is told.
#[test]
fn a_test_binary_runs_as_under_cargos_runner() {
    const TOLD: &str = "KTSTR_LAB_TEST_FAILS";
    if std::env::var_os("KTSTR_LAB").is_some() {
        assert!(Path::new("/dev/kvm").exists());
        assert!(std::env::var_os(TOLD).is_none(), "told to fail");
        return;
    }
    let name = "a_test_binary_runs_as_under_cargos_runner";
    let run = |told: bool| {
        let mut command = lab();
        command.arg("--").arg(std::env::current_exe().unwrap());
        command.args(["--exact", name]).env_remove(TOLD);
        if told {
            command.env(TOLD, "1");
        }
        command.output().unwrap()
    };
    let passed = run(false);
    let text = String::from_utf8_lossy(&passed.stdout).into_owned();
    assert!(passed.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    let failed = run(true);
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert_eq!(failed.status.code(), Some(101), "{text}");
    assert!(text.contains("1 failed"), "{text}");
}
