//! The failure dump that a failed test always leaves.

use std::path::{Path, PathBuf};

use ktstr_monitor::FailureDumpReport;
use serde::Serialize;

use super::artifacts::{ArtifactError, write_atomic};

pub(super) use ktstr_monitor::DUMP_SCHEMA;

/// A dump without captured state: it says that it is one, and why.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PlaceholderDump<'a> {
    pub(super) schema: &'static str,
    pub(super) is_placeholder: bool,
    pub(super) test: &'a str,
    /// Why there is nothing better, with the stage reached.
    pub(super) reason: String,
    pub(super) stage: Option<&'a str>,
    pub(super) bug_summary: Option<&'a str>,
    pub(super) engine: Option<String>,
    pub(super) exit_reason: Option<&'a str>,
}

/// A captured state with the run it belongs to. The schema's name is the report's own.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CapturedDump<'a> {
    pub(super) test: &'a str,
    /// What made the capture.
    pub(super) trigger: &'a str,
    pub(super) stage: Option<&'a str>,
    pub(super) bug_summary: Option<&'a str>,
    pub(super) engine: Option<String>,
    pub(super) exit_reason: Option<&'a str>,
    #[serde(flatten)]
    pub(super) report: &'a FailureDumpReport,
}

/// Writes the captured state as this test's dump.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_dump(dir: &Path, dump: &CapturedDump<'_>) -> Result<PathBuf, ArtifactError> {
    write(dir, dump.test, dump)
}

fn write(dir: &Path, test: &str, dump: &impl Serialize) -> Result<PathBuf, ArtifactError> {
    let path = dir.join(format!("{test}.failure-dump.json"));
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
pub(super) fn ensure_dump(
    dir: &Path,
    dump: &PlaceholderDump<'_>,
) -> Result<PathBuf, ArtifactError> {
    let path = dir.join(format!("{}.failure-dump.json", dump.test));
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
