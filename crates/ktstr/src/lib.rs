#![doc = include_str!("../README.md")]
//!
//! # Details
//!
//! A test declares a CPU topology, a scheduler and a workload. ktstr boots a real kernel with that topology, runs the workload
//! under that scheduler and judges what it saw.
//!
//! Each `#[ktstr_test]` is an ordinary `#[test]` of Rust's own harness; [`test_main!`] is there for binaries without that.

mod entry_point;
pub mod guest;
pub mod host;
pub mod model;

pub use entry_point::{guest_main, test_main};
/// Gone; see [`declare_scheduler!`].
#[doc(hidden)]
pub use ktstr_macros::Scheduler;
pub use ktstr_macros::{Claim, declare_scheduler, ktstr_condition, ktstr_test, ktstr_test_entry};
pub use model::checks::Assert;
pub use model::claim::Verdict;
pub use model::comparison::{Claimed, Judge};
pub use model::entry::{
    KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry, Scheduler, SchedulerSpec, Sysctl,
    TopologyConstraints, TopologySpec, find_scheduler, find_test,
};
pub use model::invariants::Invariants;
pub use model::scenario::KTSTR_CONDITIONS;
pub use model::verdict::{EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS};

/// Everything that a test file needs.
pub mod prelude {
    pub use anyhow::{self, Result};

    pub use crate::guest::scenario::{
        execute_defs, execute_scenario, execute_scenario_with, execute_steps, execute_steps_with,
    };
    pub use crate::guest::scenarios;
    pub use crate::model::bpf_map::{BpfMapAgg, BpfMapWrite, WatchBpfMap};
    pub use crate::model::checks::Assert;
    pub use crate::model::claim::Verdict;
    pub use crate::model::cpuset::CpuMap;
    pub use crate::model::ctx::Ctx;
    pub use crate::model::device::{DiskConfig, NetConfig};
    pub use crate::model::entry::{
        KTSTR_SCHEDULERS, KTSTR_TESTS, Scheduler, SchedulerSpec, Sysctl, TopologyConstraints,
        TopologySpec, find_scheduler, find_test,
    };
    pub use crate::model::invariants::Invariants;
    pub use crate::model::metrics::Better;
    pub use crate::model::payload::{
        Metric, MetricCheck, MetricHint, OutputFormat, Payload, PayloadEnd, PayloadKind,
        PayloadReport, Polarity,
    };
    pub use crate::model::phase::Phase;
    pub use crate::model::post_vm::{IntoPostVm, PostVmSkip, post_vm_skip};
    pub use crate::model::report::WorkerReport;
    pub use crate::model::result::{KVM_INTERESTING_STATS, KvmStatsTotals, VmResult};
    pub use crate::model::scenario::{
        Backdrop, CgroupCond, CgroupDef, Cond, CpuLimits, CpusetSpec, HoldSpec, IoLimits,
        KernelTarget, KernelValue, KernelValueWidth, MemoryLimits, Op, PidsLimits, RqCond, Setup,
        SpawnPlacement, Step, TaskCond,
    };
    pub use crate::model::series::{Column, Sample, SampleSeries};
    pub use crate::model::snapshot::{
        MissingStatsReason, Snapshot, SnapshotBridge, SnapshotEntry, SnapshotError, SnapshotField,
        SnapshotMap,
    };
    pub use crate::model::stats::{CgroupStats, PhaseBucket, PhaseCgroupStats, ScenarioStats};
    pub use crate::model::verdict::{
        AssertDetail, AssertResult, DetailKind, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, NoteValue,
        Outcome,
    };
    pub use crate::model::work::{
        AffinityIntent, AluWidth, CloneMode, CustomCfg, CustomWork, FutexLockMode, MemPolicy,
        MpolFlags, SchbenchConfig, SchedClass, SchedPolicy, TaobenchConfig, WakeMechanism,
        WorkPhase, WorkSpec, WorkType, WorkTypeInfo, WorkerCtx,
    };
    pub use crate::{
        Claim, KtstrTestEntry, claim, claim_present, declare_scheduler, ktstr_condition,
        ktstr_test, ktstr_test_entry,
    };
    /// The guest's kernel, for [`Cond::custom`].
    pub use ktstr_monitor::Kernel;
    /// Whose time passes in a guest: what a test's entry says in `time`.
    pub use ktstr_vmm::Clock;
}

/// For the macros' output alone.
#[doc(hidden)]
pub mod __private {
    pub use crate::host::libtest::run_in_libtest;
    pub use crate::model::entry::{LIBTEST_TESTS, TEST_MAINS};
    pub use crate::model::names::test_name;
    pub use crate::model::scenario::CustomCond;
    pub use ktstr_vmm::Clock;
    pub use linkme;

    /// Attributes of `#[ktstr_test]` beside the checks.
    pub const ATTRIBUTES: &[&str] = ktstr_macros::knob_names!(attributes);
    /// Keys of `declare_scheduler!` beside the checks.
    pub const SCHEDULER_KEYS: &[&str] = ktstr_macros::knob_names!(scheduler_keys);
}

/// The `main` of a test binary with `harness = false`, for what Rust's own harness does not have: exit code 2 for what
/// could not be judged, and skips that are counted as such. Without it, `#[ktstr_test]` functions are ordinary `#[test]`s.
#[macro_export]
macro_rules! test_main {
    () => {
        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::__private::TEST_MAINS)]
            #[linkme(crate = $crate::__private::linkme)]
            static TAKEN: &'static str = ::core::env!("CARGO_MANIFEST_DIR");
        };

        fn main() -> ::std::process::ExitCode {
            $crate::test_main(
                ::core::env!("CARGO_MANIFEST_DIR"),
                ::core::env!("CARGO_PKG_NAME"),
            )
        }
    };
}
