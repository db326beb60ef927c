//! Real forked workers, without cgroups. Nothing here depends on how fast the machine is.

use super::*;
use crate::guest::sys;
use crate::model::cpuset::CpuSet;
use crate::model::report::WorkerExit;
use crate::model::work::WorkType;
use std::time::Duration;

const READY: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(30);

fn started(spec: GroupSpec) -> WorkerGroup {
    let mut group = WorkerGroup::spawn(spec).unwrap();
    group.make_ready(READY).unwrap();
    group.start();
    group
}

/// Waits until each worker of the group has done `iterations`, by looking at the shared counters: on one busy CPU one of two may do
/// all that both are to do before the other has run.
#[track_caller]
fn await_iterations(group: &WorkerGroup, iterations: u64) {
    let until_ns = sys::monotonic_ns() + 30_000_000_000;
    while group.slowest() < iterations {
        assert!(
            sys::monotonic_ns() < until_ns,
            "{} of {iterations} iterations in 30 s",
            group.slowest()
        );
        std::thread::yield_now();
    }
}

#[test]
fn nothing_counts_before_the_barrier_opens() {
    let mut group = WorkerGroup::spawn(GroupSpec::new(WorkType::SpinWait, 2)).unwrap();
    group.make_ready(READY).unwrap();
    assert_eq!(group.iterations(), 0);
    let reports = group.stop(GRACE);
    for report in reports {
        assert_eq!(
            (report.wall_time_ns, report.iterations),
            (0, 0),
            "{report:?}"
        );
        assert_eq!(report.exit, WorkerExit::Stopped);
    }
}

#[test]
fn a_killed_worker_leaves_what_it_measured() {
    let group = started(GroupSpec::new(WorkType::SpinWait, 1));
    await_iterations(&group, 10);
    let process = &group.processes[0];
    rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::KILL).unwrap();
    wait_readable(&group);
    let report = group.stop(GRACE).remove(0);
    assert_eq!(report.exit, WorkerExit::Signaled(9));
    assert!(
        report.iterations >= 10 && report.cpu_time_ns > 0,
        "{report:?}"
    );
}

#[test]
fn a_stopped_worker_is_killed_and_its_gap_reaches_to_the_end() {
    let group = started(GroupSpec::new(WorkType::SpinWait, 1));
    await_iterations(&group, 10);
    let process = &group.processes[0];
    rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::STOP).unwrap();
    // The pidfd stays silent for a stopped process: this is a wait of 200 ms that an early end would cut short.
    assert!(!poll_first(&group, Duration::from_millis(200)));
    let report = group.stop(Duration::from_millis(100)).remove(0);
    assert_eq!(report.exit, WorkerExit::Killed { grace_ms: 100 });
    assert!(report.longest_gap.wall_ns >= 150_000_000, "{report:?}");
    assert!(report.longest_gap.cpu.is_none(), "{report:?}");
    assert!(report.longest_gap.off_cpu_ns() >= 150_000_000, "{report:?}");
}

#[test]
fn a_silent_partner_is_no_gap_for_a_sleeper() {
    let group = started(GroupSpec::new(WorkType::futex_ping_pong(0), 2));
    await_iterations(&group, 10);
    // Stop one: sooner or later the turn is its, and the other sleeps because it wants to.
    rustix::process::pidfd_send_signal(&group.processes[0].pidfd, rustix::process::Signal::STOP)
        .unwrap();
    assert!(!poll_first(&group, Duration::from_millis(300)));
    let reports = group.stop(Duration::from_millis(100));
    assert!(
        reports[0].longest_gap.wall_ns >= 200_000_000,
        "{:?}",
        reports[0]
    );
    assert!(
        reports[1].longest_gap.wall_ns < reports[0].longest_gap.wall_ns,
        "{reports:?}"
    );
}

#[test]
fn affinity_is_kept() {
    let mut spec = GroupSpec::new(WorkType::SpinWait, 2);
    spec.affinity = vec![CpuSet::from([0])];
    let group = started(spec);
    await_iterations(&group, 100);
    for report in group.stop(GRACE) {
        assert_eq!(report.cpus_seen, CpuSet::from([0]));
        assert_eq!(report.migrations, 0);
    }
}

#[test]
fn a_set_up_that_fails_names_the_step_and_the_errno() {
    let mut spec = GroupSpec::new(WorkType::SpinWait, 1);
    spec.affinity = vec![CpuSet::from([1_000])];
    let mut group = WorkerGroup::spawn(spec).unwrap();
    let error = group.make_ready(READY).unwrap_err();
    assert!(
        error.to_string().ends_with("failed to set affinity"),
        "{error}"
    );
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().contains("Invalid argument"), "{source}");
}

#[test]
fn dropping_a_group_leaves_no_process() {
    let group = started(GroupSpec::new(WorkType::YieldHeavy, 3));
    let pids: Vec<i32> = group.pids().collect();
    drop(group);
    for pid in pids {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} lives"
        );
    }
}

fn wait_readable(group: &WorkerGroup) {
    assert!(
        poll_first(group, Duration::from_secs(30)),
        "no end within 30 s"
    );
}

fn poll_first(group: &WorkerGroup, limit: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = group.pidfds().next().unwrap();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap() > 0
}
