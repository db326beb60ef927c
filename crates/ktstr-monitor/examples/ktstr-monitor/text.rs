//! Tables for people.

use std::fmt::Write as _;

use ktstr_monitor::Kernel;
use ktstr_monitor::bpf::{MapContents, MapValue};
use ktstr_monitor::render::Limits;
use serde_json::Value;

/// The report as text; a table where it has one, else the JSON.
pub(crate) fn show(what: &str, kernel: &Kernel, report: &Value) -> String {
    match what {
        "runqueues" => runqueues(kernel),
        "tasks" => tasks(kernel),
        "maps" => maps(kernel),
        "dmesg" => dmesg(kernel),
        _ => format!("{report:#}\n"),
    }
}

fn number<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn runqueues(kernel: &Kernel) -> String {
    let mut text = format!(
        "{:>4} {:>4} {:>16} {:>12} {:>4} {:>4}  {}\n",
        "cpu", "nr", "clock", "switches", "scx", "dsq", "current"
    );
    for rq in kernel.runqueues().found {
        let scx = rq.scx.as_ref();
        let _ = writeln!(
            text,
            "{:>4} {:>4} {:>16} {:>12} {:>4} {:>4}  {}",
            rq.cpu,
            number(rq.nr_running),
            number(rq.clock),
            number(rq.nr_switches),
            number(scx.and_then(|scx| scx.nr_running)),
            number(scx.and_then(|scx| scx.local_dsq_depth)),
            rq.curr.map_or_else(
                || "-".to_owned(),
                |task| format!("{} ({})", task.comm, task.pid)
            ),
        );
    }
    text
}

fn tasks(kernel: &Kernel) -> String {
    let mut text = format!(
        "{:>7} {:>7} S {:>4} {:>6}  {:<16} {}\n",
        "tgid", "pid", "cpu", "class", "comm", "cgroup"
    );
    for task in kernel.tasks().found {
        let _ = writeln!(
            text,
            "{:>7} {:>7} {} {:>4} {:>6}  {:<16} {}",
            task.tgid,
            task.pid,
            task.state.unwrap_or('?'),
            number(task.cpu),
            number(task.sched_class),
            task.comm,
            number(task.cgroup),
        );
    }
    text
}

fn maps(kernel: &Kernel) -> String {
    let mut text = String::new();
    for map in kernel.maps().found {
        let _ = writeln!(
            text,
            "{}: {} {} key {}B value {}B max {}",
            map.id, map.map_type, map.name, map.key_size, map.value_size, map.max_entries
        );
        match map.contents(kernel, 64, Limits::default()).found {
            MapContents::Section(value) => {
                let _ = writeln!(text, "    {value}");
            }
            MapContents::Entries(entries) => {
                for entry in entries {
                    let _ = writeln!(text, "    {}: {}", entry.key, value(&entry.value));
                }
            }
            other => {
                let _ = writeln!(text, "    {other:?}");
            }
        }
    }
    text
}

fn value(value: &MapValue) -> String {
    match value {
        MapValue::Value(value) => value.to_string(),
        MapValue::PerCpu(values) => values
            .iter()
            .map(|(cpu, value)| format!("[{cpu}]={value}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn dmesg(kernel: &Kernel) -> String {
    let mut text = String::new();
    for record in kernel.dmesg().found.records {
        let seconds = record.ts_nsec / 1_000_000_000;
        let micros = record.ts_nsec / 1000 % 1_000_000;
        let _ = writeln!(text, "[{seconds:>5}.{micros:06}] {}", record.text);
    }
    text
}
