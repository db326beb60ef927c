//! What runs inside the guest: cgroups, workers, scenarios and the process of one test.
//!
//! Knows the model and the guest's kernel; nothing of the host.

pub mod cgroup;
pub mod dispatch;
pub mod link;
mod liveness;
pub mod scenario;
pub mod scenarios;
pub(crate) mod shell;
mod sys;
mod verify;
pub mod worker;
