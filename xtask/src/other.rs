//! What CI runs beside its usual kernel and emulator: the newest series of kernels, and a newer QEMU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::steps::Steps;
use crate::stock_kernel::NEWEST_SERIES;
use crate::{kernel, lab_tests, qemu, setup, sh};

/// The whole-system tests that say most of a kernel: what depends on its structures and symbols, and the newest of what it
/// has. Tests with disks and cards are not among them: Debian's kernel has those drivers as modules.
const ON_NEWEST_KERNEL: [&str; 6] = [
    "eevdf_passes",
    "the_fixture_passes",
    "captures_are_read_by_name",
    "an_error_shows_the_same_without_a_vmlinux",
    "drgn_opens_a_vmcore_as_the_message_says",
    "a_childs_scheduler_that_fails_is_named",
];

/// A scheduler that runs, one that the kernel ejects, and cards of ours: what differs between emulators.
const ON_NEWER_QEMU: [&str; 4] = [
    "eevdf_passes",
    "the_fixture_passes",
    "an_error_of_the_scheduler_is_the_bug_summary",
    "a_disk_and_a_network_card_are_there_and_counted",
];

/// The monitor's tests with and without a vmlinux, and a few whole-system tests, on Debian's own kernel: it is
/// there in a minute. With `all`, all whole-system tests on one that we build, which takes ten.
///
/// All of them run on the newer QEMU: before 8.1 a vCPU may translate a breakpoint while another takes it
/// out of the kernel's text, keeps the stale block, and dies of "Oops: int3". This kernel pokes its text while it boots.
pub(crate) fn newest_kernel(steps: &mut Steps, all: bool) {
    let name = |what: &str| format!("{what}-{NEWEST_SERIES}");
    let mut image = None;
    steps.note(&name("kernel"), || {
        image = Some(if all {
            kernel::of_series(NEWEST_SERIES)?
        } else {
            setup::newest_kernel()?
        });
        Ok(())
    });
    // That it cannot be had is told already.
    let Some(image) = image else { return };
    let monitor = |name: &str, image: &Path, more: &[&str]| {
        let mut test = Command::new(monitor_tests()?);
        test.args(more)
            .current_dir(sh::root().join("crates/ktstr-monitor"))
            .env("KTSTR_KERNEL", image)
            .env("KTSTR_QEMU", setup::newer_qemu()?);
        sh::logged(name, &mut test)
    };
    let step = name("monitor");
    steps.note(&step, || monitor(&step, &image, &[]));
    let step = name("monitor-bare");
    // Its twenty boots read memory alone, so they would be the same ones again.
    let again = ["--skip", "the_slide_is_found_in_every_boot"];
    steps.note(&step, || monitor(&step, &bare(&image)?, &again));
    let step = name("vm-tests");
    steps.note(&step, || {
        let qemu = setup::newer_qemu()?;
        let variables = [("KTSTR_KERNEL", image.as_path()), ("KTSTR_QEMU", &qemu)];
        if all {
            return whole_system_tests(&step, &variables);
        }
        chosen(&step, &ON_NEWEST_KERNEL, &variables)
    });
}

/// A few tests on another emulator than the system's.
pub(crate) fn newer_qemu(steps: &mut Steps) {
    let step = format!("qemu-{}", qemu::SERIES);
    steps.note(&step, || {
        let program = setup::newer_qemu()?;
        chosen(&step, &ON_NEWER_QEMU, &[("KTSTR_QEMU", &program)])
    });
}

/// The image with nothing beside it, as a distribution's is.
fn bare(image: &Path) -> Result<PathBuf> {
    let dir = sh::target().join("tools/bare-kernel");
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let copy = dir.join("bzImage");
    fs::copy(image, &copy).with_context(|| format!("failed to copy {}", image.display()))?;
    Ok(copy)
}

/// Tests whose guests are in host time and measure: one at a time, so that each shares its host with nothing but its own VM.
const MEASURING: &str = "workloads";

/// All whole-system tests. Not by `-p`: of the whole workspace, dependencies have one set of features, and are built once. Two
/// at a time where most guests are in virtual time, in which a guest keeps one CPU busy and sees nothing of the other.
pub(crate) fn whole_system_tests(step: &str, variables: &[(&str, &Path)]) -> Result<()> {
    let (measuring, others): (Vec<String>, Vec<String>) = targets(&sh::root().join("tests/tests"))?
        .into_iter()
        .partition(|name| name == MEASURING);
    let run = |step: &str, names: &[String], threads: &str| {
        let mut test = sh::cargo(&["test", "--workspace", "--no-fail-fast"]);
        for name in names {
            test.args(["--test", name]);
        }
        test.envs(variables.iter().copied())
            .env("RUST_TEST_THREADS", threads);
        sh::logged(step, &mut test)
    };
    // Both, whatever the first one says.
    let first = run(step, &others, "2");
    let second = run(&format!("{step}-{MEASURING}"), &measuring, "1");
    first.and(second)
}

/// The test targets of a package: its files.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("failed to list {}", dir.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_rust = path.extension()? == "rs";
            is_rust.then(|| Some(path.file_stem()?.to_string_lossy().into_owned()))?
        })
        .collect();
    names.sort();
    Ok(names)
}

/// The monitor's tests, built as in all other steps. Other packages have a target of that name, too.
fn monitor_tests() -> Result<String> {
    let build = ["test", "--workspace", "--test", "it", "--no-run"];
    lab_tests::program_of("ktstr-monitor", &build, "it")
}

/// Whole-system tests by name; one that is not there is a failure.
fn chosen(step: &str, names: &[&str], variables: &[(&str, &Path)]) -> Result<()> {
    let mut test = sh::cargo(&["test", "--workspace", "--no-fail-fast"]);
    for target in ["verdicts", "captures"] {
        test.args(["--test", target]);
    }
    test.args(["--", "--exact"])
        .args(names)
        .envs(variables.iter().copied())
        .env("RUST_TEST_THREADS", "1");
    sh::logged(step, &mut test)?;
    let path = sh::log_path(step)?;
    let log =
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let missing = not_passed(&log, names);
    ensure!(
        missing.is_empty(),
        "no test of verdicts and captures has this name: {}; mend the list in xtask/src/other.rs",
        missing.join(", ")
    );
    Ok(())
}

/// Those of `names` that the log of test binaries does not tell to have passed.
fn not_passed<'n>(log: &str, names: &[&'n str]) -> Vec<&'n str> {
    let passed = |name: &&&str| {
        log.lines()
            .any(|line| line == format!("test {name} ... ok"))
    };
    names.iter().filter(|name| !passed(name)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_system_tests_are_all_of_them() {
        let names = targets(&sh::root().join("tests/tests")).unwrap();
        assert!(names.len() >= 11, "{names:?}");
        for name in ["captures", "verdicts", "workloads"] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
    }

    #[test]
    fn a_name_without_a_test_is_seen() {
        let log = "running 1 test\ntest eevdf_passes ... ok\ntest other ... FAILED\n";
        assert_eq!(
            not_passed(log, &["eevdf_passes", "other", "eevdf"]),
            ["other", "eevdf"]
        );
    }
}
