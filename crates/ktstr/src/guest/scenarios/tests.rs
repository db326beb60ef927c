//! All canned scenarios with real workers, over a plain directory in the place of cgroups.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::guest::cgroup::CgroupManager;
use crate::guest::scenario::run_in;
use crate::model::checks::Assert;
use crate::model::ctx::TestPlan;

fn all() -> impl Iterator<Item = &'static Canned> {
    ALL.into_iter().flatten()
}

/// Each runs on two CPUs and ends without a finding.
#[test]
fn each_runs() {
    let map = CpuMap::new(1, 2, 1, 1);
    for canned in all() {
        let ctx = Ctx::new(
            TestPlan::new(canned.name, map, Duration::from_millis(300)),
            None,
        );
        let dir = tempfile::tempdir().unwrap();
        let Plan { backdrop, steps } = canned.plan(&map);
        let cgroups = CgroupManager::plain(dir.path());
        let result = run_in(&ctx, cgroups, &backdrop, &steps, &Assert::NO_OVERRIDES);
        let name = format!("{}::{}", canned.family, canned.name);
        assert!(result.is_pass(), "{name}: {result:#?}");
        assert!(result.stats.total_iterations() > 0, "{name}: {result:#?}");
        assert_eq!(result.stats.phases.len(), steps.len(), "{name}");
    }
}

#[test]
fn names_are_unique_and_cpus_are_asked_for() {
    let names: BTreeSet<_> = all().map(|canned| (canned.family, canned.name)).collect();
    assert_eq!(names.len(), all().count());
    let one = CpuMap::new(1, 1, 1, 1);
    let ctx = Ctx::new(TestPlan::new("t", one, Duration::from_millis(10)), None);
    for canned in all() {
        let Plan { backdrop, steps } = canned.plan(&one);
        let defs = backdrop.cgroups.into_iter();
        let defs = defs.chain(steps.iter().flat_map(|step| step.setup.defs(&ctx)));
        let mut specs = defs.filter_map(|def| def.cpuset);
        let fits = specs.all(|spec| spec.resolve_on(&one).is_ok());
        assert!(fits || canned.min_cpus > 1, "{} on one CPU", canned.name);
    }
}

#[test]
fn too_few_cpus_are_a_skip_that_says_so() {
    let one = CpuMap::new(1, 1, 1, 1);
    let ctx = Ctx::new(TestPlan::new("t", one, Duration::from_millis(10)), None);
    let result = cpuset::swap(&ctx).unwrap();
    assert!(result.is_skip(), "{result:?}");
    assert!(
        result.details[0]
            .message
            .contains("cpuset::swap needs 2 CPUs, the guest has 1"),
        "{result:?}"
    );
}
