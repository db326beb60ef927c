//! `cargo ktstr kernel list`

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ktstr_kernel::{Cache, Metadata, bytes_below};
use serde::Serialize;

use super::{packages_dir, repositories_dir, series_dir};
use crate::exit::Exit;
use crate::output;

/// How to show them.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A kernel that was built.
    Kernel,
    /// A distribution's kernel, as it came.
    Unpacked,
    /// A source tree that is kept with its objects.
    Tree,
}

/// One entry of a cache.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// What names it on the command line.
    pub(super) key: String,
    pub(super) path: PathBuf,
    /// Seconds since the epoch.
    pub(super) built_at: u64,
    /// Why it cannot be used; absent for a good one.
    pub(super) damage: Option<String>,
    pub(super) in_use: bool,
    /// Of what is no kernel that was built: bytes on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(flatten)]
    pub(super) metadata: Option<Metadata>,
    /// Where it is, and by which key.
    #[serde(skip)]
    pub(super) at: (Cache, String),
}

/// Every entry, newest first; kernels of newer series and kept trees after the kernels that tests may take by themselves.
pub(super) fn entries(cache: &Cache) -> Vec<Entry> {
    let mut entries = entries_of(cache, Kind::Kernel);
    entries.extend(entries_of(&series_dir(cache), Kind::Unpacked));
    entries.extend(entries_of(&cache.trees(), Kind::Tree));
    entries
}

/// The entries of one cache; `otherwise` is what one without metadata is there.
fn entries_of(cache: &Cache, otherwise: Kind) -> Vec<Entry> {
    let built = cache.keys();
    let entry = |key: String| {
        let path = cache.root().join(&key);
        let built_at =
            path.metadata()
                .and_then(|meta| meta.modified())
                .map_or(0, |time: SystemTime| {
                    time.duration_since(UNIX_EPOCH)
                        .map_or(0, |since| since.as_secs())
                });
        let kind = if built.contains(&key) {
            Kind::Kernel
        } else {
            otherwise
        };
        let (metadata, damage) = match (kind, cache.inspect(&key)) {
            (Kind::Unpacked | Kind::Tree, _) => (None, None),
            (Kind::Kernel, Ok(metadata)) => (Some(metadata), None),
            (Kind::Kernel, Err(why)) => (None, Some(why)),
        };
        // A process that runs or builds it holds its lock; a lock that cannot be asked is taken for held.
        let in_use = !matches!(cache.try_lock_exclusive(&key), Ok(Some(_)));
        let name = match kind {
            // A clean kernel and the tree that it came from have the same key.
            Kind::Tree => format!("trees/{key}"),
            Kind::Kernel | Kind::Unpacked => key.clone(),
        };
        Entry {
            kind,
            key: name,
            built_at,
            damage,
            in_use,
            bytes: (kind != Kind::Kernel).then(|| bytes_below(&path)),
            path,
            metadata,
            at: (cache.clone(), key),
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
        series_dir(cache).root().to_owned(),
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
        let bytes = metadata.map(|meta| meta.image_bytes + meta.vmlinux_bytes);
        let source = |meta: &Metadata| match meta.changes.as_slice() {
            [] => meta.source.clone(),
            changes => format!("{} with {}", meta.source, changes.join(", ")),
        };
        let source = match entry.kind {
            Kind::Kernel => metadata.map(source).unwrap_or_default(),
            Kind::Unpacked => String::from("a distribution's package"),
            Kind::Tree => {
                String::from("a source tree with its objects, kept for `kernel build --edit`")
            }
        };
        table.add_row([
            entry.key.clone(),
            metadata
                .map(|meta| meta.release.clone())
                .unwrap_or_default(),
            bytes.or(entry.bytes).map(output::mib).unwrap_or_default(),
            state,
            source,
        ]);
    }
    output::lines(&table)
}
