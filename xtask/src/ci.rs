//! `cargo xtask ci`

use std::process::Command;

use anyhow::{Result, bail};

use crate::{kernel, lab_tests, setup, sh, tidy};

/// Runs every check, then lists all that failed.
pub(crate) fn run() -> Result<()> {
    kernel::run(&kernel::Options::default())?;
    setup::for_checks()?;
    let mut failed = Vec::new();
    let mut passed = 0usize;
    let mut note = |name: &str, done: Result<()>| match done {
        Ok(()) => passed += 1,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            failed.push(name.to_owned());
        }
    };
    note("tidy", tidy::run());
    let steps: [(&str, &[&str]); 5] = [
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
    for (name, args) in steps {
        note(
            name,
            sh::logged(name, with_flags(name, &mut sh::cargo(args))),
        );
    }
    note("kvm-in-lab", lab_tests::kvm_tests());
    note("verdicts-in-lab", lab_tests::verdicts());
    println!("{passed} passed, {} failed", failed.len());
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("failed: {}", failed.join(", "))
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
