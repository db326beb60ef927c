//! How long a guest has stood still in freezes, which its deadline does not count.

use std::time::{Duration, Instant};

/// How often the deadline of a guest that stands still is looked at; the end of the freeze is noticed no later.
const LOOK: Duration = Duration::from_millis(200);

/// Freezes, nested ones too, and their time.
#[derive(Debug, Default)]
pub(crate) struct StandStill {
    past: Duration,
    since: Option<Instant>,
    freezes: u32,
}

impl StandStill {
    /// A freeze that was asked for at `began` holds.
    pub(crate) fn begin(&mut self, began: Instant) {
        self.freezes += 1;
        self.since.get_or_insert(began);
    }

    /// A freeze has ended.
    pub(crate) fn end(&mut self, now: Instant) {
        self.freezes = self.freezes.saturating_sub(1);
        if self.freezes == 0
            && let Some(since) = self.since.take()
        {
            self.past += now.saturating_duration_since(since);
        }
    }

    /// All of the time, up to `now`.
    pub(crate) fn total(&self, now: Instant) -> Duration {
        let current = self.since.map(|since| now.saturating_duration_since(since));
        self.past + current.unwrap_or_default()
    }

    /// How long to wait for `deadline`, which moves with the time; `None` once it has passed.
    pub(crate) fn left(&self, deadline: Instant, now: Instant) -> Option<Duration> {
        let left = (deadline + self.total(now)).saturating_duration_since(now);
        if self.since.is_some() {
            return Some(left.max(LOOK));
        }
        Some(left).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_moves_while_the_guest_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let mut still = StandStill::default();
        assert_eq!(still.left(at(10), at(4)), seconds(6));
        still.begin(at(4));
        still.begin(at(5));
        assert_eq!(still.left(at(10), at(20)), seconds(6));
        still.end(at(21));
        assert_eq!(still.total(at(22)), Duration::from_secs(18));
        still.end(at(24));
        assert_eq!(still.left(at(10), at(29)), seconds(1));
        assert_eq!(still.left(at(10), at(30)), None);
        still.begin(at(40));
        assert_eq!(
            still.left(at(10), at(50)),
            Some(LOOK),
            "no freezer loses its guest"
        );
    }
}
