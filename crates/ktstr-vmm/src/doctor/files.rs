//! What /proc and /sys tell.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::finding::{Finding, Health};

/// Descriptors of a VM with a few ports and disks, and some for the process that runs it; several VMs run at once.
const DESCRIPTORS: u64 = 1024;
/// Memory that a guest of the usual size needs.
const MEMORY_MIB: u64 = 1024;

/// A file's text below `root`, without its last line break.
pub(super) fn text(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(path.trim_start_matches('/'))).ok()?;
    Some(text.trim().to_owned())
}

pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let mut findings = vec![
        clock(root),
        smt(root),
        huge_pages(root),
        transparent_huge_pages(root),
        memory(root),
    ];
    findings.extend(cpus(root, allowed()));
    findings.push(limits(
        getrlimit(Resource::Nofile).current,
        getrlimit(Resource::Nproc).current,
    ));
    findings
}

fn allowed() -> usize {
    sched_getaffinity(None).map_or(0, |set| {
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).count()
    })
}

fn clock(root: &Path) -> Finding {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let Some(source) = text(root, source) else {
        return Finding::new(
            "clock",
            Health::Less,
            "the host's clocksource cannot be read",
        );
    };
    let found = format!("the host's clocksource is {source}");
    match source.as_str() {
        "tsc" | "kvm-clock" => Finding::new("clock", Health::Good, found),
        "hpet" | "acpi_pm" | "jiffies" => Finding::new(
            "clock",
            Health::Less,
            format!("{found}, which is slow to read and makes guests' clocks slow"),
        )
        .mend("see `dmesg | grep -i tsc` for why the TSC was given up"),
        _ => Finding::new("clock", Health::Good, found),
    }
}

/// The CPUs in a list such as `0-3,8`.
fn count(list: &str) -> usize {
    let bounds = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (
            from.trim().parse::<usize>().ok()?,
            to.trim().parse::<usize>().ok()?,
        );
        to.checked_sub(from)?.checked_add(1)
    };
    list.split(',').filter_map(bounds).sum()
}

fn cpus(root: &Path, allowed: usize) -> Vec<Finding> {
    let online = text(root, "/sys/devices/system/cpu/online").map_or(0, |list| count(&list));
    let found = format!("{allowed} of {online} host CPUs may be used");
    let finding = if allowed < online {
        Finding::new("cpus", Health::Less, format!("{found} by this process")).mend(
            "see `cat /proc/self/cgroup` and its cpuset.cpus.effective, and `taskset -p $$`; a container gets more with `--cpuset-cpus`",
        )
    } else {
        Finding::new("cpus", Health::Good, found)
    };
    let mut findings = vec![finding];
    let quota = text(root, "/proc/self/cgroup")
        .and_then(|groups| {
            let group = groups
                .lines()
                .find_map(|line| line.strip_prefix("0::"))?
                .to_owned();
            text(root, &format!("/sys/fs/cgroup{group}/cpu.max"))
        })
        .filter(|max| !max.starts_with("max"));
    if let Some(quota) = quota {
        findings.push(
            Finding::new(
                "cpu quota",
                Health::Less,
                format!("this process's cgroup is throttled (cpu.max {quota}), which guests see as stolen time"),
            )
            .mend("run outside of it: `systemd-run --user --scope`, or a container without `--cpus`"),
        );
    }
    findings
}

fn smt(root: &Path) -> Finding {
    let found = match text(root, "/sys/devices/system/cpu/smt/active").as_deref() {
        Some("1") => "on; performance mode gives each guest core a whole host core",
        Some(_) => "off",
        None => "not told by this kernel",
    };
    Finding::new("smt", Health::Good, found)
}

fn huge_pages(root: &Path) -> Finding {
    let read = |name: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
        text(root, &path)?.parse::<u64>().ok()
    };
    let (free, all) = (
        read("free_hugepages").unwrap_or(0),
        read("nr_hugepages").unwrap_or(0),
    );
    let found = format!("{free} of {all} pages of 2 MiB are free");
    if free * 2 >= 256 {
        return Finding::new("huge pages", Health::Good, found);
    }
    Finding::new(
        "huge pages",
        Health::Less,
        format!("{found}; performance mode needs one for every 2 MiB of its guest"),
    )
    .mend("echo 512 | sudo tee /proc/sys/vm/nr_hugepages")
}

fn transparent_huge_pages(root: &Path) -> Finding {
    let chosen = text(root, "/sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    });
    match chosen.as_deref() {
        Some("never") | None => Finding::new(
            "transparent huge pages",
            Health::Less,
            "never; kvm guests get pages of 4 KiB and are slower",
        )
        .mend("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        Some(mode) => Finding::new("transparent huge pages", Health::Good, mode),
    }
}

fn memory(root: &Path) -> Finding {
    let available = text(root, "/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    let mib = available.unwrap_or(0) / 1024;
    let found = format!("{mib} MiB are available");
    if mib >= MEMORY_MIB {
        Finding::new("memory", Health::Good, found)
    } else {
        Finding::new(
            "memory",
            Health::Less,
            format!("{found}; a guest has 256 MiB and more"),
        )
        .mend("end what uses it (`ps --sort=-rss -eo pid,rss,comm | head`), or take a larger host")
    }
}

/// `None` is no limit.
fn limits(descriptors: Option<u64>, processes: Option<u64>) -> Finding {
    let words =
        |limit: Option<u64>| limit.map_or(String::from("any number of"), |limit| limit.to_string());
    let found = format!(
        "{} descriptors, {} processes and threads",
        words(descriptors),
        words(processes)
    );
    if descriptors.is_some_and(|limit| limit < DESCRIPTORS) {
        return Finding::new("limits", Health::Less, found)
            .mend(format!("ulimit -n {DESCRIPTORS}"));
    }
    Finding::new("limits", Health::Good, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[track_caller]
    fn check(finding: &Finding, health: Health, says: &str, mend: Option<&str>) {
        assert_eq!(finding.health, health, "{finding:?}");
        assert!(finding.found.contains(says), "{finding:?}");
        match mend {
            Some(words) => assert!(
                finding.mend.as_ref().unwrap().contains(words),
                "{finding:?}"
            ),
            None => assert_eq!(finding.mend, None),
        }
    }

    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    const HUGE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

    #[test]
    fn a_poor_host_is_told_with_its_mends() {
        let poor = host(&[
            (SOURCE, "hpet\n"),
            (HUGE, "3\n"),
            (THP, "always madvise [never]\n"),
            (
                "/proc/meminfo",
                "MemTotal: 1 kB\nMemAvailable:   204800 kB\n",
            ),
            ("/sys/devices/system/cpu/online", "0-3,8\n"),
            ("/proc/self/cgroup", "0::/user/x\n"),
            ("/sys/fs/cgroup/user/x/cpu.max", "200000 100000\n"),
            ("/sys/devices/system/cpu/smt/active", "1\n"),
        ]);
        let root = poor.path();
        check(&clock(root), Health::Less, "hpet", Some("dmesg"));
        check(
            &huge_pages(root),
            Health::Less,
            "3 of 0",
            Some("nr_hugepages"),
        );
        check(
            &transparent_huge_pages(root),
            Health::Less,
            "never",
            Some("madvise"),
        );
        check(&memory(root), Health::Less, "200 MiB", Some("rss"));
        check(&smt(root), Health::Good, "on", None);
        let [cpus, quota] = &cpus(root, 2)[..] else {
            panic!()
        };
        check(cpus, Health::Less, "2 of 5", Some("cpuset"));
        check(quota, Health::Less, "200000 100000", Some("systemd-run"));
        check(
            &limits(Some(256), None),
            Health::Less,
            "256",
            Some("ulimit -n 1024"),
        );
    }

    #[test]
    fn a_rich_host_needs_nothing() {
        let rich = host(&[
            (SOURCE, "tsc\n"),
            (HUGE, "512\n"),
            (THP, "always [madvise] never\n"),
            ("/proc/meminfo", "MemAvailable:   20480000 kB\n"),
            ("/sys/devices/system/cpu/online", "0-7\n"),
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
        ]);
        let root = rich.path();
        let mut all = vec![
            clock(root),
            huge_pages(root),
            transparent_huge_pages(root),
            memory(root),
            smt(root),
            limits(Some(1 << 20), Some(1 << 15)),
        ];
        all.extend(cpus(root, 8));
        assert_eq!(all.len(), 7, "{all:?}");
        for finding in all {
            check(&finding, Health::Good, "", None);
        }
    }
}
