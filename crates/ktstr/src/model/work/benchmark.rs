//! Parameters of the two ported benchmarks.

use serde::{Deserialize, Serialize};

macro_rules! setters {
    ($config:ident: $( $(#[$about:meta])* $field:ident: $type:ty; )*) => {
        impl Default for $config {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl $config {
            $(
                $(#[$about])*
                #[must_use]
                pub const fn $field(mut self, value: $type) -> Self {
                    self.$field = value;
                    self
                }
            )*
        }
    };
}

/// schbench: message threads wake worker threads, each of which "thinks", computes and asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchbenchConfig {
    /// Message threads (`-m`); 1.
    pub message_threads: usize,
    /// Worker threads of each message thread (`-t`); 0: one for each CPU that the worker may use, shared among the message
    /// threads.
    pub worker_threads: usize,
    /// Matrices that one request works on, KiB (`-F`); 256.
    pub cache_footprint_kib: usize,
    /// Passes of each request (`-n`); 5.
    pub operations: usize,
    /// Sleep before the computation, as if for a network answer, microseconds (`-s`); 100.
    pub sleep_usec: u64,
    /// Requests per second of each message thread (`-R`); 0: as fast as they are answered.
    pub requests_per_sec: u64,
}

impl SchbenchConfig {
    /// schbench's own defaults.
    pub const DEFAULT: Self = Self {
        message_threads: 1,
        worker_threads: 0,
        cache_footprint_kib: 256,
        operations: 5,
        sleep_usec: 100,
        requests_per_sec: 0,
    };

    /// Two worker threads and smaller requests, so that a guest without hardware support answers many of them.
    pub const SMALL: Self = Self {
        worker_threads: 2,
        cache_footprint_kib: 32,
        operations: 1,
        ..Self::DEFAULT
    };
}

setters! { SchbenchConfig:
    /// Sets the number of message threads.
    message_threads: usize;
    /// Sets the number of worker threads of each message thread.
    worker_threads: usize;
    /// Sets the size of what a request works on, KiB.
    cache_footprint_kib: usize;
    /// Sets the passes of each request.
    operations: usize;
    /// Sets the sleep before the computation, microseconds.
    sleep_usec: u64;
    /// Sets the requests per second of each message thread.
    requests_per_sec: u64;
}

/// Taobench: fast threads serve a cache; what is missing goes to slow threads that fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaobenchConfig {
    /// Threads that look keys up; 0: one for each CPU that the worker may use.
    pub client_threads: usize,
    /// Threads that fetch what was missing; 0: half as many, at least one.
    pub slow_threads: usize,
    /// Size of the cache, MiB; 64.
    pub cache_capacity_mib: usize,
    /// Share of lookups that hit, per cent; 90.
    pub target_hit_pct: u32,
    /// Time that one fetch takes, asleep, microseconds; 100.
    pub slow_path_sleep_us: u64,
}

impl TaobenchConfig {
    /// 64 MiB of cache, nine of ten lookups hit, a fetch takes 100 us, threads by CPUs.
    pub const DEFAULT: Self = Self {
        client_threads: 0,
        slow_threads: 0,
        cache_capacity_mib: 64,
        target_hit_pct: 90,
        slow_path_sleep_us: 100,
    };

    /// Two threads of each kind and 8 MiB of cache, for a guest without hardware support.
    pub const SMALL: Self = Self {
        client_threads: 2,
        slow_threads: 2,
        cache_capacity_mib: 8,
        ..Self::DEFAULT
    };
}

setters! { TaobenchConfig:
    /// Sets the number of threads that look keys up.
    client_threads: usize;
    /// Sets the number of threads that fetch.
    slow_threads: usize;
    /// Sets the size of the cache, MiB.
    cache_capacity_mib: usize;
    /// Sets the share of lookups that hit, per cent.
    target_hit_pct: u32;
    /// Sets the time of a fetch, microseconds.
    slow_path_sleep_us: u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setter_sets_its_field() {
        let schbench = SchbenchConfig::default()
            .message_threads(2)
            .worker_threads(3)
            .cache_footprint_kib(4)
            .operations(5)
            .sleep_usec(6)
            .requests_per_sec(7);
        let literal = SchbenchConfig {
            message_threads: 2,
            worker_threads: 3,
            cache_footprint_kib: 4,
            operations: 5,
            sleep_usec: 6,
            requests_per_sec: 7,
        };
        assert_eq!(schbench, literal);
        let taobench = TaobenchConfig::default()
            .client_threads(2)
            .slow_threads(3)
            .cache_capacity_mib(4)
            .target_hit_pct(5)
            .slow_path_sleep_us(6);
        let literal = TaobenchConfig {
            client_threads: 2,
            slow_threads: 3,
            cache_capacity_mib: 4,
            target_hit_pct: 5,
            slow_path_sleep_us: 6,
        };
        assert_eq!(taobench, literal);
    }
}
