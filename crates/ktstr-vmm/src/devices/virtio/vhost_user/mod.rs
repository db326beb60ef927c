//! A device model behind a vhost-user socket (QEMU, docs/interop/vhost-user.rst): how our disks and network cards serve tcg.
//!
//! ```text
//!   QEMU --messages, descriptors--> socket --+
//!   guest --kick (eventfd)-------------------+--> one thread: Backend { Device, Rings } --call (eventfd)--> QEMU
//!   the device's timer ----------------------+
//! ```
//!
//! It is the same [`Device`] as on virtio-mmio, over the same mapping of guest memory; registers and interrupts are QEMU's.
//! A freeze asks nothing of this thread: QEMU takes the rings back before it says that the VM stands still.

mod backend;
mod socket;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};
use vm_memory::GuestMemoryMmap;

use self::backend::Backend;
pub(crate) use self::socket::Socket;
use super::cards::Card;
use crate::error::{Error, Result};

/// Serves `card` on `socket` until its other end is closed.
///
/// # Errors
/// When the thread cannot be started, or the device has an impossible queue.
pub(crate) fn serve(
    card: Card,
    memory: GuestMemoryMmap<()>,
    socket: Socket,
) -> Result<JoinHandle<()>> {
    let name = format!("ktstr-{}", card.name);
    let refused = |error: &dyn std::fmt::Display| Error::Refused {
        what: format!("attach {}", card.name),
        reason: error.to_string(),
    };
    let backend = Backend::new(card.device, memory).map_err(|error| refused(&error))?;
    let backend = Arc::new(Mutex::new(backend));
    thread::Builder::new()
        .name(name)
        .spawn(move || {
            if let Some(socket) = socket.connect() {
                run(&backend, socket);
            }
            lock(&backend).end();
        })
        .map_err(Error::system("start a thread"))
}

/// What a sleep ended with.
#[derive(Debug, Default)]
struct Ready {
    message: bool,
    queues: Vec<usize>,
}

/// The lock is for the message crate's sake: only this thread ever takes it.
fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(backend: &Arc<Mutex<Backend>>, socket: UnixStream) {
    let watched = match socket.try_clone() {
        Ok(watched) => watched,
        Err(error) => return tracing::warn!(%error, "a device's socket cannot be watched"),
    };
    let mut messages = BackendReqHandler::from_stream(socket, Arc::clone(backend));
    loop {
        let ready = sleep(&lock(backend), &watched);
        if ready.message {
            let wants_reply = early_enable_wants_reply(&watched);
            match messages.handle_request() {
                Ok(()) => {}
                // QEMU's netdev enables its rings before it sets features (hw/net/vhost_net.c: vhost_net_start), and the message
                // crate refuses that without telling which. Our cards have one pair of rings, and no driver disables them.
                Err(VhostError::InactiveFeature(_)) => {
                    lock(backend).enable_all();
                    if wants_reply && let Err(error) = (&watched).write_all(&ENABLED) {
                        tracing::warn!(%error, "a device's socket broke");
                        break;
                    }
                }
                Err(VhostError::Disconnected) => break,
                Err(error) => {
                    tracing::warn!(%error, "a device's socket broke");
                    break;
                }
            }
        }
        lock(backend).work(&ready.queues, Instant::now());
    }
}

/// vhost-user.rst, "Header": request, flags, size; all little-endian on the hosts that we have.
const HEADER: usize = 12;
const SET_VRING_ENABLE: u32 = 18;
const NEED_REPLY: u32 = 1 << 3;
/// The acknowledgement that a ring was enabled: version 1, a reply, eight bytes, zero for success.
const ENABLED: [u8; 20] = [18, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Whether the next message enables a ring and waits to hear of it, as QEMU's does from 8.2 on: the message crate sends nothing
/// for what it refuses.
fn early_enable_wants_reply(socket: &UnixStream) -> bool {
    let mut header = [0; HEADER];
    let read = recv(
        socket,
        header.as_mut_slice(),
        RecvFlags::PEEK | RecvFlags::DONTWAIT,
    );
    if !matches!(read, Ok((HEADER, _))) {
        return false;
    }
    let word = |at: usize| {
        let bytes = header.get(at..).and_then(|tail| tail.first_chunk());
        u32::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    word(0) == SET_VRING_ENABLE && word(4) & NEED_REPLY != 0
}

/// Sleeps until a message, a kick or the device's timer.
fn sleep(backend: &Backend, socket: &UnixStream) -> Ready {
    let kicks = backend.kicks();
    let mut fds = vec![PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    fds.extend(
        kicks
            .iter()
            .map(|(_, kick)| PollFd::from_borrowed_fd(kick.as_fd(), PollFlags::IN)),
    );
    let left = backend
        .next_wake()
        .map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    if poll(&mut fds, timeout.as_ref()).is_err() {
        // Interrupted: look again.
        return Ready::default();
    }
    let mut is_ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let message = is_ready.next() == Some(true);
    let kicked = kicks.iter().zip(is_ready).filter(|(_, ready)| *ready);
    Ready {
        message,
        queues: kicked.map(|((queue, _), _)| *queue).collect(),
    }
}
