//! `cargo ktstr shell`. The first two boot real guests, on the kernel that `cargo xtask kernel` builds.

use std::io::Write as _;
use std::process::Stdio;

use crate::fixture::{Project, Ran, ktstr};

#[test]
fn a_command_runs_in_the_guest_and_gives_its_status() {
    let command =
        "cat /include-files/note; nproc; ls /sys/devices/system/node | grep -c node; exit 3";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("note"), "from the host\n").unwrap();
    let note = dir.path().join("note").display().to_string();
    let args = [
        "shell",
        "--topology",
        "1n2l2c1t",
        "--include",
        &note,
        "--exec",
        command,
    ];
    let ran = Ran::new(ktstr(&args).output().unwrap());
    ran.exits(3);
    assert_eq!(ran.stdout, "from the host\n4\n1\n", "{}", ran.stderr);
}

#[test]
fn an_interactive_shell_has_a_terminal() {
    let mut child = ktstr(&["shell"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"tty\necho $((6*7))\nexit 5\n")
        .unwrap();
    Ran::new(child.wait_with_output().unwrap())
        .exits(5)
        .says(&["/dev/pts/0", "42"]);
}

#[test]
fn what_cannot_be_had_is_named_before_the_boot() {
    let project = Project::new();
    project
        .run(&["shell"])
        .exits(1)
        .says(&["no kernel to test on", "kernel build"]);
    let refused = |args: &[&str], needles: &[&str]| {
        let mut all = vec!["shell", "--kernel", "./bzImage", "--exec", "true"];
        all.extend(args);
        project.run(&all).exits(1).says(needles);
    };
    refused(&["--topology", "4 cpus"], &["4 cpus", "1n2l4c2t"]);
    refused(&["--include", "./gone"], &["./gone"]);
    refused(
        &["--test", "no_such_test"],
        &["no_such_test", "fails, passes"],
    );
    project
        .run(&["shell", "--memory-mib", "16"])
        .exits(64)
        .says(&["16", "128"]);
}

#[test]
fn an_export_that_cannot_be_made_says_why() {
    let project = Project::new();
    project
        .run(&["export", "no_such_test"])
        .exits(1)
        .says(&["no_such_test", "fails, passes"]);
    project
        .run(&["export", "passes", "--output", "gone/x.sh"])
        .exits(1)
        .says(&["gone/x.sh", "no directory"]);
}
