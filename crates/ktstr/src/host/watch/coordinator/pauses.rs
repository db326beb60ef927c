//! The guest's pauses, and its deadline.

use std::time::{Duration, Instant};

use super::MAX_PAUSE;

/// The guest's pauses, which its deadline does not count, up to a bound: a guest that pauses for ever is ended all the same.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    past: Duration,
    since: Option<Instant>,
}

impl Pauses {
    pub(super) fn is_paused(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn pause(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub(super) fn resume(&mut self, now: Instant) {
        self.past = self.until(now);
        self.since = None;
    }

    /// All of them, up to `now`.
    pub(super) fn until(&self, now: Instant) -> Duration {
        let current = self.since.map(|since| now.saturating_duration_since(since));
        (self.past + current.unwrap_or_default()).min(MAX_PAUSE)
    }

    /// As long as they may get, if none begins any more.
    pub(super) fn longest(&self) -> Duration {
        if self.is_paused() {
            MAX_PAUSE
        } else {
            self.past
        }
    }
}
