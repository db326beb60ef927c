//! `cargo xtask ci`

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{book, fuzz, kernel, lab_tests, other, setup, sh, tidy};

/// Runs every check, then lists all that failed.
pub(crate) fn run(all_kernels: bool) -> Result<()> {
    let mut done = Steps::default();
    // Without these nothing else can be judged.
    done.time("kernel", || kernel::run(&kernel::Options::default()))?;
    done.time("setup", setup::for_checks)?;
    done.note("tidy", tidy::run);
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
        done.note(name, || {
            sh::logged(name, with_flags(name, &mut sh::cargo(args)))
        });
    }
    done.note("deny", || {
        let mut deny = Command::new(setup::cargo_deny()?);
        deny.args(["check", "bans", "licenses", "sources"]);
        sh::logged("deny", deny.current_dir(sh::root()))
    });
    done.note("fuzz", || fuzz::run(&fuzz::Options::short()));
    done.note("book", book::run);
    other::newest_kernel(&mut done, all_kernels);
    other::newer_qemu(&mut done);
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
    steps.note("kvm-in-lab", lab_tests::kvm_tests);
    steps.note("verdicts-in-lab", lab_tests::verdicts);
    steps.note("faults-in-lab", lab_tests::faults);
}

/// What has passed and what has failed, and how long each took.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
    took: Vec<(String, Duration)>,
}

impl Steps {
    fn time<T>(&mut self, name: &str, step: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = step();
        self.took.push((name.to_owned(), started.elapsed()));
        done
    }

    pub(crate) fn note(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.time(name, step) {
            eprintln!("{name}: {error:#}");
            self.failed.push(name.to_owned());
        }
    }

    /// One line for each step and one for all.
    fn summary(&self) -> String {
        let mut text = String::new();
        for (name, took) in &self.took {
            let mark = if self.failed.contains(name) {
                "  FAILED"
            } else {
                ""
            };
            text.push_str(&format!("{name:<16} {:>8}{mark}\n", minutes(*took)));
        }
        let whole = self.took.iter().map(|(_, took)| *took).sum();
        let passed = self.took.len() - self.failed.len();
        let failed = self.failed.len();
        text.push_str(&format!(
            "{passed} passed, {failed} failed, in {}",
            minutes(whole)
        ));
        text
    }

    fn finish(self) -> Result<()> {
        println!("{}", self.summary());
        if self.failed.is_empty() {
            Ok(())
        } else {
            bail!("failed: {}", self.failed.join(", "))
        }
    }
}

fn minutes(took: Duration) -> String {
    format!("{}:{:02} min", took.as_secs() / 60, took.as_secs() % 60)
}

fn with_flags<'c>(name: &str, command: &'c mut Command) -> &'c mut Command {
    if name == "doc" {
        command.env("RUSTDOCFLAGS", "-D warnings")
    } else if name == "unit-tests" && ktstr_vmm::probe().engine != ktstr_vmm::Engine::Kvm {
        // The steps in the lab run these.
        command.env("KTSTR_TESTS_LACK", "kvm")
    } else if name == "vm-tests" {
        // Tests that measure share their host with nothing but their own VM.
        command.env("RUST_TEST_THREADS", "1")
    } else {
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_with_its_time_and_its_failure() {
        let mut steps = Steps::default();
        steps.note("tidy", || Ok(()));
        steps.note("clippy", || bail!("no"));
        steps.took[1].1 = Duration::from_secs(125);
        assert_eq!(
            steps.summary(),
            "tidy             0:00 min\nclippy           2:05 min  FAILED\n1 passed, 1 failed, in 2:05 min"
        );
        assert!(
            steps
                .finish()
                .unwrap_err()
                .to_string()
                .contains("failed: clippy")
        );
    }
}
