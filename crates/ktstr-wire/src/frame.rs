//! The fixed header, and whole frames.

use crate::error::{DecodeError, EncodeError};
use crate::message::{MAX_PAYLOAD, Message};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"KTSW";
/// Version of the header's layout.
pub const VERSION: u16 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 32;

/// One frame as it came out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message's number; see [`crate::msg_type`].
    pub msg_type: u16,
    /// Reserved; zero today, kept as found.
    pub flags: u16,
    /// The sender's sequence number; wraps.
    pub seq: u32,
    /// The sender's monotonic clock in nanoseconds; 0 when sent by a host.
    pub guest_ns: u64,
    /// The body; empty in a damaged frame.
    pub payload: Vec<u8>,
    /// The checksum held. A damaged frame is told, because a consumer may want to know.
    pub crc_ok: bool,
}

impl Frame {
    /// The message in this frame.
    ///
    /// # Errors
    /// [`DecodeError::BadCrc`] for a damaged frame, [`DecodeError::Unknown`] for a number of a newer version,
    /// [`DecodeError::Body`] when a known message's body does not parse.
    pub fn decode(&self) -> Result<Message, DecodeError> {
        if self.crc_ok {
            Message::from_payload(self.msg_type, &self.payload)
        } else {
            Err(DecodeError::BadCrc {
                msg_type: self.msg_type,
            })
        }
    }
}

/// A header that passed its own check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) msg_type: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) len: u32,
    pub(crate) guest_ns: u64,
    pub(crate) crc: u32,
}

impl Header {
    /// Reads a header; `None` when magic, version, check or length say that this is none.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (msg_type, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (check, rest) = rest.split_first_chunk::<2>()?;
        let (seq, rest) = rest.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (guest_ns, rest) = rest.split_first_chunk::<8>()?;
        let (crc, _) = rest.split_first_chunk::<4>()?;
        let header = Self {
            msg_type: u16::from_le_bytes(*msg_type),
            flags: u16::from_le_bytes(*flags),
            seq: u32::from_le_bytes(*seq),
            len: u32::from_le_bytes(*len),
            guest_ns: u64::from_le_bytes(*guest_ns),
            crc: u32::from_le_bytes(*crc),
        };
        let intact = *magic == MAGIC
            && u16::from_le_bytes(*version) == VERSION
            && u16::from_le_bytes(*check) == header.check()
            && usize::try_from(header.len).is_ok_and(|len| len <= MAX_PAYLOAD);
        intact.then_some(header)
    }

    /// The header's bytes with `check` and `crc` as given.
    fn bytes(self, check: u16, crc: u32) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let fields: [&[u8]; 9] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &self.msg_type.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &check.to_le_bytes(),
            &self.seq.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.guest_ns.to_le_bytes(),
            &crc.to_le_bytes(),
        ];
        let mut rest = out.as_mut_slice();
        for field in fields {
            let (head, tail) = rest.split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        }
        out
    }

    fn check(self) -> u16 {
        let crc = crc32fast::hash(&self.bytes(0, 0));
        let [a, b, c, d] = crc.to_le_bytes();
        u16::from_le_bytes([a ^ c, b ^ d])
    }

    pub(crate) fn payload_len(self) -> usize {
        // MAX_PAYLOAD was checked on the way in, and fits.
        usize::try_from(self.len).unwrap_or(MAX_PAYLOAD)
    }

    /// The checksum that header and payload should have.
    pub(crate) fn crc_of(self, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.bytes(self.check(), 0));
        hasher.update(payload);
        hasher.finalize()
    }
}

/// The whole frame of `message`.
///
/// # Errors
/// When the body is too large or cannot be serialised.
pub fn encode(message: &Message, seq: u32, guest_ns: u64) -> Result<Vec<u8>, EncodeError> {
    let payload = message.to_payload()?;
    encode_raw(message.msg_type(), 0, seq, guest_ns, &payload)
}

/// The whole frame of a body that is already serialised, for forwarding frames unchanged.
///
/// # Errors
/// When the body is larger than [`MAX_PAYLOAD`].
pub fn encode_raw(
    msg_type: u16,
    flags: u16,
    seq: u32,
    guest_ns: u64,
    payload: &[u8],
) -> Result<Vec<u8>, EncodeError> {
    let too_large = EncodeError::TooLarge {
        msg_type,
        len: payload.len(),
    };
    if payload.len() > MAX_PAYLOAD {
        return Err(too_large);
    }
    let Ok(len) = u32::try_from(payload.len()) else {
        return Err(too_large);
    };
    let header = Header {
        msg_type,
        flags,
        seq,
        len,
        guest_ns,
        crc: 0,
    };
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&header.bytes(header.check(), header.crc_of(payload)));
    out.extend_from_slice(payload);
    Ok(out)
}
