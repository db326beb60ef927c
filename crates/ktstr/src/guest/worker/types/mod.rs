//! What each work type does in its loop. One file each; all run in the worker.
//!
//! [`prepare`] makes what a loop needs before the ready barrier; what it returns runs inside the window.

mod affinity_churn;
mod alu_hot;
mod bursty;
mod cache_pipe;
mod cache_pressure;
mod cache_yield;
mod cgroup_attach_storm;
mod cgroup_churn;
mod compute;
mod cross_affinity_churn;
mod epoll_storm;
mod fan_out;
mod fork_exit;
mod futex_ping_pong;
mod idle_churn;
mod io;
mod ipc_variance;
mod irq_wake;
mod mixed;
mod mutex_contention;
mod net_traffic;
mod nice_sweep;
mod numa_migration_churn;
mod numa_working_set_sweep;
mod page_fault_churn;
mod pipe_io;
mod placement;
mod policy_churn;
mod preempt_storm;
mod priority_inversion;
mod rt_starvation;
mod schbench;
mod sequence;
mod signal_storm;
mod spin_wait;
mod taobench;
mod thundering_herd;
mod timer_latency;
mod wake_chain;
mod yield_heavy;

pub(super) use placement::{bind, policy_of};

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::kit::Kit;
use super::meter::Meter;
use crate::model::work::{WorkType, WorkType as W};

/// A loop that is ready to run: works until asked to stop.
pub(super) type Body<'a> = Box<dyn FnOnce(&mut Meter<'_>) + 'a>;

/// Where a worker stands and what it finds there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its number among all that were started with it.
    pub(super) index: usize,
    /// Descriptors made before the fork.
    pub(super) kit: &'a Kit,
    /// Cgroups to move between.
    pub(super) side_cgroups: &'a [PathBuf],
    /// Disk to read from.
    pub(super) disk: Option<&'a Path>,
}

/// Numbers of the group that worker `index` is in: its first worker, and the worker's number inside.
fn group_of(work: &WorkType, index: usize) -> (usize, usize) {
    let size = work.info().group_size;
    (index - index % size, index % size)
}

fn body<'a>(run: impl FnOnce(&mut Meter<'_>) + 'a) -> Result<Body<'a>, Errno> {
    Ok(Box::new(run))
}

/// Makes what the worker's loop needs.
///
/// # Errors
/// With the system's answer, when it refuses something.
pub(super) fn prepare<'a>(work: &'a WorkType, place: &Place<'a>) -> Result<Body<'a>, Errno> {
    let (leader, member) = group_of(work, place.index);
    match work {
        W::SpinWait | W::SmtSiblingSpin => body(spin_wait::run),
        W::AluHot { width } => body(|meter| alu_hot::run(*width, meter)),
        W::IpcVariance { hot, cold, kib } => ipc_variance::prepare(*hot, *cold, *kib),
        W::YieldHeavy => body(yield_heavy::run),
        W::CacheYield { kib, stride } => cache_yield::prepare(*kib, *stride),
        W::Bursty { burst, sleep } => body(|meter| bursty::run(*burst, *sleep, meter)),
        W::Sequence(phases) => sequence::prepare(phases),
        W::IdleChurn { burst, sleep } => body(|meter| idle_churn::run(*burst, *sleep, meter)),
        W::TimerLatency { period } => body(|meter| timer_latency::run(*period, meter)),
        W::FutexPingPong { spin } => body(|meter| futex_ping_pong::run(*spin, meter)),
        W::AsymmetricWaker { .. } => body(|meter| futex_ping_pong::run(0, meter)),
        W::FutexFanOut { .. } | W::FanOutCompute { .. } => fan_out::prepare(work, leader, member),
        W::PipeIo => body(pipe_io::run(place)),
        W::CachePipe { kib } => body(cache_pipe::run(*kib, place)),
        W::WakeChain {
            via, work: busy, ..
        } => body(wake_chain::run(
            *via,
            *busy,
            wake_chain::next(work, place.index),
            place,
        )),
        W::ThunderingHerd { waiters, interval } => {
            body(move |meter| thundering_herd::run(*waiters, *interval, leader, meter))
        }
        W::EpollStorm { .. } => body(epoll_storm::run(work, leader, member, place)),
        W::SignalStorm { burst } => signal_storm::prepare(*burst),
        W::MutexContention { hold, work, .. } => {
            body(move |meter| mutex_contention::run(*hold, *work, leader, meter))
        }
        W::PriorityInversion { pi } => {
            body(move |meter| priority_inversion::run(*pi, leader, member, meter))
        }
        W::ForkExit => body(fork_exit::run),
        W::AffinityChurn { spin } => affinity_churn::prepare(*spin),
        W::CrossAffinityChurn { spin } => cross_affinity_churn::prepare(*spin),
        W::CgroupChurn { interval } => cgroup_churn::prepare(*interval, place),
        W::CgroupAttachStorm { victims } => {
            cgroup_attach_storm::prepare(*victims, (leader, member), place)
        }
        W::PolicyChurn { spin } => policy_churn::prepare(*spin),
        W::NiceSweep { spin } => nice_sweep::prepare(*spin),
        W::PreemptStorm { fair, period } => {
            body(move |meter| preempt_storm::run(*fair, *period, member, meter))
        }
        W::RtStarvation { burst, rest, .. } => {
            body(move |meter| rt_starvation::run(*burst, *rest, member, meter))
        }
        W::CachePressure { kib, stride } => cache_pressure::prepare(*kib, *stride),
        W::PageFaultChurn { kib, touches } => page_fault_churn::prepare(*kib, *touches),
        W::NumaWorkingSetSweep { kib, interval } => {
            numa_working_set_sweep::prepare(*kib, *interval)
        }
        W::NumaMigrationChurn { kib, interval } => numa_migration_churn::prepare(*kib, *interval),
        W::IoSyncWrite => io::sync_write(place),
        W::IoRandRead => io::rand_read(place.disk),
        W::IoConvoy => io::convoy(place),
        W::IrqWake { bytes, period } => body(irq_wake::run(*bytes, *period, place)),
        W::NetTraffic { bytes, burst } => body(net_traffic::run(*bytes, *burst, place)),
        W::Mixed => mixed::prepare(),
        W::Schbench(spec) => schbench::prepare(spec),
        W::Taobench(spec) => taobench::prepare(spec),
        W::Custom(custom) => body(|meter| (custom.run)(meter)),
    }
}

/// Whether worker `index` begins asleep, waiting for another of its group.
pub(super) fn starts_asleep(work: &WorkType, index: usize) -> bool {
    let takes_turns = matches!(
        work,
        W::FutexPingPong { .. } | W::AsymmetricWaker { .. } | W::WakeChain { .. }
    );
    takes_turns && !index.is_multiple_of(work.info().group_size)
}

/// What the two histograms of a benchmark are of; empty for other work types.
pub(super) fn latency_names(work: &WorkType) -> &'static [&'static str] {
    match work {
        W::Schbench(_) => &["wakeup", "request"],
        W::Taobench(_) => &["fast", "slow"],
        _ => &[],
    }
}
