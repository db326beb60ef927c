//! The user's workspace, as cargo tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// Where the workspace lies and builds.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Project {
    /// Its root.
    pub(crate) workspace_root: PathBuf,
    /// Where cargo builds to.
    pub(crate) target_directory: PathBuf,
}

impl Project {
    /// Asks cargo.
    ///
    /// # Errors
    /// When this is no cargo project; with cargo's own words.
    pub(crate) fn find(manifest: Option<&Path>) -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1", "--no-deps"]);
        if let Some(manifest) = manifest {
            command.arg("--manifest-path").arg(manifest);
        }
        let output = command.output().context("failed to run cargo")?;
        if !output.status.success() {
            bail!(
                "this is no cargo project that can be read: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something else")
    }

    /// One directory per run lies here.
    pub(crate) fn runs_root(&self) -> PathBuf {
        self.target_directory.join("ktstr")
    }
}

/// The cargo that called us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Output of a git command in `dir`, trimmed; `None` when there is no repository or no git.
pub(crate) fn git(dir: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
