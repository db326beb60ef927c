//! The workers of one cgroup, and what several checks say of them.

use super::gap::Stall;
use crate::model::report::WorkerReport;
use crate::model::verdict::{AssertDetail, DetailKind, Outcome};

/// The workers of one cgroup.
pub(super) struct Cgroup<'a> {
    pub(super) name: &'a str,
    pub(super) members: &'a [&'a WorkerReport],
    pub(super) stall: Stall,
}

impl Cgroup<'_> {
    /// A failure that a stall of `excess_ns` explains: Inconclusive where such a one was seen.
    pub(super) fn failure(
        &self,
        kind: DetailKind,
        mut message: String,
        excess_ns: u64,
    ) -> AssertDetail {
        let mut outcome = Outcome::Fail;
        if excess_ns <= self.stall.ns && self.stall.is_noteworthy() {
            outcome = Outcome::Inconclusive;
            message.push_str(", but ");
            message.push_str(&self.stall.reason());
            message.push_str(", which may explain it");
        }
        AssertDetail::new(outcome, kind, message).explained_by_stall_ns(excess_ns)
    }
}

pub(super) fn label(name: &str) -> String {
    if name.is_empty() {
        "no cgroup".to_owned()
    } else {
        format!("cgroup {name}")
    }
}

pub(super) fn ratio_detail(
    kind: DetailKind,
    what: &str,
    ratio: Option<f64>,
    limit: f64,
) -> Option<AssertDetail> {
    match ratio {
        None => Some(AssertDetail::inconclusive(
            kind,
            format!("{what}: not measured (limit {limit:.3})"),
        )),
        Some(ratio) if ratio > limit => Some(AssertDetail::fail(
            kind,
            format!("{what} is {ratio:.3} (limit {limit:.3}, a ratio)"),
        )),
        Some(_) => None,
    }
}

/// Highest less lowest off-CPU share; `None` unless at least two workers have a window.
pub(super) fn spread(members: &[&WorkerReport]) -> Option<f64> {
    let shares: Vec<f64> = members.iter().filter_map(|m| m.off_cpu_pct()).collect();
    if shares.len() < 2 {
        return None;
    }
    let min = shares.iter().copied().reduce(f64::min)?;
    let max = shares.iter().copied().reduce(f64::max)?;
    Some(max - min)
}

/// All members' wake-up latencies, ascending.
pub(super) fn sorted_wakes(members: &[&WorkerReport]) -> Vec<u64> {
    let mut samples: Vec<u64> = members
        .iter()
        .flat_map(|m| m.wake.samples_ns.iter().copied())
        .collect();
    samples.sort_unstable();
    samples
}
