//! The checks of one cgroup's workers; each yields details with the measured value, the limit and the unit.

use super::super::report::{WorkerReport, percentile_ns};
use super::super::verdict::{AssertDetail, DetailKind, Outcome};
use super::evaluate::{sorted_wakes, spread};
use super::{Assert, gap};

/// The workers of one cgroup.
pub(super) struct Cgroup<'a> {
    pub(super) name: &'a str,
    pub(super) members: &'a [&'a WorkerReport],
    pub(super) host_stall_ns: u64,
}

/// All checks that `assert` asks for.
pub(super) fn check(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    let mut found = Vec::new();
    if assert.asks_not_stuck() {
        found.extend(starved(cgroup));
    }
    if let Some(limit_ms) = assert.effective_gap_ms() {
        found.extend(gaps(cgroup, limit_ms));
    }
    if let Some(limit) = assert.effective_spread_pct() {
        let asked = assert.max_spread_pct.is_some();
        found.extend(unfair(cgroup, limit, asked));
    }
    if assert.asks_isolation() {
        found.extend(isolation(cgroup));
    }
    found.extend(rates(assert, cgroup));
    found.extend(throughput_cv(assert, cgroup));
    found.extend(migrations(assert, cgroup));
    found.extend(wake_latency(assert, cgroup));
    found.extend(unmeasured(assert, cgroup));
    found
}

fn who(cgroup: &Cgroup<'_>, report: &WorkerReport) -> String {
    format!(
        "worker {} ({} in {})",
        report.pid,
        report.work_type,
        label(cgroup.name)
    )
}

fn label(name: &str) -> String {
    if name.is_empty() {
        "no cgroup".to_owned()
    } else {
        format!("cgroup {name}")
    }
}

fn starved(cgroup: &Cgroup<'_>) -> impl Iterator<Item = AssertDetail> {
    cgroup
        .members
        .iter()
        .filter(|m| m.work_units == 0)
        .map(|m| {
            let window_ms = m.wall_time_ns / 1_000_000;
            if m.wall_time_ns == 0 {
                return AssertDetail::inconclusive(
                    DetailKind::Starved,
                    format!(
                        "{} has an empty window, so its progress is unknown",
                        who(cgroup, m)
                    ),
                );
            }
            AssertDetail::fail(
                DetailKind::Starved,
                format!("{} did 0 work units in {window_ms} ms", who(cgroup, m)),
            )
        })
}

fn gaps(cgroup: &Cgroup<'_>, limit_ms: u64) -> impl Iterator<Item = AssertDetail> {
    cgroup.members.iter().filter_map(move |m| {
        let gap = m.longest_gap;
        let (outcome, why) = gap::judge(&gap, limit_ms, cgroup.host_stall_ns)?;
        let mut message = format!(
            "{} made no progress for {:.0} ms {} (limit {limit_ms} ms)",
            who(cgroup, m),
            gap.wall_ms(),
            gap::place(&gap),
        );
        if !why.is_empty() {
            message.push_str(", ");
            message.push_str(&why);
        }
        Some(AssertDetail::new(outcome, DetailKind::Stuck, message))
    })
}

/// Fairness is a promise among equals: workers that want a CPU all the time, all of one work type.
fn unfair(cgroup: &Cgroup<'_>, limit: f64, asked: bool) -> Option<AssertDetail> {
    let equals = cgroup
        .members
        .iter()
        .all(|m| m.cpu_bound && m.work_type == cgroup.members[0].work_type);
    if !asked && (!equals || cgroup.members.len() < 2) {
        return None;
    }
    let Some(spread_pct) = spread(cgroup.members) else {
        return Some(AssertDetail::inconclusive(
            DetailKind::Unfair,
            format!(
                "spread of {}: needs two workers with a window, found {}",
                label(cgroup.name),
                cgroup.members.iter().filter(|m| m.wall_time_ns > 0).count()
            ),
        ));
    };
    if spread_pct <= limit {
        return None;
    }
    let shares = cgroup.members.iter().filter_map(|m| m.off_cpu_pct());
    let (low, high) = shares.fold((f64::MAX, f64::MIN), |(low, high), share| {
        (low.min(share), high.max(share))
    });
    let mut message = format!(
        "{}: off-CPU shares of {} workers spread over {spread_pct:.1} percentage points, \
         {low:.1} % to {high:.1} % (limit {limit:.1})",
        label(cgroup.name),
        cgroup.members.len(),
    );
    let mut outcome = Outcome::Fail;
    let stolen_pct = stall_share_pct(cgroup);
    if spread_pct - stolen_pct <= limit {
        outcome = Outcome::Inconclusive;
        message.push_str(&format!(
            ", but the host stopped a vCPU for up to {stolen_pct:.1} % of the window"
        ));
    }
    Some(AssertDetail::new(outcome, DetailKind::Unfair, message))
}

/// The longest stall by the host as a share of the shortest window; 0 when it is too short to speak of.
fn stall_share_pct(cgroup: &Cgroup<'_>) -> f64 {
    let windows = cgroup.members.iter().map(|m| m.wall_time_ns);
    let shortest_ns = windows.filter(|ns| *ns > 0).min().unwrap_or(u64::MAX);
    if cgroup.host_stall_ns < gap::NOTEWORTHY_STALL_NS {
        return 0.0;
    }
    cgroup.host_stall_ns as f64 * 100.0 / shortest_ns as f64
}

fn isolation(cgroup: &Cgroup<'_>) -> impl Iterator<Item = AssertDetail> {
    cgroup.members.iter().filter_map(|m| {
        let allowed = m.cpuset.as_ref()?;
        if m.cpus_seen.is_empty() {
            return Some(AssertDetail::inconclusive(
                DetailKind::Isolation,
                format!(
                    "{} was seen on no CPU, so its isolation is unknown",
                    who(cgroup, m)
                ),
            ));
        }
        let outside = m.cpus_seen.difference(allowed);
        (!outside.is_empty()).then(|| {
            AssertDetail::fail(
                DetailKind::Isolation,
                format!(
                    "{} ran on cpus {outside} outside its cpuset {allowed}",
                    who(cgroup, m)
                ),
            )
        })
    })
}

fn rates(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    let mut found = Vec::new();
    for m in cgroup.members {
        let asked = [
            (assert.min_work_rate, m.work_rate(), "work units"),
            (assert.min_iteration_rate, m.iteration_rate(), "iterations"),
        ];
        for (limit, rate, unit) in asked {
            let Some(limit) = limit else { continue };
            found.extend(rate_detail(&who(cgroup, m), limit, rate, unit));
        }
    }
    found
}

fn rate_detail(who: &str, limit: f64, rate: Option<f64>, unit: &str) -> Option<AssertDetail> {
    let Some(rate) = rate else {
        let message = format!("{who} has an empty window, so its {unit} per second are unknown");
        return Some(AssertDetail::inconclusive(DetailKind::Benchmark, message));
    };
    (rate < limit).then(|| {
        let message = format!("{who} did {rate:.1} {unit}/s (at least {limit:.1} {unit}/s asked)");
        AssertDetail::fail(DetailKind::Benchmark, message)
    })
}

fn throughput_cv(assert: &Assert, cgroup: &Cgroup<'_>) -> Option<AssertDetail> {
    let limit = assert.max_throughput_cv?;
    let rates: Vec<f64> = cgroup
        .members
        .iter()
        .filter_map(|m| m.work_rate())
        .collect();
    let what = format!("variation of work rates in {}", label(cgroup.name));
    ratio_detail(DetailKind::Unfair, &what, variation(&rates), limit)
}

fn migrations(assert: &Assert, cgroup: &Cgroup<'_>) -> Option<AssertDetail> {
    let limit = assert.max_migration_ratio?;
    let moved: u64 = cgroup.members.iter().map(|m| m.migrations).sum();
    let iterations: u64 = cgroup.members.iter().map(|m| m.iterations).sum();
    let ratio = (iterations > 0).then(|| moved as f64 / iterations as f64);
    let what = format!("migrations per iteration in {}", label(cgroup.name));
    ratio_detail(DetailKind::Migration, &what, ratio, limit)
}

fn wake_latency(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    if assert.max_p99_wake_latency_ns.is_none() && assert.max_wake_latency_cv.is_none() {
        return Vec::new();
    }
    let wakes = sorted_wakes(cgroup.members);
    let mut found = Vec::new();
    if let Some(limit) = assert.max_p99_wake_latency_ns {
        found.extend(p99_detail(cgroup, percentile_ns(&wakes, 99.0), limit));
    }
    if let Some(limit) = assert.max_wake_latency_cv {
        let values: Vec<f64> = wakes.iter().map(|ns| *ns as f64).collect();
        let what = format!("variation of wake latencies in {}", label(cgroup.name));
        found.extend(ratio_detail(
            DetailKind::Benchmark,
            &what,
            variation(&values),
            limit,
        ));
    }
    found
}

fn p99_detail(cgroup: &Cgroup<'_>, p99: Option<u64>, limit: u64) -> Option<AssertDetail> {
    let name = label(cgroup.name);
    let Some(p99) = p99 else {
        let message = format!("p99 wake latency of {name}: no wake-up was measured");
        return Some(AssertDetail::inconclusive(DetailKind::Benchmark, message));
    };
    if p99 <= limit {
        return None;
    }
    let (outcome, why) = if p99.saturating_sub(cgroup.host_stall_ns) <= limit
        && cgroup.host_stall_ns >= gap::NOTEWORTHY_STALL_NS
    {
        (
            Outcome::Inconclusive,
            ", but the host stopped a vCPU for longer",
        )
    } else {
        (Outcome::Fail, "")
    };
    let message = format!("p99 wake latency of {name} is {p99} ns (limit {limit} ns){why}");
    Some(AssertDetail::new(outcome, DetailKind::Benchmark, message))
}

/// NUMA checks need page counts, which no work type delivers yet: asking is Inconclusive, not a silent pass.
fn unmeasured(assert: &Assert, cgroup: &Cgroup<'_>) -> impl Iterator<Item = AssertDetail> {
    let name = label(cgroup.name);
    [
        (
            assert.min_page_locality,
            DetailKind::PageLocality,
            "min_page_locality",
        ),
        (
            assert.max_cross_node_migration_ratio,
            DetailKind::CrossNodeMigration,
            "max_cross_node_migration_ratio",
        ),
        (
            assert.max_slow_tier_ratio,
            DetailKind::SlowTier,
            "max_slow_tier_ratio",
        ),
    ]
    .into_iter()
    .filter_map(move |(limit, kind, check)| {
        limit.map(|_| {
            AssertDetail::inconclusive(kind, format!("{check} of {name}: no page was counted"))
        })
    })
}

fn ratio_detail(
    kind: DetailKind,
    what: &str,
    ratio: Option<f64>,
    limit: f64,
) -> Option<AssertDetail> {
    match ratio {
        None => Some(AssertDetail::inconclusive(
            kind,
            format!("{what}: nothing to divide by (limit {limit:.3})"),
        )),
        Some(ratio) if ratio > limit => Some(AssertDetail::fail(
            kind,
            format!("{what} is {ratio:.3} (limit {limit:.3}, a ratio)"),
        )),
        Some(_) => None,
    }
}

/// Standard deviation over mean; `None` below two values or with a mean of zero.
fn variation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if mean == 0.0 {
        return None;
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    Some(variance.sqrt() / mean)
}
