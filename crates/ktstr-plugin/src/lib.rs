#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! With `-icount` QEMU counts the instructions of all vCPUs as one stream: n busy vCPUs share the speed of one, and which of
//! them runs when depends on its timers. The plugin decides instead: every vCPU is a processor of its own speed, turns have
//! lengths drawn from a seed, and a hash of the turns is the run's fingerprint.
//!
//! The plugin itself is in `plugin/`; its built bytes are [`LIBRARY`]. It is made for QEMU 7.2 (plugin API 1): from 8.1 on
//! QEMU shortens turns by itself, so vCPUs no longer get equal shares.

#[cfg(test)]
#[path = "../plugin/alone.rs"]
mod alone;
pub mod gate;
mod options;
mod report;
#[cfg(test)]
#[path = "../plugin/turns.rs"]
mod turns;

pub use options::{FULL, Options};
pub use report::{End, Report, VcpuReport};

/// The plugin as a shared object, to be written where the emulator can load it.
pub const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libktstr_plugin.so"));

/// Versions of QEMU that the plugin is made for, as `MAJOR.MINOR`.
pub const QEMU_VERSIONS: &[&str] = &["7.2"];

#[cfg(test)]
mod tests;
