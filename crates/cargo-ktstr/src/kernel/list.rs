//! `cargo ktstr kernel list`

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ktstr_kernel::{Cache, Metadata};
use serde::Serialize;

use super::{packages_dir, repositories_dir};
use crate::exit::Exit;
use crate::output;

/// How to show them.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// One entry of the cache.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) path: PathBuf,
    /// Seconds since the epoch.
    pub(super) built_at: u64,
    /// Why it cannot be used; absent for a good one.
    pub(super) damage: Option<String>,
    pub(super) in_use: bool,
    #[serde(flatten)]
    pub(super) metadata: Option<Metadata>,
}

/// Every entry, newest first.
pub(super) fn entries(cache: &Cache) -> Vec<Entry> {
    let entry = |key: String| {
        let path = cache.root().join(&key);
        let built_at =
            path.metadata()
                .and_then(|meta| meta.modified())
                .map_or(0, |time: SystemTime| {
                    time.duration_since(UNIX_EPOCH)
                        .map_or(0, |since| since.as_secs())
                });
        let (metadata, damage) = match cache.inspect(&key) {
            Ok(metadata) => (Some(metadata), None),
            Err(why) => (None, Some(why)),
        };
        // Whoever runs or builds it holds its lock; a lock that cannot be asked is taken for held.
        let in_use = !matches!(cache.try_lock_exclusive(&key), Ok(Some(_)));
        Entry {
            key,
            path,
            built_at,
            damage,
            in_use,
            metadata,
        }
    };
    let mut entries: Vec<Entry> = cache.all_keys().into_iter().map(entry).collect();
    entries.sort_by(|a, b| (b.built_at, &b.key).cmp(&(a.built_at, &a.key)));
    entries
}

/// Prints them.
pub(crate) fn run(options: &Options, cache: &Cache) -> Result<Exit> {
    let entries = entries(cache);
    if options.json {
        output::print_json(&entries)?;
    } else if entries.is_empty() {
        eprintln!(
            "no kernels in {}; build one with `cargo ktstr kernel build`",
            cache.root().display()
        );
    } else {
        output::print(&render(&entries))?;
    }
    for root in [
        cache.root().to_owned(),
        packages_dir(cache),
        repositories_dir(cache),
    ] {
        for leftover in Cache::at(root).leftovers() {
            eprintln!(
                "a killed build left {} ({}); `cargo ktstr kernel clean` removes it",
                leftover.path.display(),
                output::mib(leftover.bytes)
            );
        }
    }
    Ok(Exit::Pass)
}

fn render(entries: &[Entry]) -> String {
    let mut table = output::table(["KEY", "RELEASE", "SIZE", "STATE", "SOURCE"]);
    for entry in entries {
        let state = match (&entry.damage, entry.in_use) {
            (Some(why), _) => format!("damaged: {why}"),
            (None, true) => String::from("in use"),
            (None, false) => String::from("good"),
        };
        let metadata = entry.metadata.as_ref();
        table.add_row([
            entry.key.clone(),
            metadata
                .map(|meta| meta.release.clone())
                .unwrap_or_default(),
            metadata
                .map(|meta| output::mib(meta.image_bytes + meta.vmlinux_bytes))
                .unwrap_or_default(),
            state,
            metadata.map(|meta| meta.source.clone()).unwrap_or_default(),
        ]);
    }
    output::lines(&table)
}
