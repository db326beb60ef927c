//! What workers do and how they run, as data. The guest carries it out.

mod benchmark;
mod custom;
mod info;
mod spec;
mod table;

pub use benchmark::{SchbenchSpec, TaobenchSpec};
pub use custom::{CustomWork, WorkLoop};
pub use info::WorkTypeInfo;
pub use spec::{Affinity, CloneMode, MemPolicy, SchedPolicy, WorkSpec, WorkerCount};
pub use table::markdown as work_type_table;

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// Independent chains of multiplications that [`WorkType::AluHot`] keeps in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AluWidth {
    /// One: bound by latency.
    Narrow,
    /// Four.
    Medium,
    /// Eight: as much as the CPU can do, the most heat.
    #[default]
    Widest,
}

/// One part of a [`WorkType::Sequence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkPhase {
    /// Uses a CPU for this much CPU time.
    Spin(Duration),
    /// Sleeps.
    Sleep(Duration),
    /// Yields this often.
    Yield(u32),
    /// Writes this many blocks of 4 KiB to a file and syncs it.
    Io(u32),
}

/// What carries the baton of a [`WorkType::WakeChain`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WakeVia {
    /// A futex: plain wake-ups.
    #[default]
    Futex,
    /// A pipe: synchronous wake-ups (`WF_SYNC`).
    Pipe,
}

/// What a worker does in a loop. The table in `docs/work-types.md` says what each is for.
///
/// Names that end in `_pct` are 0 to 100; sizes are KiB as their names say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields say what each variant's line names")]
pub enum WorkType {
    /// Spins: always wants a CPU.
    SpinWait,
    /// Spins with several independent chains of multiplications.
    AluHot { width: AluWidth },
    /// Alternates `hot` steps of wide arithmetic with `cold` dependent loads over `kib` of memory.
    IpcVariance { hot: u32, cold: u32, kib: u32 },
    /// Two workers spin on the two threads of one core.
    SmtSiblingSpin,
    /// Spins a little and yields: `sched_yield` on every iteration.
    YieldHeavy,
    /// Walks over `kib` of memory in steps of `stride` bytes, then yields.
    CacheYield { kib: u32, stride: u32 },
    /// Spins for a while, then sleeps for a while.
    Bursty { burst: Duration, sleep: Duration },
    /// Goes through phases, round and round.
    Sequence(Cow<'static, [WorkPhase]>),
    /// Short bursts of CPU time between sleeps: a CPU goes idle and leaves idle on every iteration.
    IdleChurn { burst: Duration, sleep: Duration },
    /// Wakes at absolute times `period` apart and does nothing else.
    TimerLatency { period: Duration },

    /// Two workers wake each other in turn through futexes, with `spin` steps in between.
    FutexPingPong { spin: u32 },
    /// One worker wakes `fan` others at once; each spins `spin` steps; the last wakes the first.
    FutexFanOut { fan: u32, spin: u32 },
    /// One worker wakes `fan` others that do `ops` passes over `kib` of memory, then sleeps.
    FanOutCompute {
        fan: u32,
        kib: u32,
        ops: u32,
        sleep: Duration,
    },
    /// Two workers pass a byte to and fro through pipes.
    PipeIo,
    /// A baton goes round a ring of `depth` workers; each holds it for `work` of CPU time.
    WakeChain {
        depth: u32,
        via: WakeVia,
        work: Duration,
    },
    /// One worker wakes all `waiters` of one futex every `interval`.
    ThunderingHerd { waiters: u32, interval: Duration },
    /// `producers` put bursts of events into an eventfd that `consumers` share through one epoll.
    EpollStorm {
        producers: u32,
        consumers: u32,
        burst: u32,
    },
    /// Two workers send each other bursts of real-time signals in turn.
    SignalStorm { burst: u32 },
    /// `contenders` take one lock in turn, hold it for `hold` steps and work `work` steps outside.
    MutexContention {
        contenders: u32,
        hold: u32,
        work: u32,
    },
    /// On one CPU: a fair worker holds a lock that a FIFO worker wants, and a second fair worker spins; `pi` chooses a lock
    /// with priority inheritance.
    PriorityInversion { pi: bool },
    /// Ping-pong between two workers of different classes.
    AsymmetricWaker {
        waker: SchedPolicy,
        wakee: SchedPolicy,
    },

    /// Forks a child that exits at once, and reaps it.
    ForkExit,
    /// Binds itself to the next CPU of its cpuset every `spin` steps.
    AffinityChurn { spin: u32 },
    /// Two workers bind each other to the next CPU every `spin` steps.
    CrossAffinityChurn { spin: u32 },
    /// Moves itself to another cgroup every `interval`.
    CgroupChurn { interval: Duration },
    /// One worker moves `victims` spinning ones between cgroups without a pause.
    CgroupAttachStorm { victims: u32 },
    /// Changes its scheduling policy on every iteration.
    PolicyChurn { spin: u32 },
    /// Steps its nice value from -20 to 19, round and round.
    NiceSweep { spin: u32 },
    /// On one CPU: `fair` spinning workers and one FIFO worker that preempts them every `period`.
    PreemptStorm { fair: u32, period: Duration },
    /// On one CPU: a FIFO worker of this priority spins for `burst` and rests for `rest`; a fair worker gets what is left.
    RtStarvation {
        priority: u32,
        burst: Duration,
        rest: Duration,
    },

    /// Writes to `kib` of memory in steps of `stride` bytes.
    CachePressure { kib: u32, stride: u32 },
    /// Two workers hand a block of `kib` (at most 64) to and fro through pipes.
    CachePipe { kib: u32 },
    /// Touches `touches` pages of a region of `kib`, then gives all back.
    PageFaultChurn { kib: u32, touches: u32 },
    /// Works on `kib` of memory and moves its pages to the next node every `interval`.
    NumaWorkingSetSweep { kib: u32, interval: Duration },
    /// Works on `kib` of memory and binds itself to the next node's CPUs every `interval`.
    NumaMigrationChurn { kib: u32, interval: Duration },

    /// Writes 4 KiB and waits until it is on disk.
    IoSyncWrite,
    /// Reads 4 KiB at a random place, without the page cache where the disk can.
    IoRandRead,
    /// All workers write to and sync one file: they queue behind each other.
    IoConvoy,
    /// A worker sends a datagram of `bytes` every `period`; its partner is woken out of the softirq that delivers it.
    IrqWake { bytes: u32, period: Duration },
    /// A worker sends bursts of datagrams of `bytes` to its partner, which answers each burst.
    NetTraffic { bytes: u32, burst: u32 },

    /// Rotates through spinning, yielding, a short sleep and a file write.
    Mixed,
    /// The schbench benchmark.
    Schbench(SchbenchSpec),
    /// A read-mostly cache under load, after the TAO benchmark of DCPerf.
    Taobench(TaobenchSpec),
    /// The test author's own loop; it has no serial form.
    #[serde(skip)]
    Custom(CustomWork),
}

const MS: Duration = Duration::from_millis(1);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl WorkType {
    /// A ping-pong that hands over at once.
    pub const FUTEX_PING_PONG: Self = Self::FutexPingPong { spin: 0 };
    /// 5 ms of spinning, 5 ms of sleep.
    pub const BURSTY: Self = Self::Bursty {
        burst: ms(5),
        sleep: ms(5),
    };
    /// Five phases that last some 5 ms together.
    pub const SEQUENCE: Self = Self::Sequence(Cow::Borrowed(&[
        WorkPhase::Spin(ms(2)),
        WorkPhase::Sleep(MS),
        WorkPhase::Yield(8),
        WorkPhase::Io(1),
        WorkPhase::Spin(MS),
    ]));

    /// One of each but [`Custom`](Self::Custom), with usual parameters.
    pub const ALL: [Self; Self::NAMES.len() - 1] = [
        Self::SpinWait,
        Self::AluHot {
            width: AluWidth::Widest,
        },
        Self::IpcVariance {
            hot: 100_000,
            cold: 1_024,
            kib: 1_024,
        },
        Self::SmtSiblingSpin,
        Self::YieldHeavy,
        Self::CacheYield {
            kib: 32,
            stride: 64,
        },
        Self::BURSTY,
        Self::SEQUENCE,
        Self::IdleChurn {
            burst: MS,
            sleep: ms(5),
        },
        Self::TimerLatency { period: MS },
        Self::FUTEX_PING_PONG,
        Self::FutexFanOut {
            fan: 4,
            spin: 1_024,
        },
        Self::FanOutCompute {
            fan: 4,
            kib: 32,
            ops: 1,
            sleep: Duration::from_micros(100),
        },
        Self::PipeIo,
        Self::WakeChain {
            depth: 4,
            via: WakeVia::Futex,
            work: Duration::from_micros(100),
        },
        Self::ThunderingHerd {
            waiters: 7,
            interval: ms(5),
        },
        Self::EpollStorm {
            producers: 1,
            consumers: 2,
            burst: 32,
        },
        Self::SignalStorm { burst: 16 },
        Self::MutexContention {
            contenders: 4,
            hold: 256,
            work: 1_024,
        },
        Self::PriorityInversion { pi: true },
        Self::AsymmetricWaker {
            waker: SchedPolicy::Fifo(10),
            wakee: SchedPolicy::Other,
        },
        Self::ForkExit,
        Self::AffinityChurn { spin: 1_024 },
        Self::CrossAffinityChurn { spin: 1_024 },
        Self::CgroupChurn { interval: ms(20) },
        Self::CgroupAttachStorm { victims: 2 },
        Self::PolicyChurn { spin: 1_024 },
        Self::NiceSweep { spin: 1_024 },
        Self::PreemptStorm {
            fair: 2,
            period: MS,
        },
        Self::RtStarvation {
            priority: 50,
            burst: ms(45),
            rest: ms(5),
        },
        Self::CachePressure {
            kib: 1_024,
            stride: 64,
        },
        Self::CachePipe { kib: 32 },
        Self::PageFaultChurn {
            kib: 4_096,
            touches: 256,
        },
        Self::NumaWorkingSetSweep {
            kib: 4_096,
            interval: ms(100),
        },
        Self::NumaMigrationChurn {
            kib: 4_096,
            interval: ms(100),
        },
        Self::IoSyncWrite,
        Self::IoRandRead,
        Self::IoConvoy,
        Self::IrqWake {
            bytes: 60,
            period: MS,
        },
        Self::NetTraffic {
            bytes: 60,
            burst: 16,
        },
        Self::Mixed,
        Self::Schbench(SchbenchSpec::SMALL),
        Self::Taobench(TaobenchSpec::DEFAULT),
    ];

    /// The work type of this name, with usual parameters; none for `Custom`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name)
    }

    /// Whether its workers move between cgroups by themselves, and so need some to go to.
    pub const fn moves_between_cgroups(&self) -> bool {
        matches!(
            self,
            Self::CgroupChurn { .. } | Self::CgroupAttachStorm { .. }
        )
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.info().name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list's length comes from the table of names, which the compiler holds against the enum.
    #[test]
    fn every_work_type_is_listed_once() {
        let listed: Vec<&str> = WorkType::ALL.iter().map(WorkType::name).collect();
        let named: Vec<&str> = WorkType::NAMES
            .iter()
            .copied()
            .filter(|name| *name != "Custom")
            .collect();
        assert_eq!(listed, named);
    }

    #[test]
    fn names_read_back() {
        for work in WorkType::ALL {
            assert_eq!(WorkType::from_name(work.name()), Some(work));
        }
        assert_eq!(WorkType::from_name("Nothing"), None);
        let all = WorkType::ALL.map(|work| work.name());
        let named: Vec<_> = WorkType::NAMES
            .iter()
            .filter(|name| **name != "Custom")
            .collect();
        assert_eq!(all.iter().collect::<Vec<_>>(), named, "ALL is complete");
    }

    #[test]
    fn all_but_custom_have_a_serial_form() {
        for work in WorkType::ALL {
            let json = serde_json::to_string(&work).unwrap();
            assert_eq!(serde_json::from_str::<WorkType>(&json).unwrap(), work);
        }
        let custom = WorkType::Custom(CustomWork::new("mine", |_| {}));
        assert!(serde_json::to_string(&custom).is_err());
    }
}
