//! From an entry to everything that its run needs.

pub mod admission;
pub(in crate::host) mod busybox;
pub mod config;
pub(in crate::host) mod includes;
pub mod kernel;
pub mod program;
pub mod scheduler;
