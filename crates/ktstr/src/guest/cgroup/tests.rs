//! The manager over a plain directory; the kernel's own behaviour is tested in a guest.

use super::*;
use crate::model::cpuset::CpuSet;
use std::fs;
use std::path::Path;

fn read(root: &Path, file: &str) -> String {
    fs::read_to_string(root.join(file)).unwrap()
}

#[test]
fn values_go_to_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut cgroups = CgroupManager::plain(dir.path());
    cgroups.add("a").unwrap();
    cgroups
        .set_cpuset("a", &CpuSet::from([0, 1, 2, 5]))
        .unwrap();
    cgroups.set_weight("a", 200).unwrap();
    cgroups.set_frozen("a", true).unwrap();
    cgroups.place("a", 42).unwrap();
    assert_eq!(read(dir.path(), "a/cpuset.cpus"), "0-2,5");
    assert_eq!(read(dir.path(), "a/cpu.weight"), "200");
    assert_eq!(read(dir.path(), "a/cgroup.freeze"), "1");
    assert_eq!(cgroups.procs("a").unwrap(), [42]);
    let mut limits = crate::model::scenario::CpuLimits {
        max_quota_us: Some(20_000),
        ..Default::default()
    };
    cgroups.set_max("a", limits).unwrap();
    assert_eq!(read(dir.path(), "a/cpu.max"), "20000 100000");
    limits.max_quota_us = None;
    cgroups.set_max("a", limits).unwrap();
    assert_eq!(read(dir.path(), "a/cpu.max"), "max 100000");
    cgroups.set_limit("a", "pids.max", Some(7)).unwrap();
    assert_eq!(read(dir.path(), "a/pids.max"), "7");
    cgroups.set_limit("a", "pids.max", None).unwrap();
    assert_eq!(read(dir.path(), "a/pids.max"), "max");
}

#[test]
fn nesting_makes_parents_and_drop_removes_in_reverse() {
    let dir = tempfile::tempdir().unwrap();
    let mut cgroups = CgroupManager::plain(dir.path());
    cgroups.add("a/b/c").unwrap();
    assert_eq!(cgroups.names(), ["a", "a/b", "a/b/c"]);
    assert!(dir.path().join("a/cgroup.subtree_control").exists());
    cgroups.add("d").unwrap();
    cgroups.remove("a/b").unwrap();
    assert_eq!(cgroups.names(), ["a", "d"]);
    drop(cgroups);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_cgroup() {
    let dir = tempfile::tempdir().unwrap();
    let mut cgroups = CgroupManager::plain(dir.path());
    cgroups.add("a").unwrap();
    cgroups.remove("x").unwrap();
    let error = cgroups.set_weight("x", 1).unwrap_err();
    assert_eq!(error.to_string(), "no cgroup \"x\"; there are: a");
    assert!(cgroups.move_all("a", "x").is_err());
}

#[test]
fn names_cannot_leave_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let mut cgroups = CgroupManager::plain(dir.path());
    for bad in ["", "..", "a/../..", "/a", "a//b", "a/", "."] {
        let error = cgroups.add(bad).unwrap_err();
        assert!(
            matches!(error, CgroupError::BadName { .. }),
            "{bad}: {error}"
        );
    }
}

#[test]
fn a_refused_write_names_file_value_and_errno() {
    let dir = tempfile::tempdir().unwrap();
    let mut cgroups = CgroupManager::new(dir.path()).unwrap();
    cgroups.add("a").unwrap();
    let error = cgroups.set_cpuset("a", &CpuSet::from([3])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("write \"3\" to") && text.contains("a/cpuset.cpus"),
        "{text}"
    );
    assert!(text.contains("is the controller enabled"), "{text}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("os error 2"), "{source}");
    for (file, beside, option) in [
        ("memory.swap.max", "memory.max", "CONFIG_SWAP"),
        ("io.weight", "io.stat", "CONFIG_BLK_CGROUP_IOCOST"),
    ] {
        let missing = || {
            let refused = cgroups.set_limit("a", file, Some(1));
            refused.unwrap_err().to_string()
        };
        let text = missing();
        assert!(text.contains("is the controller enabled"), "{text}");
        std::fs::write(dir.path().join("a").join(beside), "").unwrap();
        let text = missing();
        assert!(text.contains(option), "{text}");
    }
}

#[test]
fn moving_takes_all_processes() {
    let dir = tempfile::tempdir().unwrap();
    let mut cgroups = CgroupManager::plain(dir.path());
    cgroups.add("a").unwrap();
    cgroups.add("b").unwrap();
    fs::write(dir.path().join("a/cgroup.procs"), "7\n8\n").unwrap();
    assert_eq!(cgroups.move_all("a", "b").unwrap(), [7, 8]);
    assert_eq!(read(dir.path(), "b/cgroup.procs"), "8");
}

#[test]
fn a_cgroup_that_was_there_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("theirs")).unwrap();
    {
        let mut manager = CgroupManager::plain(dir.path());
        manager.add("theirs/mine").unwrap();
        manager.remove("theirs").unwrap();
        assert!(dir.path().join("theirs").is_dir());
        assert!(!dir.path().join("theirs/mine").exists());
        manager.add("theirs").unwrap();
    }
    assert!(dir.path().join("theirs").is_dir(), "also at the end");
}

#[test]
fn throttling_is_summed_over_a_cgroup_and_those_above_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut manager = CgroupManager::plain(dir.path());
    manager.add("a/b").unwrap();
    let stat = |periods, time| {
        format!("usage_usec 1\nnr_periods 9\nnr_throttled {periods}\nthrottled_usec {time}\n")
    };
    std::fs::write(dir.path().join("a/cpu.stat"), stat(3, 1_000)).unwrap();
    std::fs::write(dir.path().join("a/b/cpu.stat"), stat(4, 500)).unwrap();
    let found = manager.throttled("a/b");
    assert_eq!((found.periods, found.time_us), (7, 1_500));
    std::fs::write(dir.path().join("a/b/cpuset.cpus.effective"), "2-3\n").unwrap();
    assert_eq!(manager.effective_cpus("a/b").unwrap().to_string(), "2-3");
    assert_eq!(manager.effective_cpus("a"), None);
}
