//! `PolicyChurn`: changes its scheduling policy all the time. Exercises `sched_setscheduler` and the way between classes.
//!
//! One iteration is one change and a spin: one work unit. It never sleeps. The round ends with the policy that it began with;
//! `SCHED_EXT` is part of it where a scheduler takes it.

use rustix::io::Errno;

use super::super::meter::{Meter, spin};
use super::super::os::set_policy_of_caller;
use super::{Body, body};
use crate::model::work::SchedPolicy;

/// All that a worker may have; a real-time one is short-lived here, so that it starves no other task.
const ROUND: [SchedPolicy; 6] = [
    SchedPolicy::Batch,
    SchedPolicy::Idle,
    SchedPolicy::Ext,
    SchedPolicy::RoundRobin(1),
    SchedPolicy::Fifo(1),
    SchedPolicy::Normal,
];

pub(super) fn prepare<'a>(steps: u64) -> Result<Body<'a>, Errno> {
    // The way back must be open, or the worker would stay where it got.
    set_policy_of_caller(SchedPolicy::Batch)?;
    set_policy_of_caller(SchedPolicy::Normal)?;
    body(move |meter: &mut Meter<'_>| {
        for policy in ROUND.into_iter().cycle() {
            if meter.stopping() && policy == SchedPolicy::Batch {
                return;
            }
            // What this kernel or user may not have is left out.
            let _ = set_policy_of_caller(policy);
            spin(steps);
            meter.tick(1);
        }
    })
}
