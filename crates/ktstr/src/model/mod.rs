//! Data that host and guest share.
pub mod entry;
