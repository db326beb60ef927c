//! Named steps, the rest of the duration, and checks of a cgroup's own.

use super::*;
use crate::model::scenario::StepNameError;

const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn a_steps_name_finds_its_phase_and_is_in_its_messages() {
    let steps = vec![
        Step::with_defs(vec![CgroupDef::named("a").workers(1)], SHORT).named("old"),
        Step::with_defs(vec![CgroupDef::named("b").workers(1)], SHORT)
            .named("swap")
            .set_ops(vec![Op::swap_cpusets("x", "y")]),
    ];
    let result = run(steps.clone());
    check(
        &result,
        Outcome::Fail,
        DetailKind::Setup,
        &["step 2 (swap): SwapCpusets"],
    );
    let result = run(steps.into_iter().map(|step| step.set_ops(vec![])).collect());
    let of = |name: &str| result.stats.phase(name).expect("a phase of that name");
    assert_eq!((of("old").step_index, of("swap").step_index), (1, 2));
    assert!(of("old").cgroups.contains_key("a") && of("swap").cgroups.contains_key("b"));
}

#[test]
fn a_name_that_finds_no_single_step_is_refused_before_the_start() {
    let twice = || Step::hold(SHORT).named("old");
    let ctx = Ctx::new(plan(), None);
    let error = crate::guest::scenario::execute_steps(&ctx, vec![twice(), twice()]).unwrap_err();
    let error = error.downcast_ref::<StepNameError>();
    assert_eq!(error, Some(&StepNameError::Twice(String::from("old"))));
}

#[test]
fn the_rest_is_what_earlier_holds_left() {
    let result = run(vec![Step::hold(MS(700)), Step::hold(HoldSpec::REST)]);
    let [_, rest] = result.stats.phases.as_slice() else {
        panic!("{:?}", result.stats.phases)
    };
    // That it is no longer than that is `HoldSpec::resolve`'s own test: here a busy machine may lengthen it.
    assert!(rest.duration_ms() >= 300, "{rest:?}");
    let notes = format!("{:?}", result.info_notes);
    assert!(!notes.contains("held no time"), "{notes}");
    let result = run(vec![
        Step::hold(HoldSpec::FULL),
        Step::hold(HoldSpec::REST).named("late"),
    ]);
    let notes = format!("{:?}", result.info_notes);
    assert!(notes.contains("step 2 (late) held no time"), "{notes}");
}

#[test]
fn a_cgroup_is_held_to_its_own_checks_and_no_other_is() {
    let too_fast = Assert::NO_OVERRIDES.min_iteration_rate(1e15);
    let defs = vec![
        CgroupDef::named("a").workers(1),
        CgroupDef::named("b").workers(1).assert(too_fast),
    ];
    let result = run(vec![Step::with_defs(defs, SHORT)]);
    let [detail] = result.details.as_slice() else {
        panic!("{:#?}", result.details)
    };
    assert_eq!(detail.kind, DetailKind::Benchmark);
    assert!(detail.message.contains("in cgroup b"), "{detail:?}");
}

/// Of waiters alone can that check be answered, so that spinners under it would make the test inconclusive.
const OF_WAITERS: Assert = Assert::NO_OVERRIDES.max_p99_wake_latency_ns(60_000_000_000);

fn waiting(name: &str) -> CgroupDef {
    CgroupDef::named(name)
        .workers(1)
        .work_type(WorkType::bursty(MS(1), MS(1)))
}

#[test]
fn checks_end_with_their_cgroup() {
    let spinning = CgroupDef::named("a").workers(1);
    let result = run(vec![
        Step::with_defs(vec![waiting("a").assert(OF_WAITERS)], SHORT),
        Step::with_defs(vec![spinning.clone()], SHORT),
        Step::new(
            vec![
                Op::add_cgroup("a"),
                Op::spawn_workers("a", WorkSpec::default().workers(1)),
            ],
            SHORT,
        ),
    ]);
    assert!(result.is_pass(), "{result:#?}");
    let result = run(vec![Step::with_defs(
        vec![spinning.assert(OF_WAITERS)],
        SHORT,
    )]);
    assert!(
        result.is_inconclusive(),
        "it would have been seen: {result:#?}"
    );
}

/// By the cgroup that they began in, wherever an operation has moved them.
#[test]
fn workers_keep_their_cgroups_checks() {
    let too_fast = Assert::NO_OVERRIDES.min_iteration_rate(1e15);
    let ctx = Ctx::new(plan(), None);
    let backdrop = Backdrop::new()
        .push_cgroup(CgroupDef::named("a").workers(1).assert(too_fast))
        .push_cgroup(CgroupDef::named("b").without_workers());
    let steps = vec![Step::new(vec![Op::move_all_tasks("a", "b")], SHORT)];
    let result = run_in(&ctx, backdrop, steps, Assert::NO_OVERRIDES);
    let kinds: Vec<DetailKind> = result.details.iter().map(|detail| detail.kind).collect();
    assert_eq!(kinds, [DetailKind::Benchmark], "{:#?}", result.details);
    // A step's cgroup of that name has no say about the backdrop's workers.
    let backdrop = Backdrop::new().push_cgroup(waiting("a").assert(too_fast));
    let steps = vec![Step::with_defs(
        vec![CgroupDef::named("a").workers(1)],
        SHORT,
    )];
    let result = run_in(
        &Ctx::new(plan(), None),
        backdrop,
        steps,
        Assert::NO_OVERRIDES,
    );
    assert!(result.is_fail(), "{result:#?}");
}

#[test]
fn checks_that_no_worker_of_the_cgroup_can_answer_are_told() {
    let empty = CgroupDef::named("a")
        .without_workers()
        .assert(Assert::NO_OVERRIDES.check_not_stuck());
    let result = run(vec![Step::with_defs(vec![empty], SHORT)]);
    let parts = ["cgroup \"a\" has checks of its own, but no worker began in it"];
    check(&result, Outcome::Inconclusive, DetailKind::Other, &parts);
    let of_monitor = CgroupDef::named("a").assert(Assert::NO_OVERRIDES.max_local_dsq_depth(5));
    let result = run(vec![Step::with_defs(vec![of_monitor], SHORT)]);
    let parts = ["step 1: set-up", "cgroup \"a\" asserts max_local_dsq_depth"];
    check(&result, Outcome::Fail, DetailKind::Setup, &parts);
}
