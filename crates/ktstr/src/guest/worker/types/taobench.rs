//! `Taobench`: a read-mostly cache under load, after the TAO benchmark of DCPerf. Fast threads look keys up; what is missing goes to
//! slow threads that fetch it. Exercises short CPU bursts and hand-overs between threads.
//!
//! One iteration is one lookup answered: one work unit. The two histograms are service times from the lookup to its answer: `fast`
//! of hits, `slow` of misses. Wake latency is that of threads which slept: a slow one from the first miss in an empty queue to
//! running, a fast one from the first free place in a full queue. The gap is the longest time in which no lookup was
//! answered, to 20 ms.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustix::io::Errno;

use super::super::crew::{Crew, supervise};
use super::super::meter::{Meter, xorshift};
use super::{Body, body};
use crate::guest::sys::{self, monotonic_ns};
use crate::model::work::TaobenchConfig;

const FAST: usize = 0;
const SLOW: usize = 1;
/// Bytes of one entry.
const ENTRY: usize = 512;
const SHARDS: usize = 16;
/// Misses that may wait for slow threads; a fast thread waits while the queue is full.
const QUEUE: usize = 64;

/// A lookup that missed.
#[derive(Debug)]
struct Miss {
    key: u64,
    asked_ns: u64,
}

#[derive(Debug)]
struct Cache {
    shards: Vec<RwLock<Vec<u8>>>,
    queue: Mutex<VecDeque<Miss>>,
    /// Misses queued, modulo 2^32; slow threads sleep on it.
    queued: AtomicU32,
    /// Misses taken out, modulo 2^32; fast threads sleep on it while the queue is full.
    taken: AtomicU32,
    /// When the queue last stopped being empty, and being full.
    filled_ns: AtomicU64,
    room_ns: AtomicU64,
}

pub(super) fn prepare<'a>(spec: &TaobenchConfig) -> Result<Body<'a>, Errno> {
    let spec = *spec;
    let bytes = (spec.cache_capacity_mib.saturating_mul(1 << 20) / SHARDS).max(ENTRY);
    let cache = Cache {
        shards: (0..SHARDS).map(|_| RwLock::new(vec![1; bytes])).collect(),
        queue: Mutex::new(VecDeque::with_capacity(QUEUE)),
        queued: AtomicU32::new(0),
        taken: AtomicU32::new(0),
        filled_ns: AtomicU64::new(0),
        room_ns: AtomicU64::new(0),
    };
    let (clients, slow) = threads_of(&spec, super::placement::allowed()?.len());
    body(move |meter: &mut Meter<'_>| {
        std::thread::scope(|scope| {
            for number in 0..clients {
                let (cache, crew) = (&cache, Crew::of(meter));
                scope.spawn(move || look_up(&spec, number as u64 + 1, cache, crew));
            }
            for _ in 0..slow {
                let (cache, crew) = (&cache, Crew::of(meter));
                scope.spawn(move || fetch(&spec, cache, crew));
            }
            supervise(meter);
        });
    })
}

/// Threads that look up and threads that fetch, on this many CPUs.
fn threads_of(spec: &TaobenchConfig, cpus: usize) -> (usize, usize) {
    let clients = match spec.client_threads {
        0 => cpus.max(1),
        count => count,
    };
    let slow = match spec.slow_threads {
        0 => (clients / 2).max(1),
        count => count,
    };
    (clients, slow)
}

fn look_up(spec: &TaobenchConfig, seed: u64, cache: &Cache, mut crew: Crew<'_>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while !crew.stopping() {
        state = xorshift(state);
        let key = state >> 8;
        let asked_ns = monotonic_ns();
        if state % 100 < u64::from(spec.target_hit_pct) {
            std::hint::black_box(cache.read(key));
            crew.record(FAST, monotonic_ns().saturating_sub(asked_ns));
            crew.done();
        } else if !cache.enqueue(Miss { key, asked_ns }, &crew) {
            return;
        }
    }
}

fn fetch(spec: &TaobenchConfig, cache: &Cache, mut crew: Crew<'_>) {
    while !crew.stopping() {
        let queued = cache.queued.load(Relaxed);
        let Some(miss) = cache.dequeue() else {
            if crew.rest_on(&cache.queued, |now| now != queued) == Some(true) {
                crew.woken(monotonic_ns().saturating_sub(cache.filled_ns.load(Relaxed)));
            }
            continue;
        };
        crew.sleep(Duration::from_micros(spec.slow_path_sleep_us));
        cache.write(miss.key);
        crew.record(SLOW, monotonic_ns().saturating_sub(miss.asked_ns));
        crew.done();
    }
}

impl Cache {
    fn place(&self, key: u64) -> (usize, usize) {
        let key = usize::try_from(key).unwrap_or(0);
        (key % SHARDS, key / SHARDS)
    }

    /// Adds up one entry.
    fn read(&self, key: u64) -> u64 {
        let (shard, entry) = self.place(key);
        let shard = self.shards[shard]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let entries = shard.len() / ENTRY;
        let bytes = &shard[entry % entries * ENTRY..][..ENTRY];
        bytes.iter().map(|byte| u64::from(*byte)).sum()
    }

    /// Replaces one entry.
    fn write(&self, key: u64) {
        let (shard, entry) = self.place(key);
        let mut shard = self.shards[shard]
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let entries = shard.len() / ENTRY;
        let bytes = &mut shard[entry % entries * ENTRY..][..ENTRY];
        bytes.fill(u8::try_from(key & 0x7f).unwrap_or(1));
    }

    /// Queues a miss, after waiting for room; `false` if the stop came first.
    fn enqueue(&self, miss: Miss, crew: &Crew<'_>) -> bool {
        let mut miss = Some(miss);
        loop {
            let taken = self.taken.load(Relaxed);
            miss = miss.and_then(|miss| self.push(miss));
            if miss.is_none() {
                self.queued.fetch_add(1, Release);
                sys::futex_wake_all(&self.queued);
                return true;
            }
            match crew.rest_on(&self.taken, |now| now != taken) {
                Some(true) => {
                    crew.woken(monotonic_ns().saturating_sub(self.room_ns.load(Relaxed)));
                }
                Some(false) => {}
                None => return false,
            }
        }
    }

    /// Queues a miss if there is room; else gives it back.
    fn push(&self, miss: Miss) -> Option<Miss> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= QUEUE {
            return Some(miss);
        }
        if queue.is_empty() {
            self.filled_ns.store(monotonic_ns(), Relaxed);
        }
        queue.push_back(miss);
        None
    }

    fn dequeue(&self) -> Option<Miss> {
        let miss = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() == QUEUE {
                self.room_ns.store(monotonic_ns(), Relaxed);
            }
            queue.pop_front()
        }?;
        self.taken.fetch_add(1, AcqRel);
        sys::futex_wake_all(&self.taken);
        Some(miss)
    }
}
