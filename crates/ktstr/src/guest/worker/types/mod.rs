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
mod custom;
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
use std::time::Duration;

use rustix::io::Errno;

use super::kit::Kit;
use super::meter::Meter;
use crate::model::work::{FutexLockMode, WorkType, WorkType as W};

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
    /// Directory of its cgroup.
    pub(super) cgroup_dir: Option<&'a Path>,
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
#[expect(
    clippy::too_many_lines,
    reason = "an arm for each work type, so that the compiler sees one that is missing"
)]
pub(super) fn prepare<'a>(work: &'a WorkType, place: &Place<'a>) -> Result<Body<'a>, Errno> {
    let (leader, member) = group_of(work, place.index);
    let us = Duration::from_micros;
    let ms = Duration::from_millis;
    match work {
        W::SpinWait | W::SmtSiblingSpin => body(spin_wait::run),
        W::AluHot { width } => body(|meter| alu_hot::run(*width, meter)),
        W::IpcVariance {
            hot_iters,
            cold_iters,
            period_iters,
        } => ipc_variance::prepare(*hot_iters, *cold_iters, *period_iters),
        W::YieldHeavy => body(yield_heavy::run),
        W::CacheYield { size_kib, stride } => cache_yield::prepare(*size_kib, *stride),
        W::Bursty {
            burst_duration,
            sleep_duration,
        } => body(|meter| bursty::run(*burst_duration, *sleep_duration, meter)),
        W::Sequence { first, rest } => sequence::prepare(*first, rest),
        W::IdleChurn {
            burst_duration,
            sleep_duration,
            precise_timing,
        } => {
            let times = (*burst_duration, *sleep_duration);
            body(move |meter| idle_churn::run(times, *precise_timing, meter))
        }
        W::TimerLatency { interval_us } => {
            body(move |meter| timer_latency::run(us(*interval_us), meter))
        }
        W::FutexPingPong { spin_iters: turns }
        | W::AsymmetricWaker {
            burst_iters: turns, ..
        } => body(|meter| futex_ping_pong::run(*turns, meter)),
        W::FutexFanOut { .. } | W::FanOutCompute { .. } => fan_out::prepare(work, leader, member),
        W::PipeIo { burst_iters } => body(pipe_io::run(*burst_iters, place)),
        W::CachePipe {
            size_kib,
            burst_iters,
        } => body(cache_pipe::run(*size_kib, *burst_iters, place)),
        W::WakeChain {
            wake, work_per_hop, ..
        } => body(wake_chain::run(
            *wake,
            *work_per_hop,
            wake_chain::next(work, place.index),
            place,
        )),
        W::ThunderingHerd {
            waiters,
            batches,
            inter_batch_ms,
        } => {
            let pace = (*batches, ms(*inter_batch_ms));
            body(move |meter| thundering_herd::run(*waiters, pace, leader, meter))
        }
        W::EpollStorm { .. } => body(epoll_storm::run(work, leader, member, place)),
        W::SignalStorm {
            signals_per_iter,
            work_iters,
        } => signal_storm::prepare(*signals_per_iter, *work_iters),
        W::MutexContention {
            hold_iters,
            work_iters,
            ..
        } => body(move |meter| mutex_contention::run(*hold_iters, *work_iters, leader, meter)),
        W::PriorityInversion {
            medium_count,
            low_count,
            hold_iters,
            work_iters,
            pi_mode,
            ..
        } => {
            let role = priority_inversion::role_of(*low_count, *medium_count, member);
            let (pi, turns) = (*pi_mode == FutexLockMode::Pi, (*hold_iters, *work_iters));
            body(move |meter| priority_inversion::run(role, pi, turns, leader, meter))
        }
        W::ForkExit => body(fork_exit::run),
        W::AffinityChurn { spin_iters } => affinity_churn::prepare(*spin_iters),
        W::CrossAffinityChurn { spin_iters } => cross_affinity_churn::prepare(*spin_iters),
        W::CgroupChurn { cycle_ms, .. } => cgroup_churn::prepare(ms(*cycle_ms), place),
        W::CgroupAttachStorm { victims } => {
            cgroup_attach_storm::prepare(*victims, (leader, member), place)
        }
        W::PolicyChurn { spin_iters } => policy_churn::prepare(*spin_iters),
        W::NiceSweep => nice_sweep::prepare(),
        W::PreemptStorm {
            cfs_workers,
            rt_burst_iters,
            rt_sleep_us,
        } => {
            let pace = (*rt_burst_iters, us(*rt_sleep_us));
            body(move |meter| preempt_storm::run(*cfs_workers, pace, member, meter))
        }
        W::RtStarvation {
            rt_workers,
            burst_iters,
            ..
        } => body(move |meter| rt_starvation::run(*rt_workers, *burst_iters, member, meter)),
        W::CachePressure { size_kib, stride } => cache_pressure::prepare(*size_kib, *stride),
        W::PageFaultChurn {
            region_kib,
            touches_per_cycle,
            spin_iters,
        } => page_fault_churn::prepare(*region_kib, *touches_per_cycle, *spin_iters),
        W::NumaWorkingSetSweep {
            region_kib,
            sweep_period_ms,
            target_nodes,
        } => numa_working_set_sweep::prepare(*region_kib, ms(*sweep_period_ms), target_nodes),
        W::NumaMigrationChurn { period_ms } => numa_migration_churn::prepare(ms(*period_ms)),
        W::IoSyncWrite => io::sync_write(place),
        W::IoRandRead => io::rand_read(place.disk),
        W::IoConvoy => io::convoy(place),
        W::IrqWake {
            interval_us,
            frame_bytes,
        } => body(irq_wake::run(*frame_bytes, us(*interval_us), place)),
        W::NetTraffic {
            interval_us,
            frame_bytes,
        } => body(net_traffic::run(*frame_bytes, us(*interval_us), place)),
        W::Mixed => mixed::prepare(),
        W::Schbench { config } => schbench::prepare(config),
        W::Taobench { config } => taobench::prepare(config),
        W::Custom(work) => custom::prepare(work, place),
    }
}

/// Whether worker `index` begins asleep, waiting for another of its group.
pub(super) fn starts_asleep(work: &WorkType, index: usize) -> bool {
    let (_, member) = group_of(work, index);
    work.shape().takes_turns && member != 0
}
