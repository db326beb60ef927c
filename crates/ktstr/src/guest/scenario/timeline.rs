//! The scenario's clock, its boundaries and the figures between them.

use std::collections::BTreeMap;

use crate::guest::sys::monotonic_ns;
use crate::model::scenario::{Op, Step};
use crate::model::stats::{PhaseBucket, PhaseFigures};
use crate::model::transport::StepFigures;

/// What was done per cgroup up to some moment.
pub(super) type Done = BTreeMap<String, PhaseFigures>;

/// Time since the scenario's start, and the phase that is under way.
#[derive(Debug)]
pub(super) struct Timeline {
    start_ns: u64,
    open: Option<(PhaseBucket, Done)>,
    closed: Vec<PhaseBucket>,
}

impl Timeline {
    pub(super) fn begin() -> Self {
        Self {
            start_ns: monotonic_ns(),
            open: None,
            closed: Vec::new(),
        }
    }

    pub(super) fn elapsed_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.start_ns)
    }

    pub(super) fn elapsed_ms(&self) -> u64 {
        self.elapsed_ns() / 1_000_000
    }

    /// A phase begins; `so_far` is what was done before it.
    pub(super) fn open_phase(&mut self, step_index: u16, name: &str, so_far: Done) {
        let name = if name.is_empty() {
            format!("step {step_index}")
        } else {
            name.to_owned()
        };
        let phase = PhaseBucket {
            step_index,
            name,
            start_ms: self.elapsed_ms(),
            ..PhaseBucket::default()
        };
        self.open = Some((phase, so_far));
    }

    /// The phase ends; `so_far` is what was done until now, phases before it included.
    pub(super) fn close_phase(&mut self, so_far: &Done) {
        let end_ms = self.elapsed_ms();
        let Some((mut phase, before)) = self.open.take() else {
            return;
        };
        phase.end_ms = end_ms;
        phase.cgroups = so_far
            .iter()
            .map(|(cgroup, total)| {
                let before = before.get(cgroup).copied().unwrap_or_default();
                (cgroup.clone(), total.since(before))
            })
            .filter(|(_, done)| done.iterations > 0)
            .collect();
        let iterations = phase.cgroups.iter();
        phase.iterations = iterations
            .map(|(cgroup, done)| (cgroup.clone(), done.iterations))
            .collect();
        self.closed.push(phase);
    }

    pub(super) fn into_phases(self) -> Vec<PhaseBucket> {
        self.closed
    }
}

/// A step's operations as a wire mark has them.
pub(super) fn figures_of(step_index: u16, step: &Step) -> StepFigures {
    StepFigures {
        step_index,
        op_count: u16::try_from(step.ops.len()).unwrap_or(u16::MAX),
        op_kinds: step.ops.iter().map(Op::bit).fold(0, |all, bit| all | bit),
        ..StepFigures::default()
    }
}
