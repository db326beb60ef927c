//! `Sequence`: goes through phases, round and round. Exercises whatever a scheduler has learnt of a task, because it changes.
//!
//! One iteration is all phases once, one work unit each. Wake latency is that of its sleeps; after I/O there is none.

use rustix::io::Errno;

use std::time::Duration;

use super::super::meter::{Meter, nanos};
use super::io::BlockFile;
use super::{Body, alu_hot, body};
use crate::guest::sys::monotonic_ns;
use crate::model::work::WorkPhase;

pub(super) fn prepare<'a>(first: WorkPhase, rest: &'a [WorkPhase]) -> Result<Body<'a>, Errno> {
    let mut file = BlockFile::temporary()?;
    body(move |meter: &mut Meter<'_>| {
        while !meter.stopping() {
            for phase in std::iter::once(first).chain(rest.iter().copied()) {
                run(phase, &mut file, meter);
            }
            meter.tick(rest.len() as u64 + 1);
        }
    })
}

fn run(phase: WorkPhase, file: &mut BlockFile, meter: &mut Meter<'_>) {
    match phase {
        WorkPhase::Spin(time) => meter.burn_wall(time),
        WorkPhase::Sleep(time) => meter.sleep_for(time),
        WorkPhase::Yield(time) => repeat(time, meter, |_| rustix::thread::sched_yield()),
        WorkPhase::Io(time) => repeat(time, meter, |meter| file.write_and_sync(1, meter)),
        WorkPhase::AluHot { width, duration } => {
            repeat(duration, meter, |_| alu_hot::multiply(width, 4_096));
        }
    }
}

/// Does something again and again until this much time has passed, or the stop.
fn repeat(time: Duration, meter: &mut Meter<'_>, mut once: impl FnMut(&mut Meter<'_>)) {
    let until_ns = monotonic_ns().saturating_add(nanos(time));
    while monotonic_ns() < until_ns && !meter.stopping() {
        once(meter);
    }
}
