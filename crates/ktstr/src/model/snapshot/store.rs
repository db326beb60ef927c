//! The bounded memory behind a bridge. Plain data and rules; the bridge adds sharing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ktstr_monitor::FailureDumpReport;
use ktstr_wire::KernelOpReply;

use super::BridgeEvent;

/// Captures kept; the oldest goes first.
pub const MAX_REPORTS: usize = 64;
/// Events kept; the oldest goes first.
pub const MAX_EVENTS: usize = 1024;

/// Why a capture has no figures of the scheduler's stats server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissingStatsReason {
    /// They were not asked for.
    #[error("not asked for")]
    NotRequested,
    /// No scheduler runs.
    #[error("no scheduler runs")]
    NoScheduler,
    /// The scheduler has no stats server.
    #[error("the scheduler has no stats server")]
    NoServer,
    /// It did not answer in time.
    #[error("the stats server did not answer in time")]
    Timeout,
    /// It answered with an error, or with what is no answer.
    #[error("the stats server refused: {0}")]
    Refused(String),
    /// It went away before it answered.
    #[error("the stats server closed the connection")]
    Closed,
    /// The guest stood still at a watch, and its server with it.
    #[error("the guest stood still at a watch")]
    GuestHeld,
    /// The guest has ended.
    #[error("the guest has ended")]
    GuestGone,
    /// In virtual time the guest stands still while it is looked at, and its server with it: a capture asks only where the test
    /// says `scx_stats`.
    #[error("in virtual time a capture asks no stats server, unless the test says `scx_stats`")]
    VirtualTime,
    /// A request or a reply is longer than may be.
    #[error("the {what} is longer than {max} bytes")]
    TooLarge {
        /// `request` or `reply`.
        what: &'static str,
        /// Bytes that it may have.
        max: usize,
    },
}

/// One capture with everything known about it.
#[derive(Debug, Clone)]
pub struct SnapshotEntry {
    /// Its name.
    pub tag: String,
    /// The state, or a placeholder with its reason.
    pub report: Arc<FailureDumpReport>,
    /// The scheduler's own figures, taken just before.
    pub stats: Result<serde_json::Value, MissingStatsReason>,
    /// Since the start of the test's first scenario; `None` before it.
    pub elapsed_ms: Option<u64>,
    /// How late after its due time a periodic capture was made.
    pub boundary_offset_ms: Option<i64>,
    /// The scenario's step: 0 is the baseline before step 1.
    pub step_index: Option<u16>,
    /// Which of the test's scenarios, from 1 on; `None` before the first.
    pub scenario: Option<u16>,
}

impl SnapshotEntry {
    /// This report under this name, without side data.
    #[must_use]
    pub fn new(tag: impl Into<String>, report: FailureDumpReport) -> Self {
        Self {
            tag: tag.into(),
            report: Arc::new(report),
            stats: Err(MissingStatsReason::NotRequested),
            elapsed_ms: None,
            boundary_offset_ms: None,
            step_index: None,
            scenario: None,
        }
    }
}

/// `periodic_` and exactly three digits.
#[must_use]
pub fn is_periodic_tag(tag: &str) -> bool {
    tag.strip_prefix("periodic_")
        .is_some_and(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What a bridge remembers.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Oldest first; names are distinct.
    entries: VecDeque<SnapshotEntry>,
    /// What was taken out, kept for later readers: a callback's drain must not starve the framework.
    drained: Vec<SnapshotEntry>,
    /// How many made room.
    pub(super) evicted: u64,
    events: VecDeque<BridgeEvent>,
    dropped_events: u64,
    kernel_ops: Vec<(String, KernelOpReply)>,
    cgroup_procs: HashMap<String, Vec<i32>>,
    pub(super) watches: Vec<String>,
}

impl Store {
    /// Keeps a capture as the newest; one of the same name goes with all its side data. A placeholder replaces no real one:
    /// that a later try failed takes nothing away from an earlier one.
    pub(super) fn put(&mut self, entry: SnapshotEntry) {
        if let Some(at) = self.position(&entry.tag) {
            let is_real = |kept: &SnapshotEntry| !kept.report.is_placeholder;
            if entry.report.is_placeholder && self.entries.get(at).is_some_and(is_real) {
                return;
            }
            self.entries.remove(at);
            self.event(BridgeEvent::Overwrite {
                tag: entry.tag.clone(),
            });
        } else if self.entries.len() >= MAX_REPORTS
            && let Some(oldest) = self.entries.pop_front()
        {
            self.evicted = self.evicted.saturating_add(1);
            self.event(BridgeEvent::Eviction { tag: oldest.tag });
        }
        self.entries.push_back(entry);
    }

    fn position(&self, tag: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.tag == tag)
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.position(tag).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn drain(&mut self) -> Vec<SnapshotEntry> {
        let found = self.entries.len();
        if found > MAX_REPORTS {
            self.event(BridgeEvent::CapInvariantViolation { found });
        }
        let mut names: Vec<&str> = self
            .entries
            .iter()
            .map(|entry| entry.tag.as_str())
            .collect();
        names.sort_unstable();
        let twin = names.windows(2).find(|pair| pair[0] == pair[1]);
        if let Some(detail) = twin.map(|pair| format!("two captures are kept as '{}'", pair[0])) {
            self.event(BridgeEvent::DrainOrderingInvariantViolation { detail });
        }
        let entries: Vec<SnapshotEntry> = self.entries.drain(..).collect();
        // As many as may be kept, of the newest.
        self.drained.extend(entries.iter().cloned());
        let old = self.drained.len().saturating_sub(MAX_REPORTS);
        self.drained.drain(..old);
        entries
    }

    /// All captures, those that were taken out before too, oldest first; takes out what is left.
    pub(super) fn drain_all(&mut self) -> Vec<SnapshotEntry> {
        let _ = self.drain();
        self.drained.clone()
    }

    pub(super) fn periodic_real(&self) -> usize {
        let real =
            |entry: &&SnapshotEntry| is_periodic_tag(&entry.tag) && !entry.report.is_placeholder;
        self.entries.iter().filter(real).count()
    }

    pub(super) fn event(&mut self, event: BridgeEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.dropped_events = self.dropped_events.saturating_add(1);
        }
        self.events.push_back(event);
    }

    pub(super) fn event_count(&self) -> usize {
        self.events.len()
    }

    pub(super) fn drain_events(&mut self) -> Vec<BridgeEvent> {
        let mut events: Vec<BridgeEvent> = self.events.drain(..).collect();
        let dropped_count = std::mem::take(&mut self.dropped_events);
        if dropped_count > 0 {
            events.push(BridgeEvent::EventLogTruncated { dropped_count });
        }
        events
    }

    pub(super) fn put_kernel_op(&mut self, tag: String, reply: KernelOpReply) {
        if self.kernel_ops.len() >= MAX_EVENTS {
            self.kernel_ops.remove(0);
        }
        self.kernel_ops.push((tag, reply));
    }

    pub(super) fn kernel_op(&self, tag: &str) -> Option<KernelOpReply> {
        let newest = self.kernel_ops.iter().rev().find(|(name, _)| name == tag);
        newest.map(|(_, reply)| reply.clone())
    }

    pub(super) fn drain_kernel_ops(&mut self) -> Vec<(String, KernelOpReply)> {
        std::mem::take(&mut self.kernel_ops)
    }

    /// At most as many names as events are kept: a guest makes them up.
    pub(super) fn put_cgroup_procs(&mut self, tag: String, pids: Vec<i32>) {
        if self.cgroup_procs.len() >= MAX_EVENTS && !self.cgroup_procs.contains_key(&tag) {
            return;
        }
        self.cgroup_procs.insert(tag, pids);
    }

    pub(super) fn cgroup_procs(&self, tag: &str) -> Option<Vec<i32>> {
        self.cgroup_procs.get(tag).cloned()
    }

    pub(super) fn drain_cgroup_procs(&mut self) -> HashMap<String, Vec<i32>> {
        std::mem::take(&mut self.cgroup_procs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: &str, placeholder: bool) -> SnapshotEntry {
        let report = if placeholder {
            FailureDumpReport::placeholder("none")
        } else {
            FailureDumpReport::default()
        };
        SnapshotEntry::new(tag, report)
    }

    fn tags(store: &mut Store) -> Vec<String> {
        store.drain().into_iter().map(|entry| entry.tag).collect()
    }

    #[test]
    fn storing_a_name_again_replaces_all_and_moves_it_to_the_newest_place() {
        let mut store = Store::default();
        for tag in ["a", "b"] {
            store.put(entry(tag, false));
        }
        let mut first = entry("a", false);
        first.elapsed_ms = Some(7);
        store.put(first);
        store.put(entry("a", false));
        let drained = store.drain();
        let names: Vec<&str> = drained.iter().map(|entry| entry.tag.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(
            drained[1].elapsed_ms, None,
            "side data of the old one is gone"
        );
        assert_eq!(store.drain_events().len(), 2);
    }

    #[test]
    fn a_placeholder_replaces_placeholders_only() {
        let mut store = Store::default();
        for (tag, placeholder) in [
            ("a", false),
            ("a", true),
            ("b", true),
            ("b", true),
            ("b", false),
        ] {
            store.put(entry(tag, placeholder));
        }
        let kept: Vec<bool> = store
            .drain()
            .iter()
            .map(|entry| entry.report.is_placeholder)
            .collect();
        assert_eq!(kept, [false, false]);
    }

    #[test]
    fn what_was_taken_out_is_there_for_the_framework() {
        let mut store = Store::default();
        store.put(entry("a", false));
        assert_eq!(tags(&mut store), ["a"]);
        store.put(entry("b", false));
        let all = |store: &mut Store| -> Vec<String> {
            store
                .drain_all()
                .into_iter()
                .map(|entry| entry.tag)
                .collect()
        };
        assert_eq!(all(&mut store), ["a", "b"]);
        assert_eq!(all(&mut store), ["a", "b"]);
        assert!(store.drain().is_empty());
    }

    /// These rules can be broken by a mistake in here only; then it is told.
    #[test]
    fn broken_rules_are_told() {
        let mut store = Store {
            entries: std::iter::repeat_n(entry("a", false), MAX_REPORTS + 1).collect(),
            ..Store::default()
        };
        let _ = store.drain();
        let events = store.drain_events();
        assert_eq!(events[0], BridgeEvent::CapInvariantViolation { found: 65 });
        assert!(matches!(
            &events[1],
            BridgeEvent::DrainOrderingInvariantViolation { detail } if detail.contains("'a'")
        ));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut store = Store::default();
        for number in 0..=MAX_REPORTS {
            store.put(entry(&format!("t{number}"), false));
        }
        let names = tags(&mut store);
        assert_eq!(
            (names.len(), names[0].as_str(), names[63].as_str()),
            (64, "t1", "t64")
        );
        assert_eq!(
            store.drain_events(),
            [BridgeEvent::Eviction { tag: "t0".into() }]
        );
    }

    #[test]
    fn dropped_events_are_counted_at_the_end_of_the_next_drain() {
        let mut store = Store::default();
        for number in 0..MAX_EVENTS + 3 {
            let tag = number.to_string();
            store.event(BridgeEvent::Overwrite { tag });
        }
        let events = store.drain_events();
        assert_eq!(events.len(), MAX_EVENTS + 1);
        assert_eq!(
            events.last(),
            Some(&BridgeEvent::EventLogTruncated { dropped_count: 3 })
        );
        assert!(store.drain_events().is_empty());
    }

    #[test]
    fn only_exact_periodic_names_count_and_placeholders_do_not() {
        let mut store = Store::default();
        for tag in [
            "periodic_000",
            "periodic_1",
            "periodic_0000",
            "periodic_00a",
            "xperiodic_001",
        ] {
            store.put(entry(tag, false));
        }
        store.put(entry("periodic_001", true));
        assert_eq!(store.periodic_real(), 1);
    }
}
