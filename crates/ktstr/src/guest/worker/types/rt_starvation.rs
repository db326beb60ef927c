//! `RtStarvation`: on one CPU, a FIFO worker spins in long bursts; a fair worker gets what is left. Exercises stall detection, the
//! fair server, and a sched_ext scheduler that loses a CPU for long.
//!
//! One iteration is a chain of as many multiplications as the work type says (1024 of a fair worker), one work unit. None rests: that
//! the fair ones run at all is the kernel's doing.

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
