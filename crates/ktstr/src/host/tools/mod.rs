//! What other commands than a test run ask of a test binary.

pub(in crate::host) mod coverage;
pub mod describe;
pub mod export;
mod forms;
pub mod knobs;
pub mod shell;
pub(in crate::host) mod verify;
