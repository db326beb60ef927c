//! `SignalStorm`: workers 2i and 2i+1 send each other bursts of real-time signals in turn. Exercises signal delivery and the
//! wake-up of a task that sleeps interruptibly.
//!
//! One iteration is one burst received and one sent: a work unit for each signal. Wake latency is from the partner's first
//! signal to running.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::io::Errno;

use super::super::meter::{Meter, SLICE, spin};
use super::super::os;
use super::{Body, body};

pub(super) fn prepare<'a>(burst: u64, turns: u64) -> Result<Body<'a>, Errno> {
    os::block_signals()?;
    let burst = burst.max(1);
    body(move |meter: &mut Meter<'_>| {
        let partner = meter.index() ^ 1;
        if meter.index().is_multiple_of(2) && send(partner, burst, meter).is_err() {
            return;
        }
        while receive(burst, meter) {
            meter.tick(burst);
            spin(turns);
            if send(partner, burst, meter).is_err() {
                return;
            }
        }
    })
}

fn send(partner: usize, burst: u64, meter: &Meter<'_>) -> Result<(), Errno> {
    let slot = meter.slot_of(partner);
    meter.call(partner);
    for _ in 0..burst {
        os::send_signal(slot.pid.load(Relaxed), slot.tid.load(Relaxed))?;
    }
    Ok(())
}

/// Takes one burst; `false` if the stop came first.
fn receive(burst: u64, meter: &mut Meter<'_>) -> bool {
    meter.rest();
    let mut slept = false;
    while !os::take_signal(if slept { SLICE } else { Duration::ZERO }) {
        if meter.stopping() {
            return false;
        }
        slept = true;
    }
    meter.awake(slept);
    let mut taken = 1;
    while taken < burst {
        if os::take_signal(SLICE) {
            taken += 1;
        } else if meter.stopping() {
            return false;
        }
    }
    true
}
