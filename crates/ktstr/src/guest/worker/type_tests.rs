//! Every work type, forked and threaded: it makes progress, stops when asked, and measures what it claims to measure.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::*;
use crate::guest::sys;
use crate::model::report::{WorkerExit, WorkerReport};
use crate::model::work::{CloneMode, CustomCfg, WorkType};

const DEADLINE: Duration = Duration::from_secs(30);
/// Iterations that the slowest worker of a group has to do.
const ITERATIONS: u64 = 3;

/// One group of `work`, until all of its workers have done some iterations.
#[track_caller]
fn check(work: &WorkType, clone_mode: CloneMode) -> Vec<WorkerReport> {
    let name = work.name();
    let dir = tempfile::tempdir().unwrap();
    let mut spec = GroupSpec::new(work.clone(), work.info().group_size);
    spec.clone_mode = clone_mode;
    spec.side_cgroups = side_cgroups(dir.path());
    let mut group = WorkerGroup::spawn(spec).unwrap();
    group
        .make_ready(DEADLINE)
        .unwrap_or_else(|error| panic!("{name}: {error}: {:?}", std::error::Error::source(&error)));
    group.start();
    let until_ns = sys::monotonic_ns() + super::meter::nanos(DEADLINE);
    let sleeps = work.info().wake_latency.is_some();
    while group.slowest() < ITERATIONS || (sleeps && group.wakes() == 0) {
        assert!(
            sys::monotonic_ns() < until_ns,
            "{name}: the slowest worker did {} iterations in {DEADLINE:?}, {} wake-ups",
            group.slowest(),
            group.wakes()
        );
        std::thread::yield_now();
    }
    let reports = group.stop(DEADLINE);
    for report in &reports {
        // One that does not look whether it is to stop is killed at the deadline.
        assert_eq!(report.exit, WorkerExit::Stopped, "{name}: {report:?}");
        assert!(report.work_units > 0, "{name}: {report:?}");
        assert!(report.wall_time_ns > 0, "{name}: {report:?}");
        assert!(report.run_delay_ns.is_some(), "{name}: {report:?}");
        assert!(!report.cpus_seen.is_empty(), "{name}: {report:?}");
    }
    reports
}

/// Directories that look like cgroups to a writer of `cgroup.procs`.
fn side_cgroups(root: &std::path::Path) -> Vec<PathBuf> {
    let dirs: Vec<PathBuf> = ["one", "two"].map(|name| root.join(name)).into();
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), "").unwrap();
    }
    dirs
}

fn measures_what_it_claims(work: &WorkType, reports: &[WorkerReport]) {
    let name = work.name();
    let wakes: u64 = reports.iter().map(|r| r.wake.count).sum();
    let claims = work.info().wake_latency.is_some();
    assert_eq!(wakes > 0, claims, "{name}: {wakes} wake-ups");
    for report in reports {
        for latency in &report.latencies {
            assert!(
                latency.count > 0 && latency.max_ns > 0,
                "{name}: {latency:?}"
            );
            assert!(latency.p50_ns <= latency.p99_ns, "{name}: {latency:?}");
        }
    }
    let names: Vec<&str> = reports[0]
        .latencies
        .iter()
        .map(|l| l.name.as_str())
        .collect();
    assert_eq!(names, work.shape().latencies, "{name}");
}

#[test]
fn every_work_type_as_processes() {
    println!("work type               workers iterations      units  wakes   p-max us");
    for work in WorkType::all() {
        let reports = check(&work, CloneMode::Fork);
        measures_what_it_claims(&work, &reports);
        let sum = |of: fn(&WorkerReport) -> u64| reports.iter().map(of).sum::<u64>();
        println!(
            "{:<23} {:>7} {:>10} {:>10} {:>6} {:>10}",
            work.name(),
            reports.len(),
            sum(|r| r.iterations),
            sum(|r| r.work_units),
            sum(|r| r.wake.count),
            reports.iter().map(|r| r.wake.max_ns).max().unwrap_or(0) / 1_000,
        );
    }
}

#[test]
fn every_work_type_as_threads() {
    for work in WorkType::all() {
        let reports = check(&work, CloneMode::Thread);
        let mut tids: Vec<i32> = reports.iter().map(|r| r.tid).collect();
        tids.dedup();
        assert_eq!(tids.len(), reports.len(), "{}: {tids:?}", work.name());
    }
}

#[test]
fn a_custom_loop_runs_by_its_own_name() {
    let work = WorkType::custom("mine", |ctx| {
        while !ctx.stop().load(Relaxed) {
            ctx.sleep(Duration::from_millis(1));
            ctx.tick(2);
        }
        WorkerReport::default()
    });
    let reports = check(&work, CloneMode::Fork);
    assert_eq!(reports[0].work_type, "mine");
    assert_eq!(reports[0].work_units, 2 * reports[0].iterations);
    assert!(reports[0].wake.count > 0);
}

/// What the author reports counts; all else is measured. Nothing is a gap of a loop that tells of no progress.
#[test]
fn a_custom_loop_counts_by_its_report() {
    let cfg = CustomCfg::default().u64_slot(1, 40);
    let work = WorkType::custom_with(
        "reporter",
        |ctx| {
            let facts = [ctx.sibling_pids().len(), ctx.index(), ctx.cpus().len()];
            while !ctx.stop().load(Relaxed) {
                std::thread::yield_now();
            }
            WorkerReport {
                tid: 1,
                work_units: ctx.cfg().u64s[1] + u64::from(facts[0] == 1 && facts[2] > 0),
                iterations: facts[1] as u64,
                ..WorkerReport::default()
            }
        },
        cfg,
    );
    let mut group = WorkerGroup::spawn(GroupSpec::new(work, 2)).unwrap();
    group.make_ready(DEADLINE).unwrap();
    group.start();
    let until = Instant::now() + DEADLINE;
    // A worker that is stopped before it has begun does not begin.
    let begun = |slot: &super::page::Slot| slot.cpu_start_ns.load(Relaxed) > 0;
    while !group.slots.iter().all(begun) {
        assert!(Instant::now() < until, "they never ran");
        std::thread::yield_now();
    }
    let reports = group.stop(DEADLINE);
    let counts: Vec<_> = reports
        .iter()
        .map(|r| (r.work_units, r.iterations))
        .collect();
    assert_eq!(counts, [(41, 0), (41, 1)]);
    for report in reports {
        assert_eq!(report.exit, WorkerExit::Stopped);
        assert!(report.tid > 1 && !report.cpus_seen.is_empty(), "{report:?}");
    }
}

#[test]
fn a_custom_loop_that_never_looks_is_killed() {
    let work = WorkType::custom("deaf", |ctx| {
        ctx.tick(1);
        loop {
            std::thread::park();
        }
    });
    let mut group = WorkerGroup::spawn(GroupSpec::new(work, 1)).unwrap();
    group.make_ready(DEADLINE).unwrap();
    group.start();
    let until = Instant::now() + DEADLINE;
    while group.slowest() == 0 {
        assert!(Instant::now() < until, "it never ran");
        std::thread::yield_now();
    }
    let reports = group.stop(Duration::from_millis(100));
    assert_eq!(reports[0].exit, WorkerExit::Killed { grace_ms: 100 });
}
