//! One test's result, as every report shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ktstr::host::evidence::artifacts::{ARTIFACT_SUFFIXES, artifact_path};
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::model::names::file_stem;
use ktstr::model::verdict::Outcome;

use super::Seen;
use crate::runs::RunDir;

/// A test on one kernel.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The test's name, with its binary's where another binary has a test of that name.
    pub(crate) name: String,
    /// The name by which a runner knows it.
    pub(crate) test: String,
    /// Package and target of its binary.
    pub(crate) binary: String,
    /// Label of the kernel.
    pub(crate) kernel: String,
    pub(crate) verdict: Outcome,
    /// The failure message or the skip reason.
    pub(crate) message: String,
    pub(crate) seconds: f64,
    /// Headlines of the attempts before the last, each of which failed.
    pub(crate) failed_before: Vec<String>,
    /// Files that it left, existing ones only.
    pub(crate) artifacts: Vec<PathBuf>,
    /// The whole record; absent for a test that left none.
    pub(crate) sidecar: Option<Sidecar>,
    /// The directory that it lies in.
    pub(crate) dir: RunDir,
}

impl Case {
    /// The line of the message that says most: the bug summary, else the first finding; of a flaky test, what came before.
    pub(crate) fn headline(&self) -> String {
        if self.is_flaky() {
            return format!("flaky: {}", self.attempts());
        }
        headline(&self.message, self.sidecar.as_ref())
    }

    /// Which attempt passed, and what the ones before it failed with.
    pub(crate) fn attempts(&self) -> String {
        format!(
            "passed at attempt {}; before it: {}",
            self.failed_before.len() + 1,
            self.failed_before.join("; ")
        )
    }

    /// The name by which a runner knows the test.
    pub(crate) fn test(&self) -> &str {
        &self.test
    }

    /// Failed or could not be judged.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.verdict, Outcome::Fail | Outcome::Inconclusive)
    }

    /// Passed, and not at the first attempt.
    pub(crate) fn is_flaky(&self) -> bool {
        self.verdict == Outcome::Pass && !self.failed_before.is_empty()
    }
}

fn headline(message: &str, sidecar: Option<&Sidecar>) -> String {
    let finding = sidecar.and_then(|sidecar| {
        let result = &sidecar.result;
        let detail = result
            .failure_details()
            .chain(result.inconclusive_details())
            .next()?;
        Some(detail.message.lines().next().unwrap_or_default().to_owned())
    });
    let summary = message
        .lines()
        .find_map(|line| line.strip_prefix("BUG SUMMARY:"))
        .map(|line| line.trim().to_owned());
    summary
        .or(finding)
        .unwrap_or_else(|| message.lines().next().unwrap_or_default().to_owned())
}

/// Every test of a run directory: those with a record, unreadable records, and what the runner saw beside them.
///
/// # Errors
/// When the directory cannot be listed.
pub(crate) fn cases_of(dir: &RunDir) -> Result<Vec<Case>> {
    let pool = dir.pool()?;
    let mut seen: Vec<Seen> = match &dir.manifest {
        Some(manifest) => manifest.tests.clone(),
        None => Vec::new(),
    };
    let mut take = |binary: &str, name: &str| {
        let at = seen.iter().position(|seen| seen.is(binary, name))?;
        Some(seen.remove(at))
    };
    let mut cases: Vec<Case> = Vec::new();
    for sidecar in pool.sidecars {
        let witness = take(&sidecar.binary, &sidecar.test);
        cases.push(of_record(dir, sidecar, witness));
    }
    for bad in pool.bad {
        let stem = bad
            .path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        let at = seen.iter().position(|seen| file_stem(&seen.name) == stem);
        let witness = at.map(|at| seen.remove(at)).unwrap_or_else(|| Seen {
            name: stem,
            ..Seen::default()
        });
        cases.push(Case {
            verdict: Outcome::Fail,
            message: format!("its record cannot be read: {}", bad.reason),
            artifacts: vec![bad.path],
            ..of_witness(dir, witness)
        });
    }
    cases.extend(seen.into_iter().map(|witness| of_witness(dir, witness)));
    title(&mut cases);
    cases.sort_by(|a, b| (&a.name, &a.binary).cmp(&(&b.name, &b.binary)));
    Ok(cases)
}

/// The record decides, and a process that failed decides against a record that says otherwise.
fn of_record(dir: &RunDir, sidecar: Sidecar, witness: Option<Seen>) -> Case {
    let witness = witness.unwrap_or_default();
    let told = match sidecar.verdict {
        Outcome::Skip => sidecar.skip_reason.clone(),
        _ => sidecar.message.clone(),
    };
    let contradicted = witness.failed && matches!(sidecar.verdict, Outcome::Pass | Outcome::Skip);
    let (verdict, message) = if contradicted {
        let text = format!(
            "its record says {}, but its process failed: {}",
            sidecar.verdict.as_str(),
            witness.message
        );
        (Outcome::Fail, text)
    } else {
        (sidecar.verdict, told.unwrap_or_default())
    };
    let (attempts, mut files) = earlier_attempts(&sidecar.dir, &sidecar.test);
    let mut artifacts = artifacts(&sidecar.dir, &sidecar.test);
    artifacts.append(&mut files);
    Case {
        name: String::new(),
        test: sidecar.test.clone(),
        binary: sidecar.binary.clone(),
        kernel: kernel_of(dir, Some(&sidecar)),
        verdict,
        message,
        seconds: sidecar.total_ms as f64 / 1e3,
        failed_before: if attempts.is_empty() {
            witness.failed_before
        } else {
            attempts
        },
        artifacts,
        dir: dir.clone(),
        sidecar: Some(sidecar),
    }
}

/// None of ktstr's tests, or one whose process died before it left its record.
fn of_witness(dir: &RunDir, seen: Seen) -> Case {
    Case {
        name: String::new(),
        test: seen.name,
        binary: seen.binary,
        kernel: kernel_of(dir, None),
        verdict: if seen.failed {
            Outcome::Fail
        } else {
            Outcome::Pass
        },
        message: seen.message,
        seconds: seen.seconds,
        failed_before: seen.failed_before,
        artifacts: Vec::new(),
        sidecar: None,
        dir: dir.clone(),
    }
}

fn kernel_of(dir: &RunDir, sidecar: Option<&Sidecar>) -> String {
    let label = dir
        .manifest
        .as_ref()
        .map(|manifest| manifest.kernel_label.clone());
    label
        .or_else(|| sidecar.and_then(|sidecar| sidecar.kernel_release.clone()))
        .unwrap_or_else(|| dir.name())
}

/// A test's own name, with its binary's before it where two binaries have such a test.
fn title(cases: &mut [Case]) {
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in cases.iter() {
        let owners = owners.entry(case.test.clone()).or_default();
        owners.insert(case.binary.clone());
    }
    for case in cases {
        let has_twin = owners
            .get(&case.test)
            .is_some_and(|owners| owners.len() > 1);
        case.name = if has_twin && !case.binary.is_empty() {
            format!("{}::{}", case.binary, case.test)
        } else {
            case.test.clone()
        };
    }
}

fn artifacts(dir: &Path, test: &str) -> Vec<PathBuf> {
    ARTIFACT_SUFFIXES
        .iter()
        .map(|suffix| artifact_path(dir, test, suffix))
        .filter(|path| path.is_file())
        .collect()
}

/// Headlines and files of the attempts that a runner made before the last one.
fn earlier_attempts(dir: &Path, test: &str) -> (Vec<String>, Vec<PathBuf>) {
    let (mut headlines, mut files) = (Vec::new(), Vec::new());
    for attempt in 1.. {
        let left: Vec<PathBuf> = ARTIFACT_SUFFIXES
            .iter()
            .map(|suffix| artifact_path(dir, test, &format!("attempt-{attempt}.{suffix}")))
            .filter(|path| path.is_file())
            .collect();
        let Some(record) = left.first() else { break };
        let sidecar: Option<Sidecar> = fs::read(record)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        headlines.push(sidecar.map_or_else(
            || String::from("it left no record that can be read"),
            |sidecar| {
                headline(
                    sidecar.message.as_deref().unwrap_or_default(),
                    Some(&sidecar),
                )
            },
        ));
        files.extend(left);
    }
    (headlines, files)
}
