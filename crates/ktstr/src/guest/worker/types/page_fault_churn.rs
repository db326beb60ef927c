//! `PageFaultChurn`: touches pages and gives them back. Exercises page faults, the mmap lock and TLB shoot-downs.
//!
//! One iteration is all touches, one giving back and a spin: a work unit for each touch. It never sleeps by choice.

use rustix::io::Errno;

use super::super::meter::{Meter, spin};
use super::super::os::{PAGE, Region};
use super::{Body, body};

pub(super) fn prepare<'a>(kib: usize, touches: usize, turns: u64) -> Result<Body<'a>, Errno> {
    let mut region = Region::new(kib)?;
    region.give_back()?;
    body(move |meter: &mut Meter<'_>| {
        let pages = region.len() / PAGE;
        while !meter.stopping() {
            for _ in 0..touches {
                let page = usize::try_from(meter.next_choice()).unwrap_or(0) % pages;
                region.touch(page * PAGE);
            }
            let _ = region.give_back();
            spin(turns);
            meter.tick(touches as u64);
        }
    })
}
