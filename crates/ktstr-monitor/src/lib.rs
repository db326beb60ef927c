#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! The input is a [`PhysMem`] (memory of a running guest mapped here, an ELF vmcore, a raw file) and, if known, one
//! vCPU's CR3. Nothing in the guest helps. The layers, each usable alone:
//!
//! ```text
//! PhysMem -> page walks -> where is the kernel -> BTF -> readers, one per kernel subsystem -> text and JSON
//! ```
//!
//! What this crate does not know: which VMM runs the machine, how it was stopped, and what a test is.
//!
//! Everything read is a claim by a guest that may be broken or hostile. Every loop over guest links has a bound, every
//! length is capped before allocation, and a walk that meets nonsense ends with what it has and a named reason.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]
#![warn(clippy::host_endian_bytes, clippy::big_endian_bytes)]

mod addr;
pub mod bpf;
pub mod btf;
mod bytes;
mod cgroup;
mod dump;
mod error;
pub mod invariants;
mod kernel;
pub mod locate;
pub mod paging;
pub mod phys;
mod printk;
pub mod render;
pub mod sampler;
pub mod sched;
mod symbols;
#[cfg(test)]
mod testing;

pub use addr::{Gpa, Kva};
pub use dump::{
    DUMP_SCHEMA, DumpOptions, FailureDumpReport, KernelSection, MapSection, VcpuRegisters,
    VcpuSection,
};
pub use error::{Error, Result};
pub use kernel::{Attach, Kernel, Object, Optional, Problem, Problems};
pub use phys::{PhysMem, Range};
pub use printk::{Log, LogRecord};
pub use sampler::Sampler;
pub use sched::Walk;
pub use symbols::{Symbols, Vmlinux};
