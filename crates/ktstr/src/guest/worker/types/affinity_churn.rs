//! `AffinityChurn`: binds itself to the next CPU all the time. Exercises `sched_setaffinity`, `set_cpumask` and forced migration.
//!
//! One iteration is one change and a spin: one work unit. It never sleeps. The CPUs are those that the worker was allowed at its
//! start; one that a cpuset has taken away since is left out by the kernel's refusal.

use rustix::io::Errno;

use super::super::meter::{Meter, spin};
use super::placement::{allowed, bind_to};
use super::{Body, body};
use crate::model::cpuset::CpuSet;

pub(super) fn prepare<'a>(steps: u64) -> Result<Body<'a>, Errno> {
    let cpus = allowed()?;
    body(move |meter: &mut Meter<'_>| {
        for cpu in cpus.into_iter().cycle() {
            if meter.stopping() {
                return;
            }
            let _ = bind_to(&CpuSet::from([cpu]));
            spin(steps);
            meter.tick(1);
        }
    })
}
