//! `Sequence`: goes through phases, round and round. Presses whatever a scheduler has learnt of a task, because it changes.
//!
//! One iteration is all phases once, one work unit each. Wake latency is that of its sleeps; after I/O there is none.

use rustix::io::Errno;

use super::super::meter::Meter;
use super::io::BlockFile;
use super::{Body, body};
use crate::model::work::WorkPhase;

pub(super) fn prepare(phases: &[WorkPhase]) -> Result<Body<'_>, Errno> {
    let mut file = BlockFile::temporary()?;
    body(move |meter: &mut Meter<'_>| {
        while !meter.stopping() {
            for phase in phases {
                run(*phase, &mut file, meter);
            }
            meter.tick(phases.len() as u64);
        }
    })
}

fn run(phase: WorkPhase, file: &mut BlockFile, meter: &mut Meter<'_>) {
    match phase {
        WorkPhase::Spin(time) => meter.burn(time),
        WorkPhase::Sleep(time) => meter.sleep_for(time),
        WorkPhase::Yield(times) => (0..times).for_each(|_| rustix::thread::sched_yield()),
        WorkPhase::Io(blocks) => file.write_and_sync(blocks, meter),
    }
}
