//! Parameters of the two ported benchmarks.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// schbench: message threads wake worker threads, each of which "thinks", computes and asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchbenchSpec {
    /// Message threads (`-m`).
    pub message_threads: u32,
    /// Worker threads of each message thread (`-t`).
    pub worker_threads: u32,
    /// Matrices that one request works on, KiB (`-F`).
    pub cache_footprint_kib: u32,
    /// Passes of each request (`-n`).
    pub operations: u32,
    /// Sleep before the computation, as if for a network answer (`-s`).
    pub sleep: Duration,
    /// Requests per second of each message thread (`-R`); 0: as fast as they are answered.
    pub requests_per_sec: u32,
}

impl SchbenchSpec {
    /// schbench's own defaults, but two workers.
    pub const DEFAULT: Self = Self {
        message_threads: 1,
        worker_threads: 2,
        cache_footprint_kib: 256,
        operations: 5,
        sleep: Duration::from_micros(100),
        requests_per_sec: 0,
    };

    /// Smaller requests, so that a guest without hardware support answers many of them.
    pub const SMALL: Self = Self {
        cache_footprint_kib: 32,
        operations: 1,
        ..Self::DEFAULT
    };
}

/// Taobench: fast threads serve a cache; what is missing goes to slow threads that fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaobenchSpec {
    /// Threads that look keys up.
    pub fast_threads: u32,
    /// Threads that fetch what was missing.
    pub slow_threads: u32,
    /// Size of the cache, KiB.
    pub cache_kib: u32,
    /// Share of lookups that hit.
    pub hit_pct: u32,
    /// Time that one fetch takes, asleep.
    pub slow_path: Duration,
}

impl TaobenchSpec {
    /// 8 MiB of cache, nine of ten lookups hit, a fetch takes 100 us.
    pub const DEFAULT: Self = Self {
        fast_threads: 2,
        slow_threads: 2,
        cache_kib: 8_192,
        hit_pct: 90,
        slow_path: Duration::from_micros(100),
    };
}
