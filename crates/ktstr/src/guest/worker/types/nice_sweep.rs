//! `NiceSweep`: steps its nice value from -20 to 19, round and round. Exercises `set_user_nice` and the change of weights on a queue.
//!
//! One iteration is one change and a spin: one work unit. It never sleeps.

use rustix::io::Errno;

use super::super::meter::{Meter, spin};
use super::spin_wait::TURNS;
use super::{Body, body};

pub(super) fn prepare<'a>() -> Result<Body<'a>, Errno> {
    // Without the right to go below, the first round would end at 19 for good.
    rustix::process::setpriority_process(None, -20)?;
    body(move |meter: &mut Meter<'_>| {
        for nice in (-20..=19).cycle() {
            if meter.stopping() {
                return;
            }
            let _ = rustix::process::setpriority_process(None, nice);
            spin(TURNS);
            meter.tick(1);
        }
    })
}
