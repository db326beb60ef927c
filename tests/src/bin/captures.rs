//! Tests that have the host look into their guest, right and wrong ones. `tests/captures.rs` runs them.

use std::fs;
use std::time::Duration;

use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });
declare_scheduler!(ERRORING, { name: "erroring", binary: "scx-fixture", sched_args: ["--error", "queue seven is gone", "--fault-after-ms", "1000"] });
declare_scheduler!(STALLING, { name: "stalling", binary: "scx-fixture", sched_args: ["--stall", "--fault-after-ms", "1000"] });
declare_scheduler!(PATIENT, { name: "patient", binary: "scx-fixture", sched_args: ["--stall", "--fault-after-ms", "500", "--watchdog-ms", "20000"] });
declare_scheduler!(LENIENT, { name: "lenient", binary: "scx-fixture", sched_args: ["--watchdog-ms", "20000"] });
declare_scheduler!(STARVING, { name: "starving", binary: "scx-fixture", sched_args: ["--starve-pct", "20", "--fault-after-ms", "500"] });
declare_scheduler!(LEAVING, { name: "leaving", binary: "scx-fixture", sched_args: ["--exit-after-s", "2"] });
declare_scheduler!(OTHER, { name: "other", binary: "scx-fixture", sched_args: ["--starve-pct", "1"] });
declare_scheduler!(COUNTING, { name: "counting", binary: "scx-fixture", sched_args: ["--stats-socket", "/var/run/scx/root/stats"] });
declare_scheduler!(COUNTING_ELSEWHERE, {
    name: "counting-elsewhere", binary: "scx-fixture",
    sched_args: ["--stats-socket", "/run/elsewhere/figures", "--starve-pct", "1"],
    stats_socket: "/run/elsewhere/figures",
});
// Two of a tree, where the kernel has such.
declare_scheduler!(TREE, { name: "tree", binary: "scx-fixture", sched_args: ["--child-error", "the child gives up", "--fault-after-ms", "1000"] });
const STARVED: BpfMapWrite = BpfMapWrite::new(".bss", "faults.starve_pct", 7);
const DISPATCHED: WatchBpfMap = WatchBpfMap::new(
    ".bss",
    "stats.dispatched",
    BpfMapAgg::ScalarCounter,
    "dispatched",
);
// Whatever `KTSTR_SCHEDULER` names.
declare_scheduler!(THIRD_PARTY, { name: "third-party", binary: "scx_bpfland" });
const HOLD: HoldSpec = HoldSpec::fixed(Duration::from_millis(300));

fn captures_of(vm: &VmResult) -> Vec<SnapshotEntry> {
    vm.snapshot_bridge.drain_ordered_with_stats()
}

/// Two captures in two steps, read by name on the host.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 2, post_vm = read_by_name, ignore)]
fn captured_by_name(ctx: &Ctx) -> Result<AssertResult> {
    let capture = |tag: &str| Op::capture_snapshot(tag);
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(4)]),
        vec![
            Step::new(vec![capture("early")], HOLD),
            Step::new(
                vec![capture("late"), Op::capture_cgroup_procs("workers", "all")],
                HOLD,
            ),
        ],
    )
}

/// What else the host knows of a run that passes.
fn more_is_known(vm: &VmResult) -> Result<()> {
    let procs = vm.snapshot_bridge.cgroup_procs_by_tag("workers");
    anyhow::ensure!(
        procs.as_ref().is_some_and(|pids| pids.len() == 4),
        "{procs:?}"
    );
    let log = vm.guest_kmsg();
    anyhow::ensure!(log.contains("sched_ext: BPF scheduler"), "{log}");
    anyhow::ensure!(log.matches("Linux version").count() == 1, "told twice");
    // The bridge was drained by the caller, and the phases have their captures all the same.
    let samples: Vec<(u16, usize)> = vm
        .phase_buckets()
        .iter()
        .map(|phase| (phase.step_index, phase.samples))
        .collect();
    anyhow::ensure!(samples == [(1, 1), (2, 1)], "{samples:?}");
    let monitor = vm.monitor.as_ref();
    let summary = &monitor
        .ok_or_else(|| anyhow::anyhow!("no samples"))?
        .summary;
    let schedstat = summary.schedstat_deltas;
    anyhow::ensure!(
        schedstat.is_some_and(|stat| stat.sched_count > Some(0) && stat.ttwu_count > Some(0)),
        "{schedstat:?}"
    );
    let dispatch = summary.program_deltas.get("fixture_dispatch");
    anyhow::ensure!(
        dispatch.is_some_and(|stats| stats.run_cnt > 0 && stats.run_time_ns > 0),
        "{:?}",
        summary.program_deltas
    );
    Ok(())
}

fn read_by_name(vm: &VmResult) -> Result<()> {
    let entries = captures_of(vm);
    more_is_known(vm)?;
    let own = vm.guest_assert_result()?;
    anyhow::ensure!(
        own.is_pass() && own.stats.has_steps() && own.stats.total_workers() > 0,
        "{own:?}"
    );
    let tags: Vec<&str> = entries.iter().map(|entry| entry.tag.as_str()).collect();
    anyhow::ensure!(tags == ["early", "late"], "{tags:?}");
    let dispatched = |entry: &SnapshotEntry| -> Result<u64> {
        let snapshot = Snapshot::new(&entry.report)?;
        let bss = snapshot.map(".bss")?;
        let Err(wrong) = bss.field("stats.dispached") else {
            anyhow::bail!("a misspelt field was found");
        };
        let wrong = wrong.to_string();
        anyhow::ensure!(wrong.contains("dispatched"), "{wrong}");
        anyhow::ensure!(snapshot.map("nothing").is_err());
        let per_cpu = snapshot.map("cpu_dispatches")?.sum_cpus(0, "")?;
        let total = bss.field("stats.dispatched")?.as_u64()?;
        for by_name in [
            snapshot.live_var("stats.dispatched")?,
            snapshot.var("stats.dispatched")?,
        ] {
            anyhow::ensure!(by_name.as_u64()? == total, "{by_name:?}, not {total}");
        }
        let all = snapshot.vars("stats");
        anyhow::ensure!(all.len() == 1, "{all:?}");
        anyhow::ensure!(
            per_cpu.abs_diff(total) < 1000,
            "{per_cpu} on CPUs, {total} in all"
        );
        // An array, a per-CPU hash and an LRU hash.
        let slot = snapshot.map("cpu_slots")?.at(0)?;
        anyhow::ensure!(slot.field("since_ns")?.as_u64()? > 0, "{slot:?}");
        let used = snapshot.map("weight_used")?.sum_cpus(100, "")?;
        anyhow::ensure!(used > 0, "workers have the default weight");
        snapshot.map("wakers")?;
        Ok(total)
    };
    let [early, late] = entries.as_slice() else {
        anyhow::bail!("{tags:?}")
    };
    anyhow::ensure!(
        dispatched(late)? > dispatched(early)?,
        "the counter stands still"
    );
    let steps = (early.step_index, late.step_index);
    anyhow::ensure!(steps == (Some(1), Some(2)), "{steps:?}");
    Ok(())
}

/// One capture for each write to a kernel variable.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm = three_writes, ignore)]
fn watched_writes(ctx: &Ctx) -> Result<AssertResult> {
    let watch = Op::watch_snapshot("panic_on_oops");
    let result = execute_steps(ctx, vec![Step::new(vec![watch], HOLD)])?;
    for value in ["1", "0", "1"] {
        fs::write("/proc/sys/kernel/panic_on_oops", value)?;
    }
    Ok(result)
}

fn three_writes(vm: &VmResult) -> Result<()> {
    let tags: Vec<String> = captures_of(vm).into_iter().map(|entry| entry.tag).collect();
    anyhow::ensure!(
        tags == ["panic_on_oops#1", "panic_on_oops#2", "panic_on_oops#3"],
        "{tags:?}"
    );
    Ok(())
}

fn watch_all(ctx: &Ctx, symbols: &[&str]) -> Result<AssertResult> {
    let watches = symbols
        .iter()
        .map(|symbol| Op::watch_snapshot((*symbol).to_owned()));
    execute_steps(ctx, vec![Step::new(watches.collect(), HOLD)])
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, ignore)]
fn fourth_watch(ctx: &Ctx) -> Result<AssertResult> {
    watch_all(
        ctx,
        &[
            "panic_on_oops",
            "panic_timeout",
            "panic_on_warn",
            "sysctl_oom_kill_allocating_task",
        ],
    )
}

#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, ignore)]
fn misspelt_watch(ctx: &Ctx) -> Result<AssertResult> {
    watch_all(ctx, &["panic_on_ops"])
}

/// A write is seen by the guest itself, a read by the host.
#[ktstr_test(topology = "1n1l1c1t", duration_s = 1, post_vm = jiffies_were_read, ignore)]
fn kernel_memory(ctx: &Ctx) -> Result<AssertResult> {
    let jiffies = || KernelTarget::symbol("jiffies_64");
    let symbol = KernelTarget::symbol;
    // One freeze: a value, and bits beside those that are set in it.
    let timeout = [
        (symbol("panic_timeout"), KernelValue::u32(40)),
        (symbol("panic_timeout"), KernelValue::or_u32(2)),
    ];
    let steps = vec![
        Step::new(
            vec![
                Op::write_kernel_cold_batch(timeout),
                Op::read_kernel_hot("hot", jiffies(), KernelValueWidth::bytes(8)),
                Op::read_kernel_hot(
                    "cpu",
                    KernelTarget::per_cpu_field("runqueues", "cpu", 0),
                    KernelValueWidth::u32(),
                ),
            ],
            HOLD,
        ),
        Step::new(
            vec![
                Op::read_kernel_cold("cold", jiffies(), KernelValueWidth::bytes(8)),
                Op::write_kernel_hot(symbol("panic_on_oops"), KernelValue::bytes([7, 0, 0, 0])),
                Op::write_kernel_hot_batch([(
                    symbol("panic_on_unrecovered_nmi"),
                    KernelValue::u32(5),
                )]),
            ],
            HOLD,
        ),
    ];
    let result = execute_steps(ctx, steps)?;
    let written = fs::read_to_string("/proc/sys/kernel/panic_on_oops")?;
    anyhow::ensure!(written.trim() == "7", "written while it ran: {written:?}");
    let written = fs::read_to_string("/proc/sys/kernel/panic_on_unrecovered_nmi")?;
    anyhow::ensure!(written.trim() == "5", "by a batch: {written:?}");
    let seen = fs::read_to_string("/proc/sys/kernel/panic")?;
    anyhow::ensure!(seen.trim() == "42", "the guest sees {seen:?}");
    Ok(result)
}

/// What no kernel does: more tasks are in uninterruptible sleep than there are.
fn break_books(ctx: &Ctx) -> Result<AssertResult> {
    let count = KernelTarget::per_cpu_field("runqueues", "nr_uninterruptible", 0);
    let ops = vec![
        Op::write_kernel_cold(count, KernelValue::u32(77)),
        Op::capture_snapshot("broken"),
    ];
    execute_steps(ctx, vec![Step::new(ops, HOLD)])
}

#[ktstr_test(topology = "1n1l1c1t", time = "virtual", duration_s = 1, ignore)]
fn broken_books(ctx: &Ctx) -> Result<AssertResult> {
    break_books(ctx)
}

#[ktstr_test(
    topology = "1n1l1c1t",
    time = "virtual",
    duration_s = 1,
    allow_invariant = "rq-nr-uninterruptible",
    ignore
)]
fn broken_books_that_are_allowed(ctx: &Ctx) -> Result<AssertResult> {
    break_books(ctx)
}

#[ktstr_test(topology = "1n1l1c1t", time = "virtual", duration_s = 1, invariants = ["cfs-load", "rq-nr-running"], ignore)]
fn broken_books_of_another_rule(ctx: &Ctx) -> Result<AssertResult> {
    break_books(ctx)
}

fn jiffies_were_read(vm: &VmResult) -> Result<()> {
    let read = |tag: &str| -> Result<u64> {
        let reply = vm.snapshot_bridge.kernel_op_value(tag);
        let reply = reply.ok_or_else(|| anyhow::anyhow!("no reply under '{tag}'"))?;
        let [ktstr_wire::KernelValue::Bytes(bytes)] = reply.values.as_slice() else {
            anyhow::bail!("{reply:?}");
        };
        Ok(u64::from_le_bytes(bytes.as_slice().try_into()?))
    };
    let (hot, cold) = (read("hot")?, read("cold")?);
    anyhow::ensure!(hot < cold && cold - hot < 100_000, "{hot}, then {cold}");
    let cpu = vm.snapshot_bridge.kernel_op_value("cpu");
    let cpu = cpu.map(|reply| reply.values);
    anyhow::ensure!(
        cpu == Some(vec![ktstr_wire::KernelValue::U32(0)]),
        "{cpu:?}"
    );
    Ok(())
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 4, num_snapshots = 3, post_vm = periodic_ones, ignore)]
fn periodic(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

fn periodic_ones(vm: &VmResult) -> Result<()> {
    let counts = (vm.periodic_target, vm.periodic_fired, vm.periodic_real);
    anyhow::ensure!(counts == (3, 3, 3), "{counts:?}");
    let entries = captures_of(vm);
    let times: Vec<Option<u64>> = entries.iter().map(|entry| entry.elapsed_ms).collect();
    let due = [1000, 2000, 3000];
    let near = times
        .iter()
        .zip(due)
        .all(|(time, due)| time.is_some_and(|time| time >= due && time < due + 900));
    anyhow::ensure!(near, "{times:?}");
    Ok(())
}

/// A fault of the fixture is switched on from outside, and a counter is watched.
#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 3,
    bpf_map_write = STARVED,
    watch_bpf_maps = [DISPATCHED],
    watchdog_timeout_s = 9,
    post_vm = was_prepared, ignore
)]
fn prepared(ctx: &Ctx) -> Result<AssertResult> {
    let capture = Op::capture_snapshot("now");
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(2)]),
        vec![Step::new(vec![capture], HOLD)],
    )
}

fn was_prepared(vm: &VmResult) -> Result<()> {
    let entries = captures_of(vm);
    let [now] = entries.as_slice() else {
        anyhow::bail!("{} captures", entries.len());
    };
    let share = Snapshot::new(&now.report)?
        .map(".bss")?
        .field("faults.starve_pct")?;
    anyhow::ensure!(share.as_u64()? == 7, "{share:?}");
    let watchdog = vm.watchdog_observation();
    let observed = watchdog.map(|watchdog| (watchdog.wanted, watchdog.observed));
    anyhow::ensure!(observed == Some((9000, 9000)), "{watchdog:?}");
    let monitor = vm
        .monitor
        .as_ref()
        .ok_or_else(|| anyhow::anyhow!("no samples"))?;
    let labels: Vec<&str> = monitor.watched.iter().map(|f| f.label.as_str()).collect();
    anyhow::ensure!(labels == ["dispatched"], "{labels:?}");
    let seen: Vec<u64> = monitor
        .samples
        .iter()
        .flat_map(|s| s.watched.iter().flatten().copied())
        .collect();
    let grows = seen.first() < seen.last() && seen.is_sorted();
    anyhow::ensure!(grows, "{seen:?}");
    Ok(())
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l1c1t", duration_s = 2, bpf_map_write = [BpfMapWrite::new("no_map", "x", 1)], ignore)]
fn unprepared(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(1)])
}

#[ktstr_test(scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 6, auto_repro = false, ignore)]
fn error_with_state(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

#[ktstr_test(scheduler = TREE, topology = "1n1l2c1t", duration_s = 6, auto_repro = false, ignore)]
fn child_with_state(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// The kernel's watchdog finds the task after 5 s, and looks every 2.5 s.
#[ktstr_test(scheduler = STALLING, topology = "1n1l2c1t", duration_s = 12, auto_repro = false, ignore)]
fn stall_with_state(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(4)])
}

/// The scheduler allows 20 s, of which the kernel lets 10 pass before it looks; the test allows 3.
#[ktstr_test(
    scheduler = PATIENT, topology = "1n1l2c1t", duration_s = 18, watchdog_timeout_s = 3, auto_repro = false,
    post_vm_unconditional = was_held, ignore
)]
fn patient_stall(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(4)])
}

fn was_held(vm: &VmResult) -> Result<()> {
    let watchdog = vm.watchdog_observation();
    let jiffies = watchdog.map(|watchdog| (watchdog.previous, watchdog.wanted, watchdog.observed));
    anyhow::ensure!(jiffies == Some((20_000, 3000, 3000)), "{watchdog:?}");
    Ok(())
}

#[ktstr_test(scheduler = LENIENT, topology = "1n1l2c1t", duration_s = 1, watchdog_timeout_s = 3, override_watchdog = false, post_vm = was_left, ignore)]
fn lenient_by_choice(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(1)])
}

fn was_left(vm: &VmResult) -> Result<()> {
    let watchdog = vm.watchdog_observation();
    anyhow::ensure!(watchdog.is_none(), "{watchdog:?}");
    Ok(())
}

/// The scheduler stays in charge: it is the test that fails. Of eight pids in a row, one at least is starved.
#[ktstr_test(scheduler = STARVING, topology = "1n1l2c1t", duration_s = 5, max_gap_ms = 400, auto_repro = false, ignore)]
fn starve_with_state(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(8)])
}

#[ktstr_test(scheduler = LEAVING, topology = "1n1l2c1t", duration_s = 5, auto_repro = false, ignore)]
fn leave_with_state(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// The same faults for the lab, whose guests have one CPU and are slow; all but one end long before their time.
#[ktstr_test(scheduler = ERRORING, topology = "1n1l1c1t", duration_s = 120, auto_repro = false, ignore)]
fn error_in_the_lab(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

#[ktstr_test(scheduler = STALLING, topology = "1n1l1c1t", duration_s = 120, auto_repro = false, ignore)]
fn stall_in_the_lab(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(4)])
}

#[ktstr_test(scheduler = STARVING, topology = "1n1l1c1t", duration_s = 15, max_gap_ms = 400, auto_repro = false, ignore)]
fn starve_in_the_lab(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(8)])
}

#[ktstr_test(scheduler = LEAVING, topology = "1n1l1c1t", duration_s = 120, auto_repro = false, ignore)]
fn leave_in_the_lab(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// The same error comes at every run.
#[ktstr_test(scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 4, ignore)]
fn error_again(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

#[ktstr_test(scheduler = ERRORING, topology = "1n1l2c1t", duration_s = 4, expect_auto_repro, ignore)]
fn error_again_is_wanted(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(2)])
}

/// It fails, and not by its scheduler.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l1c1t", duration_s = 2, expect_auto_repro, ignore)]
fn failure_without_an_error(_ctx: &Ctx) -> Result<AssertResult> {
    anyhow::bail!("by choice")
}

/// One scheduler after the other, each captured while it is in charge.
#[ktstr_test(
    scheduler = FIXTURE, staged_schedulers = [OTHER], topology = "1n1l2c1t", duration_s = 20, survives_storm,
    post_vm = each_had_its_maps, ignore
)]
fn replaced(ctx: &Ctx) -> Result<AssertResult> {
    let capture = |tag: &str| Op::capture_snapshot(tag);
    let replace = Op::replace_scheduler(&OTHER);
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(2)]),
        vec![
            Step::new(vec![capture("first")], HOLD),
            Step::new(vec![replace], HOLD),
            Step::new(vec![capture("second")], HOLD),
            Step::new(vec![Op::DetachScheduler], HOLD),
            Step::new(vec![capture("none")], HOLD),
            Step::new(vec![Op::attach_scheduler(&OTHER)], HOLD),
            Step::new(vec![capture("attached")], HOLD),
            Step::new(vec![Op::RestartScheduler, capture("last")], HOLD),
        ],
    )
}

fn each_had_its_maps(vm: &VmResult) -> Result<()> {
    let share = |entry: &SnapshotEntry| -> Result<u64> {
        let bss = Snapshot::new(&entry.report)?.map(".bss")?;
        Ok(bss.field("faults.starve_pct")?.as_u64()?)
    };
    let entries = captures_of(vm);
    let [first, second, none, attached, last] = entries.as_slice() else {
        anyhow::bail!("{} captures", entries.len());
    };
    let shares = [
        share(first)?,
        share(second)?,
        share(attached)?,
        share(last)?,
    ];
    anyhow::ensure!(shares == [0, 1, 1, 0], "{shares:?}");
    // Maps may outlive their scheduler for a while: the kernel frees them after a grace period.
    let state = none.report.scx.as_ref().and_then(|scx| scx.state.clone());
    anyhow::ensure!(state.as_deref() == Some("disabled"), "{state:?}");
    Ok(())
}

/// Two scenarios, the scheduler restarted in the second; then the test fails by itself.
#[ktstr_test(
    scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 2, num_snapshots = 1, settle_ms = 900, watchdog_timeout_s = 9,
    watch_bpf_maps = [DISPATCHED],
    auto_repro = false, post_vm_unconditional = both_scenarios_were_seen, ignore
)]
fn restarted_then_failed(ctx: &Ctx) -> Result<AssertResult> {
    let capture = |tag: &str| Op::capture_snapshot(tag);
    let scenario = |ops: Vec<Op>| {
        let hold = HoldSpec::fixed(Duration::from_secs(1));
        execute_scenario(
            ctx,
            Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(2)]),
            vec![
                Step::new(vec![capture("twice")], hold),
                Step::new(ops, hold),
            ],
        )
    };
    let first = scenario(vec![capture("first")])?;
    drop(ctx.pause());
    let second = scenario(vec![Op::RestartScheduler, capture("restarted")])?;
    anyhow::bail!("by choice: {} and {}", first.outcome(), second.outcome())
}

fn both_scenarios_were_seen(vm: &VmResult) -> Result<()> {
    captures_are_in_order(vm)?;
    let second = frames_bracket_the_scenarios(vm)?;
    let monitor = vm.monitor.as_ref();
    let monitor = monitor.ok_or_else(|| anyhow::anyhow!("no samples"))?;
    let in_second = monitor
        .samples
        .iter()
        .filter(|sample| u128::from(sample.elapsed_ms) > second.as_millis())
        .count();
    anyhow::ensure!(in_second >= 5, "{in_second} samples in the second scenario");
    // The restarted scheduler counts anew, and it is its counter that is read.
    let dispatched = vm.captures_series().watched("dispatched").numbers();
    let fell = dispatched.windows(2).filter(|pair| pair[1].1 < pair[0].1);
    anyhow::ensure!(fell.count() == 1, "{dispatched:?}");
    Ok(())
}

fn captures_are_in_order(vm: &VmResult) -> Result<()> {
    let series = vm.captures_series();
    let seen: Vec<_> = series
        .iter()
        .map(|s| (s.tag.as_str(), s.scenario, s.step_index))
        .collect();
    // "twice" of the second scenario has replaced that of the first.
    let expected = [
        ("periodic_000", Some(1), Some(1)),
        ("first", Some(1), Some(2)),
        ("twice", Some(2), Some(1)),
        ("periodic_001", Some(2), Some(1)),
        ("restarted", Some(2), Some(2)),
    ];
    anyhow::ensure!(seen == expected, "{seen:?}");
    let counts = (vm.periodic_fired, vm.periodic_real, vm.periodic_target);
    anyhow::ensure!(counts == (2, 2, 2), "{counts:?}");
    Ok(())
}

/// When the second scenario began; both had their time to settle, and there was a pause between them.
fn frames_bracket_the_scenarios(vm: &VmResult) -> Result<Duration> {
    use ktstr_wire::Message;
    let frames = vm.guest_messages.iter().flat_map(|frames| &frames.entries);
    let (mut pauses, mut ready_ns, mut settled, mut starts) = (0, 0, Vec::new(), Vec::new());
    for entry in frames {
        match entry.message() {
            Some(Message::Lifecycle(life)) if life.stage == ktstr_wire::Stage::PayloadStarting => {
                ready_ns = entry.frame.guest_ns;
            }
            Some(Message::ScenarioEnd(_)) => ready_ns = entry.frame.guest_ns,
            Some(Message::ScenarioStart) => {
                settled.push((entry.frame.guest_ns - ready_ns) / 1_000_000);
                starts.push(entry.host_elapsed);
            }
            Some(Message::ScenarioPause | Message::ScenarioResume) => pauses += 1,
            _ => {}
        }
    }
    let [_, second] = starts.as_slice() else {
        anyhow::bail!("{} scenarios", starts.len())
    };
    anyhow::ensure!(pauses == 2, "{pauses} frames of a pause");
    anyhow::ensure!(settled.iter().all(|ms| *ms >= 900), "{settled:?}");
    Ok(*second)
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l1c1t", duration_s = 2, ignore)]
fn replaced_by_nobody(ctx: &Ctx) -> Result<AssertResult> {
    const NOBODY: Scheduler = Scheduler::named("nobody");
    let replace = Op::replace_scheduler(&NOBODY);
    execute_steps(ctx, vec![Step::new(vec![replace], HOLD)])
}

/// Each scheduler in turn is asked for its own figures, over the socket that it has.
#[ktstr_test(
    scheduler = COUNTING, staged_schedulers = [COUNTING_ELSEWHERE, FIXTURE], topology = "1n1l2c1t", duration_s = 20,
    scx_stats, post_vm = each_told_its_figures, ignore
)]
fn figures(ctx: &Ctx) -> Result<AssertResult> {
    let capture = |tag: &str| Op::capture_snapshot(tag);
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(2)]),
        vec![
            Step::new(vec![capture("early")], HOLD),
            Step::new(vec![capture("late")], HOLD),
            Step::new(vec![Op::RestartScheduler, capture("restarted")], HOLD),
            Step::new(
                vec![
                    Op::replace_scheduler(&COUNTING_ELSEWHERE),
                    capture("elsewhere"),
                ],
                HOLD,
            ),
            Step::new(vec![Op::replace_scheduler(&FIXTURE), capture("mute")], HOLD),
            Step::new(vec![Op::DetachScheduler, capture("none")], HOLD),
        ],
    )
}

fn each_told_its_figures(vm: &VmResult) -> Result<()> {
    let entries = captures_of(vm);
    let [early, late, restarted, elsewhere, mute, none] = entries.as_slice() else {
        anyhow::bail!("{} captures", entries.len());
    };
    let dispatched = |entry: &SnapshotEntry| -> Result<u64> {
        let stats = entry
            .stats
            .as_ref()
            .map_err(|why| anyhow::anyhow!("{}: {why}", entry.tag))?;
        let told = stats["dispatched"].as_u64();
        told.ok_or_else(|| anyhow::anyhow!("{}: {stats}", entry.tag))
    };
    let (early, late, restarted) = (
        dispatched(early)?,
        dispatched(late)?,
        dispatched(restarted)?,
    );
    anyhow::ensure!(
        early < late && restarted < late,
        "{early}, {late}, then {restarted}"
    );
    dispatched(elsewhere)?;
    anyhow::ensure!(
        mute.stats == Err(MissingStatsReason::NoServer),
        "{:?}",
        mute.stats
    );
    anyhow::ensure!(
        none.stats == Err(MissingStatsReason::NoScheduler),
        "{:?}",
        none.stats
    );
    let client = vm.stats_client.as_ref();
    let client = client.ok_or_else(|| anyhow::anyhow!("no client"))?;
    let after = client.stats_meta();
    anyhow::ensure!(after == Err(MissingStatsReason::GuestGone), "{after:?}");
    Ok(())
}

/// A scheduler of scx_utils tells its figures where all of them do.
#[ktstr_test(scheduler = THIRD_PARTY, topology = "1n2l2c1t", duration_s = 4, memory_mib = 512, num_snapshots = 3, scx_stats, post_vm = third_party_told, ignore)]
fn third_party_figures(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("all").workers(4)])
}

fn third_party_told(vm: &VmResult) -> Result<()> {
    for entry in captures_of(vm) {
        let stats = entry
            .stats
            .map_err(|why| anyhow::anyhow!("{}: {why}", entry.tag))?;
        anyhow::ensure!(
            stats.as_object().is_some_and(|figures| figures.len() > 5),
            "{stats}"
        );
    }
    anyhow::ensure!(vm.periodic_real == 3, "{}", vm.periodic_real);
    Ok(())
}

/// At some moment of the next three seconds, does `strike`; captures go on meanwhile.
fn struck(ctx: &Ctx, strike: impl FnOnce() + Send + 'static) -> Result<AssertResult> {
    let mut random = [0; 2];
    getrandom(&mut random)?;
    let moment = Duration::from_millis(u64::from(u16::from_le_bytes(random)) % 3000);
    eprintln!("chaos: strikes after {} ms", moment.as_millis());
    std::thread::spawn(move || {
        let until = std::time::Instant::now() + moment;
        while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
            std::thread::park_timeout(left);
        }
        strike();
    });
    let capture = |number: u32| {
        let capture = Op::capture_snapshot(format!("c{number}"));
        Step::new(vec![capture], HoldSpec::fixed(Duration::from_millis(50)))
    };
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![CgroupDef::named("all").workers(2)]),
        (0..40).map(capture).collect(),
    )
}

fn getrandom(buffer: &mut [u8]) -> Result<()> {
    use std::io::Read as _;
    fs::File::open("/dev/urandom")?.read_exact(buffer)?;
    Ok(())
}

fn kill(pid: rustix::process::Pid) {
    // One that is gone already has had the same end.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 5, num_snapshots = 9, ignore)]
fn chaos_scheduler(ctx: &Ctx) -> Result<AssertResult> {
    let pid = ctx.scheduler_pid().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no scheduler runs"))?;
    struck(ctx, move || kill(pid))
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 5, num_snapshots = 9, ignore)]
fn chaos_child(ctx: &Ctx) -> Result<AssertResult> {
    struck(ctx, || kill(rustix::process::getpid()))
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 5, num_snapshots = 9, ignore)]
fn chaos_guest(ctx: &Ctx) -> Result<AssertResult> {
    struck(ctx, || {
        // The kernel does not come back from this write.
        let _ = fs::write("/proc/sysrq-trigger", "c");
    })
}

/// The test that runs this one kills the emulator.
#[ktstr_test(scheduler = FIXTURE, topology = "1n1l2c1t", duration_s = 5, num_snapshots = 9, ignore)]
fn chaos_emulator(ctx: &Ctx) -> Result<AssertResult> {
    struck(ctx, || {})
}

/// Somebody kills the scheduler's process.
#[ktstr_test(scheduler = THIRD_PARTY, topology = "1n2l2c1t", duration_s = 6, memory_mib = 512, ignore)]
fn third_party_killed(ctx: &Ctx) -> Result<AssertResult> {
    let pid = ctx.scheduler_pid().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no scheduler runs"))?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    execute_defs(ctx, vec![CgroupDef::named("all").workers(4)])
}

/// A real-time task takes CPU 1 for itself, and what the scheduler queued there waits for longer than any watchdog allows.
#[ktstr_test(scheduler = THIRD_PARTY, topology = "1n2l1c1t", duration_s = 25, memory_mib = 512, auto_repro = false, ignore)]
fn third_party_stalls(ctx: &Ctx) -> Result<AssertResult> {
    fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    let on_cpu_1 = |name: &str, policy| {
        CgroupDef::named(name)
            .workers(1)
            .cpuset(CpusetSpec::exact([1]))
            .sched_policy(policy)
    };
    execute_scenario(
        ctx,
        Backdrop::from_cgroups(vec![on_cpu_1("stalled", SchedPolicy::Normal)]),
        vec![
            Step::new(vec![], HOLD),
            Step::with_defs(
                vec![on_cpu_1("hog", SchedPolicy::Fifo(50))],
                HoldSpec::fixed(Duration::from_secs(20)),
            ),
        ],
    )
}

ktstr::test_main!();
