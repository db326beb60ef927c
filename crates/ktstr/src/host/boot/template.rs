//! Templates: guests that were booted once and saved where they ask for their task. A test's guest starts as a copy of one.
//!
//! They lie under the cache directory, by a key made of all that a boot depends on. A lock keeps one that is in use there, and lets
//! one process at a time make one; what a killed maker left is not taken for a template, because only whole ones get their name.

use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use ktstr_kernel::{Cache, Lease, WorkDir, bytes_below};
use ktstr_vmm::{Saved, StopCause, Vm};
use ktstr_wire::{Assembler, Event, Message};
use sha2::{Digest as _, Sha256};

/// What all of them may take. The oldest unused go first.
const MAX_BYTES: u64 = 2 << 30;
/// How often what was just made may be removed by another process before it is given up.
const ATTEMPTS: u32 = 3;
/// More than init says before it asks for its task.
const MAX_SAID: usize = 4 << 20;

/// A template that stays there as long as this lives.
#[derive(Debug)]
pub(in crate::host) struct Template {
    pub(in crate::host) saved: Saved,
    _lease: Lease,
}

/// A name for all that a boot depends on: the machine as [`Vm::saved_machine`] tells it, and what the archive is made of.
pub(in crate::host) fn key(machine: &str, archive: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [machine.as_bytes(), archive] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The template of that key; where there is none or a damaged one, `make` makes it in an empty directory.
///
/// # Errors
/// When it cannot be made, stored or locked.
pub(in crate::host) fn find_or_make(
    cache: &Cache,
    key: &str,
    mut make: impl FnMut(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<Template> {
    let dir = cache.root().join(key);
    for _ in 0..ATTEMPTS {
        // A maker that holds it is bounded by its guest's deadline.
        let lease = cache.lock_shared(key)?;
        if let Some(saved) = whole(&dir) {
            note_use(&dir);
            return Ok(Template {
                saved,
                _lease: lease,
            });
        }
        drop(lease);
        let lease = cache.lock_exclusive(key, || ())?;
        if whole(&dir).is_some() {
            continue;
        }
        if dir.exists() {
            cache.remove(key, &lease)?;
        }
        let work = WorkDir::new_in(cache.root(), ".template-")
            .with_context(|| format!("no place for a template in {}", cache.root().display()))?;
        make(work.path())?;
        work.publish(&dir)
            .with_context(|| format!("failed to store the template {}", dir.display()))?;
        drop(lease);
        make_room(cache, key, MAX_BYTES);
    }
    bail!("the template {} does not stay whole", dir.display())
}

fn whole(dir: &Path) -> Option<Saved> {
    match Saved::open(dir) {
        Ok(saved) => Some(saved),
        Err(error) => {
            if dir.exists() {
                tracing::warn!(%error, "the template is made again");
            }
            None
        }
    }
}

/// When it was used last is the time of its directory. A cache that cannot be written forgets it.
fn note_use(dir: &Path) {
    let noted = File::open(dir).and_then(|dir| dir.set_modified(SystemTime::now()));
    if let Err(error) = noted {
        tracing::debug!(%error, "a template's use is not noted");
    }
}

/// Removes what killed makers left, and the templates that were not used longest, until all take at most `most` bytes. Those in use
/// and `kept` stay.
fn make_room(cache: &Cache, kept: &str, most: u64) {
    for leftover in cache.leftovers() {
        if let Err(error) = leftover.remove() {
            tracing::debug!(%error, "a killed maker's files stay");
        }
    }
    let mut all: Vec<(SystemTime, u64, String)> = cache
        .all_keys()
        .into_iter()
        .map(|key| {
            let dir = cache.root().join(&key);
            let used = fs::metadata(&dir).and_then(|meta| meta.modified());
            (
                used.unwrap_or(SystemTime::UNIX_EPOCH),
                bytes_below(&dir),
                key,
            )
        })
        .collect();
    all.sort();
    let mut total: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, key) in all {
        if total <= most {
            return;
        }
        if key == kept {
            continue;
        }
        if let Ok(Some(lease)) = cache.try_lock_exclusive(&key)
            && cache.remove(&key, &lease).is_ok()
        {
            total = total.saturating_sub(bytes);
        }
    }
}

/// Boots `vm` as far as to its question for a task, and saves it.
///
/// # Errors
/// When it does not come that far, or cannot be saved.
pub(in crate::host) fn boot(vm: Vm, dir: &Path) -> anyhow::Result<()> {
    let running = vm.start().context("failed to start the template's VM")?;
    let mut said = Vec::new();
    let mut assembler = Assembler::new();
    while let Some(stop) = running.next_stop()? {
        if let StopCause::Knock(bytes) = stop.cause {
            said.extend_from_slice(&bytes);
            assembler.push(&bytes);
        }
        if said.len() > MAX_SAID {
            bail!("the template's guest says more than {MAX_SAID} bytes before it asks for a task");
        }
        while let Some(event) = assembler.next_event() {
            if let Event::Frame(frame) = event
                && matches!(frame.decode(), Ok(Message::TaskRequest))
            {
                running.save(dir, &said)?;
                return Ok(());
            }
        }
        running.go_on(&[], None)?;
    }
    let console = running.com1().snapshot();
    let console = String::from_utf8_lossy(&console);
    let end = console.lines().last().unwrap_or_default();
    bail!("the template's guest ended before it asked for a task; its console's last line: {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_all_parts_apart() {
        let keys = [
            key("a", b"b"),
            key("ab", b""),
            key("", b"ab"),
            key("a", b"c"),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert_eq!(one.len(), 32);
            assert!(!keys[..index].contains(one), "{one}");
        }
        assert_eq!(key("a", b"b"), keys[0]);
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().join("templates"));
        (root, cache)
    }

    fn entry(cache: &Cache, key: &str, len: usize, used: u64) {
        let dir = cache.root().join(key);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("ram0"), vec![1; len]).unwrap();
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(used);
        File::open(&dir).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn the_oldest_unused_goes_first() {
        let (_root, cache) = cache();
        for (name, used) in [
            ("old", 1),
            ("held", 2),
            ("older", 0),
            ("new", 4),
            ("kept", 3),
        ] {
            entry(&cache, name, 1 << 20, used);
        }
        let held = cache.lock_shared("held").unwrap();
        fs::create_dir(cache.root().join(".template-killed")).unwrap();
        make_room(&cache, "kept", 3 << 20);
        assert_eq!(cache.all_keys(), ["held", "kept", "new"]);
        assert!(!cache.root().join(".template-killed").exists());
        make_room(&cache, "kept", 0);
        assert_eq!(cache.all_keys(), ["held", "kept"]);
        drop(held);
        // A process that another test starts has the lock, too, until it executes its program.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while cache.all_keys() != ["kept"] {
            assert!(std::time::Instant::now() < deadline, "held stays");
            make_room(&cache, "kept", 0);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_maker_that_fails_leaves_nothing_and_its_reason() {
        let (_root, cache) = cache();
        let failed = find_or_make(&cache, "k", |dir| {
            fs::write(dir.join("ram0"), "half").unwrap();
            bail!("no space left")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no space left");
        let names: Vec<String> = fs::read_dir(cache.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, [".k.lock"]);
        let damaged = find_or_make(&cache, "k", |dir| Ok(fs::write(dir.join("ram0"), "half")?));
        let told = damaged.unwrap_err().to_string();
        assert!(told.contains("does not stay whole"), "{told}");
    }
}
