//! The scenario's clock, its boundaries and the figures between them.

use std::collections::{BTreeMap, BTreeSet};

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

    /// The phase ends; `so_far` is what was done until now, phases before it included. Cgroups that are `present` are in it
    /// also when they got nothing: that is what a share of it is about.
    pub(super) fn close_phase(&mut self, so_far: &Done, present: &BTreeSet<String>) {
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
            .filter(|(cgroup, done)| done.iterations > 0 || present.contains(cgroup))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn done(pairs: &[(&str, u64)]) -> Done {
        let figures = |iterations| PhaseFigures {
            iterations,
            ..PhaseFigures::default()
        };
        let pairs = pairs.iter();
        pairs
            .map(|(name, n)| ((*name).to_owned(), figures(*n)))
            .collect()
    }

    /// A victim that got nothing was missing from the phase, so that its share was not a number.
    #[test]
    fn a_cgroup_that_got_nothing_is_in_its_phase_with_zero() {
        let mut timeline = Timeline::begin();
        timeline.open_phase(1, "", done(&[("gone", 5), ("victim", 0)]));
        let present = BTreeSet::from(["hog".to_owned(), "victim".to_owned()]);
        let after = done(&[("gone", 5), ("hog", 9), ("victim", 0)]);
        timeline.close_phase(&after, &present);
        let [phase] = &timeline.into_phases()[..] else {
            panic!("one phase")
        };
        let expected = [("hog".to_owned(), 9), ("victim".to_owned(), 0)];
        assert_eq!(phase.iterations, BTreeMap::from(expected));
    }
}
