//! The driver's side of a device, for tests and fuzzers: memory and rings as a guest would have them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    dead_code,
    reason = "a test may panic, and fuzzers use a part of it"
)]

use virtio_queue::QueueT as _;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::ring::Rings;

/// One descriptor as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) gpa: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// The writable flag of a descriptor.
pub(crate) const WRITE: u16 = 2;
/// A driver with `queues` queues of `size` descriptors, each in a page of its own.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) memory: GuestMemoryMmap<()>,
    pub(crate) line: EventFd,
    queues: usize,
    size: u16,
}

impl Driver {
    /// Bytes of guest memory, from 0.
    pub(crate) const MEMORY: u64 = 0x10_0000;

    pub(crate) fn new(queues: usize, size: u16) -> Self {
        Self::with_memory(queues, size, Self::MEMORY)
    }

    pub(crate) fn with_memory(queues: usize, size: u16, len: u64) -> Self {
        let len = usize::try_from(len).unwrap();
        Self {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).unwrap(),
            line: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            queues,
            size,
        }
    }

    fn base(queue: usize) -> u64 {
        0x1000 * (u64::try_from(queue).unwrap() + 1)
    }

    /// Rings that are set up and ready.
    pub(crate) fn rings(&self, size: u16) -> Rings {
        let sizes = vec![size; self.queues];
        let line = self.line.try_clone().unwrap();
        let mut rings = Rings::new(&sizes, self.memory.clone(), line).unwrap();
        self.set_up(&mut rings, size);
        rings
    }

    /// Addresses and readiness, as the registers would set them.
    pub(crate) fn set_up(&self, rings: &mut Rings, size: u16) {
        for index in 0..self.queues {
            let low = |offset: u64| Some(u32::try_from(Self::base(index) + offset).unwrap());
            let queue = rings.queue(index).unwrap();
            queue.set_size(size);
            queue.set_desc_table_address(low(0), Some(0));
            queue.set_avail_ring_address(low(0x400), Some(0));
            queue.set_used_ring_address(low(0x800), Some(0));
            queue.set_ready(true);
        }
        rings.validate();
    }

    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(gpa))
            .unwrap();
        bytes
    }

    /// Fills the descriptor table from its start.
    pub(crate) fn put_table(&self, queue: usize, table: &[Descriptor]) {
        for (slot, descriptor) in (0u64..).zip(table) {
            self.put(queue, slot, *descriptor);
        }
    }

    pub(crate) fn put(&self, queue: usize, slot: u64, descriptor: Descriptor) {
        let mut bytes = descriptor.gpa.to_le_bytes().to_vec();
        bytes.extend(descriptor.len.to_le_bytes());
        bytes.extend(descriptor.flags.to_le_bytes());
        bytes.extend(descriptor.next.to_le_bytes());
        self.write(Self::base(queue) + 16 * slot, &bytes);
    }

    fn word(&self, gpa: u64) -> u16 {
        let bytes = self.read(gpa, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// Appends heads to the avail ring and moves its index.
    pub(crate) fn offer(&self, queue: usize, heads: &[u16]) {
        let ring = Self::base(queue) + 0x400;
        let mut index = self.word(ring + 2);
        for head in heads {
            let slot = ring + 4 + 2 * u64::from(index % self.size);
            self.write(slot, &head.to_le_bytes());
            index = index.wrapping_add(1);
        }
        self.set_avail_index(queue, index);
    }

    pub(crate) fn set_avail_index(&self, queue: usize, index: u16) {
        self.write(Self::base(queue) + 0x402, &index.to_le_bytes());
    }

    /// (head, length) of every used element so far, as long as the ring has not wrapped.
    pub(crate) fn used(&self, queue: usize) -> Vec<(u32, u32)> {
        let ring = Self::base(queue) + 0x800;
        let word = |at: u64| {
            let bytes = self.read(at, 4);
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let count = u64::from(self.word(ring + 2));
        (0..count)
            .map(|slot| (word(ring + 4 + 8 * slot), word(ring + 8 + 8 * slot)))
            .collect()
    }

    /// An interrupt came since the last call.
    pub(crate) fn interrupted(&self) -> bool {
        self.line.read().is_ok()
    }
}
