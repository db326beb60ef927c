//! Twelve tests in the forms that scheduler authors use, on guests of a few CPUs, three of them under schedulers of the crates
//! registry; a plain `#[test]` comes first.
#![cfg(feature = "ktstr-tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::Duration;

use anyhow::Result;
use ktstr::prelude::*;

// A scheduler from crates.io, declared where it can be seen by the verifier.
declare_scheduler!(BPFLAND, {
    name = "bpfland",
    binary = "scx_bpfland",
    sched_args = ["--slice-us", "5000"],
    topology = (1, 2, 2, 1),
});

/// Another one, made in the other form: only the tests that name it have it.
const COSMOS: Scheduler = Scheduler::named("cosmos")
    .binary_discover("scx_cosmos")
    .sched_args(&["--slice-us", "2000"])
    .topology(1, 1, 2, 1);

const DISK: DiskConfig = DiskConfig::DEFAULT;
const FOUR: u32 = 4;

#[test]
fn a_plain_test_comes_first() {
    assert_eq!(COSMOS.name, "cosmos");
    assert!(ktstr::find_scheduler("bpfland").is_some());
    assert!(
        ktstr::find_scheduler("cosmos").is_none(),
        "only declared ones are registered"
    );
}

fn two_tenants(steps: Vec<Step>, ctx: &Ctx) -> Result<AssertResult> {
    let tenant = |name: &'static str| {
        CgroupDef::named(name)
            .workers(2)
            .work_type(WorkType::SpinWait)
    };
    execute_scenario(
        ctx,
        Backdrop::new()
            .push_cgroup(tenant("a"))
            .push_cgroup(tenant("b")),
        steps,
    )
}

/// Under the scheduler in the first step, under the kernel's own in the second: both tenants got on in both.
fn compare_the_halves(result: &VmResult) -> Result<()> {
    let mut v = Verdict::new();
    for step in [Phase::step(0), Phase::step(1)] {
        for tenant in ["a", "b"] {
            let Some(figures) = result.phase_cgroup(step, tenant) else {
                anyhow::bail!("{step} has no figures of {tenant}");
            };
            let iterations = figures.total_iterations;
            claim!(v, iterations).at_least(1);
            let Some((mean_us, worst_us)) = figures.run_delay_summary() else {
                anyhow::bail!("{step} has no run delay of {tenant}");
            };
            claim!(v, mean_us).at_most(worst_us);
        }
    }
    v.into_anyhow_or_log()
}

#[ktstr_test(
    scheduler = BPFLAND,
    duration_s = 2,
    watchdog_timeout_s = 20,
    memory_mib = 96,
    auto_repro = false,
    cleanup_budget_ms = 60_000,
    post_vm = compare_the_halves,
)]
fn tenants_with_and_without_the_scheduler(ctx: &Ctx) -> Result<AssertResult> {
    two_tenants(
        vec![
            Step::hold(HoldSpec::frac(0.5)),
            Step::with_op(Op::detach_scheduler(), HoldSpec::frac(0.5)),
        ],
        ctx,
    )
}

/// The name that the kernel has of the scheduler that runs, without what its authors add.
fn running() -> Result<String> {
    let ops = fs::read_to_string("/sys/kernel/sched_ext/root/ops")?;
    let name = ops.split('_').next().unwrap_or_default();
    Ok(name.trim().to_owned())
}

#[ktstr_test(scheduler = COSMOS, duration_s = 1, watchdog_timeout_s = 20, workload_root_cgroup = "/tenants")]
fn a_scheduler_in_the_other_form_takes_its_own_topology(ctx: &Ctx) -> Result<AssertResult> {
    let cpus = fs::read_to_string("/sys/devices/system/cpu/online")?;
    anyhow::ensure!(cpus.trim() == "0-1", "{cpus}");
    anyhow::ensure!(running()? == "cosmos", "{} runs", running()?);
    anyhow::ensure!(fs::metadata("/sys/fs/cgroup/tenants")?.is_dir());
    execute_defs(ctx, vec![CgroupDef::named("only").workers(2)])
}

/// On more CPUs than the scheduler declares, with an argument that only this test gives it.
#[ktstr_test(
    scheduler = COSMOS,
    llcs = 2,
    cores = 1,
    threads = 2,
    duration_s = 1,
    watchdog_timeout_s = 20,
    extra_sched_args = ["--flat-idle-scan"],
)]
fn another_scheduler_takes_arguments_of_one_test(ctx: &Ctx) -> Result<AssertResult> {
    anyhow::ensure!(running()? == "cosmos", "{} runs", running()?);
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("near")
                .workers(2)
                .cpuset(CpusetSpec::llc(0)),
            CgroupDef::named("far")
                .workers(2)
                .cpuset(CpusetSpec::llc(1)),
        ],
    )
}

/// Far more workers than CPUs in a cpuset that leaves one CPU for everything else, and bursts outside of it.
#[ktstr_test(llcs = 1, cores = FOUR, threads = 1, duration_s = 2)]
fn a_crowded_cpuset_leaves_the_rest_alone(ctx: &Ctx) -> Result<AssertResult> {
    let crowd = CgroupDef::named("crowd")
        .workers(24)
        .cpuset(CpusetSpec::exact(0..3));
    let outside = WorkSpec::default().workers(10).work_type(WorkType::Bursty {
        burst_duration: Duration::from_millis(5),
        sleep_duration: Duration::from_millis(20),
    });
    let step = Step::with_defs(vec![crowd], HoldSpec::FULL).set_ops(vec![Op::spawn_host(outside)]);
    execute_steps(ctx, vec![step])
}

#[ktstr_test(llcs = 1, cores = 4, threads = 1, duration_s = 1)]
fn disjoint_cpusets_cover_every_cpu(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("left")
                .workers(2)
                .cpuset(CpusetSpec::exact([0, 1])),
            CgroupDef::named("right")
                .workers(2)
                .cpuset(CpusetSpec::exact(2..4)),
        ],
    )
}

#[ktstr_test(llcs = 2, cores = 2, threads = 1, duration_s = 2)]
fn halves_by_share_and_by_number_are_swapped(ctx: &Ctx) -> Result<AssertResult> {
    let one = |name: &'static str, cpus| CgroupDef::named(name).workers(1).cpuset(cpus);
    let backdrop = Backdrop::new()
        .push_cgroup(one("low", CpusetSpec::range(0.0, 0.5)))
        .push_cgroup(one("first", CpusetSpec::disjoint(0, 2)))
        .push_cgroup(one("second", CpusetSpec::disjoint(1, 2)));
    execute_scenario(
        ctx,
        backdrop,
        vec![
            Step::hold(HoldSpec::frac(0.3)),
            Step::with_op(
                Op::swap_cpusets("first", "second"),
                HoldSpec::fixed(Duration::from_millis(200)),
            ),
            Step::with_op(Op::stop_cgroup("low"), HoldSpec::frac(0.1)),
        ],
    )
}

/// Borrows CPUs while nobody wants them, and gives them back when the lender fills up.
#[ktstr_test(llcs = 1, cores = 2, threads = 1, duration_s = 2)]
fn an_idle_drifter_borrows_from_a_lender(ctx: &Ctx) -> Result<AssertResult> {
    let drifter = CgroupDef::named("drifter")
        .workers(2)
        .sched_policy(SchedPolicy::Idle)
        .nice(19);
    let lender = WorkSpec::default().workers(2).work_type(WorkType::SpinWait);
    execute_scenario(
        ctx,
        Backdrop::new()
            .push_cgroup(drifter)
            .push_cgroup(CgroupDef::named("lender").workers(1)),
        vec![
            Step::hold(HoldSpec::frac(0.5)),
            Step::with_op(Op::spawn_workers("lender", lender), HoldSpec::frac(0.5)),
        ],
    )
}

#[ktstr_test(llcs = 1, cores = 2, threads = 1, duration_s = 1)]
fn a_quota_holds_spinners_and_bursts(ctx: &Ctx) -> Result<AssertResult> {
    let bursts = WorkSpec::default().workers(1).work_type(WorkType::Bursty {
        burst_duration: Duration::from_millis(2),
        sleep_duration: Duration::from_millis(2),
    });
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("held")
                .workers(1)
                .work_type(WorkType::SpinWait)
                .work(bursts)
                .cpu_quota_pct(5),
            CgroupDef::named("free").workers(1),
        ],
    )
}

#[ktstr_test(llcs = 2, cores = 2, threads = 1, duration_s = 1)]
fn pairs_and_churn_share_half_of_the_cpus(ctx: &Ctx) -> Result<AssertResult> {
    let half: BTreeSet<usize> = (0..2).collect();
    let pairs = WorkSpec::default()
        .workers(8)
        .work_type(WorkType::FutexPingPong { spin_iters: 1024 })
        .affinity(AffinityIntent::Exact(half));
    let churn = WorkSpec::default()
        .workers(2)
        .work_type(WorkType::CrossAffinityChurn { spin_iters: 1024 })
        .nice(19);
    execute_defs(
        ctx,
        vec![
            CgroupDef::named("half")
                .work(pairs)
                .work(churn)
                .cpuset(CpusetSpec::llc(0)),
        ],
    )
}

#[ktstr_test(llcs = 1, cores = 2, threads = 1, duration_s = 1)]
fn pages_are_touched_again_and_again(ctx: &Ctx) -> Result<AssertResult> {
    let faults = WorkType::PageFaultChurn {
        region_kib: 1024,
        touches_per_cycle: 64,
        spin_iters: 64,
    };
    execute_defs(
        ctx,
        vec![CgroupDef::named("faults").workers(1).work_type(faults)],
    )
}

/// Mounts a hierarchy of the old kind and makes directories in it until it is told to stop.
fn makes_old_cgroups(ctx: &WorkerCtx<'_>) -> WorkerReport {
    let place = std::env::temp_dir().join("old");
    let mut made = 0;
    if let Err(error) = fs::create_dir_all(&place).and_then(|()| mount_old(&place)) {
        eprintln!("no hierarchy of the old kind: {error}");
    }
    while !ctx.stop().load(std::sync::atomic::Ordering::Relaxed) {
        let dir = place.join(format!("d{}", made % 4));
        if fs::create_dir(&dir)
            .and_then(|()| fs::remove_dir(&dir))
            .is_ok()
        {
            made += 1;
        }
    }
    WorkerReport {
        tid: i32::try_from(std::process::id()).unwrap_or_default(),
        work_units: made,
        ..Default::default()
    }
}

fn mount_old(place: &std::path::Path) -> io::Result<()> {
    let place = std::ffi::CString::new(place.display().to_string())?;
    // SAFETY: all texts end with a zero and live until the call returns.
    let done = unsafe {
        libc::mount(
            c"none".as_ptr(),
            place.as_ptr(),
            c"cgroup".as_ptr(),
            0,
            c"none,name=old".as_ptr().cast(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[ktstr_test(llcs = 1, cores = 2, threads = 1, duration_s = 1, disk = DISK)]
fn a_worker_of_ones_own_runs_until_it_is_stopped(ctx: &Ctx) -> Result<AssertResult> {
    let own = WorkType::custom("old-cgroups", makes_old_cgroups);
    execute_defs(ctx, vec![CgroupDef::named("own").workers(1).work_type(own)])
}

/// Must fail, and say that it is the claim that does not hold.
fn wants_too_much(result: &VmResult) -> Result<()> {
    let mut v = Verdict::new();
    let steps = result.phase_buckets().len();
    claim!(v, steps).at_least(1_000);
    v.into_anyhow_or_log()
}

#[ktstr_test(llcs = 1, cores = 2, threads = 1, duration_s = 1, post_vm = wants_too_much)]
fn a_claim_that_does_not_hold_is_the_failure(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("only").workers(1)])
}
