//! The real binary, as its users call it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod authors;
mod bisect;
mod end_to_end;
mod fixture;
mod flags;
mod gauntlet;
mod guide;
mod hardship;
mod interrupt;
mod kernels;
mod new;
#[path = "../../../ktstr-vmm/tests/shared/program.rs"]
mod program;
mod report;
mod results;
mod seeds;
mod selection;
mod shell;
mod surface;
mod test_command;
mod tools;
