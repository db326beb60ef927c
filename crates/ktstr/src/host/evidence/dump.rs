//! The failure dump that a failed test always leaves.

use std::path::{Path, PathBuf};

use ktstr_monitor::FailureDumpReport;
use serde::Serialize;

use crate::host::evidence::artifacts::{ArtifactError, artifact_path, write_atomic};

pub(in crate::host) use ktstr_monitor::DUMP_SCHEMA;

/// A dump without captured state: it says that it is one, and why.
#[derive(Debug, Clone, Serialize)]
pub(in crate::host) struct PlaceholderDump<'a> {
    pub(in crate::host) schema: &'static str,
    pub(in crate::host) is_placeholder: bool,
    pub(in crate::host) test: &'a str,
    /// Why there is nothing better, with the stage reached.
    pub(in crate::host) reason: String,
    pub(in crate::host) stage: Option<&'a str>,
    pub(in crate::host) bug_summary: Option<&'a str>,
    pub(in crate::host) engine: Option<String>,
    pub(in crate::host) exit_reason: Option<&'a str>,
}

/// A captured state with the run it belongs to. The schema's name is the report's own.
#[derive(Debug, Clone, Serialize)]
pub(in crate::host) struct CapturedDump<'a> {
    pub(in crate::host) test: &'a str,
    /// What made the capture.
    pub(in crate::host) trigger: &'a str,
    pub(in crate::host) stage: Option<&'a str>,
    pub(in crate::host) bug_summary: Option<&'a str>,
    pub(in crate::host) engine: Option<String>,
    pub(in crate::host) exit_reason: Option<&'a str>,
    #[serde(flatten)]
    pub(in crate::host) report: &'a FailureDumpReport,
}

/// Writes the captured state as this test's dump.
///
/// # Errors
/// When the file cannot be written.
pub(in crate::host) fn write_dump(
    dir: &Path,
    dump: &CapturedDump<'_>,
) -> Result<PathBuf, ArtifactError> {
    write(dir, dump.test, dump)
}

fn write(dir: &Path, test: &str, dump: &impl Serialize) -> Result<PathBuf, ArtifactError> {
    let path = artifact_path(dir, test, "failure-dump.json");
    let json = serde_json::to_vec_pretty(dump).map_err(|e| ArtifactError {
        action: "serialise",
        path: path.clone(),
        source: std::io::Error::other(e),
    })?;
    write_atomic(&path, &json)?;
    Ok(path)
}

/// Writes the placeholder unless a real dump is already there.
///
/// # Errors
/// When the file cannot be written.
pub(in crate::host) fn ensure_dump(
    dir: &Path,
    dump: &PlaceholderDump<'_>,
) -> Result<PathBuf, ArtifactError> {
    let path = artifact_path(dir, dump.test, "failure-dump.json");
    if path.is_file() {
        return Ok(path);
    }
    write(dir, dump.test, dump)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_dump_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dump = PlaceholderDump {
            schema: DUMP_SCHEMA,
            is_placeholder: true,
            test: "t",
            reason: "init never started".into(),
            stage: None,
            bug_summary: None,
            engine: None,
            exit_reason: None,
        };
        let path = ensure_dump(dir.path(), &dump).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (json["is_placeholder"].as_bool(), json["reason"].as_str()),
            (Some(true), Some("init never started"))
        );
        std::fs::write(&path, b"real").unwrap();
        ensure_dump(dir.path(), &dump).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"real");
    }
}
