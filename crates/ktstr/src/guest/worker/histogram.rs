//! A histogram of latencies in shared memory: many threads add, the parent reads, a killed worker loses nothing.
//!
//! The buckets are those of an HDR histogram with 7 significant bits: a bucket is at most 1/128 (0.8 %) wide. The
//! percentiles are made by the hdrhistogram crate from the buckets' middles.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::model::report::LatencySummary;

/// Bits of a value that a bucket keeps below its highest.
const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
/// Values from 2^42 ns (73 minutes) on share the last bucket.
const MAX_BITS: u32 = 42;
const BUCKETS: usize = SUB * (MAX_BITS - SUB_BITS + 1) as usize;

/// Counters by value.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Histogram {
    max_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << MAX_BITS) - 1);
    let bits = 64 - value.leading_zeros();
    let shift = bits.saturating_sub(SUB_BITS + 1);
    let sub = usize::try_from(value >> shift).unwrap_or(SUB);
    // Without a shift the value is its own bucket; with one, `sub` has its top bit set.
    (shift as usize * SUB + sub).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn value_of(bucket: usize) -> u64 {
    let shift = (bucket / SUB).saturating_sub(1);
    let sub = (bucket - shift * SUB) as u64;
    (sub << shift) + ((1 << shift) >> 1)
}

impl Histogram {
    /// Adds one value.
    pub(super) fn add(&self, value_ns: u64) {
        self.max_ns.fetch_max(value_ns, Relaxed);
        self.buckets[bucket_of(value_ns)].fetch_add(1, Relaxed);
    }

    /// The percentiles; `None` without a value.
    pub(super) fn summary(&self, name: &str) -> Option<LatencySummary> {
        let mut all = hdrhistogram::Histogram::<u64>::new(3).ok()?;
        for (bucket, count) in self.buckets.iter().enumerate() {
            let count = count.load(Relaxed);
            if count > 0 {
                all.record_n(value_of(bucket), count).ok()?;
            }
        }
        let max_ns = self.max_ns.load(Relaxed);
        let at = |percentile: f64| all.value_at_percentile(percentile).min(max_ns);
        (!all.is_empty()).then(|| LatencySummary {
            name: name.to_owned(),
            count: all.len(),
            min_ns: all.min().min(max_ns),
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            max_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::sys::{Shared, SharedAtomics};
    use proptest::prelude::*;

    // SAFETY: atomics and arrays of them only.
    unsafe impl SharedAtomics for Histogram {}

    proptest! {
        #[test]
        fn a_bucket_stands_for_its_values(value in 0u64..1 << MAX_BITS) {
            let back = value_of(bucket_of(value));
            prop_assert!(back.abs_diff(value) <= value / 128 + 1, "{value} became {back}");
        }

        #[test]
        fn buckets_ascend(a in 0u64..1 << MAX_BITS, b in 0u64..1 << MAX_BITS) {
            prop_assert!(bucket_of(a.min(b)) <= bucket_of(a.max(b)));
        }
    }

    #[test]
    fn percentiles_of_a_known_series() {
        let histogram: Shared<Histogram> = Shared::zeroed(1).unwrap();
        assert_eq!(histogram[0].summary("x"), None);
        for value in 1..=1_000u64 {
            histogram[0].add(value * 1_000);
        }
        let found = histogram[0].summary("wakeup").unwrap();
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) <= wanted / 64;
        assert!(near(found.p50_ns, 500_000), "{found:?}");
        assert!(near(found.p99_ns, 990_000), "{found:?}");
        assert_eq!((found.count, found.max_ns), (1_000, 1_000_000));
    }
}
