//! The scenario's clock, its boundaries and the figures between them.

use std::collections::BTreeMap;

use crate::guest::sys::monotonic_ns;
use crate::guest::worker::Tally;
use crate::model::scenario::{Op, Step};
use crate::model::stats::{PhaseBucket, PhaseCgroupStats};
use crate::model::transport::StepFigures;

/// One worker of a scenario: the number of its group, and its own in that.
pub(super) type WorkerId = (u32, usize);

/// What each worker did up to some moment, also those that are gone.
pub(super) type Done = BTreeMap<WorkerId, Standing>;

/// One worker at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Where it is, or was last.
    pub(super) cgroup: String,
    pub(super) lives: bool,
    pub(super) tally: Tally,
}

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
    pub(super) fn open_phase(&mut self, step_index: u16, name: Option<&str>, so_far: Done) {
        let phase = PhaseBucket {
            step_index,
            name: name.map_or_else(|| format!("step {step_index}"), str::to_owned),
            start_ms: self.elapsed_ms(),
            ..PhaseBucket::default()
        };
        self.open = Some((phase, so_far));
    }

    /// The phase ends; `so_far` is what was done until now, phases before it included. A cgroup whose workers got nothing is in it,
    /// too: that is what a share of it is about.
    pub(super) fn close_phase(&mut self, so_far: &Done) {
        let end_ms = self.elapsed_ms();
        let Some((mut phase, before)) = self.open.take() else {
            return;
        };
        phase.end_ms = end_ms;
        let length_ns = phase.duration_ms().saturating_mul(1_000_000);
        for (id, now) in so_far {
            let earlier = before.get(id);
            // Gone before the phase began: of no part in it.
            if earlier.is_some_and(|earlier| !earlier.lives) {
                continue;
            }
            let done = now
                .tally
                .since(earlier.map_or_else(Tally::default, |then| then.tally));
            let stats = phase.cgroups.entry(now.cgroup.clone()).or_default();
            add(stats, done);
            if earlier.is_some() && now.lives && length_ns > 0 {
                let on_cpu = done.cpu_ns as f64 / length_ns as f64;
                let off_pct = (1.0 - on_cpu).clamp(0.0, 1.0) * 100.0;
                stats.off_cpu_pcts.push(off_pct);
            }
        }
        let iterations = phase.cgroups.iter();
        phase.iterations = iterations
            .map(|(cgroup, done)| (cgroup.clone(), done.total_iterations))
            .collect();
        self.closed.push(phase);
    }

    pub(super) fn into_phases(self) -> Vec<PhaseBucket> {
        self.closed
    }
}

/// Counts one more worker.
fn add(stats: &mut PhaseCgroupStats, done: Tally) {
    let sum = u64::saturating_add;
    stats.num_workers += 1;
    stats.total_iterations = sum(stats.total_iterations, done.iterations);
    stats.work_units = sum(stats.work_units, done.work_units);
    stats.total_cpu_time_ns = sum(stats.total_cpu_time_ns, done.cpu_ns);
    stats.total_migrations = sum(stats.total_migrations, done.migrations);
    stats.wake_sample_total = sum(stats.wake_sample_total, done.wakes);
    stats.run_delays_ns.extend(done.delay_ns);
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

    fn standing(cgroup: &str, lives: bool, iterations: u64, delay_ns: Option<u64>) -> Standing {
        Standing {
            cgroup: cgroup.to_owned(),
            lives,
            tally: Tally {
                iterations,
                delay_ns,
                ..Tally::default()
            },
        }
    }

    fn only_phase(before: Done, after: &Done) -> PhaseBucket {
        let mut timeline = Timeline::begin();
        timeline.open_phase(1, None, before);
        timeline.close_phase(after);
        timeline.into_phases().remove(0)
    }

    /// A victim that got nothing was missing from the phase, so that its share was not a number.
    #[test]
    fn a_cgroup_that_got_nothing_is_in_its_phase_with_zero() {
        let before = Done::from([
            ((0, 0), standing("gone", false, 5, Some(1))),
            ((1, 0), standing("victim", true, 0, Some(10))),
        ]);
        let after = Done::from([
            ((0, 0), standing("gone", false, 5, Some(1))),
            ((1, 0), standing("victim", true, 0, Some(70))),
            ((2, 0), standing("hog", true, 9, Some(3))),
        ]);
        let phase = only_phase(before, &after);
        let expected = [("hog".to_owned(), 9), ("victim".to_owned(), 0)];
        assert_eq!(phase.iterations, BTreeMap::from(expected));
        assert_eq!(phase.cgroups["victim"].run_delays_ns, [60]);
        assert_eq!(phase.cgroups["hog"].run_delays_ns, [3]);
    }

    #[test]
    fn workers_that_come_and_go_count_with_what_they_did_in_it() {
        let before = Done::from([((0, 0), standing("a", true, 100, Some(50)))]);
        let after = Done::from([
            ((0, 0), standing("a", false, 103, Some(58))),
            ((1, 0), standing("a", false, 4, None)),
            ((1, 1), standing("a", true, 2, Some(7))),
        ]);
        let stats = &only_phase(before, &after).cgroups["a"];
        assert_eq!((stats.num_workers, stats.total_iterations), (3, 9));
        assert_eq!(stats.run_delays_ns, [8, 7]);
        assert!(stats.off_cpu_pcts.is_empty(), "none was there all the time");
    }
}
