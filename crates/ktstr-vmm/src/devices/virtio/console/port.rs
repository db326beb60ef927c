//! One port: the guest's side of a stream.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::devices::virtio::{Chain, Rings};

/// Bytes taken from a socket at once, and of a chain that is sent at once.
const CHUNK: usize = 64 << 10;

/// A port and its stream.
#[derive(Debug)]
pub(super) struct Port {
    name: Option<String>,
    /// `None` for a port without a host, or one that the host has closed.
    stream: Option<UnixStream>,
    /// The host has closed, and the guest was not told yet.
    closed: bool,
    guest_open: bool,
    /// Bytes of the chain at the front of the transmit queue that were sent.
    sent: usize,
    /// The socket is full.
    blocked: bool,
    /// The guest has no receive buffer.
    starved: bool,
}

impl Port {
    pub(super) fn new(name: Option<String>, stream: Option<UnixStream>) -> io::Result<Self> {
        if let Some(stream) = &stream {
            stream.set_nonblocking(true)?;
        }
        Ok(Self {
            name,
            stream,
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

    /// Sends the chain's bytes; `false` when some are left, which then stay at the front of the queue.
    pub(super) fn send(&mut self, rings: &Rings, chain: &Chain) -> bool {
        self.blocked = false;
        let total = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
        while self.sent < total {
            let Some(stream) = &mut self.stream else {
                break;
            };
            let end = self.sent.saturating_add(CHUNK).min(total);
            let bytes = rings.read(chain, end);
            let Some(rest) = bytes.get(self.sent..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            match stream.write(rest) {
                Ok(len) => self.sent += len,
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
