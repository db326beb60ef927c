//! `cargo ktstr test`

pub(crate) mod cargo;
mod case;
mod gauntlet;
mod junit;
mod ktap;
mod nextest;
mod select;
mod summary;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use clap::error::ErrorKind;
use ktstr::host::evidence::artifacts::write_atomic;
use ktstr::host::plan::kernel::default_cache;
use ktstr::model::verdict::Outcome;

use crate::engine::{self, EngineChoice, TimeChoice};
use crate::exit::Exit;
use crate::kernel::{self, KernelSpec, Resolved};
use crate::project::Project;
use crate::runs::{self, Manifest, RunDir};
use crate::{interrupt, output};

pub(crate) use crate::seen::{RunnerReport, Seen};
pub(crate) use case::{Case, cases_of};
pub(crate) use select::{Build, Selection, Shard};
pub(crate) use summary::rerun;

/// What to run, on what, and what to leave behind.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = format!("A KERNEL is {}.\n\nExit codes: 0 all passed or skipped, 1 a failure, 2 nothing failed but something \
    could not be judged, 64 a wrong command line.", kernel::FORMS))]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// A kernel to test on; each one named is one more pass over the tests.
    #[arg(long = "kernel", short = 'k', value_name = "KERNEL")]
    pub(crate) kernels: Vec<String>,
    /// What runs the VMs; auto takes KVM where it is genuine.
    #[arg(long, value_parser = engine::parser(), value_name = "ENGINE")]
    pub(crate) engine: Option<EngineChoice>,
    /// Whose time passes in guests; auto takes virtual time on tcg, where the test and the emulator allow it.
    #[arg(long, value_parser = engine::time_parser(), value_name = "CLOCK")]
    pub(crate) time: Option<TimeChoice>,
    /// The seed of runs in virtual time: the same seed is the same run.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// This binary in place of every scheduler that tests name.
    #[arg(long, value_name = "PATH")]
    pub(crate) scheduler: Option<PathBuf>,
    /// What runs the tests; auto takes cargo-nextest where it is installed.
    #[arg(long, value_enum, default_value_t = Runner::Auto)]
    pub(crate) runner: Runner,
    /// Run only the k-th of n parts of the tests, as 1/3.
    #[arg(long, value_name = "K/N")]
    pub(crate) shard: Option<Shard>,
    /// Stop at the first failure.
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Write a JUnit report.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write a KTAP report; - for standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) ktap: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show what passing tests print, too.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) gauntlet: gauntlet::Gauntlet,
    /// Passed to the runner as they are.
    #[arg(last = true, value_name = "RUNNER ARGS")]
    pub(crate) runner_args: Vec<OsString>,
}

/// What runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runner {
    Auto,
    Nextest,
    Cargo,
}

impl Options {
    /// Whether a report takes standard output, so that nothing else may be written there.
    pub(crate) fn takes_stdout(&self) -> bool {
        self.json || self.ktap_on_stdout()
    }

    fn ktap_on_stdout(&self) -> bool {
        let path = self.ktap.as_ref();
        path.is_some_and(|path| path.as_os_str() == "-")
    }

    /// What clap's own rules cannot say.
    ///
    /// # Errors
    /// When arguments contradict each other.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        if self.time == Some(TimeChoice::Host) && self.seed.is_some() {
            return Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                "--time host and --seed exclude each other: only virtual time has seeds\n",
            ));
        }
        if self.json && self.ktap_on_stdout() {
            return Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                "--json and --ktap - both take standard output; give --ktap a file\n",
            ));
        }
        Ok(())
    }
}

/// One pass over the tests.
pub(crate) struct Pass<'a> {
    pub(crate) options: &'a Options,
    pub(crate) workspace_root: &'a std::path::Path,
    pub(crate) dir: PathBuf,
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// Runs the tests on every kernel and tells how it went.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    if let Err(error) = options.check() {
        // Nothing can be done if even this cannot be printed.
        let _ = error.print();
        return Ok(crate::exit::of_usage(&error));
    }
    options.selection.check()?;
    let project = Project::find(options.selection.manifest_path.as_deref())?;
    let kernels = kernels(&options.kernels)?;
    let mut options = options.clone();
    if options.gauntlet.gauntlet {
        let Some(selection) = gauntlet::choose(&options, &project, kernels.len())? else {
            let mut finished = Finished::new(&runs::new_run_id());
            finished.broken.push(String::from(select::NOT_BUILT));
            return finished.tell(&options);
        };
        options.selection = selection;
        if options.gauntlet.list {
            return list(&options);
        }
    }
    let finished = run_all(&options, &project, &kernels, &project.runs_root())?;
    finished.tell(&options)
}

/// All kernels that were named, or the one that tests take by themselves.
pub(crate) fn kernels(named: &[String]) -> Result<Vec<Resolved>> {
    if named.is_empty() {
        return Ok(vec![kernel::resolve_default()?]);
    }
    let cache = default_cache();
    let specs: Vec<KernelSpec> = named
        .iter()
        .map(|text| KernelSpec::parse(text))
        .collect::<Result<_, _>>()?;
    let mut kernels = Vec::new();
    for spec in &specs {
        kernels.extend(kernel::resolve(spec, &cache, kernel::cpus())?);
    }
    kernel::label_apart(&mut kernels);
    Ok(kernels)
}

/// Prints which cells of the gauntlet would run.
fn list(options: &Options) -> Result<Exit> {
    let names = &options.selection.filters;
    if options.json {
        output::print_json(names)?;
    } else {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        output::print(&lines)?;
    }
    Ok(Exit::Pass)
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) run: String,
    pub(crate) dirs: Vec<RunDir>,
    pub(crate) cases: Vec<Case>,
    /// What kept the runner from running.
    pub(crate) broken: Vec<String>,
    /// How many tests the selection has, on all shards together.
    pub(crate) matched: usize,
    pub(crate) seconds: f64,
}

/// One pass per kernel, each with a directory of its own below `root`.
///
/// # Errors
/// When a pass cannot begin; a failing test is no error.
pub(crate) fn run_all(
    options: &Options,
    project: &Project,
    kernels: &[Resolved],
    root: &std::path::Path,
) -> Result<Finished> {
    let started = Instant::now();
    let run = runs::new_run_id();
    let runner = choose_runner(options)?;
    let mut finished = Finished::new(&run);
    for kernel in kernels {
        let name = if kernels.len() > 1 {
            format!("{run}.{}", kernel.label)
        } else {
            run.clone()
        };
        let dir = root.join(name);
        if kernels.len() > 1 {
            eprintln!("cargo ktstr: kernel {}", kernel.label);
        }
        let mut manifest = Manifest {
            kernel: kernel.value.clone(),
            kernel_label: kernel.label.clone(),
            engine: options.engine.map(|engine| engine.as_str().to_owned()),
            time: options.time.map(|time| time.as_str().to_owned()),
            seed: options.seed,
            scheduler: options.scheduler.as_deref().map(absolute),
            selection: options.selection.rerun_arguments(),
            ..Manifest::begin(&run, &project.workspace_root)
        };
        manifest.write(&dir)?;
        let pass = Pass {
            options,
            workspace_root: &project.workspace_root,
            dir: dir.clone(),
            env: environment(options, kernel, &dir),
        };
        let report = match runner {
            Runner::Cargo => cargo::run(&pass)?,
            _ => nextest::run(&pass)?,
        };
        finished.matched += report.matched;
        manifest.ended_at = Some(runs::now());
        manifest.tests = report.tests;
        manifest.broken = report.broken.clone();
        manifest.write(&dir)?;
        let opened = RunDir::open(dir.clone());
        let cases = cases_of(&opened)?;
        manifest.exit_code = Some(exit_of(&cases, report.broken.is_some()).code());
        manifest.write(&dir)?;
        finished.dirs.push(opened);
        finished.cases.extend(cases);
        finished.broken.extend(report.broken);
        if interrupt::requested().is_some() {
            break;
        }
    }
    finished.seconds = started.elapsed().as_secs_f64();
    Ok(finished)
}

impl Finished {
    /// One in which nothing has run yet.
    pub(crate) fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            dirs: Vec::new(),
            cases: Vec::new(),
            broken: Vec::new(),
            matched: 0,
            seconds: 0.0,
        }
    }

    /// Writes reports, prints the summary, and says how it ended.
    fn tell(&self, options: &Options) -> Result<Exit> {
        if let Some(path) = &options.junit {
            write_atomic(path, junit::render(self)?.as_bytes())?;
        }
        if let Some(path) = options.ktap.as_ref().filter(|_| !options.ktap_on_stdout()) {
            write_atomic(path, ktap::render(self).as_bytes())?;
        }
        if options.json {
            output::print_json(&summary::Json::new(self))?;
        } else if options.ktap_on_stdout() {
            output::print(&ktap::render(self))?;
            eprint!("{}", summary::render(self));
        } else {
            output::print(&summary::render(self))?;
        }
        if let Some(signal) = interrupt::requested() {
            return Ok(Exit::Interrupted(signal));
        }
        Ok(self.exit(options))
    }

    /// The worst verdict; a selection without any test is a failure, a shard without one of them is none.
    pub(crate) fn exit(&self, options: &Options) -> Exit {
        let nothing = self.cases.is_empty() && self.broken.is_empty();
        if nothing && (options.shard.is_none() || self.matched == 0) {
            eprintln!(
                "cargo ktstr: no test matches; `cargo ktstr test` runs all, add --include-ignored for ignored ones"
            );
            return Exit::Fail;
        }
        exit_of(&self.cases, !self.broken.is_empty())
    }
}

fn exit_of(cases: &[Case], broken: bool) -> Exit {
    let worst = cases
        .iter()
        .map(|case| case.verdict)
        .max()
        .unwrap_or(Outcome::Skip);
    if broken { Exit::Fail } else { worst.into() }
}

fn choose_runner(options: &Options) -> Result<Runner> {
    match options.runner {
        Runner::Cargo if options.selection.needs_nextest() => anyhow::bail!(
            "--runner cargo cannot read filter expressions (-E); leave --runner out where cargo-nextest is installed, or give \
            parts of names"
        ),
        Runner::Cargo => Ok(Runner::Cargo),
        Runner::Nextest => {
            nextest::version().context("cargo-nextest is not installed; `cargo install cargo-nextest --locked` installs it, \
                or use --runner cargo")?;
            Ok(Runner::Nextest)
        }
        Runner::Auto => match nextest::version() {
            Some(_) => Ok(Runner::Nextest),
            None if options.selection.needs_nextest() => {
                anyhow::bail!(
                    "filter expressions (-E) need cargo-nextest; `cargo install cargo-nextest --locked` installs it"
                )
            }
            None => Ok(Runner::Cargo),
        },
    }
}

fn environment(
    options: &Options,
    kernel: &Resolved,
    dir: &std::path::Path,
) -> Vec<(&'static str, OsString)> {
    let mut env: Vec<(&'static str, OsString)> = vec![
        ("KTSTR_RUN_DIR", dir.into()),
        // It would win over the run's directory.
        ("KTSTR_SIDECAR_DIR", OsString::new()),
    ];
    if let Some(value) = &kernel.value {
        env.extend(kernel::environment(value));
    }
    env.extend(options.selection.asks().map(|name| (name, "1".into())));
    if let Some(engine) = options.engine {
        env.push(("KTSTR_ENGINE", engine.as_str().into()));
    }
    if let Some(time) = options.time {
        env.push(("KTSTR_TIME", time.as_str().into()));
    }
    if let Some(seed) = options.seed {
        env.push(("KTSTR_SEED", seed.to_string().into()));
    }
    if let Some(scheduler) = &options.scheduler {
        env.push(("KTSTR_SCHEDULER", absolute(scheduler).into()));
    }
    if options.verbose {
        env.push(("KTSTR_VERBOSE", "1".into()));
    }
    env
}

/// For a process or a rerun that starts elsewhere.
fn absolute(path: &std::path::Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
