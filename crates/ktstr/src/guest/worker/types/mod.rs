//! What each work type does in its loop. One file each; all run in the worker.

mod bursty;
mod futex_ping_pong;
mod spin_wait;
mod yield_heavy;

use super::meter::Meter;
use crate::model::work::WorkType;

/// Works until asked to stop.
pub(super) fn run(work: &WorkType, meter: &mut Meter<'_>) {
    match work {
        WorkType::SpinWait => spin_wait::run(meter),
        WorkType::YieldHeavy => yield_heavy::run(meter),
        WorkType::FutexPingPong { spin } => futex_ping_pong::run(*spin, meter),
        WorkType::Bursty { burst, sleep } => bursty::run(*burst, *sleep, meter),
    }
}

/// Whether worker `index` begins asleep, waiting for another of its group.
pub(super) fn starts_asleep(work: &WorkType, index: usize) -> bool {
    matches!(work, WorkType::FutexPingPong { .. }) && index % 2 == 1
}
