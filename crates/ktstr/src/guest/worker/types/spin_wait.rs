//! `SpinWait`: always wants a CPU. Presses tick preemption and load balancing.
//!
//! One iteration is a chain of [`CHUNK`] multiplications, one work unit each. It never sleeps, so it has no wake latency.

use super::super::meter::{Meter, spin};

/// Steps between two looks at the clock: some 10 us natively, so that the clock's cost stays small.
pub(in super::super) const CHUNK: u32 = 8_192;

pub(super) fn run(meter: &mut Meter<'_>) {
    while !meter.stopping() {
        spin(CHUNK);
        meter.tick(u64::from(CHUNK));
    }
}
