//! From files to a guest that is ready for its first instruction.

mod image;
mod place;
mod prepare;
mod state;
#[cfg(test)]
mod tests;

pub(super) use image::Entry;
pub(crate) use image::elf_len;
pub(crate) use prepare::{Plan, prepare};
pub(super) use state::initial_registers;
