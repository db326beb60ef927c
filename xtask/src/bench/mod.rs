//! `cargo xtask bench`: the design's budgets, measured. None of them is a timed test.

mod forks;
mod monitor;
mod vmm;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::Table;
use ktstr::host::evidence::sidecar::Sidecar;

use crate::{kernel, setup, sh};

/// Repeats of each measurement; the median counts.
const REPEATS: usize = 5;

/// Prints the budget table for what exists.
pub(crate) fn run(only_monitor: bool) -> Result<()> {
    kernel::run(&kernel::Options::default())?;
    setup::for_bench()?;
    if only_monitor {
        return monitor::run();
    }
    sh::logged(
        "build-bench",
        &mut sh::cargo(&["build", "-p", "ktstr-tests", "--bins"]),
    )?;
    let mut table = Table::new();
    table.set_header(["what", "bar", "measured (median)", "ratio to bar"]);
    let runs: Vec<Sidecar> = (0..REPEATS).map(|_| smallest()).collect::<Result<_>>()?;
    let of = |value: fn(&Sidecar) -> Option<u64>| median(runs.iter().filter_map(value).collect());
    let overhead = |run: &Sidecar| run.total_ms.checked_sub(run.boot_ms? + run.scenario_ms?);
    for (what, bar_ms, measured) in [
        (
            "smallest whole test, tcg, warm",
            6000,
            of(|run| Some(run.total_ms)),
        ),
        ("overhead beside boot and scenario", 300, of(overhead)),
        ("initramfs, warm", 10, of(|run| run.initramfs_ms)),
    ] {
        add(
            &mut table,
            what,
            bar_ms,
            measured.map(Duration::from_millis),
        );
    }
    forks::rows(&mut table)?;
    vmm::rows(&mut table)?;
    capture(&mut table)?;
    framing(&mut table)?;
    show(&table);
    monitor::run()
}

/// Frames 256 messages of 64 KiB and finds them again, in an optimised build of criterion's benchmark.
fn framing(table: &mut Table) -> Result<()> {
    let args = [
        "bench",
        "-p",
        "ktstr-wire",
        "--bench",
        "frames",
        "--",
        "64k/",
        "--quick",
    ];
    sh::logged("bench-wire", &mut sh::cargo(&args))?;
    for (what, bench) in [("wire, assemble", "assemble"), ("wire, encode", "encode")] {
        let path = sh::target().join(format!("criterion/64k/{bench}/new"));
        let read = |name: &str| -> Result<serde_json::Value> {
            let path = path.join(name);
            let text = std::fs::read(&path)
                .with_context(|| format!("failed to read {}", path.display()))?;
            Ok(serde_json::from_slice(&text)?)
        };
        let nanoseconds = read("estimates.json")?
            .pointer("/mean/point_estimate")
            .and_then(serde_json::Value::as_f64);
        let bytes = read("benchmark.json")?
            .pointer("/throughput/Bytes")
            .and_then(serde_json::Value::as_f64);
        let (Some(nanoseconds), Some(bytes)) = (nanoseconds, bytes) else {
            anyhow::bail!("criterion wrote no estimate to {}", path.display());
        };
        let speed = bytes / nanoseconds * 1e9 / f64::from(1 << 30);
        let row = [
            what.to_owned(),
            String::from(">= 3 GiB/s"),
            format!("{speed:.2} GiB/s"),
            ratio(3.0 / speed),
        ];
        table.add_row(row);
    }
    Ok(())
}

fn add(table: &mut Table, what: &str, bar_ms: u32, measured: Option<Duration>) {
    let bar = Duration::from_millis(bar_ms.into());
    let (text, ratio) = match measured {
        Some(time) => (
            format!("{:.2} ms", time.as_secs_f64() * 1e3),
            ratio(time.as_secs_f64() / bar.as_secs_f64()),
        ),
        None => ("not measured".into(), "-".into()),
    };
    table.add_row([what.to_owned(), format!("{bar_ms} ms"), text, ratio]);
}

/// A ratio to a bar; above 1 the bar is missed.
fn ratio(ratio: f64) -> String {
    let mark = if ratio > 1.0 { MISSED } else { "" };
    format!("{ratio:.2}{mark}")
}

const MISSED: &str = " MISSED";

/// Prints the table, and below it which bars were missed.
fn show(table: &Table) {
    println!("{table}\n{}", missed(table));
}

fn missed(table: &Table) -> String {
    let cells = |row: &comfy_table::Row| -> Vec<String> {
        row.cell_iter().map(comfy_table::Cell::content).collect()
    };
    let rows: Vec<Vec<String>> = table.row_iter().map(cells).collect();
    let names: Vec<&str> = rows
        .iter()
        .filter(|row| row.iter().any(|cell| cell.ends_with(MISSED)))
        .filter_map(|row| Some(row.first()?.trim()))
        .collect();
    if names.is_empty() {
        String::from("Every bar that was measured is held.")
    } else {
        format!("Bars missed: {}", names.join("; "))
    }
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// The smallest whole test, as its user runs it.
fn smallest() -> Result<Sidecar> {
    let dir = tempfile::tempdir()?;
    case("cases", "smallest", true, dir.path())
}

/// Runs one case, and gives its record; its artifacts are in `dir`.
fn case(binary: &str, name: &str, passes: bool, dir: &Path) -> Result<Sidecar> {
    case_with(binary, name, passes, dir, &[])
}

/// The same with more of an environment.
fn case_with(
    binary: &str,
    name: &str,
    passes: bool,
    dir: &Path,
    env: &[(&str, &str)],
) -> Result<Sidecar> {
    let mut command = Command::new(sh::target().join("debug").join(binary));
    command
        .args(["--exact", name, "--include-ignored"])
        .current_dir(sh::root().join("tests"))
        .env("KTSTR_SIDECAR_DIR", dir)
        .envs(env.iter().copied());
    let output = command
        .output()
        .with_context(|| format!("failed to run {command:?}"))?;
    anyhow::ensure!(
        output.status.success() == passes,
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let bytes = std::fs::read(dir.join(format!("{name}.json")))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A scheduler's exit: how long the guest stands still for the capture, and how large the dump is.
fn capture(table: &mut Table) -> Result<()> {
    let mut standstills = Vec::new();
    let mut size = 0;
    for _ in 0..REPEATS {
        let dir = tempfile::tempdir()?;
        let run = case("captures", "error_with_state", false, dir.path())?;
        standstills.extend(run.standstill_us.map(Duration::from_micros));
        let dump = dir.path().join("error_with_state.failure-dump.json");
        size = dump.metadata()?.len();
    }
    let standstill = median(standstills).context("no capture was made")?;
    table.add_row([
        String::from("freeze + capture (10 maps) + resume"),
        String::from("-"),
        format!("{:.2} ms", standstill.as_secs_f64() * 1e3),
        String::from("-"),
    ]);
    table.add_row([
        String::from("failure dump"),
        String::from("-"),
        format!("{} KiB", size / 1024),
        String::from("-"),
    ]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bar_is_told_as_missed() {
        let mut table = Table::new();
        add(&mut table, "quick", 10, Some(Duration::from_millis(10)));
        assert!(missed(&table).contains("Every bar"), "{}", missed(&table));
        add(
            &mut table,
            "initramfs, warm",
            10,
            Some(Duration::from_millis(14)),
        );
        add(&mut table, "unmeasured", 10, None);
        assert_eq!(missed(&table), "Bars missed: initramfs, warm");
        assert!(table.to_string().contains("1.40 MISSED"), "{table}");
    }
}
