//! What procfs and sysfs say about a worker from outside.

use std::fs;

use crate::model::cpuset::CpuSet;

/// Times of one task since its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunTime {
    pub(super) cpu_ns: u64,
    /// Runnable but not running.
    pub(super) delay_ns: u64,
}

/// Reads a thread's `schedstat` (kernel: `proc_pid_schedstat`).
pub(super) fn run_time_ns((pid, tid): (i32, i32)) -> Option<RunTime> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some(RunTime {
        cpu_ns: numbers.next()?.ok()?,
        delay_ns: numbers.next()?.ok()?,
    })
}

/// A process's own pages by node, ascending; `None` without NUMA in the kernel.
pub(super) fn pages_by_node(pid: i32) -> Option<Vec<(u32, u64)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/numa_maps")).ok()?;
    Some(parse_numa_maps(&text))
}

/// The `N<node>=<pages>` fields of all mappings (kernel: `show_numa_map`), each page counted in its own size.
///
/// Only what the process made itself: pages of files, and mappings with pages that others map too (`mapmax`), lie where
/// another process touched them first.
fn parse_numa_maps(text: &str) -> Vec<(u32, u64)> {
    let mut all = std::collections::BTreeMap::new();
    let foreign = |line: &&str| line.contains(" file=") || line.contains(" mapmax=");
    let own = text.lines().filter(|line| !foreign(line));
    for field in own.flat_map(str::split_ascii_whitespace) {
        let Some((node, pages)) = field.strip_prefix('N').and_then(|f| f.split_once('=')) else {
            continue;
        };
        if let (Ok(node), Ok(pages)) = (node.parse::<u32>(), pages.parse::<u64>()) {
            *all.entry(node).or_default() += pages;
        }
    }
    all.into_iter().collect()
}

/// Pages moved between nodes by NUMA balancing since boot, of all processes; `None` for a kernel without it, or with it off:
/// a count that cannot grow measures nothing.
pub(super) fn pages_migrated() -> Option<u64> {
    let mode = fs::read_to_string("/proc/sys/kernel/numa_balancing").ok()?;
    balances(&mode)
        .then(|| fs::read_to_string("/proc/vmstat").ok())
        .flatten()
        .and_then(|vmstat| parse_migrated(&vmstat))
}

/// Whether `kernel.numa_balancing` has a mode on (Documentation/admin-guide/sysctl/kernel.rst: a sum of modes, 0 is off).
fn balances(mode: &str) -> bool {
    mode.trim().parse::<u32>().is_ok_and(|modes| modes != 0)
}

/// `pgmigrate_success` would count compaction and moves within a node as well.
fn parse_migrated(vmstat: &str) -> Option<u64> {
    let mut lines = vmstat.lines();
    let line = lines.find_map(|line| line.strip_prefix("numa_pages_migrated "));
    line?.trim().parse().ok()
}

/// All nodes with their CPUs; a node without CPUs has an empty set.
pub(super) fn nodes() -> Vec<(u32, CpuSet)> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/node") else {
        return Vec::new();
    };
    let mut nodes: Vec<(u32, CpuSet)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let node = entry
                .file_name()
                .to_str()?
                .strip_prefix("node")?
                .parse()
                .ok()?;
            let list = fs::read_to_string(entry.path().join("cpulist")).ok()?;
            Some((node, parse_list(&list)))
        })
        .collect();
    nodes.sort_unstable_by_key(|(node, _)| *node);
    nodes
}

/// The two hardware threads of a CPU's core and those beyond, as sysfs has them.
pub(super) fn siblings(cpu: u32) -> CpuSet {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(file).map_or_else(|_| CpuSet::from([cpu]), |list| parse_list(&list))
}

/// The kernel's list form; what does not parse is left out.
fn parse_list(list: &str) -> CpuSet {
    let ranges = list.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numa_maps_add_up_over_own_mappings() {
        let text = "56049cdaa000 default file=/bin/cat mapped=2 N0=2 kernelpagesize_kB=4\n\
                    7e00 default anon=9 dirty=9 mapmax=2 active=0 N0=9 kernelpagesize_kB=4\n\
                    7d00 default heap anon=2 dirty=2 active=0 N0=2 kernelpagesize_kB=4\n\
                    7f00 bind:1 anon=7 dirty=7 N0=3 N1=4 kernelpagesize_kB=4\n";
        assert_eq!(parse_numa_maps(text), [(0, 5), (1, 4)]);
        assert_eq!(parse_numa_maps(""), []);
    }

    #[test]
    fn compaction_is_no_move_between_nodes() {
        let vmstat = "pgmigrate_success 900\nnuma_pages_migrated 7\n";
        assert_eq!(parse_migrated(vmstat), Some(7));
        assert_eq!(parse_migrated("pgmigrate_success 900\n"), None);
    }

    #[test]
    fn no_balancing_is_no_figure() {
        assert!(balances("1\n") && balances("3\n"));
        assert!(!balances("0\n") && !balances(""));
    }

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-2,5\n"), CpuSet::from([0, 1, 2, 5]));
        assert_eq!(parse_list("\n"), CpuSet::EMPTY);
    }

    #[test]
    fn the_own_task_can_be_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(run_time_ns((pid, pid)).is_some());
        assert_eq!(run_time_ns((pid, 0)), None);
    }
}
