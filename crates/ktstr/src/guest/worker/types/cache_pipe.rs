//! `CachePipe`: workers 2i and 2i+1 hand a block of data to and fro. Exercises wake affinity: the data is warm where it was
//! written last.
//!
//! One iteration is one block received, changed and sent: one work unit for each KiB. Wake latency is from the partner's write
//! to running.

use super::super::meter::{Meter, spin};
use super::Place;

/// A pipe holds 64 KiB: a block must fit, or writer and reader would wait for each other at the stop.
const MOST_KIB: usize = 64;

pub(super) fn run<'a>(
    kib: usize,
    turns: u64,
    place: &Place<'a>,
) -> impl FnOnce(&mut Meter<'_>) + use<'a> {
    let (mine, partner) = (place.index, place.index ^ 1);
    let pipes = &place.kit.pipes;
    let kib = kib.clamp(1, MOST_KIB);
    let mut block = vec![0u8; kib * 1_024];
    move |meter| {
        if mine.is_multiple_of(2) {
            send(&pipes[partner].write, &block, partner, meter);
        }
        while meter.await_fd(&pipes[mine].read) {
            if !receive(&pipes[mine].read, &mut block) {
                return;
            }
            // All of it, at the same speed in every build.
            let next = block[0].wrapping_add(1);
            block.fill(next);
            spin(turns);
            meter.tick(kib as u64);
            if !send(&pipes[partner].write, &block, partner, meter) {
                return;
            }
        }
    }
}

fn send(pipe: &std::os::fd::OwnedFd, block: &[u8], partner: usize, meter: &Meter<'_>) -> bool {
    meter.call(partner);
    let mut rest = block;
    while !rest.is_empty() {
        match rustix::io::write(pipe, rest) {
            Ok(written) => rest = &rest[written..],
            Err(_) => return false,
        }
    }
    true
}

fn receive(pipe: &std::os::fd::OwnedFd, block: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < block.len() {
        match rustix::io::read(pipe, &mut block[filled..]) {
            Ok(0) | Err(_) => return false,
            Ok(read) => filled += read,
        }
    }
    true
}
