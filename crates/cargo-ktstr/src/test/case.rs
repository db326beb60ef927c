//! One test's result, as every report shows it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ktstr::host::evidence::artifacts::ARTIFACT_SUFFIXES;
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::model::verdict::Outcome;

use super::Other;
use crate::runs::RunDir;

/// A test on one kernel.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The test's name, with its binary's where another binary has a test of that name.
    pub(crate) name: String,
    /// Label of the kernel.
    pub(crate) kernel: String,
    pub(crate) verdict: Outcome,
    /// The failure message or the skip reason.
    pub(crate) message: String,
    pub(crate) seconds: f64,
    /// Files that it left, existing ones only.
    pub(crate) artifacts: Vec<PathBuf>,
    /// The whole record; absent for a test that left none.
    pub(crate) sidecar: Option<Sidecar>,
    /// The directory that it lies in.
    pub(crate) dir: RunDir,
}

impl Case {
    /// The line of the message that says most: the bug summary, else the first finding.
    pub(crate) fn headline(&self) -> String {
        let finding = self.sidecar.as_ref().and_then(|sidecar| {
            let result = &sidecar.result;
            let detail = result
                .failure_details()
                .chain(result.inconclusive_details())
                .next()?;
            Some(detail.message.lines().next().unwrap_or_default().to_owned())
        });
        let summary = self
            .message
            .lines()
            .find_map(|line| line.strip_prefix("BUG SUMMARY:"))
            .map(|line| line.trim().to_owned());
        summary
            .or(finding)
            .unwrap_or_else(|| self.message.lines().next().unwrap_or_default().to_owned())
    }

    /// The name by which a runner knows the test.
    pub(crate) fn test(&self) -> &str {
        self.sidecar
            .as_ref()
            .map_or(&self.name, |sidecar| &sidecar.test)
    }

    /// Failed or could not be judged.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.verdict, Outcome::Fail | Outcome::Inconclusive)
    }
}

/// Every test of a run directory: those with a sidecar, unreadable sidecars, and what the runner saw beside them.
///
/// # Errors
/// When the directory cannot be listed.
pub(crate) fn cases_of(dir: &RunDir, seen: &[Other]) -> Result<Vec<Case>> {
    let pool = dir.pool()?;
    let kernel = |sidecar: Option<&Sidecar>| {
        let label = dir
            .manifest
            .as_ref()
            .map(|manifest| manifest.kernel_label.clone());
        label
            .or_else(|| sidecar.and_then(|sidecar| sidecar.kernel_release.clone()))
            .unwrap_or_else(|| dir.name())
    };
    let known: BTreeSet<&str> = pool
        .sidecars
        .iter()
        .map(|sidecar| sidecar.test.as_str())
        .collect();
    let others: Vec<Case> = seen
        .iter()
        .filter(|other| !known.contains(other.name.as_str()))
        .map(|other| Case {
            name: other.name.clone(),
            kernel: kernel(None),
            verdict: if other.failed {
                Outcome::Fail
            } else {
                Outcome::Pass
            },
            message: other.message.clone(),
            seconds: other.seconds,
            artifacts: Vec::new(),
            sidecar: None,
            dir: dir.clone(),
        })
        .collect();
    let bad = pool.bad.iter().map(|bad| Case {
        name: bad
            .path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default(),
        kernel: kernel(None),
        verdict: Outcome::Fail,
        message: format!("its record cannot be read: {}", bad.reason),
        seconds: 0.0,
        artifacts: vec![bad.path.clone()],
        sidecar: None,
        dir: dir.clone(),
    });
    let bad: Vec<Case> = bad.collect();
    let mut cases: Vec<Case> = Vec::new();
    let titles: Vec<String> = pool
        .sidecars
        .iter()
        .map(|sidecar| pool.title(sidecar))
        .collect();
    for (name, sidecar) in titles.into_iter().zip(pool.sidecars) {
        let told = match sidecar.verdict {
            Outcome::Skip => sidecar.skip_reason.clone(),
            _ => sidecar.message.clone(),
        };
        cases.push(Case {
            name,
            kernel: kernel(Some(&sidecar)),
            verdict: sidecar.verdict,
            message: told.unwrap_or_default(),
            seconds: sidecar.total_ms as f64 / 1e3,
            artifacts: artifacts(&sidecar.dir, &sidecar.test),
            dir: dir.clone(),
            sidecar: Some(sidecar),
        });
    }
    cases.extend(bad);
    cases.extend(others);
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn artifacts(dir: &Path, test: &str) -> Vec<PathBuf> {
    ARTIFACT_SUFFIXES
        .iter()
        .map(|suffix| dir.join(format!("{test}.{suffix}")))
        .filter(|path| path.is_file())
        .collect()
}
