//! The figures of one test, flat and by name.

use std::collections::BTreeMap;

use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::model::payload;
use ktstr::model::stats::CgroupStats;

use super::figure::{Polarity, float, put};
use super::measured;

/// Which way is better, by the name's last part: names carry their unit.
pub(crate) fn polarity(name: &str) -> Polarity {
    if let Some(known) = measured::polarity(name) {
        return known;
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    let ends = |ends: &[&str]| ends.iter().any(|end| last.ends_with(end));
    if ends(&[
        // What workers get of the CPUs in a time that is given, not a time that is taken.
        "cpu_time_ms",
        "_per_s",
        "iterations",
        "work_units",
        "rps",
        "throughput",
        "_locality",
    ]) {
        Polarity::Higher
    } else if ends(&[
        "_ns",
        "_us",
        "_ms",
        "_s",
        "migrations",
        "spread_pct",
        "_bytes",
        "_gap",
        "_depth",
    ]) {
        Polarity::Lower
    } else {
        Polarity::Unknown
    }
}

/// Which way is better, of the metrics whose payload declares it; by the names of [`metrics_of`].
pub(crate) fn declared_polarities(sidecar: &Sidecar) -> BTreeMap<String, Polarity> {
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for report in &sidecar.result.stats.payloads {
        let run = runs.entry(&report.payload).or_default();
        *run += 1;
        let head = report.title(*run);
        for metric in &report.metrics {
            let polarity = match metric.polarity {
                payload::Polarity::HigherBetter => Polarity::Higher,
                payload::Polarity::LowerBetter => Polarity::Lower,
                // Neither way is better, whatever the name looks like.
                payload::Polarity::Target(_) => Polarity::Unknown,
                _ => continue,
            };
            found.insert(format!("{head}.{}", metric.name), polarity);
        }
    }
    found
}

/// The unit that a name ends in; empty for counts.
pub(crate) fn unit(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or(name);
    [
        ("_per_s", "1/s"),
        ("_ns", "ns"),
        ("_us", "us"),
        ("_ms", "ms"),
        ("_pct", "%"),
        ("_bytes", "bytes"),
        ("_mib", "MiB"),
        ("_s", "s"),
    ]
    .iter()
    .find(|(end, _)| last.ends_with(end))
    .map_or("", |(_, unit)| unit)
}

/// Every figure of a record. What was not measured is absent, never zero.
pub(crate) fn metrics_of(sidecar: &Sidecar) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    let times = [
        ("boot_ms", sidecar.boot_ms),
        ("scenario_ms", sidecar.scenario_ms),
        ("vm_ms", sidecar.vm_ms),
        ("cleanup_ms", sidecar.cleanup_ms),
        ("initramfs_ms", sidecar.initramfs_ms),
        ("initramfs_bytes", sidecar.initramfs_bytes),
        ("total_ms", Some(sidecar.total_ms)),
    ];
    for (name, value) in times {
        put(&mut metrics, name, value.map(float));
    }
    let stats = &sidecar.result.stats;
    for cgroup in &stats.cgroups {
        for (name, value) in of_cgroup(cgroup) {
            put(
                &mut metrics,
                &format!("cgroup.{}.{name}", cgroup.name),
                value,
            );
        }
    }
    overall(&stats.cgroups, &mut metrics);
    for phase in &stats.phases {
        let name = format!("phase.{}.iterations_per_s", phase.step_index);
        put(&mut metrics, &name, phase.iteration_rate());
    }
    for (name, value) in &stats.ext_metrics {
        put(&mut metrics, name, Some(*value));
    }
    measured::add(&mut metrics, sidecar);
    metrics
}

fn of_cgroup(cgroup: &CgroupStats) -> [(&'static str, Option<f64>); 8] {
    [
        ("iterations_per_s", rate(cgroup)),
        ("spread_pct", cgroup.spread_pct),
        ("max_gap_ms", Some(cgroup.max_gap_ms)),
        ("migrations", Some(float(cgroup.migrations))),
        ("wake_p50_ns", cgroup.wake_p50_ns.map(float)),
        ("wake_p99_ns", cgroup.wake_p99_ns.map(float)),
        ("run_delay_ms", cgroup.run_delay_ms),
        ("cpu_time_ms", Some(cgroup.cpu_time_ms)),
    ]
}

fn rate(cgroup: &CgroupStats) -> Option<f64> {
    (cgroup.wall_time_ms > 0.0).then(|| float(cgroup.iterations) * 1e3 / cgroup.wall_time_ms)
}

/// Sums of rates and counts, worst of gaps and latencies; a latency counts only where it was measured.
fn overall(cgroups: &[CgroupStats], metrics: &mut BTreeMap<String, f64>) {
    if cgroups.is_empty() {
        return;
    }
    let sum =
        |of: &dyn Fn(&CgroupStats) -> Option<f64>| -> Option<f64> { cgroups.iter().map(of).sum() };
    let worst =
        |of: &dyn Fn(&CgroupStats) -> Option<f64>| cgroups.iter().filter_map(of).reduce(f64::max);
    put(metrics, "iterations_per_s", sum(&rate));
    put(
        metrics,
        "migrations",
        sum(&|cgroup| Some(float(cgroup.migrations))),
    );
    put(
        metrics,
        "cpu_time_ms",
        sum(&|cgroup| Some(cgroup.cpu_time_ms)),
    );
    put(metrics, "run_delay_ms", sum(&|cgroup| cgroup.run_delay_ms));
    put(
        metrics,
        "max_gap_ms",
        worst(&|cgroup| Some(cgroup.max_gap_ms)),
    );
    put(metrics, "spread_pct", worst(&|cgroup| cgroup.spread_pct));
    put(
        metrics,
        "wake_p99_ns",
        worst(&|cgroup| cgroup.wake_p99_ns.map(float)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_absent() {
        let mut metrics = BTreeMap::new();
        let cgroup = CgroupStats {
            iterations: 50,
            wall_time_ms: 500.0,
            ..CgroupStats::default()
        };
        overall(&[cgroup.clone(), cgroup], &mut metrics);
        assert_eq!(metrics.get("iterations_per_s"), Some(&200.0));
        assert_eq!(metrics.get("wake_p99_ns"), None);
        assert_eq!(metrics.get("run_delay_ms"), None);
    }

    #[test]
    fn what_a_payload_declares_wins_over_the_name() {
        let record = serde_json::json!({
            "schema": "ktstr.sidecar/1", "test": "t", "verdict": "Pass", "topology": "1n1l2c1t", "total_ms": 5,
            "timed_out": false, "started_at": 1,
            "result": {"floor": "Pass", "details": [], "info_notes": [], "stats": {
                "cgroups": [], "phases": [], "ext_metrics": {},
                "payloads": [{"index": 0, "payload": "bench", "end": {"Exited": 0}, "awaits_extractor": false, "metrics": [
                    {"name": "score_ms", "value": 1.0, "unit": "", "polarity": "HigherBetter", "source": "json", "stream": "Stdout"},
                    {"name": "other", "value": 1.0, "unit": "", "polarity": "Unknown", "source": "json", "stream": "Stdout"},
                ]}]}},
        });
        let sidecar: Sidecar = serde_json::from_value(record).unwrap();
        let declared = declared_polarities(&sidecar);
        assert_eq!(
            declared,
            BTreeMap::from([("bench.score_ms".into(), Polarity::Higher)])
        );
    }

    #[test]
    fn names_tell_unit_and_direction() {
        assert_eq!(
            (
                polarity("cgroup.a.wake_p99_ns"),
                unit("cgroup.a.wake_p99_ns")
            ),
            (Polarity::Lower, "ns")
        );
        assert_eq!(
            (polarity("iterations_per_s"), unit("iterations_per_s")),
            (Polarity::Higher, "1/s")
        );
        assert_eq!(
            (polarity("answer"), unit("answer")),
            (Polarity::Unknown, "")
        );
        assert_eq!(polarity("cgroup.a.cpu_time_ms"), Polarity::Higher);
    }
}
