//! Frames to the host, with the guest's clock.

use std::fs::File;

use ktstr_wire::{Frame, FrameWriter, Lifecycle, Message, SendError, Stage};
use rustix::time::{ClockId, clock_gettime};

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
    writer: FrameWriter<File>,
}

impl Outbox {
    pub(crate) fn new(port: File) -> Self {
        Self {
            writer: FrameWriter::new(port),
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

    /// Passes a frame of the test's process on, with its own time but this stream's number.
    pub(crate) fn forward(&mut self, frame: &Frame) -> Result<(), SendError> {
        self.writer
            .send_raw(frame.msg_type, frame.flags, frame.guest_ns, &frame.payload)
    }
}
