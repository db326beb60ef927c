//! What can be wrong with a frame or a message.

use std::io;

/// A message that cannot become a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The body is larger than any reader would accept.
    #[error("payload of message type {msg_type} has {len} bytes, at most {max} are allowed", max = crate::MAX_PAYLOAD)]
    TooLarge {
        /// The message's number.
        msg_type: u16,
        /// Its size.
        len: usize,
    },
    /// A part with a limit of its own exceeds it.
    #[error("{part} has {len} bytes, at most {max} are allowed")]
    PartTooLarge {
        /// Which part.
        part: &'static str,
        /// Its size.
        len: usize,
        /// Its limit.
        max: usize,
    },
    /// A list with a limit exceeds it.
    #[error("{count} {part}, at most {max} are allowed")]
    TooMany {
        /// Of what.
        part: &'static str,
        /// How many.
        count: usize,
        /// Its limit.
        max: usize,
    },
    /// The body could not be serialised.
    #[error("failed to serialise message type {msg_type}")]
    Body {
        /// The message's number.
        msg_type: u16,
        /// Postcard's reason.
        #[source]
        source: postcard::Error,
    },
}

/// A frame whose content is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The number is not known to this version; the frame itself is intact.
    #[error("unknown message type {msg_type}")]
    Unknown {
        /// The number.
        msg_type: u16,
    },
    /// The number is known, the body is not what it should be.
    #[error("bad body of a {name} message (type {msg_type}): {reason}")]
    Body {
        /// The message's name.
        name: &'static str,
        /// Its number.
        msg_type: u16,
        /// What is wrong.
        reason: String,
    },
    /// The frame was damaged on its way.
    #[error("bad checksum on a frame of message type {msg_type}")]
    BadCrc {
        /// The number in the header.
        msg_type: u16,
    },
}

/// A message that could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It cannot become a frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The stream refused it.
    #[error("failed to write a frame")]
    Io(#[from] io::Error),
}
