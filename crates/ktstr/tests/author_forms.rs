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

static BENCH: Payload = Payload::binary("schbench", "schbench");

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

#[test]
fn every_operation_has_a_function() {
    const OTHER: Scheduler = Scheduler::named("other").binary_discover("scx_other");
    assert_eq!(
        Op::attach_scheduler(&OTHER),
        Op::AttachScheduler { scheduler: &OTHER }
    );
    assert_eq!(
        Op::replace_scheduler(&OTHER),
        Op::ReplaceScheduler { scheduler: &OTHER }
    );
    let steered = Op::steer_irq(4, CpusetSpec::exact([1]));
    assert_eq!(steered.name(), "SteerIrq");
    let pinned = Op::PinBpfMap {
        map: "stats".into(),
        path: "/sys/fs/bpf/stats".into(),
    };
    assert_eq!(Op::pin_bpf_map("stats", "/sys/fs/bpf/stats"), pinned);
}

#[test]
fn claims_in_each_form() {
    let mut v = Verdict::new();
    claim!(v, 3).eq(3);
    claim!(v, 3).ne(4).note("chained");
    claim!(v, 3).lt(4);
    claim!(v, 3).because("two and one").gt(2);
    claim!(v, 1.05).kind(DetailKind::Benchmark).near(1.0, 0.1);
    claim_present!(v, Some(2.5)).between(2.0, 3.0);
    v.note_value("rounds", 3u64).skip_if(false, "needs SMT");
    assert_eq!((v.held(), v.is_pass()), (6, true));
    claim_present!(v, None::<f64>).at_most(1.0);
    assert!(v.into_result().is_fail());

    let mut skipped = Verdict::new();
    skipped.skip("needs two nodes");
    assert!(skipped.into_result().is_skip());
    let mut open = Verdict::new();
    open.inconclusive("too few samples".into());
    assert!(open.into_result().is_inconclusive());
    assert!(AssertResult::fail_msg("too slow").is_fail());
    assert!(AssertResult::inconclusive_msg("too few").is_inconclusive());
}

const CHECKS: Assert = Assert::NO_OVERRIDES
    .check_not_stuck()
    .check_isolation()
    .max_gap_ms(50);

mod declared {
    use super::*;

    // Commas are optional, and the constant is public.
    declare_scheduler!(WITHOUT_COMMAS, {
        name = "without_commas"
        binary = "scx_x"
        sched_args = ["--a", "b"]
        topology = (1, 2, 4, 2)
        assert = CHECKS
    });
    declare_scheduler!(pub(super) WITH_COMMAS, { name = "with_commas", binary = "scx_x", });
}

#[test]
fn a_declared_scheduler_is_public_and_has_its_checks() {
    let scheduler = declared::WITHOUT_COMMAS;
    assert_eq!(scheduler.assert.max_gap_ms, Some(50));
    assert!(scheduler.assert.asks_not_stuck() && scheduler.assert.asks_isolation());
    assert!(scheduler.assert.has_worker_checks());
    assert!(!Assert::default_checks().has_worker_checks());
    let enforced = Assert::NO_OVERRIDES.with_monitor_defaults();
    assert_eq!(enforced.enforce_monitor_thresholds, Some(true));
    let names: Vec<&str> = KTSTR_SCHEDULERS.iter().map(|one| one.name).collect();
    assert!(names.contains(&"without_commas") && names.contains(&"with_commas"));
    assert_eq!(declared::WITH_COMMAS.sched_args.len(), 0);
}

/// What a test's body asks of its context; it compiles, and a guest runs such ones.
fn asks_of_its_context(ctx: &Ctx) -> Result<AssertResult> {
    let mut v = Verdict::new();
    let half = CpusetSpec::range(0.0, 0.5);
    v.skip_if(ctx.cpuset_cpus(&half) < 1, "needs two CPUs");
    if let Some(scheduler) = ctx.current_scheduler() {
        v.note_value("scheduler", scheduler.name);
    }
    let def = ctx.cgroup_def("a").cpuset(half);
    let mut result = execute_steps(ctx, vec![Step::with_defs(vec![def], ctx.settled_hold(0.5))])?;
    let stats = &result.stats;
    claim!(v, stats.total_cpus()).at_least(1);
    claim!(v, stats.worst_gap_ms()).at_most(1_000.0);
    claim!(v, stats.cgroup_balance_ratio()).at_most(2.0);
    result.merge(v.into_result());
    Ok(result)
}

/// What a callback reads of a capture.
fn reads_variables(snapshot: &Snapshot<'_>) -> Result<u64, SnapshotError> {
    let field: SnapshotField<'_> = snapshot.live_var("nr_kicks")?;
    let all = snapshot.vars("nr_kicks").len() as u64;
    Ok(field.as_u64()? + snapshot.var("lag")?.as_u64()? + all)
}

#[test]
fn names_of_the_prelude() {
    let body: fn(&Ctx) -> Result<AssertResult> = asks_of_its_context;
    let entry = KtstrTestEntry {
        name: "by_hand",
        func: body,
        time: Some(Clock::Host),
        ..KtstrTestEntry::DEFAULT
    };
    assert_eq!(entry.time, Some(Clock::Host));
    assert!(KTSTR_TESTS.iter().any(|entry| entry.name == "two_tenants"));
    let map: CpuMap = CpuMap::new(1, 2, 2, 1);
    assert_eq!(map.total_cpus(), 4);
    let _: fn(&Snapshot<'_>) -> Result<u64, SnapshotError> = reads_variables;
    let task: TaskCond = Cond::task("spin");
    let cgroup: CgroupCond = Cond::cgroup("a");
    let rq: RqCond = Cond::rq(1);
    let all = task.queued().and(cgroup.throttled_on(0)).and(rq.idle());
    assert!(format!("{all:?}").contains("spin"), "{all:?}");
}

#[test]
fn a_run_without_a_result_says_so() {
    let error = VmResult::test_fixture().guest_assert_result().unwrap_err();
    assert!(error.to_string().contains("sent no result"), "{error}");
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

#[test]
fn a_check_of_a_metric_has_a_function() {
    const CHECKS: [MetricCheck; 5] = [
        MetricCheck::min("iops", 1000.0),
        MetricCheck::max("p99", 5.0),
        MetricCheck::range("load", 0.5, 0.9),
        MetricCheck::exists("rps"),
        MetricCheck::exit_code_eq(3),
    ];
    let variants = [
        MetricCheck::Min {
            metric: "iops",
            at_least: 1000.0,
        },
        MetricCheck::Max {
            metric: "p99",
            at_most: 5.0,
        },
        MetricCheck::Range {
            metric: "load",
            at_least: 0.5,
            at_most: 0.9,
        },
        MetricCheck::Exists { metric: "rps" },
        MetricCheck::ExitCode(3),
    ];
    assert_eq!(CHECKS, variants);
}

macro_rules! on_shape {
    ($name:ident, $shape:literal, $seconds:literal) => {
        #[ktstr_test(topology = $shape, duration_s = $seconds, ignore)]
        fn $name(_ctx: &Ctx) -> Result<AssertResult> {
            Ok(AssertResult::pass())
        }
    };
}

on_shape!(values_of_a_macro, "1n2l2c1t", 4);

#[test]
fn a_macro_may_fill_in_the_values_of_a_test() {
    let entry = ktstr::model::entry::find_test("values_of_a_macro").unwrap();
    assert_eq!(entry.topology.to_string(), "1n2l2c1t");
    assert_eq!(entry.duration_s, 4);
}
