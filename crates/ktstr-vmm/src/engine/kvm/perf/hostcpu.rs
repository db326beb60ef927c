//! The host's CPUs, grouped by LLC, as far as this process may use them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

const SYSFS: &str = "/sys/devices/system/cpu";

/// Usable CPUs of each LLC, ascending; the LLCs in the order of their first CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostCpus {
    pub(super) llcs: Vec<Vec<u32>>,
}

impl HostCpus {
    /// As sysfs and this process's affinity tell.
    pub(super) fn read() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let allowed = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .filter_map(|cpu| u32::try_from(cpu).ok());
        Ok(Self::group(allowed, |cpu| {
            shared_with(Path::new(SYSFS), cpu)
        }))
    }

    /// Without LLC information, all CPUs are one LLC.
    fn group(allowed: impl Iterator<Item = u32>, llc_of: impl Fn(u32) -> Option<String>) -> Self {
        let mut groups: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for cpu in allowed {
            groups
                .entry(llc_of(cpu).unwrap_or_default())
                .or_default()
                .push(cpu);
        }
        let mut llcs: Vec<Vec<u32>> = groups.into_values().collect();
        llcs.sort();
        Self { llcs }
    }
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
    fn cpus_are_grouped_by_their_last_cache() {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, l3) in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")] {
            for (index, level, shared) in [(0, "1", cpu.to_string()), (3, "3", l3.to_owned())] {
                let cache = dir.path().join(format!("cpu{cpu}/cache/index{index}"));
                fs::create_dir_all(&cache).unwrap();
                fs::write(cache.join("level"), level).unwrap();
                fs::write(cache.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
            }
        }
        let host = HostCpus::group([0, 2, 3].into_iter(), |cpu| shared_with(dir.path(), cpu));
        assert_eq!(host.llcs, [vec![0], vec![2, 3]]);
    }

    #[test]
    fn without_caches_all_cpus_are_one_llc() {
        let host = HostCpus::group([0, 5].into_iter(), |_| None);
        assert_eq!(host.llcs, [vec![0, 5]]);
    }

    #[test]
    fn this_host_has_a_cpu() {
        let host = HostCpus::read().unwrap();
        assert!(host.llcs.iter().all(|llc| !llc.is_empty()) && !host.llcs.is_empty());
    }
}
