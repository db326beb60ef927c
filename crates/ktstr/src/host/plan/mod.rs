//! From an entry to everything that its run needs.

pub mod admission;
pub(in crate::host) mod busybox;
pub(in crate::host) mod choice;
pub mod config;
pub(in crate::host) mod deadlines;
pub(in crate::host) mod includes;
pub mod kernel;
pub(in crate::host) mod planned;
pub mod program;
pub(in crate::host) mod programs;
pub mod scheduler;
pub(in crate::host) mod time;
