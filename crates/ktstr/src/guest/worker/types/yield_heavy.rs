//! `YieldHeavy`: spins a little and yields. Exercises `sched_yield`, requeueing and the pick of the next task.
//!
//! One iteration is a short spin and one `sched_yield`: one work unit. Time until it runs again is gap, not wake latency,
//! because a yielding task stays runnable.

use super::super::meter::{Meter, spin};

/// Steps before each yield.
const SPIN: u64 = 64;

pub(super) fn run(meter: &mut Meter<'_>) {
    while !meter.stopping() {
        spin(SPIN);
        rustix::thread::sched_yield();
        meter.tick(1);
    }
}
