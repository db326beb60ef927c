//! What a test asks of its context when it writes a scenario.

use super::super::ctx::{Ctx, Declared};
use super::super::entry::{Scheduler, find_test};
use super::{CgroupDef, CpusetSpec, HoldSpec};

impl Ctx {
    /// A cgroup of this name without limits, with one spinning worker: [`CgroupDef::named`].
    #[must_use]
    pub fn cgroup_def(&self, name: impl Into<String>) -> CgroupDef {
        CgroupDef::named(name)
    }

    /// How many CPUs of this guest a description names; 0 where `CpusetSpec::validate` finds a fault.
    #[must_use]
    pub fn cpuset_cpus(&self, cpus: &CpusetSpec) -> usize {
        cpus.resolve(self).len()
    }

    /// A hold of the time to settle and then this share (above 0; 1.0 is all) of the test's duration. Like every hold it is cut to
    /// what is left of the duration. A share that is none is refused when the scenario begins.
    #[must_use]
    pub fn settled_hold(&self, frac: f64) -> HoldSpec {
        let share = std::time::Duration::try_from_secs_f64(self.duration().as_secs_f64() * frac);
        match share {
            Ok(share) if frac > 0.0 => HoldSpec::Fixed(self.settle().saturating_add(share)),
            _ => HoldSpec::frac(frac),
        }
    }

    /// Which of the test's schedulers has this name.
    pub(crate) fn declared(&self, name: &str) -> Declared {
        let own = find_test(self.name()).and_then(|entry| entry.scheduler);
        match own.is_some_and(|own| own.name == name) {
            true => Declared::Own,
            false => Declared::Staged(name.to_owned()),
        }
    }

    /// The scheduler that the guest is under now, of those that the test declares: its own, or after `Op::replace_scheduler` or
    /// `Op::attach_scheduler` a staged one. `None` without one, and after `Op::detach_scheduler`.
    #[must_use]
    pub fn current_scheduler(&self) -> Option<&'static Scheduler> {
        let entry = find_test(self.name())?;
        match self.scheduler_now().declared {
            Declared::None => None,
            Declared::Own => entry.scheduler,
            Declared::Staged(name) => {
                let mut staged = entry.staged_schedulers.iter().copied();
                staged.find(|scheduler| scheduler.name == name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cpuset::CpuMap;
    use super::super::super::ctx::{SchedulerNow, TestPlan};
    use super::*;
    use std::time::Duration;

    fn ctx(test: &str) -> Ctx {
        let mut plan = TestPlan::new(test, CpuMap::new(1, 2, 2, 1), Duration::from_secs(10));
        plan.settle_ms = 500;
        plan.has_scheduler = true;
        Ctx::new(plan, None)
    }

    #[test]
    fn a_scenario_is_written_from_the_context() {
        let ctx = ctx("any");
        assert_eq!(ctx.cgroup_def("a"), CgroupDef::named("a"));
        assert_eq!(ctx.cpuset_cpus(&CpusetSpec::llc(1)), 2);
        assert_eq!(ctx.cpuset_cpus(&CpusetSpec::llc(9)), 0);
        assert_eq!(ctx.cpuset_cpus(&CpusetSpec::range(0.0, 1.0)), 3);
    }

    #[test]
    fn a_settled_hold_is_the_settling_and_a_share() {
        let ctx = ctx("any");
        let held = HoldSpec::Fixed(Duration::from_millis(3_000));
        assert_eq!(ctx.settled_hold(0.25), held);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ctx.settled_hold(wrong).validate().is_err(), "{wrong}");
        }
    }

    const OWN: Scheduler = Scheduler::named("own");
    const STAGED: Scheduler = Scheduler::named("staged");

    #[linkme::distributed_slice(super::super::super::entry::KTSTR_TESTS)]
    static ENTRY: &super::super::super::entry::KtstrTestEntry =
        &super::super::super::entry::KtstrTestEntry {
            name: "under_schedulers",
            ignore: true,
            scheduler: Some(&OWN),
            staged_schedulers: &[&STAGED],
            ..super::super::super::entry::KtstrTestEntry::DEFAULT
        };

    #[test]
    fn the_scheduler_is_the_one_that_operations_left() {
        let ctx = ctx("under_schedulers");
        let now = |declared| {
            ctx.set_scheduler(SchedulerNow {
                declared,
                ..SchedulerNow::default()
            });
            ctx.current_scheduler().map(|scheduler| scheduler.name)
        };
        assert_eq!(ctx.current_scheduler(), Some(&OWN));
        assert_eq!(now(Declared::Staged("staged".into())), Some("staged"));
        assert_eq!(now(Declared::Staged("other".into())), None);
        assert_eq!(now(Declared::None), None);
        assert_eq!(now(Declared::Own), Some("own"));
    }
}
