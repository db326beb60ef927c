//! How long a test's VM and what runs in it may take.

use std::time::Duration;

/// The deadlines that were in force, for the message of a time-out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// Of the whole VM.
    pub(crate) vm: Duration,
    /// The scheduler watchdog that the test declared.
    pub(crate) watchdog: Duration,
    /// The scenario's declared duration.
    pub(crate) duration: Duration,
}
