#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! A [`Vm`] is built, started, followed and ended; while it runs, its consoles and named [`PortStream`]s are byte streams, its
//! [`GuestMemory`] is mapped here, and [`RunningVm::freeze`] stops all vCPUs. This crate knows no tests, no schedulers and no BTF.

mod acpi;
mod budget;
mod clock;
mod console;
mod cpuid;
mod devices;
mod engine;
mod error;
mod initrd;
mod memory;
mod port;
mod probe;
mod standstill;
pub mod topology;
mod vcpu_time;
mod vm;
mod watch;

pub use clock::{Clock, VirtualRun, VirtualTime};
pub use console::{ConsoleLog, MAX_CONSOLE, kernel_panic};
pub use devices::virtio::blk::{BlkCounters, DISK_SERIAL, Disk, DiskSource, Throttle};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use devices::virtio::fuzzing;
pub use devices::virtio::net::{Net, NetCounters};
pub use engine::kvm::BootError;
pub use error::{BuildError, BuildFault, Error, Result};
pub use initrd::Initrd;
pub use memory::{GuestMemory, MemoryRange};
pub use port::PortStream;
pub use probe::{Engine, EngineChoice, Probe, UnknownEngine, is_slow_kvm, probe};
pub use topology::{CpuPlace, NumaDistance, NumaNode, PRESETS, Preset, Topology, TopologyError};
pub use vcpu_time::VcpuClocks;
pub use vm::{ExitReason, FreezeGuard, RunningVm, VcpuRegs, Vm, VmBuilder, VmExit};
pub use watch::{Watch, WatchHit, WatchId, WatchKind, WatchMechanism, WatchSupport};
