//! One port: the guest's side of a stream.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::devices::virtio::{Chain, Rings};
use crate::port::Leftover;

/// Bytes taken from a socket at once, and of a chain that is sent at once.
const CHUNK: usize = 64 << 10;
/// Bytes that a port leaves behind at most; what a Linux guest has in a full queue is half of it.
const LEFTOVER: usize = 8 << 20;

/// A port and its stream.
#[derive(Debug)]
pub(super) struct Port {
    name: Option<String>,
    /// `None` for a port without a host, or one that the host has closed.
    stream: Option<UnixStream>,
    /// Where the reader finds what the socket does not take at the end.
    leftover: Leftover,
    left: usize,
    /// The host has closed, and the guest was not told yet.
    closed: bool,
    guest_open: bool,
    /// Bytes of the chain at the front of the transmit queue that were sent.
    sent: u64,
    /// The socket is full.
    blocked: bool,
    /// The guest has no receive buffer.
    starved: bool,
}

impl Port {
    pub(super) fn new(
        name: Option<String>,
        stream: Option<UnixStream>,
        leftover: Leftover,
    ) -> io::Result<Self> {
        if let Some(stream) = &stream {
            stream.set_nonblocking(true)?;
        }
        Ok(Self {
            name,
            stream,
            leftover,
            left: 0,
            closed: false,
            guest_open: false,
            sent: 0,
            blocked: false,
            starved: false,
        })
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// The host's end is there.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn set_guest_open(&mut self, open: bool) {
        self.guest_open = open;
    }

    pub(super) fn reset(&mut self) {
        self.guest_open = false;
        self.sent = 0;
        self.blocked = false;
        self.starved = false;
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Bytes from the host would find their way.
    pub(super) fn wants_input(&self) -> bool {
        self.guest_open && !self.starved && self.stream.is_some()
    }

    pub(super) fn starve(&mut self) {
        self.starved = true;
    }

    /// The guest has offered buffers.
    pub(super) fn feed(&mut self) {
        self.starved = false;
    }

    /// True once after the host has closed.
    pub(super) fn has_just_closed(&mut self) -> bool {
        std::mem::take(&mut self.closed)
    }

    /// Lets go of the stream, so that the host sees its end.
    pub(super) fn close(&mut self) {
        self.closed = self.stream.take().is_some();
        self.blocked = false;
        self.sent = 0;
    }

    /// Sends the chain's bytes, in at most `turns` pieces, which it counts down; `false` when some are left, which then stay at
    /// the front of the queue.
    pub(super) fn send(&mut self, rings: &Rings, chain: &Chain, turns: &mut usize) -> bool {
        self.blocked = false;
        let total = chain.readable_len();
        while self.sent < total {
            let Some(stream) = &mut self.stream else {
                break;
            };
            let Some(left) = turns.checked_sub(1) else {
                return false;
            };
            *turns = left;
            let bytes = rings.read_from(chain, self.sent, CHUNK);
            if bytes.is_empty() {
                break;
            }
            match stream.write(&bytes) {
                Ok(len) => self.sent = self.sent.saturating_add(len as u64),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return false;
                }
                Err(_) => self.close(),
            }
        }
        self.sent = 0;
        true
    }

    /// Leaves the rest of the chain behind for the reader; `false` when there is no room for all of it.
    pub(super) fn leave(&mut self, rings: &Rings, chain: &Chain) -> bool {
        let total = chain.readable_len();
        while self.stream.is_some() && self.sent < total {
            let bytes = rings.read_from(chain, self.sent, CHUNK.min(LEFTOVER - self.left));
            if bytes.is_empty() {
                return false;
            }
            self.leftover.push(&bytes);
            self.left += bytes.len();
            self.sent = self.sent.saturating_add(bytes.len() as u64);
        }
        self.sent = 0;
        true
    }

    /// Takes at most `room` bytes from the host; none when there are none.
    pub(super) fn take(&mut self, room: usize) -> Vec<u8> {
        let Some(stream) = &mut self.stream else {
            return Vec::new();
        };
        let mut bytes = vec![0; room.min(CHUNK)];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) if !bytes.is_empty() => {
                    self.close();
                    return Vec::new();
                }
                Ok(len) => {
                    bytes.truncate(len);
                    return bytes;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Vec::new(),
                Err(_) => {
                    self.close();
                    return Vec::new();
                }
            }
        }
    }
}
