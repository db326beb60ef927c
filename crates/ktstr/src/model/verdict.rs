//! What a test found: a lattice of outcomes, the details behind them, and their merge.
//!
//! An [`AssertResult`] starts as [`Outcome::Pass`] or [`Outcome::Skip`] and can only move up the lattice:
//!
//! ```text
//! Skip < Pass < Inconclusive < Fail
//! ```
//!
//! "Could not measure" is [`Outcome::Inconclusive`], never a pass. Notes are kept apart from details, because
//! they never move the verdict. Nothing here knows how a value was measured.

use serde::{Deserialize, Serialize};
use std::fmt;

pub use super::note::NoteValue;
use super::stats::ScenarioStats;

/// One step of the verdict lattice; the order is dominance when merged.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Outcome {
    /// Did not run, for a stated reason.
    Skip,
    /// Ran, and nothing was found wrong.
    #[default]
    Pass,
    /// Ran, but could not be judged.
    Inconclusive,
    /// Ran, and something was wrong.
    Fail,
}

/// Exit code of a process whose tests passed or were skipped.
pub const EXIT_PASS: i32 = 0;
/// Exit code of a process of which a test failed.
pub const EXIT_FAIL: i32 = 1;
/// Exit code of a process of which no test failed and one could not be judged.
pub const EXIT_INCONCLUSIVE: i32 = 2;

impl Outcome {
    /// The process exit code: 0 pass or skip, 1 fail, 2 inconclusive.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Skip | Self::Pass => EXIT_PASS,
            Self::Fail => EXIT_FAIL,
            Self::Inconclusive => EXIT_INCONCLUSIVE,
        }
    }

    /// Lower-case name, as printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Pass => "pass",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a detail is about; tools select by it, so the names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DetailKind {
    /// A worker did no work at all.
    Starved,
    /// A worker stood still for longer than allowed.
    Stuck,
    /// Workers that should be equal were not.
    Unfair,
    /// A task ran on a CPU outside its cpuset.
    Isolation,
    /// A rate or latency threshold.
    Benchmark,
    /// Too many migrations between CPUs.
    Migration,
    /// Too few pages on the worker's own node.
    PageLocality,
    /// Too many page migrations between nodes.
    CrossNodeMigration,
    /// Too many pages in slow memory.
    SlowTier,
    /// A kernel-state threshold, judged by the host.
    Monitor,
    /// The scheduler ended with an error or by a signal.
    SchedulerCrashed,
    /// The scheduler ended with status 0 while it was still needed.
    SchedulerExitedCleanly,
    /// The scheduler is gone, for an unknown reason.
    SchedulerDiedUnknownReason,
    /// A sched_ext event counter.
    SchedulerEvent,
    /// A check over a series of samples.
    Temporal,
    /// A worker did not stop when asked.
    WorkerStuck,
    /// A worker ended before it was asked to.
    WorkerDied,
    /// The host disturbed a measurement that was promised isolation.
    PerfIsolation,
    /// The test function panicked.
    Panicked,
    /// The scenario could not be set up, or an operation in it failed.
    Setup,
    /// A function that was called after the VM's end found a fault, or failed itself.
    PostVm,
    /// An error that the scheduler was to report did not come.
    Matcher,
    /// The VM's deadline passed.
    TimedOut,
    /// The run was ended at a moment of virtual time, to be looked at there.
    Looked,
    /// The guest's kernel or its init came to an end that is none.
    GuestCrashed,
    /// The program that runs the VM ended under the guest.
    EngineDied,
    /// The guest's kernel warned of a fault of its own.
    KernelWarning,
    /// The kernel's own books contradict themselves.
    Invariant,
    /// A step waited for a state of the kernel that did not come about.
    StateNotReached,
    /// An operation that this run has no means for.
    NotSupported,
    /// Why a test was skipped.
    Skip,
    /// Anything else.
    Other,
}

/// One finding: what it means for the verdict, what it is about, and the text for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertDetail {
    /// What this finding alone makes of the test.
    pub outcome: Outcome,
    /// What it is about.
    pub kind: DetailKind,
    /// One line (or a few) for the user, with units.
    pub message: String,
    /// How long the host would have to have stopped a vCPU to explain this finding; `None`: no stall explains it.
    #[serde(default)]
    pub explained_by_stall_ns: Option<u64>,
}

impl AssertDetail {
    /// A finding with its parts.
    pub fn new(outcome: Outcome, kind: DetailKind, message: impl Into<String>) -> Self {
        Self {
            outcome,
            kind,
            message: message.into(),
            explained_by_stall_ns: None,
        }
    }

    /// Same, and a stall of a vCPU of this length would explain it.
    #[must_use]
    pub fn explained_by_stall_ns(mut self, stall_ns: u64) -> Self {
        self.explained_by_stall_ns = Some(stall_ns);
        self
    }

    /// A finding that fails the test.
    pub fn fail(kind: DetailKind, message: impl Into<String>) -> Self {
        Self::new(Outcome::Fail, kind, message)
    }

    /// A finding that leaves the test unjudged.
    pub fn inconclusive(kind: DetailKind, message: impl Into<String>) -> Self {
        Self::new(Outcome::Inconclusive, kind, message)
    }
}

impl From<&str> for AssertDetail {
    /// A failure about nothing that has a kind of its own.
    fn from(message: &str) -> Self {
        Self::fail(DetailKind::Other, message)
    }
}

impl From<String> for AssertDetail {
    /// A failure about nothing that has a kind of its own.
    fn from(message: String) -> Self {
        Self::fail(DetailKind::Other, message)
    }
}

impl fmt::Display for AssertDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Everything one test (or one part of it) has to say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AssertResult {
    /// The outcome without any detail: Pass once anything ran, Skip if nothing did.
    floor: Outcome,
    /// Findings, in the order found.
    pub details: Vec<AssertDetail>,
    /// Remarks that never move the verdict.
    pub info_notes: Vec<String>,
    /// What was measured.
    pub stats: ScenarioStats,
}

impl AssertResult {
    /// Ran and found nothing wrong.
    pub fn pass() -> Self {
        Self::default()
    }

    /// Did not run.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self {
            floor: Outcome::Skip,
            details: vec![AssertDetail::new(Outcome::Skip, DetailKind::Skip, reason)],
            ..Self::default()
        }
    }

    /// Ran and found this.
    pub fn fail(kind: DetailKind, message: impl Into<String>) -> Self {
        Self::from(AssertDetail::fail(kind, message))
    }

    /// Ran and could not be judged, because of this.
    pub fn inconclusive(kind: DetailKind, message: impl Into<String>) -> Self {
        Self::from(AssertDetail::inconclusive(kind, message))
    }

    /// [`fail`](Self::fail) about nothing that has a kind of its own.
    pub fn fail_msg(message: impl Into<String>) -> Self {
        Self::fail(DetailKind::Other, message)
    }

    /// [`inconclusive`](Self::inconclusive) about nothing that has a kind of its own.
    pub fn inconclusive_msg(message: impl Into<String>) -> Self {
        Self::inconclusive(DetailKind::Other, message)
    }

    /// The verdict: the highest of what is inside.
    pub fn outcome(&self) -> Outcome {
        self.details
            .iter()
            .map(|detail| detail.outcome)
            .fold(self.floor, Outcome::max)
    }

    /// Whether the verdict is [`Outcome::Pass`].
    pub fn is_pass(&self) -> bool {
        self.outcome() == Outcome::Pass
    }

    /// Whether the verdict is [`Outcome::Fail`].
    pub fn is_fail(&self) -> bool {
        self.outcome() == Outcome::Fail
    }

    /// Whether the verdict is [`Outcome::Inconclusive`].
    pub fn is_inconclusive(&self) -> bool {
        self.outcome() == Outcome::Inconclusive
    }

    /// Whether the verdict is [`Outcome::Skip`].
    pub fn is_skip(&self) -> bool {
        self.outcome() == Outcome::Skip
    }

    /// Adds one finding.
    pub fn push(&mut self, detail: AssertDetail) {
        // A finding above Skip means that something ran.
        if detail.outcome > Outcome::Skip {
            self.floor = self.floor.max(Outcome::Pass);
        }
        self.details.push(detail);
    }

    /// Makes it a skip with this reason, unless something failed or could not be judged, or will.
    pub fn record_skip(&mut self, reason: impl Into<String>) {
        self.floor = Outcome::Skip;
        self.details
            .push(AssertDetail::new(Outcome::Skip, DetailKind::Skip, reason));
    }

    /// Adds a remark that never moves the verdict.
    pub fn note(&mut self, text: impl Into<String>) {
        self.info_notes.push(text.into());
    }

    /// Same, by value, for building a result in one expression.
    #[must_use]
    pub fn with_note(mut self, text: impl Into<String>) -> Self {
        self.note(text);
        self
    }

    /// Adds a named figure or text that never moves the verdict: a remark "name: value", and of a finite number a metric of this
    /// name in [`ScenarioStats::ext_metrics`](super::stats::ScenarioStats), which `cargo ktstr stats` and `perf-delta` see.
    pub fn note_value(&mut self, name: impl Into<String>, value: impl Into<NoteValue>) {
        let (name, value) = (name.into(), value.into());
        self.note(format!("{name}: {value}"));
        if let Some(number) = value.number() {
            self.stats.ext_metrics.insert(name, number);
        }
    }

    /// Same, by value, for building a result in one expression.
    #[must_use]
    pub fn with_note_value(mut self, name: impl Into<String>, value: impl Into<NoteValue>) -> Self {
        self.note_value(name, value);
        self
    }

    /// Turns failures that a stall of a vCPU of this length explains into Inconclusive ones, with the reason; how many.
    ///
    /// For a stall that the guest could not see: the host sees the run delay of vCPU threads.
    /// `reason` says where the stall was seen, with its figure.
    pub fn excuse_by_stall(&mut self, stall_ns: u64, reason: &str) -> usize {
        let mut excused = 0;
        for detail in &mut self.details {
            let explained = detail
                .explained_by_stall_ns
                .is_some_and(|ns| ns <= stall_ns);
            if detail.outcome == Outcome::Fail && explained {
                detail.outcome = Outcome::Inconclusive;
                detail.message.push_str(", but ");
                detail.message.push_str(reason);
                detail.message.push_str(", which may explain it");
                excused += 1;
            }
        }
        excused
    }

    /// Takes over all of `other`; the verdict becomes the higher of both.
    pub fn merge(&mut self, other: Self) {
        self.floor = self.floor.max(other.floor);
        self.details.extend(other.details);
        self.info_notes.extend(other.info_notes);
        self.stats.merge(other.stats);
    }

    /// Same, by value.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.merge(other);
        self
    }

    /// Findings that fail the test.
    pub fn failure_details(&self) -> impl Iterator<Item = &AssertDetail> {
        self.details_of(Outcome::Fail)
    }

    /// Findings that leave it unjudged.
    pub fn inconclusive_details(&self) -> impl Iterator<Item = &AssertDetail> {
        self.details_of(Outcome::Inconclusive)
    }

    /// Reasons for not running.
    pub fn skip_details(&self) -> impl Iterator<Item = &AssertDetail> {
        self.details_of(Outcome::Skip)
    }

    /// Findings of this kind, whatever their outcome.
    pub fn details_of_kind(&self, kind: DetailKind) -> impl Iterator<Item = &AssertDetail> {
        self.details
            .iter()
            .filter(move |detail| detail.kind == kind)
    }

    fn details_of(&self, outcome: Outcome) -> impl Iterator<Item = &AssertDetail> {
        self.details
            .iter()
            .filter(move |detail| detail.outcome == outcome)
    }
}

impl From<AssertDetail> for AssertResult {
    fn from(detail: AssertDetail) -> Self {
        let mut result = Self::pass();
        result.push(detail);
        result
    }
}

impl FromIterator<AssertDetail> for AssertResult {
    fn from_iter<I: IntoIterator<Item = AssertDetail>>(details: I) -> Self {
        let mut result = Self::pass();
        for detail in details {
            result.push(detail);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(outcome: Outcome) -> AssertResult {
        match outcome {
            Outcome::Skip => AssertResult::skip("no SMT"),
            Outcome::Pass => AssertResult::pass(),
            Outcome::Inconclusive => AssertResult::inconclusive(DetailKind::Other, "no samples"),
            Outcome::Fail => AssertResult::fail(DetailKind::Stuck, "stuck 3 s"),
        }
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        prop::sample::select(vec![
            Outcome::Skip,
            Outcome::Pass,
            Outcome::Inconclusive,
            Outcome::Fail,
        ])
    }

    proptest! {
        #[test]
        fn merge_is_the_join_of_the_lattice(a in outcomes(), b in outcomes(), c in outcomes()) {
            let joined = of(a).merged(of(b)).merged(of(c));
            prop_assert_eq!(joined.outcome(), a.max(b).max(c));
        }

        #[test]
        fn both_encodings_keep_everything(a in outcomes(), b in outcomes()) {
            let result = of(a).merged(of(b)).with_note("host was busy");
            let json = serde_json::to_vec(&result).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<AssertResult>(&json).unwrap(), &result);
            let bytes = postcard::to_stdvec(&result).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<AssertResult>(&bytes).unwrap(), &result);
        }
    }

    #[test]
    fn a_finding_lifts_a_skip() {
        let mut result = AssertResult::skip("too small");
        result.push(AssertDetail::fail(DetailKind::Other, "but it ran"));
        assert!(result.is_fail());
        assert_eq!(result.skip_details().count(), 1);
        assert_eq!(result.outcome().exit_code(), 1);
    }

    #[test]
    fn results_of_one_message() {
        let fail = AssertResult::fail_msg("too slow");
        assert_eq!(fail, AssertResult::from(AssertDetail::from("too slow")));
        assert!(fail.is_fail() && fail.details[0].kind == DetailKind::Other);
        assert!(AssertResult::inconclusive_msg("too few").is_inconclusive());
    }

    #[test]
    fn figures_are_noted_and_become_metrics_if_they_are_finite() {
        let mut result = AssertResult::pass().with_note_value("rounds", 3u64);
        result.note_value("share", 0.5);
        result.note_value("bad", f64::NAN);
        result.note_value("mode", "idle");
        result.note_value("smt", true);
        let notes = [
            "rounds: 3",
            "share: 0.5",
            "bad: NaN",
            "mode: idle",
            "smt: true",
        ];
        assert_eq!(result.info_notes, notes);
        let metrics: Vec<(&str, f64)> = result
            .stats
            .ext_metrics
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(metrics, [("rounds", 3.0), ("share", 0.5)]);
        assert!(result.is_pass());
        let json = serde_json::to_vec(&result).unwrap();
        assert_eq!(
            serde_json::from_slice::<AssertResult>(&json).unwrap(),
            result
        );
    }

    #[test]
    fn a_stall_excuses_only_what_it_explains() {
        let mut result = AssertResult::pass();
        let fail = |text: &str| AssertDetail::fail(DetailKind::Stuck, text);
        result.push(fail("short").explained_by_stall_ns(1_000));
        result.push(fail("long").explained_by_stall_ns(3_000));
        assert_eq!(result.excuse_by_stall(2_000, "vCPU 0 waited 2 us"), 1);
        assert!(result.is_fail());
        assert_eq!(
            result.inconclusive_details().next().unwrap().message,
            "short, but vCPU 0 waited 2 us, which may explain it"
        );
        result.push(fail("isolation"));
        assert_eq!(result.excuse_by_stall(u64::MAX, "all"), 1);
        assert_eq!(result.failure_details().count(), 1);
    }

    #[test]
    fn notes_never_move_the_verdict() {
        assert!(AssertResult::pass().with_note("odd").is_pass());
        assert!(AssertResult::skip("x").with_note("odd").is_skip());
    }
}
