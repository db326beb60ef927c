//! `cargo ktstr locks`: which processes hold VMs, kernels, packages and booted guests. Only looks.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ktstr::host::plan::admission::admission_dir;
use ktstr::host::plan::kernel::{default_cache, templates};
use serde::Serialize;

use crate::exit::Exit;
use crate::{kernel, output};

/// How to show them.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// One lock file.
#[derive(Debug, Serialize)]
struct Lock {
    /// What it guards.
    what: String,
    path: PathBuf,
    /// `shared`, `exclusive`; absent when it is free.
    mode: Option<&'static str>,
    holders: Vec<Holder>,
}

#[derive(Debug, Serialize)]
struct Holder {
    pid: i32,
    command: String,
}

/// Prints them.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let held = held(&fs::read_to_string("/proc/locks").unwrap_or_default());
    let cache = default_cache();
    let places = [
        ("VM", admission_dir()),
        ("kernel", cache.root().to_owned()),
        ("kernel package", kernel::packages_dir(&cache)),
        ("kernel repository", kernel::repositories_dir(&cache)),
        ("booted guest", templates().root().to_owned()),
    ];
    let locks: Vec<Lock> = places
        .iter()
        .flat_map(|(kind, dir)| in_dir(kind, dir, &held))
        .collect();
    if options.json {
        output::print_json(&locks)?;
    } else if locks.is_empty() {
        output::print("no locks: nothing has run on this host yet\n")?;
    } else {
        output::print(&render(&locks))?;
    }
    Ok(Exit::Pass)
}

fn render(locks: &[Lock]) -> String {
    let mut table = output::table(["LOCK", "STATE", "HOLDER"]);
    for lock in locks {
        let holders: Vec<String> = lock
            .holders
            .iter()
            .map(|holder| format!("{} {}", holder.pid, holder.command))
            .collect();
        table.add_row([
            lock.what.clone(),
            lock.mode.unwrap_or("free").to_owned(),
            holders.join("\n"),
        ]);
    }
    output::lines(&table)
}

fn in_dir(kind: &str, dir: &Path, held: &HashMap<u64, (bool, Vec<i32>)>) -> Vec<Lock> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "lock")
        })
        .collect();
    paths.sort();
    let lock = |path: PathBuf| {
        let name = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let found = path.metadata().ok().and_then(|meta| held.get(&meta.ino()));
        Lock {
            what: format!(
                "{kind} {}",
                name.unwrap_or_default().trim_start_matches('.')
            ),
            mode: found.map(|(exclusive, _)| if *exclusive { "exclusive" } else { "shared" }),
            holders: found
                .into_iter()
                .flat_map(|(_, pids)| pids.iter().map(|pid| holder(*pid)))
                .collect(),
            path,
        }
    };
    paths.into_iter().map(lock).collect()
}

fn holder(pid: i32) -> Holder {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let command = if words.is_empty() {
        String::from("(ended)")
    } else {
        words.join(" ")
    };
    Holder { pid, command }
}

/// Flocks by inode: exclusive or not, and who. Lines look like `1: FLOCK  ADVISORY  WRITE 1234 08:02:5678 0 EOF`;
/// waiters have `->` behind the number.
fn held(text: &str) -> HashMap<u64, (bool, Vec<i32>)> {
    let mut held: HashMap<u64, (bool, Vec<i32>)> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, mode, pid, file, ..] = words.as_slice() else {
            continue;
        };
        let inode = file.rsplit(':').next().and_then(|inode| inode.parse().ok());
        if let (Some(inode), Ok(pid)) = (inode, pid.parse()) {
            let entry = held.entry(inode).or_default();
            entry.0 |= *mode == "WRITE";
            entry.1.push(pid);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read_and_waiters_are_not() {
        let text = "1: FLOCK  ADVISORY  READ 10 08:02:77 0 EOF\n2: FLOCK  ADVISORY  READ 11 08:02:77 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 12 08:02:77 0 EOF\n3: POSIX  ADVISORY  WRITE 13 08:02:78 0 EOF\n";
        let held = held(text);
        assert_eq!(held.get(&77), Some(&(false, vec![10, 11])));
        assert_eq!(held.len(), 1);
    }
}
