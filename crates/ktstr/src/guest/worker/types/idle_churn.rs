//! `IdleChurn`: short bursts between sleeps. Presses idle entry and exit, the choice of an idle CPU, and the tick's stop and
//! restart.
//!
//! One iteration is one burst and one sleep: one work unit. Wake latency is from the sleep's requested end to running.

use std::time::Duration;

use super::super::meter::Meter;

pub(super) fn run(burst: Duration, sleep: Duration, meter: &mut Meter<'_>) {
    while !meter.stopping() {
        meter.burn(burst);
        meter.tick(1);
        meter.sleep_for(sleep);
    }
}
