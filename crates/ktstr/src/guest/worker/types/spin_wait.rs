//! `SpinWait`: always wants a CPU. Exercises tick preemption and load balancing.
//!
//! One iteration is a chain of [`TURNS`] multiplications, one work unit each. It never sleeps, so it has no wake latency.

use super::super::meter::{Meter, spin};

/// Multiplications of one iteration.
pub(super) const TURNS: u64 = 1_024;
/// Multiplications between two looks at the clock: some 35 us natively and half a millisecond in virtual time. A look asks the kernel
/// for the thread's CPU time, which brings the scheduler's books up to date: it is rarer than a tick.
pub(super) const CHUNK: u64 = 32 * TURNS;
/// The same for work that stops at a time of its own.
const SHORT: u64 = 8 * TURNS;

pub(super) fn run(meter: &mut Meter<'_>) {
    while !meter.stopping() {
        chunk(CHUNK, meter);
    }
}

/// Spins for some 10 us natively.
pub(super) fn once(meter: &mut Meter<'_>) {
    chunk(SHORT, meter);
}

fn chunk(turns: u64, meter: &mut Meter<'_>) {
    spin(turns);
    meter.tick_many(turns / TURNS, turns);
}
