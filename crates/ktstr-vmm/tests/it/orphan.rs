//! QEMU never outlives its parent, however the parent ends, nor the VM, whatever stands between.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ktstr_vmm::ExitReason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::guest::guest;
use crate::program::write_program;

/// Set in the child that plays the parent of QEMU; its value is QEMU's path.
const CHILD: &str = "KTSTR_VMM_ORPHAN_TEST";

/// A QEMU that is a shell's child. It writes the process id of the real one to `dir/pid`.
fn wrapper(dir: &Path) -> PathBuf {
    let path = dir.join("qemu");
    let script = format!(
        "#!/bin/sh\nqemu-system-x86_64 \"$@\" &\necho $! >{}\nwait\n",
        dir.join("pid").display()
    );
    write_program(&path, &script);
    path
}

/// The VM of the child answers, so the wrapper has written it.
fn wrapped(dir: &Path) -> i32 {
    let text = std::fs::read_to_string(dir.join("pid")).unwrap();
    text.trim().parse().unwrap()
}

#[track_caller]
fn ends(pid: i32) {
    let Ok(qemu) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else {
        return;
    };
    let deadline = Timespec::try_from(Duration::from_secs(30)).unwrap();
    let ready = poll(&mut [PollFd::new(&qemu, PollFlags::IN)], Some(&deadline)).unwrap();
    assert_eq!(ready, 1, "QEMU {pid} still runs");
}

/// Starts the test `name` again as a parent of `qemu`, and kills it when its VM runs; the pid that it told.
#[track_caller]
fn killed_parent(name: &str, qemu: &Path) -> i32 {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, qemu)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("engine ")?.parse().ok())
        .expect("the child tells QEMU's process id");
    // SIGKILL: the parent cannot clean up.
    parent.kill().unwrap();
    parent.wait().unwrap();
    pid
}

/// Plays the parent where this is one.
fn is_parent() -> bool {
    let Some(qemu) = std::env::var_os(CHILD) else {
        return false;
    };
    let vm = guest("while :; do :; done").qemu(qemu).build().unwrap();
    let mut vm = vm.start().unwrap();
    println!("\nengine {}", vm.engine_pid());
    vm.wait().unwrap();
    true
}

#[test]
fn a_killed_parent_takes_its_emulator_along() {
    if !is_parent() {
        let name = "orphan::a_killed_parent_takes_its_emulator_along";
        ends(killed_parent(name, Path::new("qemu-system-x86_64")));
    }
}

#[test]
fn a_killed_parent_takes_a_wrapped_emulator_along() {
    if !is_parent() {
        let dir = tempfile::tempdir().unwrap();
        let name = "orphan::a_killed_parent_takes_a_wrapped_emulator_along";
        let shell = killed_parent(name, &wrapper(dir.path()));
        let qemu = wrapped(dir.path());
        assert_ne!(shell, qemu);
        ends(shell);
        ends(qemu);
    }
}

#[test]
fn a_wrapped_emulator_ends_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let vm = guest("while :; do :; done")
        .qemu(wrapper(dir.path()))
        .deadline(Duration::from_secs(4));
    let began = Instant::now();
    let exit = vm.build().unwrap().run().unwrap();
    assert_eq!(exit.reason, ExitReason::Deadline);
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    ends(wrapped(dir.path()));
}

/// A wrapper that hides the emulator in a session of its own causes no wait, neither where it is started nor where it is
/// asked for its version.
#[test]
fn a_hidden_emulator_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu");
    // Without QEMU: what counts is that a process holds the streams. A shell's child leads no group, so setsid keeps its pid. The
    // wrapper does not end before that process has its session, else it would be killed with the wrapper's group.
    let script = format!(
        "#!/bin/sh\ncd {}\nsetsid sh -c 'echo $$ >>pid; : >of-$$; exec sleep 600' &\n\
         until [ -e of-$! ]; do :; done\nread line </dev/fd/0\nexit 3\n",
        dir.path().display()
    );
    write_program(&path, &script);
    let began = Instant::now();
    let error = guest("true")
        .qemu(&path)
        .build()
        .unwrap()
        .start()
        .unwrap_err();
    assert!(error.to_string().contains("exit status 3"), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    // Ours by their own word.
    let hidden = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    for pid in hidden.lines() {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(hidden.lines().count(), 2, "{hidden}");
}
