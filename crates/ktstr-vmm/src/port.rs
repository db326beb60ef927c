//! A named byte stream between host and guest.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a guest had sent at its end and no reader had taken yet; complete once the stream has ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leftover(Arc<Mutex<VecDeque<u8>>>);

impl Leftover {
    /// Appends bytes.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.extend(bytes);
    }

    /// Takes as many as there are and fit; none when there are none.
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.read(buffer)
    }
}

/// The host's end of a port. Reads end when the VM does. A slow reader slows the guest down; what it has not read when the VM ends
/// it reads then, up to 8 MiB.
#[derive(Debug)]
pub struct PortStream {
    stream: UnixStream,
    leftover: Leftover,
}

impl PortStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self::with_leftover(stream, Leftover::default())
    }

    /// A stream whose other end may leave something behind when it closes.
    pub(crate) fn with_leftover(stream: UnixStream, leftover: Leftover) -> Self {
        Self { stream, leftover }
    }

    /// A second handle on the same stream.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let stream = self.stream.try_clone()?;
        Ok(Self::with_leftover(stream, self.leftover.clone()))
    }

    /// Bounds each read.
    ///
    /// # Errors
    /// For a duration of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    /// Bounds each write.
    ///
    /// # Errors
    /// For a duration of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    /// Makes reads and writes return at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }
}

impl Read for PortStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer) {
            Ok(0) => self.leftover.take(buffer),
            // A killed engine resets the socket; for the reader that is the end like any other.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.leftover.take(buffer)
            }
            other => other,
        }
    }
}

impl Write for PortStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl AsFd for PortStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
