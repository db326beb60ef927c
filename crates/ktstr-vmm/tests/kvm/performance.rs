//! Performance mode with Linux in it, on a host that can give all that it asks for: the lab, which spares its pages for this.

use std::fs;
use std::time::Duration;

use ktstr_vmm::Error;

use crate::guest::skip;
use crate::linux::{linux, wait_for};

const WANTED_PAGES: &str = "/proc/sys/vm/nr_hugepages";
const FREE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
/// A guest of 256 MiB.
const PAGES: u64 = 128;

fn free_pages() -> u64 {
    fs::read_to_string(FREE_PAGES).map_or(0, |text| text.trim().parse().unwrap())
}

/// The CPUs, the policy and the priority of this process's thread of that name.
fn thread(name: &str) -> (String, u32, u32) {
    let task = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name)
        .unwrap_or_else(|| panic!("no thread {name}"));
    let status = fs::read_to_string(task.join("status")).unwrap();
    let cpus = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap()
        .trim()
        .to_owned();
    // proc(5): fields 40 and 41 are rt_priority and policy; the name, field 2, may hold anything but ends with the last ')'.
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let number = |field: usize| fields[field - 3].parse().unwrap();
    (cpus, number(41), number(40))
}

#[test]
fn a_guest_has_a_cpu_a_priority_and_pages_of_its_own() {
    let Some(vm) = linux("echo up; $bb sleep 1000", "1n1l1c1t") else {
        return;
    };
    // Elsewhere the pages are the administrator's.
    if std::env::var_os("KTSTR_LAB").is_some() {
        fs::write(WANTED_PAGES, (PAGES + 16).to_string()).unwrap();
    }
    let free = free_pages();
    if free < PAGES {
        let error = vm
            .performance_mode(true)
            .build()
            .unwrap()
            .start()
            .unwrap_err();
        assert!(
            matches!(error, Error::PerfModeUnavailable { .. }),
            "{error}"
        );
        return skip(&error.to_string());
    }
    let locks = tempfile::tempdir().unwrap();
    let mut vm = vm
        .performance_mode(true)
        .lock_dir(locks.path())
        .build()
        .unwrap()
        .start()
        .unwrap();
    assert_eq!(
        free_pages(),
        free - PAGES,
        "all of the guest's pages are taken at its start"
    );
    wait_for(&mut vm, "up");
    let (cpus, policy, priority) = thread("ktstr-vcpu0");
    let cpu: u32 = cpus.parse().expect("one CPU");
    // SCHED_FIFO of the lowest priority, unless this kernel would stop it for 50 ms of each second.
    let unlimited = fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").unwrap();
    let fifo = unlimited.trim() == "-1"
        || std::path::Path::new("/sys/kernel/debug/sched/fair_server").exists();
    let expected = if fifo { (1, 1) } else { (0, 0) };
    assert_eq!((policy, priority), expected);
    assert!(locks.path().join(format!("ktstr-cpu-{cpu}.lock")).is_file());
    // An idle guest does not exit, and yet stops when it is told to.
    let guard = vm.freeze(Duration::from_secs(20)).unwrap();
    assert_eq!(guard.registers().unwrap().len(), 1);
    guard.resume().unwrap();
    vm.kill();
    vm.wait().unwrap();
    drop(vm);
    assert_eq!(free_pages(), free, "they are given back");
}
