//! Virtio-net as a loopback (virtio 1.2 §5.1): each frame that the guest sends comes back to it.
//!
//! Nothing is kept: a frame for which the guest has no buffer is dropped and counted, as a real wire would.

use std::sync::Arc;

use super::counters::counters;
use super::{Device, Popped, Rings, read_space};

const DEVICE_TYPE: u32 = 1;
pub(crate) const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
/// `struct virtio_net_hdr_v1` with `num_buffers` (§5.1.6).
const HEADER: usize = 12;
/// The largest frame: a 64 KiB payload with its headers.
const MAX_FRAME: usize = 65_557;
pub(crate) const MTU: u16 = 65_535;
/// Frames moved before the worker looks up.
const BUDGET: usize = 256;

/// A loopback network card; the guest finds them in order as eth0, eth1, …
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Net {
    pub(crate) mac: Option<[u8; 6]>,
}

impl Net {
    /// A card whose address the guest makes up.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fixes its address.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }
}

counters! {
    /// What a network card has done. Frames that came back are those sent less those dropped.
    NetCounters, Counters {
        /// Frames taken from the guest.
        tx_packets,
        /// Their bytes, without the 12-byte header.
        tx_bytes,
        /// Frames given to the guest.
        rx_packets,
        /// Their bytes, without the 12-byte header.
        rx_bytes,
        /// Frames lost because the guest offered no buffer.
        tx_dropped_no_rx_buffer,
        /// Frames lost because the receive queue is poisoned.
        tx_dropped_rx_poisoned,
        /// Frames lost because they are too large.
        tx_oversize_dropped,
        /// Transmit chains that broke the rules.
        tx_chain_invalid,
        /// Receive chains that broke the rules or were too small.
        rx_chain_invalid,
        /// Receive buffers that could not be written.
        rx_write_failed,
        /// Transmit chains that could not be given back.
        tx_add_used_failures,
        /// Receive chains that could not be given back.
        rx_add_used_failures,
        /// Avail indices more than a queue ahead (virtio 1.2 §2.7.13.3); each killed its queue until reset.
        invalid_avail_idx_count,
    }
}

/// The device.
#[derive(Debug)]
pub(crate) struct Loopback {
    mac: Option<[u8; 6]>,
    counters: Arc<Counters>,
    rx_poisoned: bool,
}

impl Loopback {
    pub(crate) fn new(net: &Net, counters: Arc<Counters>) -> Self {
        Self {
            mac: net.mac,
            counters,
            rx_poisoned: false,
        }
    }

    fn transmit(&mut self, rings: &mut Rings) {
        let counters = Arc::clone(&self.counters);
        rings.quiet(TX);
        let mut turns = 0;
        loop {
            turns += 1;
            if turns > BUDGET {
                rings.again(TX);
                break;
            }
            let (head, frame) = match rings.pop(TX) {
                Popped::Empty if rings.listen(TX) => continue,
                Popped::Empty => break,
                Popped::Poisoned => {
                    Counters::add(&counters.invalid_avail_idx_count, 1);
                    break;
                }
                Popped::Bad(head) => {
                    Counters::add(&counters.tx_chain_invalid, 1);
                    (head, None)
                }
                Popped::Chain(chain) => (chain.head, self.take(rings, &chain)),
            };
            let pushed = rings.push(TX, head, 0);
            if pushed.is_err() {
                Counters::add(&counters.tx_add_used_failures, 1);
            }
            if let Some(frame) = frame {
                if pushed.is_ok() {
                    Counters::add(&counters.tx_packets, 1);
                    Counters::add(&counters.tx_bytes, payload(&frame));
                }
                self.give(rings, &frame);
            }
        }
        rings.signal(TX);
        rings.signal(RX);
    }

    /// The frame with its header, if it is one.
    fn take(&self, rings: &Rings, chain: &super::Chain) -> Option<Vec<u8>> {
        let len = chain.readable_len();
        if len > (HEADER + MAX_FRAME) as u64 {
            Counters::add(&self.counters.tx_oversize_dropped, 1);
            return None;
        }
        let frame = rings.read(chain, HEADER + MAX_FRAME);
        if frame.len() <= HEADER {
            Counters::add(&self.counters.tx_chain_invalid, 1);
            return None;
        }
        Some(frame)
    }

    /// Gives a frame to the guest; it comes in one buffer, without offloads.
    fn give(&mut self, rings: &mut Rings, frame: &[u8]) {
        let counters = &self.counters;
        let chain = match rings.pop(RX) {
            Popped::Empty if self.rx_poisoned => {
                return Counters::add(&counters.tx_dropped_rx_poisoned, 1);
            }
            Popped::Empty => return Counters::add(&counters.tx_dropped_no_rx_buffer, 1),
            Popped::Poisoned => {
                self.rx_poisoned = true;
                Counters::add(&counters.invalid_avail_idx_count, 1);
                return Counters::add(&counters.tx_dropped_rx_poisoned, 1);
            }
            Popped::Bad(head) => {
                Counters::add(&counters.rx_chain_invalid, 1);
                return self.give_back(rings, head, 0);
            }
            Popped::Chain(chain) => chain,
        };
        if chain.writable_len() < frame.len() as u64 {
            Counters::add(&counters.rx_chain_invalid, 1);
            return self.give_back(rings, chain.head, 0);
        }
        let mut bytes = vec![0; HEADER];
        if let Some(num_buffers) = bytes.get_mut(10) {
            *num_buffers = 1;
        }
        bytes.extend(frame.get(HEADER..).unwrap_or_default());
        let written = rings.write(&chain, &bytes);
        if usize::try_from(written) != Ok(bytes.len()) {
            Counters::add(&counters.rx_write_failed, 1);
            return self.give_back(rings, chain.head, 0);
        }
        Counters::add(&counters.rx_packets, 1);
        Counters::add(&counters.rx_bytes, payload(frame));
        self.give_back(rings, chain.head, written);
    }

    fn give_back(&self, rings: &mut Rings, head: u16, written: u32) {
        if rings.push(RX, head, written).is_err() {
            Counters::add(&self.counters.rx_add_used_failures, 1);
        }
    }
}

fn payload(frame: &[u8]) -> u64 {
    frame.len().saturating_sub(HEADER) as u64
}

impl Device for Loopback {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        F_MTU | if self.mac.is_some() { F_MAC } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    /// MAC, status, max_virtqueue_pairs, mtu (§5.1.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = self.mac.unwrap_or_default().to_vec();
        space.extend([0; 4]);
        space.extend(MTU.to_le_bytes());
        read_space(&space, offset, data);
    }

    fn process(&mut self, queue: usize, rings: &mut Rings) {
        if queue == TX {
            self.transmit(rings);
        }
    }

    fn reset(&mut self) {
        self.rx_poisoned = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testutil::{Descriptor, Driver, WRITE};
    use proptest::prelude::*;

    const SIZE: u16 = 8;

    struct Bench {
        driver: Driver,
        rings: Rings,
        net: Loopback,
        counters: Arc<Counters>,
    }

    impl Bench {
        fn new() -> Self {
            let driver = Driver::new(2, SIZE);
            let rings = driver.rings(SIZE);
            let counters = Arc::new(Counters::default());
            let net = Net::new().mac([2, 0, 0, 0, 0, 1]);
            let net = Loopback::new(&net, Arc::clone(&counters));
            Self {
                driver,
                rings,
                net,
                counters,
            }
        }

        fn buffer(&self, slot: u16, len: u32) -> u64 {
            let gpa = 0x2_0000 + 0x1000 * u64::from(slot);
            let descriptor = Descriptor {
                gpa,
                len,
                flags: WRITE,
                next: 0,
            };
            self.driver.put(RX, u64::from(slot), descriptor);
            self.driver.offer(RX, &[slot]);
            gpa
        }

        fn send(&mut self, slot: u16, frame: &[u8]) {
            let gpa = 0x4_0000;
            let bytes = [&[0xff; HEADER], frame].concat();
            self.driver.write(gpa, &bytes);
            let len = u32::try_from(bytes.len()).unwrap();
            let descriptor = Descriptor {
                gpa,
                len,
                flags: 0,
                next: 0,
            };
            self.driver.put(TX, u64::from(slot), descriptor);
            self.driver.offer(TX, &[slot]);
            self.net.process(TX, &mut self.rings);
        }
    }

    #[test]
    fn a_frame_comes_back_with_a_fresh_header() {
        let mut bench = Bench::new();
        let gpa = bench.buffer(0, 2048);
        bench.send(0, b"a frame of twenty-one");
        assert_eq!(bench.driver.used(RX), [(0, 33)]);
        assert_eq!(
            bench.driver.read(gpa, 12),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
        );
        assert_eq!(bench.driver.read(gpa + 12, 21), b"a frame of twenty-one");
        let counters = bench.counters.snapshot();
        assert_eq!((counters.tx_packets, counters.rx_packets), (1, 1));
        assert_eq!((counters.tx_bytes, counters.rx_bytes), (21, 21));
    }

    #[test]
    fn what_cannot_come_back_is_dropped_and_says_why() {
        let mut bench = Bench::new();
        bench.send(0, b"nobody listens");
        bench.buffer(0, 16);
        bench.send(1, b"larger than the buffer");
        bench.send(2, &[0; MAX_FRAME + 1]);
        bench.send(3, b"");
        bench.driver.set_avail_index(RX, 100);
        bench.send(4, b"poisons");
        bench.send(5, b"stays poisoned");
        let counters = bench.counters.snapshot();
        assert_eq!(counters.tx_dropped_no_rx_buffer, 1);
        assert_eq!(counters.rx_chain_invalid, 1);
        assert_eq!(counters.tx_oversize_dropped, 1);
        assert_eq!(counters.tx_chain_invalid, 1);
        assert_eq!(counters.invalid_avail_idx_count, 1);
        assert_eq!(counters.tx_dropped_rx_poisoned, 2);
        assert_eq!((counters.tx_packets, counters.rx_packets), (4, 0));
    }

    proptest! {
        #[test]
        fn hostile_drivers_are_survived(
            tables in proptest::collection::vec((0u64..0x12_0000, 0u32..0x2_0000, 0u16..8, 0u16..10), 16),
            heads in proptest::collection::vec((0usize..2, 0u16..10), 0..16),
        ) {
            let mut bench = Bench::new();
            for (index, (gpa, len, flags, next)) in tables.into_iter().enumerate() {
                let slot = u64::try_from(index / 2).unwrap();
                bench.driver.put(index % 2, slot, Descriptor { gpa, len, flags, next });
            }
            for (queue, head) in heads {
                bench.driver.offer(queue, &[head]);
                bench.net.process(TX, &mut bench.rings);
            }
            let counters = bench.counters.snapshot();
            prop_assert!(counters.rx_packets <= counters.tx_packets + counters.tx_add_used_failures);
        }
    }
}
