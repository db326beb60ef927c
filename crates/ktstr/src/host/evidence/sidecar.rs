//! One JSON file per test and run: what the user was told, for tools.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ktstr_monitor::bpf::ProgVerifierStats;
use serde::{Deserialize, Serialize};

use crate::host::evidence::artifacts::{ArtifactError, artifact_path, write_atomic};
use crate::host::evidence::clock::ClockFigures;
use crate::host::evidence::figures::Figures;

use crate::model::verdict::{AssertResult, Outcome};

/// Names the layout of [`Sidecar`]; a reader checks it first.
pub const SIDECAR_SCHEMA: &str = "ktstr.sidecar/1";

/// The record of one test in one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    /// [`SIDECAR_SCHEMA`].
    pub schema: String,
    /// The test's name.
    pub test: String,
    /// Package and target of the test binary; empty in records of earlier versions.
    #[serde(default)]
    pub binary: String,
    /// The directory in which it was found, with the test's other artifacts; not stored.
    #[serde(skip)]
    pub dir: PathBuf,
    /// The final verdict: what the user was told.
    pub verdict: Outcome,
    /// Why the test was skipped.
    pub skip_reason: Option<String>,
    /// `tcg` or `kvm`; `None` when no VM was built.
    pub engine: Option<String>,
    /// Why this engine.
    pub engine_why: Option<String>,
    /// The topology in short form, `1n2l4c2t`.
    pub topology: String,
    /// The scheduler's declared name; `None` for the kernel's default.
    pub scheduler: Option<String>,
    /// Where its binary came from.
    pub scheduler_source: Option<String>,
    /// The guest kernel's image.
    pub kernel: Option<PathBuf>,
    /// Guest kernel release, as the guest reported it.
    pub kernel_release: Option<String>,
    /// From VM start to the guest's SysReady.
    pub boot_ms: Option<u64>,
    /// The scenario's own time, from its frames.
    pub scenario_ms: Option<u64>,
    /// From VM start to its end.
    pub vm_ms: Option<u64>,
    /// From the end of the last vCPU to the assembled result.
    pub cleanup_ms: Option<u64>,
    /// Size of the initramfs.
    pub initramfs_bytes: Option<u64>,
    /// How long building the initramfs took.
    pub initramfs_ms: Option<u64>,
    /// Longest time that the guest stood still for the host's looks at it, microseconds.
    #[serde(default)]
    pub standstill_us: Option<u64>,
    /// What starting the VM took, microseconds: after it the guest executes instructions.
    #[serde(default)]
    pub start_us: Option<u64>,
    /// In virtual time: from the VM's start until the guest was given its task, microseconds of the host's clock.
    #[serde(default)]
    pub given_task_us: Option<u64>,
    /// The whole test, from validation to this file.
    pub total_ms: u64,
    /// How the VM ended.
    pub exit_reason: Option<String>,
    /// The VM's deadline ended it.
    pub timed_out: bool,
    /// How far the guest got.
    pub stage: Option<String>,
    /// What the verifier counted for the scheduler's programs.
    #[serde(default)]
    pub verifier_stats: Vec<ProgVerifierStats>,
    /// What the host measured: optional fields of their own.
    #[serde(default, flatten)]
    pub figures: Figures,
    /// Whose time passed: optional fields of their own.
    #[serde(default, flatten)]
    pub clock: ClockFigures,
    /// Hash of a failure's cause, equal for failures of one kind; absent when nothing failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The failure message, whole.
    pub message: Option<String>,
    /// Outcome, details, notes and statistics.
    pub result: AssertResult,
    /// Seconds since the epoch, when the test began.
    pub started_at: u64,
}

/// A sidecar that could not be read, with the reason.
#[derive(Debug)]
pub struct BadSidecar {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The sidecars of one run directory, good ones and unreadable ones apart.
#[derive(Debug, Default)]
pub struct Pool {
    /// Good ones, by file name.
    pub sidecars: Vec<Sidecar>,
    /// The others.
    pub bad: Vec<BadSidecar>,
}

impl Sidecar {
    /// Writes `<dir>/<test>.json`, the name as [`artifact_path`] makes it.
    ///
    /// # Errors
    /// When the file cannot be written; no partial file is left.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, ArtifactError> {
        let path = artifact_path(dir, &self.test, "json");
        let json = serde_json::to_vec_pretty(self).map_err(|e| ArtifactError {
            action: "serialise",
            path: path.clone(),
            source: io::Error::other(e),
        })?;
        write_atomic(&path, &json)?;
        Ok(path)
    }
}

impl Pool {
    /// A name for a record that no other has: the test's, with its binary's before it where two binaries have such a test.
    #[must_use]
    pub fn title(&self, sidecar: &Sidecar) -> String {
        let twins = self.sidecars.iter();
        let mut twins = twins.filter(|other| other.test == sidecar.test);
        if twins.any(|other| other.binary != sidecar.binary) {
            format!("{}::{}", sidecar.binary, sidecar.test)
        } else {
            sidecar.test.clone()
        }
    }
}

/// Reads every sidecar of a run directory: those in it, and those in its folders, one for each test binary.
///
/// # Errors
/// When the directory itself cannot be listed.
pub fn collect_pool(dir: &Path) -> io::Result<Pool> {
    let mut pool = collect_folder(dir)?;
    let mut folders: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    for folder in folders {
        let found = collect_folder(&folder)?;
        pool.sidecars.extend(found.sidecars);
        pool.bad.extend(found.bad);
    }
    Ok(pool)
}

fn collect_folder(dir: &Path) -> io::Result<Pool> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    paths.retain(|path| is_sidecar_name(path));
    paths.sort();
    let mut pool = Pool::default();
    for path in paths {
        match read(&path) {
            Ok(sidecar) => pool.sidecars.push(Sidecar {
                dir: dir.to_owned(),
                ..sidecar
            }),
            Err(reason) => pool.bad.push(BadSidecar { path, reason }),
        }
    }
    Ok(pool)
}

fn is_sidecar_name(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    // A test's name has no dot; `t.failure-dump.json` and its like are other artifacts.
    name.strip_suffix(".json")
        .is_some_and(|test| !test.is_empty() && !test.contains('.'))
}

fn read(path: &Path) -> Result<Sidecar, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let sidecar: Sidecar = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if sidecar.schema == SIDECAR_SCHEMA {
        Ok(sidecar)
    } else {
        Err(format!(
            "schema is '{}', expected '{SIDECAR_SCHEMA}'",
            sidecar.schema
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(dir: &Path, binary: &str, test: &str) {
        let record = serde_json::json!({
            "schema": SIDECAR_SCHEMA, "test": test, "binary": binary, "verdict": "Pass", "topology": "1n1l2c1t",
            "total_ms": 5, "timed_out": false, "started_at": 1,
            "result": {"floor": "Pass", "details": [], "info_notes": [],
                       "stats": {"cgroups": [], "phases": [], "ext_metrics": {}}},
        });
        let sidecar: Sidecar = serde_json::from_value(record).unwrap();
        sidecar.write(dir).unwrap();
    }

    #[test]
    fn tests_of_one_name_in_two_binaries_are_two_tests() {
        let dir = tempfile::tempdir().unwrap();
        add(&dir.path().join("a.it"), "a.it", "same");
        add(&dir.path().join("b.it"), "b.it", "same");
        add(&dir.path().join("b.it"), "b.it", "other");
        add(dir.path(), "", "plain");
        fs::write(dir.path().join("b.it/bad.json"), "{").unwrap();
        let pool = collect_pool(dir.path()).unwrap();
        let titles: Vec<String> = pool
            .sidecars
            .iter()
            .map(|sidecar| pool.title(sidecar))
            .collect();
        assert_eq!(titles, ["plain", "a.it::same", "other", "b.it::same"]);
        assert_eq!(pool.sidecars[1].dir, dir.path().join("a.it"));
        assert_eq!(pool.bad.len(), 1);
    }
}
