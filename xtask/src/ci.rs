//! `cargo xtask ci`

use std::process::Command;

use anyhow::{Result, bail};

use crate::{book, kernel, lab_tests, setup, sh, tidy};

/// Runs every check, then lists all that failed.
pub(crate) fn run() -> Result<()> {
    kernel::run(&kernel::Options::default())?;
    setup::for_checks()?;
    let mut done = Steps::default();
    let mut note = |name: &str, result| done.note(name, result);
    note("tidy", tidy::run());
    let cargo: [(&str, &[&str]); 5] = [
        ("fmt", &["fmt", "--all", "--check"]),
        (
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        ("doc", &["doc", "--workspace", "--no-deps"]),
        (
            "unit-tests",
            &[
                "test",
                "--workspace",
                "--exclude",
                "ktstr-tests",
                "--no-fail-fast",
            ],
        ),
        ("vm-tests", &["test", "-p", "ktstr-tests", "--no-fail-fast"]),
    ];
    for (name, args) in cargo {
        note(
            name,
            sh::logged(name, with_flags(name, &mut sh::cargo(args))),
        );
    }
    done.note("book", book::run());
    run_in_lab(&mut done);
    done.finish()
}

/// The steps in the lab alone.
pub(crate) fn lab() -> Result<()> {
    kernel::run(&kernel::Options::default())?;
    let mut steps = Steps::default();
    run_in_lab(&mut steps);
    steps.finish()
}

fn run_in_lab(steps: &mut Steps) {
    steps.note("kvm-in-lab", lab_tests::kvm_tests());
    steps.note("verdicts-in-lab", lab_tests::verdicts());
    steps.note("faults-in-lab", lab_tests::faults());
}

/// What has passed and what has failed.
#[derive(Debug, Default)]
struct Steps {
    passed: usize,
    failed: Vec<String>,
}

impl Steps {
    fn note(&mut self, name: &str, done: Result<()>) {
        match done {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    fn finish(self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed.len());
        if self.failed.is_empty() {
            Ok(())
        } else {
            bail!("failed: {}", self.failed.join(", "))
        }
    }
}

fn with_flags<'c>(name: &str, command: &'c mut Command) -> &'c mut Command {
    if name == "doc" {
        command.env("RUSTDOCFLAGS", "-D warnings")
    } else if name == "vm-tests" {
        // Tests that measure share their host with nothing but their own VM.
        command.env("RUST_TEST_THREADS", "1")
    } else {
        command
    }
}
