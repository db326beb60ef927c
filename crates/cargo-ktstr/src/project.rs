//! The user's workspace, as cargo tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Where the workspace lies and builds.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// Its root.
    pub(crate) workspace_root: PathBuf,
    /// Where cargo builds to; another workspace may build there, too.
    pub(crate) target_directory: PathBuf,
    /// Names of its own packages.
    pub(crate) packages: Vec<String>,
}

impl Project {
    /// Asks cargo.
    ///
    /// # Errors
    /// When cargo cannot read the project, with what it printed.
    pub(crate) fn find(manifest: Option<&Path>) -> Result<Self> {
        let mut command = cargo_metadata::MetadataCommand::new();
        command.no_deps();
        if let Some(manifest) = manifest {
            command.manifest_path(manifest);
        }
        let metadata = match command.exec() {
            Ok(metadata) => metadata,
            Err(cargo_metadata::Error::CargoMetadata { stderr }) => {
                bail!(
                    "cannot read the cargo project of this directory: {}",
                    stderr.trim()
                )
            }
            Err(error) => return Err(error).context("cargo cannot describe the project"),
        };
        Ok(Self {
            workspace_root: metadata.workspace_root.into(),
            target_directory: metadata.target_directory.into(),
            packages: metadata
                .packages
                .into_iter()
                .map(|package| package.name.to_string())
                .collect(),
        })
    }

    /// For tests: a workspace of one package.
    #[cfg(test)]
    pub(crate) fn at(root: &Path, target: &Path, package: &str) -> Self {
        Self {
            workspace_root: root.to_owned(),
            target_directory: target.to_owned(),
            packages: vec![package.to_owned()],
        }
    }

    /// Whether a record of this test binary (`<package>.<target>`) is of this workspace; records of earlier versions name none.
    pub(crate) fn owns(&self, binary: &str) -> bool {
        let package = binary.split('.').next().unwrap_or_default();
        package.is_empty() || self.packages.iter().any(|own| own == package)
    }

    /// One directory per run lies here.
    pub(crate) fn runs_root(&self) -> PathBuf {
        self.target_directory.join("ktstr")
    }
}

pub(crate) use ktstr::host::plan::program::cargo;

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
