//! `cargo xtask ci`

use std::process::Command;

use anyhow::Result;

use crate::steps::Steps;
use crate::{book, fuzz, kernel, lab_tests, other, setup, sh, space, tidy};

/// Runs every check, then lists all that failed.
pub(crate) fn run(all_kernels: bool) -> Result<()> {
    space::for_checks(&sh::target())?;
    let mut done = Steps::default();
    // Without these nothing else can be judged.
    done.time("kernel", || kernel::run(&kernel::Options::default()))?;
    done.time("setup", setup::for_checks)?;
    done.note("tidy", tidy::run);
    let cargo: [(&str, &[&str]); 4] = [
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
    ];
    for (name, args) in cargo {
        done.note(name, || {
            sh::logged(name, with_flags(name, &mut sh::cargo(args)))
        });
    }
    // Whole systems in virtual time keep one CPU busy.
    done.beside(
        |steps| {
            steps.note("vm-tests", || other::whole_system_tests("vm-tests", &[]));
        },
        |steps| {
            steps.note("deny", deny);
            steps.note("fuzz", || fuzz::run(&fuzz::Options::short()));
            steps.note("book", book::run);
            other::newest_kernel(steps, all_kernels);
            other::newer_qemu(steps);
        },
    );
    run_in_lab(&mut done);
    done.finish()
}

fn deny() -> Result<()> {
    let mut deny = Command::new(setup::cargo_deny()?);
    deny.args(["check", "bans", "licenses", "sources"]);
    sh::logged("deny", deny.current_dir(sh::root()))
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
    steps.note("kvm-smp-in-lab", lab_tests::kvm_smp_tests);
    steps.note("verdicts-in-lab", lab_tests::verdicts);
    steps.note("faults-in-lab", lab_tests::faults);
}

fn with_flags<'c>(name: &str, command: &'c mut Command) -> &'c mut Command {
    if name == "doc" {
        command.env("RUSTDOCFLAGS", "-D warnings")
    } else if name == "unit-tests" && ktstr_vmm::probe().engine != ktstr_vmm::Engine::Kvm {
        // The steps in the lab run these.
        command.env("KTSTR_TESTS_LACK", "kvm")
    } else {
        command
    }
}
