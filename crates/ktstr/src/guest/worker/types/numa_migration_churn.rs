//! `NumaMigrationChurn`: works on memory and binds itself to the next node's CPUs at intervals; the memory stays behind. Exercises
//! migration between nodes and NUMA balancing.
//!
//! One iteration is one walk over the working set; work units are the lines touched. With one node it stays where it is.

use std::time::Duration;

use rustix::io::Errno;

use super::super::meter::{Meter, nanos};
use super::super::os::Region;
use super::super::proc;
use super::placement::{allowed, bind_to};
use super::{Body, body};
use crate::guest::sys::monotonic_ns;
use crate::model::cpuset::CpuSet;

/// Memory that it works on.
const KIB: usize = 4_096;
/// Bytes between two touches.
const STRIDE: usize = 256;

pub(super) fn prepare<'a>(interval: Duration) -> Result<Body<'a>, Errno> {
    let allowed: CpuSet = allowed()?.into_iter().collect();
    let within =
        |cpus: CpuSet| -> CpuSet { cpus.iter().filter(|cpu| allowed.contains(*cpu)).collect() };
    let nodes: Vec<CpuSet> = proc::nodes()
        .into_iter()
        .map(|(_, cpus)| within(cpus))
        .filter(|cpus| !cpus.is_empty())
        .collect();
    let mut region = Region::new(KIB)?;
    region.walk(1_024);
    body(move |meter: &mut Meter<'_>| {
        let mut homes = nodes.iter().cycle();
        let mut move_ns = meter.start_ns();
        while !meter.stopping() {
            if nodes.len() > 1 && monotonic_ns() >= move_ns {
                let _ = homes.next().map(bind_to);
                move_ns = monotonic_ns().saturating_add(nanos(interval));
            }
            let touched = region.walk(STRIDE);
            meter.tick(touched);
        }
    })
}
