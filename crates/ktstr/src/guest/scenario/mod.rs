//! Scenarios carried out: cgroups made, workers started, steps held, everything judged and torn down.
//!
//! ```text
//! Start ─ backdrop ─ [ ops ─ setup ─ StepStart ─ hold ─ StepEnd ─ tear down ]* ─ tear down backdrop ─ End ─ checks
//! ```
//!
//! A hold ends at once when the scheduler or a worker dies; later steps are not begun then. Whatever happens, the
//! cgroups and workers that were made are gone when an executor returns, and what they measured is in the result.

mod acts;
mod bpf;
mod engine;
mod error;
mod hogs;
mod ops;
mod payload;
mod program;
mod setup;
mod steal;
mod timeline;
mod until;

pub use bpf::PinError;
pub use error::ScenarioError;
pub use program::PayloadError;

use anyhow::Context;

use super::cgroup::CgroupManager;
use crate::model::checks::Assert;
use crate::model::ctx::Ctx;
use crate::model::scenario::{Backdrop, CgroupDef, HoldSpec, Step, validate_names};
use crate::model::verdict::AssertResult;

/// Runs these cgroups for the test's whole duration.
///
/// # Errors
/// When the workload root cannot be made. All else is in the result.
pub fn execute_defs(ctx: &Ctx, defs: Vec<CgroupDef>) -> anyhow::Result<AssertResult> {
    execute_steps(ctx, vec![Step::with_defs(defs, HoldSpec::FULL)])
}

/// Runs these steps, one after the other.
///
/// # Errors
/// As [`execute_defs`].
pub fn execute_steps(ctx: &Ctx, steps: Vec<Step>) -> anyhow::Result<AssertResult> {
    execute_steps_with(ctx, steps, None)
}

/// Runs these steps and judges them by `assert` on top of the test's own, if given.
///
/// # Errors
/// As [`execute_defs`].
pub fn execute_steps_with(
    ctx: &Ctx,
    steps: Vec<Step>,
    assert: Option<&Assert>,
) -> anyhow::Result<AssertResult> {
    execute_scenario_with(ctx, Backdrop::new(), steps, assert)
}

/// Runs these steps before a backdrop that lives across all of them.
///
/// # Errors
/// As [`execute_defs`].
pub fn execute_scenario(
    ctx: &Ctx,
    backdrop: Backdrop,
    steps: Vec<Step>,
) -> anyhow::Result<AssertResult> {
    execute_scenario_with(ctx, backdrop, steps, None)
}

/// As [`execute_scenario`], judged by `assert` on top of the test's own, if given.
///
/// # Errors
/// As [`execute_defs`].
#[expect(
    clippy::needless_pass_by_value,
    reason = "a scenario is used up by running it"
)]
pub fn execute_scenario_with(
    ctx: &Ctx,
    backdrop: Backdrop,
    steps: Vec<Step>,
    assert: Option<&Assert>,
) -> anyhow::Result<AssertResult> {
    validate_names(&steps)?;
    let holds = steps.iter().enumerate();
    for (number, step) in holds {
        let place = || format!("{} of {}", place_of(number + 1, step), steps.len());
        step.hold.validate().with_context(place)?;
        if let HoldSpec::Until(until) = step.hold {
            until.validate(ctx.topology()).with_context(place)?;
        }
    }
    let cgroups =
        CgroupManager::new(ctx.workload_root()).context("no place for the workload's cgroups")?;
    let assert = assert.map_or(*ctx.assert(), |upper| ctx.assert().merge(*upper));
    Ok(engine::Engine::new(ctx, cgroups).run(&backdrop, &steps, &assert))
}

/// A step in messages: its number, and its name if it has one.
pub(super) fn place_of(number: usize, step: &Step) -> String {
    match step.name() {
        Some(name) => format!("step {number} ({name})"),
        None => format!("step {number}"),
    }
}

/// Runs a scenario over a given manager.
#[cfg(test)]
pub(in crate::guest) fn run_in(
    ctx: &Ctx,
    cgroups: CgroupManager,
    backdrop: &Backdrop,
    steps: &[Step],
    assert: &Assert,
) -> AssertResult {
    engine::Engine::new(ctx, cgroups).run(backdrop, steps, assert)
}

#[cfg(test)]
mod tests;
