//! The disk as a driver sees it.

use std::cell::Cell;

use super::*;
use crate::devices::virtio::testutil::{Descriptor, Driver, WRITE};
use proptest::prelude::*;

const NEXT: u16 = 1;
const SIZE: u16 = 16;
const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const STATUS: u64 = 0x3_0000;
const DISK: u64 = 1 << 20;

fn descriptor(gpa: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        gpa,
        len,
        flags,
        next,
    }
}

struct Bench {
    driver: Driver,
    rings: Rings,
    block: Block,
    counters: Arc<Counters>,
}

impl Bench {
    fn new(disk: &Disk) -> Self {
        let driver = Driver::new(1, SIZE);
        let rings = driver.rings(SIZE);
        let counters = Arc::new(Counters::default());
        let block = Block::new(disk, Arc::clone(&counters)).unwrap();
        Self {
            driver,
            rings,
            block,
            counters,
        }
    }

    /// One request with `len` bytes of data; gives its status.
    fn request(&mut self, kind: u32, sector: u64, len: u32) -> u8 {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.driver.write(HEADER, &header);
        self.driver.write(STATUS, &[0xee]);
        let data_flags = if kind == 1 { NEXT } else { NEXT | WRITE };
        let table = [
            descriptor(HEADER, 16, NEXT, 1),
            descriptor(DATA, len, data_flags, 2),
            descriptor(STATUS, 1, WRITE, 0),
        ];
        self.driver.put_table(0, &table);
        self.driver.offer(0, &[0]);
        self.block.process(0, &mut self.rings);
        self.driver.read(STATUS, 1)[0]
    }
}

thread_local! {
    /// The time of a disk whose clock a test moves.
    static NOW: Cell<Instant> = Cell::new(Instant::now());
}

fn memory() -> Disk {
    Disk::new(DiskSource::Memory(DISK))
}

#[test]
fn what_was_written_is_read_back_and_counted() {
    let mut bench = Bench::new(&memory());
    let bytes: Vec<u8> = (0..1024u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    bench.driver.write(DATA, &bytes);
    assert_eq!(bench.request(1, 7, 1024), 0);
    bench.driver.write(DATA, &[0; 1024]);
    assert_eq!(bench.request(0, 7, 1024), 0);
    assert_eq!(bench.driver.read(DATA, 1024), bytes);
    assert_eq!(bench.request(4, 0, 0), 0);
    let expected = BlkCounters {
        reads_completed: 1,
        writes_completed: 1,
        flushes_completed: 1,
        bytes_read: 1024,
        bytes_written: 1024,
        ..BlkCounters::default()
    };
    assert_eq!(bench.counters.snapshot(), expected);
    assert_eq!(bench.driver.used(0), [(0, 1), (0, 1025), (0, 1)]);
    assert!(bench.driver.interrupted());
}

#[test]
fn wrong_requests_fail_alone() {
    let mut bench = Bench::new(&memory());
    assert_eq!(bench.request(0, DISK / 512, 512), 1, "past the end");
    assert_eq!(bench.request(0, u64::MAX, 512), 1);
    assert_eq!(bench.request(0, 0, 100), 1, "half a sector");
    assert_eq!(bench.request(99, 0, 512), 2);
    assert_eq!(bench.request(8, 0, 20), 0);
    assert_eq!(bench.driver.read(DATA, 6), b"ktstr\0");
    assert_eq!(bench.counters.snapshot().io_errors, 3);
    assert_eq!(bench.request(0, 0, 512), 0);
}

#[test]
fn a_read_only_disk_refuses_writes_and_flushes_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(DISK).unwrap();
    let disk = Disk::new(DiskSource::File(file.path().into())).read_only(true);
    let mut bench = Bench::new(&disk);
    assert_ne!(bench.block.features() & F_RO, 0);
    assert_eq!(bench.request(1, 0, 512), 1);
    assert_eq!(bench.request(4, 0, 0), 0);
    assert_eq!(bench.request(0, 0, 512), 0);
}

#[test]
fn a_throttled_request_waits_at_the_front_and_succeeds_later() {
    let throttle = Throttle {
        iops: Some(1),
        bytes_per_second: None,
    };
    let mut bench = Bench::new(&memory().throttle(throttle));
    // A clock that stands: on a busy machine a second may pass between the two requests.
    bench.block.clock = || NOW.get();
    assert_eq!(bench.request(0, 0, 512), 0);
    assert_eq!(bench.request(0, 0, 512), 0xee, "no answer yet");
    let counters = bench.counters.snapshot();
    assert_eq!(
        (counters.throttled_count, counters.currently_throttled_gauge),
        (1, 1)
    );
    let until = bench.block.next_timer().unwrap();
    assert!(until > NOW.get());
    // Kicks meanwhile are no new stall.
    bench.block.process(0, &mut bench.rings);
    assert_eq!(bench.counters.snapshot().throttled_count, 1);
    NOW.set(until);
    bench.block.timer(&mut bench.rings);
    assert_eq!(bench.driver.read(STATUS, 1), [0]);
    assert_eq!(bench.counters.snapshot().currently_throttled_gauge, 0);
    assert_eq!(bench.counters.snapshot().io_errors, 0);
}

#[test]
fn a_poisoned_queue_is_counted_once_and_counters_survive_a_reset() {
    let mut bench = Bench::new(&memory());
    bench.driver.set_avail_index(0, SIZE + 1);
    bench.block.process(0, &mut bench.rings);
    bench.block.process(0, &mut bench.rings);
    assert_eq!(bench.counters.snapshot().invalid_avail_idx_count, 1);
    bench.block.reset();
    assert_eq!(bench.counters.snapshot().invalid_avail_idx_count, 1);
}

proptest! {
    #[test]
    fn hostile_drivers_are_survived(
        header in proptest::collection::vec(any::<u8>(), 16),
        table in proptest::collection::vec((0u64..0x12_0000, 0u32..0x3000, 0u16..8, 0u16..18), 16),
        heads in proptest::collection::vec(0u16..20, 1..16),
    ) {
        let mut bench = Bench::new(&memory());
        bench.driver.write(HEADER, &header);
        for (slot, (gpa, len, flags, next)) in (0u64..).zip(table) {
            let gpa = if slot % 3 == 0 { HEADER } else { gpa };
            bench.driver.put(0, slot, Descriptor { gpa, len, flags, next });
        }
        bench.driver.offer(0, &heads);
        bench.block.process(0, &mut bench.rings);
        let done = bench.counters.snapshot();
        prop_assert!(done.invalid_avail_idx_count <= 1);
    }
}

/// Offers requests of one MiB each, or flushes, all at once; gives how many one turn has served, and whether it wants another.
fn one_turn(kind: u32, count: u16) -> (usize, bool) {
    const MIB: u64 = 1 << 20;
    let driver = Driver::with_memory(1, 64, 4 * MIB);
    let mut rings = driver.rings(64);
    let disk = Disk::new(DiskSource::Memory(MIB));
    let mut block = Block::new(&disk, Arc::new(Counters::default())).unwrap();
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 12]);
    driver.write(HEADER, &header);
    for request in 0..count {
        let slot = 3 * request;
        let table = [
            descriptor(HEADER, 16, NEXT, slot + 1),
            descriptor(2 * MIB, 1 << 20, NEXT | WRITE, slot + 2),
            descriptor(STATUS, 1, WRITE, 0),
        ];
        for (at, descriptor) in (u64::from(slot)..).zip(table) {
            driver.put(0, at, descriptor);
        }
        driver.offer(0, &[slot]);
    }
    block.process(0, &mut rings);
    (driver.used(0).len(), !rings.take_again().is_empty())
}

#[test]
fn a_turn_is_bounded_in_bytes_and_by_a_flush() {
    assert_eq!(one_turn(0, 4), (4, false));
    assert_eq!(one_turn(0, 20), (8, true));
    assert_eq!(one_turn(4, 3), (1, true));
}

#[test]
fn more_segments_than_told_are_refused() {
    let transfer = |count: u32| {
        let segment = crate::devices::virtio::Segment {
            gpa: vm_memory::GuestAddress(DATA),
            len: 512,
        };
        request::of_segments(vec![segment; usize::try_from(count).unwrap()])
    };
    assert!(transfer(SEG_MAX).fits(1 << 20));
    assert!(!transfer(SEG_MAX + 1).fits(1 << 20));
}

#[test]
fn a_disk_without_a_sector_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100).unwrap();
    let disk = Disk::new(DiskSource::File(file.path().into()));
    let error = Block::new(&disk, Arc::new(Counters::default())).unwrap_err();
    assert!(error.to_string().contains("512"), "{error}");
}
