//! Workloads, operations and checks in a real guest.
#![expect(
    clippy::print_stdout,
    reason = "the figures of the work types are this test's product"
)]

use ktstr::model::work::WorkType;
use ktstr_tests::CaseRun;

#[track_caller]
fn run(case: &str) -> CaseRun {
    CaseRun::new(env!("CARGO_BIN_EXE_workloads"), case, &[]).expect("the case runs")
}

/// Each type made progress, stopped in time, and measured what it claims to measure; the figures are printed.
#[track_caller]
fn every_work_type(case: &str) {
    let run = run(case);
    run.exits(0);
    let sidecar = run.sidecar.as_ref().expect("a pass leaves a sidecar");
    println!("{case} on {:?}", sidecar.engine);
    println!("work type               workers iterations   wakes     p50 us     p99 us");
    for work in WorkType::ALL {
        let (name, info) = (work.name(), work.info());
        let cgroups = &sidecar.result.stats.cgroups;
        let figures = cgroups.iter().find(|cgroup| cgroup.name == name);
        let figures = figures.unwrap_or_else(|| panic!("no figures of {name}:\n{}", run.text));
        let us = |ns: Option<u64>| ns.map_or("-".to_owned(), |ns| (ns / 1_000).to_string());
        println!(
            "{name:<23} {:>7} {:>10} {:>7} {:>10} {:>10}",
            figures.workers,
            figures.iterations,
            figures.wake_count,
            us(figures.wake_p50_ns),
            us(figures.wake_p99_ns),
        );
        assert_eq!(figures.workers, info.group_size, "{name}");
        assert!(figures.iterations > 0 && figures.work_units > 0, "{name}");
        let wakes = figures.wake_count > 0;
        assert_eq!(wakes, info.wake_latency.is_some(), "{name}: {figures:?}");
    }
}

#[test]
fn every_work_type_runs_under_eevdf() {
    every_work_type("work_types_under_eevdf");
}

#[test]
fn every_work_type_runs_under_the_fixture() {
    every_work_type("work_types_under_the_fixture");
}

#[test]
fn twenty_dynamic_steps_leave_nothing_behind() {
    let run = run("dynamic_twenty_steps");
    run.exits(0);
    let result = &run
        .sidecar
        .as_ref()
        .expect("a pass leaves a sidecar")
        .result;
    assert_eq!(result.stats.phases.len(), 20);
    let threads = result
        .stats
        .cgroups
        .iter()
        .find(|c| c.name == "proc/threads");
    let threads = threads.expect("figures of the threaded cgroup");
    assert!(
        threads.workers == 2 && threads.iterations > 0,
        "{threads:?}"
    );
}
