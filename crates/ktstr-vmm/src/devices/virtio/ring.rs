//! Split virtqueues (virtio 1.2 §2.7), read with suspicion.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::{Error as QueueError, Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// A buffer that lies inside guest memory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) gpa: GuestAddress,
    pub(crate) len: u32,
}

/// A descriptor chain: readable buffers, then writable ones (virtio 1.2 §2.7.4.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) head: u16,
    pub(crate) readable: Vec<Segment>,
    pub(crate) writable: Vec<Segment>,
}

impl Chain {
    /// Bytes that the device may read.
    pub(crate) fn readable_len(&self) -> u64 {
        self.readable
            .iter()
            .map(|segment| u64::from(segment.len))
            .sum()
    }

    /// Bytes that the device may write.
    pub(crate) fn writable_len(&self) -> u64 {
        self.writable
            .iter()
            .map(|segment| u64::from(segment.len))
            .sum()
    }
}

/// What a queue had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// Nothing.
    Empty,
    /// A request.
    Chain(Chain),
    /// A chain that breaks the rules; its head can be given back.
    Bad(u16),
    /// The avail index is impossible; the queue is dead until reset. Told once.
    Poisoned,
}

#[derive(Debug)]
struct Ring {
    queue: Queue,
    poisoned: bool,
    /// A chain was given back that the driver was not told of.
    untold: bool,
}

/// How the driver learns of used buffers.
#[derive(Debug)]
enum Interrupt {
    /// One line for all queues (virtio-mmio).
    Line {
        line: EventFd,
        /// Virtio 1.2 §4.2.2, InterruptStatus. Relaxed: the eventfd orders it.
        status: Arc<AtomicU32>,
    },
    /// An eventfd per queue, once there is one (vhost-user).
    Calls(Vec<Option<File>>),
}

/// All queues of a device, with its interrupt.
#[derive(Debug)]
pub(crate) struct Rings {
    rings: Vec<Ring>,
    memory: GuestMemoryMmap<()>,
    interrupt: Interrupt,
    /// Queues that want another turn.
    again: Vec<usize>,
}

/// Bit 0 of InterruptStatus: a queue was used.
pub(super) const USED: u32 = 1;

impl Rings {
    /// Queues that share an interrupt line.
    pub(super) fn new(
        sizes: &[u16],
        memory: GuestMemoryMmap<()>,
        line: EventFd,
    ) -> Result<Self, QueueError> {
        let status = Arc::default();
        Self::with_interrupt(sizes, memory, Interrupt::Line { line, status })
    }

    /// Queues that call on an eventfd each, when one was [set](Self::set_call).
    pub(super) fn with_calls(
        sizes: &[u16],
        memory: GuestMemoryMmap<()>,
    ) -> Result<Self, QueueError> {
        let calls = sizes.iter().map(|_| None).collect();
        Self::with_interrupt(sizes, memory, Interrupt::Calls(calls))
    }

    fn with_interrupt(
        sizes: &[u16],
        memory: GuestMemoryMmap<()>,
        interrupt: Interrupt,
    ) -> Result<Self, QueueError> {
        let ring = |size: &u16| {
            Ok(Ring {
                queue: Queue::new(*size)?,
                poisoned: false,
                untold: false,
            })
        };
        Ok(Self {
            rings: sizes.iter().map(ring).collect::<Result<_, QueueError>>()?,
            memory,
            interrupt,
            again: Vec::new(),
        })
    }

    /// The line's InterruptStatus; `None` where there is no line.
    pub(super) fn status(&self) -> Option<&Arc<AtomicU32>> {
        match &self.interrupt {
            Interrupt::Line { status, .. } => Some(status),
            Interrupt::Calls(_) => None,
        }
    }

    /// Where `queue` calls from now on; nothing for a line.
    pub(super) fn set_call(&mut self, queue: usize, call: Option<File>) {
        if let Interrupt::Calls(calls) = &mut self.interrupt
            && let Some(slot) = calls.get_mut(queue)
        {
            *slot = call;
        }
    }

    /// Whether the driver has set `queue` up and it is in use.
    pub(super) fn runs(&self, queue: usize) -> bool {
        self.queue_ref(queue).is_some_and(Queue::ready)
    }

    /// Begins to use `queue`, whose addresses and position are set.
    pub(super) fn start(&mut self, queue: usize, event_idx: bool) {
        if let Some(queue) = self.queue(queue) {
            queue.set_event_idx(event_idx);
            queue.set_ready(true);
        }
        self.validate();
    }

    /// Leaves `queue` alone; its position stays.
    pub(super) fn stop(&mut self, queue: usize) {
        if let Some(queue) = self.queue(queue) {
            queue.set_ready(false);
        }
    }

    /// Sets the position of a queue that is stopped. Our devices give a chain back before they take the next, so that avail
    /// and used position are one. A dead queue that goes on where it stopped stays dead; elsewhere it is a new one.
    pub(super) fn move_to(&mut self, queue: usize, position: u16) {
        if let Some(ring) = self.rings.get_mut(queue) {
            ring.poisoned &= ring.queue.next_avail() == position;
            ring.queue.set_next_avail(position);
            ring.queue.set_next_used(position);
        }
    }

    pub(super) fn queue(&mut self, index: usize) -> Option<&mut Queue> {
        self.rings.get_mut(index).map(|ring| &mut ring.queue)
    }

    pub(super) fn queue_ref(&self, index: usize) -> Option<&Queue> {
        self.rings.get(index).map(|ring| &ring.queue)
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    /// Checks the rings before they are used; one that does not lie in memory is dead.
    pub(super) fn validate(&mut self) {
        for ring in &mut self.rings {
            if ring.queue.ready() && !ring.queue.is_valid(&self.memory) {
                ring.poisoned = true;
            }
        }
    }

    pub(super) fn reset(&mut self) {
        for ring in &mut self.rings {
            ring.queue.reset();
            ring.poisoned = false;
        }
        if let Some(status) = self.status() {
            status.store(0, Ordering::Relaxed);
        }
    }

    /// The next request of `queue`.
    pub(crate) fn pop(&mut self, queue: usize) -> Popped {
        let Some(ring) = self.rings.get_mut(queue) else {
            return Popped::Empty;
        };
        if ring.poisoned || !ring.queue.ready() {
            return Popped::Empty;
        }
        let memory = &self.memory;
        let chain = match ring.queue.iter(memory) {
            Ok(mut chains) => chains.next(),
            // Virtio 1.2 §2.7.13.3; or the ring itself is not in memory.
            Err(_) => {
                ring.poisoned = true;
                return Popped::Poisoned;
            }
        };
        let Some(chain) = chain else {
            return Popped::Empty;
        };
        let head = chain.head_index();
        let mut found = Chain {
            head,
            ..Chain::default()
        };
        // The iterator ends early at a loop, a bad index or a bad table; the last descriptor then still has a successor.
        let mut complete = false;
        let longest = usize::from(ring.queue.max_size());
        for descriptor in chain {
            // Longer ones than the queue are an indirect table's, which no device of ours offers.
            if found.readable.len() + found.writable.len() >= longest {
                return Popped::Bad(head);
            }
            complete = !descriptor.has_next();
            let segment = Segment {
                gpa: descriptor.addr(),
                len: descriptor.len(),
            };
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
            let inside = segment.len == 0 || memory.check_range(segment.gpa, len);
            let ordered = descriptor.is_write_only() || found.writable.is_empty();
            if !inside || !ordered {
                return Popped::Bad(head);
            }
            if descriptor.is_write_only() {
                found.writable.push(segment);
            } else {
                found.readable.push(segment);
            }
        }
        if complete {
            Popped::Chain(found)
        } else {
            Popped::Bad(head)
        }
    }

    /// The device has used up its turn at `queue`, and wants another one.
    pub(crate) fn again(&mut self, queue: usize) {
        self.again.push(queue);
    }

    /// What [`again`](Self::again) named since the last call.
    pub(super) fn take_again(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.again)
    }

    /// Takes the last [`pop`](Self::pop) of `queue` back.
    pub(crate) fn unpop(&mut self, queue: usize) {
        if let Some(ring) = self.rings.get_mut(queue) {
            ring.queue.go_to_previous_position();
        }
    }

    /// Gives a chain back with `len` written bytes; an error when the used ring cannot be written.
    pub(crate) fn push(&mut self, queue: usize, head: u16, len: u32) -> Result<(), QueueError> {
        let Some(ring) = self.rings.get_mut(queue) else {
            return Ok(());
        };
        ring.queue.add_used(&self.memory, head, len)?;
        ring.untold = true;
        Ok(())
    }

    /// Interrupts the driver if chains of `queue` were given back since it was last told, and it wants to hear of them.
    pub(crate) fn signal(&mut self, queue: usize) {
        let Some(ring) = self.rings.get_mut(queue) else {
            return;
        };
        if !std::mem::take(&mut ring.untold) {
            return;
        }
        // A used ring outside memory asks for nothing.
        if !ring.queue.needs_notification(&self.memory).unwrap_or(false) {
            return;
        }
        // A full eventfd only means that the interrupt is already pending.
        match &self.interrupt {
            Interrupt::Line { line, status } => {
                status.fetch_or(USED, Ordering::Relaxed);
                let _ = line.write(1);
            }
            Interrupt::Calls(calls) => {
                if let Some(mut call) = calls.get(queue).and_then(Option::as_ref) {
                    let _ = call.write(&1u64.to_ne_bytes());
                }
            }
        }
    }

    /// Asks for no kicks while the queue is being emptied.
    pub(crate) fn quiet(&mut self, queue: usize) {
        if let Some(ring) = self.rings.get_mut(queue).filter(|ring| ring.queue.ready()) {
            // A ring outside memory only means more kicks.
            let _ = ring.queue.disable_notification(&self.memory);
        }
    }

    /// Asks for kicks again; tells whether requests came meanwhile.
    pub(crate) fn listen(&mut self, queue: usize) -> bool {
        let Some(ring) = self.rings.get_mut(queue) else {
            return false;
        };
        !ring.poisoned
            && ring.queue.ready()
            && ring
                .queue
                .enable_notification(&self.memory)
                .unwrap_or(false)
    }

    /// Reads what the chain's readable buffers hold, at most `max` bytes.
    pub(crate) fn read(&self, chain: &Chain, max: usize) -> Vec<u8> {
        self.read_from(chain, 0, max)
    }

    /// Reads what the chain's readable buffers hold behind the first `skip` bytes, at most `max` bytes.
    pub(crate) fn read_from(&self, chain: &Chain, skip: u64, max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut skip = skip;
        for segment in &chain.readable {
            let gone = skip.min(segment.len.into());
            skip -= gone;
            let gpa = GuestAddress(segment.gpa.0.saturating_add(gone));
            let want = usize::try_from(u64::from(segment.len) - gone).unwrap_or(usize::MAX);
            let len = want.min(max.saturating_sub(bytes.len()));
            if len == 0 {
                continue;
            }
            let start = bytes.len();
            bytes.resize(start + len, 0);
            let slot = bytes.get_mut(start..).unwrap_or_default();
            if self.memory.read_slice(slot, gpa).is_err() {
                // Checked when popped, and memory never shrinks.
                bytes.truncate(start);
                break;
            }
        }
        bytes
    }

    /// Writes `bytes` into the chain's writable buffers; gives how many fitted.
    pub(crate) fn write(&self, chain: &Chain, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        let mut written = 0u32;
        for segment in &chain.writable {
            let room = usize::try_from(segment.len).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            if self.memory.write_slice(now, segment.gpa).is_err() {
                break;
            }
            written = written.saturating_add(u32::try_from(now.len()).unwrap_or(u32::MAX));
            rest = later;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testutil::{Descriptor, Driver};
    use proptest::prelude::*;

    const R: u16 = 0;
    const W: u16 = 2;
    const NEXT: u16 = 1;

    fn descriptor(gpa: u64, len: u32, flags: u16, next: u16) -> Descriptor {
        Descriptor {
            gpa,
            len,
            flags,
            next,
        }
    }

    #[track_caller]
    fn check(table: &[Descriptor], expected: &Popped) {
        let driver = Driver::new(1, 8);
        driver.put_table(0, table);
        driver.offer(0, &[0]);
        let mut rings = driver.rings(8);
        assert_eq!(rings.pop(0), *expected);
    }

    #[test]
    fn good_chains_are_taken_apart() {
        let expected = Popped::Chain(Chain {
            head: 0,
            readable: vec![Segment {
                gpa: GuestAddress(0x8000),
                len: 16,
            }],
            writable: vec![Segment {
                gpa: GuestAddress(0x9000),
                len: 1,
            }],
        });
        check(
            &[
                descriptor(0x8000, 16, R | NEXT, 1),
                descriptor(0x9000, 1, W, 0),
            ],
            &expected,
        );
    }

    #[test]
    fn bad_chains_are_told() {
        let bad = Popped::Bad(0);
        // A loop, an index outside the table, an address outside memory, an end past it, an overflow.
        check(&[descriptor(0x8000, 1, NEXT, 0)], &bad);
        check(&[descriptor(0x8000, 1, NEXT, 8)], &bad);
        check(&[descriptor(1 << 40, 1, R, 0)], &bad);
        check(&[descriptor(Driver::MEMORY - 1, 2, R, 0)], &bad);
        check(&[descriptor(u64::MAX, 2, R, 0)], &bad);
        // Writable before readable; a chain of more than 4 GiB; an indirect table that is none.
        check(
            &[
                descriptor(0x8000, 1, W | NEXT, 1),
                descriptor(0x9000, 1, R, 0),
            ],
            &bad,
        );
        check(&[descriptor(0x8000, 7, 4, 0)], &bad);
    }

    #[test]
    fn an_avail_index_too_far_ahead_poisons_until_reset() {
        let driver = Driver::new(1, 8);
        driver.put_table(0, &[descriptor(0x8000, 1, R, 0)]);
        driver.offer(0, &[0]);
        driver.set_avail_index(0, 9);
        let mut rings = driver.rings(8);
        assert_eq!(rings.pop(0), Popped::Poisoned);
        driver.set_avail_index(0, 1);
        assert_eq!(rings.pop(0), Popped::Empty);
        assert!(!rings.listen(0));
        rings.reset();
        driver.set_up(&mut rings, 8);
        assert!(matches!(rings.pop(0), Popped::Chain(_)));
    }

    #[test]
    fn bytes_go_through_segments() {
        let driver = Driver::new(1, 8);
        let table = [
            descriptor(0x8000, 3, W | NEXT, 1),
            descriptor(0x9000, 3, W, 0),
        ];
        driver.put_table(0, &table);
        driver.offer(0, &[0]);
        let mut rings = driver.rings(8);
        let Popped::Chain(chain) = rings.pop(0) else {
            panic!("no chain");
        };
        assert_eq!(rings.write(&chain, b"abcdefgh"), 6);
        assert_eq!(driver.read(0x8000, 3), b"abc");
        assert_eq!(driver.read(0x9000, 3), b"def");
    }

    proptest! {
        /// Any table and any avail ring: it ends, and every segment lies inside memory.
        #[test]
        fn hostile_tables_never_leave_memory(
            table in proptest::collection::vec((any::<u64>(), any::<u32>(), 0u16..8, 0u16..10), 8),
            near in proptest::collection::vec(0u64..0x2_0000, 8),
            heads in proptest::collection::vec(0u16..12, 0..8),
            index in any::<u16>(),
            honest in any::<bool>(),
        ) {
            let driver = Driver::new(1, 8);
            let table: Vec<Descriptor> = table
                .into_iter()
                .zip(near)
                .map(|((far, len, flags, next), near)| {
                    let gpa = if len % 3 == 0 { far } else { near };
                    descriptor(gpa, len % 0x9000, flags, next)
                })
                .collect();
            driver.put_table(0, &table);
            driver.offer(0, &heads);
            if !honest {
                driver.set_avail_index(0, index);
            }
            let mut rings = driver.rings(8);
            let mut turns = 0;
            loop {
                turns += 1;
                prop_assert!(turns < 1000);
                match rings.pop(0) {
                    Popped::Empty => break,
                    Popped::Poisoned => {}
                    Popped::Bad(head) => { let _ = rings.push(0, head, 0); }
                    Popped::Chain(chain) => {
                        for segment in chain.readable.iter().chain(&chain.writable) {
                            prop_assert!(segment.len == 0 || segment.gpa.0 + u64::from(segment.len) <= Driver::MEMORY);
                        }
                        prop_assert!(rings.read(&chain, 1 << 20).len() <= 1 << 20);
                        let _ = rings.push(0, chain.head, 0);
                    }
                }
            }
        }
    }
}
