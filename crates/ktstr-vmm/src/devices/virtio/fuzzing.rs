//! Devices under a driver made of arbitrary bytes, for the fuzzers.
//!
//! The first byte says how many kicks follow; what is left is guest memory from the first queue's page on, so it holds
//! descriptor tables, rings and buffers alike.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::Device;
use super::blk::{self, Block, Disk, DiskSource};
use super::console::Console;
use super::net::{self, Loopback, Net};
use super::rng::Entropy;
use super::testutil::Driver;
use crate::port::Leftover;

/// Descriptors of each queue.
const SIZE: u16 = 16;

fn drive(device: &mut dyn Device, queues: usize, input: &[u8], mut between: impl FnMut()) {
    let Some((count, rest)) = input.split_first() else {
        return;
    };
    let (kicks, memory) = rest.split_at(usize::from(*count).min(rest.len()));
    let driver = Driver::new(queues, SIZE);
    let room = usize::try_from(Driver::MEMORY).unwrap_or(0) - 0x1000;
    driver.write(
        0x1000,
        memory.get(..memory.len().min(room)).unwrap_or_default(),
    );
    let mut rings = driver.rings(SIZE);
    device.activate(1 << 32);
    for kick in kicks {
        let queue = usize::from(*kick) % (queues + 1);
        match kick >> 6 {
            0 | 1 => device.process(queue, &mut rings),
            2 => device.ready(queue, &mut rings),
            _ => device.timer(&mut rings),
        }
        between();
    }
    device.reset();
    device.end(&mut rings);
}

/// Any driver of a disk.
pub fn block(input: &[u8]) {
    let counters = Arc::new(blk::Counters::default());
    let disk = Disk::new(DiskSource::Memory(1 << 20));
    if let Ok(mut block) = Block::new(&disk, counters) {
        drive(&mut block, 1, input, || ());
    }
}

/// Any driver of a network card.
pub fn net(input: &[u8]) {
    let counters = Arc::new(net::Counters::default());
    drive(&mut Loopback::new(&Net::new(), counters), 2, input, || ());
}

/// Any driver of a console with one port, whose host reads and writes.
pub fn console(input: &[u8]) {
    let Ok((mut host, device)) = UnixStream::pair() else {
        return;
    };
    let ports = vec![(String::from("port"), device, Leftover::default())];
    if let (Ok(mut console), Ok(())) = (Console::new(ports), host.set_nonblocking(true)) {
        let mut buffer = [0; 4096];
        drive(&mut console, 6, input, || {
            // A full or empty socket is as good as any.
            let _ = host.write(b"from the host");
            let _ = host.read(&mut buffer);
        });
    }
}

/// Any driver of the entropy device.
pub fn entropy(input: &[u8]) {
    drive(&mut Entropy, 1, input, || ());
}
