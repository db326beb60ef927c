//! `PipeIo`: workers 2i and 2i+1 pass a byte to and fro. Exercises pipe reads and writes and synchronous wake-ups, as
//! `perf bench sched pipe` does.
//!
//! One iteration is one byte received and one sent: one work unit. Wake latency is from the partner's write to running.

use super::super::meter::{Meter, spin};
use super::Place;

pub(super) fn run<'a>(turns: u64, place: &Place<'a>) -> impl FnOnce(&mut Meter<'_>) + use<'a> {
    let (mine, partner) = (place.index, place.index ^ 1);
    let pipes = &place.kit.pipes;
    move |meter| {
        let mut byte = [0u8; 1];
        if mine.is_multiple_of(2) {
            meter.call(partner);
            let _ = rustix::io::write(&pipes[partner].write, &byte);
        }
        while meter.await_fd(&pipes[mine].read) {
            if rustix::io::read(&pipes[mine].read, &mut byte).is_err() {
                return;
            }
            spin(turns);
            meter.tick(1);
            meter.call(partner);
            if rustix::io::write(&pipes[partner].write, &byte).is_err() {
                return;
            }
        }
    }
}
