//! `TimerLatency`: wakes at absolute times. Exercises the timer interrupt and the wake-up out of it, as cyclictest does.
//!
//! One iteration is one period: one work unit. Wake latency is from the absolute time asked for to running; times that were
//! missed altogether are left out, not piled up.

use std::time::Duration;

use super::super::meter::{Meter, nanos};
use crate::guest::sys::monotonic_ns;

pub(super) fn run(period: Duration, meter: &mut Meter<'_>) {
    while !meter.stopping() {
        once(period, meter);
        meter.tick(1);
    }
}

/// Sleeps until the next multiple of `period` since the window's start.
pub(super) fn once(period: Duration, meter: &mut Meter<'_>) {
    let period_ns = nanos(period).max(1_000);
    let gone_ns = monotonic_ns().saturating_sub(meter.start_ns());
    let next = gone_ns / period_ns + 1;
    meter.sleep_until(meter.start_ns().saturating_add(next * period_ns));
}
