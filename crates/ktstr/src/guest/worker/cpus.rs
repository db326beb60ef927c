//! On which CPUs workers are seen, and whether these are allowed at that moment.
//!
//! A worker notes the CPUs that it runs on; the parent takes the notes away at each change of what is allowed, and holds them
//! against what was allowed until then. After a change the kernel has [`GRACE`] to move the tasks: until then both sets hold.

use crate::model::cpuset::CpuSet;

/// How long after a change of its cpuset a task may still be seen on the old CPUs.
pub(super) const GRACE_NS: u64 = 250_000_000;

/// What is allowed beside the present set, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grace {
    /// `None`: every CPU.
    also: Option<CpuSet>,
    until_ns: u64,
}

/// The CPUs of one group's workers.
#[derive(Debug, Default)]
pub(super) struct CpuWatch {
    /// `None`: every CPU.
    allowed: Option<CpuSet>,
    grace: Option<Grace>,
    /// What held when a change began that is not done yet; meanwhile every CPU is allowed.
    changing: Option<Option<CpuSet>>,
    workers: Vec<Seen>,
}

/// What one worker has been seen on.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) all: CpuSet,
    pub(super) outside: CpuSet,
}

impl CpuWatch {
    pub(super) fn new(allowed: Option<CpuSet>, workers: usize) -> Self {
        Self {
            allowed,
            grace: None,
            changing: None,
            workers: vec![Seen::default(); workers],
        }
    }

    pub(super) fn allowed(&self) -> Option<&CpuSet> {
        self.allowed.as_ref()
    }

    pub(super) fn of(&self, index: usize) -> Seen {
        self.workers.get(index).cloned().unwrap_or_default()
    }

    /// When the present grace is over.
    pub(super) fn settles_at(&self) -> Option<u64> {
        self.grace.as_ref().map(|grace| grace.until_ns)
    }

    /// Judges what workers were seen on since the last time: `seen` in their order.
    pub(super) fn judge(&mut self, seen: impl Iterator<Item = CpuSet>) {
        let allowed = self.holding();
        for (worker, seen) in self.workers.iter_mut().zip(seen) {
            if let Some(allowed) = &allowed {
                worker.outside = worker.outside.union(&seen.difference(allowed));
            }
            worker.all = worker.all.union(&seen);
        }
    }

    /// Both sets within the grace; `None`: every CPU.
    fn holding(&self) -> Option<CpuSet> {
        let allowed = self.allowed.as_ref().filter(|_| self.changing.is_none())?;
        match &self.grace {
            None => Some(allowed.clone()),
            Some(grace) => Some(allowed.union(grace.also.as_ref()?)),
        }
    }

    /// The kernel is about to be told of other CPUs, and moves tasks before it answers. The caller has judged what was seen
    /// before.
    pub(super) fn begin_change(&mut self) {
        if self.changing.is_none() {
            self.changing = Some(self.holding());
        }
    }

    /// From now on these are allowed, and those of before for the grace. The caller has judged what was seen before.
    pub(super) fn allow(&mut self, cpus: Option<CpuSet>, now_ns: u64) {
        let before = self.changing.take();
        self.grace = Some(Grace {
            also: before.unwrap_or_else(|| self.holding()),
            until_ns: now_ns.saturating_add(GRACE_NS),
        });
        self.allowed = cpus;
    }

    /// Whether some CPUs are not allowed.
    pub(super) fn is_confined(&self) -> bool {
        self.allowed.is_some()
    }

    /// The kernel says now that these are allowed, without a change of ours: a CPU went off or on, or a neighbour became a
    /// partition. The moment is unknown, so both hold.
    pub(super) fn widen(&mut self, cpus: &CpuSet) {
        self.allowed = self.allowed.as_ref().map(|allowed| allowed.union(cpus));
    }

    /// Ends the grace, once it is over. The caller has judged what was seen before.
    pub(super) fn settle(&mut self) {
        self.grace = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<const N: usize>(cpus: [u32; N]) -> CpuSet {
        CpuSet::from(cpus)
    }

    fn saw(watch: &mut CpuWatch, cpus: CpuSet) -> CpuSet {
        watch.judge(std::iter::once(cpus));
        watch.of(0).outside
    }

    /// Old and new sets were allowed to the end, so that nothing failed after a move.
    #[test]
    fn the_old_set_is_allowed_for_the_grace_alone() {
        let mut watch = CpuWatch::new(Some(set([0, 1])), 1);
        assert_eq!(saw(&mut watch, set([0])), CpuSet::EMPTY);
        watch.allow(Some(set([2, 3])), 1_000);
        assert_eq!(watch.settles_at(), Some(1_000 + GRACE_NS));
        assert_eq!(saw(&mut watch, set([1, 2])), CpuSet::EMPTY);
        watch.settle();
        assert_eq!(saw(&mut watch, set([1, 2])), set([1]));
        assert_eq!(watch.of(0).all, set([0, 1, 2]));
    }

    #[test]
    fn what_was_forbidden_before_a_change_stays_a_finding() {
        let mut watch = CpuWatch::new(Some(set([0])), 1);
        saw(&mut watch, set([3]));
        watch.allow(Some(set([3])), 0);
        watch.settle();
        assert_eq!(saw(&mut watch, set([3])), set([3]));
    }

    /// The kernel moves the tasks within the write of the cpuset: they were on the new CPUs before this process could know.
    #[test]
    fn a_task_that_the_kernel_moves_at_once_is_no_stray() {
        let mut watch = CpuWatch::new(Some(set([0])), 1);
        saw(&mut watch, set([0]));
        watch.begin_change();
        assert_eq!(saw(&mut watch, set([0, 1])), CpuSet::EMPTY);
        watch.allow(Some(set([1])), 0);
        assert_eq!(saw(&mut watch, set([0, 1])), CpuSet::EMPTY);
        assert_eq!(saw(&mut watch, set([2])), set([2]));
        watch.settle();
        assert_eq!(saw(&mut watch, set([0])), set([0, 2]));
    }

    #[test]
    fn two_changes_within_one_grace_allow_all_three() {
        let mut watch = CpuWatch::new(Some(set([0])), 1);
        watch.allow(Some(set([1])), 0);
        watch.allow(Some(set([2])), 1);
        assert_eq!(saw(&mut watch, set([0, 1, 2])), CpuSet::EMPTY);
        assert_eq!(saw(&mut watch, set([3])), set([3]));
    }

    #[test]
    fn without_a_cpuset_everything_is_allowed_until_it_gets_one() {
        let mut watch = CpuWatch::new(None, 1);
        assert_eq!(saw(&mut watch, set([7])), CpuSet::EMPTY);
        watch.allow(Some(set([0])), 0);
        assert_eq!(saw(&mut watch, set([7])), CpuSet::EMPTY);
        watch.settle();
        assert_eq!(saw(&mut watch, set([7])), set([7]));
    }

    #[test]
    fn what_the_kernel_widened_by_itself_is_allowed() {
        let mut watch = CpuWatch::new(Some(set([3])), 1);
        watch.widen(&set([0, 1, 2]));
        assert_eq!(saw(&mut watch, set([1, 3])), CpuSet::EMPTY);
    }
}
