//! `SpinWait`: always wants a CPU. Exercises tick preemption and load balancing.
//!
//! One iteration is a chain of [`TURNS`] multiplications, one work unit each. It never sleeps, so it has no wake latency.

use super::super::meter::{Meter, spin};

/// Multiplications of one iteration.
pub(super) const TURNS: u64 = 1_024;
/// Multiplications between two looks at the clock: some 10 us natively, so that the clock's cost stays small.
pub(super) const CHUNK: u64 = 8 * TURNS;

pub(super) fn run(meter: &mut Meter<'_>) {
    while !meter.stopping() {
        once(meter);
    }
}

/// Spins until the next look at the clock.
pub(super) fn once(meter: &mut Meter<'_>) {
    spin(CHUNK);
    meter.tick_many(CHUNK / TURNS, CHUNK);
}
