//! `FutexPingPong`: workers 2i and 2i+1 wake each other in turn. Exercises futex wake-ups, `select_cpu` and wake-up preemption.
//!
//! One iteration is being woken once and waking the partner once: one work unit. Wake latency is from just before the
//! partner's `futex_wake` to running. While the partner has the turn, no time counts as gap.

use super::super::meter::{Meter, spin};

pub(super) fn run(steps: u64, meter: &mut Meter<'_>) {
    let partner = meter.index() ^ 1;
    while meter.await_turn() {
        spin(steps);
        meter.tick(1);
        meter.hand_over(partner);
    }
}
