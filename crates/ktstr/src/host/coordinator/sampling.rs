//! When the runqueues are looked at, and what was seen: from the guest's first word to the scenario's end. Those who judge
//! leave the first samples out.

use std::time::{Duration, Instant};

use ktstr_monitor::sampler::{MonitorReport, MonitorSample};

/// Between two looks. The monitor can do 1 kHz; ten a second are enough for its checks and cost the guest nothing.
const INTERVAL: Duration = Duration::from_millis(100);
/// Samples of more than an hour are not kept.
const MAX_SAMPLES: usize = 36_000;
/// Failures in a row after which nobody looks any more.
const GIVE_UP_AFTER: u32 = 10;
/// The tick rates that a kernel can be built with (`kernel/Kconfig.hz`).
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// Samples of one run.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    next: Option<Instant>,
    samples: Vec<MonitorSample>,
    failures: u32,
    begun: Option<(Instant, u64)>,
    hz: u32,
}

impl Sampling {
    /// The guest can be looked into.
    pub(super) fn start(&mut self, now: Instant) {
        self.next = Some(now);
    }

    /// The scenario began; the guest's `ticks` now and at its end tell their rate.
    pub(super) fn begin(&mut self, now: Instant, ticks: Option<u64>) {
        self.begun = ticks.map(|ticks| (now, ticks));
    }

    /// The scenario is over.
    pub(super) fn end(&mut self, now: Instant, ticks: Option<u64>) {
        self.stop();
        if let (Some((begun, before)), Some(after)) = (self.begun, ticks) {
            self.hz = rate(
                now.saturating_duration_since(begun),
                after.saturating_sub(before),
            );
        }
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Whether it is time to look.
    pub(super) fn fire(&mut self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// Keeps what was seen, and plans the next look from now on: a late one is not made up for.
    pub(super) fn take(&mut self, sample: Result<MonitorSample, String>, now: Instant) {
        self.next = Some(now + INTERVAL);
        match sample {
            Ok(sample) => {
                self.failures = 0;
                self.samples.push(sample);
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

    /// All samples; `None` when there are none.
    pub(super) fn report(self) -> Option<MonitorReport> {
        (!self.samples.is_empty()).then(|| MonitorReport::new(self.samples, self.hz))
    }
}

/// The nearest rate that a kernel can have; 0 when nothing can be said. The guest's clock may be slower than the host's.
fn rate(time: Duration, ticks: u64) -> u32 {
    let Ok(ms) = u64::try_from(time.as_millis()) else {
        return 0;
    };
    if ms < 500 || ticks == 0 {
        return 0;
    }
    let seen = ticks.saturating_mul(1000) / ms;
    RATES
        .into_iter()
        .min_by_key(|rate| u64::from(*rate).abs_diff(seen))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_rate_is_one_that_exists() {
        for (ms, ticks, hz) in [
            (2000, 2003, 1000),
            (2000, 498, 250),
            (1000, 91, 100),
            (100, 90, 0),
            (1000, 0, 0),
        ] {
            assert_eq!(rate(Duration::from_millis(ms), ticks), hz);
        }
    }

    #[test]
    fn ten_failures_in_a_row_end_it() {
        let mut sampling = Sampling::default();
        let start = Instant::now();
        sampling.start(start);
        for number in 0..9 {
            assert!(sampling.fire(start + INTERVAL * number));
            sampling.take(Err(String::from("gone")), start + INTERVAL * number);
        }
        sampling.take(Ok(MonitorSample::default()), start + INTERVAL * 9);
        for number in 10..20 {
            sampling.take(Err(String::from("gone")), start + INTERVAL * number);
        }
        assert_eq!(sampling.due(), None);
        assert_eq!(sampling.report().unwrap().samples.len(), 1);
        assert!(Sampling::default().report().is_none());
    }
}
