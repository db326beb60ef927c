//! When the next periodic capture is due.

use std::time::{Duration, Instant};

/// Failures in a row after which no more are tried.
const GIVE_UP_AFTER: u32 = 3;

/// One that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shot {
    pub(super) tag: String,
    pub(super) due: Instant,
}

/// `target` captures, evenly within the scenario: at 1/(n+1), 2/(n+1), … of its length. Its clock stands still while the
/// scenario is paused.
#[derive(Debug)]
pub(super) struct Periodic {
    target: u32,
    interval: Duration,
    fired: u32,
    failures: u32,
    /// When the next one is due; none before the start, while paused, and at the end.
    next: Option<Instant>,
    /// What was left until the next one when the scenario was paused.
    left: Option<Duration>,
}

impl Periodic {
    pub(super) fn new(target: u32, duration: Duration) -> Self {
        Self {
            target,
            interval: duration / target.saturating_add(1),
            fired: 0,
            failures: 0,
            next: None,
            left: None,
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        // A second start while paused is none: the first one's time is kept until the resume.
        if self.target > 0 && self.fired == 0 && self.next.is_none() && self.left.is_none() {
            self.next = Some(now + self.interval);
        }
    }

    pub(super) fn pause(&mut self, now: Instant) {
        if let Some(next) = self.next.take() {
            self.left = Some(next.saturating_duration_since(now));
        }
    }

    pub(super) fn resume(&mut self, now: Instant) {
        if let Some(left) = self.left.take() {
            self.next = Some(now + left);
        }
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
        self.left = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn fired(&self) -> u32 {
        self.fired
    }

    /// The one that is due now, if any; the next is counted from its due time, and those that are past are skipped.
    pub(super) fn fire(&mut self, now: Instant) -> Option<Shot> {
        let due = self.next.filter(|due| *due <= now)?;
        let tag = format!("periodic_{:03}", self.fired);
        self.fired += 1;
        self.next = (self.fired < self.target).then(|| (due + self.interval).max(now));
        Some(Shot { tag, due })
    }

    /// How the last one went.
    pub(super) fn note(&mut self, captured: bool) {
        self.failures = if captured { 0 } else { self.failures + 1 };
        if self.failures >= GIVE_UP_AFTER {
            self.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn started(target: u32) -> (Periodic, Instant) {
        let mut periodic = Periodic::new(target, SECOND * (target + 1));
        let start = Instant::now();
        periodic.start(start);
        (periodic, start)
    }

    #[test]
    fn they_are_spread_evenly_and_end() {
        let (mut periodic, start) = started(3);
        assert_eq!(periodic.fire(start), None);
        for (number, tag) in (1..).zip(["periodic_000", "periodic_001", "periodic_002"]) {
            let due = start + SECOND * number;
            assert_eq!(periodic.due(), Some(due));
            let shot = periodic.fire(due).unwrap();
            assert_eq!((shot.tag.as_str(), shot.due), (tag, due));
        }
        assert_eq!((periodic.due(), periodic.fired()), (None, 3));
    }

    #[test]
    fn a_pause_moves_what_is_left() {
        let (mut periodic, start) = started(2);
        periodic.pause(start + SECOND / 4);
        assert_eq!(periodic.due(), None);
        let resumed = start + SECOND * 10;
        periodic.resume(resumed);
        assert_eq!(periodic.due(), Some(resumed + SECOND * 3 / 4));
    }

    #[test]
    fn three_failures_in_a_row_end_them() {
        let (mut periodic, start) = started(9);
        for number in 1..=4u32 {
            let shot = periodic.fire(start + SECOND * number);
            assert_eq!(shot.is_some(), number <= 3, "{number}");
            periodic.note(false);
        }
        assert_eq!(periodic.fired(), 3);
        let (mut periodic, start) = started(9);
        for number in 1..=9u32 {
            assert!(periodic.fire(start + SECOND * number).is_some());
            periodic.note(number % 3 == 0);
        }
    }

    #[test]
    fn none_is_asked_for() {
        let (periodic, _) = started(0);
        assert_eq!(periodic.due(), None);
    }
}
