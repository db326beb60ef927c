//! When the next periodic capture is due.

use std::time::{Duration, Instant};

use crate::model::snapshot::MAX_REPORTS;

/// Failures in a row after which no more are tried.
const GIVE_UP_AFTER: u32 = 3;

/// One that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shot {
    pub(super) tag: String,
    pub(super) due: Instant,
}

/// How the periodic captures of a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::host) struct PeriodicTally {
    /// Those that were asked for, over all scenarios.
    pub(in crate::host) target: u32,
    /// Those that were tried.
    pub(in crate::host) fired: u32,
    /// Those that were skipped, because the host came too late for them.
    pub(in crate::host) missed: u32,
    /// Several in a row failed, and no more were tried.
    pub(in crate::host) gave_up: bool,
}

/// `target` captures in each scenario, evenly: at 1/(n+1), 2/(n+1), … of its length. Their clock stands still while the
/// scenario is paused, and while the guest stands still. Their numbers go on from scenario to scenario, as long as all of them
/// are kept.
#[derive(Debug)]
pub(super) struct Periodic {
    target: u32,
    interval: Duration,
    /// Scenarios begun.
    scenarios: u32,
    /// Place within the scenario of the next one.
    place: u32,
    fired: u32,
    missed: u32,
    /// In a row.
    failures: u32,
    gave_up: bool,
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
            scenarios: 0,
            place: 0,
            fired: 0,
            missed: 0,
            failures: 0,
            gave_up: false,
            next: None,
            left: None,
        }
    }

    /// A scenario begins.
    pub(super) fn start(&mut self, now: Instant) {
        self.scenarios = self.scenarios.saturating_add(1);
        self.place = 0;
        self.failures = 0;
        self.left = None;
        self.next = self.has_room().then(|| now + self.interval);
    }

    /// The number of the next one over all scenarios.
    fn number(&self) -> u32 {
        let before = self.scenarios.saturating_sub(1);
        before
            .saturating_mul(self.target)
            .saturating_add(self.place)
    }

    /// Whether there is a next one in this scenario, and it would be kept beside those before it.
    fn has_room(&self) -> bool {
        self.place < self.target && (self.number() as usize) < MAX_REPORTS
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

    /// The guest stood still for so long, and its scenario with it.
    pub(super) fn shift(&mut self, by: Duration) {
        self.next = self.next.map(|next| next + by);
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
        self.left = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn tally(&self) -> PeriodicTally {
        let kept = u32::try_from(MAX_REPORTS).unwrap_or(u32::MAX);
        PeriodicTally {
            target: self.target.saturating_mul(self.scenarios.max(1)).min(kept),
            fired: self.fired,
            missed: self.missed,
            gave_up: self.gave_up,
        }
    }

    /// The one that is due now, if any. Those before it whose successor is due as well are skipped: captures in a row would
    /// show one moment several times.
    pub(super) fn fire(&mut self, now: Instant) -> Option<Shot> {
        let mut due = self.next.filter(|due| *due <= now)?;
        while due + self.interval <= now && self.place + 1 < self.target && !self.interval.is_zero()
        {
            due += self.interval;
            self.place += 1;
            self.missed += 1;
        }
        let tag = format!("periodic_{:03}", self.number());
        self.fired += 1;
        self.place += 1;
        self.next = self.has_room().then(|| due + self.interval);
        Some(Shot { tag, due })
    }

    /// How the last one went.
    pub(super) fn note(&mut self, captured: bool) {
        self.failures = if captured { 0 } else { self.failures + 1 };
        if self.failures >= GIVE_UP_AFTER && self.next.is_some() {
            self.gave_up = true;
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
        assert_eq!((periodic.due(), periodic.tally().fired), (None, 3));
    }

    #[test]
    fn each_scenario_has_its_own_and_their_numbers_go_on() {
        let (mut periodic, start) = started(2);
        let tags = |periodic: &mut Periodic, start: Instant| -> Vec<String> {
            let shots = (1..=3).filter_map(|number| periodic.fire(start + SECOND * number));
            shots.map(|shot| shot.tag).collect()
        };
        assert_eq!(tags(&mut periodic, start), ["periodic_000", "periodic_001"]);
        let again = start + SECOND * 100;
        periodic.start(again);
        assert_eq!(tags(&mut periodic, again), ["periodic_002", "periodic_003"]);
        assert_eq!((periodic.tally().target, periodic.tally().fired), (4, 4));
        // What could not be kept beside the others is not begun.
        for _ in 0..100 {
            periodic.start(again);
            tags(&mut periodic, again);
        }
        assert_eq!((periodic.tally().target, periodic.tally().fired), (64, 64));
    }

    #[test]
    fn time_in_which_the_guest_stood_does_not_count() {
        let (mut periodic, start) = started(2);
        periodic.shift(SECOND * 5);
        assert_eq!(periodic.due(), Some(start + SECOND * 6));
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
        assert_eq!(periodic.tally().fired, 3);
        assert!(periodic.tally().gave_up);
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

    /// A host that was away for three of five does not make up for them.
    #[test]
    fn what_is_past_is_skipped_and_the_rest_keeps_its_time() {
        let (mut periodic, start) = started(5);
        let late = start + SECOND * 7 / 2;
        let shot = periodic.fire(late).unwrap();
        assert_eq!(
            (shot.tag.as_str(), shot.due),
            ("periodic_002", start + SECOND * 3)
        );
        assert_eq!(periodic.due(), Some(start + SECOND * 4));
        assert_eq!((periodic.tally().fired, periodic.tally().missed), (1, 2));
    }
}
