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

mod attach;
mod boot;
mod bus;
mod control;
mod debug;
pub(crate) mod gate;
mod kick;
pub(crate) mod layout;
mod machine;
mod mechanism;
mod memwatch;
mod perf;
mod slots;
mod stats;
mod step;
mod translate;
mod turns;
mod vcpu;
mod vm;

pub use boot::BootError;
pub(crate) use mechanism::mechanism;
pub(crate) use vm::KvmVm;
