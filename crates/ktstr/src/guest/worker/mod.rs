//! Workers: forked processes, or threads of one, that do one kind of work and measure themselves.
//!
//! ```text
//! spawn ──▶ (caller places the pids in a cgroup) ──▶ make_ready ──▶ start ──▶ … ──▶ stop ──▶ reports
//!   fork, all wait                                    set-up, barrier  window opens   window closes
//! ```
//!
//! Dropping a group at any stage kills and reaps its processes. A worker also dies with its parent.

mod child;
mod collect;
mod cpus;
mod crew;
mod group;
mod histogram;
mod kit;
mod meter;
mod os;
mod page;
mod proc;
mod process;
mod types;

pub use group::{GroupSpec, Tally, WorkerError, WorkerGroup};
pub(crate) use os::{kernel_cpuset, set_policy_of};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod type_tests;
