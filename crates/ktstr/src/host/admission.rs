//! How many VMs of this user run at once on this host.
//!
//! A VM that shares its CPUs with another measures the other one. So each run takes one of a few slots, lock files
//! that every ktstr process of the user sees; the kernel frees a slot when its holder ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};

/// A slot that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("failed to take a VM slot at {path}", path = path.display())]
pub struct AdmissionError {
    /// The slot's lock file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// One VM may run while this lives.
#[derive(Debug)]
pub struct Slot {
    _lock: File,
}

/// Two host CPUs per VM: its vCPUs and the host side's own threads.
fn slot_count() -> usize {
    thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).max(1))
}

/// Takes a slot, waiting for one if all are taken.
///
/// # Errors
/// When the lock directory cannot be used.
pub fn take_slot() -> Result<Slot, AdmissionError> {
    take_slot_in(&slots_dir(), slot_count())
}

/// Where the slots' lock files lie: one directory per user.
#[must_use]
pub fn slots_dir() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    base.join(format!(
        "ktstr-slots-{}",
        rustix::process::getuid().as_raw()
    ))
}

fn take_slot_in(dir: &Path, slots: usize) -> Result<Slot, AdmissionError> {
    fs::create_dir_all(dir).map_err(|source| AdmissionError {
        path: dir.to_owned(),
        source,
    })?;
    for index in 0..slots {
        let (path, file) = open_slot(dir, index)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Slot { _lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => {
                return Err(AdmissionError {
                    path,
                    source: errno.into(),
                });
            }
        }
    }
    // All taken: queue up behind one of them, spread by process so that the queues are of like length.
    let index = usize::try_from(std::process::id()).unwrap_or(0) % slots.max(1);
    let (path, file) = open_slot(dir, index)?;
    tracing::info!(slot = index, "waiting for another VM to end");
    flock(&file, FlockOperation::LockExclusive).map_err(|errno| AdmissionError {
        path,
        source: errno.into(),
    })?;
    Ok(Slot { _lock: file })
}

fn open_slot(dir: &Path, index: usize) -> Result<(PathBuf, File), AdmissionError> {
    let path = dir.join(format!("slot-{index}.lock"));
    match OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
    {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(AdmissionError { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_second_run_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = take_slot_in(dir.path(), 1).unwrap();
        let (sender, receiver) = mpsc::channel();
        let path = dir.path().to_owned();
        let waiter = thread::spawn(move || {
            let slot = take_slot_in(&path, 1);
            sender.send(()).unwrap();
            slot.is_ok()
        });
        assert!(receiver.try_recv().is_err());
        drop(first);
        receiver
            .recv_timeout(std::time::Duration::from_secs(30))
            .unwrap();
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn free_slots_are_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (_a, _b) = (
            take_slot_in(dir.path(), 2).unwrap(),
            take_slot_in(dir.path(), 2).unwrap(),
        );
    }

    #[test]
    fn an_unusable_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(
            take_slot_in(&file, 1)
                .unwrap_err()
                .to_string()
                .contains("file")
        );
    }
}
