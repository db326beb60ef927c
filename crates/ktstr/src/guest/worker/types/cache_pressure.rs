//! `CachePressure`: walks over a buffer without a pause. Exercises placement: every migration costs a refill of the cache.
//!
//! One iteration is one walk; work units are the lines touched. It never sleeps.

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
            meter.tick(touched);
        }
    })
}
