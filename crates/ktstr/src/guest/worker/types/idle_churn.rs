//! `IdleChurn`: short bursts between sleeps. Exercises idle entry and exit, the choice of an idle CPU, and the tick's stop and
//! restart.
//!
//! One iteration is one burst and one sleep: one work unit. Wake latency is from the sleep's requested end to running.

use std::time::Duration;

use super::super::meter::Meter;

pub(super) fn run((burst, sleep): (Duration, Duration), precise: bool, meter: &mut Meter<'_>) {
    if precise {
        // Refused or not, the sleeps are measured as they are.
        let _ = rustix::thread::set_current_timer_slack(1.try_into().ok());
    }
    while !meter.stopping() {
        meter.burn_wall(burst);
        meter.tick(1);
        meter.sleep_for(sleep);
    }
}
