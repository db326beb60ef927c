//! Frames to the host, with the guest's clock.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use ktstr_wire::{Frame, FrameWriter, Lifecycle, Message, SendError, Stage};
use rustix::time::{ClockId, clock_gettime};

/// Most of the kernel's log that is passed on.
pub(crate) const MAX_DMESG: usize = 1 << 20;
use crate::gate::Port;

/// The guest's monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The only writer of the frame port.
#[derive(Debug)]
pub(crate) struct Outbox {
    writer: FrameWriter<Port>,
    /// The kernel's log, as far as it was passed on.
    kmsg: Option<File>,
}

impl Outbox {
    pub(crate) fn new(port: impl Into<Port>) -> Self {
        Self {
            writer: FrameWriter::new(port.into()),
            kmsg: None,
        }
    }

    pub(crate) fn send(&mut self, message: &Message) -> Result<(), SendError> {
        self.writer.send(message, now_ns())
    }

    pub(crate) fn stage(
        &mut self,
        stage: Stage,
        detail: impl Into<String>,
    ) -> Result<(), SendError> {
        self.send(&Message::Lifecycle(Lifecycle {
            stage,
            detail: detail.into(),
        }))
    }

    /// Passes on what the kernel has logged since the last time, at most so many bytes.
    pub(crate) fn dmesg(&mut self, most: usize) -> Result<(), SendError> {
        if self.kmsg.is_none() {
            self.kmsg = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open("/dev/kmsg")
                .ok();
        }
        let Some(kmsg) = &mut self.kmsg else {
            return Ok(());
        };
        let mut text = Vec::new();
        let mut record = [0; 8192];
        while text.len() <= most {
            match kmsg.read(&mut record) {
                Ok(len @ 1..) => text.extend_from_slice(record.get(..len).unwrap_or_default()),
                // Records that were overwritten before they could be read; those behind them are there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                _ => break,
            }
        }
        self.send(&Message::Dmesg(text))
    }

    /// In virtual time: has the host say what it has for the guest.
    pub(crate) fn look_for_requests(&mut self) -> Result<(), SendError> {
        self.writer.get_mut().fetch()?;
        Ok(())
    }

    /// Makes answers of the host readable that had no room before.
    pub(crate) fn pass_answers(&mut self) -> Result<(), SendError> {
        self.writer.get_mut().flush()?;
        Ok(())
    }

    /// Passes a frame of the test's process on, with its own time but this stream's number.
    pub(crate) fn forward(&mut self, frame: &Frame) -> Result<(), SendError> {
        self.writer
            .send_raw(frame.msg_type, frame.flags, frame.guest_ns, &frame.payload)
    }
}
