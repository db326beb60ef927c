//! Lock files: who holds a host's LLCs and CPUs. The kernel frees them when their holder ends, however it ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::assign::{assign, candidates};
use super::hostcpu::HostCpus;
use crate::error::{Error, Result};
use crate::topology::Topology;

/// The vCPUs' host CPUs, which no other VM in performance mode uses while this lives.
#[derive(Debug)]
pub(crate) struct Reservation {
    cpus: Vec<u32>,
    _locks: Vec<File>,
}

impl Reservation {
    /// Locks an LLC of the host for each of the guest's, of those that nobody else holds, and their CPUs.
    ///
    /// Nobody waits for a lock, so two processes cannot wait for each other: who does not get enough gives all back.
    pub(super) fn take(dir: &Path, host: &HostCpus, topology: &Topology) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::system("create the lock directory"))?;
        let candidates =
            candidates(topology, &host.llcs).map_err(|lacking| Error::PerfModeUnavailable {
                what: lacking.what,
                needed: lacking.needed,
                found: lacking.found,
            })?;
        let wanted = usize::try_from(topology.llcs()).unwrap_or(usize::MAX);
        let (mut chosen, mut locks, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for llc in candidates {
            if chosen.len() == wanted {
                break;
            }
            let number = llc.first().copied().unwrap_or_default();
            match lock(&dir.join(format!("ktstr-llc-{number}.lock"))) {
                Ok(lock) => {
                    chosen.push(llc);
                    locks.push(lock);
                }
                Err(Error::ResourceContention { resource }) => held.push(resource),
                Err(error) => return Err(error),
            }
        }
        if chosen.len() < wanted {
            return Err(Error::ResourceContention {
                resource: held.join(", "),
            });
        }
        let cpus = assign(topology, &chosen);
        for cpu in &cpus {
            locks.push(lock(&dir.join(format!("ktstr-cpu-{cpu}.lock")))?);
        }
        Ok(Self {
            cpus,
            _locks: locks,
        })
    }

    /// The host CPU of a vCPU.
    pub(crate) fn cpu_of(&self, vcpu: usize) -> Option<u32> {
        self.cpus.get(vcpu).copied()
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = open(path).map_err(Error::system("open a lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::ResourceContention {
            resource: path.display().to_string(),
        }),
        Err(TryLockError::Error(source)) => Err(Error::System {
            what: "lock a host CPU",
            source,
        }),
    }
}

/// A lock needs no write, and every user of the host must be able to take it, whatever the umask of who was first.
fn open(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let new = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    new.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    match new.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        // Opened by its name again: who lost the race must lock the winner's.
        _ => File::open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostCpus {
        HostCpus {
            llcs: vec![vec![0, 1], vec![2, 3]],
        }
    }

    #[track_caller]
    fn take(dir: &Path, shape: &str) -> Result<Reservation> {
        Reservation::take(dir, &host(), &shape.parse().unwrap())
    }

    #[test]
    fn a_second_vm_gets_the_llcs_that_the_first_left() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "1n1l2c1t").unwrap();
        let second = take(dir.path(), "1n1l1c1t").unwrap();
        assert_eq!((first.cpu_of(0), first.cpu_of(1)), (Some(0), Some(1)));
        assert_eq!(second.cpu_of(0), Some(2));
        let error = take(dir.path(), "1n1l1c1t").unwrap_err();
        assert!(
            matches!(&error, Error::ResourceContention { resource } if resource.contains("ktstr-llc-0") && resource.contains("ktstr-llc-2")),
            "{error}"
        );
        drop(first);
        let third = take(dir.path(), "1n1l1c1t").unwrap();
        assert_eq!(third.cpu_of(0), Some(0));
        // One of two is not enough, and is given back.
        drop(second);
        take(dir.path(), "1n2l1c1t").unwrap_err();
        let fourth = take(dir.path(), "1n1l2c1t").unwrap();
        drop((third, fourth));
        take(dir.path(), "1n2l2c1t").unwrap();
        let mode = |path: fs::DirEntry| path.metadata().unwrap().permissions().mode() & 0o777;
        let files = fs::read_dir(dir.path()).unwrap().flatten();
        assert!(files.map(mode).all(|mode| mode == 0o644));
    }

    #[test]
    fn what_no_host_llc_can_hold_is_unavailable_rather_than_held() {
        let dir = tempfile::tempdir().unwrap();
        let _first = take(dir.path(), "1n2l1c1t").unwrap();
        let error = take(dir.path(), "1n1l3c1t").unwrap_err();
        assert!(
            matches!(error, Error::PerfModeUnavailable { .. }),
            "{error}"
        );
    }
}
