//! What CI runs in the lab: the kvm engine's own tests, and tests of a user's kind with the verdicts that tcg gives.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use ktstr::host::evidence::sidecar::Sidecar;
use serde_json::Value;

use crate::lab::{Options, Outcome, find_program, initramfs, once, report};
use crate::sh;

/// Cases of `tests/src/bin/cases.rs` with one CPU each, and whether they pass; `tests/tests/verdicts.rs` has them on tcg.
const CASES: [(&str, bool); 3] = [
    ("smallest", true),
    ("fixture_one_cpu", true),
    (ERRING, false),
];
const ERRING: &str = "erroring_one_cpu";
/// Where the cases leave their records in the lab.
const RECORDS: &str = "/tmp/records";

pub(crate) fn options(command: Vec<String>) -> Options {
    Options {
        cpus: 2,
        memory: 2048,
        deadline: 1200,
        qemu: None,
        files: Vec::new(),
        outs: Vec::new(),
        env: Vec::new(),
        soak: None,
        command,
    }
}

/// Runs it once in the lab; a command that fails is a failure.
pub(crate) fn pass(name: &str, options: &Options) -> Result<()> {
    let (outcome, took) = once(options, &initramfs(options)?)?;
    report(&outcome, options);
    match outcome {
        Outcome::Status(0) => {
            eprintln!("  {name} ok ({:.1} s)", took.as_secs_f64());
            Ok(())
        }
        Outcome::Status(code) => {
            bail!("{name} failed with {code} in the lab; run `cargo xtask lab -- TEST`")
        }
        Outcome::Timeout(_) | Outcome::Lab(_) => bail!("{name} has no result, see the lab's words"),
    }
}

/// Tests with guests of Linux that have more than one vCPU at once.
const SMP: [&str; 5] = [
    "two_vcpus",
    "eight_vcpus",
    "freezes_a_hundred",
    "shape::",
    "sysfs::",
];
/// Seconds that one of them has: the longest, of ten shapes, takes 100 on a machine that does nothing else, and 4 times as long at
/// load 8.
const SMP_DEADLINE: u64 = 1000;
/// Labs that each of them has, to pass in one.
const SMP_LABS: u32 = 5;

/// The kvm engine's own tests, in the lab. A stock kernel under emulation and the largest shapes are left out: the one is for
/// hosts without a lab, the others take minutes.
pub(crate) fn kvm_tests() -> Result<()> {
    let mut command = vec![test_program("kvm")?, "--test-threads=1".to_owned()];
    for name in ["stock_kernel", "larger_presets"].iter().chain(&SMP) {
        command.extend(["--skip".to_owned(), (*name).to_owned()]);
    }
    pass("kvm-in-lab", &with_programs(options(command))?)
}

/// Guests of Linux with more vCPUs than one: each test has labs of its own until it passes in one, and how many that took is told.
/// The emulator of nested guests ends such a guest now and then, or the whole lab (QEMU 7.2: a triple fault of the outer machine,
/// which no program in it can cause by way of its KVM), or it stands still; a wrong shape is wrong in every lab.
pub(crate) fn kvm_smp_tests() -> Result<()> {
    let program = test_program("kvm")?;
    let names = smp_tests(&program)?;
    let programs = with_programs(options(Vec::new()))?;
    let (mut labs, mut failed) = (0, Vec::new());
    for name in &names {
        let mut options = programs.clone();
        options.deadline = SMP_DEADLINE;
        options.command = [program.as_str(), "--test-threads=1", "--exact", name]
            .map(String::from)
            .to_vec();
        let archive = initramfs(&options)?;
        let mut has_passed = false;
        for _ in 0..SMP_LABS {
            labs += 1;
            let (outcome, _) = once(&options, &archive)?;
            report(&outcome, &options);
            has_passed = outcome == Outcome::Status(0);
            if has_passed {
                break;
            }
        }
        if !has_passed {
            failed.push(name.as_str());
        }
    }
    let passed = names.len() - failed.len();
    eprintln!(
        "  kvm-smp-in-lab: {passed} of {} tests passed, in {labs} labs",
        names.len()
    );
    ensure!(
        failed.is_empty(),
        "these passed in none of {SMP_LABS} labs: {}",
        failed.join(", ")
    );
    Ok(())
}

/// The names of the tests with such guests.
fn smp_tests(program: &str) -> Result<Vec<String>> {
    let list = Command::new(program)
        .args(SMP)
        .args(["--list", "--format=terse", "--skip", "larger_presets"])
        .output()
        .with_context(|| format!("failed to run {program}"))?;
    let text = String::from_utf8_lossy(&list.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(
        names.len() >= SMP.len(),
        "{program} has no tests of the names in xtask/src/lab_tests.rs: {text}"
    );
    Ok(names)
}

/// The programs that guests of guests show their shape with.
fn with_programs(mut options: Options) -> Result<Options> {
    options.files.push(format!("{}:/bin/busybox", busybox()?));
    for name in ["lscpu", "lstopo-no-graphics"] {
        let found = find_program(name).context("it is needed; run `cargo xtask setup --checks`")?;
        options
            .files
            .push(format!("{}:/bin/{name}", found.display()));
    }
    let topology = crate::setup::scx_topology()?;
    options
        .files
        .push(format!("{}:/bin/scx-topology", topology.display()));
    Ok(options)
}

/// Builds an integration test and returns its program.
fn test_program(test: &str) -> Result<String> {
    program(&["test", "--workspace", "--test", test, "--no-run"], test)
}

/// Builds by `cargo` and returns the program of the target `name`.
pub(crate) fn program(cargo: &[&str], name: &str) -> Result<String> {
    program_where(cargo, name, |_| true)
}

/// The same where more packages have a target of that name.
pub(crate) fn program_of(package: &str, cargo: &[&str], name: &str) -> Result<String> {
    let manifest = format!("/{package}/Cargo.toml");
    program_where(cargo, name, |message| {
        let path = message["manifest_path"].as_str();
        path.is_some_and(|path| path.ends_with(&manifest))
    })
}

fn program_where(cargo: &[&str], name: &str, is_meant: impl Fn(&Value) -> bool) -> Result<String> {
    let mut build = sh::cargo(cargo);
    build.arg("--message-format=json");
    let built = build.stderr(Stdio::null()).output();
    let built = built.with_context(|| format!("failed to build {name}"))?;
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name && is_meant(message))
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .with_context(|| format!("{name} does not build; run `cargo {}`", cargo.join(" ")))
}

pub(crate) fn busybox() -> Result<String> {
    let found =
        find_program("busybox").context("busybox-static is needed; run `cargo xtask setup`")?;
    Ok(found.display().to_string())
}

/// Builds what tests boot, as the tests of `cargo test` have it; returns where it lies.
fn cases() -> Result<PathBuf> {
    let tests = ["test", "--workspace", "--test", "verdicts", "--no-run"];
    sh::logged("build-cases", &mut sh::cargo(&tests))?;
    let fixture = ["build", "--workspace", "--bin", "scx-fixture"];
    sh::logged("build-fixture", &mut sh::cargo(&fixture))?;
    Ok(sh::target().join("debug"))
}

/// Each fault leaves its own counters in its dump, under kvm too. `KTSTR_SOAK_RUNS` and `KTSTR_SOAK_FAULT` go in.
pub(crate) fn faults() -> Result<()> {
    let program = test_program("soak")?;
    let built = cases()?;
    let mut options = options(vec![program, "--nocapture".into()]);
    // A soak of twenty takes half an hour and more.
    options.deadline = 5400;
    // At the same path, where the test looks for it; the scheduler on PATH.
    let [captures, fixture] = ["captures", "scx-fixture"].map(|name| built.join(name));
    options.files.push(captures.display().to_string());
    let fixture = format!("{}:/bin/scx-fixture", fixture.display());
    options.files.push(fixture);
    pass("faults-in-lab", &options)
}

/// The cases give the same verdicts under kvm, which is chosen without being asked for.
pub(crate) fn verdicts() -> Result<()> {
    let built = cases()?;
    let dir = tempfile::tempdir()?;
    let names: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    // Each is judged by its record; what they print is shown.
    let script = format!(
        "for case in {}; do /bin/cases --exact $case --include-ignored; done; true",
        names.join(" ")
    );
    let mut options = options(vec![busybox()?, "sh".into(), "-c".into(), script]);
    for program in ["cases", "scx-fixture"] {
        let host = built.join(program);
        options
            .files
            .push(format!("{}:/bin/{program}", host.display()));
    }
    options
        .env
        .push(String::from("KTSTR_SCHEDULER=/bin/scx-fixture"));
    options.env.push(format!("KTSTR_SIDECAR_DIR={RECORDS}"));
    for name in names {
        let host = dir.path().join(name);
        options
            .outs
            .push(format!("{RECORDS}/{name}.json:{}", host.display()));
    }
    let repro = dir.path().join("repro");
    options
        .outs
        .push(format!("{RECORDS}/{ERRING}.repro.json:{}", repro.display()));
    pass("verdicts-in-lab", &options)?;
    for (name, passes) in CASES {
        check(&dir.path().join(name), passes).with_context(|| name)?;
    }
    let repro: Value = serde_json::from_slice(&std::fs::read(repro)?)
        .context("the failure was not tried again")?;
    ensure!(
        repro["reproduced"] == true && repro["probes"]["stopped"] == true,
        "a second run shows the exit, and the guest's own record ends with it; here found {}, probes {}",
        repro["found"],
        repro["probes"]
    );
    Ok(())
}

fn check(record: &Path, passes: bool) -> Result<()> {
    let bytes = std::fs::read(record)?;
    let record: Sidecar = serde_json::from_slice(&bytes).context("it left no record")?;
    let engine = record.engine.unwrap_or_default();
    let why = record.engine_why.unwrap_or_default();
    ensure!(engine == "kvm", "it ran on {engine}: {why}");
    let expected = if passes { "pass" } else { "fail" };
    let found = record.verdict.as_str();
    ensure!(
        found == expected,
        "the verdict is {found}, on tcg it is {expected}: {}",
        record.message.unwrap_or_default()
    );
    Ok(())
}
