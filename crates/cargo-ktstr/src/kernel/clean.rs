//! `cargo ktstr kernel clean`

use anyhow::{Context as _, Result, bail};
use ktstr::host::plan::kernel::templates;
use ktstr_kernel::{Cache, Lease};

use super::list::{Entry, Kind, entries};
use super::{packages_dir, repositories_dir, series_dir};
use crate::exit::Exit;
use crate::output;

/// Which entries go.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What killed builds left is removed by every call; without arguments, only that."
)]
pub(crate) struct Options {
    /// These entries, by key as `kernel list` shows them.
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// All entries, and what lies beside them: kept source trees, packages, repositories, booted guests of which tests start
    /// copies.
    #[arg(long, conflicts_with_all = ["keys", "keep", "damaged"])]
    all: bool,
    /// All good kernels but the newest N, and all damaged ones; not those of newer series, and no source trees.
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
    let beside = [
        ("package", Cache::at(packages_dir(cache))),
        ("repository", Cache::at(repositories_dir(cache))),
        ("booted guest", templates()),
    ];
    let mut swept = sweep(cache, options.dry_run)?;
    swept += sweep(&series_dir(cache), options.dry_run)?;
    for (_, beside) in &beside {
        swept += sweep(beside, options.dry_run)?;
    }
    let entries = entries(cache);
    let chosen = match choose(options, &entries, cache)? {
        Some(chosen) => chosen,
        None if swept > 0 => return Ok(Exit::Pass),
        None => bail!(
            "nothing was left by killed builds; say what else to remove: keys, --keep N, --damaged or --all"
        ),
    };
    let mut kept = Vec::new();
    for entry in chosen {
        let (cache, key) = &entry.at;
        let kind = match entry.kind {
            Kind::Tree => "source tree ",
            Kind::Kernel | Kind::Unpacked => "",
        };
        remove(options, cache, kind, key, &mut kept)?;
    }
    for (kind, beside) in beside.iter().filter(|_| options.all) {
        for key in beside.all_keys() {
            remove(options, beside, &format!("{kind} "), &key, &mut kept)?;
        }
    }
    if kept.is_empty() {
        return Ok(Exit::Pass);
    }
    bail!(
        "in use, left alone: {}; `cargo ktstr locks` shows by whom, --wait waits for them",
        kept.join(", ")
    )
}

/// The entries that the options name; `None` when they name none.
fn choose<'a>(
    options: &Options,
    entries: &'a [Entry],
    cache: &Cache,
) -> Result<Option<Vec<&'a Entry>>> {
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
        return options
            .keys
            .iter()
            .map(find)
            .collect::<Result<_>>()
            .map(Some);
    }
    if options.all {
        return Ok(Some(entries.iter().collect()));
    }
    let damaged = |entry: &&Entry| entry.damage.is_some();
    if options.damaged {
        return Ok(Some(entries.iter().filter(damaged).collect()));
    }
    let Some(keep) = options.keep else {
        return Ok(None);
    };
    // Damaged ones never take a place of a good one.
    let old = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Kernel && entry.at.0.root() == cache.root())
        .filter(|entry| entry.damage.is_none())
        .skip(keep);
    Ok(Some(old.chain(entries.iter().filter(damaged)).collect()))
}

fn lock(options: &Options, cache: &Cache, key: &str) -> Result<Option<Lease>> {
    if options.wait {
        return Ok(Some(cache.lock_exclusive(key, || {
            eprintln!("  waiting for the users of {key} …")
        })?));
    }
    Ok(cache.try_lock_exclusive(key)?)
}

/// Removes one entry, of which `kind` is told before the key; one that is in use goes to `kept`.
fn remove(
    options: &Options,
    cache: &Cache,
    kind: &str,
    key: &str,
    kept: &mut Vec<String>,
) -> Result<()> {
    if options.dry_run {
        return output::print(&format!("would remove {kind}{key}\n"));
    }
    match lock(options, cache, key)? {
        Some(lock) => {
            cache.remove(key, &lock)?;
            output::print(&format!("removed {kind}{key}\n"))?;
        }
        None => kept.push(format!("{kind}{key}")),
    }
    Ok(())
}

/// What killed builds left: a running build or removal has its directory locked.
fn sweep(cache: &Cache, dry_run: bool) -> Result<usize> {
    let leftovers = cache.leftovers();
    let count = leftovers.len();
    for leftover in leftovers {
        let path = leftover.path.display().to_string();
        let size = output::mib(leftover.bytes);
        if dry_run {
            output::print(&format!("would remove the leftover {path} ({size})\n"))?;
        } else {
            leftover
                .remove()
                .with_context(|| format!("failed to remove {path}"))?;
            output::print(&format!("removed the leftover {path} ({size})\n"))?;
        }
    }
    Ok(count)
}
