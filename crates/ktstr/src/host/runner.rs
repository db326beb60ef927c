//! The main of a test binary that has no other harness: what `test_main!` runs on the host.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser as _;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::host::harness::{
    EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, cells_and_presets, home_of, init_tracing, is_wanted,
    other_duty, timings,
};
use crate::host::plan::config::{HostConfig, binary_name};
use crate::host::run::{Report, run_test};
use crate::host::tools::describe::{DESCRIBE_ENV, describe};
use crate::model::entry::{KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry};
use crate::model::registry::registry_faults;
use crate::model::verdict::Outcome;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_worst_of_all() {
        assert_eq!(exit_code(0, 0), EXIT_PASS);
        assert_eq!(exit_code(2, 2), EXIT_INCONCLUSIVE);
        assert_eq!(exit_code(3, 2), EXIT_FAIL, "one has no verdict at all");
        assert_eq!(exit_code(1, 0), EXIT_FAIL);
        let public = [crate::EXIT_PASS, crate::EXIT_FAIL, crate::EXIT_INCONCLUSIVE];
        assert_eq!(
            [EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE].map(i32::from),
            public
        );
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
