//! `Schbench`: message threads wake worker threads, each of which sleeps as if for a network, computes, and asks for more. Exercises
//! wake-up latency under cache load.
//!
//! One iteration is one request: one work unit. The two histograms are schbench's: `wakeup` is from the message thread's post to
//! the worker's running, `request` from there to the request's end. The gap is the longest time in which no thread finished a request,
//! to 20 ms.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use rustix::io::Errno;

use super::super::crew::{Crew, supervise};
use super::super::meter::Meter;
use super::compute::Matrices;
use super::{Body, body};
use crate::guest::sys::{self, monotonic_ns};
use crate::model::work::SchbenchConfig;

const WAKEUP: usize = 0;
const REQUEST: usize = 1;

/// One message thread and those that it wakes.
#[derive(Debug)]
struct Post {
    /// Counts workers that began to wait; the message thread sleeps on it.
    asked: AtomicU32,
    seats: Vec<Seat>,
}

/// Where one worker thread waits.
#[derive(Debug, Default)]
struct Seat {
    /// 1: it waits.
    waiting: AtomicU32,
    posted_ns: AtomicU64,
}

pub(super) fn prepare<'a>(spec: &SchbenchConfig) -> Result<Body<'a>, Errno> {
    let spec = *spec;
    let messengers = spec.message_threads.max(1);
    let workers = match spec.worker_threads {
        0 => super::placement::allowed()?
            .len()
            .div_ceil(messengers)
            .max(1),
        count => count,
    };
    let seats = || (0..workers).map(|_| Seat::default());
    let posts: Vec<Post> = (0..messengers)
        .map(|_| Post {
            asked: AtomicU32::new(0),
            seats: seats().collect(),
        })
        .collect();
    body(move |meter: &mut Meter<'_>| {
        std::thread::scope(|scope| {
            for post in &posts {
                let crew = Crew::of(meter);
                scope.spawn(move || deliver(&spec, post, &crew));
                for seat in &post.seats {
                    let crew = Crew::of(meter);
                    scope.spawn(move || serve(&spec, post, seat, crew));
                }
            }
            supervise(meter);
        });
    })
}

/// A message thread: wakes all that wait, or paces them when a rate is asked for.
fn deliver(spec: &SchbenchConfig, post: &Post, crew: &Crew<'_>) {
    let pace = (spec.requests_per_sec > 0)
        .then(|| Duration::from_nanos(1_000_000_000 / spec.requests_per_sec));
    while !crew.stopping() {
        // Read before the look around: a worker that begins to wait after it changes the word.
        let asked = post.asked.load(Acquire);
        let mut waiting = post
            .seats
            .iter()
            .filter(|seat| seat.waiting.load(Acquire) == 1);
        let Some(pace) = pace else {
            waiting.for_each(wake);
            crew.await_word(&post.asked, |now| now != asked);
            continue;
        };
        waiting.next().into_iter().for_each(wake);
        crew.sleep(pace);
    }
}

fn wake(seat: &Seat) {
    seat.posted_ns.store(monotonic_ns(), Relaxed);
    seat.waiting.store(0, Release);
    sys::futex_wake_all(&seat.waiting);
}

/// A worker thread.
fn serve(spec: &SchbenchConfig, post: &Post, seat: &Seat, mut crew: Crew<'_>) {
    let mut matrices = Matrices::new(spec.cache_footprint_kib);
    loop {
        seat.waiting.store(1, Release);
        post.asked.fetch_add(1, AcqRel);
        sys::futex_wake_all(&post.asked);
        if !crew.await_word(&seat.waiting, |waiting| waiting == 0) {
            return;
        }
        let begun_ns = monotonic_ns();
        let late_ns = begun_ns.saturating_sub(seat.posted_ns.load(Relaxed));
        crew.record(WAKEUP, late_ns);
        crew.woken(late_ns);
        crew.sleep(Duration::from_micros(spec.sleep_usec));
        (0..spec.operations).for_each(|_| matrices.multiply(|| !crew.stopping()));
        if crew.stopping() {
            return;
        }
        crew.record(REQUEST, monotonic_ns().saturating_sub(begun_ns));
        crew.done();
    }
}
