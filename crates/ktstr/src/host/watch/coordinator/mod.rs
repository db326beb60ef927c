//! The one place that watches a running guest: frames, watch hits, timers and the guest's end come here as events, one at
//! a time, and each is done with before the next is looked at.
//!
//! ```text
//!   frame thread --Message--+                      +--> bridge (captures by name)
//!   hit thread ----Hit------+--> Coordinator ------+--> failure (the capture that a failed test shows)
//!   exit thread ---Ended----+    (one thread)      +--> replies to the guest
//!   next_wake() ---tick-----+         |
//!                                     +--> Machine: freeze, read, watch, reply; each with a deadline of its own
//! ```
//!
//! Rules: one freeze at a time, because one thread asks for them; every request gets one reply, with data or a reason, because
//! it is answered before the next event; nothing waits without a deadline, because only `Machine` waits and it has one.

mod driver;
mod events;
mod failure;
mod figures;
mod gdb;
mod kernel_op;
mod live;
mod pauses;
mod periodic;
mod replies;
mod sampling;
#[cfg(test)]
mod simulation;
mod state;
mod until;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ktstr_init::{ENDED_TAG, WATCHED_TAG};
use ktstr_monitor::FailureDumpReport;
use ktstr_monitor::bpf::ProgVerifierStats;
use ktstr_monitor::invariants::Violation;
use ktstr_monitor::sampler::{MonitorReport, MonitorSample, WatchedField};
use ktstr_monitor::sched::{ScxExit, WatchdogOverride};
use ktstr_wire::{
    KernelOpReply, KernelOpRequest, KernelValue, MAX_TEXT, Message, SnapshotKind, SnapshotReply,
    SnapshotRequest, Stage, StateTest, gate::UntilState,
};

pub(in crate::host) use driver::{follow, follow_at_gate};
pub(in crate::host) use failure::Failure;
use failure::{Worth, is_in_charge};
use figures::{Figures, Shot};
pub(in crate::host) use live::{GuestView, Preparation};
use pauses::Pauses;
use periodic::Periodic;
pub(in crate::host) use periodic::PeriodicTally;
use sampling::Sampling;
use until::{DoneAhead, Waiting};

use crate::model::snapshot::{AccessorState, MissingStatsReason, SnapshotBridge, SnapshotEntry};
use crate::model::transport::{FAILURE_TAG, READY_TAG};

/// The scheduler's own figures, or why there are none.
type Stats = Result<serde_json::Value, MissingStatsReason>;

/// Time-outs of the stats server in a row after which it is not asked any more, until another scheduler is attached.
const STATS_GIVE_UP_AFTER: u32 = 3;

/// Longest time in all by which a guest's pauses move its deadline.
pub(in crate::host) const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What made the capture of a panic.
const PANIC: &str = "the guest's kernel panic";

/// Names a watch between machine and coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::host) struct WatchToken(pub(in crate::host) u32);

/// What is watched from the guest's first word on.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::host) struct Watches {
    /// The scheduler's exit; none on a kernel without sched_ext.
    pub(in crate::host) exit: Option<WatchToken>,
    /// The kernel's panic; none where the watches are too few for it.
    pub(in crate::host) panic: Option<WatchToken>,
}

/// What a coordinator does with a VM. Every call ends within a deadline of its own; a reason is one line.
pub(in crate::host) trait Machine {
    /// Finds the kernel in memory and watches for the scheduler's exit and the kernel's panic.
    fn prepare(&mut self) -> Result<Watches, String>;
    /// How the scheduler leaves (`enum scx_exit_kind`), while the guest is held at its exit.
    fn exit_kind(&mut self) -> Option<u64>;
    /// Freezes the guest, reads its state, lets it go on as before.
    fn capture(&mut self) -> Result<FailureDumpReport, String>;
    /// The same for a failure: where `shown` says that this is the state to show, whatever else is kept of one is kept at
    /// the same moment.
    fn capture_failure(
        &mut self,
        shown: &dyn Fn(&FailureDumpReport) -> bool,
    ) -> Result<FailureDumpReport, String> {
        let _ = shown;
        self.capture()
    }
    /// The same of a guest that has ended.
    fn capture_dead(&mut self) -> Result<FailureDumpReport, String>;
    /// Holds the guest at each write to a symbol.
    fn watch(&mut self, symbol: &str) -> Result<WatchToken, String>;
    /// Ends that.
    fn unwatch(&mut self, token: WatchToken);
    /// Ends the standstill at a hit.
    fn release(&mut self);
    /// The scheduler's own figures; `None` where they were asked for and come as messages. Not while a watch holds the guest.
    fn stats(&mut self) -> Option<Stats>;
    /// Reads or writes kernel memory.
    fn kernel_op(&mut self, request: &KernelOpRequest) -> Result<Vec<KernelValue>, String>;
    /// Does to the scheduler what the test wants before it begins.
    fn prepare_scheduler(&mut self) -> Result<Option<WatchdogOverride>, String>;
    /// The scheduler's watchdog is its own again.
    fn let_watchdog_go(&mut self);
    /// Another scenario begins: the watchdog is held again, if it was before.
    fn hold_watchdog_again(&mut self);
    /// Looks at the runqueues, without a freeze; `elapsed_ms` is since the start of the VM.
    fn sample(&mut self, elapsed_ms: u64) -> Result<MonitorSample, String>;
    /// The guest's ticks per second.
    fn tick_rate(&mut self) -> Option<u32>;
    /// What the programs of the scheduler cost the verifier.
    fn verifier_stats(&mut self) -> Vec<ProgVerifierStats>;
    /// No more events of the scheduler's come.
    fn finish_events(&mut self) {}
    /// Looks at the kernel's own books, where the guest stands still anyway and that costs it no time.
    fn look_at_books(&mut self) {}
    /// What was found in them at all stops; none where the rules are off.
    fn books(&mut self) -> Option<BooksSeen> {
        None
    }
    /// Prepares to look at a condition: the watches at which to look, none where it is to be looked at now and then.
    fn begin_until(&mut self, any: &[Vec<StateTest>]) -> Result<Vec<WatchToken>, String> {
        let _ = any;
        Err(String::from(
            "a machine like this cannot look at conditions",
        ))
    }
    /// Whether the condition holds; `now` says how old what is known of names is.
    fn holds(&mut self, now: Instant) -> Result<bool, String> {
        let _ = now;
        Ok(false)
    }
    /// Forgets it.
    fn end_until(&mut self) {}
    /// The number of the request that the guest waits for, as it says.
    fn waits_for(&mut self) -> u32 {
        0
    }
    /// Says what became of it.
    fn tell_waiting(&mut self, state: UntilState) {
        let _ = state;
    }
    /// From now on no other vCPU than this one goes on; all do again with `None`.
    fn run_only(&mut self, vcpu: Option<u32>) {
        let _ = vcpu;
    }
    /// Names of the map members that [`sample`](Self::sample) reads.
    fn watched_fields(&self) -> Vec<WatchedField>;
    /// How long the guest stood still so far, in all.
    fn standstill(&self) -> Duration;
    /// The longest freeze so far, from its request to the guest's going on.
    fn longest_standstill(&self) -> Option<Duration>;
    /// How far the kernel moved itself.
    fn kaslr_offset(&mut self) -> Option<u64>;
    /// Answers the guest, if it still lives.
    fn reply(&mut self, reply: &Message);
    /// Ends the guest.
    fn kill(&mut self);
}

/// Events of the coordinator.
#[derive(Debug)]
pub(in crate::host) enum Event {
    /// A frame that concerns the coordinator.
    Message(Message),
    /// The guest stands still at a watch.
    Hit(WatchToken),
    /// The guest says that it acts on what it waited for, or has acted.
    Mark,
    /// The guest has ended; `panicked` when its kernel did.
    Ended {
        /// Its kernel panicked.
        panicked: bool,
    },
}

/// What the kernel's own books were like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::host) struct BooksSeen {
    pub(in crate::host) violations: Vec<Violation>,
    /// Stops at which they were looked at.
    pub(in crate::host) stops: u64,
    /// Runqueues that were judged at them, and those that were not.
    pub(in crate::host) judged: u64,
    pub(in crate::host) unjudged: u64,
}

/// What a run leaves behind.
#[derive(Debug)]
pub(in crate::host) struct Outcome {
    pub(in crate::host) bridge: SnapshotBridge,
    pub(in crate::host) failure: Option<Failure>,
    pub(in crate::host) timed_out: bool,
    /// It ended for a look.
    pub(in crate::host) looked: bool,
    pub(in crate::host) periodic: PeriodicTally,
    /// Scenarios that began.
    pub(in crate::host) scenarios: u16,
    /// Why kernel memory could not be read, if so.
    pub(in crate::host) blind: Option<String>,
    /// Runqueues until the scenario's end.
    pub(in crate::host) monitor: Option<MonitorReport>,
    pub(in crate::host) verifier_stats: Vec<ProgVerifierStats>,
    pub(in crate::host) kaslr_offset: u64,
    pub(in crate::host) watchdog: Option<WatchdogOverride>,
    pub(in crate::host) longest_standstill: Option<Duration>,
    pub(in crate::host) books: Option<BooksSeen>,
}

/// Settings of the coordinator.
#[derive(Debug, Clone, Copy)]
pub(in crate::host) struct Orders {
    /// When the VM was started.
    pub(in crate::host) started: Instant,
    /// When the guest has had its time.
    pub(in crate::host) deadline: Instant,
    /// Periodic captures.
    pub(in crate::host) snapshots: u32,
    /// The scenario's length.
    pub(in crate::host) duration: Duration,
    /// When the run ends for a look, since the start; virtual time only.
    pub(in crate::host) look_at: Option<Duration>,
    /// The guest is offered to gdb there, and lives on.
    pub(in crate::host) look_gdb: bool,
}

#[derive(Debug)]
enum Use {
    Exit,
    Panic,
    /// A place at which to look at the condition that the guest waits for.
    Until,
    User {
        symbol: String,
        hits: u32,
    },
}

/// The coordinator's state between two events.
#[derive(Debug)]
pub(in crate::host) struct Coordinator<M> {
    machine: M,
    bridge: SnapshotBridge,
    watches: HashMap<WatchToken, Use>,
    failure: Option<Failure>,
    periodic: Periodic,
    deadline: Instant,
    pauses: Pauses,
    /// What is known of the guest's standstills.
    stood: Duration,
    timed_out: bool,
    /// When the guest is looked at and ended.
    look_at: Option<Instant>,
    look_gdb: bool,
    looked: bool,
    ended: bool,
    /// When the first scenario began.
    scenario: Option<Instant>,
    /// Scenarios begun.
    scenarios: u16,
    step: u16,
    /// The test wants the scheduler to leave, until another one has attached.
    leaving: bool,
    /// The test has said how it ended: what follows is the guest taking itself down.
    finished: bool,
    prepared: bool,
    blind: Option<String>,
    sampling: Sampling,
    /// Ticks per second; 0 while unknown.
    hz: u32,
    started: Instant,
    verifier_stats: Vec<ProgVerifierStats>,
    kaslr_offset: u64,
    watchdog: Option<WatchdogOverride>,
    /// Time-outs of the stats server in a row.
    stats_timeouts: u32,
    figures: Figures,
    /// The state that the guest waits for.
    waiting: Option<Waiting>,
    /// What was done for the guest before it asks for it.
    done_ahead: VecDeque<DoneAhead>,
}

impl<M: Machine> Coordinator<M> {
    pub(in crate::host) fn new(machine: M, orders: Orders) -> Self {
        Self {
            machine,
            bridge: SnapshotBridge::default(),
            watches: HashMap::new(),
            failure: None,
            periodic: Periodic::new(orders.snapshots, orders.duration),
            deadline: orders.deadline,
            pauses: Pauses::default(),
            stood: Duration::ZERO,
            timed_out: false,
            look_at: orders.look_at.map(|at| orders.started + at),
            look_gdb: orders.look_gdb,
            looked: false,
            ended: false,
            scenario: None,
            scenarios: 0,
            step: 0,
            leaving: false,
            finished: false,
            prepared: false,
            blind: None,
            sampling: Sampling::default(),
            hz: 0,
            started: orders.started,
            verifier_stats: Vec::new(),
            kaslr_offset: 0,
            watchdog: None,
            stats_timeouts: 0,
            figures: Figures::default(),
            waiting: None,
            done_ahead: VecDeque::new(),
        }
    }

    /// When [`tick`](Self::tick) is due, at the latest; `None` when only the guest's end is waited for, which the engine's
    /// own deadline bounds.
    pub(in crate::host) fn next_wake(&self) -> Option<Instant> {
        let deadline = (!self.timed_out && !self.ended)
            .then(|| self.deadline + self.stood + self.pauses.longest());
        let look = self.look_at.filter(|_| !self.ended);
        let (periodic, sampling) = (self.periodic.due(), self.sampling.due());
        let waiting = self.waiting.as_ref().and_then(Waiting::due);
        let all = [
            periodic,
            sampling,
            self.figures.due(),
            look,
            deadline,
            waiting,
        ];
        all.into_iter().flatten().min()
    }

    /// One event.
    pub(in crate::host) fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Message(message) => self.message(&message, now),
            Event::Hit(token) => self.hit(token, now),
            Event::Mark => self.mark(now),
            Event::Ended { panicked } => self.end(panicked),
        }
        self.keep_complete(now);
        self.note_standstill();
    }

    /// The guest's clock stood while the guest did: what is due by that clock comes later.
    fn note_standstill(&mut self) {
        let stood = self.machine.standstill();
        let more = stood.saturating_sub(std::mem::replace(&mut self.stood, stood));
        self.periodic.shift(more);
    }

    /// What is due.
    pub(in crate::host) fn tick(&mut self, now: Instant) {
        if !self.ended && self.look_at.is_some_and(|at| now >= at) {
            self.look(now);
            return;
        }
        let deadline = self.deadline + self.stood + self.pauses.until(now);
        if now >= deadline && !self.timed_out && !self.ended {
            self.timed_out = true;
            self.periodic.stop();
            self.sampling.stop();
            self.keep_failure("the VM's deadline", false);
            self.machine.kill();
        }
        self.look_now_and_then(now);
        if self.sampling.fire(now) {
            let elapsed_ms = millis(now.saturating_duration_since(self.started));
            let sample = self.machine.sample(u64::try_from(elapsed_ms).unwrap_or(0));
            self.sampling.take(sample, self.pauses.is_paused(), now);
            self.machine.look_at_books();
            if self.sampling.due().is_none() {
                self.stop_sampling();
            }
        }
        if let Some(shot) = self.periodic.fire(now) {
            let stats = self.stats();
            let captured = self.capture();
            self.periodic.note(captured.is_ok());
            let offset = now.saturating_duration_since(shot.due);
            let side = SnapshotEntry {
                boundary_offset_ms: Some(millis(offset)),
                ..self.side(shot.tag, now)
            };
            self.store((captured, stats), side, None, now);
        }
        self.keep_complete(now);
        self.note_standstill();
    }

    /// This state is what the run was for, whatever was captured before.
    fn look(&mut self, now: Instant) {
        self.look_at = None;
        self.looked = true;
        self.failure = None;
        let at = now.saturating_duration_since(self.started);
        self.keep_failure(&format!("{:.6} s of virtual time", at.as_secs_f64()), false);
        self.periodic.stop();
        self.sampling.stop();
        if !self.look_gdb {
            self.machine.kill();
        }
    }

    /// The guest stands where it was looked at, and gdb is to see it.
    fn takes_gdb(&mut self) -> bool {
        self.looked && std::mem::take(&mut self.look_gdb)
    }

    /// The host does not look in from now on, so the watchdog is no longer kept from finding itself late.
    fn stop_sampling(&mut self) {
        self.sampling.stop();
        self.machine.let_watchdog_go();
    }

    /// What is left behind.
    pub(in crate::host) fn finish(mut self) -> Outcome {
        let books = self.machine.books();
        self.machine.finish_events();
        Outcome {
            books,
            bridge: self.bridge,
            failure: self.failure,
            timed_out: self.timed_out,
            looked: self.looked,
            periodic: self.periodic.tally(),
            scenarios: self.scenarios,
            blind: self.blind,
            monitor: self.sampling.report(self.hz, self.machine.watched_fields()),
            verifier_stats: self.verifier_stats,
            kaslr_offset: self.kaslr_offset,
            watchdog: self.watchdog,
            longest_standstill: self.machine.longest_standstill(),
        }
    }

    fn message(&mut self, message: &Message, now: Instant) {
        match message {
            Message::SysReady(_) => self.prepare(now),
            Message::ScenarioStart => self.begin_scenario(now),
            Message::ScenarioPause => {
                self.pauses.pause(now);
                self.periodic.pause(now);
            }
            Message::ScenarioResume => {
                self.pauses.resume(now);
                self.periodic.resume(now);
            }
            Message::ScenarioEnd(_) => {
                self.stop_waiting();
                self.machine.look_at_books();
                self.periodic.stop();
                self.stop_sampling();
            }
            Message::Lifecycle(life) if life.stage == Stage::SchedulerAttached => {
                self.verifier_stats = self.machine.verifier_stats();
                self.stats_timeouts = 0;
                self.leaving = false;
            }
            Message::StepBegin(step) => self.step = *step,
            Message::Stimulus(mark) => self.step = mark.step_index,
            Message::TestResult(_) | Message::Exit(_) => self.finished = true,
            Message::UntilRequest(request) => self.begin_waiting(request, now),
            Message::SnapshotRequest(request) if self.was_snapshot_done(request) => {}
            Message::KernelOpRequest(request) if self.was_kernel_op_done(request) => {}
            Message::SnapshotRequest(request) if is_capture(request) => {
                let stats = self.stats();
                let captured = self.capture();
                let side = self.side(request.tag.clone(), now);
                self.store((captured, stats), side, Some(request.id), now);
            }
            Message::SnapshotRequest(request) => {
                let result = self.snapshot(request);
                self.answer(request.id, result);
            }
            Message::StatsReply(bytes) => self.figures.hear(bytes),
            Message::KernelOpRequest(request) => {
                let bridge = self.bridge.clone();
                let reply =
                    bridge.dispatch_kernel_op_with(request, |request| self.kernel_op(request));
                self.machine.reply(&Message::KernelOpReply(reply));
            }
            _ => {}
        }
    }

    /// A test may run several, one after the other; each has its own steps and watches.
    fn begin_scenario(&mut self, now: Instant) {
        self.stop_waiting();
        self.scenarios = self.scenarios.saturating_add(1);
        self.step = 0;
        self.hz = self.machine.tick_rate().unwrap_or(0);
        self.periodic.start(now);
        if self.pauses.is_paused() {
            self.periodic.pause(now);
        }
        if self
            .scenario
            .replace(self.scenario.unwrap_or(now))
            .is_none()
        {
            return;
        }
        let is_user = |watch: &Use| matches!(watch, Use::User { .. });
        for (token, _) in self.watches.extract_if(|_, watch| is_user(watch)) {
            self.machine.unwatch(token);
        }
        self.bridge.release_watches();
        if self.prepared && self.blind.is_none() {
            self.sampling.start(now);
            self.machine.hold_watchdog_again();
        }
    }

    fn prepare(&mut self, now: Instant) {
        if std::mem::replace(&mut self.prepared, true) {
            return;
        }
        match self.machine.prepare() {
            Ok(Watches { exit, panic }) => {
                self.watches.extend(exit.map(|token| (token, Use::Exit)));
                self.watches.extend(panic.map(|token| (token, Use::Panic)));
                self.bridge.set_accessor_state(AccessorState::Ready);
                self.sampling.start(now);
                self.kaslr_offset = self.machine.kaslr_offset().unwrap_or(0);
            }
            Err(reason) => {
                tracing::debug!(reason, "kernel memory cannot be read");
                self.bridge
                    .set_accessor_state(AccessorState::Failed(reason.clone()));
                self.blind = Some(reason);
            }
        }
    }

    fn snapshot(&mut self, request: &SnapshotRequest) -> Result<(), String> {
        match request.kind {
            SnapshotKind::Capture if request.tag == FAILURE_TAG => {
                self.keep_failure("the test's own verdict", false);
                // The verdict itself is on its way.
                self.finished = true;
                Ok(())
            }
            SnapshotKind::Capture if request.tag == ENDED_TAG => {
                self.keep_failure("the end of the test's process", false);
                self.finished = true;
                Ok(())
            }
            SnapshotKind::PlannedExit => {
                self.leaving = true;
                Ok(())
            }
            SnapshotKind::Capture if request.tag == WATCHED_TAG => match &self.blind {
                _ if self.ended => Err(gone()),
                Some(reason) => Err(reason.clone()),
                None if self.prepared => Ok(()),
                None => Err(String::from(
                    "the guest has not reported that the kernel is up",
                )),
            },
            SnapshotKind::Capture if self.ended => Err(gone()),
            // `READY_TAG`; what else is a capture is the test's own.
            SnapshotKind::Capture => {
                self.watchdog = self.machine.prepare_scheduler()?;
                Ok(())
            }
            SnapshotKind::Watch if self.ended => Err(gone()),
            SnapshotKind::Watch => self.watch(&request.tag),
        }
    }

    fn watch(&mut self, symbol: &str) -> Result<(), String> {
        let machine = &mut self.machine;
        let token = self
            .bridge
            .register_watch_with(symbol, || machine.watch(symbol))?;
        let symbol = symbol.to_owned();
        self.watches.insert(token, Use::User { symbol, hits: 0 });
        Ok(())
    }

    fn kernel_op(&mut self, request: &KernelOpRequest) -> KernelOpReply {
        let done = if self.ended {
            Err(gone())
        } else {
            self.machine.kernel_op(request)
        };
        let (result, values) = match done {
            Ok(values) => (Ok(()), values),
            Err(reason) => (Err(short(reason)), Vec::new()),
        };
        KernelOpReply {
            id: request.id,
            result,
            values,
        }
    }

    fn hit(&mut self, token: WatchToken, now: Instant) {
        match self.watches.get_mut(&token) {
            Some(Use::Exit) => self.exit(),
            // While its CPUs still are where they were; the dead guest has no registers any more.
            Some(Use::Panic) => self.keep_failure(PANIC, false),
            None => {}
            Some(Use::Until) => self.look_at_state(now),
            Some(Use::User { symbol, hits }) => {
                *hits += 1;
                let tag = format!("{symbol}#{hits}");
                let captured = self.machine.capture();
                let stats = Some(Err(MissingStatsReason::GuestHeld));
                let side = self.side(tag, now);
                self.store((captured, stats), side, None, now);
            }
        }
        self.machine.release();
    }

    /// The scheduler leaves. One that the test sends away, and the guest's taking itself down, is no failure, and shows
    /// nothing that a later failure's reader wants; unless the kernel ejects the scheduler just then.
    fn exit(&mut self) {
        let is_planned = self.leaving || self.finished;
        let is_error = |kind| kind >= ScxExit::ERROR;
        if is_planned && !self.machine.exit_kind().is_some_and(is_error) {
            return;
        }
        // What failed first is what is shown.
        if self.finished && self.failure.is_some() {
            return;
        }
        self.keep_failure("the scheduler's exit", true);
    }

    fn end(&mut self, panicked: bool) {
        self.ended = true;
        self.waiting = None;
        self.figures.end(&MissingStatsReason::GuestGone);
        self.periodic.stop();
        self.sampling.stop();
        let shown = self.failure.as_ref().map(|failure| failure.worth);
        if panicked && shown <= Some(Worth::Placeholder) {
            let captured = self.machine.capture_dead();
            self.set_failure(PANIC, captured, false);
        }
    }

    /// Captures the state that a failed test will show, unless an exit has shown more already.
    fn keep_failure(&mut self, trigger: &str, is_exit: bool) {
        if let Some(failure) = &self.failure
            && !is_exit
        {
            if failure.worth == Worth::Exit && !self.ended {
                self.replace_exit(trigger);
            }
            return;
        }
        let old = self.failure.as_ref().map(|old| old.worth);
        let shown = |report: &FailureDumpReport| Worth::of(report, is_exit) > old;
        let captured = if self.ended {
            Err(gone())
        } else {
            self.machine.capture_failure(&shown)
        };
        self.set_failure(trigger, captured, is_exit);
    }

    /// What left by itself has attached again, as schedulers do after a CPU went off or on: that was no failure, and what fails now has
    /// a state of its own.
    fn replace_exit(&mut self, trigger: &str) {
        if let Ok(report) = self.machine.capture_failure(&is_in_charge)
            && is_in_charge(&report)
        {
            self.failure = Some(Failure {
                trigger: trigger.to_owned(),
                worth: Worth::State,
                report: Arc::new(report),
            });
        }
    }

    fn set_failure(
        &mut self,
        trigger: &str,
        captured: Result<FailureDumpReport, String>,
        is_exit: bool,
    ) {
        let report = captured.unwrap_or_else(|reason| {
            FailureDumpReport::placeholder(format!("{trigger}: no state was captured: {reason}"))
        });
        let worth = Worth::of(&report, is_exit);
        if let Some(worth) = worth
            && self.failure.as_ref().is_none_or(|old| worth > old.worth)
        {
            self.failure = Some(Failure {
                trigger: trigger.to_owned(),
                worth,
                report: Arc::new(report),
            });
        }
    }

    /// A guest that has ended is not asked to stand still.
    fn capture(&mut self) -> Result<FailureDumpReport, String> {
        if self.ended {
            return Err(gone());
        }
        self.machine.capture()
    }

    /// Asked before the freeze, so that it is the running scheduler that answers; `None` where the answer comes later.
    fn stats(&mut self) -> Option<Stats> {
        if self.ended {
            return Some(Err(MissingStatsReason::GuestGone));
        }
        if self.stats_timeouts >= STATS_GIVE_UP_AFTER {
            return Some(Err(MissingStatsReason::Timeout));
        }
        if let Some(reason) = self.figures.broken() {
            return Some(Err(reason));
        }
        let stats = self.machine.stats()?;
        self.note_answer(&stats);
        Some(stats)
    }

    fn note_answer(&mut self, stats: &Stats) {
        self.stats_timeouts = match stats {
            Err(MissingStatsReason::Timeout) => self.stats_timeouts.saturating_add(1),
            _ => 0,
        };
    }

    /// What is known of a capture at this moment.
    fn side(&self, tag: String, now: Instant) -> SnapshotEntry {
        let elapsed = self
            .scenario
            .map(|start| millis(now.saturating_duration_since(start)));
        SnapshotEntry {
            elapsed_ms: elapsed.and_then(|ms| u64::try_from(ms).ok()),
            step_index: self.scenario.map(|_| self.step),
            scenario: self.scenario.map(|_| self.scenarios),
            ..SnapshotEntry::new(tag, FailureDumpReport::default())
        }
    }

    /// Keeps a capture and answers its request, once its figures are there.
    fn store(
        &mut self,
        (captured, stats): (Result<FailureDumpReport, String>, Option<Stats>),
        side: SnapshotEntry,
        request: Option<u32>,
        now: Instant,
    ) {
        let shot = Shot {
            captured,
            side,
            request,
        };
        match stats {
            None => self.figures.wait(shot, now),
            Some(stats) if self.figures.due().is_some() => self.figures.pass(shot, stats, now),
            Some(stats) => self.keep(shot, stats),
        }
    }

    /// Those that waited for their figures, and wait no longer.
    fn keep_complete(&mut self, now: Instant) {
        while let Some((shot, stats)) = self.figures.next(now) {
            // Those that were not asked have no part in it.
            if !matches!(stats, Err(MissingStatsReason::GuestHeld)) {
                self.note_answer(&stats);
            }
            self.keep(shot, stats);
        }
    }

    fn keep(&mut self, shot: Shot, stats: Stats) {
        let Shot {
            captured,
            side,
            request,
        } = shot;
        let answer = captured.as_ref().map(drop).map_err(Clone::clone);
        self.bridge.keep(captured, SnapshotEntry { stats, ..side });
        if let Some(id) = request {
            self.answer(id, answer);
        }
    }

    fn answer(&mut self, id: u32, result: Result<(), String>) {
        let result = result.map_err(short);
        self.machine
            .reply(&Message::SnapshotReply(SnapshotReply { id, result }));
    }
}

/// A capture that the test itself wants.
fn is_capture(request: &SnapshotRequest) -> bool {
    let of_ours = [FAILURE_TAG, ENDED_TAG, WATCHED_TAG, READY_TAG];
    request.kind == SnapshotKind::Capture && !of_ours.contains(&request.tag.as_str())
}

/// Why a request that outlived its guest cannot be met.
fn gone() -> String {
    String::from("the guest has ended")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A reason, cut to the length that a frame allows.
fn short(reason: String) -> String {
    if reason.len() <= MAX_TEXT {
        return reason;
    }
    let cut = (0..=MAX_TEXT - 3)
        .rev()
        .find(|at| reason.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{}…", reason.get(..cut).unwrap_or_default())
}
