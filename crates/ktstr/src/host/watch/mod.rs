//! The running guest, followed from outside.

pub(in crate::host) mod coordinator;
pub(in crate::host) mod drain;
pub(in crate::host) mod lost_time;
pub(in crate::host) mod unnamed;
pub(in crate::host) mod vmcore;
