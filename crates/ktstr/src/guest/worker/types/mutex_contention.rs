//! `MutexContention`: the workers of a group take one futex lock in turn. Exercises futex waits and wakes under contention, and
//! what happens when the holder of a lock is preempted.
//!
//! One iteration is the lock taken and released once: one work unit. Wake latency is from the release to running with the lock,
//! for those that had to sleep. Waiting for the lock is no gap.
//!
//! Word 0 of the group is the lock: 0 free, 1 held, 2 held and wanted (Drepper, "Futexes are tricky", mutex 2).

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::super::meter::{Meter, SLICE, spin};
use crate::guest::sys;

pub(super) fn run(hold: u64, work: u64, leader: usize, meter: &mut Meter<'_>) {
    while lock(leader, meter) {
        spin(hold);
        unlock(leader, meter);
        // Outside: it takes as long as some hundred multiplications.
        meter.tick(1);
        spin(work);
    }
}

/// Takes the group's lock; `false`, and not taken, if the stop came first.
pub(super) fn lock(leader: usize, meter: &mut Meter<'_>) -> bool {
    let shared = meter.slot_of(leader);
    let word = &shared.words[0];
    if meter.stopping() {
        return false;
    }
    if word.compare_exchange(0, 1, Acquire, Relaxed).is_ok() {
        return true;
    }
    meter.rest();
    let mut slept = false;
    while word.swap(2, Acquire) != 0 {
        if meter.stopping() {
            return false;
        }
        sys::futex_wait(word, 2, SLICE);
        slept = true;
    }
    meter.awake_since(slept, shared.mark_ns.load(Relaxed));
    true
}

/// Releases it.
pub(super) fn unlock(leader: usize, meter: &Meter<'_>) {
    let shared = meter.slot_of(leader);
    shared.mark_ns.store(sys::monotonic_ns(), Relaxed);
    release(&shared.words[0]);
}

fn release(word: &AtomicU32) {
    if word.swap(0, Release) == 2 {
        let one = rustix::thread::futex::Flags::empty();
        let _ = rustix::thread::futex::wake(word, one, 1);
    }
}
