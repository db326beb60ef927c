//! The failure dump that a failed test always leaves.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::artifacts::{ArtifactError, write_atomic};

/// Names the layout; a reader checks it first.
pub(super) const DUMP_SCHEMA: &str = "ktstr.failure-dump/1";

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
    let json = serde_json::to_vec_pretty(dump).map_err(|e| ArtifactError {
        action: "serialise",
        path: path.clone(),
        source: std::io::Error::other(e),
    })?;
    write_atomic(&path, &json)?;
    Ok(path)
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
