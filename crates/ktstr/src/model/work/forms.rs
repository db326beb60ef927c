//! Functions that make work types: the fields in their order.

use std::time::Duration;

use super::{
    AluWidth, CustomCfg, CustomWork, FutexLockMode, SchbenchConfig, SchedClass, TaobenchConfig,
    WakeMechanism, WorkPhase, WorkType, WorkerCtx,
};
use crate::model::report::WorkerReport;

macro_rules! forms {
    ($( $(#[$about:meta])* $function:ident = $variant:ident { $($field:ident: $type:ty),* }; )*) => {
        impl WorkType {
            $(
                $(#[$about])*
                #[must_use]
                pub const fn $function($($field: $type),*) -> Self {
                    Self::$variant { $($field),* }
                }
            )*
        }
    };
}

forms! {
    /// [`WorkType::AluHot`].
    alu_hot = AluHot { width: AluWidth };
    /// [`WorkType::IpcVariance`].
    ipc_variance = IpcVariance { hot_iters: u64, cold_iters: u64, period_iters: u64 };
    /// [`WorkType::CacheYield`].
    cache_yield = CacheYield { size_kib: usize, stride: usize };
    /// [`WorkType::Bursty`].
    bursty = Bursty { burst_duration: Duration, sleep_duration: Duration };
    /// [`WorkType::TimerLatency`].
    timer_latency = TimerLatency { interval_us: u64 };
    /// [`WorkType::FutexPingPong`].
    futex_ping_pong = FutexPingPong { spin_iters: u64 };
    /// [`WorkType::FutexFanOut`].
    futex_fan_out = FutexFanOut { fan_out: usize, spin_iters: u64 };
    /// [`WorkType::FanOutCompute`].
    fan_out_compute = FanOutCompute { fan_out: usize, cache_footprint_kib: usize, operations: usize, sleep_usec: u64 };
    /// [`WorkType::PipeIo`].
    pipe_io = PipeIo { burst_iters: u64 };
    /// [`WorkType::WakeChain`].
    wake_chain = WakeChain { depth: usize, wake: WakeMechanism, work_per_hop: Duration };
    /// [`WorkType::ThunderingHerd`].
    thundering_herd = ThunderingHerd { waiters: usize, batches: u64, inter_batch_ms: u64 };
    /// [`WorkType::EpollStorm`].
    epoll_storm = EpollStorm { producers: usize, consumers: usize, events_per_burst: u64 };
    /// [`WorkType::SignalStorm`].
    signal_storm = SignalStorm { signals_per_iter: u64, work_iters: u64 };
    /// [`WorkType::MutexContention`].
    mutex_contention = MutexContention { contenders: usize, hold_iters: u64, work_iters: u64 };
    /// [`WorkType::PriorityInversion`].
    priority_inversion = PriorityInversion { high_count: usize, medium_count: usize, low_count: usize, hold_iters: u64, work_iters: u64, pi_mode: FutexLockMode };
    /// [`WorkType::AsymmetricWaker`].
    asymmetric_waker = AsymmetricWaker { waker_class: SchedClass, wakee_class: SchedClass, burst_iters: u64 };
    /// [`WorkType::AffinityChurn`].
    affinity_churn = AffinityChurn { spin_iters: u64 };
    /// [`WorkType::CrossAffinityChurn`].
    cross_affinity_churn = CrossAffinityChurn { spin_iters: u64 };
    /// [`WorkType::CgroupChurn`].
    cgroup_churn = CgroupChurn { groups: usize, cycle_ms: u64 };
    /// [`WorkType::CgroupAttachStorm`].
    cgroup_attach_storm = CgroupAttachStorm { victims: usize };
    /// [`WorkType::PolicyChurn`].
    policy_churn = PolicyChurn { spin_iters: u64 };
    /// [`WorkType::PreemptStorm`].
    preempt_storm = PreemptStorm { cfs_workers: usize, rt_burst_iters: u64, rt_sleep_us: u64 };
    /// [`WorkType::RtStarvation`].
    rt_starvation = RtStarvation { rt_workers: usize, cfs_workers: usize, rt_priority: i32, burst_iters: u64 };
    /// [`WorkType::CachePressure`].
    cache_pressure = CachePressure { size_kib: usize, stride: usize };
    /// [`WorkType::CachePipe`].
    cache_pipe = CachePipe { size_kib: usize, burst_iters: u64 };
    /// [`WorkType::PageFaultChurn`].
    page_fault_churn = PageFaultChurn { region_kib: usize, touches_per_cycle: usize, spin_iters: u64 };
    /// [`WorkType::NumaMigrationChurn`].
    numa_migration_churn = NumaMigrationChurn { period_ms: u64 };
    /// [`WorkType::IrqWake`].
    irq_wake = IrqWake { interval_us: u64, frame_bytes: u16 };
    /// [`WorkType::NetTraffic`].
    net_traffic = NetTraffic { interval_us: u64, frame_bytes: u16 };
    /// [`WorkType::Schbench`].
    schbench = Schbench { config: SchbenchConfig };
    /// [`WorkType::Taobench`].
    taobench = Taobench { config: TaobenchConfig };
}

impl WorkType {
    /// [`WorkType::IdleChurn`], with the kernel's timer slack.
    #[must_use]
    pub const fn idle_churn(burst_duration: Duration, sleep_duration: Duration) -> Self {
        Self::IdleChurn {
            burst_duration,
            sleep_duration,
            precise_timing: false,
        }
    }

    /// [`WorkType::Sequence`].
    pub fn sequence(first: WorkPhase, rest: impl IntoIterator<Item = WorkPhase>) -> Self {
        Self::Sequence {
            first,
            rest: rest.into_iter().collect(),
        }
    }

    /// [`WorkType::NumaWorkingSetSweep`].
    pub fn numa_working_set_sweep(
        region_kib: usize,
        sweep_period_ms: u64,
        target_nodes: impl IntoIterator<Item = usize>,
    ) -> Self {
        Self::NumaWorkingSetSweep {
            region_kib,
            sweep_period_ms,
            target_nodes: target_nodes.into_iter().collect(),
        }
    }

    /// The author's own loop, which runs until [`WorkerCtx::stop`] is set. Of what it returns, `tid`, `work_units` and
    /// `iterations` count; all else the framework measures.
    pub fn custom(name: impl Into<String>, run: fn(&WorkerCtx<'_>) -> WorkerReport) -> Self {
        Self::custom_with(name, run, CustomCfg::default())
    }

    /// Same, and what [`WorkerCtx::cfg`] shall be.
    pub fn custom_with(
        name: impl Into<String>,
        run: fn(&WorkerCtx<'_>) -> WorkerReport,
        cfg: CustomCfg,
    ) -> Self {
        Self::Custom(CustomWork {
            name: name.into(),
            run,
            cfg,
        })
    }
}
