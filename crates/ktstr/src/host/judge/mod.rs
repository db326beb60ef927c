//! From what a run left to findings and a verdict.

pub(in crate::host) mod evaluate;
pub(in crate::host) mod monitor;
pub(in crate::host) mod payload;
