//! NUMA: where the workers' pages lay when their windows closed.

use super::super::report::{PagePlacement, WorkerReport};
use super::super::verdict::{AssertDetail, DetailKind};
use super::Assert;
use super::cgroup::{Cgroup, label, ratio_detail};

/// The three checks of pages; what was not counted is Inconclusive.
pub(super) fn check(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    let name = label(cgroup.name);
    let mut found = Vec::new();
    if let Some(limit) = assert.min_page_locality {
        found.extend(locality_detail(&name, locality(cgroup.members), limit));
    }
    if let Some(limit) = assert.max_cross_node_migration_ratio {
        found.extend(migration_detail(&name, cgroup.members, limit));
    }
    if let Some(limit) = assert.max_slow_tier_ratio {
        let what = format!("share of {name}'s pages on nodes without CPUs");
        let ratio = share(cgroup.members, |pages| pages.on(&pages.slow_nodes));
        found.extend(ratio_detail(DetailKind::SlowTier, &what, ratio, limit));
    }
    found
}

fn locality_detail(name: &str, locality: Option<f64>, limit: f64) -> Option<AssertDetail> {
    let kind = DetailKind::PageLocality;
    let Some(locality) = locality else {
        let message =
            format!("page locality of {name}: no page was counted (at least {limit:.3} asked)");
        return Some(AssertDetail::inconclusive(kind, message));
    };
    (locality < limit).then(|| {
        let message = format!(
            "{:.1} % of {name}'s pages are on its own nodes (at least {:.1} % asked)",
            locality * 100.0,
            limit * 100.0
        );
        AssertDetail::fail(kind, message)
    })
}

/// Share of all members' pages on their own nodes; `None` when none was counted.
pub(super) fn locality(members: &[&WorkerReport]) -> Option<f64> {
    share(members, |pages| pages.on(&pages.own_nodes))
}

fn counted<'m>(members: &'m [&WorkerReport]) -> impl Iterator<Item = &'m PagePlacement> {
    members.iter().filter_map(|m| m.pages.as_ref())
}

fn share(members: &[&WorkerReport], part: impl Fn(&PagePlacement) -> u64) -> Option<f64> {
    let total: u64 = counted(members).map(PagePlacement::total).sum();
    let part: u64 = counted(members).map(part).sum();
    (total > 0).then(|| part as f64 / total as f64)
}

/// The kernel counts migrations for all processes together, so each member saw the same: the highest stands.
fn migration_detail(name: &str, members: &[&WorkerReport], limit: f64) -> Option<AssertDetail> {
    let kind = DetailKind::CrossNodeMigration;
    let what = format!("pages migrated between nodes per page of {name}");
    let total: u64 = counted(members).map(PagePlacement::total).sum();
    let migrated = counted(members).filter_map(|pages| pages.migrated).max();
    if total > 0 && migrated.is_none() {
        let message = format!(
            "{what}: the kernel did not count them, for its NUMA balancing is off (limit {limit:.3}); turn it on with the \
             sysctl kernel.numa_balancing"
        );
        return Some(AssertDetail::inconclusive(kind, message));
    }
    let ratio = migrated
        .filter(|_| total > 0)
        .map(|migrated| migrated as f64 / total as f64);
    ratio_detail(kind, &what, ratio, limit)
}
