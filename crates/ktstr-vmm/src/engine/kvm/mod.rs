//! The host's CPU as the guest's, through /dev/kvm.
//!
//! ```text
//!   KvmVm --close/open--> Gate <--pass-- vCPU threads --KVM_RUN--> guest
//!     |                                     |  exits
//!     +--kick (signal)--------------------->|-----> Bus: UARTs, power, virtio
//!   keeper: deadline and end               GuestMemory (one shared mapping)
//! ```
//!
//! Watches are in debug registers where a tiny guest shows that these fire (`mechanism`), else in guest memory (`memwatch`, `slots`,
//! `step`), and then one vCPU runs at a time (`turns`).
//!
//! vCPUs run on threads of their own that end with the VM, so a caller's FPU state, segment bases and signal mask are never
//! touched; the action of the kick signal is restored with the last VM of the process.

mod ask;
mod attach;
mod boot;
mod bus;
mod control;
mod debug;
mod failure;
mod ioctl;
mod kick;
mod machine;
mod mechanism;
mod memwatch;
mod own_debug;
mod perf;
mod slots;
mod stats;
mod step;
mod threads;
mod translate;
mod tsc;
mod turns;
mod vcpu;
mod vm;

pub(crate) use ask::HostKvm;
pub(crate) use boot::elf_len;
pub(crate) use mechanism::mechanism;
pub(crate) use perf::findings as performance_findings;
pub(crate) use vm::KvmVm;
