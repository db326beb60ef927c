//! From files to a guest that is ready for its first instruction.

mod error;
mod image;
mod prepare;
mod state;
#[cfg(test)]
mod tests;

pub use error::BootError;
pub(super) use image::Entry;
pub(crate) use prepare::{Plan, prepare};
pub(super) use state::initial_registers;
