//! What each work type is for and what its figures mean.

use super::WorkType;

/// What a work type is for and what its figures mean; the table of work types is made from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkTypeInfo {
    /// Its name.
    pub name: &'static str,
    /// Kernel path that it presses.
    pub presses: &'static str,
    /// What one iteration is.
    pub iteration: &'static str,
    /// What its wake latency is; `None`: it never waits for a wake-up.
    pub wake_latency: Option<&'static str>,
    /// Workers that form one group; a worker count is a multiple of it.
    pub group_size: usize,
    /// Whether it wants a CPU all the time, so that off-CPU time is the scheduler's doing.
    pub cpu_bound: bool,
}

const fn busy(name: &'static str, presses: &'static str, iteration: &'static str) -> WorkTypeInfo {
    WorkTypeInfo {
        name,
        presses,
        iteration,
        wake_latency: None,
        group_size: 1,
        cpu_bound: true,
    }
}

const fn silent(
    name: &'static str,
    presses: &'static str,
    iteration: &'static str,
) -> WorkTypeInfo {
    WorkTypeInfo {
        cpu_bound: false,
        ..busy(name, presses, iteration)
    }
}

const fn waking(
    name: &'static str,
    presses: &'static str,
    iteration: &'static str,
    wake_latency: &'static str,
) -> WorkTypeInfo {
    WorkTypeInfo {
        wake_latency: Some(wake_latency),
        ..silent(name, presses, iteration)
    }
}

const DUE: &str = "from the requested end of the sleep to running";
const WOKEN: &str = "from the partner's futex_wake to running";

const SPIN_WAIT: WorkTypeInfo = busy(
    "SpinWait",
    "tick preemption, load balancing",
    "a chain of 1024 multiplications",
);
const ALU_HOT: WorkTypeInfo = busy(
    "AluHot",
    "tick preemption at full pipeline use, frequency and SMT contention",
    "1024 multiplications in independent chains",
);
const IPC_VARIANCE: WorkTypeInfo = busy(
    "IpcVariance",
    "accounting of tasks whose work per CPU time changes",
    "`period_iters` hot and as many cold stretches",
);
const SMT_SIBLING_SPIN: WorkTypeInfo = busy(
    "SmtSiblingSpin",
    "SMT-aware placement, core scheduling",
    "a chain of 1024 multiplications beside the sibling's",
);
const YIELD_HEAVY: WorkTypeInfo = busy(
    "YieldHeavy",
    "sched_yield, requeue, pick next",
    "64 multiplications and one sched_yield",
);
const CACHE_YIELD: WorkTypeInfo = busy(
    "CacheYield",
    "sched_yield by tasks with a warm cache",
    "one walk over the buffer and one sched_yield",
);
const BURSTY: WorkTypeInfo = waking(
    "Bursty",
    "hrtimer wake-up, idle entry and exit, vruntime after sleep",
    "one chunk of the burst (1024 multiplications)",
    DUE,
);
const SEQUENCE: WorkTypeInfo = waking(
    "Sequence",
    "changes of a task's character: CPU, sleep, yield, I/O",
    "all phases once",
    DUE,
);
const IDLE_CHURN: WorkTypeInfo = waking(
    "IdleChurn",
    "idle entry and exit, nohz, cpuidle, wake-up on an idle CPU",
    "one burst and one sleep",
    DUE,
);
const TIMER_LATENCY: WorkTypeInfo = waking(
    "TimerLatency",
    "hrtimer interrupt, wake-up from interrupt context",
    "one period",
    "from the absolute time asked for to running",
);
const FUTEX_PING_PONG: WorkTypeInfo = waking(
    "FutexPingPong",
    "futex wake, select_cpu, wake-up preemption",
    "woken once and the partner woken once",
    WOKEN,
);
const FUTEX_FAN_OUT: WorkTypeInfo = waking(
    "FutexFanOut",
    "waking many at once, wake affinity, spreading",
    "one round: the waker's wake-up of all, or a woken one's spin",
    WOKEN,
);
const FAN_OUT_COMPUTE: WorkTypeInfo = waking(
    "FanOutCompute",
    "fan-out to workers with a cache footprint",
    "one round: the waker's wake-up of all, or a woken one's passes",
    WOKEN,
);
const PIPE_IO: WorkTypeInfo = waking(
    "PipeIo",
    "pipe read and write, synchronous wake-ups (WF_SYNC)",
    "one byte received and one sent",
    "from the partner's write to running",
);
const WAKE_CHAIN: WorkTypeInfo = waking(
    "WakeChain",
    "chains of wake-ups, latency that adds up along a pipeline",
    "the baton held once",
    "from the predecessor's hand-over to running",
);
const THUNDERING_HERD: WorkTypeInfo = waking(
    "ThunderingHerd",
    "futex_wake of all waiters, burst of enqueues, idle search",
    "one broadcast sent or received",
    "from the broadcast to running",
);
const EPOLL_STORM: WorkTypeInfo = waking(
    "EpollStorm",
    "epoll and eventfd wake-ups, competing consumers",
    "one burst written, or one event taken",
    "from the producer's last write to running",
);
const SIGNAL_STORM: WorkTypeInfo = waking(
    "SignalStorm",
    "signal delivery, signal_wake_up, try_to_wake_up on a sleeping task",
    "one burst received and one sent",
    "from the partner's first signal to running",
);
const MUTEX_CONTENTION: WorkTypeInfo = waking(
    "MutexContention",
    "futex wait and wake under contention, lock-holder preemption",
    "the lock taken and released once",
    "from the release of the lock to running with it",
);
const PRIORITY_INVERSION: WorkTypeInfo = waking(
    "PriorityInversion",
    "rt_mutex, priority inheritance across scheduling classes",
    "the lock taken once, or `work_iters` turns of the one in the way",
    "from wanting the lock to having it",
);
const ASYMMETRIC_WAKER: WorkTypeInfo = waking(
    "AsymmetricWaker",
    "wake-ups across scheduling classes",
    "woken once and the partner woken once",
    WOKEN,
);
const FORK_EXIT: WorkTypeInfo = silent(
    "ForkExit",
    "wake_up_new_task, init_task and exit_task, reaping",
    "one child made, run and reaped",
);
const AFFINITY_CHURN: WorkTypeInfo = busy(
    "AffinityChurn",
    "sched_setaffinity, set_cpumask, forced migration",
    "one change of the own affinity and a spin",
);
const CROSS_AFFINITY_CHURN: WorkTypeInfo = busy(
    "CrossAffinityChurn",
    "sched_setaffinity on a running task, migration by the stopper",
    "one change of the partner's affinity and a spin",
);
const CGROUP_CHURN: WorkTypeInfo = silent(
    "CgroupChurn",
    "cgroup attach, cgroup_move, change of the task group",
    "a chain of 1024 multiplications",
);
const CGROUP_ATTACH_STORM: WorkTypeInfo = silent(
    "CgroupAttachStorm",
    "cgroup attach of running tasks by another",
    "one victim moved, or 1024 multiplications of a victim",
);
const POLICY_CHURN: WorkTypeInfo = silent(
    "PolicyChurn",
    "sched_setscheduler, switched_from and switched_to between classes",
    "one change of policy and a spin",
);
const NICE_SWEEP: WorkTypeInfo = silent(
    "NiceSweep",
    "set_user_nice, reweight, set_weight",
    "one change of the nice value and a spin",
);
const PREEMPT_STORM: WorkTypeInfo = waking(
    "PreemptStorm",
    "preemption by a higher class, cpu_release and cpu_acquire",
    "one preemption, or 1024 multiplications of a preempted one",
    DUE,
);
const RT_STARVATION: WorkTypeInfo = silent(
    "RtStarvation",
    "a CPU held by the real-time class, stall detection, the fair server",
    "`burst_iters` turns, or 1024 multiplications of a fair one",
);
const CACHE_PRESSURE: WorkTypeInfo = busy(
    "CachePressure",
    "placement by cache: migration costs a refill",
    "one walk over the buffer",
);
const CACHE_PIPE: WorkTypeInfo = waking(
    "CachePipe",
    "wake affinity of tasks that share data through a pipe",
    "one block received and one sent",
    "from the partner's write to running",
);
const PAGE_FAULT_CHURN: WorkTypeInfo = busy(
    "PageFaultChurn",
    "page faults, mmap lock, TLB shoot-down",
    "pages touched and given back once",
);
const NUMA_WORKING_SET_SWEEP: WorkTypeInfo = busy(
    "NumaWorkingSetSweep",
    "page migration (mbind), NUMA placement that follows memory",
    "one walk over the working set",
);
const NUMA_MIGRATION_CHURN: WorkTypeInfo = busy(
    "NumaMigrationChurn",
    "migration between nodes, NUMA balancing",
    "one walk over the working set",
);
const IO_SYNC_WRITE: WorkTypeInfo = silent(
    "IoSyncWrite",
    "io_schedule, wake-up from block completion",
    "4 KiB written and synced",
);
const IO_RAND_READ: WorkTypeInfo = silent(
    "IoRandRead",
    "short I/O sleeps, wake-up from block completion",
    "4 KiB read",
);
const IO_CONVOY: WorkTypeInfo = silent(
    "IoConvoy",
    "sleeping locks in the file system, convoys behind one writer",
    "4 KiB written to the common file and synced",
);
const IRQ_WAKE: WorkTypeInfo = waking(
    "IrqWake",
    "wake-up from softirq, interrupt load on one CPU",
    "one datagram sent or received",
    "from the partner's send to running",
);
const NET_TRAFFIC: WorkTypeInfo = waking(
    "NetTraffic",
    "network softirq, socket wake-ups, ksoftirqd",
    "one burst sent and answered, or received",
    "from the partner's send to running",
);
const MIXED: WorkTypeInfo = waking(
    "Mixed",
    "tasks that do a little of everything",
    "one of: spin, yields, a sleep of 1 ms, a file write",
    DUE,
);
const SCHBENCH: WorkTypeInfo = waking(
    "Schbench",
    "wake-up latency of request workers under cache load",
    "one request",
    "from the message thread's post to running (also as percentiles, with request latency)",
);
const TAOBENCH: WorkTypeInfo = waking(
    "Taobench",
    "a read-mostly server: short CPU bursts, hand-over to slow threads",
    "one lookup answered",
    "from the first miss in an empty queue, or the first place in a full one, to running (service times as percentiles)",
);
const CUSTOM: WorkTypeInfo = silent("Custom", "what its author says", "what its author says");

impl WorkType {
    /// What it is for and what its figures mean.
    pub const fn info(&self) -> WorkTypeInfo {
        WorkTypeInfo {
            group_size: self.group_size(),
            ..self.description()
        }
    }

    const fn group_size(&self) -> usize {
        match self {
            Self::SmtSiblingSpin
            | Self::FutexPingPong { .. }
            | Self::PipeIo { .. }
            | Self::SignalStorm { .. }
            | Self::AsymmetricWaker { .. }
            | Self::CrossAffinityChurn { .. }
            | Self::CachePipe { .. }
            | Self::IrqWake { .. }
            | Self::NetTraffic { .. } => 2,
            Self::PriorityInversion {
                high_count,
                medium_count,
                low_count,
                ..
            } => at_least_one(
                high_count
                    .saturating_add(*medium_count)
                    .saturating_add(*low_count),
            ),
            Self::RtStarvation {
                rt_workers,
                cfs_workers,
                ..
            } => at_least_one(rt_workers.saturating_add(*cfs_workers)),
            Self::FutexFanOut { fan_out, .. } | Self::FanOutCompute { fan_out, .. } => {
                fan_out.saturating_add(1)
            }
            Self::ThunderingHerd { waiters, .. } => waiters.saturating_add(1),
            Self::CgroupAttachStorm { victims } => victims.saturating_add(1),
            Self::PreemptStorm { cfs_workers, .. } => cfs_workers.saturating_add(1),
            Self::WakeChain { depth, .. } => at_least_one(*depth),
            Self::MutexContention { contenders, .. } => at_least_one(*contenders),
            Self::EpollStorm {
                producers,
                consumers,
                ..
            } => at_least_one(producers.saturating_add(*consumers)),
            _ => 1,
        }
    }
}

const fn at_least_one(workers: usize) -> usize {
    if workers == 0 { 1 } else { workers }
}

macro_rules! descriptions {
    ($( $name:ident => $description:ident, )*) => {
        impl WorkType {
            /// The names of all work types.
            pub const ALL_NAMES: &'static [&'static str] = &[$( stringify!($name), )* "Custom"];

            const fn description(&self) -> WorkTypeInfo {
                match self {
                    $( Self::$name { .. } => $description, )*
                    Self::Custom(_) => CUSTOM,
                }
            }
        }
    };
}

descriptions! {
    SpinWait => SPIN_WAIT,
    AluHot => ALU_HOT,
    IpcVariance => IPC_VARIANCE,
    SmtSiblingSpin => SMT_SIBLING_SPIN,
    YieldHeavy => YIELD_HEAVY,
    CacheYield => CACHE_YIELD,
    Bursty => BURSTY,
    Sequence => SEQUENCE,
    IdleChurn => IDLE_CHURN,
    TimerLatency => TIMER_LATENCY,
    FutexPingPong => FUTEX_PING_PONG,
    FutexFanOut => FUTEX_FAN_OUT,
    FanOutCompute => FAN_OUT_COMPUTE,
    PipeIo => PIPE_IO,
    WakeChain => WAKE_CHAIN,
    ThunderingHerd => THUNDERING_HERD,
    EpollStorm => EPOLL_STORM,
    SignalStorm => SIGNAL_STORM,
    MutexContention => MUTEX_CONTENTION,
    PriorityInversion => PRIORITY_INVERSION,
    AsymmetricWaker => ASYMMETRIC_WAKER,
    ForkExit => FORK_EXIT,
    AffinityChurn => AFFINITY_CHURN,
    CrossAffinityChurn => CROSS_AFFINITY_CHURN,
    CgroupChurn => CGROUP_CHURN,
    CgroupAttachStorm => CGROUP_ATTACH_STORM,
    PolicyChurn => POLICY_CHURN,
    NiceSweep => NICE_SWEEP,
    PreemptStorm => PREEMPT_STORM,
    RtStarvation => RT_STARVATION,
    CachePressure => CACHE_PRESSURE,
    CachePipe => CACHE_PIPE,
    PageFaultChurn => PAGE_FAULT_CHURN,
    NumaWorkingSetSweep => NUMA_WORKING_SET_SWEEP,
    NumaMigrationChurn => NUMA_MIGRATION_CHURN,
    IoSyncWrite => IO_SYNC_WRITE,
    IoRandRead => IO_RAND_READ,
    IoConvoy => IO_CONVOY,
    IrqWake => IRQ_WAKE,
    NetTraffic => NET_TRAFFIC,
    Mixed => MIXED,
    Schbench => SCHBENCH,
    Taobench => TAOBENCH,
}
