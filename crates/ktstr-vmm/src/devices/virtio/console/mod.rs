//! Virtio-console with ports (virtio 1.2 §5.3): named byte streams, each a socket on the host.
//!
//! A slow side slows the other down: a chain whose bytes do not fit the socket stays where it is, and bytes for which the
//! guest has no buffer stay in the socket. A port that the guest has not opened is not read, because Linux would drop the
//! bytes. What the socket does not take when the VM ends stays with the host's end, for its reader. When the host closes its end, the guest sees the port disconnected and what it still writes is dropped.

mod control;
mod port;
#[cfg(test)]
mod tests;

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use self::control::{Control, Event};
use self::port::Port;
use super::{Device, HostFd, Popped, Rings, read_space};
use crate::port::Leftover;

const DEVICE_TYPE: u32 = 3;
const F_MULTIPORT: u64 = 1 << 1;
const QUEUE_SIZE: u16 = 128;
/// Chains, and pieces of long ones, handled before the worker looks up; the rest gets another turn.
const BUDGET: usize = 256;
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

/// The receive queue of a port (§5.3.2); its transmit queue is the next one.
fn receive_queue(port: usize) -> usize {
    match port {
        0 => 0,
        port => 2 * port + 2,
    }
}

/// What a queue is for.
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

fn role(queue: usize) -> Role {
    match queue {
        0 => Role::Receive(0),
        1 => Role::Transmit(0),
        CONTROL_RX => Role::ControlReceive,
        CONTROL_TX => Role::ControlTransmit,
        queue if queue.is_multiple_of(2) => Role::Receive(queue / 2 - 1),
        queue => Role::Transmit((queue - 1) / 2 - 1),
    }
}

/// The device.
#[derive(Debug)]
pub(crate) struct Console {
    ports: Vec<Port>,
    control: Control,
}

impl Console {
    /// Port 0 is a console without a host; the others have these names and streams.
    pub(crate) fn new(ports: Vec<(String, UnixStream, Leftover)>) -> std::io::Result<Self> {
        let mut all = vec![Port::new(None, None, Leftover::default())?];
        for (name, stream, leftover) in ports {
            all.push(Port::new(Some(name), Some(stream), leftover)?);
        }
        Ok(Self {
            control: Control::new(),
            ports: all,
        })
    }

    fn transmit(&mut self, index: usize, rings: &mut Rings) {
        let queue = receive_queue(index) + 1;
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        rings.quiet(queue);
        let (mut turns, mut unfinished) = (BUDGET, false);
        loop {
            let Some(left) = turns.checked_sub(1) else {
                unfinished = true;
                break;
            };
            turns = left;
            let head = match rings.pop(queue) {
                Popped::Empty if rings.listen(queue) => continue,
                Popped::Empty | Popped::Poisoned => break,
                Popped::Bad(head) => head,
                Popped::Chain(chain) => {
                    if !port.send(rings, &chain, &mut turns) {
                        rings.unpop(queue);
                        unfinished = !port.is_blocked();
                        break;
                    }
                    chain.head
                }
            };
            // A used ring outside memory hurts only the guest.
            let _ = rings.push(queue, head, 0);
        }
        if unfinished {
            rings.again(queue);
        }
        rings.signal(queue);
    }

    /// Leaves what the socket did not take behind for its reader.
    fn leave(&mut self, index: usize, rings: &mut Rings) {
        let queue = receive_queue(index) + 1;
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        for _ in 0..QUEUE_SIZE {
            let head = match rings.pop(queue) {
                Popped::Empty | Popped::Poisoned => break,
                Popped::Bad(head) => head,
                Popped::Chain(chain) => {
                    if !port.leave(rings, &chain) {
                        tracing::warn!(port = port.name(), "a port's last bytes are lost");
                        break;
                    }
                    chain.head
                }
            };
            let _ = rings.push(queue, head, 0);
        }
    }

    fn receive(&mut self, index: usize, rings: &mut Rings) {
        let queue = receive_queue(index);
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        let mut turns = 0;
        while port.wants_input() {
            turns += 1;
            if turns > BUDGET {
                rings.again(queue);
                break;
            }
            let chain = match rings.pop(queue) {
                Popped::Empty if rings.listen(queue) => continue,
                Popped::Empty | Popped::Poisoned => {
                    port.starve();
                    break;
                }
                Popped::Bad(head) => {
                    let _ = rings.push(queue, head, 0);
                    continue;
                }
                Popped::Chain(chain) => chain,
            };
            let bytes = port.take(usize::try_from(chain.writable_len()).unwrap_or(usize::MAX));
            if bytes.is_empty() && chain.writable_len() > 0 {
                rings.unpop(queue);
                break;
            }
            let written = rings.write(&chain, &bytes);
            let _ = rings.push(queue, chain.head, written);
        }
        rings.signal(queue);
        self.tell_closed(index, rings);
    }

    /// Tells the guest, once, that the host has gone.
    fn tell_closed(&mut self, index: usize, rings: &mut Rings) {
        let gone = self.ports.get_mut(index).is_some_and(Port::has_just_closed);
        if gone {
            self.control.opened(index, false);
            self.control.flush(rings);
        }
    }

    fn control(&mut self, rings: &mut Rings) {
        let count = self.ports.len();
        for event in self.control.receive(rings, count) {
            match event {
                Event::Ready => self.control.add_all(count),
                Event::PortReady(index) => {
                    if let Some(port) = self.ports.get(index) {
                        self.control.introduce(index, port.name(), port.is_open());
                    }
                }
                Event::Opened(index, open) => {
                    if let Some(port) = self.ports.get_mut(index) {
                        port.set_guest_open(open);
                    }
                    self.receive(index, rings);
                }
            }
        }
        self.control.flush(rings);
    }
}

impl Device for Console {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 * self.ports.len() + 2]
    }

    /// Columns, rows, number of ports, emergency write (§5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        let mut space = [0; 12];
        for (slot, byte) in space.iter_mut().skip(4).zip(ports.to_le_bytes()) {
            *slot = byte;
        }
        read_space(&space, offset, data);
    }

    fn process(&mut self, queue: usize, rings: &mut Rings) {
        match role(queue) {
            Role::Receive(port) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.feed();
                }
                self.receive(port, rings);
            }
            Role::Transmit(port) => self.transmit(port, rings),
            Role::ControlReceive => self.control.flush(rings),
            Role::ControlTransmit => self.control(rings),
        }
    }

    fn reset(&mut self) {
        self.control = Control::new();
        for port in &mut self.ports {
            port.reset();
        }
    }

    fn host_fds(&self) -> Vec<HostFd<'_>> {
        self.ports
            .iter()
            .enumerate()
            .filter_map(|(token, port)| {
                let fd = port.stream()?.as_fd();
                let (readable, writable) = (port.wants_input(), port.is_blocked());
                (readable || writable).then_some(HostFd {
                    fd,
                    token,
                    readable,
                    writable,
                })
            })
            .collect()
    }

    fn ready(&mut self, token: usize, rings: &mut Rings) {
        if self.ports.get(token).is_some_and(Port::is_blocked) {
            self.transmit(token, rings);
        }
        self.receive(token, rings);
    }

    fn end(&mut self, rings: &mut Rings) {
        for index in 0..self.ports.len() {
            self.transmit(index, rings);
            self.leave(index, rings);
        }
        self.ports.iter_mut().for_each(Port::close);
    }
}
