//! `CrossAffinityChurn`: workers 2i and 2i+1 bind each other to the next CPU. Exercises `sched_setaffinity` on a task that runs
//! elsewhere: the stopper has to move it.
//!
//! One iteration is one change of the partner and a spin: one work unit. It never sleeps.

use std::sync::atomic::Ordering::Relaxed;

use rustix::io::Errno;
use rustix::process::Pid;

use super::super::meter::{Meter, spin};
use super::super::os::kernel_cpuset;
use super::placement::allowed;
use super::{Body, body};
use crate::model::cpuset::CpuSet;

pub(super) fn prepare<'a>(steps: u64) -> Result<Body<'a>, Errno> {
    let cpus = allowed()?;
    body(move |meter: &mut Meter<'_>| {
        let partner = meter.slot_of(meter.index() ^ 1);
        for cpu in cpus.into_iter().cycle() {
            if meter.stopping() {
                return;
            }
            let tid = i32::try_from(partner.tid.load(Relaxed)).unwrap_or(0);
            if let Some(tid) = Pid::from_raw(tid) {
                let set = kernel_cpuset(&CpuSet::from([cpu]));
                let _ = rustix::thread::sched_setaffinity(Some(tid), &set);
            }
            spin(steps);
            meter.tick(1);
        }
    })
}
