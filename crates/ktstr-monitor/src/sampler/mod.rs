//! Sampling: a plan resolved once, then only reads.
//!
//! [`Sampler`] looks every CPU's members up once and keeps physical addresses; a sample is some thousand reads at most
//! and no walk, so it may run at 1 kHz beside a busy machine. [`MonitorReport`] collects samples, [`MonitorSummary`]
//! condenses them, [`MonitorThresholds`] judges.

mod plan;
mod sample;
mod summary;
mod verdict;

pub use plan::Sampler;
pub use sample::{
    CpuSnapshot, MonitorReport, MonitorSample, ProgramStats, SchedStatSnapshot, WatchedField,
};
pub use summary::{MonitorSummary, SchedStatDelta};
pub use verdict::{
    FALLBACK, KEEP_LAST, MonitorFinding, MonitorOutcome, MonitorThresholds, MonitorVerdict,
};

#[cfg(test)]
mod tests;
