//! What workers do and how they run, as data. The guest carries it out.

mod benchmark;
mod custom;
mod forms;
mod info;
mod spec;
mod table;

pub use benchmark::{SchbenchConfig, TaobenchConfig};
pub(crate) use custom::WorkLoop;
pub use custom::{CustomCfg, CustomWork, WorkerCtx};
pub use info::WorkTypeInfo;
pub use spec::{
    AffinityIntent, CloneMode, MemPolicy, MpolFlags, SchedClass, SchedPolicy, WorkSpec,
    WorkersError,
};
pub use table::markdown as work_type_table;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Independent chains of multiplications that [`WorkType::AluHot`] keeps in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AluWidth {
    /// One: bound by latency.
    #[default]
    Scalar,
    /// Four.
    Medium,
    /// Eight: as much as the CPU can do, the most heat.
    Widest,
}

/// One part of a [`WorkType::Sequence`]. Each lasts its time, of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkPhase {
    /// Spins.
    Spin(Duration),
    /// Sleeps.
    Sleep(Duration),
    /// Yields all the time.
    Yield(Duration),
    /// Writes blocks of 4 KiB to a file and syncs each.
    Io(Duration),
    /// Spins with several chains of multiplications, as [`WorkType::AluHot`] does.
    AluHot {
        /// How many chains.
        width: AluWidth,
        /// For how long.
        duration: Duration,
    },
}

impl WorkPhase {
    /// Spins with several chains of multiplications.
    #[must_use]
    pub const fn alu_hot(width: AluWidth, duration: Duration) -> Self {
        Self::AluHot { width, duration }
    }
}

/// What carries the baton of a [`WorkType::WakeChain`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WakeMechanism {
    /// A pipe: synchronous wake-ups (`WF_SYNC`).
    #[default]
    Pipe,
    /// A futex: plain wake-ups.
    Futex,
}

/// The lock of a [`WorkType::PriorityInversion`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FutexLockMode {
    /// With priority inheritance: the holder is lifted to the class of who waits.
    Pi,
    /// Without.
    #[default]
    Plain,
}

/// What a worker does in a loop. The table in `docs/work-types.md` says what each is for. Each but those without fields has a
/// function of its name that takes the fields in their order.
///
/// `spin_iters` and other `_iters` are turns of a loop of one multiplication between two steps of the work; what is `_kib`,
/// `_us`, `_ms`, `_usec` is in that unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields say what each variant's line names")]
pub enum WorkType {
    /// Spins: always wants a CPU.
    #[default]
    SpinWait,
    /// Spins with several independent chains of multiplications.
    AluHot { width: AluWidth },
    /// Alternates `hot_iters` steps of wide arithmetic with `cold_iters` dependent loads over 1 MiB; `period_iters` of both are
    /// one iteration.
    IpcVariance {
        hot_iters: u64,
        cold_iters: u64,
        period_iters: u64,
    },
    /// Two workers spin on the two threads of one core.
    SmtSiblingSpin,
    /// Spins a little and yields: `sched_yield` on every iteration.
    YieldHeavy,
    /// Walks over `size_kib` of memory in steps of `stride` bytes, then yields.
    CacheYield { size_kib: usize, stride: usize },
    /// Spins for a while, then sleeps for a while, by the wall clock.
    Bursty {
        burst_duration: Duration,
        sleep_duration: Duration,
    },
    /// Goes through phases, round and round.
    Sequence {
        first: WorkPhase,
        rest: Vec<WorkPhase>,
    },
    /// Short bursts between sleeps: a CPU goes idle and leaves idle on every iteration. With `precise_timing`, the sleeps end
    /// without the kernel's timer slack of 50 us.
    IdleChurn {
        burst_duration: Duration,
        sleep_duration: Duration,
        precise_timing: bool,
    },
    /// Wakes at absolute times `interval_us` apart and does nothing else.
    TimerLatency { interval_us: u64 },

    /// Two workers wake each other in turn through futexes, with `spin_iters` turns in between.
    FutexPingPong { spin_iters: u64 },
    /// One worker wakes `fan_out` others at once; each spins `spin_iters` turns; the last wakes the first.
    FutexFanOut { fan_out: usize, spin_iters: u64 },
    /// One worker wakes `fan_out` others that do `operations` passes over `cache_footprint_kib` of memory, then sleeps.
    FanOutCompute {
        fan_out: usize,
        cache_footprint_kib: usize,
        operations: usize,
        sleep_usec: u64,
    },
    /// Two workers pass a byte to and fro through pipes, with `burst_iters` turns before each.
    PipeIo { burst_iters: u64 },
    /// A baton goes round a ring of `depth` workers; each holds it for `work_per_hop` of CPU time.
    WakeChain {
        depth: usize,
        wake: WakeMechanism,
        work_per_hop: Duration,
    },
    /// One worker wakes all `waiters` of one futex `batches` times, `inter_batch_ms` apart; then all rest.
    ThunderingHerd {
        waiters: usize,
        batches: u64,
        inter_batch_ms: u64,
    },
    /// `producers` put bursts of events into an eventfd that `consumers` share through one epoll.
    EpollStorm {
        producers: usize,
        consumers: usize,
        events_per_burst: u64,
    },
    /// Two workers send each other bursts of real-time signals in turn, with `work_iters` turns before each.
    SignalStorm {
        signals_per_iter: u64,
        work_iters: u64,
    },
    /// `contenders` take one lock in turn, hold it for `hold_iters` turns and work `work_iters` turns outside.
    MutexContention {
        contenders: usize,
        hold_iters: u64,
        work_iters: u64,
    },
    /// On one CPU: fair workers (`low_count`) hold a lock for `hold_iters` turns that FIFO workers (`high_count`) want as well,
    /// and fair workers (`medium_count`) spin, `work_iters` turns an iteration; `pi_mode` chooses the lock.
    PriorityInversion {
        high_count: usize,
        medium_count: usize,
        low_count: usize,
        hold_iters: u64,
        work_iters: u64,
        pi_mode: FutexLockMode,
    },
    /// Ping-pong between two workers of different classes, with `burst_iters` turns before each wake-up.
    AsymmetricWaker {
        waker_class: SchedClass,
        wakee_class: SchedClass,
        burst_iters: u64,
    },

    /// Forks a child that exits at once, and reaps it.
    ForkExit,
    /// Binds itself to the next CPU of its cpuset every `spin_iters` turns.
    AffinityChurn { spin_iters: u64 },
    /// Two workers bind each other to the next CPU every `spin_iters` turns.
    CrossAffinityChurn { spin_iters: u64 },
    /// Moves itself to the next of `groups` cgroups every `cycle_ms`.
    CgroupChurn { groups: usize, cycle_ms: u64 },
    /// One worker moves `victims` spinning ones between cgroups without a pause.
    CgroupAttachStorm { victims: usize },
    /// Changes its scheduling policy every `spin_iters` turns.
    PolicyChurn { spin_iters: u64 },
    /// Steps its nice value from -20 to 19, round and round.
    NiceSweep,
    /// On one CPU: `cfs_workers` spinning workers and a FIFO worker that preempts them for `rt_burst_iters` turns, then sleeps
    /// for `rt_sleep_us`.
    PreemptStorm {
        cfs_workers: usize,
        rt_burst_iters: u64,
        rt_sleep_us: u64,
    },
    /// On one CPU: `rt_workers` FIFO workers of this priority that never rest, `burst_iters` turns an iteration, and
    /// `cfs_workers` fair ones that get what is left.
    RtStarvation {
        rt_workers: usize,
        cfs_workers: usize,
        rt_priority: i32,
        burst_iters: u64,
    },

    /// Writes to `size_kib` of memory in steps of `stride` bytes.
    CachePressure { size_kib: usize, stride: usize },
    /// Two workers hand a block of `size_kib` (at most 64) to and fro through pipes, with `burst_iters` turns before each.
    CachePipe { size_kib: usize, burst_iters: u64 },
    /// Touches `touches_per_cycle` pages of a region of `region_kib`, gives all back and spins `spin_iters` turns.
    PageFaultChurn {
        region_kib: usize,
        touches_per_cycle: usize,
        spin_iters: u64,
    },
    /// Works on `region_kib` of memory and moves its pages to the next of `target_nodes` every `sweep_period_ms`; without
    /// nodes nothing moves.
    NumaWorkingSetSweep {
        region_kib: usize,
        sweep_period_ms: u64,
        target_nodes: Vec<usize>,
    },
    /// Works on 4 MiB of memory and binds itself to the next node's CPUs every `period_ms`.
    NumaMigrationChurn { period_ms: u64 },

    /// Writes 4 KiB and waits until it is on disk.
    IoSyncWrite,
    /// Reads 4 KiB at a random place, without the page cache where the disk can.
    IoRandRead,
    /// All workers write to and sync one file: they queue behind each other.
    IoConvoy,
    /// A worker sends a datagram of `frame_bytes` over the loopback device every `interval_us`; its partner is woken out of the
    /// softirq that delivers it.
    IrqWake { interval_us: u64, frame_bytes: u16 },
    /// A worker sends bursts of 16 datagrams of `frame_bytes` over the loopback device to its partner, which answers each
    /// burst; `interval_us` lie between two, if not 0.
    NetTraffic { interval_us: u64, frame_bytes: u16 },

    /// Rotates through spinning, yielding, a short sleep and a file write.
    Mixed,
    /// The schbench benchmark.
    Schbench { config: SchbenchConfig },
    /// A read-mostly cache under load, after the TAO benchmark of DCPerf.
    Taobench { config: TaobenchConfig },
    /// The test author's own loop; it has no serial form.
    #[serde(skip)]
    Custom(CustomWork),
}

const MS: Duration = Duration::from_millis(1);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl WorkType {
    /// One of each but [`Custom`](Self::Custom), with its usual parameters; those that compute for long, with smaller ones, so that
    /// a guest without hardware support does something in a second.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::SpinWait,
            Self::alu_hot(AluWidth::Widest),
            Self::ipc_variance(10_000, 1_024, 4),
            Self::SmtSiblingSpin,
            Self::YieldHeavy,
            Self::cache_yield(32, 64),
            Self::bursty(ms(50), ms(100)),
            Self::sequence(
                WorkPhase::Spin(ms(2)),
                [
                    WorkPhase::Sleep(MS),
                    WorkPhase::Yield(MS),
                    WorkPhase::Io(MS),
                    WorkPhase::AluHot {
                        width: AluWidth::Widest,
                        duration: MS,
                    },
                ],
            ),
            Self::idle_churn(MS, ms(5)),
            Self::timer_latency(1_000),
            Self::futex_ping_pong(1_024),
            Self::futex_fan_out(4, 1_024),
            Self::fan_out_compute(4, 32, 1, 100),
            Self::pipe_io(1_024),
            Self::wake_chain(4, WakeMechanism::Pipe, Duration::from_micros(100)),
            Self::thundering_herd(7, 1_000, 5),
            Self::epoll_storm(1, 2, 32),
            Self::signal_storm(16, 1_024),
            Self::mutex_contention(4, 256, 1_024),
            Self::priority_inversion(1, 1, 1, 4_096, 1_024, FutexLockMode::Plain),
            Self::asymmetric_waker(SchedClass::Cfs, SchedClass::Cfs, 1_024),
            Self::ForkExit,
            Self::affinity_churn(1_024),
            Self::cross_affinity_churn(1_024),
            Self::cgroup_churn(2, 100),
            Self::cgroup_attach_storm(2),
            Self::policy_churn(1_024),
            Self::NiceSweep,
            Self::preempt_storm(2, 1_024, 1_000),
            Self::rt_starvation(1, 1, 50, 1_024),
            Self::cache_pressure(32, 64),
            Self::cache_pipe(32, 1_024),
            Self::page_fault_churn(4_096, 256, 64),
            Self::numa_working_set_sweep(4_096, 100, []),
            Self::numa_migration_churn(100),
            Self::IoSyncWrite,
            Self::IoRandRead,
            Self::IoConvoy,
            Self::irq_wake(1_000, 60),
            Self::net_traffic(0, 60),
            Self::Mixed,
            Self::schbench(SchbenchConfig::SMALL),
            Self::taobench(TaobenchConfig::SMALL),
        ]
    }

    /// The work type of this name, with its usual parameters; none for `Custom`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|work| work.name() == name)
    }

    /// The name that is meant by one of another case.
    #[must_use]
    pub fn suggest(name: &str) -> Option<&'static str> {
        let known = Self::ALL_NAMES.iter().copied();
        known
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether its workers move between cgroups by themselves, and so need this many to go to.
    #[must_use]
    pub const fn side_cgroups(&self) -> usize {
        match self {
            Self::CgroupChurn { groups, .. } => {
                if *groups < 2 {
                    2
                } else {
                    *groups
                }
            }
            Self::CgroupAttachStorm { .. } => 2,
            _ => 0,
        }
    }

    /// Its name; of a custom one, its author's.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Custom(custom) => &custom.name,
            _ => self.info().name,
        }
    }

    /// Workers that form one group, where these are more than one.
    #[must_use]
    pub const fn worker_group_size(&self) -> Option<usize> {
        match self.info().group_size {
            0 | 1 => None,
            group => Some(group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::WorkerReport;
    use super::*;

    /// The list's length comes from the table of names, which the compiler holds against the enum.
    #[test]
    fn every_work_type_is_listed_once() {
        let all = WorkType::all();
        let listed: Vec<&str> = all.iter().map(WorkType::name).collect();
        let named: Vec<&str> = WorkType::ALL_NAMES
            .iter()
            .copied()
            .filter(|name| *name != "Custom")
            .collect();
        assert_eq!(listed, named);
    }

    #[test]
    fn names_read_back() {
        for work in WorkType::all() {
            assert_eq!(WorkType::from_name(work.name()), Some(work));
        }
        assert_eq!(WorkType::from_name("Nothing"), None);
        assert_eq!(WorkType::suggest("spinwait"), Some("SpinWait"));
        assert_eq!(WorkType::suggest("Nothing"), None);
        assert_eq!(WorkType::default(), WorkType::SpinWait);
    }

    #[test]
    fn all_but_custom_have_a_serial_form() {
        for work in WorkType::all() {
            let json = serde_json::to_string(&work).unwrap();
            assert_eq!(serde_json::from_str::<WorkType>(&json).unwrap(), work);
        }
        let custom = WorkType::custom("mine", |_| WorkerReport::default());
        assert_eq!(custom.name(), "mine");
        assert!(serde_json::to_string(&custom).is_err());
    }

    /// Each function of a work type gives that type: its name is the type's in another case.
    #[test]
    fn groups_follow_the_fields() {
        let size = |work: WorkType| work.worker_group_size();
        assert_eq!(size(WorkType::SpinWait), None);
        assert_eq!(size(WorkType::pipe_io(0)), Some(2));
        assert_eq!(size(WorkType::futex_fan_out(6, 0)), Some(7));
        assert_eq!(
            size(WorkType::wake_chain(5, WakeMechanism::Futex, MS)),
            Some(5)
        );
        assert_eq!(size(WorkType::epoll_storm(2, 3, 1)), Some(5));
        assert_eq!(size(WorkType::preempt_storm(3, 1, 1)), Some(4));
        assert_eq!(size(WorkType::rt_starvation(2, 3, 1, 1)), Some(5));
        let inversion = WorkType::priority_inversion(1, 2, 3, 1, 1, FutexLockMode::Pi);
        assert_eq!(size(inversion), Some(6));
    }
}
