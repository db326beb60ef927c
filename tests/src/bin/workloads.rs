//! The test binary that `tests/workloads.rs` runs: workloads, operations and checks inside a real guest.
//!
//! Every case is ignored by default, because some fail on purpose.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use ktstr::prelude::*;

declare_scheduler!(FIXTURE, { name: "fixture", binary: "scx-fixture" });

const SECOND: HoldSpec = HoldSpec::Fixed(Duration::from_secs(1));

/// Every work type alone for a second, one step each.
fn each_work_type(ctx: &Ctx) -> Result<AssertResult> {
    let alone = |work: WorkType| {
        let group = work.info().group_size;
        let def = CgroupDef::named(work.name()).workers(group).work(work);
        Step::with_defs(vec![def], SECOND)
    };
    execute_steps(ctx, WorkType::ALL.into_iter().map(alone).collect())
}

#[ktstr_test(topology = "1n2l2c1t", duration_s = 120, ignore)]
fn work_types_under_eevdf(ctx: &Ctx) -> Result<AssertResult> {
    each_work_type(ctx)
}

#[ktstr_test(scheduler = FIXTURE, topology = "1n2l2c1t", duration_s = 120, ignore)]
fn work_types_under_the_fixture(ctx: &Ctx) -> Result<AssertResult> {
    each_work_type(ctx)
}

const SHORT: HoldSpec = HoldSpec::Fixed(Duration::from_millis(200));

fn step(ops: Vec<Op>) -> Step {
    Step::new(ops, SHORT)
}

/// Twenty steps with every cgroup operation, over cgroups that nest, are limited, frozen, swapped and emptied.
fn dynamic_steps() -> Vec<Step> {
    let name = |name: &str| name.to_owned();
    let spin = |count| WorkSpec::new(WorkType::SpinWait).workers(count);
    let limited = CgroupDef::named("limited")
        .workers(2)
        .cpu_weight(50)
        .cpu_max(Duration::from_millis(20), Duration::from_millis(100))
        .mems("0");
    let threads = CgroupDef::named("proc/threads").workers(2).threaded();
    let churn = CgroupDef::named("churn")
        .cpuset(CpusetSpec::Llc(1))
        .work(WorkType::from_name("CgroupChurn").expect("a work type"));
    let move_all = |from: &str, to: &str| Op::MoveAllTasks {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let spawn = |cgroup: Option<&str>, work: WorkSpec| Op::Spawn {
        cgroup: cgroup.map(str::to_owned),
        work,
    };
    let set = |cgroup: &str, cpus| Op::SetCpuset {
        cgroup: cgroup.to_owned(),
        cpus,
    };
    let bind = |affinity| Op::SetAffinity {
        cgroup: name("a"),
        affinity,
    };
    let swap = || Op::SwapCpusets {
        a: name("a"),
        b: name("b"),
    };
    let freeze = |cgroup: &str| Op::FreezeCgroup {
        cgroup: cgroup.to_owned(),
    };
    let procs = Op::CaptureCgroupProcs {
        tag: name("t"),
        cgroup: name("a"),
    };
    vec![
        step(vec![Op::AddCgroup { name: name("x") }]),
        step(vec![Op::AddCgroupDef(CgroupDef::named("y").workers(1))]),
        step(vec![set("a", CpusetSpec::Llc(1))]),
        step(vec![swap()]),
        step(vec![Op::ClearCpuset { cgroup: name("a") }]),
        step(vec![set("a", CpusetSpec::exact([0])), swap()]),
        step(vec![spawn(Some("b"), spin(2))]),
        step(vec![spawn(None, spin(1).threads())]),
        step(vec![bind(Affinity::SingleCpu)]),
        step(vec![bind(Affinity::Inherit)]),
        step(vec![move_all("a", "deep/er/est")]),
        step(vec![move_all("deep/er/est", "a")]),
        step(vec![freeze("a")]),
        step(vec![Op::UnfreezeCgroup { cgroup: name("a") }, procs]),
        step(vec![freeze("deep"), freeze("b")]),
        step(vec![Op::RemoveCgroup { cgroup: name("b") }]),
        step(vec![Op::StopCgroup { cgroup: name("a") }]),
        Step::with_defs(vec![limited, threads], SHORT),
        Step::with_defs(vec![churn], SHORT),
        step(vec![
            spawn(Some("a"), spin(2)),
            freeze("a"),
            Op::RemoveCgroup {
                cgroup: name("deep"),
            },
        ]),
    ]
}

#[ktstr_test(topology = "1n2l2c1t", duration_s = 30, ignore)]
fn dynamic_twenty_steps(ctx: &Ctx) -> Result<AssertResult> {
    let backdrop = Backdrop::new(vec![
        CgroupDef::named("a").workers(2).cpuset(CpusetSpec::Llc(0)),
        CgroupDef::named("b").workers(1).cpuset(CpusetSpec::Llc(1)),
        CgroupDef::named("deep/er/est").workers(0),
    ]);
    let result = execute_scenario(ctx, backdrop, dynamic_steps())?;
    nothing_is_left(ctx)?;
    Ok(result)
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
