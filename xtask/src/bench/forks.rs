//! Copies of booted guests beside boots, in virtual time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use ktstr::host::evidence::sidecar::Sidecar;

use super::{REPEATS, case_with, median, ratio};

/// The design's bar, for four vCPUs: from a copy's start to the moment at which it is given its test.
const BAR: Duration = Duration::from_millis(65);
const BAR_VCPUS: u32 = 4;

/// A row for each number of vCPUs.
pub(super) fn rows(table: &mut Table) -> Result<()> {
    for vcpus in [1, 4, 16, 64] {
        let cold = run(vcpus, "off")?;
        ensure!(cold.clock.forked == Some(false), "a boot was no boot");
        // The first one makes what the others are copies of.
        run(vcpus, "auto")?;
        let copies = (0..REPEATS).map(|_| {
            let copy = run(vcpus, "auto")?;
            let why = copy.clock.fork_why.clone().unwrap_or_default();
            ensure!(copy.clock.forked == Some(true), "no copy: {why}");
            Ok((taken(copy.start_us)?, taken(copy.given_task_us)?))
        });
        let copies = copies.collect::<Result<Vec<_>>>()?;
        let started = median(copies.iter().map(|(start, _)| *start).collect());
        let given = median(copies.iter().map(|(_, given)| *given).collect());
        let (started, given) = started.zip(given).context("nothing was measured")?;
        let boot = taken(cold.given_task_us)?;
        table.add_row([
            format!("copy of {vcpus} vCPUs: first instruction, test's start"),
            match vcpus {
                BAR_VCPUS => format!("{} ms", BAR.as_millis()),
                _ => String::from("-"),
            },
            format!(
                "{:.1} ms, {:.1} ms; a boot {:.0} ms, {:.0} times",
                millis(started),
                millis(given),
                millis(boot),
                boot.as_secs_f64() / given.as_secs_f64()
            ),
            match vcpus {
                BAR_VCPUS => ratio(given.as_secs_f64() / BAR.as_secs_f64()),
                _ => String::from("-"),
            },
        ]);
    }
    Ok(())
}

fn run(vcpus: u32, fork: &str) -> Result<Sidecar> {
    let dir = tempfile::tempdir()?;
    let name = format!("fork_of_{vcpus}");
    case_with("cases", &name, true, dir.path(), &[("KTSTR_FORK", fork)])
}

fn taken(micros: Option<u64>) -> Result<Duration> {
    micros
        .map(Duration::from_micros)
        .context("the record does not say how long the start took")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
