//! What happened to captures: why one is missing.

/// One happening.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BridgeEvent {
    /// A capture was asked for and could not be made.
    CaptureUnavailable {
        /// Its name.
        tag: String,
        /// Why.
        reason: String,
    },
    /// A capture replaced an older one of the same name.
    Overwrite {
        /// The name.
        tag: String,
    },
    /// The oldest capture made room.
    Eviction {
        /// Its name.
        tag: String,
    },
    /// Captures were found that the rules of their order exclude.
    DrainOrderingInvariantViolation {
        /// What was found.
        detail: String,
    },
    /// More captures were found than may be kept.
    CapInvariantViolation {
        /// How many.
        found: usize,
    },
    /// Older events were dropped; always the last one.
    EventLogTruncated {
        /// How many.
        dropped_count: u64,
    },
}
