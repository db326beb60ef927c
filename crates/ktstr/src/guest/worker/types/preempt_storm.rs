//! `PreemptStorm`: on one CPU, a FIFO worker preempts spinning fair ones every period. Presses preemption by a higher class:
//! `cpu_release` and `cpu_acquire` of a sched_ext scheduler.
//!
//! One iteration is one preemption (the FIFO worker) or a chain of multiplications (the others). The FIFO worker's wake latency is
//! from its due time to running.

use std::time::Duration;

use super::super::meter::{Meter, spin};
use super::{spin_wait, timer_latency};

pub(super) fn run(fair: u32, period: Duration, member: usize, meter: &mut Meter<'_>) {
    if member < fair as usize {
        return spin_wait::run(meter);
    }
    while !meter.stopping() {
        timer_latency::once(period, meter);
        spin(512);
        meter.tick(1);
    }
}
