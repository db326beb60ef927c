//! What runs outside of the guest: finding kernels and schedulers, booting, evaluating, reporting.
//!
//! Knows the model and the VM; nothing of what runs inside.

pub mod admission;
pub mod artifacts;
mod boot;
mod bug_summary;
pub mod config;
mod coordinator;
mod coverage;
pub mod describe;
mod drain;
mod dump;
mod dump_text;
pub mod evaluate;
pub mod export;
mod includes;
pub mod kernel;
mod lost_time;
mod message;
mod monitor;
mod payload;
pub mod program;
mod repro;
pub mod run;
pub mod runner;
pub mod scheduler;
mod session;
pub mod shell;
pub mod sidecar;
pub mod timeline;
mod verify;
mod vmcore;
