//! The test binary that `tests/workloads.rs` runs: workloads, operations and checks inside a real guest.
//!
//! Every case is ignored by default, because some fail on purpose.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });
declare_scheduler!(STARVING, { name: "starving", binary: "scx-fixture", sched_args: ["--starve-pct", "50"] });
declare_scheduler!(STALLING, { name: "stalling", binary: "scx-fixture", sched_args: ["--stall", "--fault-after-ms", "1000"] });
declare_scheduler!(STRAYING, { name: "straying", binary: "scx-fixture", sched_args: ["--ignore-cpusets", "--fault-after-ms", "1000"] });

/// How long each work type runs alone.
const ALONE: HoldSpec = HoldSpec::fixed(Duration::from_millis(450));

/// Every work type alone, one step each.
fn each_work_type(ctx: &Ctx, clone_mode: CloneMode) -> Result<AssertResult> {
    let alone = |work: WorkType| {
        let name = work.name();
        let spec = WorkSpec {
            work_type: work.clone(),
            clone_mode,
            ..WorkSpec::default()
        };
        Step::with_defs(vec![CgroupDef::named(name).work(spec)], ALONE)
    };
    let result = execute_steps(ctx, WorkType::all().into_iter().map(alone).collect())?;
    nothing_is_left(ctx)?;
    Ok(result)
}

#[ktstr_test(topology = "1n2l2c1t", duration_s = 120, ignore)]
fn work_types_under_eevdf(ctx: &Ctx) -> Result<AssertResult> {
    each_work_type(ctx, CloneMode::Fork)
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n2l2c1t", duration_s = 120, ignore)]
fn work_types_under_the_fixture(ctx: &Ctx) -> Result<AssertResult> {
    each_work_type(ctx, CloneMode::Fork)
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l1c1t", duration_s = 120, ignore)]
fn threads_on_one_cpu(ctx: &Ctx) -> Result<AssertResult> {
    each_work_type(ctx, CloneMode::Thread)
}

const SHORT: HoldSpec = HoldSpec::fixed(Duration::from_millis(200));

fn step(ops: Vec<Op>) -> Step {
    Step::new(ops, SHORT)
}

/// Twenty steps with every cgroup operation, over cgroups that nest, are limited, frozen, swapped and emptied.
fn dynamic_steps() -> Vec<Step> {
    let name = |name: &str| name.to_owned();
    let spin = |count| WorkSpec::default().workers(count);
    let limited = CgroupDef::named("limited")
        .workers(2)
        .cpu_weight(50)
        .cpu_quota(Duration::from_millis(20), Duration::from_millis(100))
        .cpuset_mems([0].into());
    let threads = CgroupDef::named("proc/threads").workers(2).threaded();
    let churn = CgroupDef::named("churn")
        .cpuset(CpusetSpec::llc(1))
        .work_type(WorkType::from_name("CgroupChurn").expect("a work type"));
    let move_all = |from: &str, to: &str| Op::move_all_tasks(from, to);
    let set = |cgroup: &str, cpus| Op::set_cpuset(cgroup, cpus);
    let bind = |affinity| Op::set_affinity(name("a"), affinity);
    let swap = || Op::swap_cpusets(name("a"), name("b"));
    let freeze = |cgroup: &str| Op::freeze_cgroup(cgroup);
    let procs = Op::capture_cgroup_procs(name("t"), name("a"));
    vec![
        step(vec![Op::add_cgroup(name("x"))]),
        step(vec![Op::add_cgroup_def(CgroupDef::named("y").workers(1))]),
        step(vec![set("a", CpusetSpec::llc(1))]),
        step(vec![swap()]),
        step(vec![Op::clear_cpuset(name("a"))]),
        step(vec![set("a", CpusetSpec::exact([0])), swap()]),
        step(vec![Op::spawn_workers("b", spin(2))]),
        step(vec![Op::spawn_host(spin(1).threads())]),
        step(vec![bind(AffinityIntent::OneCpuEach)]),
        step(vec![bind(AffinityIntent::Inherit)]),
        step(vec![move_all("a", "deep/er/est")]),
        step(vec![move_all("deep/er/est", "a")]),
        step(vec![freeze("a")]),
        step(vec![Op::unfreeze_cgroup(name("a")), procs]),
        step(vec![freeze("deep"), freeze("b")]),
        step(vec![Op::remove_cgroup(name("b"))]),
        step(vec![Op::stop_cgroup(name("a"))]),
        Step::with_defs(vec![limited, threads], SHORT),
        Step::with_defs(vec![churn], SHORT),
        step(vec![
            Op::spawn_workers("a", spin(2)),
            freeze("a"),
            Op::remove_cgroup(name("deep")),
        ]),
    ]
}

#[ktstr_test(topology = "1n2l2c1t", duration_s = 30, ignore)]
fn dynamic_twenty_steps(ctx: &Ctx) -> Result<AssertResult> {
    let backdrop = Backdrop::from_cgroups(vec![
        CgroupDef::named("a").workers(2).cpuset(CpusetSpec::llc(0)),
        CgroupDef::named("b").workers(1).cpuset(CpusetSpec::llc(1)),
        CgroupDef::named("deep/er/est").without_workers(),
    ]);
    let result = execute_scenario(ctx, backdrop, dynamic_steps())?;
    nothing_is_left(ctx)?;
    Ok(result)
}

/// Every canned scenario, one after the other.
fn canned(ctx: &Ctx) -> Result<AssertResult> {
    let mut all = AssertResult::pass();
    for canned in scenarios::ALL.into_iter().flatten() {
        let result = canned.run(ctx)?;
        let name = format!("{}::{}", canned.family, canned.name);
        ensure!(result.is_pass(), "{name}: {:#?}", result.details);
        nothing_is_left(ctx)?;
        all.note(format!(
            "{name}: {} iterations",
            result.stats.total_iterations()
        ));
    }
    Ok(all)
}

#[ktstr_test(
    topology = "1n2l2c1t",
    duration_s = 1,
    watchdog_timeout_s = 180,
    ignore
)]
fn canned_under_eevdf(ctx: &Ctx) -> Result<AssertResult> {
    canned(ctx)
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n2l2c1t", duration_s = 1, watchdog_timeout_s = 180, ignore)]
fn canned_under_the_fixture(ctx: &Ctx) -> Result<AssertResult> {
    canned(ctx)
}

fn crowd(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("crowd").workers(4)])
}

/// The fair fixture under limits that the starving one breaks.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 6, max_gap_ms = 1000, max_spread_pct = 35.0, ignore)]
fn fair_crowd(ctx: &Ctx) -> Result<AssertResult> {
    crowd(ctx)
}

#[ktstr_test(scheduler = STARVING, topology = "1n1l2c1t", duration_s = 6, max_gap_ms = 1000, max_spread_pct = 35.0, ignore)]
fn starved_crowd(ctx: &Ctx) -> Result<AssertResult> {
    crowd(ctx)
}

#[ktstr_test(scheduler = STALLING, topology = "1n1l2c1t", duration_s = 12, not_stuck, auto_repro = false, ignore)]
fn stalled_crowd(ctx: &Ctx) -> Result<AssertResult> {
    crowd(ctx)
}

/// The kernel ejects a scheduler that ignores cpusets: its workers never leave theirs.
#[ktstr_test(scheduler = STRAYING, topology = "1n2l1c1t", duration_s = 6, isolation, auto_repro = false, ignore)]
fn straying_scheduler(ctx: &Ctx) -> Result<AssertResult> {
    let on = |llc| {
        CgroupDef::named(format!("llc{llc}"))
            .workers(2)
            .cpuset(CpusetSpec::llc(llc))
    };
    execute_defs(ctx, vec![on(0), on(1)])
}

/// Leaves its cgroup behind the scenario's back, and runs on every CPU in turn.
fn escape(worker: &WorkerCtx) -> WorkerReport {
    // 0 is the writer itself; the root cgroup has every CPU.
    let _ = fs::write("/sys/fs/cgroup/cgroup.procs", "0");
    for cpu in [0, 1].into_iter().cycle() {
        if worker.stop().load(Ordering::Relaxed) {
            break;
        }
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &set);
        worker.sleep(Duration::from_millis(1));
        worker.tick(1);
    }
    WorkerReport::default()
}

#[ktstr_test(topology = "1n2l1c1t", duration_s = 2, isolation, ignore)]
fn escaping_worker(ctx: &Ctx) -> Result<AssertResult> {
    let work = WorkType::custom("Escape", escape);
    let def = CgroupDef::named("cell").cpuset(CpusetSpec::llc(0));
    execute_defs(ctx, vec![def.work_type(work)])
}

/// One check: work, the limits that it keeps, those that it breaks, and what the finding says.
struct Trial {
    work: WorkType,
    keeps: Assert,
    breaks: Assert,
    kind: DetailKind,
    says: &'static str,
}

fn trial(work: &str, keeps: Assert, breaks: Assert, kind: DetailKind, says: &'static str) -> Trial {
    Trial {
        work: WorkType::from_name(work).expect("a work type"),
        keeps,
        breaks,
        kind,
        says,
    }
}

const NONE: Assert = Assert::NO_OVERRIDES;

/// The checks of rates, latencies and migrations: what they say does not depend on the machine's speed.
fn trials() -> Vec<Trial> {
    use DetailKind::{Benchmark, Migration, Unfair};
    vec![
        trial(
            "SpinWait",
            NONE.min_work_rate(1.0),
            NONE.min_work_rate(1e15),
            Benchmark,
            "work units/CPU-s",
        ),
        trial(
            "YieldHeavy",
            NONE.min_iteration_rate(1.0),
            NONE.min_iteration_rate(1e15),
            Benchmark,
            "iterations/CPU-s",
        ),
        trial(
            "AffinityChurn",
            NONE.max_migration_ratio(1.1),
            NONE.max_migration_ratio(0.01),
            Migration,
            "migrations per iteration",
        ),
        trial(
            "FutexPingPong",
            NONE.max_p99_wake_latency_ns(10_000_000_000),
            NONE.max_p99_wake_latency_ns(10),
            Benchmark,
            "ns (limit 10 ns)",
        ),
        trial(
            "TimerLatency",
            NONE.max_wake_latency_cv(1e6),
            NONE.max_wake_latency_cv(1e-6),
            Benchmark,
            "variation of wake latencies",
        ),
        trial(
            "PriorityInversion",
            NONE.max_throughput_cv(1e6),
            NONE.max_throughput_cv(1e-9),
            Unfair,
            "variation of work rates",
        ),
    ]
}

#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, watchdog_timeout_s = 60, ignore)]
fn checks_trip_and_hold(ctx: &Ctx) -> Result<AssertResult> {
    for Trial {
        work,
        keeps,
        breaks,
        kind,
        says,
    } in trials()
    {
        let name = work.name();
        let run = |assert: &Assert| {
            let spec = WorkSpec::default()
                .work_type(work.clone())
                .workers(work.info().group_size);
            let def = CgroupDef::named(name).work(spec);
            let steps = vec![Step::with_defs(vec![def], HoldSpec::FULL)];
            execute_steps_with(ctx, steps, Some(assert))
        };
        let held = run(&keeps)?;
        ensure!(
            held.is_pass(),
            "{name} under {keeps:?}: {:#?}",
            held.details
        );
        let broken = run(&breaks)?;
        let found = broken
            .details_of_kind(kind)
            .any(|d| d.message.contains(says));
        ensure!(
            found,
            "{name}: no {kind:?} with {says:?} in {:#?}",
            broken.details
        );
        // On a machine that stalls, the same finding may be Inconclusive.
        ensure!(!broken.is_pass(), "{name} passes under {breaks:?}");
    }
    Ok(AssertResult::pass())
}

/// Workers on node 0 with their memory there, and on node 1.
fn pages(ctx: &Ctx, node: usize) -> Result<AssertResult> {
    let work = WorkType::cache_pressure(4_096, 64);
    let spec = WorkSpec::default()
        .work_type(work)
        .workers(1)
        .mem_policy(MemPolicy::bind([node]));
    let def = CgroupDef::named("pages")
        .cpuset(CpusetSpec::numa(0))
        .work(spec);
    execute_defs(ctx, vec![def])
}

#[ktstr_test(
    topology = "2n2l1c1t",
    duration_s = 1,
    memory_mib = 512,
    min_page_locality = 0.9,
    ignore
)]
fn pages_at_home(ctx: &Ctx) -> Result<AssertResult> {
    pages(ctx, 0)
}

#[ktstr_test(
    topology = "2n2l1c1t",
    duration_s = 1,
    memory_mib = 512,
    min_page_locality = 0.9,
    ignore
)]
fn pages_abroad(ctx: &Ctx) -> Result<AssertResult> {
    pages(ctx, 1)
}

/// A shell that ends when NUMA balancing has moved this many pages more.
fn until_migrated(pages: u32) -> Vec<String> {
    let script = format!(
        "migrated() {{ while read name count; do [ $name != numa_pages_migrated ] || break; done </proc/vmstat; }}\n\
         migrated; goal=$((count + {pages}))\n\
         until [ $count -ge $goal ]; do busybox usleep 50000; migrated; done"
    );
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

/// A worker makes its memory on node 0 and is sent to node 1; NUMA balancing takes its pages there. How fast that goes is the
/// kernel's and the host's affair, so the step lasts until enough have moved. Before that, balancing is off: that is no pass.
#[ktstr_test(
    topology = "2n2l1c1t",
    duration_s = 60,
    memory_mib = 512,
    max_cross_node_migration_ratio = 0.25,
    extra_include_files = ["busybox"],
    ignore
)]
fn pages_on_the_move(ctx: &Ctx) -> Result<AssertResult> {
    let def = || {
        CgroupDef::named("pages")
            .cpuset(CpusetSpec::numa(0))
            .workers(1)
            .work_type(WorkType::cache_pressure(4_096, 4_096))
    };
    const MODE: &str = "/proc/sys/kernel/numa_balancing";
    static BUSYBOX: Payload = Payload::binary("busybox", "busybox");
    fs::write(MODE, "0")?;
    let off = execute_steps(ctx, vec![Step::with_defs(vec![def()], SHORT)])?;
    let untold = off.details_of_kind(DetailKind::CrossNodeMigration);
    let untold: Vec<String> = untold.map(ToString::to_string).collect();
    ensure!(
        off.is_inconclusive() && untold.iter().any(|text| text.contains("balancing is off")),
        "{off:#?}"
    );
    fs::write(MODE, "1")?;
    let ops = vec![
        Op::set_cpuset("pages", CpusetSpec::numa(1)),
        Op::run_payload(&BUSYBOX, until_migrated(512)),
        Op::wait_payload("busybox"),
    ];
    let backdrop = Backdrop::from_cgroups(vec![def()]);
    execute_scenario(ctx, backdrop, vec![step(vec![]), step(ops)])
}

/// The fixture's counters over time: they grow, and not faster than this many a millisecond.
fn counters_grow(result: &VmResult) -> Result<()> {
    let series = result.periodic_series();
    let enqueued = series.bpf(".bss", "stats.enqueued").unit("tasks");
    let running = series.report_path("runqueues.0.nr_running").unit("tasks");
    let mut verdict = Verdict::new();
    enqueued.strictly_increasing(&mut verdict);
    enqueued.rate_within(&mut verdict, 0.0, 10_000.0);
    running.each().at_most(&mut verdict, 50.0);
    let judged = verdict.into_result();
    ensure!(judged.is_pass(), "{judged:#?}");
    let phases = result.phase_buckets();
    let sampled: usize = phases.iter().map(|phase| phase.samples).sum();
    ensure!(sampled == series.len() && sampled >= 3, "{phases:#?}");
    let mut wrong = Verdict::new();
    series
        .bpf(".bss", "stats.errors")
        .strictly_increasing(&mut wrong);
    ensure!(
        wrong.into_result().is_fail(),
        "a counter that stands still grows"
    );
    Ok(())
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 4, num_snapshots = 4, post_vm = counters_grow, ignore)]
fn temporal_checks(ctx: &Ctx) -> Result<AssertResult> {
    crowd(ctx)
}

/// Operations beside cgroups: a program of the guest, a BPF map, an interrupt.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 2, ignore)]
fn other_operations(ctx: &Ctx) -> Result<AssertResult> {
    let pin = |map: &str, path: &str| Op::pin_bpf_map(map, path);
    let one = |op: Op| {
        execute_steps(
            ctx,
            vec![
                Step::with_defs(vec![CgroupDef::named("a")], SHORT),
                step(vec![op]),
            ],
        )
    };
    let path = "/sys/fs/bpf/ktstr-task-vtime";
    let pinned = one(pin("task_vtime", path))?;
    ensure!(pinned.is_pass(), "{pinned:#?}");
    ensure!(fs::exists(path)?, "{path} is not there");
    let unknown = one(pin("no_such_map", path))?;
    ensure!(
        unknown
            .details
            .iter()
            .any(|d| d.message.contains("there are:") && d.message.contains("task_vtime")),
        "{unknown:#?}"
    );
    static OWN: Payload = Payload::binary("exe", "/proc/self/exe");
    let start = Op::run_payload(&OWN, ["--list"]);
    let ran = execute_steps(ctx, vec![step(vec![start, Op::wait_payload("exe")])])?;
    ensure!(ran.is_pass(), "{ran:#?}");
    ensure!(
        ran.info_notes
            .iter()
            .any(|note| note.contains("other_operations: test")),
        "{ran:#?}"
    );
    let irq = one(Op::steer_irq(9_999, CpusetSpec::exact([0])))?;
    ensure!(
        irq.details
            .iter()
            .any(|d| d.message.contains("/proc/irq/9999/smp_affinity_list")),
        "{irq:#?}"
    );
    Ok(AssertResult::pass())
}

/// What a test of a fair scheduler usually asks, for a host that is busy with other things.
#[ktstr_test(
    topology = "1n2l2c1t",
    time = "host",
    duration_s = 4,
    not_stuck,
    isolation,
    ignore
)]
fn honest(ctx: &Ctx) -> Result<AssertResult> {
    let on = |llc| {
        CgroupDef::named(format!("llc{llc}"))
            .workers(2)
            .cpuset(CpusetSpec::llc(llc))
    };
    execute_defs(
        ctx,
        vec![
            on(0),
            on(1),
            CgroupDef::named("pair").work_type(WorkType::futex_ping_pong(0)),
        ],
    )
}

/// After a scenario: no cgroup of it, and no child of this process.
fn nothing_is_left(ctx: &Ctx) -> Result<()> {
    if let Ok(entries) = fs::read_dir(ctx.workload_root()) {
        let cgroups = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let left: Vec<PathBuf> = cgroups.filter(|path| path.is_dir()).collect();
        ensure!(left.is_empty(), "cgroups left behind: {left:?}");
    }
    let own = format!("\nPPid:\t{}\n", std::process::id());
    for entry in fs::read_dir("/proc")? {
        let status = entry?.path().join("status");
        let status = fs::read_to_string(status).unwrap_or_default();
        ensure!(!status.contains(&own), "a child is left behind:\n{status}");
    }
    Ok(())
}

ktstr::test_main!();
