//! `cargo ktstr verifier`: every declared scheduler, loaded for real.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Result, bail};
use ktstr::host::tools::describe::{BinaryKind, Description};
use ktstr::model::verdict::Outcome;
use serde::Serialize;

use crate::engine::{self, EngineChoice};
use crate::exit::Exit;
use crate::project::Project;
use crate::runs::{self, Manifest, RunDir};
use crate::test::cargo::{self, Binary};
use crate::test::{Selection, cases_of, rerun};
use crate::{interrupt, kernel, output, test};

/// `BPF_COMPLEXITY_LIMIT_INSNS`: more instructions than this the verifier does not look at.
const INSN_LIMIT: u32 = 1_000_000;

/// Which cells of schedulers, kernels and presets.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A cell is green when the scheduler's programs pass the verifier, it attaches, and two busy workers per CPU \
    (of SCHED_EXT, so that a scheduler which switches only such tasks has them, too) all make progress under it for 8 s, which \
    is longer than the kernel's watchdog lets a lost task wait (5 s)."
)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: Selection,
    /// Only this scheduler, by its declared name.
    #[arg(long, value_name = "NAME")]
    scheduler: Vec<String>,
    /// Only on this preset.
    #[arg(long, value_name = "NAME")]
    preset: Vec<String>,
    /// Only on presets of at most so many CPUs.
    #[arg(long, value_name = "N", default_value_t = 8)]
    max_cpus: u32,
    /// A kernel; repeatable.
    #[arg(long = "kernel", short = 'k', value_name = "KERNEL")]
    kernels: Vec<String>,
    /// What runs the VMs.
    #[arg(long, value_parser = engine::parser(), value_name = "ENGINE")]
    engine: Option<EngineChoice>,
    /// Show the whole message of each red cell.
    #[arg(long)]
    log: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// One scheduler on one kernel and preset.
#[derive(Debug, Serialize)]
struct Cell {
    scheduler: String,
    kernel: String,
    preset: String,
    verdict: &'static str,
    /// The log of a rejection among it, with repeated loops collapsed.
    message: String,
    headline: String,
    programs: Vec<Program>,
    rerun: String,
    #[serde(skip)]
    outcome: Outcome,
}

#[derive(Debug, Clone, Serialize)]
struct Program {
    name: String,
    verified_insns: u32,
    /// Share of the limit that is left, percent.
    headroom_pct: f64,
}

/// What is to be run: a binary and a test of it.
struct Job {
    binary: Binary,
    scheduler: String,
    preset: String,
}

impl Job {
    fn test(&self) -> String {
        match self.preset.as_str() {
            DECLARED => format!("verify-{}", self.scheduler),
            preset => format!("verify-{}@{preset}", self.scheduler),
        }
    }
}

/// The scheduler's own topology.
const DECLARED: &str = "declared";

/// Runs the cells and shows them.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    options.selection.check()?;
    options.selection.refuse_expressions("verifier")?;
    for (flag, given) in [
        ("--ignored", options.selection.ignored),
        ("--include-ignored", options.selection.include_ignored),
    ] {
        if given {
            bail!("{flag} chooses tests, and the verifier runs cells, not tests; leave it out");
        }
    }
    let project = Project::find(options.selection.manifest_path.as_deref())?;
    let kernels = test::kernels(&options.kernels)?;
    let Some(binaries) = cargo::build(&options.selection, None)? else {
        bail!("the tests could not be built; see the compiler output above");
    };
    let jobs = jobs(options, binaries)?;
    let run = runs::new_run_id();
    let mut cells = Vec::new();
    'kernels: for kernel in &kernels {
        let dir = project.runs_root().join(format!("{run}.{}", kernel.label));
        let mut manifest = Manifest {
            kernel: kernel.value.clone(),
            kernel_label: kernel.label.clone(),
            engine: options.engine.map(|engine| engine.as_str().to_owned()),
            selection: options.selection.rerun_arguments(),
            ..Manifest::begin(&run, &project.workspace_root)
        };
        manifest.write(&dir)?;
        for job in &jobs {
            eprintln!(
                "cargo ktstr: {} on {}, {}",
                job.scheduler, job.preset, kernel.label
            );
            cargo::run_alone(
                &job.binary,
                &job.test(),
                &environment(options, kernel.value.as_deref(), &dir),
            )?;
            if interrupt::requested().is_some() {
                break 'kernels;
            }
            cells.push(cell(job, &dir, &kernel.label)?);
        }
        manifest.ended_at = Some(runs::now());
        manifest.write(&dir)?;
    }
    if options.json {
        output::print_json(&cells)?;
    } else {
        output::print(&render(&cells, options.log))?;
    }
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    Ok(cells
        .iter()
        .map(|cell| cell.outcome)
        .max()
        .unwrap_or(Outcome::Fail)
        .into())
}

fn jobs(options: &Options, binaries: Vec<Binary>) -> Result<Vec<Job>> {
    let mut described: Vec<(Binary, Description)> = Vec::new();
    for binary in binaries {
        if let Some(description) = cargo::describe(&binary)? {
            described.push((binary, description));
        }
    }
    let mut jobs = Vec::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (binary, description) in &described {
        for scheduler in &description.schedulers {
            // A scheduler that several binaries declare is one scheduler.
            if scheduler.kind == BinaryKind::Eevdf || !known.insert(scheduler.name.clone()) {
                continue;
            }
            let asked = options.scheduler.is_empty() || options.scheduler.contains(&scheduler.name);
            if !(asked && options.selection.matches(&scheduler.name)) {
                continue;
            }
            let on = |preset: &str| Job {
                binary: binary.clone(),
                scheduler: scheduler.name.clone(),
                preset: preset.to_owned(),
            };
            if options.preset.is_empty() {
                jobs.push(on(DECLARED));
            }
            let presets = description.presets.iter().filter(|preset| {
                let asked = options.preset.is_empty() || options.preset.contains(&preset.name);
                asked && preset.cpus <= options.max_cpus
            });
            jobs.extend(presets.map(|preset| on(&preset.name)));
        }
    }
    if jobs.is_empty() {
        let known: Vec<String> = known.into_iter().collect();
        if known.is_empty() {
            bail!(
                "no test binary here declares a scheduler; declare one with `declare_scheduler!`"
            );
        }
        bail!(
            "no cell is left; declared are {}, presets have up to 252 CPUs (--max-cpus)",
            known.join(", ")
        );
    }
    Ok(jobs)
}

fn environment(
    options: &Options,
    kernel: Option<&str>,
    dir: &Path,
) -> Vec<(&'static str, OsString)> {
    let mut env: Vec<(&'static str, OsString)> = vec![
        ("KTSTR_VERIFIER", "1".into()),
        ("KTSTR_SIDECAR_DIR", dir.into()),
    ];
    if let Some(kernel) = kernel {
        env.extend(kernel::environment(kernel));
    }
    if let Some(engine) = options.engine {
        env.push(("KTSTR_ENGINE", engine.as_str().into()));
    }
    env
}

fn cell(job: &Job, dir: &Path, kernel: &str) -> Result<Cell> {
    let opened = RunDir::open(dir.to_owned());
    let case = cases_of(&opened)?
        .into_iter()
        .find(|case| case.name == job.test());
    let mut cell = Cell {
        scheduler: job.scheduler.clone(),
        kernel: kernel.to_owned(),
        preset: job.preset.clone(),
        verdict: "fail",
        message: String::from("the test's process left no record"),
        headline: String::from("the test's process left no record"),
        programs: Vec::new(),
        rerun: String::new(),
        outcome: Outcome::Fail,
    };
    if let Some(case) = case {
        let program = |name: &str, verified_insns: u32| Program {
            name: name.to_owned(),
            verified_insns,
            headroom_pct: 100.0 * (1.0 - f64::from(verified_insns) / f64::from(INSN_LIMIT)),
        };
        cell.verdict = case.verdict.as_str();
        cell.outcome = case.verdict;
        cell.headline = case.headline();
        cell.rerun = rerun(&case);
        let stats = case
            .sidecar
            .as_ref()
            .map(|sidecar| sidecar.verifier_stats.as_slice());
        cell.programs = stats
            .unwrap_or_default()
            .iter()
            .map(|one| program(&one.name, one.verified_insns))
            .collect();
        cell.message = case.message;
    }
    Ok(cell)
}

fn render(cells: &[Cell], log: bool) -> String {
    let mut text = grid(cells);
    text.push('\n');
    text.push_str(&programs(cells));
    for cell in cells.iter().filter(|cell| cell.outcome > Outcome::Pass) {
        text.push_str(&format!(
            "\n{} {} on {}, {}: {}\n    again: {}\n",
            cell.verdict, cell.scheduler, cell.preset, cell.kernel, cell.headline, cell.rerun
        ));
        if log {
            text.push_str(&cell.message);
        }
    }
    text
}

/// Schedulers and kernels down, presets across.
fn grid(cells: &[Cell]) -> String {
    let mut presets: Vec<&str> = Vec::new();
    for cell in cells {
        if !presets.contains(&cell.preset.as_str()) {
            presets.push(&cell.preset);
        }
    }
    let mut table = output::table(["SCHEDULER", "KERNEL"]);
    let mut header = vec!["SCHEDULER", "KERNEL"];
    header.extend(&presets);
    table.set_header(header);
    let mut rows: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for cell in cells {
        let row = rows
            .entry((&cell.scheduler, &cell.kernel))
            .or_insert_with(|| vec![String::from("-"); presets.len()]);
        let place = presets.iter().position(|preset| *preset == cell.preset);
        if let Some(slot) = place.and_then(|place| row.get_mut(place)) {
            *slot = match cell.outcome {
                Outcome::Pass => String::from("✓"),
                Outcome::Fail => String::from("✗"),
                Outcome::Inconclusive => String::from("?"),
                Outcome::Skip => String::from("skip"),
            };
        }
    }
    for ((scheduler, kernel), row) in rows {
        let mut words = vec![scheduler.to_owned(), kernel.to_owned()];
        words.extend(row);
        table.add_row(words);
    }
    output::lines(&table)
}

/// Per program, the range over all cells that have it.
fn programs(cells: &[Cell]) -> String {
    let mut ranges: BTreeMap<(&str, &str), (u32, u32)> = BTreeMap::new();
    for cell in cells {
        for program in &cell.programs {
            let insns = program.verified_insns;
            let range = ranges
                .entry((&cell.scheduler, &program.name))
                .or_insert((insns, insns));
            *range = (range.0.min(insns), range.1.max(insns));
        }
    }
    if ranges.is_empty() {
        return String::from("no program's figures were read\n");
    }
    let mut table = output::table(["SCHEDULER", "PROGRAM", "VERIFIED INSNS", "HEAD-ROOM"]);
    for ((scheduler, program), (low, high)) in ranges {
        let range = if low == high {
            low.to_string()
        } else {
            format!("{low} to {high}")
        };
        let left = 100.0 * (1.0 - f64::from(high) / f64::from(INSN_LIMIT));
        table.add_row([scheduler, program, &range, &format!("{left:.1} %")]);
    }
    output::lines(&table)
}
