//! The coordinator against a simulated VM: every order of events, every failure.

use std::cell::RefCell;
use std::rc::Rc;

use ktstr_monitor::sched::ScxState;
use ktstr_wire::{Opaque, ScenarioEnd, SysReady};
use proptest::prelude::*;

use super::*;

mod failures;
mod figures;
mod until;

/// What the simulated machine was asked, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Prepare,
    PrepareScheduler,
    Capture,
    CaptureDead,
    Watch(String),
    Release,
    HoldAgain,
    Sample,
    Stats,
    KernelOp(u32),
    Reply(u32, bool),
    Until(Result<ktstr_wire::Until, String>),
    Look,
    Told(UntilState),
    RunOnly(Option<u32>),
    Kill,
}

#[derive(Debug, Default)]
struct World {
    calls: Vec<Call>,
    /// A freeze is in force: no other may begin.
    frozen: bool,
    fails: bool,
    dead: bool,
    /// The guest stands still at a watch.
    held: bool,
    watches: u32,
    /// Those in force.
    in_force: u32,
    /// How the scheduler leaves.
    exit_kind: u64,
    /// What captures show of sched_ext.
    scx: Option<ScxState>,
    /// Time that captures take.
    capture_time: Duration,
    stood: Duration,
    /// The scheduler's figures come as messages.
    answers_later: bool,
    /// What the guest waits for holds, cannot be looked at, or can at each change.
    holds: bool,
    lacks: bool,
    is_exact: bool,
    waits_for: u32,
}

#[derive(Debug, Clone, Default)]
struct Simulated(Rc<RefCell<World>>);

impl Simulated {
    fn call(&self, call: Call) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        world.calls.push(call);
        if world.dead {
            Err(String::from("the VM is gone"))
        } else if world.fails {
            Err(String::from("vCPU 1 did not park within 5 s"))
        } else {
            Ok(())
        }
    }

    fn frozen<T>(&self, call: Call, look: impl FnOnce() -> T) -> Result<T, String> {
        assert!(!self.0.borrow().frozen, "two freezes at a time");
        assert!(!self.0.borrow().dead, "a dead guest is asked to freeze");
        self.0.borrow_mut().frozen = true;
        let done = self.call(call);
        self.0.borrow_mut().frozen = false;
        done.map(|()| look())
    }
}

impl Machine for Simulated {
    fn prepare(&mut self) -> Result<Watches, String> {
        self.call(Call::Prepare).map(|()| Watches {
            exit: Some(WatchToken(1)),
            panic: Some(PANIC_TOKEN),
        })
    }
    fn exit_kind(&mut self) -> Option<u64> {
        assert!(
            self.0.borrow().held,
            "an exit is looked at while it is held"
        );
        Some(self.0.borrow().exit_kind)
    }
    fn capture(&mut self) -> Result<FailureDumpReport, String> {
        let time = self.0.borrow().capture_time;
        self.0.borrow_mut().stood += time;
        let scx = self.0.borrow().scx.clone();
        self.frozen(Call::Capture, || FailureDumpReport {
            scx,
            ..FailureDumpReport::default()
        })
    }
    fn capture_dead(&mut self) -> Result<FailureDumpReport, String> {
        self.0.borrow_mut().calls.push(Call::CaptureDead);
        Ok(FailureDumpReport::default())
    }
    fn watch(&mut self, symbol: &str) -> Result<WatchToken, String> {
        self.call(Call::Watch(symbol.to_owned()))?;
        let mut world = self.0.borrow_mut();
        world.watches += 1;
        world.in_force += 1;
        assert!(world.in_force <= 3);
        Ok(WatchToken(1 + world.watches))
    }
    fn unwatch(&mut self, _: WatchToken) {
        self.0.borrow_mut().in_force -= 1;
    }
    fn release(&mut self) {
        self.0.borrow_mut().held = false;
        self.0.borrow_mut().calls.push(Call::Release);
    }
    fn stats(&mut self) -> Option<Stats> {
        let mut world = self.0.borrow_mut();
        assert!(!world.held, "a guest that stands still cannot answer");
        world.calls.push(Call::Stats);
        if world.answers_later {
            None
        } else if world.fails {
            Some(Err(MissingStatsReason::Timeout))
        } else {
            Some(Ok(serde_json::Value::from(7)))
        }
    }
    fn kernel_op(&mut self, request: &KernelOpRequest) -> Result<Vec<KernelValue>, String> {
        self.frozen(Call::KernelOp(request.id), || vec![KernelValue::U32(7)])
    }
    fn prepare_scheduler(&mut self) -> Result<Option<WatchdogOverride>, String> {
        self.call(Call::PrepareScheduler).map(|()| None)
    }
    fn let_watchdog_go(&mut self) {}
    fn hold_watchdog_again(&mut self) {
        self.0.borrow_mut().calls.push(Call::HoldAgain);
    }
    fn watched_fields(&self) -> Vec<WatchedField> {
        Vec::new()
    }
    fn standstill(&self) -> Duration {
        self.0.borrow().stood
    }
    fn sample(&mut self, elapsed_ms: u64) -> Result<MonitorSample, String> {
        self.call(Call::Sample).map(|()| MonitorSample {
            elapsed_ms,
            ..MonitorSample::default()
        })
    }
    fn tick_rate(&mut self) -> Option<u32> {
        Some(1000)
    }
    fn verifier_stats(&mut self) -> Vec<ProgVerifierStats> {
        Vec::new()
    }
    fn longest_standstill(&self) -> Option<Duration> {
        None
    }
    fn kaslr_offset(&mut self) -> Option<u64> {
        Some(0)
    }
    fn reply(&mut self, reply: &Message) {
        let (id, ok) = match reply {
            Message::SnapshotReply(reply) => (reply.id, reply.result.is_ok()),
            Message::KernelOpReply(reply) => (reply.id, reply.result.is_ok()),
            Message::UntilReply(reply) => {
                let call = Call::Until(reply.result.clone());
                return self.0.borrow_mut().calls.push(call);
            }
            other => panic!("{other:?} is no reply"),
        };
        self.0.borrow_mut().calls.push(Call::Reply(id, ok));
    }
    fn kill(&mut self) {
        self.0.borrow_mut().calls.push(Call::Kill);
    }
    fn begin_until(&mut self, _: &[Vec<StateTest>]) -> Result<Vec<WatchToken>, String> {
        let mut world = self.0.borrow_mut();
        if world.lacks {
            return Err(String::from("this kernel has no sched_delayed"));
        }
        let watches = usize::from(world.is_exact);
        world.in_force += u32::from(world.is_exact);
        Ok(vec![UNTIL_TOKEN; watches])
    }
    fn holds(&mut self, _: Instant) -> Result<bool, String> {
        self.0.borrow_mut().calls.push(Call::Look);
        Ok(self.0.borrow().holds)
    }
    fn waits_for(&mut self) -> u32 {
        self.0.borrow().waits_for
    }
    fn tell_waiting(&mut self, state: UntilState) {
        self.0.borrow_mut().calls.push(Call::Told(state));
    }
    fn run_only(&mut self, vcpu: Option<u32>) {
        self.0.borrow_mut().calls.push(Call::RunOnly(vcpu));
    }
}
const UNTIL_TOKEN: WatchToken = WatchToken(2000);

const PANIC_TOKEN: WatchToken = WatchToken(1000);

/// One thing that the outside world does.
#[derive(Debug, Clone)]
enum Step {
    Boot,
    Start,
    Pause,
    Resume,
    Begin(u16),
    End,
    Result,
    Planned,
    Attached,
    Capture(String),
    Watch(String),
    KernelOp,
    ExitHit,
    PanicHit,
    UserHit(u32),
    Wait(u64),
    MachineFails(bool),
    GuestDies { panicked: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tag = prop::sample::select(vec![
        "a",
        "b",
        "periodic_000",
        FAILURE_TAG,
        READY_TAG,
        WATCHED_TAG,
    ]);
    let symbol = prop::sample::select(vec!["w", "x", "y", "z"]);
    let step = prop_oneof![
        2 => Just(Step::Boot),
        2 => Just(Step::Start),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => Just(Step::End),
        1 => Just(Step::Result),
        1 => Just(Step::Planned),
        1 => Just(Step::Attached),
        4 => tag.prop_map(|tag| Step::Capture(tag.to_owned())),
        4 => symbol.prop_map(|symbol| Step::Watch(symbol.to_owned())),
        3 => Just(Step::KernelOp),
        2 => Just(Step::ExitHit),
        1 => Just(Step::PanicHit),
        3 => (0u32..6).prop_map(Step::UserHit),
        4 => (0u64..30_000).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::MachineFails),
        1 => any::<bool>().prop_map(|panicked| Step::GuestDies { panicked }),
    ];
    prop::collection::vec(step, 0..40)
}

struct Run {
    world: Rc<RefCell<World>>,
    coordinator: Coordinator<Simulated>,
    now: Instant,
    deadline: Instant,
    asked: Vec<u32>,
    hits: usize,
}

const LIFE: Duration = Duration::from_secs(60);

impl Run {
    fn new(snapshots: u32) -> Self {
        let machine = Simulated::default();
        let now = Instant::now();
        let orders = Orders {
            started: now,
            deadline: now + LIFE,
            snapshots,
            look_at: None,
            look_gdb: false,
            duration: Duration::from_secs(10),
        };
        Self {
            world: Rc::clone(&machine.0),
            coordinator: Coordinator::new(machine, orders),
            now,
            deadline: now + LIFE,
            asked: Vec::new(),
            hits: 0,
        }
    }

    fn event(&mut self, event: Event) {
        self.coordinator.handle(event, self.now);
        if self.world.borrow().dead {
            return;
        }
        self.coordinator.tick(self.now);
        let wake = self.coordinator.next_wake();
        assert!(
            self.coordinator.timed_out
                || wake.is_some_and(|wake| wake <= self.deadline + MAX_PAUSE),
            "the loop would sleep until {wake:?}, beyond the deadline"
        );
    }

    fn message(&mut self, message: Message) {
        self.event(Event::Message(message));
    }

    fn request(&mut self, kind: SnapshotKind, tag: &str) {
        let id = u32::try_from(self.asked.len()).unwrap();
        self.asked.push(id);
        let tag = tag.to_owned();
        self.message(Message::SnapshotRequest(SnapshotRequest { id, kind, tag }));
    }

    fn kernel_op(&mut self) {
        let id = u32::try_from(self.asked.len()).unwrap();
        self.asked.push(id);
        self.message(Message::KernelOpRequest(KernelOpRequest {
            id,
            mode: ktstr_wire::KernelOpMode::Cold,
            direction: ktstr_wire::KernelOpDirection::Read,
            tag: "op".into(),
            entries: Vec::new(),
        }));
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.coordinator.next_wake().filter(|wake| *wake <= until) {
            self.now = wake.max(self.now);
            let before = (self.world.borrow().calls.len(), self.world.borrow().stood);
            self.coordinator.tick(self.now);
            let after = (self.world.borrow().calls.len(), self.world.borrow().stood);
            assert!(after.0 > before.0, "a wake-up with nothing to do");
            // The time of a capture passes for the host.
            self.now += after.1 - before.1;
        }
        self.now = until.max(self.now);
    }

    /// Does one step; false for what a guest that has ended cannot do any more.
    fn step(&mut self, step: Step) -> bool {
        let asks = matches!(
            step,
            Step::Capture(_) | Step::Watch(_) | Step::KernelOp | Step::Planned
        );
        // Frames that were on their way are read after the end; time, hits and the end itself are over.
        if self.world.borrow().dead && !asks {
            return false;
        }
        match step {
            Step::Boot => self.message(Message::SysReady(SysReady {
                kernel_release: "6.12".into(),
                page_size: 4096,
                text_addr: None,
            })),
            Step::Start => self.message(Message::ScenarioStart),
            Step::Pause => self.message(Message::ScenarioPause),
            Step::Resume => self.message(Message::ScenarioResume),
            Step::End => self.message(Message::ScenarioEnd(ScenarioEnd {
                elapsed_ms: 1,
                total_iterations: 1,
            })),
            Step::Begin(index) => self.message(Message::StepBegin(index)),
            Step::Planned => self.request(SnapshotKind::PlannedExit, ""),
            Step::Attached => self.message(Message::Lifecycle(ktstr_wire::Lifecycle {
                stage: Stage::SchedulerAttached,
                detail: String::new(),
            })),
            Step::Result => self.message(Message::TestResult(Opaque { body: Vec::new() })),
            Step::Capture(tag) => self.request(SnapshotKind::Capture, &tag),
            Step::Watch(symbol) => self.request(SnapshotKind::Watch, &symbol),
            Step::KernelOp => self.kernel_op(),
            Step::ExitHit => {
                self.hits += 1;
                self.world.borrow_mut().held = true;
                self.event(Event::Hit(WatchToken(1)));
            }
            Step::PanicHit => {
                self.hits += 1;
                self.world.borrow_mut().held = true;
                self.event(Event::Hit(PANIC_TOKEN));
            }
            Step::UserHit(number) => {
                self.hits += 1;
                self.world.borrow_mut().held = true;
                self.event(Event::Hit(WatchToken(2 + number)));
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
            Step::MachineFails(fails) => self.world.borrow_mut().fails = fails,
            Step::GuestDies { panicked } => {
                self.world.borrow_mut().dead = true;
                self.event(Event::Ended { panicked });
            }
        }
        true
    }

    fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.world
            .borrow()
            .calls
            .iter()
            .filter(|call| wanted(call))
            .count()
    }

    /// What must hold after any history.
    fn check(&self) {
        let mut replied: Vec<u32> = Vec::new();
        for call in &self.world.borrow().calls {
            if let Call::Reply(id, _) = call {
                replied.push(*id);
            }
        }
        assert_eq!(
            replied, self.asked,
            "each request is answered once, in order"
        );
        assert_eq!(
            self.count(|call| *call == Call::Release),
            self.hits,
            "each hit is released once"
        );
        assert!(self.count(|call| *call == Call::Prepare) <= 1);
        let late = self.now >= self.deadline + MAX_PAUSE && !self.world.borrow().dead;
        if late {
            assert_eq!(
                self.count(|call| *call == Call::Kill),
                1,
                "a guest past its deadline is killed once"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_history_keeps_the_rules(steps in steps(), snapshots in 0u32..8) {
        let mut run = Run::new(snapshots);
        for step in steps {
            run.step(step);
        }
        run.check();
        let fired = run.coordinator.periodic.tally().fired;
        prop_assert!(fired <= run.coordinator.periodic.tally().target);
        let outcome = run.coordinator.finish();
        prop_assert!(outcome.bridge.periodic_real_count() <= usize::try_from(fired).unwrap() + 1);
    }
}

/// All orders of a small life: boot, request, hit, death; each with a machine that works and one that fails.
#[test]
fn every_order_of_a_small_life_keeps_the_rules() {
    let all = [
        Step::Boot,
        Step::Capture("a".into()),
        Step::Watch("w".into()),
        Step::KernelOp,
        Step::ExitHit,
        Step::Wait(61_000),
        Step::GuestDies { panicked: true },
    ];
    let mut orders = 0;
    permutations(&mut all.clone(), 0, &mut |steps| {
        for fails in [false, true] {
            let mut run = Run::new(2);
            run.world.borrow_mut().fails = fails;
            for step in steps {
                run.step(step.clone());
            }
            run.check();
            orders += 1;
        }
    });
    assert_eq!(orders, 5040 * 2);
}

/// Every life of up to four events, each of which may come any number of times, and each life's end: the guest dies, with
/// one request still on its way, or uses up its time.
#[test]
fn every_short_life_keeps_the_rules() {
    let all = [
        Step::Boot,
        Step::Start,
        Step::Pause,
        Step::Resume,
        Step::End,
        Step::Result,
        Step::Capture("a".into()),
        Step::Capture(FAILURE_TAG.into()),
        Step::Watch("w".into()),
        Step::KernelOp,
        Step::ExitHit,
        Step::UserHit(0),
        Step::Wait(3_000),
        Step::MachineFails(true),
    ];
    let ends = [
        vec![
            Step::GuestDies { panicked: true },
            Step::Capture("late".into()),
        ],
        vec![Step::GuestDies { panicked: false }, Step::KernelOp],
        vec![Step::Wait(61_000), Step::GuestDies { panicked: false }],
    ];
    let mut lives = 0;
    for length in 0..=4 {
        for number in 0..all.len().pow(length) {
            let digits = (0..length).map(|place| number / all.len().pow(place) % all.len());
            let life: Vec<Step> = digits.map(|digit| all[digit].clone()).collect();
            for end in &ends {
                let mut run = Run::new(2);
                for step in life.iter().chain(end) {
                    run.step(step.clone());
                }
                run.check();
                lives += 1;
            }
        }
    }
    assert_eq!(
        lives,
        3 * (1 + 14 + 14 * 14 + 14 * 14 * 14 + 14 * 14 * 14 * 14)
    );
}

#[test]
fn a_request_that_outlives_its_guest_leaves_its_reason() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::GuestDies { panicked: false });
    run.step(Step::Capture("late".into()));
    let entries = run.coordinator.bridge.drain_ordered_with_stats();
    let reason = entries[0].report.reason.as_deref();
    assert_eq!(reason, Some("the guest has ended"));
    assert_eq!(entries[0].stats, Err(MissingStatsReason::GuestGone));
    assert_eq!(run.count(|call| matches!(call, Call::Reply(_, false))), 1);
}

/// Init starts a scheduler when this request is answered: yes only once a watch stands, no at once where none can.
#[test]
fn the_watch_is_confirmed_only_when_it_stands() {
    let answers = |steps: &[Step]| -> Vec<Call> {
        let mut run = Run::new(0);
        for step in steps {
            run.step(step.clone());
        }
        assert_eq!(run.count(|call| *call == Call::Capture), 0);
        let calls = &run.world.borrow().calls;
        let told = |call: &&Call| matches!(call, Call::Prepare | Call::Reply(..));
        calls.iter().filter(told).cloned().collect()
    };
    let ask = Step::Capture(WATCHED_TAG.into());
    let fails = Step::MachineFails(true);
    assert_eq!(
        answers(&[Step::Boot, ask.clone()]),
        [Call::Prepare, Call::Reply(0, true)]
    );
    assert_eq!(
        answers(&[fails, Step::Boot, ask.clone()]),
        [Call::Prepare, Call::Reply(0, false)]
    );
    assert_eq!(answers(std::slice::from_ref(&ask)), [Call::Reply(0, false)]);
    let dies = Step::GuestDies { panicked: false };
    assert_eq!(
        answers(&[Step::Boot, dies, ask]),
        [Call::Prepare, Call::Reply(0, false)]
    );
}

fn permutations(steps: &mut [Step], from: usize, visit: &mut impl FnMut(&[Step])) {
    if from == steps.len() {
        visit(steps);
        return;
    }
    for at in from..steps.len() {
        steps.swap(from, at);
        permutations(steps, from + 1, visit);
        steps.swap(from, at);
    }
}

#[test]
fn captures_carry_the_step_and_the_scenario_that_asked() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Capture("before".into()));
    for scenario in ["a", "b"] {
        run.step(Step::Start);
        run.step(Step::Capture(format!("{scenario}0")));
        for step in 1..=2 {
            run.step(Step::Begin(step));
            run.step(Step::Wait(1_000));
            run.step(Step::Capture(format!("{scenario}{step}")));
        }
        run.step(Step::End);
        run.step(Step::Wait(5_000));
    }
    let entries = run.coordinator.bridge.drain_ordered_with_stats();
    let stamps: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry.tag.as_str(),
                entry.scenario,
                entry.step_index,
                entry.elapsed_ms,
            )
        })
        .collect();
    assert_eq!(
        stamps,
        [
            ("before", None, None, None),
            ("a0", Some(1), Some(0), Some(0)),
            ("a1", Some(1), Some(1), Some(1_000)),
            ("a2", Some(1), Some(2), Some(2_000)),
            ("b0", Some(2), Some(0), Some(7_000)),
            ("b1", Some(2), Some(1), Some(8_000)),
            ("b2", Some(2), Some(2), Some(9_000)),
        ]
    );
}

#[test]
fn each_scenario_has_three_watches_of_its_own() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    for _ in 0..2 {
        run.step(Step::Start);
        for symbol in ["w", "x", "y"] {
            run.step(Step::Watch(symbol.into()));
        }
        run.step(Step::End);
    }
    assert_eq!(run.count(|call| matches!(call, Call::Reply(_, true))), 6);
    assert_eq!(run.world.borrow().in_force, 3);
}

/// The guest's clock stands in a capture: neither the deadline nor the scenario's pace counts it.
#[test]
fn standstills_move_the_deadline_and_the_captures() {
    let mut run = Run::new(9);
    run.world.borrow_mut().capture_time = Duration::from_secs(2);
    run.step(Step::Boot);
    run.step(Step::Start);
    run.step(Step::Wait(27_500));
    let tally = run.coordinator.periodic.tally();
    assert_eq!((tally.fired, tally.missed), (9, 0));
    run.step(Step::Wait(61_000 - 27_500));
    assert!(!run.coordinator.timed_out, "18 s of it stood still");
    run.step(Step::Wait(18_000));
    assert!(run.coordinator.timed_out);
}

#[test]
fn pauses_move_the_deadline_up_to_a_bound() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Start);
    run.step(Step::Pause);
    let seen = run.coordinator.sampling.kept();
    run.step(Step::Wait(10_000));
    assert_eq!(
        run.coordinator.sampling.kept(),
        seen,
        "a pause is not judged"
    );
    run.step(Step::Resume);
    run.step(Step::Wait(55_000));
    assert!(!run.coordinator.timed_out);
    run.step(Step::Wait(6_000));
    assert!(run.coordinator.timed_out);
    let mut run = Run::new(0);
    run.step(Step::Pause);
    run.step(Step::Wait(119_000));
    assert!(!run.coordinator.timed_out);
    run.step(Step::Wait(2_000));
    assert!(run.coordinator.timed_out);
}

#[test]
fn a_dead_guest_still_shows_its_panic() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::GuestDies { panicked: true });
    let failure = run.coordinator.finish().failure.unwrap();
    assert!(!failure.report.is_placeholder);
    assert_eq!(failure.trigger, "the guest's kernel panic");
}

/// A panic is captured where it begins, with the CPUs' registers; the dead guest only where that failed.
#[test]
fn a_panic_is_captured_while_the_guest_lives() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::PanicHit);
    run.step(Step::GuestDies { panicked: true });
    assert_eq!(run.count(|call| *call == Call::Capture), 1);
    assert_eq!(run.count(|call| *call == Call::CaptureDead), 0);
    assert_eq!(run.coordinator.failure.as_ref().unwrap().trigger, PANIC);
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::MachineFails(true));
    run.step(Step::PanicHit);
    run.step(Step::GuestDies { panicked: true });
    assert_eq!(run.count(|call| *call == Call::CaptureDead), 1);
    assert!(
        !run.coordinator
            .failure
            .as_ref()
            .unwrap()
            .report
            .is_placeholder
    );
}

#[test]
fn a_fourth_watch_and_a_second_of_the_same_are_refused_with_the_reason() {
    let mut run = Run::new(0);
    for symbol in ["w", "x", "w", "y", "z"] {
        run.step(Step::Watch(symbol.into()));
    }
    let answers: Vec<bool> = run
        .world
        .borrow()
        .calls
        .iter()
        .filter_map(|call| match call {
            Call::Reply(_, ok) => Some(*ok),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [true, true, false, true, false]);
}

#[test]
fn each_write_is_a_capture_of_its_own() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Watch("w".into()));
    for _ in 0..3 {
        run.step(Step::UserHit(0));
    }
    let tags: Vec<String> = run
        .coordinator
        .bridge
        .drain_ordered()
        .into_iter()
        .map(|(tag, _)| tag)
        .collect();
    assert_eq!(tags, ["w#1", "w#2", "w#3"]);
}

#[test]
fn a_failed_deadline_capture_still_kills_and_says_why() {
    let mut run = Run::new(0);
    run.step(Step::MachineFails(true));
    run.step(Step::Wait(61_000));
    assert_eq!(run.count(|call| *call == Call::Kill), 1);
    let outcome = run.coordinator.finish();
    let report = outcome.failure.unwrap().report;
    assert!(outcome.timed_out && report.is_placeholder);
    assert!(report.reason.as_ref().unwrap().contains("vCPU 1"));
}

/// A test may run several scenarios, and each is looked at alike; the scheduler's watchdog, which was let go at the first one's
/// end, is held again.
#[test]
fn a_second_scenario_is_sampled_and_captured_like_the_first() {
    let mut run = Run::new(2);
    run.step(Step::Boot);
    let samples = |run: &Run| run.count(|call| *call == Call::Sample);
    let captures = |run: &Run| run.count(|call| *call == Call::Capture);
    let mut seen = (samples(&run), captures(&run));
    for scenario in 1..=2 {
        run.step(Step::Start);
        run.step(Step::Wait(10_000));
        run.step(Step::End);
        let now = (samples(&run), captures(&run));
        assert!(
            now.0 > seen.0 + 50,
            "scenario {scenario}: {seen:?}, then {now:?}"
        );
        assert_eq!(now.1, seen.1 + 2, "scenario {scenario}");
        let held_again = run.count(|call| *call == Call::HoldAgain);
        assert_eq!(held_again, scenario - 1, "scenario {scenario}");
        seen = now;
    }
}

#[test]
fn a_capture_that_cannot_be_made_leaves_the_one_that_could() {
    let mut run = Run::new(0);
    run.step(Step::Boot);
    run.step(Step::Capture("x".into()));
    run.step(Step::MachineFails(true));
    run.step(Step::Capture("x".into()));
    let entries = run.coordinator.bridge.drain_ordered_with_stats();
    assert_eq!(entries.len(), 1);
    assert!(!entries[0].report.is_placeholder);
}
