//! What an engine tells of a VM: its vCPUs' registers, and its end.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::clock::{Clock, VirtualRun};
use crate::devices::virtio::blk::BlkCounters;
use crate::devices::virtio::net::NetCounters;
use crate::probe::Engine;

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The guest powered off.
    PowerOff,
    /// The guest rebooted.
    Reboot,
    /// The guest's kernel panicked.
    Panic,
    /// The guest reset without saying so.
    TripleFault,
    /// The VM was told to end.
    Killed,
    /// The deadline passed; in virtual time, the virtual one.
    Deadline,
    /// In virtual time: the host's limit passed before the guest's deadline did.
    NotFinished,
    /// The engine ended under the guest.
    EngineDied {
        /// How it ended.
        status: String,
        /// The end of its error output.
        stderr: String,
    },
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("power off"),
            Self::Reboot => f.write_str("reboot"),
            Self::Panic => f.write_str("kernel panic"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Killed => f.write_str("kill"),
            Self::Deadline => f.write_str("deadline"),
            Self::NotFinished => f.write_str("not finished within the host's time limit"),
            Self::EngineDied { status, stderr } if stderr.is_empty() => {
                write!(f, "engine died with {status}")
            }
            Self::EngineDied { status, stderr } => write!(f, "engine died with {status}: {stderr}"),
        }
    }
}

/// What is left of a VM.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmExit {
    /// How it ended.
    pub reason: ExitReason,
    /// From start to end.
    pub duration: Duration,
    /// From the end to this value.
    pub cleanup_duration: Duration,
    /// Everything on COM1.
    pub com1: Vec<u8>,
    /// Everything on COM2.
    pub com2: Vec<u8>,
    /// The engine that ran it.
    pub engine: Engine,
    /// Why this engine.
    pub engine_why: String,
    /// KVM's statistics of each vCPU by name; `None` on tcg, and on kernels before 5.14.
    pub kvm_stats: Option<Vec<HashMap<String, u64>>>,
    /// What each disk did, in the order of the builder.
    pub blk_counters: Vec<BlkCounters>,
    /// What each network card did, in the order of the builder.
    pub net_counters: Vec<NetCounters>,
    /// Whose time passed in the guest.
    pub clock: Clock,
    /// In virtual time: seed, fingerprint and instruction counts. `None` when the emulator was killed.
    pub virtual_run: Option<VirtualRun>,
}

/// Registers of one frozen vCPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers' own names")]
#[non_exhaustive]
pub struct VcpuRegs {
    /// The vCPU's number.
    pub vcpu: u32,
    pub rip: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// r8 to r15.
    pub r8_15: [u64; 8],
}
