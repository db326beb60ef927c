//! Every subcommand that boots or writes, in the same trouble: no kernel, a full disk, Ctrl-C, another of its kind.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Pid, test_kill_process};

use crate::fixture::{Project, Ran, files_below, lacks};
use crate::interrupt::{below, interrupt, wait_for};
use crate::kernels::{Unmount, mini_tree};

/// Each as it would run one test, or all; `KERNEL` stands for the kernel.
const BOOTING: &[&[&str]] = &[
    &["test", "--kernel", "KERNEL", "passes"],
    &["test", "--runner", "cargo", "--kernel", "KERNEL", "passes"],
    &["verifier", "--kernel", "KERNEL"],
    &[
        "perf-delta",
        "HEAD",
        "HEAD",
        "--kernel",
        "KERNEL",
        "--exact",
        "passes",
    ],
    &[
        "coverage", "--", "--kernel", "KERNEL", "--runner", "cargo", "passes",
    ],
];

fn on<'a>(command: &[&'a str], kernel: &'a str) -> Vec<&'a str> {
    let word = |word: &&'a str| if *word == "KERNEL" { kernel } else { word };
    command.iter().map(word).collect()
}

fn project() -> Project {
    let project = Project::new();
    project.commit_speeds(&[1000]);
    project
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    let project = project();
    for command in BOOTING {
        project
            .run(&on(command, "./gone"))
            .exits(1)
            .says(&["./gone"]);
    }
    project
        .run(&["shell", "--kernel", "./gone", "--exec", "true"])
        .exits(1)
        .says(&["./gone"]);
    // A run's kernel may be gone when its failures are to run again.
    project
        .run(&["test", "--kernel", "./bzImage", "fails"])
        .exits(1);
    fs::remove_file(project.root().join("bzImage")).unwrap();
    project.run(&["replay"]).exits(1).says(&["bzImage"]);
}

#[test]
fn a_full_disk_for_results_is_told_and_nothing_is_left_on_it() {
    let project = project();
    // Built, so that only results need room.
    for command in BOOTING {
        let _ = project.run(&on(command, "./bzImage"));
    }
    let kept = project.root().join("kept");
    fs::rename(project.runs(), &kept).unwrap();
    fs::create_dir(project.runs()).unwrap();
    // A comparison keeps its records apart; here on the same full disk.
    let compared = project.root().join("target/ktstr-perf/runs");
    fs::remove_dir_all(&compared).unwrap();
    std::os::unix::fs::symlink(project.runs(), &compared).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(project.runs())
        .output()
        .unwrap();
    if !mounted.status.success() {
        let why = String::from_utf8_lossy(&mounted.stderr);
        return lacks("root", &format!("a tmpfs cannot be mounted here: {why}"));
    }
    let unmount = Unmount(project.runs());
    fs::write(project.runs().join("filler"), vec![0; 2 << 20]).unwrap_err();
    for command in BOOTING {
        let mut command = on(command, "./bzImage");
        if command.first() == Some(&"coverage") {
            // Its own results lie elsewhere.
            command.splice(1..1, ["--lcov", "target/ktstr/lines.info"]);
        }
        project.run(&command).exits(1).says(&["No space left"]);
    }
    let left: Vec<_> = files_below(&project.runs())
        .into_iter()
        .filter(|path| !path.ends_with("filler"))
        .filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 0))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    drop(unmount);
}

#[test]
fn an_interrupt_ends_every_command_with_its_tests() {
    for command in BOOTING {
        let project = project();
        let child = project
            .command(&on(command, "./bzImage"))
            .env("FAKE_HANG", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid: i32 = wait_for("the test to hang", || {
            fs::read_to_string(below(&project.root().join("target"), "hangs.pid")?)
                .ok()?
                .parse()
                .ok()
        });
        interrupt(&child);
        let ran = Ran::new(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(130), "{command:?}: {}", ran.stderr);
        let pid = Pid::from_raw(pid).unwrap();
        wait_for("the test's process to be gone", || {
            test_kill_process(pid).is_err().then_some(())
        });
        let temporary: Vec<_> = files_below(&project.runs())
            .into_iter()
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(".tmp")
            })
            .collect();
        assert!(temporary.is_empty(), "{command:?}: {temporary:?}");
    }
}

#[test]
fn two_of_a_kind_at_once_do_not_meet() {
    let project = project();
    mini_tree(&project.root(), "linux");
    project
        .run(&["test", "--kernel", "./bzImage", "passes"])
        .exits(0);
    let mut commands: Vec<Vec<&str>> = BOOTING
        .iter()
        .map(|command| on(command, "./bzImage"))
        .collect();
    commands.extend([
        vec!["stats"],
        vec!["report", "--output", "page.html"],
        vec!["kernel", "build", "./linux"],
        vec!["kernel", "list"],
    ]);
    for command in commands {
        // The verifier's sweep holds a red cell.
        let alone = project.run(&command).code;
        let start = || {
            project
                .command(&command)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        for child in [start(), start()] {
            let ran = Ran::new(child.wait_with_output().unwrap());
            assert_eq!(ran.code, alone, "{command:?}:\n{}", ran.stderr);
        }
    }
}
