//! `cargo ktstr shell`. The first two boot real guests, on the kernel that `cargo xtask kernel` builds.

use std::io::Write as _;
use std::process::Stdio;

use crate::fixture::{Project, Ran, ktstr};

#[test]
fn a_command_runs_in_the_guest_and_gives_its_status() {
    let command = "cat /include-files/note; nproc; ls /sys/devices/system/node | grep -c node; \
                   awk '/MemTotal/ { print ($2 < 400000 ? \"small\" : \"large\") }' /proc/meminfo; exit 3";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("note"), "from the host\n").unwrap();
    let note = dir.path().join("note").display().to_string();
    let args = [
        "shell",
        "--topology",
        "1n2l2c1t",
        "--memory-mib",
        "384",
        "--dmesg",
        "--include",
        &note,
        "--exec",
        command,
    ];
    let ran = Ran::new(ktstr(&args).output().unwrap());
    ran.exits(3);
    assert_eq!(ran.stdout, "from the host\n4\n1\nsmall\n", "{}", ran.stderr);
    // With --dmesg the console is there; it holds warnings and worse.
    assert!(ran.stderr.contains("reboot: "), "{}", ran.stderr);
}

/// The time counts from the command's start, and what came until then is kept.
#[test]
fn a_command_is_cut_at_its_time() {
    let command = "echo begun; sleep 600; echo not reached";
    let args = ["shell", "--exec-timeout", "2", "--exec", command];
    let started = std::time::Instant::now();
    let ran = Ran::new(ktstr(&args).output().unwrap());
    ran.exits(124)
        .says(&["cut off after 2 s", "--exec-timeout"]);
    assert_eq!(ran.stdout, "begun\n");
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

/// 125, which `false` is not, and the kernel's own words from the first on.
#[test]
fn a_guest_that_crashes_is_told_from_a_command_that_fails() {
    let command = "echo c > /proc/sysrq-trigger; sleep 600";
    let ran = Ran::new(ktstr(&["shell", "--exec", command]).output().unwrap());
    ran.exits(125)
        .says(&["Kernel panic - not syncing: sysrq triggered crash"]);
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
        .says(&["gone/x.sh", "does not exist"]);
}
