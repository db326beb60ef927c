//! `FutexFanOut` and `FanOutCompute`: one worker wakes all others of its group, each works, the last one done wakes the first.
//! Exercises waking many at once: wake affinity, the search for idle CPUs, spreading.
//!
//! One iteration is one round, one work unit. Wake latency is from the waker's call to running, for the last one's call to
//! the first worker as well.
//!
//! Words of the group: 0 counts rounds, 1 those that are still at work.

use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::time::Duration;

use rustix::io::Errno;

use super::super::meter::{Meter, spin};
use super::compute::Matrices;
use super::{Body, body};
use crate::guest::sys;
use crate::model::work::WorkType;

pub(super) fn prepare<'a>(
    work: &WorkType,
    leader: usize,
    member: usize,
) -> Result<Body<'a>, Errno> {
    let (fan, pause) = match work {
        WorkType::FanOutCompute {
            fan_out,
            sleep_usec,
            ..
        } => (*fan_out, Duration::from_micros(*sleep_usec)),
        WorkType::FutexFanOut { fan_out, .. } => (*fan_out, Duration::ZERO),
        _ => return Err(Errno::INVAL),
    };
    if member == 0 {
        return body(move |meter: &mut Meter<'_>| lead(fan, pause, leader, meter));
    }
    match *work {
        WorkType::FanOutCompute {
            cache_footprint_kib,
            operations,
            ..
        } => {
            let mut matrices = Matrices::new(cache_footprint_kib);
            let compute = move |meter: &Meter<'_>| {
                (0..operations).for_each(|_| matrices.multiply(|| !meter.stopping()));
            };
            body(move |meter: &mut Meter<'_>| follow(leader, compute, meter))
        }
        WorkType::FutexFanOut {
            spin_iters: steps, ..
        } => body(move |meter: &mut Meter<'_>| follow(leader, |_| spin(steps), meter)),
        _ => Err(Errno::INVAL),
    }
}

fn lead(fan: usize, pause: Duration, leader: usize, meter: &mut Meter<'_>) {
    let [rounds, at_work, ..] = &meter.slot_of(leader).words;
    while !meter.stopping() {
        at_work.store(u32::try_from(fan).unwrap_or(u32::MAX), Release);
        for other in leader + 1..=leader + fan {
            meter.call(other);
        }
        rounds.fetch_add(1, Release);
        sys::futex_wake_all(rounds);
        if !meter.await_word(at_work, |left| left == 0) {
            return;
        }
        meter.tick(1);
        if !pause.is_zero() {
            meter.sleep_for(pause);
        }
    }
}

fn follow(leader: usize, mut work: impl FnMut(&Meter<'_>), meter: &mut Meter<'_>) {
    let [rounds, at_work, ..] = &meter.slot_of(leader).words;
    let mut seen = 0;
    while meter.await_word(rounds, |round| round != seen) {
        seen = rounds.load(Relaxed);
        work(meter);
        meter.tick(1);
        if at_work.fetch_sub(1, AcqRel) == 1 {
            meter.call(leader);
            sys::futex_wake_all(at_work);
        }
    }
}
