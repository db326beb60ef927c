//! Lock files: which processes hold a host's LLCs and CPUs. The kernel frees them when their holder ends, however it ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::assign::candidates;
use super::hostcpu::HostCpus;
use crate::error::{Error, Result};
use crate::topology::Topology;

/// The vCPUs' host CPUs, which no other VM in performance mode uses while this lives.
#[derive(Debug)]
pub(crate) struct Reservation {
    cpus: Vec<u32>,
    _locks: Vec<Locked>,
}

impl Reservation {
    /// Locks an LLC of the host for each of the guest's, of those that no other process holds, and their CPUs.
    ///
    /// One CPU that no VM holds is left to the host. No process waits for a lock, so two cannot wait for each other: one that does not get enough gives all back.
    pub(super) fn take(dir: &Path, host: &HostCpus, topology: &Topology) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::system("create the lock directory"))?;
        let candidates =
            candidates(topology, host).map_err(|lacking| Error::PerfModeUnavailable {
                what: lacking.what,
                needed: lacking.needed,
                found: lacking.found,
            })?;
        let wanted = usize::try_from(topology.llcs()).unwrap_or(usize::MAX);
        let (mut cpus, mut locks, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for llc in candidates {
            if locks.len() == wanted {
                break;
            }
            match lock(&dir.join(format!("ktstr-llc-{}.lock", llc.first))) {
                Ok(lock) => {
                    cpus.extend(llc.cpus);
                    locks.push(lock);
                }
                Err(Error::ResourceContention { resource }) => held.push(resource),
                Err(error) => return Err(error),
            }
        }
        if locks.len() < wanted {
            return Err(Error::ResourceContention {
                resource: held.join(", "),
            });
        }
        let of_cpu = |cpu: u32| dir.join(format!("ktstr-cpu-{cpu}.lock"));
        for cpu in &cpus {
            locks.push(lock(&of_cpu(*cpu))?);
        }
        let mut others = host.all().filter(|cpu| !cpus.contains(cpu));
        if !others.any(|cpu| is_free(&of_cpu(cpu))) {
            return Err(Error::ResourceContention {
                resource: String::from("the last host CPU but one"),
            });
        }
        Ok(Self {
            cpus,
            _locks: locks,
        })
    }

    /// The vCPUs' CPUs.
    pub(super) fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// The host CPU of a vCPU.
    pub(crate) fn cpu_of(&self, vcpu: usize) -> Option<u32> {
        self.cpus.get(vcpu).copied()
    }
}

/// A locked file. It is unlocked, not only closed: a child that another thread has forked has it open, too, until it executes its
/// program, and the lock is the open file's (flock(2)).
#[derive(Debug)]
struct Locked(File);

impl Locked {
    fn new(file: File) -> std::result::Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// No VM holds the CPU of this lock file.
fn is_free(path: &Path) -> bool {
    match File::open(path) {
        // Held for a moment: a process that wants it just now tries again later.
        Ok(file) => Locked::new(file).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn lock(path: &Path) -> Result<Locked> {
    let file = open(path).map_err(Error::system("open a lock file"))?;
    match Locked::new(file) {
        Ok(locked) => Ok(locked),
        Err(TryLockError::WouldBlock) => Err(Error::ResourceContention {
            resource: path.display().to_string(),
        }),
        Err(TryLockError::Error(source)) => Err(Error::System {
            what: "lock a host CPU",
            source,
        }),
    }
}

/// A lock needs no write, and every user of the host must be able to take it, whatever the umask of its creator.
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
        // Opened by its name again: the loser of a race must lock the winner's file.
        _ => File::open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostCpus {
        HostCpus {
            llcs: vec![vec![vec![0], vec![1]], vec![vec![2], vec![3]]],
        }
    }

    /// Four LLCs of two cores with two threads each.
    fn server() -> HostCpus {
        let llc = |first: u32| vec![vec![first, first + 8], vec![first + 1, first + 9]];
        HostCpus {
            llcs: [0, 2, 4, 6].map(llc).to_vec(),
        }
    }

    #[test]
    fn two_vms_share_a_host_of_four_llcs_and_a_third_waits_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let take = |shape: &str| Reservation::take(dir.path(), &server(), &shape.parse().unwrap());
        let first = take("1n2l2c1t").unwrap();
        let second = take("1n2l1c2t").unwrap();
        assert_eq!(first.cpus(), [0, 1, 2, 3]);
        assert_eq!(second.cpus(), [4, 12, 6, 14]);
        for _ in 0..2 {
            let error = take("1n1l1c1t").unwrap_err();
            assert!(matches!(error, Error::ResourceContention { .. }), "{error}");
        }
        drop(first);
        let third = take("1n1l1c1t").unwrap();
        assert_eq!(third.cpus(), [0]);
    }

    #[test]
    fn the_last_cpu_is_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let take = |shape: &str| Reservation::take(dir.path(), &server(), &shape.parse().unwrap());
        // All sixteen: never.
        let error = take("1n4l2c2t").unwrap_err();
        assert!(
            matches!(
                error,
                Error::PerfModeUnavailable {
                    needed: 17,
                    found: 16,
                    ..
                }
            ),
            "{error}"
        );
        // The last four of them: not while another VM has the other twelve.
        let first = take("1n3l2c2t").unwrap();
        let error = take("1n1l2c2t").unwrap_err();
        assert!(
            matches!(&error, Error::ResourceContention { resource } if resource.contains("last host CPU")),
            "{error}"
        );
        // Three cores' worth leaves one.
        let second = take("1n1l2c1t").unwrap();
        drop((first, second));
        take("1n1l2c2t").unwrap();
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
        take(dir.path(), "1n2l1c1t").unwrap();
        let mode = |path: fs::DirEntry| path.metadata().unwrap().permissions().mode() & 0o777;
        let files = fs::read_dir(dir.path()).unwrap().flatten();
        assert!(files.map(mode).all(|mode| mode == 0o644));
    }

    /// A child between fork and exec has its parent's open files, as duplicates are.
    #[test]
    fn what_is_given_back_is_free_though_a_forked_child_has_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "1n2l1c1t").unwrap();
        let duplicate = |locked: &Locked| locked.0.try_clone().unwrap();
        let _of_the_child: Vec<File> = first._locks.iter().map(duplicate).collect();
        drop(first);
        take(dir.path(), "1n2l1c1t").unwrap();
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
