//! Cgroups (v2) of a workload: made under one root, removed in reverse when the manager is dropped.
//!
//! Names are relative to the root; a slash nests. Every error names the file, the value and the system's answer.
//! Removing one that is not there is fine; removing one that still holds tasks waits a second, then names the tasks in it.

mod error;
mod manager;

pub use error::CgroupError;
pub use manager::CgroupManager;

#[cfg(test)]
mod tests;
