//! What runs outside of the guest: the rooms that a test passes, in order.
//!
//! | room | does |
//! |---|---|
//! | [`plan`] | resolves an entry: kernel, scheduler, files, shape, a place among the other VMs |
//! | `boot` | builds the archive, starts the VM |
//! | `watch` | follows the running guest: frames, samples, captures |
//! | `judge` | turns what a run left into findings and a verdict |
//! | [`evidence`] | writes what a user needs: message, dump, timeline, record |
//! | [`tools`] | serves the other commands: shell, export, verifier cells, descriptions |
//!
//! Knows the model and the VM; nothing of what runs inside.

mod boot;
pub mod evidence;
mod harness;
mod judge;
pub(crate) mod libtest;
pub mod plan;
pub mod run;
pub mod runner;
pub mod tools;
mod watch;
