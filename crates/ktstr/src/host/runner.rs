//! The main of a test binary: which of its three parts it plays, and the host runner.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser as _;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::host::libtest::home_of;
use crate::host::plan::config::{HostConfig, Variable, binary_name};
use crate::host::run::{Report, run_test};
use crate::host::tools::describe::{DESCRIBE_ENV, describe, on_presets};
use crate::host::tools::export::{self, EXPORT_ENV};
use crate::host::tools::shell::{self, ShellOrder};
use crate::host::tools::verify::{cells, wants_cells};
use crate::model::entry::{KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry};
use crate::model::names::registry_faults;
use crate::model::verdict::Outcome;

/// A pass or a skip.
pub const EXIT_PASS: u8 = 0;
/// A failure.
pub const EXIT_FAIL: u8 = 1;
/// Not measurable.
pub const EXIT_INCONCLUSIVE: u8 = 2;
/// A wrong command line. Not 2, which is clap's habit: that means inconclusive here.
const EXIT_USAGE: u8 = 64;

/// The arguments of a test binary: those of libtest, which takes several filters.
#[derive(Debug, clap::Parser)]
#[command(disable_version_flag = true)]
struct HostArguments {
    #[command(flatten)]
    libtest: Arguments,
    /// More filters: a test that one of them fits is run.
    #[arg(value_name = "FILTERS")]
    more: Vec<String>,
}

impl HostArguments {
    /// What the process was given; a wrong command line ends it here, as `--help` does.
    fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // Nothing can be done if even this cannot be printed.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() {
                EXIT_USAGE
            } else {
                EXIT_PASS
            })
        })
    }

    fn filters(&self) -> Vec<String> {
        let first = self.libtest.filter.iter();
        first.chain(&self.more).cloned().collect()
    }
}

/// Lists, filters and runs the registered tests as libtest would, and maps the worst verdict to the exit code.
///
/// `manifest_dir` is the directory of the package that the tests belong to: schedulers are built in its workspace.
#[must_use]
pub fn run_host(manifest_dir: &'static str, package: &str) -> ExitCode {
    init_tracing();
    let args = match HostArguments::read() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let filters = args.filters();
    let mut args = args.libtest;
    if args.list && std::env::var_os(DESCRIBE_ENV).is_some() {
        return ExitCode::from(describe(manifest_dir));
    }
    // A name that means two tests would run one of them twice and tell of both.
    let faults = registry_faults(&KTSTR_TESTS, &KTSTR_SCHEDULERS);
    if !faults.is_empty() {
        for fault in faults {
            eprintln!("ktstr: {fault}");
        }
        return ExitCode::from(EXIT_FAIL);
    }
    let first = filters.first().map(String::as_str).unwrap_or_default();
    if let Some(done) = other_duty(first) {
        return match done {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("ktstr: {error:#}");
                ExitCode::from(EXIT_FAIL)
            }
        };
    }
    // One VM at a time, whatever libtest's default for this host: VMs that share CPUs disturb what they measure.
    args.test_threads = args.test_threads.or(Some(1));
    let config = match HostConfig::from_env() {
        Ok(config) => Arc::new(HostConfig {
            binary: binary_name(package),
            ..config
        }),
        Err(error) => {
            eprintln!("ktstr: {error}");
            return ExitCode::from(EXIT_FAIL);
        }
    };
    let mut entries: Vec<_> = KTSTR_TESTS.iter().copied().collect();
    entries.extend(cells_and_presets(&filters));
    entries.retain(|entry| is_wanted(entry.name, &filters, args.exact));
    ExitCode::from(run_all(args, entries, &config))
}

/// Tests on presets and cells of the verifier's sweep, if the filters or the environment ask for them.
pub(in crate::host) fn cells_and_presets(filters: &[String]) -> Vec<&'static KtstrTestEntry> {
    let mut entries = Vec::new();
    if wants_presets(filters) {
        entries.extend(KTSTR_TESTS.iter().flat_map(|entry| on_presets(entry)));
    }
    if wants_cells(filters) {
        entries.extend(cells());
    }
    entries
}

/// Runs those tests beside libtest's, with the rest of its arguments; an exit code.
pub(in crate::host) fn run_extras(
    entries: Vec<&'static KtstrTestEntry>,
    config: &Arc<HostConfig>,
) -> u8 {
    match HostArguments::read() {
        Ok(mut args) => {
            args.libtest.test_threads = args.libtest.test_threads.or(Some(1));
            run_all(args.libtest, entries, config)
        }
        Err(_) => EXIT_USAGE,
    }
}

/// `entries` are what the filters left.
fn run_all(
    mut args: Arguments,
    mut entries: Vec<&'static KtstrTestEntry>,
    config: &Arc<HostConfig>,
) -> u8 {
    let inconclusive = Arc::new(AtomicU64::new(0));
    // All of them have been applied; libtest-mimic knows one only.
    args.filter = None;
    entries.sort_by_key(|entry| entry.name);
    let trials = entries
        .into_iter()
        .map(|entry| trial(entry, config, &inconclusive));
    let conclusion = libtest_mimic::run(&args, trials.collect());
    exit_code(conclusion.num_failed, inconclusive.load(Ordering::Relaxed))
}

/// The worst of all: whatever ended without a verdict, a panic of ours or a place that could not be had, is a failure.
fn exit_code(unsuccessful: u64, inconclusive: u64) -> u8 {
    match unsuccessful {
        0 => EXIT_PASS,
        _ if unsuccessful > inconclusive => EXIT_FAIL,
        _ => EXIT_INCONCLUSIVE,
    }
}

/// The test of that name, also on a preset, also a cell of the verifier's sweep.
fn find_any(name: &str) -> anyhow::Result<&'static KtstrTestEntry> {
    let registered = KTSTR_TESTS.iter().copied();
    let mut all = registered.flat_map(|entry| std::iter::once(entry).chain(on_presets(entry)));
    all.find(|entry| entry.name == name)
        .or_else(|| cells().into_iter().find(|entry| entry.name == name))
        .ok_or_else(|| anyhow::anyhow!("there is no test '{name}' in this binary"))
}

/// What is asked for by a variable instead of a test run: a shell in the test's VM, or the test as a file.
pub(in crate::host) fn other_duty(name: &str) -> Option<anyhow::Result<u8>> {
    if let Some(order) = ShellOrder::from_env() {
        return Some(
            order
                .map_err(|error| anyhow::anyhow!(error))
                .and_then(|order| {
                    let entry = find_any(name)?;
                    shell::run(entry, &order, &home_of(entry))
                }),
        );
    }
    let path = std::env::var_os(EXPORT_ENV).filter(|path| !path.is_empty())?;
    Some(find_any(name).and_then(|entry| {
        export::run(entry, &home_of(entry), Path::new(&path))?;
        Ok(EXIT_PASS)
    }))
}

/// Tests on presets are many and ignored, so they are listed only for those who ask: by the variable, or by naming one.
fn wants_presets(filters: &[String]) -> bool {
    let asked = Variable::Gauntlet.value().is_some();
    asked || filters.iter().any(|filter| filter.contains('@'))
}

/// As libtest has it: one fitting filter is enough.
pub(in crate::host) fn is_wanted(name: &str, filters: &[String], exact: bool) -> bool {
    let fits = |filter: &String| {
        if exact {
            name == filter
        } else {
            name.contains(filter.as_str())
        }
    };
    filters.is_empty() || filters.iter().any(fits)
}

fn trial(
    entry: &'static KtstrTestEntry,
    config: &Arc<HostConfig>,
    inconclusive: &Arc<AtomicU64>,
) -> Trial {
    let (config, inconclusive) = (Arc::clone(config), Arc::clone(inconclusive));
    Trial::ignorable_test(entry.name, move || {
        let report = run_test(entry, &config, &home_of(entry));
        if report.outcome == Outcome::Inconclusive {
            inconclusive.fetch_add(1, Ordering::Relaxed);
        }
        conclude(&report, &config)
    })
    .with_ignored_flag(entry.ignore)
}

/// One line of where the time went.
pub(in crate::host) fn timings(report: &Report) -> String {
    let side = &report.sidecar;
    format!(
        "ktstr: {}: {} on {} (boot {} ms, VM {} ms, total {} ms)",
        side.test,
        side.verdict,
        side.engine.as_deref().unwrap_or("no engine"),
        side.boot_ms.unwrap_or(0),
        side.vm_ms.unwrap_or(0),
        side.total_ms
    )
}

fn conclude(report: &Report, config: &HostConfig) -> Result<Completion, Failed> {
    let side = &report.sidecar;
    if config.verbose {
        eprintln!("{}", timings(report));
    }
    for warning in &report.warnings {
        eprintln!("ktstr: warning: {}: {warning}", side.test);
    }
    match report.outcome {
        Outcome::Pass => Ok(Completion::Completed),
        Outcome::Skip => {
            eprintln!("ktstr: SKIP: {}: {}", side.test, report.text);
            Ok(Completion::ignored_with(&report.text))
        }
        Outcome::Fail | Outcome::Inconclusive => Err(Failed::from(&report.text)),
    }
}

/// Logs go to standard error, at the level that `RUST_LOG` asks for, warnings by default.
pub(in crate::host) fn init_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second call in one process keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_worst_of_all() {
        assert_eq!(exit_code(0, 0), EXIT_PASS);
        assert_eq!(exit_code(2, 2), EXIT_INCONCLUSIVE);
        assert_eq!(exit_code(3, 2), EXIT_FAIL, "one has no verdict at all");
        assert_eq!(exit_code(1, 0), EXIT_FAIL);
    }

    #[test]
    fn one_fitting_filter_is_enough() {
        let filters = ["steady".to_owned(), "left::".to_owned()];
        assert!(is_wanted("steady@4cpu", &filters, false));
        assert!(is_wanted("left::same", &filters, false));
        assert!(!is_wanted("right::same", &filters, false));
        assert!(!is_wanted("steady@4cpu", &filters, true));
        assert!(is_wanted("steady", &filters, true));
        assert!(is_wanted("anything", &[], true));
    }

    #[test]
    fn flags_may_stand_between_filters() {
        let args = ["binary", "a", "--exact", "b", "--test-threads", "2", "c"];
        let args = HostArguments::try_parse_from(args).unwrap();
        assert_eq!(args.filters(), ["a", "b", "c"]);
        assert!(args.libtest.exact);
        assert_eq!(args.libtest.test_threads, Some(2));
    }
}
