//! Each function makes its own work type, with each argument in the field of its place.

use std::time::Duration;

use super::super::{
    AluWidth, FutexLockMode, SchbenchConfig, SchedClass, TaobenchConfig, WakeMechanism, WorkPhase,
    WorkType,
};

/// The name of `WorkType::$function`, and what it makes beside the variant as it is written out. Arguments of one type differ, so
/// that two that change places are seen.
macro_rules! made {
    ($($function:ident($($argument:expr),*) => $name:ident { $($fields:tt)* })*) => {
        [$((
            stringify!($function),
            WorkType::$function($($argument),*),
            WorkType::$name { $($fields)* },
        )),*]
    };
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const SPIN: WorkPhase = WorkPhase::Spin(ms(1));
const SLEEP: WorkPhase = WorkPhase::Sleep(ms(2));

fn all() -> Vec<(&'static str, WorkType, WorkType)> {
    let schbench = SchbenchConfig::DEFAULT.operations(7);
    let taobench = TaobenchConfig::DEFAULT.slow_threads(7);
    let made = made! {
        affinity_churn(1) => AffinityChurn { spin_iters: 1 }
        alu_hot(AluWidth::Medium) => AluHot { width: AluWidth::Medium }
        asymmetric_waker(SchedClass::Rt, SchedClass::Idle, 1) => AsymmetricWaker {
            waker_class: SchedClass::Rt, wakee_class: SchedClass::Idle, burst_iters: 1
        }
        bursty(ms(1), ms(2)) => Bursty { burst_duration: ms(1), sleep_duration: ms(2) }
        cache_pipe(1, 2) => CachePipe { size_kib: 1, burst_iters: 2 }
        cache_pressure(1, 2) => CachePressure { size_kib: 1, stride: 2 }
        cache_yield(1, 2) => CacheYield { size_kib: 1, stride: 2 }
        cgroup_attach_storm(1) => CgroupAttachStorm { victims: 1 }
        cgroup_churn(1, 2) => CgroupChurn { groups: 1, cycle_ms: 2 }
        cross_affinity_churn(1) => CrossAffinityChurn { spin_iters: 1 }
        epoll_storm(1, 2, 3) => EpollStorm { producers: 1, consumers: 2, events_per_burst: 3 }
        fan_out_compute(1, 2, 3, 4) => FanOutCompute {
            fan_out: 1, cache_footprint_kib: 2, operations: 3, sleep_usec: 4
        }
        futex_fan_out(1, 2) => FutexFanOut { fan_out: 1, spin_iters: 2 }
        futex_ping_pong(1) => FutexPingPong { spin_iters: 1 }
        idle_churn(ms(1), ms(2)) => IdleChurn {
            burst_duration: ms(1), sleep_duration: ms(2), precise_timing: false
        }
        ipc_variance(1, 2, 3) => IpcVariance { hot_iters: 1, cold_iters: 2, period_iters: 3 }
        irq_wake(1, 2) => IrqWake { interval_us: 1, frame_bytes: 2 }
        mutex_contention(1, 2, 3) => MutexContention { contenders: 1, hold_iters: 2, work_iters: 3 }
        net_traffic(1, 2) => NetTraffic { interval_us: 1, frame_bytes: 2 }
        numa_migration_churn(1) => NumaMigrationChurn { period_ms: 1 }
        numa_working_set_sweep(1, 2, [3, 4]) => NumaWorkingSetSweep {
            region_kib: 1, sweep_period_ms: 2, target_nodes: vec![3, 4]
        }
        page_fault_churn(1, 2, 3) => PageFaultChurn { region_kib: 1, touches_per_cycle: 2, spin_iters: 3 }
        pipe_io(1) => PipeIo { burst_iters: 1 }
        policy_churn(1) => PolicyChurn { spin_iters: 1 }
        preempt_storm(1, 2, 3) => PreemptStorm { cfs_workers: 1, rt_burst_iters: 2, rt_sleep_us: 3 }
        priority_inversion(1, 2, 3, 4, 5, FutexLockMode::Pi) => PriorityInversion {
            high_count: 1, medium_count: 2, low_count: 3, hold_iters: 4, work_iters: 5, pi_mode: FutexLockMode::Pi
        }
        rt_starvation(1, 2, 3, 4) => RtStarvation {
            rt_workers: 1, cfs_workers: 2, rt_priority: 3, burst_iters: 4
        }
        schbench(schbench) => Schbench { config: schbench }
        sequence(SPIN, [SLEEP, SPIN]) => Sequence { first: SPIN, rest: vec![SLEEP, SPIN] }
        signal_storm(1, 2) => SignalStorm { signals_per_iter: 1, work_iters: 2 }
        taobench(taobench) => Taobench { config: taobench }
        thundering_herd(1, 2, 3) => ThunderingHerd { waiters: 1, batches: 2, inter_batch_ms: 3 }
        timer_latency(1) => TimerLatency { interval_us: 1 }
        wake_chain(1, WakeMechanism::Futex, ms(2)) => WakeChain {
            depth: 1, wake: WakeMechanism::Futex, work_per_hop: ms(2)
        }
    };
    made.into()
}

#[test]
fn each_function_makes_its_own_work_type_of_its_arguments() {
    for (function, made, written) in all() {
        assert_eq!(made, written, "WorkType::{function}");
    }
}

/// Those of the table and the three above; a function that is added is missing here until it is looked at, too.
#[test]
fn no_function_of_a_work_type_is_left_out() {
    let mut known: Vec<&str> = WorkType::FORMS
        .iter()
        .map(|(function, _)| *function)
        .collect();
    known.extend(["idle_churn", "numa_working_set_sweep", "sequence"]);
    known.sort_unstable();
    let looked_at: Vec<&str> = all().iter().map(|(function, ..)| *function).collect();
    assert_eq!(looked_at, known);
}
