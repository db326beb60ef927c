//! `cargo xtask fuzz`: every fuzz target, built as cargo-fuzz builds them, for a time each.
//!
//! Targets are separate packages with the nightly toolchain, `crates/*/fuzz`. Inputs that reached something new are kept in
//! `corpus/TARGET` there; what breaks a target is kept in `artifacts/TARGET`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use crate::sh;

/// For how long, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only the targets of this name.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

impl Options {
    /// What CI does.
    pub(crate) fn short() -> Self {
        Self {
            seconds: 60,
            target: None,
        }
    }
}

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Coverage for libFuzzer, memory errors, and overflow checks (LLVM docs/SanitizerCoverage.rst; the flags of cargo-fuzz).
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Zsanitizer=address -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing";
/// Memory of one target, in MiB, and seconds for one input.
const LIMITS: [&str; 2] = ["-rss_limit_mb=2048", "-timeout=10"];

/// A target that is built.
struct Target {
    package: PathBuf,
    program: PathBuf,
    name: String,
}

/// Builds the targets and runs them, as many at a time as there are CPUs, for each is one thread; all run even if one fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut all = Vec::new();
    for package in packages()? {
        let wanted = |name: &String| options.target.as_ref().is_none_or(|target| target == name);
        let names: Vec<String> = targets(&package)?.into_iter().filter(wanted).collect();
        if names.is_empty() {
            continue;
        }
        let built = build(&package)?;
        all.extend(names.into_iter().map(|name| Target {
            package: package.clone(),
            program: built.join(&name),
            name,
        }));
    }
    let count = all.len();
    ensure!(count > 0, "there is no fuzz target of that name");
    let failed = at_once(all, |target| {
        let done = fuzz(target, options.seconds);
        done.inspect_err(|error| eprintln!("{error:#}")).is_err()
    });
    let failed: Vec<String> = failed.into_iter().map(|target| target.name).collect();
    if failed.is_empty() {
        println!("{count} fuzz targets ran for {} s each", options.seconds);
        return Ok(());
    }
    bail!("fuzz targets failed: {}", failed.join(", "))
}

/// Those for which `is_meant` holds, which is asked on as many threads as there are CPUs; in their order.
fn at_once<T: Send>(all: Vec<T>, is_meant: impl Fn(&T) -> bool + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let waiting = Mutex::new(all.into_iter().enumerate());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next()
    };
    let work = || {
        let mine = std::iter::from_fn(next);
        mine.filter(|(_, one)| is_meant(one)).collect::<Vec<_>>()
    };
    let mut found: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().flat_map(|worker| {
            let joined = worker.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        done.collect()
    });
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, one)| one).collect()
}

/// The directories of fuzz packages, each with targets.
fn packages() -> Result<Vec<PathBuf>> {
    let crates = sh::root().join("crates");
    let entries =
        fs::read_dir(&crates).with_context(|| format!("failed to list {}", crates.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("fuzz")))
        .filter(|fuzz| fuzz.join("Cargo.toml").is_file())
        .collect();
    found.sort();
    Ok(found)
}

/// Names of a package's targets.
fn targets(package: &Path) -> Result<Vec<String>> {
    let dir = package.join("fuzz_targets");
    let entries =
        fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some(path.file_stem()?.to_string_lossy().into_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Builds all targets of a package; returns where they are.
fn build(package: &Path) -> Result<PathBuf> {
    let name = package.parent().and_then(Path::file_name);
    let name = name.unwrap_or_default().to_string_lossy();
    let target = sh::target().join("fuzz");
    // A toolchain that calls this one would choose for it, too.
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "+nightly",
            "build",
            "--release",
            "--bins",
            "--target",
            TRIPLE,
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(package)
        .env("RUSTFLAGS", FLAGS)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    sh::logged(&format!("fuzz-build-{name}"), &mut cargo)?;
    Ok(target.join(TRIPLE).join("release"))
}

fn fuzz(target: &Target, seconds: u32) -> Result<()> {
    let Target {
        package,
        program,
        name,
    } = target;
    let corpus = package.join("corpus").join(name);
    let artifacts = package.join("artifacts").join(name);
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    }
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .args(LIMITS)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus);
    sh::logged(&format!("fuzz-{name}"), &mut command).with_context(|| {
        format!(
            "fuzz target {name}; its input is in {}",
            artifacts.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_asked_and_those_that_are_meant_keep_their_order() {
        let odd = at_once((0..101).collect(), |number| number % 2 == 1);
        assert_eq!(odd, (0..101).filter(|n| n % 2 == 1).collect::<Vec<i32>>());
        assert!(at_once(Vec::<u8>::new(), |_| true).is_empty());
    }

    /// A target that no manifest lists is never built.
    #[test]
    fn every_target_is_in_its_manifest() {
        let mut count = 0;
        for package in packages().unwrap() {
            let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
            for target in targets(&package).unwrap() {
                count += 1;
                let listed = format!("fuzz_targets/{target}.rs");
                assert!(
                    manifest.contains(&listed),
                    "{listed} of {}",
                    package.display()
                );
            }
        }
        assert!(count >= 7, "{count} fuzz targets");
    }
}
