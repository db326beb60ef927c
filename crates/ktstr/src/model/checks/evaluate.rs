//! Judges all reports: per cgroup in the order in which the cgroups first appear, then the whole run.

use super::super::cpuset::CpuSet;
use super::super::report::{LatencySummary, WorkerReport, ns_to_ms, percentile_ns};
use super::super::stats::CgroupStats;
use super::super::verdict::{AssertDetail, AssertResult, DetailKind};
use super::cgroup::{Cgroup, label, sorted_wakes, spread};
use super::gap::{Circumstances, Stall};
use super::{Assert, worker};

/// Holds `reports` against `assert`; the result also carries the stats per cgroup.
///
/// With worker checks asked for but no worker at all, the result is Inconclusive.
pub fn evaluate(assert: &Assert, reports: &[WorkerReport]) -> AssertResult {
    evaluate_in(assert, reports, &[], Circumstances::default())
}

/// As [`evaluate`], with the checks of the cgroups' own (`own[i]` holds for `reports[i]`, above `assert`; what is missing asks for
/// nothing), and with what the machine below did meanwhile: what it explains is Inconclusive, not a failure.
pub fn evaluate_in(
    assert: &Assert,
    reports: &[WorkerReport],
    own: &[Assert],
    circumstances: Circumstances,
) -> AssertResult {
    let mut result = AssertResult::pass();
    if reports.is_empty() && assert.has_worker_checks() {
        result.push(AssertDetail::inconclusive(
            DetailKind::Other,
            "worker checks were asked for, but the scenario started no worker; add a CgroupDef with workers",
        ));
    }
    let own = own
        .iter()
        .copied()
        .chain(std::iter::repeat(Assert::NO_OVERRIDES));
    let judged: Vec<Judged<'_>> = reports.iter().zip(own).collect();
    let stall = Stall::of(reports, circumstances);
    for ((name, own), judged) in grouped(&judged, |(report, own)| (report.cgroup.as_str(), *own)) {
        let members = &reports_of(&judged);
        let cgroup = Cgroup {
            name,
            members,
            stall,
        };
        for detail in worker::check(&assert.merge(own), &cgroup) {
            result.push(detail);
        }
        let pairs = started_together(&judged)
            .iter()
            .any(|(_, equals)| equals.len() > 1);
        for detail in worker::unmeasurable(&own, members, pairs, &label(name)) {
            result.push(detail);
        }
    }
    let started_together = started_together(&judged);
    let pairs = started_together.iter().any(|(_, equals)| equals.len() > 1);
    for ((name, _, own), equals) in started_together {
        let equals = Cgroup {
            name,
            members: &reports_of(&equals),
            stall,
        };
        for detail in worker::check_equals(&assert.merge(own), &equals) {
            result.push(detail);
        }
    }
    if !reports.is_empty() {
        let all = reports_of(&judged);
        for detail in worker::unmeasurable(assert, &all, pairs, "this test") {
            result.push(detail);
        }
    }
    result.stats.cgroups = summarize(reports);
    if stall.is_noteworthy() {
        result.note(format!("{} without interruption", stall.reason()));
    }
    result
}

/// A report, and the checks of its cgroup's own.
type Judged<'a> = (&'a WorkerReport, Assert);

fn reports_of<'a>(judged: &[Judged<'a>]) -> Vec<&'a WorkerReport> {
    judged.iter().map(|(report, _)| *report).collect()
}

/// A cgroup's name, the step that started its workers, and its own checks.
type Start<'a> = (&'a str, u16, Assert);

/// Workers that can be compared: a name that two steps use is two cgroups, with other neighbours.
fn started_together<'a>(judged: &[Judged<'a>]) -> Vec<(Start<'a>, Vec<Judged<'a>>)> {
    grouped(judged, |(report, own)| {
        (report.cgroup.as_str(), report.step, *own)
    })
}

/// Those with the same key, in the order in which the keys first appear.
fn grouped<T: Copy, K: PartialEq>(all: &[T], key_of: impl Fn(&T) -> K) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for one in all {
        let key = key_of(one);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, members)) => members.push(*one),
            None => groups.push((key, vec![*one])),
        }
    }
    groups
}

/// Figures per cgroup, in the order in which the cgroups first appear.
pub fn summarize(reports: &[WorkerReport]) -> Vec<CgroupStats> {
    let reports: Vec<&WorkerReport> = reports.iter().collect();
    grouped(&reports, |report| report.cgroup.as_str())
        .into_iter()
        .map(|(name, members)| summarize_one(name, &members))
        .collect()
}

fn summarize_one(name: &str, members: &[&WorkerReport]) -> CgroupStats {
    let off_cpu: Vec<f64> = members.iter().filter_map(|m| m.off_cpu_pct()).collect();
    let min = off_cpu.iter().copied().reduce(f64::min);
    let max = off_cpu.iter().copied().reduce(f64::max);
    let longest = members
        .iter()
        .map(|m| m.longest_gap)
        .max_by_key(|g| g.wall_ns);
    let wake = sorted_wakes(members);
    let seen = members
        .iter()
        .fold(CpuSet::EMPTY, |all, m| all.union(&m.cpus_seen));
    let run_delay: Option<u64> = members.iter().map(|m| m.run_delay_ns).sum();
    let cpuset = members
        .iter()
        .filter_map(|m| m.cpuset.as_ref())
        .fold(None, |all: Option<CpuSet>, set| {
            Some(all.map_or_else(|| set.clone(), |all| all.union(set)))
        });
    CgroupStats {
        name: name.to_owned(),
        workers: members.len(),
        cpus_seen: seen.to_vec(),
        cpuset: cpuset.map(|set| set.to_vec()),
        iterations: members.iter().map(|m| m.iterations).sum(),
        work_units: members.iter().map(|m| m.work_units).sum(),
        cpu_time_ms: members.iter().map(|m| ns_to_ms(m.cpu_time_ns)).sum(),
        wall_time_ms: ns_to_ms(members.iter().map(|m| m.wall_time_ns).max().unwrap_or(0)),
        spread_pct: spread_of_equals(members),
        min_off_cpu_pct: min,
        max_off_cpu_pct: max,
        max_gap_ms: longest.map_or(0.0, |gap| gap.wall_ms()),
        max_gap_cpu: longest.and_then(|gap| gap.cpu),
        migrations: members.iter().map(|m| m.migrations).sum(),
        wake_p50_ns: percentile_ns(&wake, 50.0),
        wake_p99_ns: percentile_ns(&wake, 99.0),
        wake_count: members.iter().map(|m| m.wake.count).sum(),
        run_delay_ms: run_delay.map(ns_to_ms),
        latencies: worst_latencies(members),
        page_locality: super::pages::locality(members),
    }
}

/// Of each kind of latency, that of the worker with the highest 99th percentile: percentiles do not add up.
fn worst_latencies(members: &[&WorkerReport]) -> Vec<LatencySummary> {
    let mut worst: Vec<LatencySummary> = Vec::new();
    for latency in members.iter().flat_map(|m| &m.latencies) {
        match worst.iter_mut().find(|other| other.name == latency.name) {
            Some(other) if other.p99_ns >= latency.p99_ns => {}
            Some(other) => other.clone_from(latency),
            None => worst.push(latency.clone()),
        }
    }
    worst
}

/// The widest spread among those that started together.
fn spread_of_equals(members: &[&WorkerReport]) -> Option<f64> {
    let mut steps: Vec<u16> = members.iter().map(|m| m.step).collect();
    steps.sort_unstable();
    steps.dedup();
    let of_step = |step: u16| {
        let equals: Vec<&WorkerReport> =
            members.iter().copied().filter(|m| m.step == step).collect();
        spread(&equals)
    };
    steps.into_iter().filter_map(of_step).reduce(f64::max)
}
