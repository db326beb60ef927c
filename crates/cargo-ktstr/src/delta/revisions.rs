//! Two revisions of the user's project, each built in a place of its own.
//!
//! A revision is cloned once below `target/ktstr-perf/<commit>/` and keeps its build there; the user's repository and working
//! tree are only read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ktstr_kernel::Cache;

use crate::project::{Project, git};

/// Names the working tree as it is.
pub(crate) const WORKTREE: &str = ".";

/// One side of the comparison.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// What the user called it.
    pub(crate) name: String,
    /// The commit; absent for the working tree.
    pub(crate) commit: Option<String>,
    /// Where cargo is run.
    pub(crate) root: PathBuf,
    /// Where it builds to.
    pub(crate) target: PathBuf,
}

impl Side {
    /// Finds or clones a revision.
    ///
    /// # Errors
    /// When git does not know it, or the clone cannot be made.
    pub(crate) fn prepare(name: &str, project: &Project) -> Result<Self> {
        let workspace = &project.workspace_root;
        if name == WORKTREE {
            return Ok(Self {
                name: String::from("working tree"),
                commit: None,
                root: workspace.clone(),
                target: project.target_directory.clone(),
            });
        }
        let commit = commit(workspace, name)?;
        let repository = git(workspace, &["rev-parse", "--show-toplevel"])
            .context("this is not a git repository")?;
        let prefix = git(workspace, &["rev-parse", "--show-prefix"]).unwrap_or_default();
        let home = project.target_directory.join("ktstr-perf");
        let key = commit.get(..12).unwrap_or(&commit).to_owned();
        let places = Cache::at(home.clone());
        let _lock =
            places.lock_exclusive(&key, || eprintln!("  waiting for another clone of {key} …"))?;
        let place = home.join(&key);
        let tree = place.join("tree");
        if !tree.is_dir() {
            clone(Path::new(&repository), &commit, &home, &place)?;
        }
        Ok(Self {
            name: name.to_owned(),
            commit: Some(commit),
            root: tree.join(prefix),
            target: place.join("target"),
        })
    }

    /// For tables.
    pub(crate) fn label(&self) -> String {
        match &self.commit {
            Some(commit) => format!("{} ({})", self.name, commit.get(..10).unwrap_or(commit)),
            None => self.name.clone(),
        }
    }
}

/// The whole number of a commit that the user names.
///
/// # Errors
/// When git does not know it.
pub(crate) fn commit(workspace: &Path, name: &str) -> Result<String> {
    if name.starts_with('-') {
        bail!("invalid revision '{name}'");
    }
    git(workspace, &["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]).with_context(|| {
        format!("git does not know revision '{name}' in {}; give a commit, branch or tag, or . for the working tree", workspace.display())
    })
}

/// Clones a repository into `<place>/tree`, at this commit; `place` lies in `home` and appears whole.
///
/// # Errors
/// With git's own words.
pub(crate) fn clone(repository: &Path, commit: &str, home: &Path, place: &Path) -> Result<()> {
    // It gets its name only when it is whole.
    let half = tempfile::Builder::new()
        .prefix(".clone-")
        .tempdir_in(home)
        .with_context(|| format!("failed to create a directory in {}", home.display()))?;
    let tree = half.path().join("tree");
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output().context("failed to run git")?;
        if output.status.success() {
            return Ok(());
        }
        bail!(
            "git failed to clone {commit}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
    };
    run(Command::new("git")
        .args(["clone", "--quiet", "--shared", "--no-checkout"])
        .arg(repository)
        .arg(&tree))?;
    run(Command::new("git")
        .arg("-C")
        .arg(&tree)
        .args(["checkout", "--quiet", "--detach", commit]))?;
    fs::rename(half.keep(), place).with_context(|| format!("failed to publish {}", place.display()))
}
