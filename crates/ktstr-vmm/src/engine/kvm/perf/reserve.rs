//! Lock files: who holds a host's LLCs and CPUs. The kernel frees them when their holder ends, however it ends.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use super::hostcpu::HostCpus;
use crate::error::{Error, Result};

/// The vCPUs' host CPUs, which no other VM in performance mode uses while this lives.
#[derive(Debug)]
pub(crate) struct Reservation {
    cpus: Vec<u32>,
    _locks: Vec<File>,
}

impl Reservation {
    /// Locks `cpus` and their LLCs, LLCs first and each kind ascending, so that two processes never wait for each other.
    pub(super) fn take(dir: &Path, host: &HostCpus, cpus: Vec<u32>) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::system("create the lock directory"))?;
        let mut llcs: Vec<u32> = cpus.iter().filter_map(|cpu| host.llc_of(*cpu)).collect();
        llcs.sort_unstable();
        llcs.dedup();
        let mut sorted = cpus.clone();
        sorted.sort_unstable();
        let names = llcs.iter().map(|llc| format!("ktstr-llc-{llc}.lock"));
        let names = names.chain(sorted.iter().map(|cpu| format!("ktstr-cpu-{cpu}.lock")));
        let locks = names
            .map(|name| lock(&dir.join(name)))
            .collect::<Result<_>>()?;
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
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::system("open a lock file"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_shared_cpu_by_cpu_and_llc_by_llc() {
        let dir = tempfile::tempdir().unwrap();
        let host = HostCpus {
            llcs: vec![vec![0, 1], vec![2, 3]],
        };
        let take = |cpus: &[u32]| Reservation::take(dir.path(), &host, cpus.to_vec());
        let first = take(&[1, 0]).unwrap();
        assert_eq!(first.cpu_of(0), Some(1));
        let error = take(&[0]).unwrap_err();
        assert!(
            matches!(&error, Error::ResourceContention { resource } if resource.contains("ktstr-llc-0")),
            "{error}"
        );
        let second = take(&[2]).unwrap();
        drop(first);
        take(&[0]).unwrap();
        drop(second);
        take(&[2, 3]).unwrap();
    }
}
