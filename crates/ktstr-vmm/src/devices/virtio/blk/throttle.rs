//! Token buckets: pure, time is a parameter.

use std::time::{Duration, Instant};

use super::Throttle;

/// A stall never lasts longer before its request is tried again.
const LONGEST_STALL: Duration = Duration::from_secs(1);

/// Tokens come at a steady rate up to one second's worth.
#[derive(Debug, Clone)]
struct Bucket {
    per_second: u64,
    /// Tokens times 1e9; negative after a request that was larger than the bucket.
    nano_tokens: i128,
    filled: Instant,
}

const NANO: i128 = 1_000_000_000;

impl Bucket {
    fn new(per_second: u64, now: Instant) -> Self {
        Self {
            per_second,
            nano_tokens: i128::from(per_second) * NANO,
            filled: now,
        }
    }

    fn full(&self) -> i128 {
        i128::from(self.per_second) * NANO
    }

    fn refill(&mut self, now: Instant) {
        let nanos = now.saturating_duration_since(self.filled).as_nanos();
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX / NANO / NANO);
        let came = nanos.saturating_mul(i128::from(self.per_second));
        self.nano_tokens = self.nano_tokens.saturating_add(came).min(self.full());
        self.filled = now;
    }

    /// How long until `cost` can be paid. A cost above the bucket's size needs it full.
    fn wait(&self, cost: u64) -> Duration {
        let needed = (i128::from(cost) * NANO).min(self.full());
        let missing = needed - self.nano_tokens;
        let Ok(missing) = u128::try_from(missing) else {
            return Duration::ZERO;
        };
        let nanos = missing.div_ceil(u128::from(self.per_second.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn pay(&mut self, cost: u64) {
        self.nano_tokens -= i128::from(cost) * NANO;
    }
}

/// What lets requests through.
#[derive(Debug, Clone)]
pub(super) struct Throttler {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Throttler {
    /// Buckets that are full. A rate of 0 means none.
    pub(super) fn new(throttle: Throttle, now: Instant) -> Self {
        let bucket = |rate: Option<u64>| {
            rate.filter(|rate| *rate > 0)
                .map(|rate| Bucket::new(rate, now))
        };
        Self {
            requests: bucket(throttle.iops.map(u64::from)),
            bytes: bucket(throttle.bytes_per_second),
        }
    }

    /// Pays for a request with `bytes` of data; or nothing is taken, and the time is given when to ask again.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let mut buckets: Vec<(&mut Bucket, u64)> = Vec::new();
        buckets.extend(self.requests.as_mut().map(|bucket| (bucket, 1)));
        buckets.extend(self.bytes.as_mut().map(|bucket| (bucket, bytes)));
        let mut wait = Duration::ZERO;
        for (bucket, cost) in &mut buckets {
            bucket.refill(now);
            wait = wait.max(bucket.wait(*cost));
        }
        if !wait.is_zero() {
            return Some(now + wait.min(LONGEST_STALL));
        }
        for (bucket, cost) in buckets {
            bucket.pay(cost);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn throttler(iops: u32, bytes: u64, now: Instant) -> Throttler {
        let throttle = Throttle {
            iops: Some(iops),
            bytes_per_second: Some(bytes),
        };
        Throttler::new(throttle, now)
    }

    #[test]
    fn a_burst_passes_and_the_next_one_waits_its_time() {
        let now = Instant::now();
        let mut throttler = throttler(10, 0, now);
        for _ in 0..10 {
            assert_eq!(throttler.take(512, now), None);
        }
        let until = throttler.take(512, now).unwrap();
        assert_eq!(until - now, Duration::from_millis(100));
        assert_eq!(throttler.take(512, until), None);
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_off() {
        let now = Instant::now();
        let mut throttler = throttler(0, 1000, now);
        assert_eq!(throttler.take(3000, now), None);
        let until = throttler.take(1000, now).unwrap();
        assert_eq!(until - now, LONGEST_STALL);
        assert!(throttler.take(1000, now + Duration::from_secs(2)).is_some());
        assert_eq!(throttler.take(1000, now + Duration::from_secs(3)), None);
    }

    #[test]
    fn no_throttle_lets_all_through() {
        let mut throttler = Throttler::new(Throttle::default(), Instant::now());
        assert_eq!(throttler.take(u64::MAX, Instant::now()), None);
    }

    proptest! {
        #[test]
        fn the_rate_holds_over_time(rate in 1u64..10_000, costs in proptest::collection::vec(1u64..5000, 1..60)) {
            let start = Instant::now();
            let mut now = start;
            let mut throttler = throttler(0, rate, start);
            let mut paid = 0;
            for cost in costs {
                let mut turns = 0;
                while let Some(until) = throttler.take(cost, now) {
                    prop_assert!(until > now);
                    now = until;
                    turns += 1;
                    prop_assert!(turns < 10_000);
                }
                paid += cost;
                // One bucket at the start, and one request beyond it.
                let allowed = (now - start).as_secs_f64() * rate as f64 + rate as f64 + cost.max(rate) as f64;
                prop_assert!(paid as f64 <= allowed + 1.0, "{paid} paid, {allowed} allowed");
            }
        }
    }
}
