//! `cargo xtask bench`: the design's budgets, measured. None of them is a timed test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::Table;
use ktstr::host::sidecar::Sidecar;

use crate::{kernel, sh};

/// Repeats of each measurement; the median counts.
const REPEATS: usize = 5;

/// Prints the budget table for what exists.
pub(crate) fn run() -> Result<()> {
    kernel::run(&kernel::Options::default())?;
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
    add(
        &mut table,
        "freeze + registers + resume, tcg",
        2,
        Some(freeze()?),
    );
    println!("{table}");
    Ok(())
}

fn add(table: &mut Table, what: &str, bar_ms: u32, measured: Option<Duration>) {
    let bar = Duration::from_millis(bar_ms.into());
    let (text, ratio) = match measured {
        Some(time) => (
            format!("{:.2} ms", time.as_secs_f64() * 1e3),
            format!("{:.2}", time.as_secs_f64() / bar.as_secs_f64()),
        ),
        None => ("not measured".into(), "-".into()),
    };
    table.add_row([what.to_owned(), format!("{bar_ms} ms"), text, ratio]);
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// The smallest whole test, as its user runs it.
fn smallest() -> Result<Sidecar> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(sh::target().join("debug/cases"));
    command
        .args(["--exact", "smallest", "--include-ignored"])
        .env("KTSTR_SIDECAR_DIR", dir.path());
    let output = command
        .output()
        .with_context(|| format!("failed to run {command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let bytes = std::fs::read(dir.path().join("smallest.json"))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Stops a booting guest, reads its registers, lets it go.
fn freeze() -> Result<Duration> {
    let image: PathBuf = ktstr::host::kernel::resolve_test_kernel()?.image;
    let vm = ktstr_vmm::Vm::builder()
        .kernel(Path::new(&image))
        .cmdline("console=ttyS0")
        .build()?;
    let running = vm.start()?;
    let deadline = Duration::from_secs(10);
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let guard = running.freeze(deadline)?;
        let registers = guard.registers()?;
        guard.resume()?;
        anyhow::ensure!(!registers.is_empty(), "no registers");
        times.push(started.elapsed());
    }
    median(times).context("nothing was measured")
}
