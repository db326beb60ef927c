#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! [`run`] is the guest's whole life: mount, open the ports, start the scheduler, run the test's process, relay everything as
//! frames, power off. It knows no verdicts and nothing of the host but the other end of a port.
//!
//! ```text
//!   scheduler --stdout, stderr--> +------+
//!   test ------stdout, stderr---> | init | ==frames==> port "ktstr.frames" ==> host
//!   test <-----link (frames)----> |      | <==replies==
//!                                 +------+ --"PANIC: …"--> COM2, when all else fails
//!   scheduler's stats socket <==bytes==> relay thread <==bytes==> port "ktstr.stats" <==> host
//! ```
//!
//! One `poll` loop owns all but the relay. Whatever goes wrong ends as a frame or as a line on COM2, and then the guest powers off:
//! nothing waits for the host's deadline.

pub mod child;
mod commands;
mod fork;
mod gate;
mod manage;
mod mount;
mod outbox;
pub mod panic;
mod plan;
mod ports;
mod power;
mod probes;
mod process;
mod run;
mod scheduler;
mod setup;
mod stats;
mod task;
mod watch;

pub use fork::TestMain;
pub use gate::Waits;
pub use plan::{ENDED_TAG, INIT_PATH, PLAN_PATH, Plan, PlanError, SchedulerPlan, WATCHED_TAG};
pub use probes::{ProbePlan, ProbeReport};
pub use run::{is_pid1, run};
pub use stats::{DEFAULT_STATS_SOCKET, RELAY_KEY};

/// Name of the port that carries frames.
pub const FRAME_PORT: &str = "ktstr.frames";
/// Name of the port that relays bytes to the scheduler's stats socket.
pub const STATS_PORT: &str = "ktstr.stats";
