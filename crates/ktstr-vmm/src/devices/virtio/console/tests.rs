//! The console as a driver sees it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::devices::virtio::testutil::{Descriptor, Driver, WRITE};
use crate::port::PortStream;
use proptest::prelude::*;

const SIZE: u16 = 8;
/// Queues of port 1.
const RX: usize = 4;
const TX: usize = 5;

struct Bench {
    driver: Driver,
    rings: Rings,
    console: Console,
    host: UnixStream,
    left: Leftover,
}

impl Bench {
    fn new() -> Self {
        Self::with(Driver::new(6, SIZE), SIZE)
    }

    fn with(driver: Driver, size: u16) -> Self {
        let left = Leftover::default();
        let rings = driver.rings(size);
        let (host, device) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let console = Console::new(vec![(String::from("frames"), device, left.clone())]).unwrap();
        Self {
            driver,
            rings,
            console,
            host,
            left,
        }
    }

    /// Offers one buffer with these bytes.
    fn send(&mut self, queue: usize, slot: u16, bytes: &[u8]) {
        let gpa = 0x1_0000 + 0x1000 * u64::from(slot);
        self.driver.write(gpa, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        let descriptor = Descriptor {
            gpa,
            len,
            flags: 0,
            next: 0,
        };
        self.driver.put(queue, u64::from(slot), descriptor);
        self.driver.offer(queue, &[slot]);
        self.console.process(queue, &mut self.rings);
    }

    /// Offers an empty buffer of `len` bytes.
    fn offer(&mut self, queue: usize, slot: u16, len: u32) -> u64 {
        let gpa = 0x4_0000 + 0x1_0000 * queue as u64 + 0x1000 * u64::from(slot);
        let descriptor = Descriptor {
            gpa,
            len,
            flags: WRITE,
            next: 0,
        };
        self.driver.put(queue, u64::from(slot), descriptor);
        self.driver.offer(queue, &[slot]);
        self.console.process(queue, &mut self.rings);
        gpa
    }

    fn control(&mut self, slot: u16, port: u32, event: u16, value: u16) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.send(CONTROL_TX, slot, &message);
    }

    fn received(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        match (&self.host).read(&mut bytes) {
            Ok(len) => bytes[..len].to_vec(),
            Err(_) => Vec::new(),
        }
    }
}

#[test]
fn ports_are_announced_with_their_names() {
    let mut bench = Bench::new();
    let buffers: Vec<u64> = (0..6)
        .map(|slot| bench.offer(CONTROL_RX, slot, 64))
        .collect();
    bench.control(0, u32::MAX, 0, 1);
    assert_eq!(bench.driver.used(CONTROL_RX).len(), 2, "two ports");
    bench.control(1, 1, 3, 1);
    let used = bench.driver.used(CONTROL_RX);
    assert_eq!(used.len(), 4, "name and open");
    let name = bench.driver.read(buffers[2], 14);
    assert_eq!(name, b"\x01\0\0\0\x07\0\x01\0frames");
    assert_eq!(used[2].1, 14);
    assert!(bench.driver.interrupted());
}

#[test]
fn bytes_go_both_ways_once_the_guest_has_opened() {
    let mut bench = Bench::new();
    bench.send(TX, 0, b"to the host");
    assert_eq!(bench.received(), b"to the host");
    assert_eq!(bench.driver.used(TX), [(0, 0)]);
    let gpa = bench.offer(RX, 0, 64);
    bench.host.write_all(b"to the guest").unwrap();
    bench.console.ready(1, &mut bench.rings);
    assert!(bench.driver.used(RX).is_empty(), "closed ports get nothing");
    bench.control(0, 1, 6, 1);
    assert_eq!(bench.driver.used(RX), [(0, 12)]);
    assert_eq!(bench.driver.read(gpa, 12), b"to the guest");
}

#[test]
fn a_slow_host_loses_nothing() {
    let mut bench = Bench::new();
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    let mut slot = 0u16;
    while !bench.console.ports[1].is_blocked() {
        assert!(slot < 4096, "the socket never fills");
        let bytes = vec![u8::try_from(slot % 251).unwrap(); 4096];
        bench.send(TX, slot % SIZE, &bytes);
        sent.extend(bytes);
        slot += 1;
    }
    while got.len() < sent.len() {
        let bytes = bench.received();
        assert!(!bytes.is_empty(), "{} of {}", got.len(), sent.len());
        got.extend(bytes);
        bench.console.ready(1, &mut bench.rings);
    }
    assert!(got == sent, "bytes differ");
}

/// A guest that powers off with more sent than its reader has taken.
#[test]
fn what_nobody_has_read_at_the_end_is_read_after_it() {
    let mut bench = Bench::new();
    let mut sent = Vec::new();
    let mut slot = 0u16;
    // Until the socket is full, and so is the queue.
    while !bench.console.ports[1].is_blocked() || !slot.is_multiple_of(SIZE) {
        assert!(slot < 4096, "the socket never fills");
        let bytes = vec![u8::try_from(slot % 251).unwrap(); 4096];
        bench.send(TX, slot % SIZE, &bytes);
        sent.extend(bytes);
        slot += 1;
    }
    bench.console.end(&mut bench.rings);
    let (other, _) = UnixStream::pair().unwrap();
    let host = std::mem::replace(&mut bench.host, other);
    host.set_nonblocking(false).unwrap();
    let mut reader = PortStream::with_leftover(host, bench.left.clone());
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert!(
        got == sent,
        "{} of {} bytes, or others",
        got.len(),
        sent.len()
    );
}

/// 4 GiB - 1 in one chain.
fn huge_chain(bench: &Bench) {
    for slot in 0..16u16 {
        let last = slot == 15;
        let descriptor = Descriptor {
            gpa: 0,
            len: u32::try_from(HUGE).unwrap() - u32::from(last),
            flags: u16::from(!last),
            next: slot + 1,
        };
        bench.driver.put(TX, slot.into(), descriptor);
    }
    bench.driver.offer(TX, &[0]);
}

const HUGE: u64 = 256 << 20;

/// In a process of its own, whose memory is that of the test alone.
#[test]
fn a_chain_of_4_gib_takes_neither_memory_nor_a_turn_without_end() {
    let program = std::env::current_exe().unwrap();
    let name = "devices::virtio::console::tests::a_chain_of_4_gib_in_this_process";
    let out = std::process::Command::new(program)
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
#[ignore = "its memory is measured: another test runs it in a process of its own"]
fn a_chain_of_4_gib_in_this_process() {
    let mut bench = Bench::with(Driver::with_memory(6, 16, HUGE), 16);
    huge_chain(&bench);
    // A reader that is faster than the device: the socket never fills.
    let (host, device) = UnixStream::pair().unwrap();
    bench.console.ports[1] =
        Port::new(Some("frames".into()), Some(device), Leftover::default()).unwrap();
    let total = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&total);
    let reader = std::thread::spawn(move || {
        let mut host = host;
        let mut bytes = vec![0; 1 << 20];
        while let Ok(len) = host.read(&mut bytes)
            && len > 0
        {
            counted.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
    let began = Instant::now();
    // More than the memory that it may take.
    while total.load(Ordering::Relaxed) < 96 << 20 {
        assert!(began.elapsed() < Duration::from_secs(60), "{total:?} bytes");
        let before = total.load(Ordering::Relaxed);
        bench.console.process(TX, &mut bench.rings);
        // What a worker does next: look at its gate.
        let again = !bench.rings.take_again().is_empty();
        assert!(again || bench.console.ports[1].is_blocked(), "it has ended");
        let turn = total.load(Ordering::Relaxed) - before;
        assert!(
            turn <= (BUDGET as u64) * (64 << 10) + (1 << 20),
            "{turn} bytes"
        );
    }
    assert!(bench.driver.used(TX).is_empty());
    bench.console.end(&mut bench.rings);
    reader.join().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 64 << 10, "{kib} KiB");
}

#[test]
fn a_host_that_leaves_is_told_and_its_guest_goes_on() {
    let mut bench = Bench::new();
    let told = bench.offer(CONTROL_RX, 0, 64);
    bench.offer(RX, 0, 64);
    bench.control(0, 1, 6, 1);
    // Not closed: a child that another test's thread is forking has it open, too, until it executes its program.
    bench.host.shutdown(Shutdown::Both).unwrap();
    bench.console.ready(1, &mut bench.rings);
    assert_eq!(bench.driver.read(told, 8), b"\x01\0\0\0\x06\0\0\0");
    bench.send(TX, 0, b"into the void");
    assert_eq!(bench.driver.used(TX).len(), 1);
    assert!(bench.console.host_fds().is_empty());
}

proptest! {
    /// Any bytes in the tables and rings, and any kicks: no panic, no endless loop.
    #[test]
    fn hostile_drivers_are_survived(
        noise in proptest::collection::vec((0u64..0x7000, any::<u64>()), 0..60),
        messages in proptest::collection::vec((0u32..4, 0u16..9, 0u16..3), 0..20),
        kicks in proptest::collection::vec(0usize..8, 0..40),
    ) {
        let mut bench = Bench::new();
        for (slot, (port, event, value)) in (0u16..).zip(messages) {
            bench.control(slot % SIZE, port, event, value);
        }
        for (gpa, value) in noise {
            bench.driver.write(gpa, &value.to_le_bytes());
        }
        bench.host.write_all(&[7; 100]).unwrap();
        for kick in kicks {
            bench.console.process(kick, &mut bench.rings);
            bench.console.ready(kick, &mut bench.rings);
            bench.received();
        }
        bench.console.end(&mut bench.rings);
    }
}
