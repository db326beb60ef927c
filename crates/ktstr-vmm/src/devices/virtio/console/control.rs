//! The control queues: which ports there are, what they are called, which are open (virtio 1.2 §5.3.6.2).

use std::collections::VecDeque;

use super::{BUDGET, CONTROL_RX, CONTROL_TX};
use crate::devices::virtio::{Popped, Rings};

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// id, event, value.
const MESSAGE: usize = 8;
/// Messages kept for a guest that offers no buffers; a guest that asks for more loses them.
const MAX_PENDING: usize = 4096;

/// What the guest says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The driver is ready for ports.
    Ready,
    /// It has set a port up.
    PortReady(usize),
    /// A program has opened or closed a port.
    Opened(usize, bool),
}

/// Messages to the guest that wait for buffers.
#[derive(Debug)]
pub(super) struct Control {
    pending: VecDeque<Vec<u8>>,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            pending: VecDeque::new(),
        }
    }

    fn queue(&mut self, port: usize, event: u16, value: u16, tail: &[u8]) {
        if self.pending.len() >= MAX_PENDING {
            return;
        }
        let id = u32::try_from(port).unwrap_or(u32::MAX);
        let mut message = id.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(tail);
        self.pending.push_back(message);
    }

    /// Announces every port.
    pub(super) fn add_all(&mut self, ports: usize) {
        for port in 0..ports {
            self.queue(port, PORT_ADD, 1, &[]);
        }
    }

    /// Says what a port is.
    pub(super) fn introduce(&mut self, port: usize, name: Option<&str>, open: bool) {
        match name {
            None => self.queue(port, CONSOLE_PORT, 1, &[]),
            Some(name) => self.queue(port, PORT_NAME, 1, name.as_bytes()),
        }
        if open {
            self.opened(port, true);
        }
    }

    /// The host has opened or closed a port.
    pub(super) fn opened(&mut self, port: usize, open: bool) {
        self.queue(port, PORT_OPEN, u16::from(open), &[]);
    }

    /// Passes on what fits into the guest's buffers.
    pub(super) fn flush(&mut self, rings: &mut Rings) {
        let mut turns = 0;
        while let Some(message) = self.pending.front() {
            turns += 1;
            if turns > BUDGET {
                rings.again(CONTROL_RX);
                break;
            }
            match rings.pop(CONTROL_RX) {
                Popped::Empty if rings.listen(CONTROL_RX) => {}
                Popped::Empty | Popped::Poisoned => break,
                Popped::Bad(head) => {
                    let _ = rings.push(CONTROL_RX, head, 0);
                }
                Popped::Chain(chain) => {
                    let written = rings.write(&chain, message);
                    let _ = rings.push(CONTROL_RX, chain.head, written);
                    self.pending.pop_front();
                }
            }
        }
        rings.signal(CONTROL_RX);
    }

    /// Reads the guest's messages; those about ports that do not exist are dropped.
    pub(super) fn receive(&self, rings: &mut Rings, ports: usize) -> Vec<Event> {
        let mut events = Vec::new();
        rings.quiet(CONTROL_TX);
        let mut turns = 0;
        loop {
            turns += 1;
            if turns > BUDGET {
                rings.again(CONTROL_TX);
                break;
            }
            let head = match rings.pop(CONTROL_TX) {
                Popped::Empty if rings.listen(CONTROL_TX) => continue,
                Popped::Empty | Popped::Poisoned => break,
                Popped::Bad(head) => head,
                Popped::Chain(chain) => {
                    events.extend(decode(&rings.read(&chain, MESSAGE), ports));
                    chain.head
                }
            };
            let _ = rings.push(CONTROL_TX, head, 0);
        }
        rings.signal(CONTROL_TX);
        events
    }
}

fn decode(message: &[u8], ports: usize) -> Option<Event> {
    let [a, b, c, d, e, f, g, h] = *message else {
        return None;
    };
    let port = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    match event {
        DEVICE_READY if value == 1 => Some(Event::Ready),
        PORT_READY if value == 1 && port < ports => Some(Event::PortReady(port)),
        PORT_OPEN if port < ports => Some(Event::Opened(port, value == 1)),
        _ => None,
    }
}
