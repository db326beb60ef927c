//! Where the host's answers to the guest go.

use ktstr_vmm::{Clock, PortStream};
use ktstr_wire::{FrameWriter, Message};

/// The host's way to the guest.
#[derive(Debug)]
pub(super) enum Replies {
    /// At once, into the frame port.
    Port(FrameWriter<PortStream>),
    /// With the word that lets the guest go on.
    Gate(FrameWriter<Vec<u8>>),
    /// The port could not be shared.
    Nowhere,
}

impl Replies {
    /// Into the port that frames come from.
    pub(super) fn to(port: &PortStream) -> Self {
        match port.try_clone() {
            Ok(port) => Self::Port(FrameWriter::new(port)),
            Err(error) => {
                tracing::warn!(%error, "the guest's requests cannot be answered");
                Self::Nowhere
            }
        }
    }

    pub(super) fn at_gate() -> Self {
        Self::Gate(FrameWriter::new(Vec::new()))
    }

    /// Whose time passes in the guest.
    pub(super) fn clock(&self) -> Clock {
        match self {
            Self::Gate(_) => Clock::Virtual,
            Self::Port(_) | Self::Nowhere => Clock::Host,
        }
    }

    pub(super) fn send(&mut self, message: &Message) {
        let sent = match self {
            Self::Port(port) => port.send(message, 0),
            Self::Gate(answers) => answers.send(message, 0),
            Self::Nowhere => return,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a reply did not reach the guest");
        }
    }

    /// What was sent since the last time and waits for the guest to go on.
    pub(super) fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Gate(answers) => std::mem::take(answers.get_mut()),
            Self::Port(_) | Self::Nowhere => Vec::new(),
        }
    }
}
