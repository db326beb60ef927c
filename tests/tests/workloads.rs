//! Workloads, operations and checks in a real guest.
#![expect(
    clippy::print_stdout,
    reason = "the figures of the work types are this test's product"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ktstr::model::work::WorkType;
use ktstr_tests::CaseRun;

#[track_caller]
fn run_in(time: &str, case: &str) -> CaseRun {
    let env = [("KTSTR_TIME", time)];
    CaseRun::new(env!("CARGO_BIN_EXE_workloads"), case, &env).expect("the case runs")
}

#[track_caller]
fn run(case: &str) -> CaseRun {
    // Many workers that are busy for many seconds: in virtual time, one host thread executes all that their vCPUs do.
    run_in("host", case)
}

/// Each type made progress, stopped in time, and measured what it claims to measure; the figures are printed.
#[track_caller]
fn every_work_type(case: &str) {
    let run = run(case);
    run.exits(0);
    let sidecar = run.sidecar.as_ref().expect("a pass leaves a sidecar");
    println!("{case} on {:?}", sidecar.engine);
    println!("work type               workers iterations   wakes     p50 us     p99 us");
    for work in WorkType::all() {
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

/// The worst place: threads of one process, real-time ones among them, and no second CPU for the engine that ends them.
#[test]
fn every_work_type_runs_as_threads_on_one_cpu() {
    every_work_type("threads_on_one_cpu");
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
    // A fifth of one CPU in each 100 ms, of which a step of 200 ms touches up to three.
    let limited = result.stats.cgroups.iter().find(|c| c.name == "limited");
    let limited = limited.expect("figures of the limited cgroup");
    assert!(
        limited.cpu_time_ms < 0.6 * limited.wall_time_ms,
        "{limited:?}"
    );
    assert!(
        threads.workers == 2 && threads.iterations > 0,
        "{threads:?}"
    );
}

#[test]
fn canned_scenarios_run_under_eevdf() {
    run("canned_under_eevdf").exits(0);
}

#[test]
fn canned_scenarios_run_under_the_fixture() {
    run("canned_under_the_fixture").exits(0);
}

/// Milliseconds in "made no progress for N ms", the longest.
fn longest_gap_ms(run: &CaseRun) -> u64 {
    let parts = run.text.split("made no progress for ").skip(1);
    let gaps = parts.filter_map(|rest| rest.split_once(" ms")?.0.parse().ok());
    gaps.max()
        .unwrap_or_else(|| panic!("no gap in:\n{}", run.text))
}

/// The case fails with all of this in its message; in virtual time, so that no busy host makes it Inconclusive.
#[track_caller]
fn trips(case: &str, needles: &[&str]) -> CaseRun {
    let run = run_in("virtual", case);
    run.exits(1).says(needles);
    run
}

/// The case passes; where the host stops vCPUs for so long that it explains a finding, it may be Inconclusive, and then the
/// reason must be told.
#[track_caller]
fn holds(case: &str) {
    let run = run(case);
    let notes = run.sidecar.iter().flat_map(|s| &s.result.info_notes);
    for note in notes.filter(|note| note.contains("the host")) {
        println!("{case}: {note}");
    }
    match run.code {
        Some(2) => {
            run.says(&["the host"]);
        }
        _ => {
            run.exits(0);
        }
    }
}

/// The fixture serves one of the starved tasks every 1.5 s: gaps of 1.5 s for each of up to four, and shares far apart.
#[test]
fn starvation_trips_gap_and_spread_and_fairness_does_not() {
    run_in("virtual", "fair_crowd").exits(0);
    let needles = ["Stuck:", "(limit 1000 ms)", "Unfair:", "percentage points"];
    let run = trips("starved_crowd", &needles);
    let gap_ms = longest_gap_ms(&run);
    assert!(
        (1_400..=6_500).contains(&gap_ms),
        "{gap_ms} ms:\n{}",
        run.text
    );
}

/// The kernel's watchdog ejects the scheduler 5 s after the stall, and until then the stalled worker stood still.
#[test]
fn a_stall_trips_not_stuck() {
    let needles = ["Stuck:", "(limit 3000 ms)", "SchedulerCrashed"];
    let run = trips("stalled_crowd", &needles);
    let gap_ms = longest_gap_ms(&run);
    assert!(
        (3_000..=12_000).contains(&gap_ms),
        "{gap_ms} ms:\n{}",
        run.text
    );
}

#[test]
fn isolation_trips_on_a_worker_that_left_its_cpuset() {
    run("escaping_worker")
        .exits(1)
        .says(&["Isolation:", "ran on cpus 1 outside its cpuset 0"]);
}

#[test]
fn a_scheduler_that_ignores_cpusets_is_thrown_out_by_the_kernel() {
    let run = run("straying_scheduler");
    run.exits(1).says(&["SchedulerCrashed"]);
    assert!(!run.text.contains("Isolation:"), "{}", run.text);
}

#[test]
fn rates_latencies_and_migrations_trip_and_hold() {
    run("checks_trip_and_hold").exits(0);
}

#[test]
fn pages_are_counted_where_they_are() {
    run("pages_at_home").exits(0);
    run("pages_abroad").exits(1).says(&[
        "PageLocality:",
        "pages are on its own nodes (at least 90.0 % asked)",
    ]);
    run("pages_on_the_move").exits(1).says(&[
        "CrossNodeMigration:",
        "pages migrated between nodes per page of cgroup pages",
    ]);
}

#[test]
fn temporal_checks_hold_over_captures() {
    let run = run("temporal_checks");
    run.exits(0);
    let phases = &run
        .sidecar
        .as_ref()
        .expect("a pass leaves a sidecar")
        .result
        .stats
        .phases;
    assert!(phases.iter().any(|phase| phase.samples >= 3), "{phases:?}");
}

#[test]
fn operations_beside_cgroups() {
    run("other_operations").exits(0);
}

/// A burning thread for each CPU of the host; they stop when dropped.
struct Burner {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burner {
    fn light() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        let burn = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        let threads = (0..cpus).map(|_| std::thread::spawn(burn(Arc::clone(&stop))));
        let threads = threads.collect();
        Self { stop, threads }
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// On a host that burns, a fair scheduler never fails at the default limits: it passes, or the reason why it cannot be judged is
/// told.
#[test]
fn a_busy_host_makes_no_wrong_failure() {
    let _burner = Burner::light();
    for round in 1..=5 {
        println!("round {round}");
        holds("honest");
    }
}
