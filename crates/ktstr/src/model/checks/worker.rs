//! The checks of one cgroup's workers; each yields details with the measured value, the limit and the unit.

use std::time::Duration;

use super::super::report::{WorkerReport, percentile_ns};
use super::super::verdict::{AssertDetail, DetailKind};
use super::cgroup::{Cgroup, label, ratio_detail, sorted_wakes, spread};
use super::{Assert, gap, pages};

/// What is asked for and what none of these workers can show: a check concerns the workers that can. `pairs`: two of them started
/// together in one cgroup. `whose` workers they are: of "this test", or of a cgroup.
pub(super) fn unmeasurable(
    assert: &Assert,
    reports: &[&WorkerReport],
    pairs: bool,
    whose: &str,
) -> Vec<AssertDetail> {
    let no_wakes = !reports.iter().any(|report| has_wakes(report));
    let wakes = &format!(
        "no worker of {whose} waits for wake-ups; give one a work type that sleeps, such as WorkType::bursty"
    );
    let alone = &format!("no two workers of {whose} started together in one cgroup");
    let asked = [
        (
            assert.max_p99_wake_latency_ns.is_some() && no_wakes,
            "max_p99_wake_latency_ns",
            DetailKind::Benchmark,
            wakes,
        ),
        (
            assert.max_wake_latency_cv.is_some() && no_wakes,
            "max_wake_latency_cv",
            DetailKind::Benchmark,
            wakes,
        ),
        (
            assert.max_throughput_cv.is_some() && !pairs,
            "max_throughput_cv",
            DetailKind::Unfair,
            alone,
        ),
        (
            assert.max_throughput_cv_wall.is_some() && !pairs,
            "max_throughput_cv_wall",
            DetailKind::Unfair,
            alone,
        ),
        (
            assert.max_spread_pct.is_some() && !pairs,
            "max_spread_pct",
            DetailKind::Unfair,
            alone,
        ),
    ];
    let missing = asked.into_iter().filter(|(missing, ..)| *missing);
    missing
        .map(|(_, check, kind, why)| AssertDetail::inconclusive(kind, format!("{check}: {why}")))
        .collect()
}

fn has_wakes(report: &WorkerReport) -> bool {
    report.has_wakes || report.wake.count > 0
}

/// Checks of workers that can be compared: of one cgroup, started together.
pub(super) fn check_equals(assert: &Assert, equals: &Cgroup<'_>) -> Vec<AssertDetail> {
    let mut found = Vec::new();
    if equals.members.len() < 2 {
        return found;
    }
    if let Some(limit) = assert.effective_spread_pct() {
        let asked = assert.max_spread_pct.is_some();
        found.extend(unfair(equals, limit, asked));
    }
    found.extend(throughput_cv(assert, equals));
    found
}

/// All other checks that `assert` asks for.
pub(super) fn check(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    let mut found = Vec::new();
    if assert.asks_not_stuck() {
        found.extend(starved(cgroup));
    }
    if let Some(limit_ms) = assert.effective_gap_ms() {
        found.extend(gaps(cgroup, limit_ms));
    }
    if assert.asks_isolation() {
        found.extend(isolation(cgroup));
    }
    found.extend(rates(assert, cgroup));
    found.extend(migrations(assert, cgroup));
    found.extend(wake_latency(assert, cgroup));
    found.extend(pages::check(assert, cgroup));
    found
}

fn who(cgroup: &Cgroup<'_>, report: &WorkerReport) -> String {
    format!(
        "worker {} ({} in {})",
        report.tid,
        report.work_type,
        label(cgroup.name)
    )
}

fn starved(cgroup: &Cgroup<'_>) -> impl Iterator<Item = AssertDetail> {
    let idle = cgroup.members.iter().filter(|m| m.work_units == 0);
    idle.map(|m| {
        if m.wall_time_ns == 0 {
            return AssertDetail::inconclusive(
                DetailKind::Starved,
                format!(
                    "{} has an empty window, so its progress is unknown",
                    who(cgroup, m)
                ),
            );
        }
        let window_ms = m.wall_time_ns / 1_000_000;
        let message = format!(
            "{} did 0 work units in {window_ms} ms{}",
            who(cgroup, m),
            throttled(m)
        );
        cgroup.failure(DetailKind::Starved, message, m.wall_time_ns)
    })
}

fn gaps(cgroup: &Cgroup<'_>, limit_ms: u64) -> impl Iterator<Item = AssertDetail> {
    cgroup.members.iter().filter_map(move |m| {
        let gap = m.longest_gap;
        let (outcome, why, excess_ns) = gap::judge(&gap, limit_ms, &cgroup.stall)?;
        let mut message = format!(
            "{} made no progress for {:.0} ms {} (limit {limit_ms} ms){}",
            who(cgroup, m),
            gap.wall_ms(),
            gap::place(&gap),
            throttled(m),
        );
        if !why.is_empty() {
            message.push_str(", ");
            message.push_str(&why);
        }
        let detail = AssertDetail::new(outcome, DetailKind::Stuck, message);
        Some(detail.explained_by_stall_ns(excess_ns))
    })
}

/// A limit that the test itself has set may be why, and no scheduler's doing.
fn throttled(report: &WorkerReport) -> String {
    report.throttled.map_or_else(String::new, |throttled| {
        format!(
            "; its cgroup was throttled by cpu.max in {} periods, for {} ms in all (cpu.stat)",
            throttled.periods,
            throttled.time_us / 1_000
        )
    })
}

/// Fairness is a promise among equals: workers that want a CPU all the time, all of one work type.
fn unfair(cgroup: &Cgroup<'_>, limit: f64, asked: bool) -> Option<AssertDetail> {
    let equals = cgroup
        .members
        .iter()
        .all(|m| m.cpu_bound && m.work_type == cgroup.members[0].work_type);
    if !asked && !equals {
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
    let message = format!(
        "{}: off-CPU shares of {} workers spread over {spread_pct:.1} percentage points, \
         {low:.1} % to {high:.1} % (limit {limit:.1})",
        label(cgroup.name),
        cgroup.members.len(),
    );
    let windows = cgroup.members.iter().map(|m| m.wall_time_ns);
    let shortest_ns = windows.filter(|ns| *ns > 0).min().unwrap_or(0);
    let excess_ns = share_ns(shortest_ns, (spread_pct - limit) / 100.0);
    Some(cgroup.failure(DetailKind::Unfair, message, excess_ns))
}

/// A share (0 to 1) of a time, rounded up.
fn share_ns(time_ns: u64, share: f64) -> u64 {
    let share = if share.is_finite() { share } else { 1.0 };
    let part = Duration::from_nanos(time_ns).mul_f64(share.clamp(0.0, 1.0));
    u64::try_from(part.as_nanos())
        .unwrap_or(u64::MAX)
        .saturating_add(1)
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
        let outside = &m.cpus_outside;
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

/// What a rate is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// The worker's own CPU time: what it does with the CPU that it gets.
    Cpu,
    /// The wall clock: also whether it gets the CPU.
    Wall,
}

impl Clock {
    fn of(self, member: &WorkerReport) -> u64 {
        match self {
            Self::Cpu => member.cpu_time_ns,
            Self::Wall => member.wall_time_ns,
        }
    }

    fn rate(self, member: &WorkerReport, done: u64) -> Option<f64> {
        let ns = self.of(member);
        (ns > 0 && member.wall_time_ns > 0).then(|| done as f64 * 1e9 / ns as f64)
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "CPU-s",
            Self::Wall => "s",
        }
    }
}

fn rates(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    use Clock::{Cpu, Wall};
    let mut found = Vec::new();
    for m in cgroup.members {
        let (units, iterations) = ((m.work_units, "work units"), (m.iterations, "iterations"));
        let asked = [
            (assert.min_work_rate, Cpu, units),
            (assert.min_work_rate_wall, Wall, units),
            (assert.min_iteration_rate, Cpu, iterations),
            (assert.min_iteration_rate_wall, Wall, iterations),
        ];
        for (limit, clock, done) in asked {
            let Some(limit) = limit else { continue };
            found.extend(rate_detail(cgroup, m, limit, clock, done));
        }
    }
    found
}

fn rate_detail(
    cgroup: &Cgroup<'_>,
    member: &WorkerReport,
    limit: f64,
    clock: Clock,
    (done, what): (u64, &str),
) -> Option<AssertDetail> {
    let (who, unit) = (who(cgroup, member), clock.unit());
    let Some(rate) = clock.rate(member, done) else {
        let message = format!(
            "{who} has no CPU time or an empty window, so its {what} per second are unknown"
        );
        return Some(AssertDetail::inconclusive(DetailKind::Benchmark, message));
    };
    (rate < limit).then(|| {
        let message =
            format!("{who} did {rate:.1} {what}/{unit} (at least {limit:.1} {what}/{unit} asked)");
        // Without so much of the time, the rate would have been reached.
        let missing_ns = share_ns(clock.of(member), 1.0 - rate / limit);
        cgroup.failure(DetailKind::Benchmark, message, missing_ns)
    })
}

fn throughput_cv(assert: &Assert, cgroup: &Cgroup<'_>) -> Vec<AssertDetail> {
    let asked = [
        (assert.max_throughput_cv, Clock::Cpu, "CPU time"),
        (assert.max_throughput_cv_wall, Clock::Wall, "wall time"),
    ];
    let mut found = Vec::new();
    for (limit, clock, by) in asked {
        let Some(limit) = limit else { continue };
        let members = cgroup.members.iter();
        let rates: Vec<f64> = members
            .filter_map(|member| clock.rate(member, member.work_units))
            .collect();
        let what = format!(
            "variation of work rates (by {by}) in {}",
            label(cgroup.name)
        );
        found.extend(ratio_detail(
            DetailKind::Unfair,
            &what,
            variation(&rates),
            limit,
        ));
    }
    found
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
    if !cgroup.members.iter().any(|m| has_wakes(m)) {
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
    let message = format!("p99 wake latency of {name} is {p99} ns (limit {limit} ns)");
    Some(cgroup.failure(DetailKind::Benchmark, message, p99 - limit))
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
