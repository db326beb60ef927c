//! Data that host and guest share.
pub mod checks;
pub mod cpuset;
pub mod ctx;
pub mod entry;
pub mod report;
pub mod stats;
pub mod verdict;
