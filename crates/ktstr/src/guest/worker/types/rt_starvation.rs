//! `RtStarvation`: on one CPU, a FIFO worker spins in long bursts; a fair worker gets what is left. Exercises stall detection, the
//! fair server, and a sched_ext scheduler that loses a CPU for long.
//!
//! One iteration is a chain of 8192 multiplications, one work unit each. The FIFO worker rests on purpose: a sched_ext task that
//! never ran would end the scheduler. Its wake latency is from the rest's end to running.

use super::super::meter::{Meter, spin};
use super::spin_wait;

pub(super) fn run(rt_workers: usize, turns: u64, member: usize, meter: &mut Meter<'_>) {
    if member >= rt_workers {
        return spin_wait::run(meter);
    }
    while !meter.stopping() {
        spin(turns);
        meter.tick(1);
    }
}
