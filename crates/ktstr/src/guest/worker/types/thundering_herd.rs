//! `ThunderingHerd`: one worker wakes all others of its group at intervals. Exercises `futex_wake` of all waiters: a burst of
//! enqueues and of searches for idle CPUs.
//!
//! One iteration is one broadcast sent or received: one work unit. Wake latency is from the broadcast to running.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use super::super::meter::Meter;
use crate::guest::sys;

pub(super) fn run(
    waiters: usize,
    (batches, interval): (u64, Duration),
    leader: usize,
    meter: &mut Meter<'_>,
) {
    let broadcasts = &meter.slot_of(leader).words[0];
    if meter.index() == leader {
        let mut sent = 0;
        while !meter.stopping() {
            if sent == batches {
                // Done: it rests until the stop, as the others do.
                meter.rest_for(Duration::MAX);
                continue;
            }
            sent += 1;
            for other in leader + 1..=leader + waiters {
                meter.call(other);
            }
            broadcasts.fetch_add(1, Release);
            sys::futex_wake_all(broadcasts);
            meter.tick(1);
            meter.sleep_for(interval);
        }
        return;
    }
    let mut seen = 0;
    while meter.await_word(broadcasts, |count| count != seen) {
        seen = broadcasts.load(Relaxed);
        meter.tick(1);
    }
}
