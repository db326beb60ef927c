//! A scenario as data: cgroups with workers, steps with operations, and what lives across all of them.
//!
//! ```text
//! Backdrop ──────────────────────────────────────────────▶ torn down last
//!   Step 0: ops, setup, hold ─▶ Step 1: ops, setup, hold ─▶ …   each torn down at its end
//! ```

mod backdrop;
mod cgroup;
mod condition;
mod cpuset_spec;
mod of_ctx;
mod op;
mod step;

pub use backdrop::Backdrop;
pub use cgroup::{CgroupDef, CpuLimits, IoLimits, MemoryLimits, PidsLimits};
pub(crate) use condition::custom_cond;
pub use condition::{
    CgroupCond, Cond, CondError, CustomCond, KTSTR_CONDITIONS, RqCond, TaskCond, Until,
};
pub use cpuset_spec::{CpusetError, CpusetSpec};

pub use op::{KernelTarget, KernelValue, KernelValueWidth, Op, SpawnPlacement};
pub use step::{HoldError, HoldSpec, Setup, Step, StepNameError, validate_names};
