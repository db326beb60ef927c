//! `NumaWorkingSetSweep`: works on memory whose pages it moves to the next node at intervals. Exercises page migration, and a
//! scheduler's wish to follow the memory.
//!
//! One iteration is one walk over the working set; work units are the lines touched. With one node nothing moves.

use std::time::Duration;

use rustix::io::Errno;

use super::super::meter::{Meter, nanos};
use super::super::os::Region;
use super::{Body, body};
use crate::guest::sys::monotonic_ns;

/// Bytes between two touches.
const STRIDE: usize = 256;

pub(super) fn prepare<'a>(
    kib: usize,
    interval: Duration,
    nodes: &'a [usize],
) -> Result<Body<'a>, Errno> {
    let mut region = Region::new(kib)?;
    region.walk(1_024);
    body(move |meter: &mut Meter<'_>| {
        let mut moves = nodes.iter().cycle();
        let mut move_ns = meter.start_ns().saturating_add(nanos(interval));
        while !meter.stopping() {
            if !nodes.is_empty() && monotonic_ns() >= move_ns {
                // A node that a cpuset forbids is left out by the kernel's refusal.
                let _ = moves
                    .next()
                    .map(|node| region.move_to(u32::try_from(*node).unwrap_or(u32::MAX)));
                move_ns = monotonic_ns().saturating_add(nanos(interval));
            }
            let touched = region.walk(STRIDE);
            meter.tick(touched);
        }
    })
}
