//! Ctrl-C in mid-run: nothing of ours stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::fixture::{Project, Ran, files_below};

const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for something with a deadline; the pause between looks is a poll on nothing.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "waited {DEADLINE:?} for {what}"
        );
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

pub(crate) fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

pub(crate) fn below(dir: &Path, name: &str) -> Option<PathBuf> {
    files_below(dir)
        .into_iter()
        .find(|path| path.file_name().is_some_and(|file| file == name))
}

#[test]
fn a_test_run_ends_with_its_tests() {
    for runner in ["cargo", "auto"] {
        let project = Project::new();
        let child = project
            .command(&[
                "test",
                "--kernel",
                "./bzImage",
                "--runner",
                runner,
                "--ignored",
                "hangs",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid: i32 = wait_for("the test to hang", || {
            fs::read_to_string(below(&project.runs(), "hangs.pid")?)
                .ok()?
                .parse()
                .ok()
        });
        interrupt(&child);
        let ran = Ran::new(child.wait_with_output().unwrap());
        ran.exits(130).says(&["ktstr: "]);
        let pid = Pid::from_raw(pid).unwrap();
        wait_for("the test's process to be gone", || {
            test_kill_process(pid).is_err().then_some(())
        });
        // The manifest says how it ended.
        let manifest = fs::read_to_string(below(&project.runs(), ".run.json").unwrap()).unwrap();
        assert!(manifest.contains("\"ended_at\": 1"), "{manifest}");
    }
}

#[test]
fn a_kernel_build_stops_and_leaves_nothing() {
    let project = Project::new();
    let tree = project.root().join("linux");
    fs::create_dir(&tree).unwrap();
    // Its configuration step blocks on a pipe that nobody writes.
    assert!(
        std::process::Command::new("mkfifo")
            .arg(tree.join("wait"))
            .status()
            .unwrap()
            .success()
    );
    fs::write(
        tree.join("Makefile"),
        "allnoconfig:\n\ttouch $(CURDIR)/waiting\n\tcat $(CURDIR)/wait\n",
    )
    .unwrap();
    let child = project
        .command(&["kernel", "build", "./linux"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the build to be under way", || {
        tree.join("waiting").exists().then_some(())
    });
    interrupt(&child);
    Ran::new(child.wait_with_output().unwrap())
        .exits(130)
        .says(&["stopped by the user"]);
    let left: Vec<_> = files_below(&project.cache())
        .into_iter()
        .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let dirs: Vec<_> = fs::read_dir(project.cache().join("kernels"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(dirs.len(), 1, "only the lock file: {dirs:?}");
}
