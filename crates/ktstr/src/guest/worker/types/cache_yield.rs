//! `CacheYield`: warms a buffer and yields. Exercises `sched_yield` where a migration or a stranger in between costs a refill.
//!
//! One iteration is one walk over the buffer and one `sched_yield`; work units are the lines touched.

use rustix::io::Errno;

use super::super::meter::Meter;
use super::super::os::Region;
use super::{Body, body};

pub(super) fn prepare<'a>(kib: usize, stride: usize) -> Result<Body<'a>, Errno> {
    let mut region = Region::new(kib)?;
    region.walk(1_024);
    body(move |meter: &mut Meter<'_>| {
        while !meter.stopping() {
            let touched = region.walk(stride);
            rustix::thread::sched_yield();
            meter.tick(touched);
        }
    })
}
