//! The host's CPUs, grouped by LLC and core, as far as this process may use them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

const SYSFS: &str = "/sys/devices/system/cpu";

/// The cores of an LLC, each with its usable CPUs, which are SMT siblings; all in the order of their first CPU.
pub(super) type Llc = Vec<Vec<u32>>;

/// Usable CPUs by LLC and core; the LLCs in the order of their first CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostCpus {
    pub(super) llcs: Vec<Llc>,
}

impl HostCpus {
    /// As sysfs and this process's affinity tell.
    pub(super) fn read() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let allowed = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .filter_map(|cpu| u32::try_from(cpu).ok());
        Ok(Self::group(allowed, Path::new(SYSFS)))
    }

    /// Without LLC information, all CPUs are one LLC; without core information, each is a core.
    fn group(allowed: impl Iterator<Item = u32>, sysfs: &Path) -> Self {
        let mut groups: BTreeMap<String, BTreeMap<String, Vec<u32>>> = BTreeMap::new();
        for cpu in allowed {
            let llc = shared_with(sysfs, cpu).unwrap_or_default();
            let core = siblings(sysfs, cpu).unwrap_or_else(|| cpu.to_string());
            let cores = groups.entry(llc).or_default();
            cores.entry(core).or_default().push(cpu);
        }
        let sorted = |cores: BTreeMap<String, Vec<u32>>| {
            let mut cores: Llc = cores.into_values().collect();
            cores.sort();
            cores
        };
        let mut llcs: Vec<Llc> = groups.into_values().map(sorted).collect();
        llcs.sort();
        Self { llcs }
    }

    /// Every usable CPU.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.llcs.iter().flatten().flatten().copied()
    }

    /// Some core has more than one usable CPU.
    pub(super) fn has_smt(&self) -> bool {
        self.llcs.iter().flatten().any(|core| core.len() > 1)
    }
}

/// The CPUs of `cpu`'s core, as sysfs writes them; kernels before 5.3 have the older name alone.
fn siblings(sysfs: &Path, cpu: u32) -> Option<String> {
    let topology = sysfs.join(format!("cpu{cpu}/topology"));
    let read = |name: &str| fs::read_to_string(topology.join(name)).ok();
    let text = read("core_cpus_list").or_else(|| read("thread_siblings_list"))?;
    Some(text.trim().to_owned())
}

/// The CPUs that share the last level cache with `cpu`, as sysfs writes them.
fn shared_with(sysfs: &Path, cpu: u32) -> Option<String> {
    let cache = sysfs.join(format!("cpu{cpu}/cache"));
    let mut last: Option<(u32, String)> = None;
    for entry in fs::read_dir(cache).ok()?.filter_map(Result::ok) {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
        let level = read("level").and_then(|text| text.trim().parse::<u32>().ok());
        let (Some(level), Some(shared)) = (level, read("shared_cpu_list")) else {
            continue;
        };
        if last.as_ref().is_none_or(|(highest, _)| level > *highest) {
            last = Some((level, shared.trim().to_owned()));
        }
    }
    last.map(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_grouped_by_their_last_cache_and_their_core() {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, l3, core) in [
            (0, "0-1,4-5", "0,4"),
            (1, "0-1,4-5", "1,5"),
            (2, "2-3", "2"),
            (3, "2-3", "3"),
            (4, "0-1,4-5", "0,4"),
            (5, "0-1,4-5", "1,5"),
        ] {
            let topology = dir.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            // The older name.
            fs::write(topology.join("thread_siblings_list"), core).unwrap();
            for (index, level, shared) in [(0, "1", cpu.to_string()), (3, "3", l3.to_owned())] {
                let cache = dir.path().join(format!("cpu{cpu}/cache/index{index}"));
                fs::create_dir_all(&cache).unwrap();
                fs::write(cache.join("level"), level).unwrap();
                fs::write(cache.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
            }
        }
        let host = HostCpus::group([0, 2, 3, 4, 5].into_iter(), dir.path());
        assert_eq!(
            host.llcs,
            [vec![vec![0, 4], vec![5]], vec![vec![2], vec![3]],]
        );
        assert!(host.has_smt());
        assert_eq!(host.all().count(), 5);
    }

    #[test]
    fn without_caches_all_cpus_are_one_llc() {
        let host = HostCpus::group([0, 5].into_iter(), Path::new("/nonexistent"));
        assert_eq!(host.llcs, [vec![vec![0], vec![5]]]);
        assert!(!host.has_smt());
    }

    #[test]
    fn this_host_has_a_cpu() {
        let host = HostCpus::read().unwrap();
        assert!(host.llcs.iter().all(|llc| !llc.is_empty()) && !host.llcs.is_empty());
    }
}
