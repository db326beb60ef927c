//! `cargo ktstr kernel clean`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr::host::plan::kernel::{Cache, Lease};

use super::list::{Entry, entries};
use super::{packages_dir, repositories_dir};
use crate::exit::Exit;
use crate::output;

/// Which entries go.
#[derive(Debug, clap::Args)]
#[command(after_help = "Leftovers of builds that were killed are removed whenever no build runs.")]
pub(crate) struct Options {
    /// These entries, by key.
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// All entries.
    #[arg(long, conflicts_with_all = ["keys", "keep", "damaged"])]
    all: bool,
    /// All good entries but the newest N, and all damaged ones.
    #[arg(long, value_name = "N", conflicts_with_all = ["keys", "damaged"])]
    keep: Option<usize>,
    /// Damaged entries only.
    #[arg(long, conflicts_with = "keys")]
    damaged: bool,
    /// Wait for entries that are in use instead of leaving them.
    #[arg(long)]
    wait: bool,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
}

/// Removes them.
pub(crate) fn run(options: &Options, cache: &Cache) -> Result<Exit> {
    let entries = entries(cache);
    let chosen = choose(options, &entries)?;
    let mut kept = Vec::new();
    for entry in chosen {
        if options.dry_run {
            output::print(&format!("would remove {}\n", entry.key))?;
        } else if let Some(lock) = lock(options, cache, &entry.key)? {
            cache.remove(&entry.key, &lock)?;
            output::print(&format!("removed {}\n", entry.key))?;
        } else {
            kept.push(entry.key.clone());
        }
    }
    if !options.dry_run {
        let others = if options.all {
            vec![packages_dir(cache), repositories_dir(cache)]
        } else {
            Vec::new()
        };
        for dir in others {
            clear(&Cache::at(dir))?;
        }
        sweep(cache.root())?;
    }
    if kept.is_empty() {
        return Ok(Exit::Pass);
    }
    bail!(
        "in use, left alone: {}; `cargo ktstr locks` shows by whom, --wait waits for them",
        kept.join(", ")
    )
}

fn choose<'a>(options: &Options, entries: &'a [Entry]) -> Result<Vec<&'a Entry>> {
    if !options.keys.is_empty() {
        let find = |key: &String| {
            entries
                .iter()
                .find(|entry| entry.key == *key)
                .with_context(|| {
                    let have: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                    format!(
                        "there is no kernel '{key}' in the cache; it has: {}",
                        have.join(", ")
                    )
                })
        };
        return options.keys.iter().map(find).collect();
    }
    if options.all {
        return Ok(entries.iter().collect());
    }
    let damaged = |entry: &&Entry| entry.damage.is_some();
    if options.damaged {
        return Ok(entries.iter().filter(damaged).collect());
    }
    let Some(keep) = options.keep else {
        bail!("say what to remove: keys, --keep N, --damaged or --all");
    };
    // Damaged ones never take a place of a good one.
    let old = entries
        .iter()
        .filter(|entry| entry.damage.is_none())
        .skip(keep);
    Ok(old.chain(entries.iter().filter(damaged)).collect())
}

fn lock(options: &Options, cache: &Cache, key: &str) -> Result<Option<Lease>> {
    if options.wait {
        return Ok(Some(cache.lock_exclusive(key, || {
            eprintln!("  waiting for the users of {key} …")
        })?));
    }
    Ok(cache.try_lock_exclusive(key)?)
}

fn clear(cache: &Cache) -> Result<()> {
    for key in cache.all_keys() {
        if let Some(lock) = cache.try_lock_exclusive(&key)? {
            cache.remove(&key, &lock)?;
        }
    }
    sweep(cache.root())
}

/// What killed builds left, if nobody builds now: every builder holds some entry's lock.
fn sweep(root: &Path) -> Result<()> {
    let paths: Vec<PathBuf> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let left: Vec<&PathBuf> = paths
        .iter()
        .filter(|path| {
            [".build-", ".removed-", ".clone-", ".extract-"]
                .iter()
                .any(|mark| name(path).starts_with(mark))
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let cache = Cache::at(root.to_owned());
    let mut locks = Vec::new();
    for path in &paths {
        let name = name(path);
        if let Some(key) = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(".lock"))
        {
            match cache.try_lock_exclusive(key)? {
                Some(lock) => locks.push(lock),
                None => return Ok(()),
            }
        }
    }
    for path in left {
        fs::remove_dir_all(path).with_context(|| format!("failed to remove {}", path.display()))?;
        output::print(&format!("removed the leftover {}\n", path.display()))?;
    }
    Ok(())
}
