//! `Custom`: the test author's own loop. What it does, and what an iteration of it is, its author says.
//!
//! It counts by its ticks, and by the report that it returns. Time without a tick is a gap only once it has ticked.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;

use rustix::io::Errno;

use super::super::meter::Meter;
use super::placement::allowed;
use super::{Body, Place, body};
use crate::model::work::{CustomWork, WorkerCtx};

pub(super) fn prepare<'a>(work: &'a CustomWork, place: &Place<'a>) -> Result<Body<'a>, Errno> {
    let cpus: Vec<usize> = allowed()?.into_iter().map(|cpu| cpu as usize).collect();
    let cgroup_dir = place.cgroup_dir;
    body(move |meter: &mut Meter<'_>| {
        let siblings = meter.others();
        let (control, slot) = meter.shared();
        let index = meter.index();
        meter.progress();
        meter.rest();
        let report = (work.run)(&WorkerCtx {
            stop: &control.stop_flag,
            index,
            cpus: &cpus,
            siblings: &siblings,
            cgroup_dir,
            cfg: work.cfg,
            meter: RefCell::new(&mut *meter),
        });
        meter.awake(false);
        meter.progress();
        slot.work_units.fetch_add(report.work_units, Relaxed);
        slot.iterations.fetch_add(report.iterations, Relaxed);
    })
}
