//! Revisions of the user's repository, one after the other in one clone of ours; the user's working tree is only read.
//!
//! One clone, not one for each revision as `perf-delta` has them: what is checked out last has the newest files, by which cargo sees
//! what to build again, so that libraries are built once. The build has a directory of its own, since cargo takes packages of one
//! name at two places for one package.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ktstr_kernel::{Cache, Lease};

use super::Candidate;
use super::step::Again;
use crate::delta::revisions::{clone, commit};
use crate::project::{Project, git};
use crate::seeds::{Built, RunOptions};
use crate::test::cargo::Place;

/// The commits between two, oldest first, those two included, along first parents; and whether the older one is the good one.
///
/// # Errors
/// When git does not know one, or neither is an ancestor of the other.
pub(super) fn between(project: &Project, good: &str, bad: &str) -> Result<(Vec<Candidate>, bool)> {
    let workspace = &project.workspace_root;
    let (good_commit, bad_commit) = (commit(workspace, good)?, commit(workspace, bad)?);
    if good_commit == bad_commit {
        bail!("{good} and {bad} are the same commit");
    }
    let pairs = [
        (&good_commit, &bad_commit, true),
        (&bad_commit, &good_commit, false),
    ];
    for (old, new, old_is_good) in pairs {
        if is_ancestor(workspace, old, new) {
            let list = chain(workspace, old, new)?;
            let names = list.iter().map(|commit| name(workspace, commit));
            return Ok((names.collect::<Result<_>>()?, old_is_good));
        }
    }
    bail!(
        "neither of {good} and {bad} is an ancestor of the other; give two revisions of one line of history"
    )
}

fn is_ancestor(workspace: &Path, old: &str, new: &str) -> bool {
    git(workspace, &["merge-base", "--is-ancestor", old, new]).is_some()
}

fn chain(workspace: &Path, old: &str, new: &str) -> Result<Vec<String>> {
    let range = format!("{old}..{new}");
    let args = ["rev-list", "--reverse", "--first-parent", &range];
    let list = git(workspace, &args).context("git cannot list the revisions between")?;
    let between = list.lines().map(str::to_owned);
    Ok(std::iter::once(old.to_owned()).chain(between).collect())
}

fn name(workspace: &Path, commit: &str) -> Result<Candidate> {
    let text = git(workspace, &["log", "-1", "--format=%h %s", commit]);
    Ok(Candidate {
        id: commit.to_owned(),
        name: text.with_context(|| format!("git cannot show {commit}"))?,
    })
}

/// Where revisions are checked out and built.
#[derive(Debug)]
pub(super) struct Tree {
    tree: PathBuf,
    /// The project in it.
    root: PathBuf,
    target: PathBuf,
    _lease: Lease,
}

impl Tree {
    /// The clone of this history, from an earlier search where there is one.
    ///
    /// # Errors
    /// When there is no repository, or it cannot be cloned.
    pub(super) fn new(project: &Project, any_commit: &str) -> Result<Self> {
        let workspace = &project.workspace_root;
        let repository = git(workspace, &["rev-parse", "--show-toplevel"])
            .context("this is not a git repository")?;
        let prefix = git(workspace, &["rev-parse", "--show-prefix"]).unwrap_or_default();
        // Several projects may build to one directory.
        let roots = git(workspace, &["rev-list", "--max-parents=0", any_commit]);
        let key = roots.and_then(|roots| Some(roots.get(..12)?.to_owned()));
        let key = key.context("git does not tell where the history begins")?;
        let places = project.target_directory.join("ktstr-bisect");
        fs::create_dir_all(&places)
            .with_context(|| format!("failed to create {}", places.display()))?;
        let lease = Cache::at(places.clone())
            .lock_exclusive(&key, || eprintln!("  waiting for another search …"))?;
        let home = places.join(key);
        let place = home.join("clone");
        let tree = place.join("tree");
        let origin = git(&tree, &["remote", "get-url", "origin"]);
        if origin.as_deref() != Some(&repository) {
            if place.exists() {
                fs::remove_dir_all(&place)
                    .with_context(|| format!("failed to remove {}", place.display()))?;
            }
            fs::create_dir_all(&home)
                .with_context(|| format!("failed to create {}", home.display()))?;
            clone(Path::new(&repository), any_commit, &home, &place)?;
        }
        Ok(Self {
            root: tree.join(prefix),
            tree,
            target: home.join("target"),
            _lease: lease,
        })
    }

    /// Checks a revision out, whatever lies there.
    ///
    /// # Errors
    /// With git's own words.
    pub(super) fn check_out(&self, commit: &str) -> Result<()> {
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.tree)
            .args(["checkout", "--quiet", "--force", "--detach", commit])
            .output()
            .context("failed to run git")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("git failed to check out {commit}: {said}");
        }
        Ok(())
    }

    /// The test of a revision, and how `replay` finds it as long as that revision is the last that was checked out.
    ///
    /// # Errors
    /// When it does not build, or has no such test.
    pub(super) fn build(
        &self,
        commit: &str,
        test: &str,
        how: &RunOptions,
    ) -> Result<(Built, Again)> {
        self.check_out(commit)?;
        let place = Place {
            root: &self.root,
            target: &self.target,
        };
        let built = Built::in_place(test, how, Some(&place))?;
        let again = Again {
            target: Some(self.target.clone()),
            arguments: vec![
                OsString::from("--manifest-path"),
                self.root.join("Cargo.toml").into(),
            ],
        };
        Ok((built, again))
    }
}
