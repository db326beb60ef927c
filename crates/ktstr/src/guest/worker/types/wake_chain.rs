//! `WakeChain`: a baton goes round a ring of workers. Exercises chains of wake-ups, where each link's latency adds up.
//!
//! One iteration is the baton held once: one work unit. Wake latency is from the predecessor's hand-over to running.

use std::time::Duration;

use super::super::meter::Meter;
use super::{Place, group_of};
use crate::model::work::{WakeMechanism, WorkType};

/// The worker that gets the baton after worker `index`.
pub(super) fn next(work: &WorkType, index: usize) -> usize {
    let (leader, member) = group_of(work, index);
    leader + (member + 1) % work.info().group_size
}

pub(super) fn run<'a>(
    via: WakeMechanism,
    work: Duration,
    next: usize,
    place: &Place<'a>,
) -> impl FnOnce(&mut Meter<'_>) + use<'a> {
    let (mine, kit) = (place.index, place.kit);
    move |meter| match via {
        WakeMechanism::Futex => {
            while meter.await_turn() {
                meter.burn(work);
                meter.tick(1);
                meter.hand_over(next);
            }
        }
        WakeMechanism::Pipe => {
            // The worker with the first turn has the baton without having received it.
            let mut has_baton = meter.has_turn();
            while has_baton || meter.await_fd(&kit.pipes[mine].read) {
                if !has_baton && rustix::io::read(&kit.pipes[mine].read, &mut [0u8; 1]).is_err() {
                    return;
                }
                has_baton = false;
                meter.burn(work);
                meter.tick(1);
                meter.call(next);
                if rustix::io::write(&kit.pipes[next].write, &[0u8]).is_err() {
                    return;
                }
            }
        }
    }
}
