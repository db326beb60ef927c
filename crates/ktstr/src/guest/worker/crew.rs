//! Threads inside one worker, for the benchmarks: they count and record into the worker's own slot.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use super::meter::{Meter, SLICE, nanos};
use super::page::{Control, Slot};
use crate::guest::sys;

/// One thread's view of its worker.
#[derive(Debug)]
pub(super) struct Crew<'a> {
    control: &'a Control,
    slot: &'a Slot,
    cpu: Option<u32>,
}

impl<'a> Crew<'a> {
    /// A thread of the worker that `meter` measures.
    pub(super) fn of(meter: &Meter<'a>) -> Self {
        let (control, slot) = meter.shared();
        Self {
            control,
            slot,
            cpu: None,
        }
    }

    /// Whether the worker has been asked to stop.
    pub(super) fn stopping(&self) -> bool {
        self.control.stop.load(Relaxed) != 0
    }

    /// An iteration is over: one work unit.
    pub(super) fn done(&mut self) {
        let cpu = sys::current_cpu();
        let before = self.cpu.replace(cpu);
        if before != Some(cpu) {
            self.slot.note_cpu(cpu);
            self.slot
                .migrations
                .fetch_add(u64::from(before.is_some()), Relaxed);
        }
        self.slot.iterations.fetch_add(1, Relaxed);
        self.slot.work_units.fetch_add(1, Relaxed);
    }

    /// Adds to one of the worker's histograms.
    pub(super) fn record(&self, which: usize, latency_ns: u64) {
        self.slot.latencies[which].add(latency_ns);
    }

    /// Counts a wake-up; the samples' choice is the first ones and then every so often one, for many threads write here.
    pub(super) fn woken(&self, latency_ns: u64) {
        let seen = self.slot.wake_count.fetch_add(1, Relaxed);
        self.slot.wake_max_ns.fetch_max(latency_ns, Relaxed);
        let place = usize::try_from(seen).unwrap_or(0) % self.slot.wake_samples.len();
        self.slot.wake_samples[place].store(latency_ns, Relaxed);
    }

    /// Waits until `ready` holds for the word: whether it slept; `None` if the stop came first.
    pub(super) fn rest_on(&self, word: &AtomicU32, ready: impl Fn(u32) -> bool) -> Option<bool> {
        let mut slept = false;
        while !self.stopping() {
            let value = word.load(Acquire);
            if ready(value) {
                return Some(slept);
            }
            sys::futex_wait(word, value, SLICE);
            slept = true;
        }
        None
    }

    /// Same, without telling whether it slept; `false` if the stop came first.
    pub(super) fn await_word(&self, word: &AtomicU32, ready: impl Fn(u32) -> bool) -> bool {
        self.rest_on(word, ready).is_some()
    }

    /// Sleeps this long or until the stop.
    pub(super) fn sleep(&self, time: Duration) {
        let until_ns = sys::monotonic_ns().saturating_add(nanos(time));
        loop {
            let left_ns = until_ns.saturating_sub(sys::monotonic_ns());
            if left_ns == 0 || self.stopping() {
                return;
            }
            sys::futex_wait(&self.control.stop, 0, Duration::from_nanos(left_ns));
        }
    }
}

/// How often the worker's first thread looks whether the others made progress: the resolution of the longest gap.
const LOOK: Duration = Duration::from_millis(20);

/// The first thread's part: notes progress whenever an iteration was done, until the stop.
pub(super) fn supervise(meter: &mut Meter<'_>) {
    let (control, slot) = meter.shared();
    let mut seen = 0;
    while !meter.stopping() {
        sys::futex_wait(&control.stop, 0, LOOK);
        let done = slot.iterations.load(Relaxed);
        if done != seen {
            seen = done;
            meter.progress();
        }
    }
}
