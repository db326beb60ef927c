//! `cargo ktstr stats`: the last run, and figures over time.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;

use crate::exit::Exit;
use crate::output;
use crate::project::Project;
use crate::results::{Index, Point, Polarity, polarity, unit};
use crate::runs::{self, date};
use crate::test::{Case, cases_of};

/// What to show; the last run when nothing is said.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// As JSON.
    #[arg(long, global = true)]
    json: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH", global = true)]
    manifest_path: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The tests of the last run, and what became of them since the run before.
    LastRun {
        /// Another run than the last.
        #[arg(long)]
        run: Option<String>,
    },
    /// A metric over all runs.
    Trend {
        /// The metric; `stats list-metrics` names them.
        metric: String,
        /// Of this test only.
        #[arg(long)]
        test: Option<String>,
        /// The latest N values of each test.
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: usize,
    },
    /// Every metric that runs have left.
    ListMetrics,
}

/// Shows it.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let project = Project::find(options.manifest_path.as_deref())?;
    let index = Index::open(&project)?;
    match &options.what {
        None => last_run(options, &project, &index, None),
        Some(What::LastRun { run }) => last_run(options, &project, &index, run.as_deref()),
        Some(What::Trend { metric, test, last }) => {
            trend(options, &index, metric, test.as_deref(), *last)
        }
        Some(What::ListMetrics) => list_metrics(options, &index),
    }
}

#[derive(Debug, Serialize)]
struct Row {
    test: String,
    kernel: String,
    verdict: &'static str,
    /// In the run before; absent for a new test.
    before: Option<String>,
    seconds: f64,
    scheduler: Option<String>,
    topology: Option<String>,
    engine: Option<String>,
    headline: String,
}

fn last_run(
    options: &Options,
    project: &Project,
    index: &Index,
    run: Option<&str>,
) -> Result<Exit> {
    let dirs = runs::select(project, run)?;
    let mut rows = Vec::new();
    for dir in &dirs {
        for case in cases_of(dir)? {
            let before = index.verdict_before(&case.name, &case.kernel, &dir.run())?;
            rows.push(row(&case, before));
        }
    }
    if options.json {
        output::print_json(&rows)?;
        return Ok(Exit::Pass);
    }
    let mut table = output::table([
        "TEST",
        "VERDICT",
        "BEFORE",
        "S",
        "SCHEDULER",
        "TOPOLOGY",
        "KERNEL",
        "WHY",
    ]);
    for row in &rows {
        let before = match &row.before {
            Some(before) if before != row.verdict => before.as_str(),
            Some(_) => "same",
            None => "new",
        };
        table.add_row([
            row.test.as_str(),
            row.verdict,
            before,
            &format!("{:.1}", row.seconds),
            row.scheduler.as_deref().unwrap_or("eevdf"),
            row.topology.as_deref().unwrap_or("-"),
            &row.kernel,
            &row.headline,
        ]);
    }
    let manifest = dirs.first().and_then(|dir| dir.manifest.as_ref());
    let revision = manifest
        .and_then(|manifest| manifest.commit.as_deref())
        .map_or("no revision", short);
    let run = dirs.first().map(runs::RunDir::run).unwrap_or_default();
    output::print(&format!("{run}  {revision}\n{}", output::lines(&table)))?;
    Ok(Exit::Pass)
}

fn row(case: &Case, before: Option<String>) -> Row {
    let sidecar = case.sidecar.as_ref();
    Row {
        test: case.name.clone(),
        kernel: case.kernel.clone(),
        verdict: case.verdict.as_str(),
        before,
        seconds: case.seconds,
        scheduler: sidecar.and_then(|sidecar| sidecar.scheduler.clone()),
        topology: sidecar.map(|sidecar| sidecar.topology.clone()),
        engine: sidecar.and_then(|sidecar| sidecar.engine.clone()),
        headline: case.headline(),
    }
}

fn short(revision: &str) -> &str {
    revision.get(..10).unwrap_or(revision)
}

fn trend(
    options: &Options,
    index: &Index,
    metric: &str,
    test: Option<&str>,
    last: usize,
) -> Result<Exit> {
    let points = index.points(metric, test)?;
    if points.is_empty() {
        bail!("{}", no_points(index, metric, test)?);
    }
    let mut shown: Vec<&Point> = Vec::new();
    for series in points.chunk_by(|a, b| (&a.test, &a.kernel) == (&b.test, &b.kernel)) {
        shown.extend(series.iter().skip(series.len().saturating_sub(last)));
    }
    if options.json {
        output::print_json(&shown)?;
        return Ok(Exit::Pass);
    }
    let mut text = String::new();
    for series in shown.chunk_by(|a, b| (&a.test, &a.kernel) == (&b.test, &b.kernel)) {
        text.push_str(&series_text(metric, series));
    }
    output::print(&text)?;
    Ok(Exit::Pass)
}

fn no_points(index: &Index, metric: &str, test: Option<&str>) -> Result<String> {
    let metrics = index.metrics()?;
    let alike: Vec<&str> = metrics
        .iter()
        .map(|(name, ..)| name.as_str())
        .filter(|name| {
            metric
                .split(['_', '.'])
                .any(|part| part.len() > 2 && name.contains(part))
        })
        .take(6)
        .collect();
    let of = test
        .map(|test| format!(" of test '{test}'"))
        .unwrap_or_default();
    Ok(match (metrics.is_empty(), alike.is_empty()) {
        (true, _) => String::from("no run has left any figures yet; run `cargo ktstr test`"),
        (_, true) => format!(
            "there is no metric '{metric}'{of}; `cargo ktstr stats list-metrics` names them"
        ),
        _ => format!(
            "there is no metric '{metric}'{of}; did you mean {}?",
            alike.join(", ")
        ),
    })
}

fn series_text(metric: &str, series: &[&Point]) -> String {
    let values: Vec<f64> = series.iter().map(|point| point.value).collect();
    let Some(first) = series.first() else {
        return String::new();
    };
    let mut text = format!(
        "{} on {}: {metric} {}  {}\n",
        first.test,
        first.kernel.as_deref().unwrap_or("-"),
        unit(metric),
        sparkline(&values)
    );
    let mut table = output::table(["TIME", "REVISION", "VERDICT", "VALUE", "CHANGE"]);
    let mut before: Option<f64> = None;
    for point in series {
        let change = before
            .filter(|before| *before != 0.0)
            .map(|before| (point.value / before - 1.0) * 100.0);
        let dirty = if point.dirty { "-dirty" } else { "" };
        table.add_row([
            date(point.at),
            format!("{}{dirty}", short(point.revision.as_deref().unwrap_or("-"))),
            point.verdict.clone(),
            number(point.value),
            change
                .map(|change| format!("{change:+.1} %"))
                .unwrap_or_default(),
        ]);
        before = Some(point.value);
    }
    text.push_str(&output::lines(&table));
    text
}

/// Four digits or so: enough to compare, no more.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |value: &f64| {
        let place = if high > low {
            (value - low) / (high - low)
        } else {
            0.5
        };
        BARS.iter().rev().enumerate().find_map(|(index, bar)| {
            let floor = f64::from(7 - u32::try_from(index).unwrap_or(7)) / 8.0;
            (place >= floor).then_some(*bar)
        })
    };
    values.iter().filter_map(bar).collect()
}

#[derive(Debug, Serialize)]
struct MetricRow {
    name: String,
    unit: &'static str,
    polarity: Polarity,
    values: u64,
    tests: u64,
}

fn list_metrics(options: &Options, index: &Index) -> Result<Exit> {
    let row = |(name, values, tests): (String, u64, u64)| MetricRow {
        unit: unit(&name),
        polarity: polarity(&name),
        name,
        values,
        tests,
    };
    let rows: Vec<MetricRow> = index.metrics()?.into_iter().map(row).collect();
    if options.json {
        output::print_json(&rows)?;
        return Ok(Exit::Pass);
    }
    let mut table = output::table(["METRIC", "UNIT", "POLARITY", "VALUES", "TESTS"]);
    for row in &rows {
        table.add_row([
            row.name.as_str(),
            row.unit,
            row.polarity.as_str(),
            &row.values.to_string(),
            &row.tests.to_string(),
        ]);
    }
    output::print(&output::lines(&table))?;
    Ok(Exit::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_bars_spans_low_to_high() {
        assert_eq!(sparkline(&[0.0, 50.0, 100.0]), "▁▅█");
        assert_eq!(sparkline(&[3.0, 3.0]), "▅▅");
    }
}
