//! The engine: owns all that lives during a scenario, and orders what happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ScenarioError;
use super::acts::{Ahead, host_act};
use super::hogs::Hogs;
use super::place_of;
use super::program::{Running, Scope};
use super::steal;
use super::timeline::{Done, Standing, Timeline, WorkerId, figures_of};
use crate::guest::cgroup::CgroupManager;
use crate::guest::liveness::{Liveness, Wake};
use crate::guest::sys::{self, monotonic_ns};
use crate::guest::worker::{Tally, WorkerGroup};
use crate::model::checks::{Assert, Circumstances, evaluate_in};
use crate::model::cpuset::CpuSet;
use crate::model::ctx::{Ctx, SchedulerNow};
use crate::model::report::{Throttled, WorkerExit, WorkerReport, ns_to_ms};
use crate::model::scenario::{Backdrop, HoldSpec, Op, Step};
use crate::model::transport::{ScenarioEvent, StepFigures};
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// How long workers have to stop before they are killed: this, and more for each, because hundreds on a few emulated CPUs
/// take turns to notice and to exit.
const STOP_GRACE: Duration = Duration::from_secs(5);
const STOP_GRACE_EACH: Duration = Duration::from_millis(50);
/// Workers beyond these add nothing: a VM's own deadline must stay the later one.
const STOP_GRACE_WORKERS: usize = 400;

/// The figure that says how often a scheduler restarted itself.
const RESTARTS: &str = "scheduler.restarts";

/// A running group of workers.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) group: WorkerGroup,
    pub(super) scope: Scope,
    /// Its number in the scenario.
    pub(super) number: u32,
    /// What its cgroup's limit had kept back before it began.
    pub(super) throttled_before: Throttled,
    /// The own checks of the cgroup that it began in.
    pub(super) checks: Assert,
}

/// All that lives during a scenario.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) live: Vec<Live>,
    pub(super) cgroups: CgroupManager,
    /// Whose each cgroup is.
    pub(super) owners: BTreeMap<String, Scope>,
    /// CPUs of those cgroups that have a cpuset of their own.
    pub(super) cpusets: BTreeMap<String, CpuSet>,
    pub(super) frozen: BTreeSet<String>,
    /// Checks of cgroups' own, for workers that begin there.
    pub(super) checks: BTreeMap<String, Assert>,
    /// Cgroups that have worker checks of their own, or had.
    pub(super) checked: BTreeSet<String>,
    /// Cgroups in which workers began.
    pub(super) manned: BTreeSet<String>,
    /// Whether a check needs the workers' pages by node.
    pub(super) counts_pages: bool,
    pub(super) result: AssertResult,
    /// With the own checks of the cgroup that they began in.
    reports: Vec<(WorkerId, WorkerReport, Assert)>,
    /// Groups that were started so far.
    pub(super) groups: u32,
    pub(super) payloads: Vec<Running>,
    /// The present step; 0 is the baseline before the first.
    pub(super) step: u16,
    pub(super) liveness: Liveness,
    timeline: Timeline,
    /// What holds have taken of the test's duration. Operations take none of it: how long they last is the machine's affair, and a
    /// slow one would leave later steps without a hold.
    pub(super) held: Duration,
    /// Operations of the next step that are done already.
    pub(super) ahead: Option<Ahead>,
    hogs: Hogs,
    /// Steal time by CPU when the scenario began.
    steal_start: Vec<u64>,
    /// Set once nothing further is begun.
    pub(super) halted: bool,
    _priority: sys::PriorityGuard,
}

impl<'a> Engine<'a> {
    pub(super) fn new(ctx: &'a Ctx, cgroups: CgroupManager) -> Self {
        Self {
            ctx,
            cgroups,
            live: Vec::new(),
            owners: BTreeMap::new(),
            cpusets: BTreeMap::new(),
            frozen: BTreeSet::new(),
            checks: BTreeMap::new(),
            checked: BTreeSet::new(),
            manned: BTreeSet::new(),
            counts_pages: false,
            result: AssertResult::pass(),
            reports: Vec::new(),
            groups: 0,
            payloads: Vec::new(),
            liveness: Liveness::new(&ctx.scheduler_now()),
            timeline: Timeline::begin(),
            held: Duration::ZERO,
            ahead: None,
            step: 0,
            hogs: Hogs::begin(),
            steal_start: steal::by_cpu(),
            halted: false,
            // Under the scheduler that is tested, this process might never run again to see it.
            _priority: sys::PriorityGuard::above_tested(ctx.transport().is_some()),
        }
    }

    /// Runs it all and judges it.
    pub(super) fn run(
        mut self,
        backdrop: &Backdrop,
        steps: &[Step],
        assert: &Assert,
    ) -> AssertResult {
        self.counts_pages = assert.asks_of_pages() || self.ctx.topology().numa_nodes > 1;
        if !self.ctx.settle().is_zero() {
            self.wait_until(after(self.ctx.settle()));
        }
        self.timeline = Timeline::begin();
        self.tell(ScenarioEvent::Start);
        self.begin_backdrop(backdrop);
        for (number, step) in steps.iter().enumerate() {
            if self.halted {
                let skipped = steps.len() - number;
                self.result
                    .note(format!("{skipped} of {} steps were not begun", steps.len()));
                break;
            }
            let index = u16::try_from(number + 1).unwrap_or(u16::MAX);
            self.run_step(index, step, steps.get(number + 1));
        }
        self.check_scheduler();
        self.note_restarts();
        self.tear_down(Scope::Backdrop);
        self.tell(ScenarioEvent::End {
            elapsed_ms: self.timeline.elapsed_ms(),
            total_iterations: total(&self.done()),
        });
        self.finish(assert)
    }

    fn begin_backdrop(&mut self, backdrop: &Backdrop) {
        if let Err(error) = self.start_defs(&backdrop.cgroups, Scope::Backdrop) {
            return self.fault("backdrop", &error);
        }
        let none: [String; 0] = [];
        let payloads = backdrop.payloads.iter();
        let payloads = payloads.map(|payload| Op::run_payload(payload, none.clone()));
        for op in backdrop.ops.iter().cloned().chain(payloads) {
            let place = format!("backdrop: {}", op.name());
            if let Err(error) = self.apply(&op, Scope::Backdrop) {
                self.fault(&place, &error);
            }
        }
    }

    fn run_step(&mut self, index: u16, step: &Step, next: Option<&Step>) {
        self.step = index;
        let place = place_of(index.into(), step);
        let ahead = self.ahead.take();
        // Before the operations, whose captures are this step's.
        self.tell(ScenarioEvent::StepBegin { step_index: index });
        let loops = matches!(step.hold, HoldSpec::Loop { .. });
        if loops {
            self.set_up(&place, step);
        }
        match ahead {
            Some(Ahead { from, to }) => {
                self.apply_ops(&place, step.ops.get(..from).unwrap_or_default());
                self.apply_ops(&place, step.ops.get(to..).unwrap_or_default());
            }
            None => self.apply_ops(&place, &step.ops),
        }
        if !loops {
            self.set_up(&place, step);
        }
        // The phase is the hold: what the operations took belongs to no phase.
        let before = self.done();
        self.timeline.open_phase(index, step.name(), before);
        let mark = self.mark(index, step);
        self.tell(ScenarioEvent::StepStart(mark));
        self.hold(&place, step, next);
        let after = self.done();
        self.timeline.close_phase(&after);
        let mark = self.mark(index, step);
        self.tell(ScenarioEvent::StepEnd(mark));
        // What is there of a step's is the next one's then.
        if self.ahead.is_none() {
            self.tear_down(Scope::Step);
        }
    }

    fn set_up(&mut self, place: &str, step: &Step) {
        if self.halted {
            return;
        }
        let defs = step.setup.defs(self.ctx);
        if let Err(error) = self.start_defs(&defs, Scope::Step) {
            self.fault(&format!("{place}: set-up"), &error);
        }
    }

    fn apply_ops(&mut self, place: &str, ops: &[Op]) {
        let mut rest = ops;
        while let Some(op) = rest.first() {
            self.check_scheduler();
            if self.halted {
                let skipped: Vec<&str> = rest.iter().map(Op::name).collect();
                self.result.note(format!(
                    "{place}: not carried out, because the scenario had ended: {}",
                    skipped.join(", ")
                ));
                return;
            }
            let (done, count) = match host_act(rest) {
                Some((_, count)) => (self.have_host_act(rest), count),
                None => (self.apply(op, Scope::Step), 1),
            };
            if let Err(error) = done {
                self.fault(&format!("{place}: {}", op.name()), &error);
            }
            rest = rest.get(count..).unwrap_or_default();
        }
    }

    fn hold(&mut self, place: &str, step: &Step, next: Option<&Step>) {
        let length = step.hold.resolve(self.ctx.duration(), self.held);
        let wanted = step.hold.wanted(self.ctx.duration(), self.held);
        if length < wanted / 2 {
            self.result.note(format!(
                "{place} held {} of {} ms: all holds together last no longer than the test's duration of {} ms",
                length.as_millis(),
                wanted.as_millis(),
                self.ctx.duration().as_millis()
            ));
        }
        if step.hold == HoldSpec::REST && wanted.is_zero() {
            self.result.note(format!(
                "{place} held no time: it is to hold the rest of the test's duration of {} ms, and earlier holds left nothing of it",
                self.ctx.duration().as_millis()
            ));
        }
        if let HoldSpec::Until(until) = step.hold {
            if !self.halted {
                self.hold_until(place, until, length, next);
            }
            return;
        }
        self.held = self.held.saturating_add(length);
        let until_ns = after(length);
        let HoldSpec::Loop { interval } = step.hold else {
            self.wait_until(until_ns);
            return;
        };
        while !self.halted && monotonic_ns() < until_ns {
            // At least a millisecond, or a loop of nothing would eat the machine that it tests.
            let next_ns = after(interval.max(Duration::from_millis(1)));
            self.wait_until(next_ns.min(until_ns));
            if !self.halted && next_ns < until_ns {
                self.apply_ops(place, &step.ops);
            }
        }
    }

    /// Waits until `until_ns`, or until something dies: then the scenario is halted.
    fn wait_until(&mut self, until_ns: u64) {
        while !self.halted {
            let settles = self.live.iter().filter_map(|live| live.group.settles_at());
            let mut next_ns = settles.min().map_or(until_ns, |at| at.min(until_ns));
            if self.live.iter().any(|live| live.group.is_confined()) {
                next_ns = next_ns.min(after(CPUSET_PERIOD));
            }
            self.wait_once(next_ns);
            self.widen_cpus();
            for live in &mut self.live {
                live.group.settle_cpus();
            }
            if monotonic_ns() >= until_ns {
                return;
            }
        }
    }

    pub(super) fn wait_once(&mut self, until_ns: u64) {
        let workers: Vec<_> = self
            .live
            .iter()
            .flat_map(|live| live.group.pidfds())
            .collect();
        match self.liveness.wait(&workers, until_ns) {
            Wake::Deadline => {}
            Wake::Scheduler(end) => self.scheduler_ended(end),
            Wake::Process(index) => {
                let pid = self
                    .live
                    .iter()
                    .flat_map(|live| live.group.pids())
                    .nth(index);
                let at_ms = self.timeline.elapsed_ms();
                self.result.note(format!(
                    "the hold ended {at_ms} ms into the scenario, because worker {} died",
                    pid.unwrap_or(0)
                ));
                self.halted = true;
            }
        }
    }

    fn check_scheduler(&mut self) {
        if self.halted {
            return;
        }
        if let Some(end) = self.liveness.scheduler_end() {
            self.scheduler_ended(end);
        }
    }

    pub(super) fn scheduler_ended(&mut self, end: crate::guest::liveness::SchedulerEnd) {
        let elapsed_ms = self.timeline.elapsed_ms();
        self.result
            .push(end.detail(self.ctx.scheduler_pid(), elapsed_ms));
        self.halted = true;
    }

    /// A scheduler that left and attached again by itself is no failure; the test's reader wants to know.
    pub(super) fn note_restarts(&mut self) {
        let restarts = self.liveness.restarts();
        if restarts > 0 {
            self.result.note(format!(
                "the scheduler restarted itself {restarts} times (enable_seq of sched_ext)"
            ));
            let metrics = &mut self.result.stats.ext_metrics;
            *metrics.entry(RESTARTS.to_owned()).or_default() += restarts as f64;
            self.ctx.set_scheduler(SchedulerNow {
                enable_seq: self.liveness.enable_seq(),
                ..self.ctx.scheduler_now()
            });
        }
    }

    /// A part that failed: told, and the end of the scenario unless it can go on without.
    pub(super) fn fault(&mut self, place: &str, error: &ScenarioError) {
        self.result.push(error.detail(place));
        self.halted |= !error.is_bearable();
    }

    /// What each worker did so far, also those that are gone.
    fn done(&self) -> Done {
        let gone = self.reports.iter().map(|(id, report, _)| {
            let standing = Standing {
                cgroup: report.cgroup.clone(),
                lives: false,
                tally: tally_of(report),
            };
            (*id, standing)
        });
        let live = self.live.iter().flat_map(|live| {
            let cgroup = &live.group.spec().cgroup;
            let tallies = live.group.tallies().into_iter().enumerate();
            tallies.map(move |(index, tally)| {
                let standing = Standing {
                    cgroup: cgroup.clone(),
                    lives: true,
                    tally,
                };
                ((live.number, index), standing)
            })
        });
        gone.chain(live).collect()
    }

    fn mark(&self, index: u16, step: &Step) -> StepFigures {
        let narrow = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        StepFigures {
            elapsed_ms: u32::try_from(self.timeline.elapsed_ms()).unwrap_or(u32::MAX),
            cgroup_count: narrow(self.cgroups.names().len()),
            worker_count: narrow(self.live.iter().map(|l| l.group.spec().count).sum()),
            total_iterations: total(&self.done()),
            ..figures_of(index, step)
        }
    }

    /// A boundary that the host cannot be told of costs the timeline, not the verdict.
    fn tell(&mut self, event: ScenarioEvent) {
        if let Some(Err(error)) = self.ctx.transport().map(|host| host.event(&event)) {
            self.result
                .note(format!("the host was not told of {event:?}: {error}"));
        }
    }

    /// Ends everything of this scope: workers first, all at once, then cgroups, newest first.
    fn tear_down(&mut self, scope: Scope) {
        let mine: Vec<String> = self
            .cgroups
            .names()
            .iter()
            .filter(|name| self.owners.get(*name) == Some(&scope))
            .rev()
            .cloned()
            .collect();
        self.end_payloads(scope);
        self.stop_where(|live| live.scope == scope || mine.contains(&live.group.spec().cgroup));
        for name in mine {
            // A side cgroup may be gone with its owner by now.
            if !self.cgroups.contains(&name) {
                continue;
            }
            if let Err(error) = self.forget_cgroup(&name) {
                let detail = ScenarioError::from(error).detail("tear-down");
                self.result.note(detail.message);
            }
        }
    }

    /// A CPU that goes off or on changes cpusets without a word to us, and may be back before the workers stop.
    fn widen_cpus(&mut self) {
        let confined = |live: &&mut Live| live.group.is_confined();
        for live in self.live.iter_mut().filter(confined) {
            widen(&self.cgroups, live);
        }
    }

    /// Stops all groups that match and keeps their reports.
    pub(super) fn stop_where(&mut self, matches: impl Fn(&Live) -> bool) {
        let (mut doomed, kept): (Vec<Live>, Vec<Live>) = std::mem::take(&mut self.live)
            .into_iter()
            .partition(|live| matches(live));
        self.live = kept;
        if !doomed.is_empty() {
            let elapsed_ms = self.timeline.elapsed_ms();
            self.hogs.look(elapsed_ms);
        }
        for live in &mut doomed {
            widen(&self.cgroups, live);
            live.group.settle_cpus();
            live.group.close_window();
        }
        // A frozen worker cannot stop; thawing after the windows are closed keeps them clean.
        for live in &doomed {
            let _ = self.thaw_if_frozen(&live.group.spec().cgroup.clone());
        }
        let workers = doomed.iter().map(|live| live.group.spec().count).sum();
        let until_ns = after(stop_grace(workers));
        for live in doomed {
            let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns()));
            let now = self.cgroups.throttled(&live.group.spec().cgroup);
            let throttled = now.since(live.throttled_before);
            let number = live.number;
            let checks = live.checks;
            let mut reports = live.group.finish(left);
            for report in &mut reports {
                report.throttled = throttled;
            }
            self.keep(number, checks, reports);
        }
    }

    fn keep(&mut self, number: u32, checks: Assert, reports: Vec<WorkerReport>) {
        for (index, report) in reports.into_iter().enumerate() {
            if let Some(detail) = exit_detail(&report) {
                self.result.push(detail);
            }
            self.reports.push(((number, index), report, checks));
        }
    }

    fn finish(mut self, assert: &Assert) -> AssertResult {
        let mut result = std::mem::take(&mut self.result);
        let reports = std::mem::take(&mut self.reports);
        let reports = reports
            .into_iter()
            .map(|(_, report, checks)| (report, checks));
        let (reports, own_checks): (Vec<_>, Vec<_>) = reports.unzip();
        for report in &reports {
            if let Some(output) = report.benchmark_output() {
                let (work, cgroup) = (&report.work_type, &report.cgroup);
                result.note(format!("{work} in {cgroup:?}:\n{output}"));
            }
        }
        let circumstances = Circumstances {
            guest_steal_ns: steal::most(&self.steal_start, &steal::by_cpu()),
        };
        result.merge(evaluate_in(assert, &reports, &own_checks, circumstances));
        // Where set-up failed, that says why.
        let is_set_up = !result.details.iter().any(|d| d.kind == DetailKind::Setup);
        for name in self.checked.difference(&self.manned).filter(|_| is_set_up) {
            result.push(AssertDetail::inconclusive(
                DetailKind::Other,
                format!("cgroup {name:?} has checks of its own, but no worker began in it; give it workers"),
            ));
        }
        if let Some(words) = self.hogs.words() {
            let of_progress = |kind| {
                matches!(
                    kind,
                    DetailKind::Starved
                        | DetailKind::Stuck
                        | DetailKind::Unfair
                        | DetailKind::WorkerStuck
                        // Ejected, it may be, for what a task of a higher class did not let it do.
                        | DetailKind::SchedulerDiedUnknownReason
                )
            };
            for detail in result.details.iter_mut().filter(|d| of_progress(d.kind)) {
                detail.message.push_str("; ");
                detail.message.push_str(&words);
            }
        }
        result.stats.phases = self.timeline.into_phases();
        result
    }
}

/// How often the kernel is asked which CPUs a cpuset has now.
const CPUSET_PERIOD: Duration = Duration::from_millis(250);

/// Allows what the kernel allows, also without a change of the test's.
fn widen(cgroups: &CgroupManager, live: &mut Live) {
    if let Some(cpus) = cgroups.effective_cpus(&live.group.spec().cgroup) {
        live.group.widen_cpus(&cpus);
    }
}

/// How long this many workers have to stop.
pub(super) fn stop_grace(workers: usize) -> Duration {
    let each = u32::try_from(workers.min(STOP_GRACE_WORKERS)).unwrap_or(u32::MAX);
    STOP_GRACE + STOP_GRACE_EACH * each
}

pub(super) fn after(time: Duration) -> u64 {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    monotonic_ns().saturating_add(ns)
}

fn total(done: &Done) -> u64 {
    let each = done.values().map(|standing| standing.tally.iterations);
    each.fold(0, u64::saturating_add)
}

fn tally_of(report: &WorkerReport) -> Tally {
    Tally {
        iterations: report.iterations,
        work_units: report.work_units,
        cpu_ns: report.cpu_time_ns,
        migrations: report.migrations,
        wakes: report.wake.count,
        delay_ns: report.run_delay_ns,
    }
}

/// What a worker's end means, if it did not just stop when asked.
fn exit_detail(report: &WorkerReport) -> Option<AssertDetail> {
    let kind = match report.exit {
        WorkerExit::Stopped => return None,
        WorkerExit::Killed { .. } | WorkerExit::Unreaped => DetailKind::WorkerStuck,
        _ => DetailKind::WorkerDied,
    };
    Some(AssertDetail::fail(
        kind,
        format!(
            "worker {} ({} in cgroup {:?}) {}; its window was {:.0} ms",
            report.tid,
            report.work_type,
            report.cgroup,
            report.exit,
            ns_to_ms(report.wall_time_ns),
        ),
    ))
}
