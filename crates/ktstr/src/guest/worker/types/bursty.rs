//! `Bursty`: spins for a while, sleeps for a while. Exercises timer wake-ups, idle entry and exit, and what a scheduler
//! credits a task for having slept.
//!
//! One iteration is 1024 multiplications of the burst. Wake latency is from the requested end of the sleep to running; the sleep itself
//! is no gap.

use std::time::Duration;

use super::super::meter::Meter;
use super::spin_wait;
use crate::guest::sys::monotonic_ns;

pub(super) fn run(burst: Duration, sleep: Duration, meter: &mut Meter<'_>) {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (burst_ns, sleep_ns) = (ns(burst), ns(sleep));
    let mut begun_ns = meter.start_ns();
    while !meter.stopping() {
        spin_wait::once(meter);
        let now = monotonic_ns();
        if now.saturating_sub(begun_ns) < burst_ns {
            continue;
        }
        meter.sleep_until(now.saturating_add(sleep_ns));
        begun_ns = monotonic_ns();
    }
}
