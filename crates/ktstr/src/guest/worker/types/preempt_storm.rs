//! `PreemptStorm`: on one CPU, a FIFO worker preempts spinning fair ones every period. Exercises preemption by a higher class:
//! `cpu_release` and `cpu_acquire` of a sched_ext scheduler.
//!
//! One iteration is one preemption (the FIFO worker) or a chain of multiplications (the others). The FIFO worker's wake latency is
//! from its due time to running.

use std::time::Duration;

use super::super::meter::{Meter, spin};
use super::spin_wait;

pub(super) fn run(
    fair: usize,
    (turns, sleep): (u64, Duration),
    member: usize,
    meter: &mut Meter<'_>,
) {
    if member < fair {
        return spin_wait::run(meter);
    }
    while !meter.stopping() {
        meter.sleep_for(sleep);
        spin(turns);
        meter.tick(1);
    }
}
