//! All work types. Each is one entry: what a user reads of it, its fields, the function that makes it of them, its usual
//! parameters, what its figures mean, and how its workers depend on each other. What a worker does is a file of
//! `guest/worker/types`; the compiler misses it there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::info::{DUE, Shape, WOKEN, at_least_one, busy, silent, waking};
use super::{
    AluWidth, CustomWork, FutexLockMode, SchbenchConfig, SchedClass, TaobenchConfig, WakeMechanism,
    WorkPhase, WorkTypeInfo,
};

const MS: Duration = Duration::from_millis(1);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Makes the enum, the functions that make its variants, and the tables of what is known of each.
macro_rules! work_types {
    ($(
        $(#[$meta:meta])*
        $name:ident $({ $($field:ident: $type:ty),* $(,)? })? $(as $function:ident)? => {
            usual: $usual:expr,
            about: $about:expr,
            $(shape: { $($key:ident: $value:expr),* $(,)? },)?
        }
    )*) => {
        /// What a worker does in a loop. The table in `docs/work-types.md` says what each is for. Each but those without fields
        /// has a function of its name that takes the fields in their order.
        ///
        /// `spin_iters` and other `_iters` are multiplications between two steps of the work, each of which waits for the one before:
        /// 16 ns in virtual time, about a nanosecond natively. What is `_kib`, `_us`, `_ms`, `_usec` is in that unit.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "the fields say what each variant's line names")]
        pub enum WorkType {
            $(
                $(#[$meta])*
                $name $({ $($field: $type),* })?,
            )*
            /// The test author's own loop; it has no serial form.
            #[serde(skip)]
            Custom(CustomWork),
        }

        impl WorkType {
            /// The names of all work types.
            pub const ALL_NAMES: &'static [&'static str] = &[$( stringify!($name), )* "Custom"];

            /// One of each but [`Custom`](Self::Custom), with its usual parameters; those that compute for long, with smaller
            /// ones, so that a guest without hardware support does something in a second.
            #[must_use]
            pub fn all() -> Vec<Self> {
                vec![$( $usual ),*]
            }

            /// Functions that make a work type of its fields, with the type's name.
            #[cfg(test)]
            pub(crate) const FORMS: &'static [(&'static str, &'static str)] =
                &[$( $( (stringify!($function), stringify!($name)), )? )*];

            $(work_types!(@form $name ($($($field: $type),*)?) $($function)?);)*

            pub(super) const fn description(&self) -> WorkTypeInfo {
                match self {
                    $( Self::$name { .. } => WorkTypeInfo { name: stringify!($name), ..$about }, )*
                    Self::Custom(_) => WorkTypeInfo { name: "Custom", ..CUSTOM },
                }
            }

            #[allow(unused_variables, reason = "few shapes depend on every field")]
            pub(crate) const fn shape(&self) -> Shape {
                match self {
                    $(
                        Self::$name { $($($field,)*)? } => Shape { $($($key: $value,)*)? ..Shape::ALONE },
                    )*
                    Self::Custom(_) => Shape::ALONE,
                }
            }
        }
    };
    (@form $name:ident ($($field:ident: $type:ty),*)) => {};
    (@form $name:ident ($($field:ident: $type:ty),*) $function:ident) => {
        #[doc = concat!("[`WorkType::", stringify!($name), "`].")]
        #[must_use]
        pub const fn $function($($field: $type),*) -> Self {
            Self::$name { $($field),* }
        }
    };
}

const CUSTOM: WorkTypeInfo = silent("what its author says", "what its author says");

work_types! {
    /// Spins: always wants a CPU.
    #[default]
    SpinWait => {
        usual: Self::SpinWait,
        about: busy(
            "tick preemption, load balancing",
            "a chain of 1024 multiplications",
        ),
    }

    /// Spins with several independent chains of multiplications.
    AluHot { width: AluWidth } as alu_hot => {
        usual: Self::alu_hot(AluWidth::Widest),
        about: busy(
            "tick preemption at full pipeline use, frequency and SMT contention",
            "1024 multiplications in independent chains",
        ),
    }

    /// Alternates `hot_iters` steps of wide arithmetic with `cold_iters` dependent loads over 1 MiB; `period_iters` of both are
    /// one iteration.
    IpcVariance { hot_iters: u64, cold_iters: u64, period_iters: u64 } as ipc_variance => {
        usual: Self::ipc_variance(10_000, 1_024, 4),
        about: busy(
            "accounting of tasks whose work per CPU time changes",
            "`period_iters` hot and as many cold stretches",
        ),
    }

    /// Two workers spin on the two threads of one core.
    SmtSiblingSpin => {
        usual: Self::SmtSiblingSpin,
        about: busy(
            "SMT-aware placement, core scheduling",
            "a chain of 1024 multiplications beside the sibling's",
        ),
        shape: { group_size: 2 },
    }

    /// Spins a little and yields: `sched_yield` on every iteration.
    YieldHeavy => {
        usual: Self::YieldHeavy,
        about: busy(
            "sched_yield, requeue, pick next",
            "64 multiplications and one sched_yield",
        ),
    }

    /// Walks over `size_kib` of memory in steps of `stride` bytes, then yields.
    CacheYield { size_kib: usize, stride: usize } as cache_yield => {
        usual: Self::cache_yield(32, 64),
        about: busy(
            "sched_yield by tasks with a warm cache",
            "one walk over the buffer and one sched_yield",
        ),
    }

    /// Spins for a while, then sleeps for a while, by the wall clock.
    Bursty { burst_duration: Duration, sleep_duration: Duration } as bursty => {
        usual: Self::bursty(ms(50), ms(100)),
        about: waking(
            "hrtimer wake-up, idle entry and exit, vruntime after sleep",
            "one chunk of the burst (1024 multiplications)",
            DUE,
        ),
    }

    /// Goes through phases, round and round.
    Sequence { first: WorkPhase, rest: Vec<WorkPhase> } => {
        usual: Self::sequence(
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
        about: waking(
            "changes of a task's character: CPU, sleep, yield, I/O",
            "all phases once",
            DUE,
        ),
    }

    /// Short bursts between sleeps: a CPU goes idle and leaves idle on every iteration. With `precise_timing`, the sleeps end
    /// without the kernel's timer slack of 50 us.
    IdleChurn { burst_duration: Duration, sleep_duration: Duration, precise_timing: bool } => {
        usual: Self::idle_churn(MS, ms(5)),
        about: waking(
            "idle entry and exit, nohz, cpuidle, wake-up on an idle CPU",
            "one burst and one sleep",
            DUE,
        ),
    }

    /// Wakes at absolute times `interval_us` apart and does nothing else.
    TimerLatency { interval_us: u64 } as timer_latency => {
        usual: Self::timer_latency(1_000),
        about: waking(
            "hrtimer interrupt, wake-up from interrupt context",
            "one period",
            "from the absolute time asked for to running",
        ),
    }

    /// Two workers wake each other in turn through futexes, with `spin_iters` turns in between.
    FutexPingPong { spin_iters: u64 } as futex_ping_pong => {
        usual: Self::futex_ping_pong(1_024),
        about: waking(
            "futex wake, select_cpu, wake-up preemption",
            "woken once and the partner woken once",
            WOKEN,
        ),
        shape: {
            group_size: 2,
            takes_turns: true,
        },
    }

    /// One worker wakes `fan_out` others at once; each spins `spin_iters` turns; the last wakes the first.
    FutexFanOut { fan_out: usize, spin_iters: u64 } as futex_fan_out => {
        usual: Self::futex_fan_out(4, 1_024),
        about: waking(
            "waking many at once, wake affinity, spreading",
            "one round: the waker's wake-up of all, or a woken one's spin",
            WOKEN,
        ),
        shape: { group_size: fan_out.saturating_add(1) },
    }

    /// One worker wakes `fan_out` others that do `operations` passes over `cache_footprint_kib` of memory, then sleeps.
    FanOutCompute {
        fan_out: usize,
        cache_footprint_kib: usize,
        operations: usize,
        sleep_usec: u64,
    } as fan_out_compute => {
        usual: Self::fan_out_compute(4, 32, 1, 100),
        about: waking(
            "fan-out to workers with a cache footprint",
            "one round: the waker's wake-up of all, or a woken one's passes",
            WOKEN,
        ),
        shape: { group_size: fan_out.saturating_add(1) },
    }

    /// Two workers pass a byte to and fro through pipes, with `burst_iters` turns before each.
    PipeIo { burst_iters: u64 } as pipe_io => {
        usual: Self::pipe_io(1_024),
        about: waking(
            "pipe read and write, synchronous wake-ups (WF_SYNC)",
            "one byte received and one sent",
            "from the partner's write to running",
        ),
        shape: { group_size: 2 },
    }

    /// A baton goes round a ring of `depth` workers; each holds it for `work_per_hop` of CPU time.
    WakeChain { depth: usize, wake: WakeMechanism, work_per_hop: Duration } as wake_chain => {
        usual: Self::wake_chain(4, WakeMechanism::Pipe, Duration::from_micros(100)),
        about: waking(
            "chains of wake-ups, latency that adds up along a pipeline",
            "the baton held once",
            "from the predecessor's hand-over to running",
        ),
        shape: {
            group_size: at_least_one(*depth),
            takes_turns: true,
        },
    }

    /// One worker wakes all `waiters` of one futex `batches` times, `inter_batch_ms` apart; then all rest.
    ThunderingHerd { waiters: usize, batches: u64, inter_batch_ms: u64 } as thundering_herd => {
        usual: Self::thundering_herd(7, 1_000, 5),
        about: waking(
            "futex_wake of all waiters, burst of enqueues, idle search",
            "one broadcast sent or received",
            "from the broadcast to running",
        ),
        shape: { group_size: waiters.saturating_add(1) },
    }

    /// `producers` put bursts of events into an eventfd that `consumers` share through one epoll.
    EpollStorm { producers: usize, consumers: usize, events_per_burst: u64 } as epoll_storm => {
        usual: Self::epoll_storm(1, 2, 32),
        about: waking(
            "epoll and eventfd wake-ups, competing consumers",
            "one burst written, or one event taken",
            "from the producer's last write to running",
        ),
        shape: { group_size: at_least_one(producers.saturating_add(*consumers)) },
    }

    /// Two workers send each other bursts of real-time signals in turn, with `work_iters` turns before each.
    SignalStorm { signals_per_iter: u64, work_iters: u64 } as signal_storm => {
        usual: Self::signal_storm(16, 1_024),
        about: waking(
            "signal delivery, signal_wake_up, try_to_wake_up on a sleeping task",
            "one burst received and one sent",
            "from the partner's first signal to running",
        ),
        shape: { group_size: 2 },
    }

    /// `contenders` take one lock in turn, hold it for `hold_iters` turns and work `work_iters` turns outside.
    MutexContention { contenders: usize, hold_iters: u64, work_iters: u64 } as mutex_contention => {
        usual: Self::mutex_contention(4, 256, 1_024),
        about: waking(
            "futex wait and wake under contention, lock-holder preemption",
            "the lock taken and released once",
            "from the release of the lock to running with it",
        ),
        shape: { group_size: at_least_one(*contenders) },
    }

    /// On one CPU: fair workers (`low_count`) hold a lock for `hold_iters` turns that FIFO workers (`high_count`) want as well,
    /// and fair workers (`medium_count`) spin, `work_iters` turns an iteration; `pi_mode` chooses the lock.
    PriorityInversion {
        high_count: usize,
        medium_count: usize,
        low_count: usize,
        hold_iters: u64,
        work_iters: u64,
        pi_mode: FutexLockMode,
    } as priority_inversion => {
        usual: Self::priority_inversion(1, 1, 1, 4_096, 1_024, FutexLockMode::Plain),
        about: waking(
            "rt_mutex, priority inheritance across scheduling classes",
            "the lock taken once, or `work_iters` turns of the one in the way",
            "from wanting the lock to having it",
        ),
        shape: {
            group_size: at_least_one(
                high_count
                    .saturating_add(*medium_count)
                    .saturating_add(*low_count),
            ),
        },
    }

    /// Ping-pong between two workers of different classes, with `burst_iters` turns before each wake-up.
    AsymmetricWaker {
        waker_class: SchedClass,
        wakee_class: SchedClass,
        burst_iters: u64,
    } as asymmetric_waker => {
        usual: Self::asymmetric_waker(SchedClass::Cfs, SchedClass::Cfs, 1_024),
        about: waking(
            "wake-ups across scheduling classes",
            "woken once and the partner woken once",
            WOKEN,
        ),
        shape: {
            group_size: 2,
            takes_turns: true,
        },
    }

    /// Forks a child that exits at once, and reaps it.
    ForkExit => {
        usual: Self::ForkExit,
        about: silent(
            "wake_up_new_task, init_task and exit_task, reaping",
            "one child made, run and reaped",
        ),
    }

    /// Binds itself to the next CPU of its cpuset every `spin_iters` turns.
    AffinityChurn { spin_iters: u64 } as affinity_churn => {
        usual: Self::affinity_churn(1_024),
        about: busy(
            "sched_setaffinity, set_cpumask, forced migration",
            "one change of the own affinity and a spin",
        ),
    }

    /// Two workers bind each other to the next CPU every `spin_iters` turns.
    CrossAffinityChurn { spin_iters: u64 } as cross_affinity_churn => {
        usual: Self::cross_affinity_churn(1_024),
        about: busy(
            "sched_setaffinity on a running task, migration by the stopper",
            "one change of the partner's affinity and a spin",
        ),
        shape: { group_size: 2 },
    }

    /// Moves itself to the next of `groups` cgroups every `cycle_ms`.
    CgroupChurn { groups: usize, cycle_ms: u64 } as cgroup_churn => {
        usual: Self::cgroup_churn(2, 100),
        about: silent(
            "cgroup attach, cgroup_move, change of the task group",
            "a chain of 1024 multiplications",
        ),
        shape: { side_cgroups: if *groups < 2 { 2 } else { *groups } },
    }

    /// One worker moves `victims` spinning ones between cgroups without a pause.
    CgroupAttachStorm { victims: usize } as cgroup_attach_storm => {
        usual: Self::cgroup_attach_storm(2),
        about: silent(
            "cgroup attach of running tasks by another",
            "one victim moved, or 1024 multiplications of a victim",
        ),
        shape: {
            group_size: victims.saturating_add(1),
            side_cgroups: 2,
        },
    }

    /// Changes its scheduling policy every `spin_iters` turns.
    PolicyChurn { spin_iters: u64 } as policy_churn => {
        usual: Self::policy_churn(1_024),
        about: silent(
            "sched_setscheduler, switched_from and switched_to between classes",
            "one change of policy and a spin",
        ),
    }

    /// Steps its nice value from -20 to 19, round and round.
    NiceSweep => {
        usual: Self::NiceSweep,
        about: silent(
            "set_user_nice, reweight, set_weight",
            "one change of the nice value and a spin",
        ),
    }

    /// On one CPU: `cfs_workers` spinning workers and a FIFO worker that preempts them for `rt_burst_iters` turns, then sleeps
    /// for `rt_sleep_us`.
    PreemptStorm { cfs_workers: usize, rt_burst_iters: u64, rt_sleep_us: u64 } as preempt_storm => {
        usual: Self::preempt_storm(2, 1_024, 1_000),
        about: waking(
            "preemption by a higher class, cpu_release and cpu_acquire",
            "one preemption, or 1024 multiplications of a preempted one",
            DUE,
        ),
        shape: { group_size: cfs_workers.saturating_add(1) },
    }

    /// On one CPU: `rt_workers` FIFO workers of this priority that never rest, `burst_iters` turns an iteration, and
    /// `cfs_workers` fair ones that get what is left.
    RtStarvation {
        rt_workers: usize,
        cfs_workers: usize,
        rt_priority: i32,
        burst_iters: u64,
    } as rt_starvation => {
        usual: Self::rt_starvation(1, 1, 50, 1_024),
        about: silent(
            "a CPU held by the real-time class, stall detection, the fair server",
            "`burst_iters` turns, or 1024 multiplications of a fair one",
        ),
        shape: { group_size: at_least_one(rt_workers.saturating_add(*cfs_workers)) },
    }

    /// Writes to `size_kib` of memory in steps of `stride` bytes.
    CachePressure { size_kib: usize, stride: usize } as cache_pressure => {
        usual: Self::cache_pressure(32, 64),
        about: busy(
            "placement by cache: migration costs a refill",
            "one walk over the buffer",
        ),
    }

    /// Two workers hand a block of `size_kib` (at most 64) to and fro through pipes, with `burst_iters` turns before each.
    CachePipe { size_kib: usize, burst_iters: u64 } as cache_pipe => {
        usual: Self::cache_pipe(32, 1_024),
        about: waking(
            "wake affinity of tasks that share data through a pipe",
            "one block received and one sent",
            "from the partner's write to running",
        ),
        shape: { group_size: 2 },
    }

    /// Touches `touches_per_cycle` pages of a region of `region_kib`, gives all back and spins `spin_iters` turns.
    PageFaultChurn { region_kib: usize, touches_per_cycle: usize, spin_iters: u64 } as page_fault_churn => {
        usual: Self::page_fault_churn(4_096, 256, 64),
        about: busy(
            "page faults, mmap lock, TLB shoot-down",
            "pages touched and given back once",
        ),
    }

    /// Works on `region_kib` of memory and moves its pages to the next of `target_nodes` every `sweep_period_ms`; without
    /// nodes nothing moves.
    NumaWorkingSetSweep { region_kib: usize, sweep_period_ms: u64, target_nodes: Vec<usize> } => {
        usual: Self::numa_working_set_sweep(4_096, 100, []),
        about: busy(
            "page migration (mbind), NUMA placement that follows memory",
            "one walk over the working set",
        ),
    }

    /// Works on 4 MiB of memory and binds itself to the next node's CPUs every `period_ms`.
    NumaMigrationChurn { period_ms: u64 } as numa_migration_churn => {
        usual: Self::numa_migration_churn(100),
        about: busy(
            "migration between nodes, NUMA balancing",
            "one walk over the working set",
        ),
    }

    /// Writes 4 KiB and waits until it is on disk.
    IoSyncWrite => {
        usual: Self::IoSyncWrite,
        about: silent(
            "io_schedule, wake-up from block completion",
            "4 KiB written and synced",
        ),
    }

    /// Reads 4 KiB at a random place, without the page cache where the disk can.
    IoRandRead => {
        usual: Self::IoRandRead,
        about: silent(
            "short I/O sleeps, wake-up from block completion",
            "4 KiB read",
        ),
    }

    /// All workers write to and sync one file: they queue behind each other.
    IoConvoy => {
        usual: Self::IoConvoy,
        about: silent(
            "sleeping locks in the file system, convoys behind one writer",
            "4 KiB written to the common file and synced",
        ),
    }

    /// A worker sends a datagram of `frame_bytes` over the loopback device every `interval_us`; its partner is woken out of the
    /// softirq that delivers it.
    IrqWake { interval_us: u64, frame_bytes: u16 } as irq_wake => {
        usual: Self::irq_wake(1_000, 60),
        about: waking(
            "wake-up from softirq, interrupt load on one CPU",
            "one datagram sent or received",
            "from the partner's send to running",
        ),
        shape: { group_size: 2 },
    }

    /// A worker sends bursts of 16 datagrams of `frame_bytes` over the loopback device to its partner, which answers each
    /// burst; `interval_us` lie between two, if not 0.
    NetTraffic { interval_us: u64, frame_bytes: u16 } as net_traffic => {
        usual: Self::net_traffic(0, 60),
        about: waking(
            "network softirq, socket wake-ups, ksoftirqd",
            "one burst sent and answered, or received",
            "from the partner's send to running",
        ),
        shape: { group_size: 2 },
    }

    /// Rotates through spinning, yielding, a short sleep and a file write.
    Mixed => {
        usual: Self::Mixed,
        about: waking(
            "tasks that do a little of everything",
            "one of: spin, yields, a sleep of 1 ms, a file write",
            DUE,
        ),
    }

    /// The schbench benchmark.
    Schbench { config: SchbenchConfig } as schbench => {
        usual: Self::schbench(SchbenchConfig::SMALL),
        about: waking(
            "wake-up latency of request workers under cache load",
            "one request",
            "from the message thread's post to running (also as percentiles, with request latency)",
        ),
        shape: { latencies: &["wakeup", "request"] },
    }

    /// A read-mostly cache under load, after the TAO benchmark of DCPerf.
    Taobench { config: TaobenchConfig } as taobench => {
        usual: Self::taobench(TaobenchConfig::SMALL),
        about: waking(
            "a read-mostly server: short CPU bursts, hand-over to slow threads",
            "one lookup answered",
            "from the first miss in an empty queue, or the first place in a full one, to running (service times as percentiles)",
        ),
        shape: { latencies: &["fast", "slow"] },
    }
}
