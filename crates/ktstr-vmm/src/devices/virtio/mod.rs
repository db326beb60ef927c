//! Virtio devices: on the MMIO transport (virtio 1.2 §4.2) for kvm, behind [vhost-user sockets](vhost_user) for tcg.
//!
//! ```text
//!   guest --kick (ioeventfd)--> Worker thread: gate, lock, Device::process(queue)
//!     |                                             |  Rings: pop, push, interrupt (irqfd)
//!     +--Registers--> Transport (same lock) --------+     InterruptStatus, InterruptACK: no lock
//! ```
//!
//! Whatever a driver writes into its rings, a device neither panics nor hangs nor touches anything outside guest memory:
//! [`Rings::pop`] checks every descriptor before a device sees it, an avail index that is too far ahead poisons its queue
//! until reset, and a worker does a bounded amount of work before it looks whether it shall stop.

pub(crate) mod blk;
pub(crate) mod cards;
pub(crate) mod console;
mod counters;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod net;
mod registers;
mod ring;
pub(crate) mod rng;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testutil;
mod transport;
pub(crate) mod vhost_user;
mod worker;

pub(crate) use registers::Registers;
pub(crate) use ring::{Chain, Popped, Rings, Segment};
pub(crate) use transport::{NOTIFY_OFFSET, Transport};
pub(crate) use worker::{Worker, Workers, eventfd, stay_on};

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// A device behind the transport. All calls come one at a time.
pub(crate) trait Device: Debug + Send {
    /// Virtio 1.2 §5.
    fn device_type(&self) -> u32;

    /// Bits of its own; the transport adds those of all devices.
    fn features(&self) -> u64 {
        0
    }

    /// Largest size of each queue.
    fn queue_sizes(&self) -> Vec<u16>;

    /// The driver reads the configuration space; what is not there is left as zeros.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    /// The driver has set DRIVER_OK with these features.
    fn activate(&mut self, _features: u64) {}

    /// The driver kicked `queue`.
    fn process(&mut self, queue: usize, rings: &mut Rings);

    /// The driver has reset the device. Counters stay.
    fn reset(&mut self);

    /// Descriptors of the host whose readiness means work. `token` comes back in [`ready`](Self::ready).
    fn host_fds(&self) -> Vec<HostFd<'_>> {
        Vec::new()
    }

    /// A descriptor of [`host_fds`](Self::host_fds) is ready.
    fn ready(&mut self, _token: usize, _rings: &mut Rings) {}

    /// When the device wants [`timer`](Self::timer), if at all.
    fn next_timer(&self) -> Option<Instant> {
        None
    }

    /// The time of [`next_timer`](Self::next_timer) has come.
    fn timer(&mut self, _rings: &mut Rings) {}

    /// The VM has ended: finish what needs no waiting, and let go of the host's streams, so that their readers see the end.
    /// Nothing is called after this.
    fn end(&mut self, _rings: &mut Rings) {}
}

/// A descriptor to wait for.
#[derive(Debug)]
pub(crate) struct HostFd<'d> {
    pub(crate) fd: BorrowedFd<'d>,
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Copies the part of `space` at `offset` that `data` asks for.
pub(crate) fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|at| space.get(at..));
    for (slot, byte) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *slot = *byte;
    }
}
