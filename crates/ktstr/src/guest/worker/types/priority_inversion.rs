//! `PriorityInversion`: workers of three roles on one CPU. The low ones, fair, hold a lock for long; the medium ones, fair, only
//! spin; the high ones, FIFO, want the lock. Exercises priority inheritance: with it the holder is lifted into the high ones' class
//! until it releases; without, the spinning ones stand in the way.
//!
//! One iteration is the lock taken and released, or a stretch of spinning: one work unit. The high ones' wake latency is from
//! wanting the lock to having it.
//!
//! Word 0 of the group is the plain lock, word 1 the one with inheritance (it holds its owner's thread id).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use rustix::thread::futex;

use super::super::meter::{Meter, SLICE, spin};
use super::mutex_contention;
use crate::guest::sys::monotonic_ns;

/// How long those of the high class rest between two attempts.
const REST: Duration = Duration::from_millis(5);

/// What a worker of the group does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Holds the lock, a fair task.
    Low,
    /// Is in the way, a fair task.
    Medium,
    /// Wants the lock, a FIFO task.
    High,
}

/// The role of a member: those of the low class come first, those of the high class last.
pub(super) fn role_of(low: usize, medium: usize, member: usize) -> Role {
    match member {
        member if member < low => Role::Low,
        member if member < low.saturating_add(medium) => Role::Medium,
        _ => Role::High,
    }
}

pub(super) fn run(
    role: Role,
    pi: bool,
    (hold, work): (u64, u64),
    leader: usize,
    meter: &mut Meter<'_>,
) {
    match role {
        Role::Low => {
            while lock(pi, leader, meter) {
                spin(hold);
                unlock(pi, leader, meter);
                meter.tick(1);
                spin(work);
            }
        }
        Role::Medium => {
            while !meter.stopping() {
                spin(work);
                meter.tick(1);
            }
        }
        Role::High => want(pi, leader, meter),
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
