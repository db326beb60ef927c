//! `CgroupChurn`: spins and moves itself to another cgroup at intervals. Exercises cgroup attach of a running task and the change of
//! its task group.
//!
//! One iteration is a chain of 1024 multiplications, one work unit each. It never sleeps. The cgroups are made by the
//! scenario beside the worker's own, with the same limits.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::super::meter::{Meter, nanos};
use super::super::os::errno_of;
use super::{Body, Place, body, spin_wait};
use crate::guest::sys::monotonic_ns;

pub(super) fn prepare<'a>(interval: Duration, place: &Place<'a>) -> Result<Body<'a>, Errno> {
    let mut doors = doors(place)?;
    body(move |meter: &mut Meter<'_>| {
        let mut next = meter.index() % doors.len();
        let mut move_ns = meter.start_ns();
        while !meter.stopping() {
            if monotonic_ns() >= move_ns {
                // "0" is the writer itself (kernel: cgroup_procs_write_start).
                let _ = doors[next].write_all(b"0");
                next = (next + 1) % doors.len();
                move_ns = monotonic_ns().saturating_add(nanos(interval));
            }
            spin_wait::once(meter);
        }
    })
}

/// The files through which tasks enter the side cgroups.
///
/// # Errors
/// When there are fewer than two, or one cannot be opened.
pub(super) fn doors(place: &Place<'_>) -> Result<Vec<File>, Errno> {
    if place.side_cgroups.len() < 2 {
        return Err(Errno::NOENT);
    }
    let open = |dir: &Path| {
        OpenOptions::new()
            .write(true)
            .open(dir.join("cgroup.procs"))
    };
    let doors = place.side_cgroups.iter().map(|dir| open(dir));
    doors
        .collect::<Result<Vec<File>, _>>()
        .map_err(|fault| errno_of(&fault))
}
