//! Tests times presets: which of them to run, and within which time.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use ktstr::host::tools::describe::{Description, PresetDescription, TestDescription};

use super::{Selection, cargo};
use crate::project::Project;
use crate::results::Index;

/// Where `--help` shows these.
const HEADING: &str = "Gauntlet";

/// How the gauntlet is run.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Gauntlet {
    /// Run each test on every preset that its constraints allow.
    #[arg(long, help_heading = HEADING, conflicts_with_all = ["expressions", "ignored"])]
    pub(crate) gauntlet: bool,
    /// Only on this preset.
    #[arg(long, help_heading = HEADING, value_name = "NAME", requires = "gauntlet")]
    pub(crate) preset: Vec<String>,
    /// Only on presets of at most so many CPUs [default: eight per CPU of this host].
    #[arg(long, help_heading = HEADING, value_name = "N", requires = "gauntlet")]
    pub(crate) max_cpus: Option<u32>,
    /// Choose what covers most within so many seconds.
    #[arg(long, help_heading = HEADING, value_name = "SECONDS", requires = "gauntlet")]
    pub(crate) budget: Option<u32>,
    /// Only print what would run.
    #[arg(long, help_heading = HEADING, requires = "gauntlet")]
    pub(crate) list: bool,
}

/// One test on one preset.
#[derive(Debug, Clone, PartialEq)]
struct Cell {
    name: String,
    seconds: f64,
    /// What it alone would show: its test, its preset, and pairs of the test with features of the preset.
    covers: BTreeSet<String>,
}

/// The selection that runs the chosen cells; `None` when the tests do not build.
///
/// # Errors
/// When a test binary cannot be run, a preset does not exist, or no cell is left.
pub(crate) fn choose(
    options: &super::Options,
    project: &Project,
    kernels: usize,
) -> Result<Option<Selection>> {
    let Some(binaries) = cargo::build(&options.selection, None)? else {
        return Ok(None);
    };
    let described: Result<Vec<Option<Description>>> =
        binaries.iter().map(cargo::describe).collect();
    let descriptions: Vec<Description> = described?.into_iter().flatten().collect();
    check_presets(&options.gauntlet.preset, &descriptions)?;
    let history = Index::open(project).ok();
    let seconds = |name: &str, test: &TestDescription, cpus: u32| {
        measured(history.as_ref(), name).unwrap_or_else(|| estimate(test, cpus))
    };
    let all = cells(options, &descriptions, seconds);
    let considered = all.len();
    let cells = match options.gauntlet.budget {
        Some(budget) => within(all, f64::from(budget) / count(kernels.max(1))),
        None => all,
    };
    let total: f64 = cells.iter().map(|cell| cell.seconds).sum::<f64>() * count(kernels);
    eprintln!(
        "cargo ktstr: gauntlet of {} of {considered} cells, about {total:.0} s",
        cells.len()
    );
    if cells.is_empty() {
        bail!("no cell is left to run; raise --max-cpus or --budget, or name other tests");
    }
    let names: Vec<String> = cells.iter().map(|cell| cell.name.clone()).collect();
    Ok(Some(Selection {
        filters: names,
        exact: true,
        include_ignored: true,
        ..options.selection.clone()
    }))
}

fn check_presets(wanted: &[String], descriptions: &[Description]) -> Result<()> {
    let known: BTreeSet<&str> = descriptions
        .iter()
        .flat_map(|description| {
            description
                .presets
                .iter()
                .map(|preset| preset.name.as_str())
        })
        .collect();
    match wanted
        .iter()
        .find(|preset| !known.contains(preset.as_str()))
    {
        Some(unknown) => {
            let known: Vec<&str> = known.into_iter().collect();
            bail!(
                "there is no preset '{unknown}'; there are {}",
                known.join(", ")
            )
        }
        None => Ok(()),
    }
}

fn cells(
    options: &super::Options,
    descriptions: &[Description],
    seconds: impl Fn(&str, &TestDescription, u32) -> f64,
) -> Vec<Cell> {
    let most = options.gauntlet.max_cpus.unwrap_or_else(default_max_cpus);
    let wanted = &options.gauntlet.preset;
    let mut cells = Vec::new();
    for test in descriptions
        .iter()
        .flat_map(|description| &description.tests)
    {
        let by_flag = options.selection.include_ignored || !test.ignore;
        for preset in &test.presets {
            let name = format!("{}@{}", test.name, preset.name);
            let asked = wanted.is_empty() || wanted.contains(&preset.name);
            if by_flag && asked && preset.cpus <= most && options.selection.matches(&name) {
                let seconds = seconds(&name, test, preset.cpus);
                cells.push(Cell {
                    seconds,
                    covers: covers(test, preset),
                    name,
                });
            }
        }
    }
    cells
}

/// Emulated CPUs cost boot time, not correctness: many more than the host's are fine, hundreds are not.
fn default_max_cpus() -> u32 {
    u32::try_from(crate::kernel::cpus())
        .unwrap_or(1)
        .saturating_mul(8)
}

/// Measured on tcg: 2.4 s to boot for two CPUs, 7 for eight, 15 for sixteen.
fn estimate(test: &TestDescription, cpus: u32) -> f64 {
    const BOOT_S: f64 = 1.5;
    const BOOT_S_PER_CPU: f64 = 0.85;
    const AROUND_S: f64 = 2.0;
    BOOT_S + BOOT_S_PER_CPU * f64::from(cpus) + f64::from(test.duration_s) + AROUND_S
}

/// What it took the last time.
fn measured(history: Option<&Index>, name: &str) -> Option<f64> {
    let points = history?.points("total_ms", Some(name)).ok()?;
    points.last().map(|point| point.value / 1e3)
}

fn covers(test: &TestDescription, preset: &PresetDescription) -> BTreeSet<String> {
    let llcs = preset.shape.split(['n', 'l']).nth(1).unwrap_or_default();
    let nodes = preset.shape.split('n').next().unwrap_or_default();
    let smt = if preset.shape.ends_with("2t") {
        "smt"
    } else {
        "nosmt"
    };
    let size = match preset.cpus {
        0..=8 => "small",
        9..=64 => "middle",
        _ => "large",
    };
    let test = &test.name;
    BTreeSet::from([
        test.clone(),
        preset.name.clone(),
        format!("{test} {smt}"),
        format!("{test} {llcs} llcs"),
        format!("{test} {nodes} nodes"),
        format!("{test} {size}"),
    ])
}

/// Greedy: always the cell that adds most per second, while it fits. What adds nothing new is taken last.
fn within(mut cells: Vec<Cell>, budget: f64) -> Vec<Cell> {
    let mut covered: BTreeSet<String> = BTreeSet::new();
    let mut chosen = Vec::new();
    let mut left = budget;
    loop {
        cells.retain(|cell| cell.seconds <= left);
        let gain = |cell: &Cell| {
            (count(cell.covers.difference(&covered).count()) + 0.01) / cell.seconds.max(0.1)
        };
        let best = cells.iter().enumerate().max_by(|(_, a), (_, b)| {
            gain(a)
                .total_cmp(&gain(b))
                .then_with(|| b.name.cmp(&a.name))
        });
        let Some((index, _)) = best else { break };
        let cell = cells.swap_remove(index);
        left -= cell.seconds;
        covered.extend(cell.covers.iter().cloned());
        chosen.push(cell);
    }
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    chosen
}

fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, seconds: f64, covers: &[&str]) -> Cell {
        Cell {
            name: name.into(),
            seconds,
            covers: covers.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    fn names(cells: Vec<Cell>) -> Vec<String> {
        cells.into_iter().map(|cell| cell.name).collect()
    }

    #[test]
    fn a_budget_takes_what_covers_most() {
        let all = vec![
            cell("cheap", 10.0, &["t", "p1"]),
            cell("same", 10.0, &["t"]),
            cell("other", 20.0, &["u", "p2"]),
            cell("dear", 500.0, &["v", "p3", "x", "y"]),
        ];
        assert_eq!(names(within(all.clone(), 30.0)), ["cheap", "other"]);
        assert_eq!(names(within(all.clone(), 40.0)), ["cheap", "other", "same"]);
        assert_eq!(names(within(all.clone(), 1000.0)).len(), 4);
        assert_eq!(names(within(all, 5.0)).len(), 0);
    }

    #[test]
    fn a_shape_tells_its_features() {
        let preset = PresetDescription {
            name: "p".into(),
            shape: "2n4l4c1t".into(),
            cpus: 16,
        };
        let json = serde_json::json!({
            "name": "t", "topology": "1n1l2c1t", "cpus": 2, "memory_mib": 256, "duration_s": 3, "watchdog_timeout_s": 5,
            "scheduler": null, "ignore": false, "host_only": false, "performance_mode": false, "presets": [],
        });
        let test: TestDescription = serde_json::from_value(json).unwrap();
        let covers = covers(&test, &preset);
        for needed in ["t nosmt", "t 4 llcs", "t 2 nodes", "t middle"] {
            assert!(covers.contains(needed), "{needed} is not in {covers:?}");
        }
    }
}
