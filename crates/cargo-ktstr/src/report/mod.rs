//! `cargo ktstr report`: a run as one page or as a trace, or one failure of it for maintainers.

mod charts;
mod html;
mod maintainers;
mod page;
mod perfetto;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ktstr::host::evidence::artifacts::write_atomic;
use ktstr::host::evidence::timeline::Timeline;

use crate::exit::Exit;
use crate::output;
use crate::project::Project;
use crate::runs::{self, RunDir};
use crate::test::{Case, cases_of};

/// Which run, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The test that --for-maintainers is about.
    #[arg(requires = "for_maintainers")]
    test: Option<String>,
    /// Print one failed test as plain text for the maintainers of the kernel or the scheduler: kernel, shape, seed, replay line, steps
    /// and evidence, without paths of this machine.
    #[arg(long, requires = "test", conflicts_with_all = ["output", "perfetto"])]
    for_maintainers: bool,
    /// The run; the last one by default.
    #[arg(long)]
    run: Option<String>,
    /// The page; in the run's directory by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write a trace for ui.perfetto.dev instead.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    perfetto: Option<PathBuf>,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
}

/// Everything that the page and the trace show.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) dirs: Vec<RunDir>,
    pub(crate) tests: Vec<Shown>,
}

/// A test with its timeline.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) case: Case,
    pub(crate) timeline: Option<Timeline>,
}

/// Writes it and prints where.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let project = Project::find(options.manifest_path.as_deref())?;
    let run = gather(runs::select(&project, options.run.as_deref())?)?;
    if let (true, Some(test)) = (options.for_maintainers, &options.test) {
        output::print(&maintainers::render(&run, test)?)?;
        return Ok(Exit::Pass);
    }
    let (path, text) = match (&options.perfetto, &options.output) {
        (Some(path), _) => (path.clone(), perfetto::render(&run)?),
        (None, Some(path)) => (path.clone(), page::render(&run, parent(path))),
        (None, None) => {
            let dir = run
                .dirs
                .first()
                .map(|dir| dir.path.clone())
                .context("the run has no directory")?;
            (dir.join("report.html"), page::render(&run, &dir))
        }
    };
    write_atomic(&path, text.as_bytes())
        .with_context(|| format!("the report cannot be written to {}", path.display()))?;
    output::print(&format!("{}\n", path.display()))?;
    Ok(Exit::Pass)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn gather(dirs: Vec<RunDir>) -> Result<Run> {
    let mut tests = Vec::new();
    for dir in &dirs {
        for case in cases_of(dir)? {
            // Where the test's other artifacts lie: its binary's folder, where another binary has a test of that name.
            let timeline = case
                .sidecar
                .as_ref()
                .and_then(|sidecar| Timeline::read(&sidecar.dir, &sidecar.test));
            tests.push(Shown { case, timeline });
        }
    }
    let id = dirs.first().map(RunDir::run).unwrap_or_default();
    Ok(Run { id, dirs, tests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tests_of_one_name_in_two_binaries_keep_their_timelines() {
        let run = tempfile::tempdir().unwrap();
        for (binary, duration_ms) in [("a.it", 1.0), ("b.it", 2.0)] {
            let dir = run.path().join(binary);
            fs::create_dir(&dir).unwrap();
            let record = serde_json::json!({
                "schema": "ktstr.sidecar/1", "test": "t", "binary": binary, "verdict": "Pass", "topology": "1n1l2c1t",
                "total_ms": 5, "timed_out": false, "started_at": 1,
                "result": {"floor": "Pass", "details": [], "info_notes": [],
                           "stats": {"cgroups": [], "phases": [], "ext_metrics": {}}},
            });
            fs::write(dir.join("t.json"), record.to_string()).unwrap();
            let timeline = serde_json::json!({
                "schema": "ktstr.timeline/1", "duration_ms": duration_ms, "scenario_start_ms": null, "marks": [], "samples": [],
            });
            fs::write(dir.join("t.timeline.json"), timeline.to_string()).unwrap();
        }
        let shown = gather(vec![RunDir::open(run.path().to_owned())]).unwrap();
        let times: Vec<(&str, Option<f64>)> = shown
            .tests
            .iter()
            .map(|shown| {
                let timeline = shown.timeline.as_ref();
                (
                    shown.case.name.as_str(),
                    timeline.map(|one| one.duration_ms),
                )
            })
            .collect();
        assert_eq!(times, [("a.it::t", Some(1.0)), ("b.it::t", Some(2.0))]);
    }
}
