//! The monitor's rows: each job beside drgn, libbpf or btf-rs where they can do the same one.
//!
//! What it needs it makes: a guest that runs the fixture is booted and dumped by the monitor's own tests, criterion
//! measures an optimised build, and drgn comes from the package index into a virtual environment below `target`. Ratios
//! are of the best times, which a machine with other things to do disturbs least.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use serde_json::Value;

use super::{ratio, show};
use crate::{setup, sh};

/// Boots the guest and leaves its dump below [`guest`].
const MAKER: &str = "dump::every_section_is_there_and_nothing_went_wrong";

/// A job of the monitor: criterion's name, what people call it, its bar, and whose figure stands beside it.
struct Job {
    id: &'static str,
    what: &'static str,
    bar: Option<Duration>,
    beside: Beside,
}

#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    /// Another benchmark of the same run.
    Bench(&'static str, &'static str),
    /// This job of the script.
    Drgn(&'static str),
}

const fn job(id: &'static str, what: &'static str) -> Job {
    Job {
        id,
        what,
        bar: None,
        beside: Beside::Nothing,
    }
}

impl Job {
    const fn bar_us(self, micros: u64) -> Self {
        Self {
            bar: Some(Duration::from_micros(micros)),
            ..self
        }
    }

    const fn beside(self, beside: Beside) -> Self {
        Self { beside, ..self }
    }
}

const JOBS: [Job; 23] = [
    job("read/u64 hot", "read of 8 bytes, hot"),
    job("read/u64 random", "read of 8 bytes, random in 256 MiB"),
    job("read/page", "read of a page"),
    job("walk/four levels", "page walk, four levels"),
    job("walk/cached", "page walk, cached"),
    job("btf of the host/cold", "BTF of this host, 40 structs, cold")
        .bar_us(2000)
        .beside(Beside::Bench("libbpf", "btf of the host/libbpf")),
    job("btf of the host/cached", "  the same, cached")
        .bar_us(2000)
        .beside(Beside::Bench("btf-rs", "btf of the host/btf-rs")),
    job(
        "btf of the guest/cold",
        "BTF of the guest, 40 structs, cold",
    )
    .bar_us(2000)
    .beside(Beside::Bench("libbpf", "btf of the guest/libbpf")),
    job("btf of the guest/cached", "  the same, cached")
        .bar_us(2000)
        .beside(Beside::Bench("btf-rs", "btf of the guest/btf-rs")),
    job("kernel/found", "kernel, types and symbols found").beside(Beside::Drgn("found")),
    job("kernel/symbol by name", "symbol by name").beside(Beside::Drgn("symbol by name")),
    job("kernel/symbol by address", "symbol by address"),
    job("kernel/sample", "sample of the guest, 4 CPUs").beside(Beside::Drgn("runqueues")),
    job("sample/4 CPUs", "sample, 4 CPUs"),
    job("sample/32 CPUs", "sample, 32 CPUs"),
    job("sample/128 CPUs", "sample, 128 CPUs").bar_us(100),
    job("kernel/runqueues", "runqueues in full, 4 CPUs").beside(Beside::Drgn("runqueues")),
    job("kernel/tasks", "tasks").beside(Beside::Drgn("tasks")),
    job("kernel/dispatch queues", "dispatch queues").beside(Beside::Drgn("dispatch queues")),
    job("kernel/maps", "map list").beside(Beside::Drgn("maps")),
    job("kernel/programs", "program list").beside(Beside::Drgn("programs")),
    job("kernel/dmesg", "log").beside(Beside::Drgn("dmesg")),
    job("kernel/full dump", "full dump"),
];

/// Measures, and prints a table of its own.
pub(super) fn run() -> Result<()> {
    let test = [
        "test",
        "-p",
        "ktstr-monitor",
        "--test",
        "it",
        "--",
        "--exact",
        MAKER,
    ];
    sh::logged("bench-monitor-guest", &mut sh::cargo(&test))?;
    let bench = [
        "bench",
        "-p",
        "ktstr-monitor",
        "--bench",
        "monitor",
        "--",
        "--warm-up-time",
        "0.5",
        "--measurement-time",
        "2",
    ];
    sh::logged("bench-monitor", &mut sh::cargo(&bench))?;
    let drgn = match drgn() {
        Ok(times) => times,
        Err(error) => {
            eprintln!("  drgn was not run: {error:#}");
            Value::Null
        }
    };
    let mut table = Table::new();
    table.set_header([
        "monitor",
        "bar",
        "median",
        "best",
        "ratio to bar",
        "beside",
        "its best",
        "times as fast",
    ]);
    for job in &JOBS {
        table.add_row(row(job, &drgn));
    }
    table.add_row(share()?);
    show(&table);
    if let Some(types) = drgn.get("types").and_then(Value::as_str) {
        println!("drgn had its types from {types}.");
    }
    Ok(())
}

fn row(job: &Job, drgn: &Value) -> [String; 8] {
    let none = || String::from("-");
    let Ok((median, best)) = estimate(job.id) else {
        let mut row = [(); 8].map(|()| none());
        row[0] = job.what.into();
        row[2] = "not measured".into();
        return row;
    };
    let (name, theirs) = match job.beside {
        Beside::Nothing => ("-", None),
        Beside::Bench(name, id) => (name, estimate(id).ok().map(|(_, best)| best)),
        Beside::Drgn(key) => ("drgn", drgn.get(key).and_then(Value::as_f64)),
    };
    [
        job.what.into(),
        job.bar
            .map_or_else(none, |bar| time(bar.as_secs_f64() * 1e9)),
        rated(job.id, median),
        rated(job.id, best),
        job.bar
            .map_or_else(none, |bar| ratio(best / (bar.as_secs_f64() * 1e9))),
        name.into(),
        theirs.map_or_else(none, time),
        theirs.map_or_else(none, |theirs| format!("{:.1}", theirs / best)),
    ]
}

/// What sampling 128 CPUs a thousand times in a second takes of a core.
fn share() -> Result<[String; 8]> {
    let (median, best) = estimate("sample/128 CPUs")?;
    let percent = |nanoseconds: f64| nanoseconds * 1000.0 / 1e9 * 100.0;
    let none = || String::from("-");
    Ok([
        "1 kHz on 128 CPUs, of a core".into(),
        "10 %".into(),
        format!("{:.1} %", percent(median)),
        format!("{:.1} %", percent(best)),
        ratio(percent(best) / 10.0),
        none(),
        none(),
        none(),
    ])
}

/// Median and best time of one iteration, nanoseconds.
fn estimate(id: &str) -> Result<(f64, f64)> {
    let dir = sh::target().join("criterion").join(id).join("new");
    let read = |name: &str| -> Result<Value> {
        let path = dir.join(name);
        let text =
            std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    };
    let estimates = read("estimates.json")?;
    let median = estimates
        .pointer("/median/point_estimate")
        .and_then(Value::as_f64);
    let sample = read("sample.json")?;
    let numbers = |key: &str| -> Vec<f64> {
        let list = sample.get(key).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect()
    };
    let best = numbers("times")
        .into_iter()
        .zip(numbers("iters"))
        .map(|(time, iterations)| time / iterations)
        .min_by(f64::total_cmp);
    match (median, best) {
        (Some(median), Some(best)) => Ok((median, best)),
        _ => bail!("criterion wrote no estimate to {}", dir.display()),
    }
}

/// A time, and for what is done in millions how many a second.
fn rated(id: &str, nanoseconds: f64) -> String {
    let text = time(nanoseconds);
    if id.starts_with("read/u64") || id.starts_with("walk/") {
        return format!("{text}, {:.0} M/s", 1e3 / nanoseconds);
    }
    text
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1e3 => format!("{nanoseconds:.1} ns"),
        ..1e6 => format!("{:.1} us", nanoseconds / 1e3),
        ..1e9 => format!("{:.2} ms", nanoseconds / 1e6),
        _ => format!("{:.2} s", nanoseconds / 1e9),
    }
}

/// Where the tests leave the guest's dump.
fn guest() -> PathBuf {
    sh::target().join("debug/ktstr-monitor-tests/guest")
}

/// drgn's best times of its jobs, nanoseconds by name.
fn drgn() -> Result<Value> {
    let python = setup::drgn()?;
    let vmlinux = ktstr::host::plan::kernel::resolve_test_kernel()?
        .vmlinux
        .context("the test kernel has no vmlinux beside it")?;
    let script = sh::root().join("crates/ktstr-monitor/benches/drgn_jobs.py");
    let out = sh::target().join("xtask-logs/drgn-jobs.json");
    let mut command = Command::new(python);
    command
        .arg(script)
        .arg(guest().join("vmcore"))
        .arg(vmlinux)
        .arg(guest().join("vmcoreinfo"))
        .arg(&out);
    sh::logged("bench-drgn", &mut command)?;
    Ok(serde_json::from_slice(&std::fs::read(out)?)?)
}
