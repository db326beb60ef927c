//! Whole scenarios with real workers, over a plain directory in the place of cgroups.

mod author;

use super::engine::{Engine, stop_grace};
use crate::guest::cgroup::CgroupManager;
use crate::model::checks::Assert;
use crate::model::cpuset::CpuMap;
use crate::model::ctx::{Ctx, TestPlan};
use crate::model::entry::Scheduler;
use crate::model::payload::Payload;
use crate::model::scenario::{
    Backdrop, CgroupDef, CpusetSpec, HoldSpec, KernelTarget, KernelValue, KernelValueWidth, Op,
    Setup, Step,
};
use crate::model::transport::{
    HostRequest, KernelBatch, KernelEntries, ScenarioEvent, SchedulerChange, Transport,
    TransportError,
};
use crate::model::verdict::{AssertResult, DetailKind, Outcome};
use crate::model::work::{WorkSpec, WorkType};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SHORT: HoldSpec = HoldSpec::fixed(Duration::from_millis(60));

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<ScenarioEvent>>);

impl Transport for Recorder {
    fn event(&self, event: &ScenarioEvent) -> Result<(), TransportError> {
        self.0.lock().unwrap().push(*event);
        Ok(())
    }

    fn request(&self, _: &HostRequest, _: Duration) -> Result<(), TransportError> {
        Err(TransportError::NotSupported)
    }
}

fn plan() -> TestPlan {
    let topology = CpuMap::new(1, 2, 2, 1);
    TestPlan::new("t", topology, Duration::from_millis(1_000))
}

/// Whose payloads have more time than a program on a busy machine needs; holds of a fixed length are as long as ever.
fn patient() -> Ctx {
    let plan = TestPlan {
        duration_ms: 60_000,
        ..plan()
    };
    Ctx::new(plan, None)
}

fn run_in(ctx: &Ctx, backdrop: Backdrop, steps: Vec<Step>, assert: Assert) -> AssertResult {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = CgroupManager::plain(dir.path());
    let result = Engine::new(ctx, cgroups).run(&backdrop, &steps, &assert);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "cgroups left behind");
    result
}

fn run(steps: Vec<Step>) -> AssertResult {
    run_in(
        &Ctx::new(plan(), None),
        Backdrop::new(),
        steps,
        Assert::NO_OVERRIDES,
    )
}

/// The outcome, and a detail of this kind whose text contains all of `parts`.
#[track_caller]
fn check(result: &AssertResult, outcome: Outcome, kind: DetailKind, parts: &[&str]) {
    assert_eq!(result.outcome(), outcome, "{result:#?}");
    let texts: Vec<&str> = result
        .details_of_kind(kind)
        .map(|d| d.message.as_str())
        .collect();
    let found = texts
        .iter()
        .any(|text| parts.iter().all(|part| text.contains(part)));
    assert!(found, "no {kind:?} with {parts:?} in {:#?}", result.details);
}

#[test]
fn two_cgroups_run_for_the_whole_duration() {
    let defs = vec![
        CgroupDef::named("a").workers(2).cpuset(CpusetSpec::llc(0)),
        CgroupDef::named("b").workers(2).work_type(WorkType::bursty(
            Duration::from_millis(5),
            Duration::from_millis(5),
        )),
    ];
    let result = run(vec![Step::with_defs(defs, HoldSpec::FULL)]);
    assert!(result.is_pass(), "{result:#?}");
    let [a, b] = result.stats.cgroups.as_slice() else {
        panic!("{:?}", result.stats)
    };
    assert_eq!(
        (a.name.as_str(), a.workers, a.cpuset.as_deref()),
        ("a", 2, Some(&[0, 1][..]))
    );
    assert!(a.iterations > 0 && b.iterations > 0 && b.wake_count > 0);
    assert!(a.wall_time_ms > 0.0, "{}", a.wall_time_ms);
    let [phase] = result.stats.phases.as_slice() else {
        panic!("{:?}", result.stats.phases)
    };
    assert_eq!(phase.step_index, 1);
    assert!(phase.iterations["a"] > 0 && phase.end_ms >= 1_000);
}

#[test]
fn boundaries_are_told_in_order_with_growing_figures() {
    let recorder = Arc::new(Recorder::default());
    let ctx = Ctx::new(plan(), None).with_transport(recorder.clone());
    let backdrop = Backdrop::from_cgroups(vec![CgroupDef::named("bg").workers(1)]);
    let steps = vec![
        Step::new(vec![Op::add_cgroup("x")], SHORT),
        Step::with_defs(vec![CgroupDef::named("y").workers(1)], SHORT),
    ];
    assert!(run_in(&ctx, backdrop, steps, Assert::NO_OVERRIDES).is_pass());
    let events = recorder.0.lock().unwrap();
    let [
        ScenarioEvent::Start,
        ScenarioEvent::StepBegin { step_index: 1 },
        ScenarioEvent::StepStart(one),
        ScenarioEvent::StepEnd(one_end),
        ScenarioEvent::StepBegin { step_index: 2 },
        ScenarioEvent::StepStart(two),
        ScenarioEvent::StepEnd(two_end),
        ScenarioEvent::End {
            elapsed_ms,
            total_iterations,
        },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!((one.step_index, one.op_count, one.op_kinds), (1, 1, 1));
    assert_eq!((one.cgroup_count, one.worker_count), (2, 1));
    assert_eq!((two.cgroup_count, two.worker_count), (2, 2));
    assert!(one.total_iterations <= one_end.total_iterations);
    assert!(one_end.total_iterations <= two_end.total_iterations);
    assert!(two_end.total_iterations <= *total_iterations && *elapsed_ms >= 120);
}

/// Kills the scheduler when a step has begun. Not by the end of its input: a worker that another test forked meanwhile would hold
/// that open.
#[derive(Debug)]
struct Killer(Mutex<Child>);

impl Transport for Killer {
    fn event(&self, event: &ScenarioEvent) -> Result<(), TransportError> {
        if matches!(event, ScenarioEvent::StepStart(_)) {
            self.0.lock().unwrap().kill().unwrap();
        }
        Ok(())
    }

    fn request(&self, _: &HostRequest, _: Duration) -> Result<(), TransportError> {
        Err(TransportError::NotSupported)
    }
}

#[test]
fn the_schedulers_death_ends_the_hold_and_the_scenario() {
    let scheduler = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(scheduler.id()).unwrap();
    let long_plan = TestPlan {
        duration_ms: 60_000,
        ..plan()
    };
    let killer = Arc::new(Killer(Mutex::new(scheduler)));
    let ctx = Ctx::new(long_plan, Some(pid)).with_transport(killer.clone());
    let begun = Instant::now();
    let long = HoldSpec::fixed(Duration::from_secs(60));
    let defs = vec![CgroupDef::named("a").workers(1)];
    let steps = vec![Step::with_defs(defs, long), Step::new(Vec::new(), long)];
    let result = run_in(&ctx, Backdrop::new(), steps, Assert::NO_OVERRIDES);
    assert!(begun.elapsed() < Duration::from_secs(30));
    check(
        &result,
        Outcome::Fail,
        DetailKind::SchedulerDiedUnknownReason,
        &["died", "ms into the scenario"],
    );
    killer.0.lock().unwrap().wait().unwrap();
}

#[test]
fn each_cgroup_operation() {
    let name = |name: &str| name.to_owned();
    let setup = vec![
        CgroupDef::named("a").workers(1).cpuset(CpusetSpec::llc(0)),
        CgroupDef::named("b").workers(1).cpuset(CpusetSpec::llc(1)),
    ];
    let ops = vec![
        Op::add_cgroup(name("c/d")),
        Op::swap_cpusets(name("a"), name("b")),
        Op::clear_cpuset(name("b")),
        Op::set_cpuset(name("c"), CpusetSpec::exact([1])),
        Op::spawn_workers(name("c/d"), WorkSpec::default().workers(1)),
        Op::stop_cgroup(name("c/d")),
        Op::capture_cgroup_procs(name("t"), name("c/d")),
        Op::remove_cgroup(name("c")),
        Op::remove_cgroup(name("never")),
        Op::add_cgroup_def(CgroupDef::named("e").workers(1)),
    ];
    let step = Step::new(ops, SHORT);
    let result = run_in(
        &Ctx::new(plan(), None),
        Backdrop::from_cgroups(setup),
        vec![step],
        // Plain directories do not keep the workers on their CPUs.
        Assert::NO_OVERRIDES,
    );
    assert!(result.is_pass(), "{result:#?}");
    let stats = &result.stats.cgroups;
    let cpus: Vec<_> = stats
        .iter()
        .map(|s| (s.name.as_str(), s.cpuset.clone()))
        .collect();
    let all = Some(vec![0, 1, 2, 3]);
    assert!(
        cpus.contains(&("a", Some(vec![2, 3]))) && cpus.contains(&("b", all)),
        "{cpus:?}"
    );
    assert!(
        cpus.contains(&("c/d", Some(vec![1]))) && cpus.contains(&("e", None)),
        "{cpus:?}"
    );
    assert!(
        result
            .info_notes
            .iter()
            .any(|note| note.starts_with("cgroup.procs [t] c/d"))
    );
}

#[test]
fn moved_workers_are_reported_where_they_went() {
    let defs = vec![
        CgroupDef::named("a").workers(1),
        CgroupDef::named("b").without_workers(),
    ];
    let ops = vec![Op::move_all_tasks("a", "b")];
    let result = run_in(
        &Ctx::new(plan(), None),
        Backdrop::from_cgroups(defs),
        vec![Step::new(ops, SHORT)],
        Assert::NO_OVERRIDES,
    );
    assert_eq!(result.stats.cgroups[0].name, "b", "{result:#?}");
}

#[test]
fn mistakes_have_defined_outcomes() {
    let one = |op: Op| run(vec![Step::new(vec![op], SHORT)]);
    let unknown = one(Op::set_cpuset("x", CpusetSpec::llc(0)));
    check(
        &unknown,
        Outcome::Fail,
        DetailKind::Setup,
        &["step 1: SetCpuset: no cgroup \"x\""],
    );
    let empty = one(Op::add_cgroup_def(
        CgroupDef::named("a").cpuset(CpusetSpec::llc(7)),
    ));
    check(
        &empty,
        Outcome::Fail,
        DetailKind::Setup,
        &["names no CPU of topology 1n2l2c1t"],
    );
    let host = one(Op::capture_snapshot("t"));
    check(
        &host,
        Outcome::Inconclusive,
        DetailKind::NotSupported,
        &["not supported by this run"],
    );
    let later = one(Op::attach_scheduler(&Scheduler::EEVDF));
    check(
        &later,
        Outcome::Inconclusive,
        DetailKind::NotSupported,
        &["AttachScheduler"],
    );
}

/// Every operation that names a cgroup refuses one that is not there, and says which there are; removing it is fine.
#[test]
fn unknown_cgroups_are_named() {
    let x = || "x".to_owned();
    let ops = [
        Op::stop_cgroup(x()),
        Op::clear_cpuset(x()),
        Op::swap_cpusets(x(), "a"),
        Op::spawn_workers(x(), WorkSpec::default().workers(1)),
        Op::set_affinity(x(), crate::model::work::AffinityIntent::OneCpuEach),
        Op::set_policy(x(), crate::model::work::SchedPolicy::Batch),
        Op::move_all_tasks(x(), "a"),
        Op::move_all_tasks("a", x()),
        Op::freeze_cgroup(x()),
        Op::unfreeze_cgroup(x()),
        Op::capture_cgroup_procs("t", x()),
    ];
    for op in ops {
        let name = op.name();
        let made = Op::add_cgroup("a");
        let result = run(vec![Step::new(vec![made, op], SHORT)]);
        check(&result, Outcome::Fail, DetailKind::Setup, &[name, "\"x\""]);
    }
    let removed = Op::remove_cgroup(x());
    assert!(run(vec![Step::new(vec![removed], SHORT)]).is_pass());
}

#[test]
fn removing_a_cgroup_with_workers_stops_and_reports_them() {
    let backdrop = Backdrop::from_cgroups(vec![CgroupDef::named("a/b").workers(2)]);
    let ops = vec![Op::remove_cgroup("a")];
    let steps = vec![Step::new(Vec::new(), SHORT), Step::new(ops, SHORT)];
    let result = run_in(
        &Ctx::new(plan(), None),
        backdrop,
        steps,
        Assert::NO_OVERRIDES,
    );
    assert!(result.is_pass(), "{result:#?}");
    let [gone] = result.stats.cgroups.as_slice() else {
        panic!("{:?}", result.stats)
    };
    assert_eq!((gone.name.as_str(), gone.workers), ("a/b", 2));
    assert!(gone.iterations > 0);
}

#[test]
fn operations_after_the_schedulers_death_are_told_and_left_out() {
    let mut scheduler = Command::new("true").spawn().unwrap();
    let pid = i32::try_from(scheduler.id()).unwrap();
    scheduler.wait().unwrap();
    let ops = vec![Op::add_cgroup("a"), Op::freeze_cgroup("a")];
    let result = run_in(
        &Ctx::new(plan(), Some(pid)),
        Backdrop::new(),
        vec![Step::new(ops, SHORT)],
        Assert::NO_OVERRIDES,
    );
    check(
        &result,
        Outcome::Fail,
        DetailKind::SchedulerDiedUnknownReason,
        &["died"],
    );
    let told = "not carried out, because the scenario had ended: AddCgroup, FreezeCgroup";
    assert!(
        result.info_notes.iter().any(|note| note.contains(told)),
        "{:?}",
        result.info_notes
    );
}

#[test]
fn payloads_run_and_their_ends_are_told() {
    static SH: Payload = Payload::binary("sh", "/bin/sh");
    static NONE: Payload = Payload::binary("program", "/no/such/program");
    let start = |args: &[&str]| Op::run_payload(&SH, args.iter().copied());
    let (wait, kill) = (|| Op::wait_payload("sh"), || Op::kill_payload("sh"));
    let run_ops = |ops: Vec<Op>| run(vec![Step::new(ops, SHORT)]);
    let run_patiently = |ops: Vec<Op>| {
        let steps = vec![Step::new(ops, SHORT)];
        run_in(&patient(), Backdrop::new(), steps, Assert::NO_OVERRIDES)
    };
    let good = run_patiently(vec![start(&["-c", "echo fine"]), wait()]);
    assert!(good.is_pass(), "{good:#?}");
    assert!(good.info_notes.iter().any(|note| note.contains("fine")));
    // Programs of several names look at the one that they were called by.
    static LIST: Payload = Payload::binary("list", "/bin/sh");
    let called = run_patiently(vec![
        Op::run_payload(&LIST, ["-c", "echo called $0"]),
        Op::wait_payload("list"),
    ]);
    let notes = &called.info_notes;
    assert!(
        notes.iter().any(|note| note.contains("called sh")),
        "{notes:?}"
    );
    let bad = run_patiently(vec![start(&["-c", "exit 3"]), wait()]);
    check(
        &bad,
        Outcome::Fail,
        DetailKind::Other,
        &["exited with status 3"],
    );
    let killed = run_ops(vec![start(&["-c", "sleep 1000"]), kill(), kill()]);
    check(
        &killed,
        Outcome::Fail,
        DetailKind::Setup,
        &["no payload", "there are:"],
    );
    let slow = run_ops(vec![start(&["-c", "sleep 1000"]), wait()]);
    check(
        &slow,
        Outcome::Fail,
        DetailKind::Other,
        &["did not end within 1000 ms"],
    );
    let left = Instant::now();
    assert!(run_ops(vec![start(&["-c", "sleep 1000"])]).is_pass());
    assert!(left.elapsed() < Duration::from_secs(30), "left running");
    let none = run_ops(vec![Op::run_payload(&NONE, [""; 0])]);
    check(&none, Outcome::Fail, DetailKind::Setup, &["did not start"]);
}

/// Of two programs of one name, an operation means the one in the cgroup that it names; those of a backdrop and of a cgroup
/// start by themselves.
#[test]
fn payloads_are_told_apart_by_their_cgroups() {
    static TRUE: Payload = Payload::binary("true", "/bin/true");
    static SH: Payload = Payload {
        default_args: &["-c", "exit 7"],
        ..Payload::binary("sh", "/bin/sh")
    };
    let backdrop = Backdrop::new()
        .push_cgroup(CgroupDef::named("a"))
        .push_cgroup(CgroupDef::named("b").workload(&TRUE))
        .push_payload(&TRUE);
    let ops = vec![
        Op::run_payload_in_cgroup(&TRUE, [""; 0], "a"),
        Op::wait_payload_in_cgroup("true", "b"),
        Op::wait_payload_in_cgroup("true", "a"),
        Op::wait_payload("true"),
        Op::kill_payload_in_cgroup("true", "a"),
    ];
    let judged = vec![Op::run_payload(&SH, [""; 0]), Op::wait_payload("sh")];
    let steps = vec![Step::new(ops, SHORT), Step::new(judged, SHORT)];
    let result = run_in(&patient(), backdrop, steps, Assert::NO_OVERRIDES);
    check(
        &result,
        Outcome::Fail,
        DetailKind::Setup,
        &["KillPayload: no payload \"true\""],
    );
    let ends: Vec<_> = result
        .stats
        .payloads
        .iter()
        .map(|run| run.payload.as_str())
        .collect();
    assert_eq!(ends, ["true", "true", "true", "sh"], "{result:#?}");
    let failed = result
        .details
        .iter()
        .filter(|detail| detail.message.contains("status 7"));
    assert_eq!(failed.count(), 1, "{result:#?}");
}

/// A host that answers kernel operations and keeps them.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<KernelBatch>>);

impl Transport for Memory {
    fn event(&self, _: &ScenarioEvent) -> Result<(), TransportError> {
        Ok(())
    }

    fn request(&self, _: &HostRequest, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }

    fn kernel_op(&self, batch: &KernelBatch, _: Duration) -> Result<Vec<Vec<u8>>, TransportError> {
        self.0.lock().unwrap().push(batch.clone());
        Ok(vec![vec![0xab, 0xcd]])
    }
}

#[test]
fn neighbouring_cold_writes_are_one_batch() {
    let host = Arc::new(Memory::default());
    let mut plan = plan();
    plan.answers_requests = true;
    let ctx = Ctx::new(plan, None).with_transport(host.clone());
    let target = || KernelTarget::symbol("scx_watchdog_timeout");
    let write = || Op::write_kernel_cold(target(), KernelValue::bytes([1]));
    let read = Op::read_kernel_hot("t", target(), KernelValueWidth::u64());
    let ops = vec![write(), write(), read, write()];
    let result = run_in(
        &ctx,
        Backdrop::new(),
        vec![Step::new(ops, SHORT)],
        Assert::NO_OVERRIDES,
    );
    assert!(result.is_pass(), "{result:#?}");
    let batches = host.0.lock().unwrap();
    let sizes: Vec<_> = batches
        .iter()
        .map(|batch| match &batch.entries {
            KernelEntries::Read(reads) => (batch.cold, reads.len()),
            KernelEntries::Write(writes) => (batch.cold, writes.len()),
        })
        .collect();
    assert_eq!(sizes, [(true, 2), (false, 1), (true, 1)]);
    let noted = result.info_notes.iter().any(|note| note.ends_with("ab cd"));
    assert!(noted, "{:?}", result.info_notes);
}

#[test]
fn backdrop_workers_are_not_stranded() {
    let backdrop = Backdrop::from_cgroups(vec![CgroupDef::named("a").workers(1)]);
    let ops = vec![Op::add_cgroup("short"), Op::move_all_tasks("a", "short")];
    let result = run_in(
        &Ctx::new(plan(), None),
        backdrop,
        vec![Step::new(ops, SHORT)],
        Assert::NO_OVERRIDES,
    );
    check(
        &result,
        Outcome::Fail,
        DetailKind::Setup,
        &["would strand them"],
    );
}

#[test]
fn a_loop_repeats_its_operations() {
    let recorder = Arc::new(Recorder::default());
    let ctx = Ctx::new(plan(), None).with_transport(recorder);
    let ops = vec![Op::add_cgroup("a"), Op::capture_cgroup_procs("round", "a")];
    let interval = Duration::from_millis(20);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::write(dir.path().join("a/cgroup.procs"), "").unwrap();
    let cgroups = CgroupManager::plain(dir.path());
    let steps = [Step::new(ops, HoldSpec::Loop { interval })];
    let result = Engine::new(&ctx, cgroups).run(&Backdrop::new(), &steps, &Assert::NO_OVERRIDES);
    let rounds = result
        .info_notes
        .iter()
        .filter(|note| note.contains("[round]"))
        .count();
    assert!(rounds >= 2, "{rounds} rounds: {result:#?}");
}

#[test]
fn time_in_the_freezer_is_no_gap() {
    use crate::guest::worker::{GroupSpec, WorkerGroup};
    let mut group = WorkerGroup::spawn(GroupSpec::new(WorkType::SpinWait, 1)).unwrap();
    group.make_ready(Duration::from_secs(30)).unwrap();
    group.start();
    let pid = rustix::process::Pid::from_raw(group.pids().next().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    group.set_excused(true);
    let mut liveness =
        crate::guest::liveness::Liveness::new(&crate::model::ctx::SchedulerNow::default());
    liveness.wait(&[], crate::guest::sys::monotonic_ns() + 400_000_000);
    let report = group.stop(Duration::from_millis(50)).remove(0);
    assert!(
        report.wall_time_ns >= 400_000_000 && report.longest_gap.wall_ns < 350_000_000,
        "{report:?}"
    );
}

/// Where no host answers requests, the thread's own bridge does: operations are tried without a VM.
#[test]
fn operations_reach_the_threads_bridge_without_a_host() {
    use crate::model::snapshot::SnapshotBridge;
    use ktstr_wire::{KernelOpReply, KernelValue};
    let bridge = SnapshotBridge::new(|tag| match tag {
        "bad" => Err("no kernel here".to_owned()),
        _ => Ok(ktstr_monitor::FailureDumpReport::default()),
    })
    .with_watch_register(|_| Ok(()))
    .with_kernel_op(|request| KernelOpReply {
        id: request.id,
        result: Ok(()),
        values: vec![KernelValue::U32(7)],
    });
    let capture = |tag: &str| Op::capture_snapshot(tag);
    let steps = vec![
        Step::new(vec![capture("one")], SHORT),
        Step::new(
            vec![
                capture("two"),
                Op::watch_snapshot("jiffies"),
                Op::read_kernel_hot(
                    "read",
                    KernelTarget::symbol("jiffies"),
                    KernelValueWidth::u32(),
                ),
                Op::add_cgroup("x"),
                Op::capture_cgroup_procs("procs", "x"),
            ],
            SHORT,
        ),
    ];
    {
        let _guard = bridge.set_thread_local();
        let result = run(steps);
        assert!(result.is_pass(), "{result:#?}");
        let refused = run(vec![Step::new(vec![capture("bad")], SHORT)]);
        let text = format!("{refused:?}");
        assert!(
            !refused.is_pass() && text.contains("no kernel here"),
            "{text}"
        );
    }
    let entries = bridge.drain_ordered_with_stats();
    let steps: Vec<_> = entries
        .iter()
        .map(|e| (e.tag.as_str(), e.step_index))
        .collect();
    assert_eq!(
        steps,
        [("one", Some(1)), ("two", Some(2)), ("bad", Some(1))]
    );
    assert_eq!(bridge.watch_count(), 1);
    assert!(bridge.kernel_op_value("read").is_some());
    assert_eq!(bridge.cgroup_procs_by_tag("procs"), Some(Vec::new()));
    // Without one there is none.
    let alone = run(vec![Step::new(vec![capture("three")], SHORT)]);
    assert!(!alone.is_pass(), "{alone:?}");
}

/// An init whose scheduler attaches, or not.
#[derive(Debug)]
struct Manager(Result<Option<i32>, fn(String) -> TransportError>);

impl Transport for Manager {
    fn event(&self, _: &ScenarioEvent) -> Result<(), TransportError> {
        Ok(())
    }

    fn request(&self, request: &HostRequest, _: Duration) -> Result<(), TransportError> {
        match request {
            HostRequest::PlannedExit => Ok(()),
            _ => Err(TransportError::NotSupported),
        }
    }

    fn scheduler_op(
        &self,
        _: &SchedulerChange,
        _: Duration,
    ) -> Result<Option<i32>, TransportError> {
        self.0.map_err(|fault| fault("so it said".to_owned()))
    }
}

fn managed(manager: Manager, pid: Option<i32>) -> Ctx {
    let plan = TestPlan {
        answers_requests: true,
        ..plan()
    };
    Ctx::new(plan, pid).with_transport(Arc::new(manager))
}

/// A restart that never attached was inconclusive, and the rest of the scenario ran under the kernel's own scheduler.
#[test]
fn a_scheduler_that_does_not_attach_fails_the_test_and_ends_the_scenario() {
    let ctx = managed(Manager(Err(TransportError::SchedulerNotAttached)), None);
    let steps = vec![
        Step::new(vec![Op::RestartScheduler], SHORT),
        Step::with_defs(vec![CgroupDef::named("later").workers(1)], SHORT),
    ];
    let result = run_in(&ctx, Backdrop::new(), steps, Assert::NO_OVERRIDES);
    check(
        &result,
        Outcome::Fail,
        DetailKind::SchedulerDiedUnknownReason,
        &[
            "RestartScheduler",
            "no scheduler is in charge now",
            "so it said",
        ],
    );
    assert!(result.stats.cgroups.is_empty(), "{:?}", result.stats);
    let told = result
        .info_notes
        .iter()
        .any(|note| note.contains("1 of 2 steps"));
    assert!(told, "{:?}", result.info_notes);
}

#[test]
fn a_change_that_init_refuses_is_the_tests_own_fault_and_changes_nothing() {
    let own = i32::try_from(std::process::id()).unwrap();
    let ctx = managed(Manager(Err(TransportError::SchedulerRefused)), Some(own));
    let steps = vec![Step::new(
        vec![Op::attach_scheduler(&Scheduler::EEVDF)],
        SHORT,
    )];
    let result = run_in(&ctx, Backdrop::new(), steps, Assert::NO_OVERRIDES);
    check(
        &result,
        Outcome::Fail,
        DetailKind::Setup,
        &["AttachScheduler: so it said"],
    );
    assert_eq!(ctx.scheduler_pid(), Some(own));
}

/// The second scenario watched the process of the scheduler that the first had taken away.
#[test]
fn a_scenario_after_a_detach_knows_that_none_runs() {
    let mut scheduler = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let ctx = managed(
        Manager(Ok(None)),
        Some(i32::try_from(scheduler.id()).unwrap()),
    );
    let first = vec![Step::new(vec![Op::DetachScheduler], SHORT)];
    assert!(run_in(&ctx, Backdrop::new(), first, Assert::NO_OVERRIDES).is_pass());
    scheduler.kill().unwrap();
    scheduler.wait().unwrap();
    let second = vec![Step::new(Vec::new(), SHORT)];
    let result = run_in(&ctx, Backdrop::new(), second, Assert::NO_OVERRIDES);
    assert!(result.is_pass(), "{result:#?}");
}

/// Numbers of workers that cannot be, and CPUs that a cpuset forbids, are faults of the set-up that say what to write.
#[test]
fn workers_that_cannot_be_are_told() {
    let with = |def: CgroupDef| run(vec![Step::with_defs(vec![def], SHORT)]);
    let pair = WorkType::futex_ping_pong(0);
    for (def, says) in [
        (
            CgroupDef::named("a").workers(0),
            "CgroupDef::without_workers",
        ),
        (
            CgroupDef::named("a").workers(3).work_type(pair),
            "groups of 2",
        ),
        (CgroupDef::named("a").workers_pct(0.0), "above 0"),
        (
            CgroupDef::named("a")
                .cpuset(CpusetSpec::exact([0]))
                .affinity(crate::model::work::AffinityIntent::exact([1])),
            "allows none of them",
        ),
    ] {
        check(&with(def), Outcome::Fail, DetailKind::Setup, &[says]);
    }
    let none = with(CgroupDef::named("a").without_workers());
    assert!(
        none.is_pass() && none.stats.total_workers() == 0,
        "{none:#?}"
    );
}

/// The cgroups of a loop are there before its operations, which run at once and then again.
#[test]
fn a_loop_makes_its_cgroups_first() {
    let again = Op::spawn_workers("a", WorkSpec::default());
    let hold = HoldSpec::loop_at(Duration::from_millis(300));
    let step = Step::with_defs(vec![CgroupDef::named("a")], hold).set_ops(vec![again.clone()]);
    let result = run(vec![step]);
    assert!(result.is_pass(), "{result:#?}");
    assert!(result.stats.total_workers() >= 2, "{:?}", result.stats);
    let other = Step::with_defs(vec![CgroupDef::named("a")], SHORT).set_ops(vec![again]);
    let result = run(vec![other]);
    check(
        &result,
        Outcome::Fail,
        DetailKind::Setup,
        &["no cgroup \"a\""],
    );
}

/// A hold gets what is left of the test, and a step that got almost nothing is noted.
#[test]
fn a_second_whole_step_lasts_no_time() {
    let whole = || Step::with_defs(vec![CgroupDef::named("a")], HoldSpec::FULL);
    let result = run(vec![whole(), whole()]);
    let [first, second] = &result.stats.phases[..] else {
        panic!("{:?}", result.stats.phases)
    };
    assert!(
        first.end_ms >= 1_000 && second.duration_ms() < 500,
        "{first:?} {second:?}"
    );
    let told = result
        .info_notes
        .iter()
        .any(|note| note.contains("step 2 held 0 of 1000 ms"));
    assert!(told, "{:?}", result.info_notes);
    assert_eq!(second.cgroups["a"].num_workers, 1);
}

/// Operations and set-up take as long as the machine needs; they shorten no hold.
#[test]
fn a_slow_set_up_leaves_the_hold_as_it_is() {
    fn slow(ctx: &Ctx) -> Vec<CgroupDef> {
        let until = Instant::now() + ctx.duration() * 2;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        vec![CgroupDef::named("a")]
    }
    let half = || Step::new(Vec::new(), HoldSpec::frac(0.5));
    let slowly = Step {
        setup: Setup::with_factory(slow),
        ..half()
    };
    let steps = vec![slowly, half()];
    let topology = CpuMap::new(1, 2, 2, 1);
    let plan = TestPlan::new("t", topology, Duration::from_millis(200));
    let ctx = Ctx::new(plan, None);
    let result = run_in(&ctx, Backdrop::new(), steps, Assert::NO_OVERRIDES);
    let lengths: Vec<u64> = result
        .stats
        .phases
        .iter()
        .map(|phase| phase.duration_ms())
        .collect();
    assert!(
        lengths.len() == 2 && lengths.iter().all(|ms| *ms >= 100),
        "{lengths:?}"
    );
    // Nor do they lengthen the phase: it begins when they are over, 400 ms after the scenario at the earliest.
    let first = &result.stats.phases[0];
    assert!(first.start_ms >= 400, "{first:?}");
    assert!(result.info_notes.is_empty(), "{:?}", result.info_notes);
}

/// 64 spinners on three emulated CPUs needed longer than any fixed grace that suits one.
#[test]
fn many_workers_have_longer_to_stop() {
    assert!(stop_grace(1) < Duration::from_secs(6));
    assert!(stop_grace(256) > Duration::from_secs(15));
    assert_eq!(stop_grace(400), stop_grace(1_000_000));
}
