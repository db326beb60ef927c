//! `cargo xtask bugs`: scheduler bugs that happened, planted into kernels again, and what finds them.
//!
//! `tests/bugs/<name>/` has the test in `test.rs`, what is known of the bug in `bug.toml`, and for each series of kernels that is
//! to get it the edits in `<series>.toml`. Where a kernel has the bug as shipped there is nothing to plant.

mod chapter;
mod results;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use ktstr::host::evidence::sidecar::{Sidecar, collect_pool};
use ktstr::model::verdict::{DetailKind, Outcome};
use ktstr_kernel::Changes;
use serde::Deserialize;

use crate::{kernel, lab_tests, setup, sh};
use results::{Class, Kind, Results, Row, Runs};

/// Which bugs, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Folders of `tests/bugs`; all of them when none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Run each test under seeds 0 to N-1, on the kernel with the bug and on the one without.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Only kernels of this series, such as 6.12.
    #[arg(long, value_name = "SERIES")]
    series: Option<String>,
    /// Build the kernels and run nothing.
    #[arg(long)]
    build_only: bool,
}

/// What `bug.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    class: Class,
    what: String,
    /// The commit that mended it.
    #[serde(default)]
    fix: Option<String>,
    /// Where it was reported, if there is no commit.
    #[serde(default)]
    issue: Option<String>,
    /// Series whose kernels have it as they are shipped.
    #[serde(default)]
    shipped: Vec<String>,
    /// Whether the test itself says what is wrong; else it only triggers.
    #[serde(default)]
    asserts: bool,
    /// Invariants, or kinds of findings, of which one is to be among the findings.
    expect: Vec<String>,
}

#[derive(Debug)]
struct Bug {
    name: String,
    known: Known,
    /// Files of edits by series.
    edits: BTreeMap<String, PathBuf>,
}

/// Builds, runs, and writes the chapter.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run()?;
    let dir = sh::root().join("tests/bugs");
    let bugs = chosen(&dir, &options.names)?;
    let test = Test::build()?;
    let path = dir.join("results.json");
    for bug in &bugs {
        let planted = bug.edits.keys().map(|series| (series, Kind::Planted));
        let shipped = bug
            .known
            .shipped
            .iter()
            .map(|series| (series, Kind::Shipped));
        for (series, kind) in planted.chain(shipped) {
            if options.series.as_ref().is_some_and(|only| only != series) {
                continue;
            }
            let (bad, good) = kernels(bug, series, kind)?;
            if options.build_only {
                continue;
            }
            let with = test.runs(bug, series, &bad, options.seeds)?;
            let without = match good {
                Some(good) => Some(test.runs(bug, series, &good, options.seeds)?),
                None => None,
            };
            let known = &bug.known;
            let row = Row {
                name: bug.name.clone(),
                class: known.class,
                what: known.what.clone(),
                fix: known.fix.clone().or_else(|| known.issue.clone()),
                asserts: known.asserts,
                series: series.clone(),
                kind,
                with,
                without,
            };
            println!("{}", row.line());
            // Another of this command may have added rows meanwhile.
            let mut results = Results::read(&path)?;
            results.put(row);
            results.write(&path)?;
        }
    }
    if !options.build_only {
        let text = chapter::text(&Results::read(&path)?);
        let chapter = sh::root().join(chapter::PATH);
        fs::write(&chapter, text)
            .with_context(|| format!("failed to write {}", chapter.display()))?;
        println!("{}", chapter.display());
    }
    Ok(())
}

/// The folders of `dir` that were named, or all.
fn chosen(dir: &Path, names: &[String]) -> Result<Vec<Bug>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        if path.join("bug.toml").is_file() {
            all.push(read(&path)?);
        }
    }
    all.sort_by(|a, b| (a.known.class, &a.name).cmp(&(b.known.class, &b.name)));
    for name in names {
        let is_known = all.iter().any(|bug| bug.name == *name);
        let have: Vec<&str> = all.iter().map(|bug| bug.name.as_str()).collect();
        ensure!(
            is_known,
            "tests/bugs has no '{name}'; it has {}",
            have.join(", ")
        );
    }
    if !names.is_empty() {
        all.retain(|bug| names.contains(&bug.name));
    }
    Ok(all)
}

fn read(dir: &Path) -> Result<Bug> {
    let file = dir.join("bug.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let known: Known = toml::from_str(&text)
        .with_context(|| format!("cannot read the description of the bug {}", file.display()))?;
    let mut edits = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if let Some(series) = name.as_deref().and_then(|name| name.strip_suffix(".toml"))
            && series != "bug"
        {
            edits.insert(series.to_owned(), path.clone());
        }
    }
    ensure!(
        !edits.is_empty() || !known.shipped.is_empty(),
        "{} has neither a file of edits, such as 6.12.toml, nor a series in `shipped`",
        dir.display()
    );
    let name = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Bug {
        name: name.unwrap_or_default(),
        known,
        edits,
    })
}

/// Images of the kernel with the bug, and of the one without, where there is one.
fn kernels(bug: &Bug, series: &str, kind: Kind) -> Result<(PathBuf, Option<PathBuf>)> {
    let (cache, source) = kernel::source_of_series(series)?;
    let clean = kernel::changed(&cache, &source, &Changes::default())?;
    let Some(edits) = bug.edits.get(series).filter(|_| kind == Kind::Planted) else {
        return Ok((clean, None));
    };
    let changes = Changes::read(std::slice::from_ref(edits), &[])?;
    let began = Instant::now();
    let planted = kernel::changed(&cache, &source, &changes)?;
    eprintln!(
        "  {} in {series}: {} ({:.0} s)",
        bug.name,
        planted.display(),
        began.elapsed().as_secs_f64()
    );
    Ok((planted, Some(clean)))
}

/// The program with all triggers.
struct Test {
    program: String,
    qemu: Option<PathBuf>,
}

impl Test {
    fn build() -> Result<Self> {
        let fixture = ["build", "--workspace", "--bin", "scx-fixture"];
        sh::logged("build-fixture", &mut sh::cargo(&fixture))?;
        let build = ["test", "--workspace", "--test", "bugs", "--no-run"];
        Ok(Self {
            program: lab_tests::program_of("tests", &build, "bugs")?,
            qemu: setup::newer_qemu().ok(),
        })
    }

    /// All seeds on one kernel.
    fn runs(&self, bug: &Bug, series: &str, image: &Path, seeds: u64) -> Result<Runs> {
        let mut runs = Runs::default();
        for seed in 0..seeds {
            let began = Instant::now();
            let record = self
                .record(bug, series, image, seed)
                .with_context(|| format!("{}, {}, seed {seed}", bug.name, image.display()))?;
            let checks = checks(&record);
            let is_meant = record.verdict == Outcome::Fail
                && checks.iter().any(|check| bug.known.expect.contains(check));
            let ms = record.vm_ms.unwrap_or(0);
            runs.note(record.verdict, is_meant, &checks, ms, began.elapsed());
            if record.verdict == Outcome::Fail && !is_meant {
                let said = record.message.unwrap_or_default();
                eprintln!("  {} seed {seed}: not as expected: {said}", bug.name);
            }
        }
        Ok(runs)
    }

    fn record(&self, bug: &Bug, series: &str, image: &Path, seed: u64) -> Result<Sidecar> {
        let dir = tempfile::tempdir().context("failed to create a directory")?;
        let mut command = Command::new(&self.program);
        command
            .arg(format!("{}::trigger", bug.name))
            .args(["--exact", "--include-ignored"])
            .env("KTSTR_KERNEL", image)
            .env("KTSTR_SEED", seed.to_string())
            .env("KTSTR_TIME", "virtual")
            .env("KTSTR_SIDECAR_DIR", dir.path())
            .current_dir(sh::root().join("tests"))
            .stdin(Stdio::null());
        // Newer kernels change their text while they boot, which older emulators do not bear with several CPUs.
        if let Some(qemu) = self.qemu.as_ref().filter(|_| series != "6.12") {
            command.env("KTSTR_QEMU", qemu);
        }
        let output = command.output().context("failed to run the tests")?;
        let pool = collect_pool(dir.path()).context("failed to read the record")?;
        let Some(record) = pool.sidecars.into_iter().next() else {
            let said = String::from_utf8_lossy(&output.stdout);
            bail!("the test left no record: {said}");
        };
        Ok(record)
    }
}

/// What found something: names of rules of the kernel's books, kinds of other findings.
fn checks(record: &Sidecar) -> Vec<String> {
    let mut checks = Vec::new();
    for detail in record.result.failure_details() {
        let name = match detail.kind {
            DetailKind::Invariant => rule_of(&detail.message),
            kind => format!("{kind:?}"),
        };
        if !checks.contains(&name) {
            checks.push(name);
        }
    }
    checks
}

/// `the kernel's books: NAME: …`
fn rule_of(message: &str) -> String {
    let mut parts = message.split(": ");
    parts.nth(1).unwrap_or("Invariant").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every folder is one that the command can run: its test is a module of `tests/tests/bugs.rs`, its rules exist.
    #[test]
    fn every_bug_has_a_test_and_names_checks_that_exist() {
        let root = sh::root().join("tests");
        let modules = fs::read_to_string(root.join("tests/bugs.rs")).unwrap();
        let bugs = chosen(&root.join("bugs"), &[]).unwrap();
        assert!(!bugs.is_empty());
        for bug in bugs {
            let module = format!("#[path = \"../bugs/{0}/test.rs\"]\nmod {0};", bug.name);
            assert!(modules.contains(&module), "{}", bug.name);
            for check in &bug.known.expect {
                let is_kind = serde_json::from_str::<DetailKind>(&format!("{check:?}")).is_ok();
                let is_rule = ktstr::host::tools::check::TABLE
                    .iter()
                    .any(|rule| rule.name == check);
                assert!(is_kind || is_rule, "{}: {check}", bug.name);
            }
            for path in bug.edits.values() {
                Changes::read(std::slice::from_ref(path), &[]).unwrap();
            }
        }
    }

    #[test]
    fn a_rule_is_read_out_of_its_finding() {
        let text = "the kernel's books: cfs-load: CPU 1: root: expected a, found b; the rule: c";
        assert_eq!(rule_of(text), "cfs-load");
    }

    #[test]
    fn a_bug_that_is_not_there_is_told_with_those_that_are() {
        let dir = sh::root().join("tests/bugs");
        let error = chosen(&dir, &["nope".into()]).unwrap_err().to_string();
        assert!(
            error.contains("'nope'") && error.contains("offlined_group_load"),
            "{error}"
        );
    }
}
