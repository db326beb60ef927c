//! Moments to come.

use std::time::{Duration, Instant};

/// Later than any VM lives; sums of a few of these are still moments.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The moment `wait` after `at`, where `Duration::MAX` means never.
pub(crate) fn after(at: Instant, wait: Duration) -> Instant {
    at + wait.min(FAR)
}

/// The moment `wait` from now.
pub(crate) fn from_now(wait: Duration) -> Instant {
    after(Instant::now(), wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_a_moment_and_so_is_a_freeze_later() {
        let never = from_now(Duration::MAX);
        let moved = never + Duration::from_secs(3600);
        assert!(moved > Instant::now() + Duration::from_secs(86_400));
        assert_eq!(
            after(never, Duration::from_secs(1)) - never,
            Duration::from_secs(1)
        );
    }
}
