//! A trace in the JSON trace-event format, which ui.perfetto.dev opens.
//!
//! One process per test: slices for boot, phases and steps, counters per CPU for queue depths, instants for everything else.
//! Times are microseconds since the VM's start.

use anyhow::{Context as _, Result};
use ktstr::host::evidence::timeline::{MarkKind, Timeline};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Run, Shown};

/// Threads of a test's process: tracks that the viewer shows in this order.
const PHASES: u32 = 1;
const STAGES: u32 = 2;
const SCHEDULER: u32 = 3;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    trace_events: Vec<Value>,
    display_time_unit: &'static str,
}

/// The trace of a run.
///
/// # Errors
/// When it cannot be serialised.
pub(super) fn render(run: &Run) -> Result<String> {
    let mut events = Vec::new();
    for (index, shown) in run.tests.iter().enumerate() {
        if let Some(timeline) = &shown.timeline {
            test(index + 1, shown, timeline, &mut events);
        }
    }
    let trace = Trace {
        trace_events: events,
        display_time_unit: "ms",
    };
    serde_json::to_string(&trace).context("failed to serialise the trace")
}

fn test(pid: usize, shown: &Shown, timeline: &Timeline, events: &mut Vec<Value>) {
    let case = &shown.case;
    let title = format!("{} on {} ({})", case.name, case.kernel, case.verdict);
    events.push(
        json!({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": title}}),
    );
    events.push(json!({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}));
    for (tid, name) in [
        (PHASES, "phases"),
        (STAGES, "stages"),
        (SCHEDULER, "scheduler and captures"),
    ] {
        events.push(json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}));
    }
    phases(pid, shown, timeline, events);
    for mark in &timeline.marks {
        let tid = match mark.kind {
            MarkKind::Stage => STAGES,
            MarkKind::Step => PHASES,
            _ => SCHEDULER,
        };
        events.push(json!({"ph": "i", "s": "t", "name": mark.text, "cat": mark.kind, "pid": pid, "tid": tid, "ts": us(mark.at_ms)}));
    }
    for sample in &timeline.samples {
        let ts = us(sample.at_ms);
        for (cpu, depth) in sample.nr_running.iter().enumerate() {
            events.push(counter(pid, &format!("CPU {cpu:03} runnable"), ts, *depth));
        }
        for (cpu, depth) in sample.local_dsq.iter().enumerate() {
            if let Some(depth) = depth {
                events.push(counter(pid, &format!("CPU {cpu:03} local DSQ"), ts, *depth));
            }
        }
    }
}

fn phases(pid: usize, shown: &Shown, timeline: &Timeline, events: &mut Vec<Value>) {
    let Some(sidecar) = &shown.case.sidecar else {
        return;
    };
    if let Some(boot) = sidecar.boot_ms {
        events.push(slice(pid, "boot", 0.0, boot as f64, json!({})));
    }
    let Some(start) = timeline.scenario_start_ms else {
        return;
    };
    for phase in &sidecar.result.stats.phases {
        let from = start + phase.start_ms as f64;
        let args =
            json!({"iterations": phase.iterations, "iterations_per_s": phase.iteration_rate()});
        events.push(slice(
            pid,
            &phase.name,
            from,
            start + phase.end_ms as f64,
            args,
        ));
    }
}

fn slice(pid: usize, name: &str, from_ms: f64, to_ms: f64, args: Value) -> Value {
    let dur = us((to_ms - from_ms).max(0.0));
    json!({"ph": "X", "name": name, "cat": "phase", "pid": pid, "tid": PHASES, "ts": us(from_ms), "dur": dur, "args": args})
}

fn counter(pid: usize, name: &str, ts: f64, value: u32) -> Value {
    json!({"ph": "C", "name": name, "pid": pid, "ts": ts, "args": {"tasks": value}})
}

fn us(ms: f64) -> f64 {
    ms * 1e3
}
