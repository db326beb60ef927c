//! Frames onto a byte stream, numbered.

use std::io::Write;

use crate::error::SendError;
use crate::frame::{encode, encode_raw};
use crate::message::Message;

/// Writes frames with consecutive sequence numbers. Each frame is one `write_all`.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    next_seq: u32,
}

impl<W: Write> FrameWriter<W> {
    /// A writer whose first frame has number 0.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            next_seq: 0,
        }
    }

    /// Sends one message; `guest_ns` is the sender's monotonic clock, 0 on a host.
    ///
    /// # Errors
    /// When the message cannot be encoded (the number is not used up) or the stream refuses it (it is).
    pub fn send(&mut self, message: &Message, guest_ns: u64) -> Result<(), SendError> {
        let frame = encode(message, self.next_seq, guest_ns)?;
        self.write(&frame)
    }

    /// Sends a body that is already serialised, under this stream's own numbers.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_raw(
        &mut self,
        msg_type: u16,
        flags: u16,
        guest_ns: u64,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let frame = encode_raw(msg_type, flags, self.next_seq, guest_ns, payload)?;
        self.write(&frame)
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &W {
        &self.stream
    }

    /// The stream itself, to flush it.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.stream
    }

    /// The stream, given back.
    pub fn into_inner(self) -> W {
        self.stream
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), SendError> {
        self.next_seq = self.next_seq.wrapping_add(1);
        self.stream.write_all(frame)?;
        self.stream.flush()?;
        Ok(())
    }
}
