//! Functions that make work types of other things than their fields.

use std::time::Duration;

use super::{CustomCfg, CustomWork, WorkPhase, WorkType, WorkerCtx};
use crate::model::report::WorkerReport;

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

    /// As [`custom`](Self::custom), with settings that the loop reads from [`WorkerCtx::cfg`].
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

#[cfg(test)]
mod tests;
