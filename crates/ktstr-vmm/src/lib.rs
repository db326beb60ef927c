#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! A [`Vm`] is built, started, followed and ended; while it runs, its consoles and named [`PortStream`]s are byte streams, its
//! [`GuestMemory`] is mapped here, and [`RunningVm::freeze`] stops all vCPUs. This crate knows no tests, no schedulers and no BTF.

mod acpi;
mod boot_error;
mod budget;
mod clock;
mod config;
mod console;
mod cpuid;
mod devices;
mod doctor;
mod engine;
mod error;
mod exit;
mod finding;
mod gate;
mod identity;
mod initrd;
mod layout;
mod memory;
mod port;
mod probe;
mod saved;
mod standstill;
mod time;
pub mod topology;
mod vcpu_time;
mod vm;
mod watch;

pub use boot_error::BootError;
pub use clock::{Clock, VirtualRun, VirtualTime};
pub use console::{ConsoleLog, MAX_CONSOLE, kernel_panic};
pub use devices::virtio::blk::{BlkCounters, DISK_SERIAL, Disk, DiskSource, Throttle};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use devices::virtio::fuzzing;
pub use devices::virtio::net::{Net, NetCounters};
pub use doctor::doctor;
pub use error::{BuildError, BuildFault, Error, Result};
pub use exit::{ExitReason, VcpuRegs, VmExit};
pub use finding::{Finding, Health};
pub use gate::{RunOnly, Stop, StopCause};
pub use identity::{Identity, NoIdentity, Part};
pub use initrd::Initrd;
pub use memory::{GuestMemory, MemoryRange};
pub use port::PortStream;
pub use probe::{Engine, EngineChoice, Probe, UnknownEngine, is_slow_kvm, probe};
pub use saved::Saved;
pub use topology::{CpuPlace, NumaDistance, NumaNode, PRESETS, Preset, Topology, TopologyError};
pub use vcpu_time::VcpuClocks;
pub use vm::{FreezeGuard, RunningVm, Vm, VmBuilder, check_virtual_time};
pub use watch::{Watch, WatchHit, WatchId, WatchKind, WatchMechanism, WatchSupport};
