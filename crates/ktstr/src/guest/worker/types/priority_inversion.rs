//! `PriorityInversion`: three workers on one CPU. The first, fair, holds a lock for long; the second, fair, only spins; the third,
//! FIFO, wants the lock. Presses priority inheritance: with `pi` the holder is lifted into the third's class until it releases;
//! without, the spinning one stands in the way.
//!
//! One iteration is the lock taken and released, or a chunk of spinning: one work unit. The third's wake latency is from wanting the
//! lock to having it.
//!
//! Word 0 of the group is the plain lock, word 1 the one with inheritance (it holds its owner's thread id).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use rustix::thread::futex;

use super::super::meter::{Meter, SLICE, spin};
use super::mutex_contention;
use super::spin_wait::CHUNK;
use crate::guest::sys::monotonic_ns;

/// How long the first holds the lock, in CPU time.
const HOLD: Duration = Duration::from_millis(2);
/// How long the third rests between two attempts.
const REST: Duration = Duration::from_millis(5);

pub(super) fn run(pi: bool, leader: usize, member: usize, meter: &mut Meter<'_>) {
    match member {
        0 => {
            while lock(pi, leader, meter) {
                meter.burn(HOLD);
                meter.tick(1);
                unlock(pi, leader, meter);
                spin(CHUNK);
            }
        }
        1 => {
            while !meter.stopping() {
                spin(CHUNK);
                meter.tick(1);
            }
        }
        _ => want(pi, leader, meter),
    }
}

fn want(pi: bool, leader: usize, meter: &mut Meter<'_>) {
    while !meter.stopping() {
        let wanted_ns = monotonic_ns();
        if !lock(pi, leader, meter) {
            return;
        }
        meter.note_wake(monotonic_ns().saturating_sub(wanted_ns));
        meter.tick(1);
        unlock(pi, leader, meter);
        meter.rest_for(REST);
    }
}

fn lock(pi: bool, leader: usize, meter: &mut Meter<'_>) -> bool {
    if !pi {
        return mutex_contention::lock(leader, meter);
    }
    let word = &meter.slot_of(leader).words[1];
    let own = meter.slot_of(meter.index()).tid.load(Relaxed);
    if meter.stopping() {
        return false;
    }
    if word.compare_exchange(0, own, Acquire, Relaxed).is_ok() {
        return true;
    }
    meter.rest();
    while !meter.stopping() {
        if lock_slice(word) {
            meter.awake(false);
            return true;
        }
    }
    false
}

/// One bounded attempt in the kernel; it takes absolute times of the real-time clock.
fn lock_slice(word: &std::sync::atomic::AtomicU32) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanos = now.tv_nsec + i64::from(SLICE.subsec_nanos());
    let until = rustix::time::Timespec {
        tv_sec: now.tv_sec + nanos / 1_000_000_000,
        tv_nsec: nanos % 1_000_000_000,
    };
    futex::lock_pi(word, futex::Flags::empty(), Some(&until)).is_ok()
}

fn unlock(pi: bool, leader: usize, meter: &Meter<'_>) {
    if !pi {
        return mutex_contention::unlock(leader, meter);
    }
    let word = &meter.slot_of(leader).words[1];
    let own = meter.slot_of(meter.index()).tid.load(Relaxed);
    if word.compare_exchange(own, 0, Release, Relaxed).is_err() {
        let _ = futex::unlock_pi(word, futex::Flags::empty());
    }
}
