//! `git+URL#tag=…`: a shallow checkout in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ktstr_kernel::{Cache, WorkDir, sanitize_kernel_label};
use sha2::{Digest as _, Sha256};

use super::repositories_dir;
use super::spec::GitRef;
use crate::interrupt::{self, Unwinding};

/// A tree at that commit. Tags and commits never move and are fetched once; a branch is fetched each time.
///
/// # Errors
/// When git cannot fetch it.
pub(super) fn checkout(url: &str, at: &GitRef, cache: &Cache) -> Result<PathBuf> {
    let (name, fetch, moves) = match at {
        GitRef::Tag(tag) => (tag, format!("refs/tags/{tag}"), false),
        GitRef::Branch(branch) => (branch, format!("refs/heads/{branch}"), true),
        GitRef::Rev(rev) => (rev, rev.clone(), false),
    };
    let digest = format!("{:x}", Sha256::digest(format!("{url}\0{fetch}")));
    let key = format!(
        "{}-{}",
        sanitize_kernel_label(name),
        digest.get(..12).unwrap_or_default()
    );
    let repositories = Cache::at(repositories_dir(cache));
    let _lock = repositories.lock_exclusive(&key, || {
        eprintln!("  waiting for another fetch of {name} …")
    })?;
    let tree = repositories.root().join(&key);
    if tree.is_dir() && !moves {
        return Ok(tree);
    }
    let _unwinding = Unwinding::begin();
    eprintln!("  fetching {name} from {url} …");
    if tree.is_dir() {
        git(
            &tree,
            &["fetch", "--depth", "1", "--quiet", "origin", &fetch],
        )?;
        git(&tree, &["checkout", "--quiet", "--force", "FETCH_HEAD"])?;
        return Ok(tree);
    }
    // It gets its name only when it is whole; a half one goes away with this handle.
    let half = WorkDir::new_in(repositories.root(), ".clone-").with_context(|| {
        format!(
            "failed to create a directory in {}",
            repositories.root().display()
        )
    })?;
    git(half.path(), &["init", "--quiet"])?;
    git(half.path(), &["remote", "add", "origin", url])?;
    git(
        half.path(),
        &["fetch", "--depth", "1", "--quiet", "origin", &fetch],
    )?;
    git(half.path(), &["checkout", "--quiet", "FETCH_HEAD"])?;
    half.publish(&tree)
        .with_context(|| format!("failed to publish {}", tree.display()))?;
    Ok(tree)
}

fn git(dir: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .output()
        .context("failed to run git; install it")?;
    if output.status.success() {
        return Ok(());
    }
    if interrupt::requested().is_some() {
        bail!("stopped by the user; nothing was kept");
    }
    bail!(
        "git {} failed: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
