//! `CgroupAttachStorm`: one worker moves the others, which spin, between cgroups without a pause. Exercises cgroup attach of tasks that
//! run elsewhere.
//!
//! One iteration is one victim moved (the first worker) or a chain of multiplications (the victims). None of them sleeps.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;

use rustix::io::Errno;

use super::super::meter::Meter;
use super::cgroup_churn::doors;
use super::{Body, Place, body, spin_wait};

pub(super) fn prepare<'a>(
    victims: usize,
    (leader, member): (usize, usize),
    place: &Place<'a>,
) -> Result<Body<'a>, Errno> {
    if member > 0 {
        return body(spin_wait::run);
    }
    let mut doors = doors(place)?;
    body(move |meter: &mut Meter<'_>| {
        let mut round = 0;
        while !meter.stopping() {
            for victim in leader + 1..=leader + victims {
                let pid = meter.slot_of(victim).pid.load(Relaxed);
                let door = round % doors.len();
                // A victim that has just ended is fine.
                let _ = doors[door].write_all(pid.to_string().as_bytes());
                meter.tick(1);
            }
            round += 1;
        }
    })
}
