//! The forms in which scheduler authors write scenarios, each as they write it. What each does is shown in guests by
//! `tests/tests/forms.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ktstr::prelude::*;

fn mounts(ctx: &WorkerCtx) -> WorkerReport {
    let mut work_units = 0;
    while !ctx.stop().load(Ordering::Relaxed) {
        work_units += 1;
        ctx.sleep(Duration::from_millis(1));
    }
    WorkerReport {
        tid: 1,
        work_units,
        ..Default::default()
    }
}

#[test]
fn a_cgroup_with_one_kind_of_work() {
    let def = CgroupDef::named("a")
        .workers(3)
        .work_type(WorkType::YieldHeavy);
    let works = def.merged_works();
    assert_eq!(works.len(), 1);
    assert_eq!(
        (works[0].num_workers, &works[0].work_type),
        (Some(3), &WorkType::YieldHeavy)
    );
}

#[test]
fn each_work_adds_a_set_of_workers() {
    let def = CgroupDef::named("a")
        .work(WorkSpec::default().workers(2))
        .work(WorkSpec::default().workers(3).work_type(WorkType::Mixed));
    let counts: Vec<_> = def
        .merged_works()
        .iter()
        .map(|work| work.num_workers)
        .collect();
    assert_eq!(counts, [Some(2), Some(3)]);
}

#[test]
fn a_cgroup_with_policy_nice_and_quota() {
    let def = CgroupDef::named("drifter")
        .workers(4)
        .sched_policy(SchedPolicy::Idle)
        .nice(19)
        .cpu_quota_pct(5);
    let work = &def.merged_works()[0];
    assert_eq!(
        (work.sched_policy, work.nice),
        (SchedPolicy::Idle, Some(19))
    );
    assert_eq!(def.cpu.unwrap().max_quota_us, Some(5_000));
}

#[test]
fn a_work_spec_with_everything() {
    let cpus: BTreeSet<usize> = (0..4).collect();
    let spec = WorkSpec::default()
        .workers(2)
        .work_type(WorkType::SpinWait)
        .sched_policy(SchedPolicy::Normal)
        .affinity(AffinityIntent::Exact(cpus.clone()))
        .nice(19);
    let literal = WorkSpec {
        work_type: WorkType::SpinWait,
        num_workers: Some(2),
        affinity: AffinityIntent::exact(cpus),
        nice: Some(19),
        ..Default::default()
    };
    assert_eq!(spec, literal);
}

#[test]
fn work_types_by_their_fields() {
    let ms = Duration::from_millis;
    let bursty = WorkType::Bursty {
        burst_duration: ms(10),
        sleep_duration: ms(20),
    };
    assert_eq!(bursty, WorkType::bursty(ms(10), ms(20)));
    let pairs = WorkType::FutexPingPong { spin_iters: 1024 };
    assert_eq!(pairs, WorkType::futex_ping_pong(1024));
    let churn = WorkType::CrossAffinityChurn { spin_iters: 512 };
    assert_eq!(churn.worker_group_size(), Some(2));
    let faults = WorkType::PageFaultChurn {
        region_kib: 4096,
        touches_per_cycle: 256,
        spin_iters: 64,
    };
    assert_eq!(faults, WorkType::from_name("PageFaultChurn").unwrap());
}

#[test]
fn a_custom_worker_is_a_function_of_its_context() {
    let custom = WorkType::custom("cgroup-v1-mounts", mounts);
    assert_eq!(custom.name(), "cgroup-v1-mounts");
    let told = WorkType::custom_with("told", mounts, CustomCfg::default().u64_slot(0, 9));
    assert_ne!(custom, told);
}

#[test]
fn cpusets_are_over_usize() {
    let all = [CpusetSpec::exact(0..8), CpusetSpec::exact([1, 2, 3])];
    assert_eq!(all[0], CpusetSpec::Exact((0..8).collect()));
    assert_eq!(all[1], CpusetSpec::Exact(BTreeSet::from([1, 2, 3])));
    let half = CpusetSpec::Range {
        start_frac: 0.0,
        end_frac: 0.5,
    };
    assert_eq!(CpusetSpec::range(0.0, 0.5), half);
    assert_eq!(
        CpusetSpec::disjoint(0, 2),
        CpusetSpec::Disjoint { index: 0, of: 2 }
    );
}

#[test]
fn steps_with_operations_and_holds() {
    let defs = || vec![CgroupDef::named("a")];
    let step = Step::with_defs(defs(), HoldSpec::FULL).set_ops(vec![
        Op::spawn_host(WorkSpec::default().workers(100)),
        Op::spawn_workers("b", WorkSpec::default()),
    ]);
    assert_eq!(step.ops.len(), 2);
    let detach = Step::with_op(Op::detach_scheduler(), HoldSpec::frac(0.5));
    assert_eq!(detach.ops, [Op::DetachScheduler]);
    assert_eq!(
        Step::hold(HoldSpec::fixed(Duration::from_secs(1))).hold,
        HoldSpec::Fixed(Duration::from_secs(1))
    );
    let literal = Step {
        setup: defs().into(),
        ops: vec![
            Op::swap_cpusets("a", "b"),
            Op::remove_cgroup("a"),
            Op::stop_cgroup(String::from("b")),
        ],
        hold: HoldSpec::frac(0.5),
    };
    assert_eq!(literal.ops.len(), 3);
    assert_eq!(Op::RemoveCgroup { cgroup: "a".into() }, literal.ops[1]);
}

static BENCH: Payload = Payload::binary("schbench");

#[test]
fn payloads_are_declared_once_and_run_by_reference() {
    let ops = [
        Op::run_payload(&BENCH, ["-m", "2"]),
        Op::run_payload_in_cgroup(&BENCH, Vec::<String>::new(), "a"),
        Op::wait_payload("schbench"),
        Op::kill_payload_in_cgroup("schbench", "a"),
    ];
    assert_eq!(ops[0].name(), "RunPayload");
    assert!(!Backdrop::new().push_payload(&BENCH).is_empty());
    assert!(CgroupDef::named("a").workload(&BENCH).payload.is_some());
}

#[test]
fn a_backdrop_grows_by_cgroups() {
    const NOTHING: Backdrop = Backdrop::new();
    assert!(NOTHING.is_empty());
    let backdrop = Backdrop::new()
        .push_cgroup(CgroupDef::named("a"))
        .push_cgroup(CgroupDef::named("b").cpuset(CpusetSpec::disjoint(1, 2)));
    assert_eq!(backdrop.cgroups.len(), 2);
}

/// What a callback asks of the result, and how it ends.
fn compare(result: &VmResult) -> Result<()> {
    let mut v = Verdict::new();
    let Some(a) = result.phase_cgroup(Phase::step(0), "a") else {
        anyhow::bail!("no figures of a");
    };
    claim!(v, a.total_iterations).at_least(1);
    if let Some((mean_us, worst_us)) = a.run_delay_summary() {
        claim!(v, worst_us).at_least(mean_us);
    }
    v.into_anyhow_or_log()
}

#[test]
fn a_callback_without_figures_says_so() {
    let error = compare(&VmResult::test_fixture()).unwrap_err();
    assert_eq!(error.to_string(), "no figures of a");
    assert_eq!(Phase::BASELINE.to_string(), "BASELINE");
}

/// Two tenants in the first half under a scheduler, in the second without one. (The one that boots is in `tests/`.)
#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, ignore)]
fn two_tenants(ctx: &Ctx) -> Result<AssertResult> {
    let backdrop = Backdrop::new()
        .push_cgroup(CgroupDef::named("a").workers(2))
        .push_cgroup(
            CgroupDef::named("b")
                .workers(2)
                .work_type(WorkType::Bursty {
                    burst_duration: Duration::from_millis(10),
                    sleep_duration: Duration::from_millis(10),
                }),
        );
    let steps = vec![
        Step::hold(HoldSpec::frac(0.5)),
        Step::with_op(Op::detach_scheduler(), HoldSpec::frac(0.5)),
    ];
    execute_scenario(ctx, backdrop, steps)
}

#[test]
fn a_whole_test_registers() {
    let entry = ktstr::find_test("two_tenants").unwrap();
    assert_eq!(entry.duration_s, 1);
}
