//! What other commands than a test run ask of a test binary.

pub mod check;
pub mod describe;
pub mod doctor;
pub mod export;
mod forms;
pub mod knobs;
pub mod shell;
pub(in crate::host) mod verify;
