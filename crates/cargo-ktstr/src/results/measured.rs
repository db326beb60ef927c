//! Metrics of what the host measured: monitor, programs, verifier, KVM, devices, captures.

use std::collections::BTreeMap;

use ktstr::host::evidence::figures::{Figures, MonitorFigures};
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::model::result::KVM_INTERESTING_STATS;
use serde_json::Value;

use super::figure::{Polarity, float, put};

/// Adds every figure of the host's; one that was not measured is absent, never zero.
pub(super) fn add(metrics: &mut BTreeMap<String, f64>, sidecar: &Sidecar) {
    let Figures {
        monitor,
        kvm_stats,
        disk,
        networks,
        periodic,
        // Where the kernel lies and what was written into it say nothing about a scheduler.
        kern_kaslr_offset: _,
        watchdog: _,
    } = &sidecar.figures;
    if let Some(monitor) = monitor {
        of_monitor(metrics, monitor);
    }
    for program in &sidecar.verifier_stats {
        let name = format!("verifier.{}.verified_insns", program.name);
        put(metrics, &name, Some(f64::from(program.verified_insns)));
    }
    if let Some(kvm) = kvm_stats {
        for name in KVM_INTERESTING_STATS {
            put(
                metrics,
                &format!("kvm.{name}"),
                kvm.try_sum(name).map(float),
            );
        }
    }
    if let Some(disk) = disk {
        counters(metrics, "disk", disk);
    }
    for (card, network) in networks.iter().enumerate() {
        counters(metrics, &format!("net.{card}"), network);
    }
    if let Some(periodic) = periodic {
        for (name, value) in [
            ("target", periodic.target),
            ("fired", periodic.fired),
            ("real", periodic.real),
        ] {
            put(metrics, &format!("periodic.{name}"), Some(f64::from(value)));
        }
    }
}

fn of_monitor(metrics: &mut BTreeMap<String, f64>, monitor: &MonitorFigures) {
    let summary = &monitor.summary;
    let plain = [
        ("max_imbalance_ratio", Some(summary.max_imbalance_ratio)),
        ("avg_imbalance_ratio", Some(summary.avg_imbalance_ratio)),
        (
            "max_local_dsq_depth",
            Some(f64::from(summary.max_local_dsq_depth)),
        ),
        ("avg_local_dsq_depth", Some(summary.avg_local_dsq_depth)),
        ("avg_nr_running", Some(summary.avg_nr_running)),
        ("avg_irq_util", summary.avg_irq_util),
        ("stuck_count", Some(summary.stuck_count as f64)),
    ];
    for (name, value) in plain {
        put(metrics, &format!("monitor.{name}"), value);
    }
    let seconds = float(summary.observed_ms) / 1e3 * monitor.cpus as f64;
    for (name, delta) in &summary.event_deltas {
        let delta = *delta as f64;
        put(metrics, &format!("event.{name}"), Some(delta));
        let rate = (seconds > 0.0).then(|| delta / seconds);
        put(metrics, &format!("event.{name}.per_vcpu_s"), rate);
    }
    for (name, delta) in &summary.program_deltas {
        let count = float(delta.run_cnt);
        put(metrics, &format!("program.{name}.run_cnt"), Some(count));
        let time = float(delta.run_time_ns);
        put(metrics, &format!("program.{name}.run_time_ns"), Some(time));
        let mean = (count > 0.0).then(|| time / count);
        put(metrics, &format!("program.{name}.mean_run_ns"), mean);
        let misses = float(delta.recursion_misses);
        put(
            metrics,
            &format!("program.{name}.recursion_misses"),
            Some(misses),
        );
    }
    if let Some(schedstat) = &summary.schedstat_deltas {
        counters(metrics, "schedstat", schedstat);
    }
    for (label, values) in &monitor.watched {
        let (first, last) = (float(values.first), float(values.last));
        put(metrics, &format!("watched.{label}"), Some(last));
        put(
            metrics,
            &format!("watched.{label}.growth"),
            Some(last - first),
        );
        put(
            metrics,
            &format!("watched.{label}.max"),
            Some(float(values.max)),
        );
    }
}

/// Every number of a flat structure, by its field's name, so that a counter that is added to it is here, too.
fn counters(metrics: &mut BTreeMap<String, f64>, head: &str, of: &impl serde::Serialize) {
    let Ok(Value::Object(fields)) = serde_json::to_value(of) else {
        return;
    };
    for (name, value) in fields {
        put(metrics, &format!("{head}.{name}"), value.as_f64());
    }
}

/// Which way is better, of the metrics that are made here; `None` for all others.
pub(super) fn polarity(name: &str) -> Option<Polarity> {
    let (head, rest) = name.split_once('.')?;
    let last = rest.rsplit('.').next().unwrap_or(rest);
    let lower = match head {
        "monitor" => !matches!(rest, "avg_nr_running" | "avg_irq_util"),
        // What the kernel counts when a scheduler left something to it.
        "event" => {
            let event = rest.strip_suffix(".per_vcpu_s").unwrap_or(rest);
            matches!(
                event,
                "select_cpu_fallback" | "dispatch_local_dsq_offline" | "dispatch_keep_last"
            ) || event.starts_with("bypass_")
        }
        "program" => matches!(last, "run_time_ns" | "mean_run_ns" | "recursion_misses"),
        "verifier" => true,
        "schedstat" => rest == "run_delay",
        "kvm" => matches!(
            rest,
            "exits" | "preemption_reported" | "signal_exits" | "hypercalls"
        ),
        "disk" => matches!(
            rest,
            "throttled_count" | "io_errors" | "invalid_avail_idx_count"
        ),
        "net" => !matches!(last, "tx_packets" | "tx_bytes" | "rx_packets" | "rx_bytes"),
        "periodic" if rest == "real" => return Some(Polarity::Higher),
        "periodic" | "watched" => false,
        _ => return None,
    };
    Some(if lower {
        Polarity::Lower
    } else {
        Polarity::Unknown
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{metrics_of, polarity};

    fn sidecar() -> Sidecar {
        let record = serde_json::json!({
            "schema": "ktstr.sidecar/1", "test": "t", "verdict": "Pass", "topology": "1n1l2c1t", "total_ms": 5,
            "timed_out": false, "started_at": 1,
            "result": {"floor": "Pass", "details": [], "info_notes": [],
                       "stats": {"cgroups": [], "phases": [], "ext_metrics": {}}},
            "verifier_stats": [{"name": "enqueue", "verified_insns": 900}],
            "monitor": {"cpus": 2,
                "watched": {"dispatched": {"first": 10, "last": 70, "min": 10, "max": 80}},
                "summary": {"total_samples": 9, "valid_samples": 9, "max_imbalance_ratio": 3.0, "avg_imbalance_ratio": 1.5,
                    "max_local_dsq_depth": 4, "avg_local_dsq_depth": 0.5, "avg_nr_running": 1.25, "avg_irq_util": null,
                    "stuck_detected": false, "stuck_count": 0, "event_deltas": {"select_cpu_fallback": 30},
                    "program_deltas": {"enqueue": {"run_cnt": 4, "run_time_ns": 1000, "recursion_misses": 0}},
                    "schedstat_deltas": null, "observed_ms": 5000}},
            "kvm_stats": {"per_vcpu": [{"exits": 5, "nobody_asks": 1}, {"exits": 7}]},
            "disk": {"reads_completed": 3}, "networks": [{"tx_packets": 2}],
            "periodic": {"target": 4, "fired": 3, "real": 2}, "kern_kaslr_offset": 2_097_152u64,
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn everything_that_the_host_measured_is_a_metric() {
        let metrics = metrics_of(&sidecar());
        for (name, value) in [
            ("monitor.max_imbalance_ratio", 3.0),
            ("monitor.avg_local_dsq_depth", 0.5),
            ("event.select_cpu_fallback", 30.0),
            ("event.select_cpu_fallback.per_vcpu_s", 3.0),
            ("program.enqueue.mean_run_ns", 250.0),
            ("verifier.enqueue.verified_insns", 900.0),
            ("watched.dispatched", 70.0),
            ("watched.dispatched.growth", 60.0),
            ("kvm.exits", 12.0),
            ("disk.reads_completed", 3.0),
            ("net.0.tx_packets", 2.0),
            ("periodic.real", 2.0),
        ] {
            assert_eq!(metrics.get(name), Some(&value), "{name} in {metrics:#?}");
        }
        for absent in [
            "monitor.avg_irq_util",
            "schedstat.run_delay",
            "kvm.halt_exits",
            "kvm.nobody_asks",
            "kern_kaslr_offset",
        ] {
            assert_eq!(metrics.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn polarities_are_known_where_one_way_is_better() {
        for (name, wanted) in [
            ("event.dispatch_keep_last.per_vcpu_s", Polarity::Lower),
            ("event.enq_skip_exiting", Polarity::Unknown),
            ("monitor.max_local_dsq_depth", Polarity::Lower),
            ("monitor.avg_nr_running", Polarity::Unknown),
            ("program.enqueue.run_cnt", Polarity::Unknown),
            ("program.enqueue.mean_run_ns", Polarity::Lower),
            ("kvm.halt_wait_ns", Polarity::Unknown),
            ("net.0.tx_dropped_no_rx_buffer", Polarity::Lower),
            ("periodic.real", Polarity::Higher),
            ("watched.latency_ns", Polarity::Unknown),
            ("cgroup.a.wake_p99_ns", Polarity::Lower),
        ] {
            assert_eq!(polarity(name), wanted, "{name}");
        }
    }
}
