//! `Mixed`: rotates through spinning, yielding, a short sleep and a file write. Exercises a scheduler with tasks that are neither one
//! thing nor the other.
//!
//! One iteration is one of the four: one work unit. Wake latency is that of the sleeps.

use std::time::Duration;

use rustix::io::Errno;

use super::super::meter::{Meter, spin};
use super::io::BlockFile;
use super::spin_wait::TURNS;
use super::{Body, body};

/// Length of the short sleep.
const SLEEP: Duration = Duration::from_millis(1);
/// Yields in a row.
const YIELDS: u32 = 4;

pub(super) fn prepare<'a>() -> Result<Body<'a>, Errno> {
    let mut file = BlockFile::temporary()?;
    body(move |meter: &mut Meter<'_>| {
        for part in (0..4).cycle() {
            if meter.stopping() {
                return;
            }
            match part {
                0 => spin(16 * TURNS),
                1 => (0..YIELDS).for_each(|_| rustix::thread::sched_yield()),
                2 => meter.sleep_for(SLEEP),
                _ => file.write_and_sync(1, meter),
            }
            meter.tick(1);
        }
    })
}
