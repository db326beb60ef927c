//! Operations of a step.

use super::super::entry::Scheduler;
use super::super::payload::Payload;
use super::super::work::{AffinityIntent, SchedPolicy, WorkSpec, WorkType};
use super::{CgroupDef, CpusetSpec};
pub use crate::model::kernel_memory::{KernelTarget, KernelValue, KernelValueWidth};

/// Where workers that an operation starts are put.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnPlacement {
    /// The test's own cgroup: the guest's root, outside the workload root.
    RunnerCgroup,
    /// A cgroup of the scenario, which is there already.
    Cgroup(String),
}

impl SpawnPlacement {
    /// A cgroup of the scenario.
    pub fn cgroup(name: impl Into<String>) -> Self {
        Self::Cgroup(name.into())
    }

    /// The guest's root cgroup.
    #[must_use]
    pub const fn runner_cgroup() -> Self {
        Self::RunnerCgroup
    }
}

/// One operation. Names of cgroups are relative to the workload root. Each has a function that makes it, which is shorter.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields say what each variant's line names")]
pub enum Op {
    /// Makes an empty cgroup.
    AddCgroup { name: String },
    /// Makes a cgroup and starts its workers.
    AddCgroupDef { def: CgroupDef },
    /// Stops what runs in a cgroup and removes it; one that is not there is fine.
    RemoveCgroup { cgroup: String },
    /// Stops the workers of a cgroup and leaves it.
    StopCgroup { cgroup: String },
    /// Changes a cgroup's CPUs.
    SetCpuset { cgroup: String, cpus: CpusetSpec },
    /// Lifts a cgroup's limit to certain CPUs.
    ClearCpuset { cgroup: String },
    /// Exchanges the CPUs of two cgroups.
    SwapCpusets { a: String, b: String },
    /// Starts more workers; they end with the step.
    Spawn {
        placement: SpawnPlacement,
        work: WorkSpec,
    },
    /// Binds all tasks of a cgroup to CPUs.
    SetAffinity {
        cgroup: String,
        affinity: AffinityIntent,
    },
    /// Gives all tasks of a cgroup a scheduling policy; their nice values stay.
    SetPolicy { cgroup: String, policy: SchedPolicy },
    /// Moves all tasks from one cgroup to another.
    MoveAllTasks { from: String, to: String },
    /// Freezes a cgroup.
    FreezeCgroup { cgroup: String },
    /// Thaws a cgroup.
    UnfreezeCgroup { cgroup: String },
    /// Steers an interrupt to CPUs.
    SteerIrq { irq: u32, cpus: CpusetSpec },
    /// Asks the host for a snapshot.
    CaptureSnapshot { name: String },
    /// Asks the host for a snapshot whenever a symbol is written.
    WatchSnapshot { symbol: String },
    /// Notes the processes of a cgroup under a tag.
    CaptureCgroupProcs { tag: String, cgroup: String },
    /// Reads kernel memory while the guest runs; `VmResult::snapshot_bridge` has what was read, by the tag.
    ReadKernelHot {
        tag: String,
        target: KernelTarget,
        width: KernelValueWidth,
    },
    /// Reads kernel memory while the guest is frozen.
    ReadKernelCold {
        tag: String,
        target: KernelTarget,
        width: KernelValueWidth,
    },
    /// Writes kernel memory while the guest runs.
    WriteKernelHot {
        writes: Vec<(KernelTarget, KernelValue)>,
    },
    /// Writes kernel memory in one freeze of the guest; neighbours in a step share it.
    WriteKernelCold {
        writes: Vec<(KernelTarget, KernelValue)>,
    },
    /// Starts a payload, in a cgroup if one is named; it ends with the step, or by one of the two below. One that the test does
    /// not declare has to be in the guest already: its path, or its name if it is on the guest's `PATH`.
    RunPayload {
        payload: &'static Payload,
        args: Vec<String>,
        cgroup: Option<String>,
    },
    /// Waits for a payload's end, at most for the test's duration, and judges it: its status, and what it declares of its
    /// metrics. Without a cgroup, it is the oldest of that name.
    WaitPayload {
        name: String,
        cgroup: Option<String>,
    },
    /// Kills a payload and all that it started; one that has ended is fine. Without a cgroup, it is the oldest of that name.
    KillPayload {
        name: String,
        cgroup: Option<String>,
    },
    /// Starts a scheduler, while none runs: the test's own or a staged one.
    AttachScheduler { scheduler: &'static Scheduler },
    /// Stops the test's scheduler.
    DetachScheduler,
    /// Stops and starts the test's scheduler.
    RestartScheduler,
    /// Puts a staged scheduler in the place of the present one.
    ReplaceScheduler { scheduler: &'static Scheduler },
    /// Pins the BPF map of this name (15 bytes, as the kernel cuts it) in a BPF file system.
    PinBpfMap { map: String, path: String },
}

macro_rules! of_cgroup {
    ($( $(#[$about:meta])* $function:ident => $variant:ident; )*) => {
        impl Op {
            $(
                $(#[$about])*
                pub fn $function(cgroup: impl Into<String>) -> Self {
                    Self::$variant { cgroup: cgroup.into() }
                }
            )*
        }
    };
}

of_cgroup! {
    /// Stops what runs in a cgroup and removes it.
    remove_cgroup => RemoveCgroup;
    /// Stops the workers of a cgroup and leaves it.
    stop_cgroup => StopCgroup;
    /// Lifts a cgroup's limit to certain CPUs.
    clear_cpuset => ClearCpuset;
    /// Freezes a cgroup.
    freeze_cgroup => FreezeCgroup;
    /// Thaws a cgroup.
    unfreeze_cgroup => UnfreezeCgroup;
}

impl Op {
    /// Makes an empty cgroup.
    pub fn add_cgroup(name: impl Into<String>) -> Self {
        Self::AddCgroup { name: name.into() }
    }

    /// Makes a cgroup and starts its workers.
    #[must_use]
    pub const fn add_cgroup_def(def: CgroupDef) -> Self {
        Self::AddCgroupDef { def }
    }

    /// Changes a cgroup's CPUs.
    pub fn set_cpuset(cgroup: impl Into<String>, cpus: CpusetSpec) -> Self {
        Self::SetCpuset {
            cgroup: cgroup.into(),
            cpus,
        }
    }

    /// Exchanges the CPUs of two cgroups.
    pub fn swap_cpusets(a: impl Into<String>, b: impl Into<String>) -> Self {
        Self::SwapCpusets {
            a: a.into(),
            b: b.into(),
        }
    }

    /// Starts workers; they end with the step.
    #[must_use]
    pub const fn spawn(placement: SpawnPlacement, work: WorkSpec) -> Self {
        Self::Spawn { placement, work }
    }

    /// Starts workers in the guest's root cgroup, outside the workload root; they end with the step.
    #[must_use]
    pub const fn spawn_host(work: WorkSpec) -> Self {
        Self::spawn(SpawnPlacement::RunnerCgroup, work)
    }

    /// Starts more workers in a cgroup that is there already; they end with the step.
    pub fn spawn_workers(cgroup: impl Into<String>, work: WorkSpec) -> Self {
        Self::spawn(SpawnPlacement::cgroup(cgroup), work)
    }

    /// Starts one worker (or one group of workers) of this type in a cgroup.
    pub fn spawn_in_cgroup(cgroup: impl Into<String>, work_type: WorkType) -> Self {
        Self::spawn_workers(cgroup, WorkSpec::default().work_type(work_type))
    }

    /// Binds all tasks of a cgroup to CPUs.
    pub fn set_affinity(cgroup: impl Into<String>, affinity: AffinityIntent) -> Self {
        Self::SetAffinity {
            cgroup: cgroup.into(),
            affinity,
        }
    }

    /// Gives all tasks of a cgroup a scheduling policy; their nice values stay.
    pub fn set_policy(cgroup: impl Into<String>, policy: SchedPolicy) -> Self {
        Self::SetPolicy {
            cgroup: cgroup.into(),
            policy,
        }
    }

    /// Moves all tasks from one cgroup to another.
    pub fn move_all_tasks(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::MoveAllTasks {
            from: from.into(),
            to: to.into(),
        }
    }

    /// Steers an interrupt, by its number in `/proc/interrupts`, to CPUs: `steer_irq(4, CpusetSpec::exact([1]))`.
    #[must_use]
    pub const fn steer_irq(irq: u32, cpus: CpusetSpec) -> Self {
        Self::SteerIrq { irq, cpus }
    }

    /// Asks the host for a snapshot of this name.
    pub fn capture_snapshot(name: impl Into<String>) -> Self {
        Self::CaptureSnapshot { name: name.into() }
    }

    /// Asks the host for a snapshot whenever a symbol is written.
    pub fn watch_snapshot(symbol: impl Into<String>) -> Self {
        Self::WatchSnapshot {
            symbol: symbol.into(),
        }
    }

    /// Notes the processes of a cgroup under a tag.
    pub fn capture_cgroup_procs(tag: impl Into<String>, cgroup: impl Into<String>) -> Self {
        Self::CaptureCgroupProcs {
            tag: tag.into(),
            cgroup: cgroup.into(),
        }
    }

    /// Starts a scheduler, while none runs: the test's own, or one of its `staged_schedulers`.
    #[must_use]
    pub const fn attach_scheduler(scheduler: &'static Scheduler) -> Self {
        Self::AttachScheduler { scheduler }
    }

    /// Stops the test's scheduler.
    #[must_use]
    pub const fn detach_scheduler() -> Self {
        Self::DetachScheduler
    }

    /// Stops and starts the test's scheduler.
    #[must_use]
    pub const fn restart_scheduler() -> Self {
        Self::RestartScheduler
    }

    /// Puts a scheduler in the place of the present one. It is one of the test's `staged_schedulers`, which are in the guest.
    #[must_use]
    pub const fn replace_scheduler(scheduler: &'static Scheduler) -> Self {
        Self::ReplaceScheduler { scheduler }
    }

    /// Reads kernel memory while the guest runs.
    pub fn read_kernel_hot(
        tag: impl Into<String>,
        target: KernelTarget,
        width: KernelValueWidth,
    ) -> Self {
        Self::ReadKernelHot {
            tag: tag.into(),
            target,
            width,
        }
    }

    /// Reads kernel memory while the guest is frozen.
    pub fn read_kernel_cold(
        tag: impl Into<String>,
        target: KernelTarget,
        width: KernelValueWidth,
    ) -> Self {
        Self::ReadKernelCold {
            tag: tag.into(),
            target,
            width,
        }
    }

    /// Writes kernel memory while the guest runs.
    #[must_use]
    pub fn write_kernel_hot(target: KernelTarget, value: KernelValue) -> Self {
        Self::write_kernel_hot_batch([(target, value)])
    }

    /// Writes kernel memory while the guest is frozen.
    #[must_use]
    pub fn write_kernel_cold(target: KernelTarget, value: KernelValue) -> Self {
        Self::write_kernel_cold_batch([(target, value)])
    }

    /// Several writes while the guest runs; each place is found before the first is written.
    pub fn write_kernel_hot_batch(
        writes: impl IntoIterator<Item = (KernelTarget, KernelValue)>,
    ) -> Self {
        Self::WriteKernelHot {
            writes: writes.into_iter().collect(),
        }
    }

    /// Several writes in one freeze of the guest; each place is found before the first is written.
    pub fn write_kernel_cold_batch(
        writes: impl IntoIterator<Item = (KernelTarget, KernelValue)>,
    ) -> Self {
        Self::WriteKernelCold {
            writes: writes.into_iter().collect(),
        }
    }

    /// Starts a payload with its default arguments and these after them.
    pub fn run_payload(
        payload: &'static Payload,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self::RunPayload {
            payload,
            args: args.into_iter().map(Into::into).collect(),
            cgroup: None,
        }
    }

    /// Same, in a cgroup that is there already.
    pub fn run_payload_in_cgroup(
        payload: &'static Payload,
        args: impl IntoIterator<Item = impl Into<String>>,
        cgroup: impl Into<String>,
    ) -> Self {
        Self::RunPayload {
            payload,
            args: args.into_iter().map(Into::into).collect(),
            cgroup: Some(cgroup.into()),
        }
    }

    /// Waits for the end of a payload and judges it; of several of this name, the oldest.
    pub fn wait_payload(name: impl Into<String>) -> Self {
        Self::WaitPayload {
            name: name.into(),
            cgroup: None,
        }
    }

    /// Waits for the end of the payload in this cgroup and judges it.
    pub fn wait_payload_in_cgroup(name: impl Into<String>, cgroup: impl Into<String>) -> Self {
        Self::WaitPayload {
            name: name.into(),
            cgroup: Some(cgroup.into()),
        }
    }

    /// Kills a payload and all that it started; of several of this name, the oldest.
    pub fn kill_payload(name: impl Into<String>) -> Self {
        Self::KillPayload {
            name: name.into(),
            cgroup: None,
        }
    }

    /// Kills the payload in this cgroup and all that it started.
    pub fn kill_payload_in_cgroup(name: impl Into<String>, cgroup: impl Into<String>) -> Self {
        Self::KillPayload {
            name: name.into(),
            cgroup: Some(cgroup.into()),
        }
    }

    /// Pins the BPF map of this name at a path in a BPF file system, below `/sys/fs/bpf`.
    pub fn pin_bpf_map(map: impl Into<String>, path: impl Into<String>) -> Self {
        Self::PinBpfMap {
            map: map.into(),
            path: path.into(),
        }
    }

    /// Its name, as written in tests and shown in messages.
    pub const fn name(&self) -> &'static str {
        self.kind().0
    }

    /// Its bit in a step mark's `op_kinds`; numbers are for ever.
    pub const fn bit(&self) -> u64 {
        1 << self.kind().1
    }
}

macro_rules! kinds {
    ($( $name:ident = $bit:literal, )*) => {
        impl Op {
            /// The names of all operations.
            pub const NAMES: &'static [&'static str] = &[$( stringify!($name) ),*];

            const fn kind(&self) -> (&'static str, u32) {
                match self {
                    $( Self::$name { .. } => (stringify!($name), $bit), )*
                }
            }
        }
    };
}

kinds! {
    AddCgroup = 0,
    AddCgroupDef = 1,
    RemoveCgroup = 2,
    StopCgroup = 3,
    SetCpuset = 4,
    ClearCpuset = 5,
    SwapCpusets = 6,
    Spawn = 7,
    SetAffinity = 8,
    MoveAllTasks = 9,
    FreezeCgroup = 10,
    UnfreezeCgroup = 11,
    SteerIrq = 12,
    CaptureSnapshot = 13,
    WatchSnapshot = 14,
    CaptureCgroupProcs = 15,
    ReadKernelHot = 16,
    ReadKernelCold = 17,
    WriteKernelHot = 18,
    WriteKernelCold = 19,
    RunPayload = 20,
    WaitPayload = 21,
    KillPayload = 22,
    AttachScheduler = 23,
    DetachScheduler = 24,
    RestartScheduler = 25,
    ReplaceScheduler = 26,
    PinBpfMap = 27,
    SetPolicy = 28,
}
