//! When the runqueues are looked at, and what was seen: from the guest's first word to the scenario's end, and during each
//! further scenario. The judge leaves the first samples out.

use std::time::{Duration, Instant};

use ktstr_monitor::sampler::{MonitorReport, MonitorSample, WatchedField};

/// Between two looks. The monitor can do 1 kHz; ten a second are enough for its checks and cost the guest nothing.
const INTERVAL: Duration = Duration::from_millis(100);
/// Samples of more than an hour are not kept.
const MAX_SAMPLES: usize = 36_000;
/// Failures in a row after which sampling ends.
const GIVE_UP_AFTER: u32 = 10;

/// Samples of one run.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    next: Option<Instant>,
    samples: Vec<MonitorSample>,
    failures: u32,
}

impl Sampling {
    /// The guest can be looked into, or another scenario begins.
    pub(super) fn start(&mut self, now: Instant) {
        self.failures = 0;
        if self.samples.len() < MAX_SAMPLES {
            self.next = Some(now);
        }
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Whether it is time to look.
    pub(super) fn fire(&mut self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// Keeps what was seen, unless the scenario is `paused`, and plans the next look from now on: a late one is not made up
    /// for.
    pub(super) fn take(
        &mut self,
        sample: Result<MonitorSample, String>,
        paused: bool,
        now: Instant,
    ) {
        self.next = Some(now + INTERVAL);
        match sample {
            Ok(sample) => {
                self.failures = 0;
                if !paused {
                    self.samples.push(sample);
                }
            }
            Err(reason) => {
                tracing::debug!(reason, "no sample");
                self.failures += 1;
            }
        }
        if self.failures >= GIVE_UP_AFTER || self.samples.len() >= MAX_SAMPLES {
            self.stop();
        }
    }

    /// All samples of a guest with this tick rate, 0 when it is unknown, in which these members were watched; `None` when
    /// there are no samples.
    pub(super) fn report(self, hz: u32, watched: Vec<WatchedField>) -> Option<MonitorReport> {
        let any = !self.samples.is_empty();
        any.then(|| MonitorReport::new(self.samples, hz).with_watched(watched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_in_a_row_end_it() {
        let mut sampling = Sampling::default();
        let start = Instant::now();
        sampling.start(start);
        for number in 0..9 {
            assert!(sampling.fire(start + INTERVAL * number));
            sampling.take(Err(String::from("gone")), false, start + INTERVAL * number);
        }
        sampling.take(Ok(MonitorSample::default()), false, start + INTERVAL * 9);
        for number in 10..20 {
            sampling.take(Err(String::from("gone")), false, start + INTERVAL * number);
        }
        assert_eq!(sampling.due(), None);
        // Another scenario is another try; what is seen in a pause is not kept.
        sampling.start(start);
        for paused in [false, true] {
            sampling.take(Ok(MonitorSample::default()), paused, start);
        }
        assert!(sampling.due().is_some());
        let watched = vec![WatchedField::gauge("depth")];
        let report = sampling.report(1000, watched).unwrap();
        assert_eq!((report.samples.len(), report.watched.len()), (2, 1));
        assert!(Sampling::default().report(1000, Vec::new()).is_none());
    }
}
