//! Tests under Rust's own harness: what each `#[test]` that `#[ktstr_test]` made does, and what libtest cannot know of.
//!
//! libtest finds, filters, lists and runs the `#[test]`s, and nothing here changes that. It does not know tests on presets
//! (`name@preset`), cells of the verifier's sweep, and entries that were registered by hand. Those are listed and run by
//! [`before`], which is called ahead of libtest's `main`.

use std::io::Write as _;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use crate::host::harness::{
    EXIT_FAIL, cells_and_presets, home_of, homes, init_tracing, is_wanted, other_duty, timings,
};
use crate::host::plan::config::{HostConfig, binary_name};
use crate::host::run::{Report, run_test};
use crate::host::runner::run_extras;
use crate::host::tools::describe::{DESCRIBE_ENV, describe};
use crate::host::tools::verify::VERIFIER_ENV;
use crate::model::entry::{KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry, LIBTEST_TESTS};
use crate::model::registry::registry_faults;
use crate::model::role::VERIFIER_CELL;
use crate::model::verdict::Outcome;

/// Set for the half of a run that is libtest's alone.
const LIBTEST_ALONE: &str = "KTSTR_LIBTEST_ALONE";

/// The body of the `#[test]` that `#[ktstr_test]` makes: runs it on the host, as `test_main!` would.
///
/// # Panics
/// When the test did not pass and was not skipped; the message is on standard error, where libtest keeps it for the summary.
pub fn run_in_libtest(entry: &'static KtstrTestEntry) {
    init_tracing();
    let text = match of_process(entry.package) {
        Ok(config) => {
            let report = run_test(entry, config, &home_of(entry));
            tell(&report, config.verbose);
            match report.outcome {
                Outcome::Pass | Outcome::Skip => return,
                Outcome::Fail => report.text,
                Outcome::Inconclusive => format!(
                    "{}\ninconclusive: it was not measured; Rust's own harness has no such result, so it reports FAILED\n",
                    report.text.trim_end()
                ),
            }
        }
        Err(text) => text.clone(),
    };
    eprintln!("Error: {}", text.trim_end());
    // A panic whose message is told already: libtest shows no place in this library, which is not where the fault is.
    std::panic::resume_unwind(Box::new("the test did not pass"));
}

/// What every test needs, made once; an error is one of the whole binary.
fn of_process(package: &str) -> Result<&'static Arc<HostConfig>, &'static String> {
    static SHARED: OnceLock<Result<Arc<HostConfig>, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let faults = registry_faults(&KTSTR_TESTS, &KTSTR_SCHEDULERS);
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        let config = HostConfig::from_env().map_err(|error| error.to_string())?;
        Ok(Arc::new(HostConfig {
            binary: binary_name(package),
            ..config
        }))
    });
    shared.as_ref()
}

/// Lines about a test that are printed whatever its verdict. Past libtest, which throws away what passing tests print: a skip that nobody
/// sees would be a pass.
fn tell(report: &Report, verbose: bool) {
    let side = &report.sidecar;
    let mut lines = Vec::new();
    if report.outcome == Outcome::Skip {
        lines.push(format!("ktstr: SKIP: {}: {}", side.test, report.text));
    }
    if verbose {
        lines.push(timings(report));
    }
    let warnings = report.warnings.iter();
    lines.extend(warnings.map(|warning| format!("ktstr: warning: {}: {warning}", side.test)));
    if lines.is_empty() {
        return;
    }
    // Nothing can be done if even this cannot be printed.
    let _ = std::io::stderr().write_all(format!("{}\n", lines.join("\n")).as_bytes());
}

/// What this process does ahead of libtest's `main`; with an exit status, instead of it.
pub(crate) fn before(args: &[String]) -> Option<u8> {
    let asked = Asked::parse(args);
    if asked.list && std::env::var_os(DESCRIBE_ENV).is_some() {
        return Some(describe(
            homes().find(|dir| !dir.is_empty()).unwrap_or_default(),
        ));
    }
    let cells_alone = std::env::var_os(VERIFIER_ENV).is_some_and(|value| !value.is_empty());
    // Another program than a test binary may have schedulers declared in it: its arguments are its own.
    if LIBTEST_TESTS.is_empty() && !cells_alone || std::env::var_os(LIBTEST_ALONE).is_some() {
        return None;
    }
    let first = asked
        .filters
        .first()
        .map(String::as_str)
        .unwrap_or_default();
    if let Some(done) = other_duty(first) {
        return Some(done.unwrap_or_else(|error| {
            eprintln!("ktstr: {error:#}");
            EXIT_FAIL
        }));
    }
    let extras = extras(&asked);
    if extras.is_empty() {
        return None;
    }
    if asked.list {
        let names = extras.iter().map(|entry| format!("{}: test\n", entry.name));
        // Without a reader libtest's own list fails as well.
        let _ = std::io::stdout().write_all(names.collect::<String>().as_bytes());
        return None;
    }
    init_tracing();
    let theirs = match asked.for_libtest(&extras) {
        Some(args) => libtest_alone(&args),
        None => 0,
    };
    let package = extras.iter().map(|entry| entry.package);
    let package = package.chain(KTSTR_TESTS.iter().map(|entry| entry.package));
    let package = package.into_iter().find(|name| !name.is_empty());
    let package = package.map_or_else(
        || std::env::var("CARGO_PKG_NAME").unwrap_or_default(),
        str::to_owned,
    );
    let ours = match of_process(&package) {
        Ok(config) => run_extras(extras, config),
        Err(text) => {
            eprintln!("ktstr: {text}");
            EXIT_FAIL
        }
    };
    Some(if theirs == 0 { ours } else { theirs })
}

/// Runs this binary once more, as if there were no test that libtest does not know; its exit status.
fn libtest_alone(args: &[String]) -> u8 {
    let program = std::env::current_exe().unwrap_or_default();
    let status = Command::new(program)
        .args(args)
        .env(LIBTEST_ALONE, "1")
        .status();
    match status {
        Ok(status) => status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(EXIT_FAIL),
        Err(error) => {
            eprintln!("ktstr: the binary cannot be run a second time for its other tests: {error}");
            EXIT_FAIL
        }
    }
}

/// Tests that libtest does not know, as far as the command line wants them.
fn extras(asked: &Asked) -> Vec<&'static KtstrTestEntry> {
    let by_hand = KTSTR_TESTS.iter().copied();
    let by_hand =
        by_hand.filter(|entry| !LIBTEST_TESTS.iter().any(|known| known.name == entry.name));
    let mut all: Vec<_> = by_hand.collect();
    all.extend(cells_and_presets(&asked.filters));
    all.retain(|entry| asked.wants(entry));
    all.sort_by_key(|entry| entry.name);
    all
}

/// What of libtest's command line says which tests are meant. The rest is libtest's to read, and to refuse.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    list: bool,
    exact: bool,
    ignored: bool,
    include_ignored: bool,
    filters: Vec<String>,
    skip: Vec<String>,
    /// Everything that is no filter, in its order.
    flags: Vec<String>,
}

/// Flags of libtest whose value may be a word of its own.
const WITH_VALUE: [&str; 8] = [
    "--skip",
    "--test-threads",
    "--format",
    "--color",
    "--logfile",
    "--shuffle-seed",
    "--report-time",
    "-Z",
];

impl Asked {
    fn parse(args: &[String]) -> Self {
        let mut asked = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with('-') {
                asked.filters.push(arg.clone());
                continue;
            }
            if arg == "--" {
                asked.filters.extend(args.by_ref().cloned());
                break;
            }
            asked.flags.push(arg.clone());
            match arg.as_str() {
                "--list" => asked.list = true,
                "--exact" => asked.exact = true,
                "--ignored" => asked.ignored = true,
                "--include-ignored" => asked.include_ignored = true,
                "--skip" => asked.skip.extend(args.clone().next().cloned()),
                _ => {
                    if let Some(name) = arg.strip_prefix("--skip=") {
                        asked.skip.push(name.to_owned());
                    }
                }
            }
            if WITH_VALUE.contains(&arg.as_str()) {
                asked.flags.extend(args.next().cloned());
            }
        }
        asked
    }

    fn wants(&self, entry: &KtstrTestEntry) -> bool {
        let by_flag = match (self.ignored, self.include_ignored, self.list) {
            (true, false, _) => entry.ignore,
            (_, true, _) | (_, _, true) => true,
            _ => !entry.ignore,
        };
        let skipped = !self.skip.is_empty() && is_wanted(entry.name, &self.skip, self.exact);
        by_flag && !skipped && is_wanted(entry.name, &self.filters, self.exact)
    }

    /// The arguments for a run of libtest beside ours; `None` where nothing is left for it.
    fn for_libtest(&self, extras: &[&KtstrTestEntry]) -> Option<Vec<String>> {
        let only_ours = |filter: &&String| {
            filter.contains('@')
                || filter.starts_with(VERIFIER_CELL)
                || self.exact && extras.iter().any(|entry| entry.name == **filter)
        };
        let theirs: Vec<String> = self
            .filters
            .iter()
            .filter(|filter| !only_ours(filter))
            .cloned()
            .collect();
        let nothing = theirs.is_empty() && !self.filters.is_empty();
        (!nothing).then(|| self.flags.iter().cloned().chain(theirs).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Asked::parse(&words)
    }

    const NAMED: KtstrTestEntry = KtstrTestEntry {
        name: "steady@4cpu",
        ignore: true,
        ..KtstrTestEntry::DEFAULT
    };

    #[test]
    fn values_of_flags_are_no_filters() {
        let asked = asked("--test-threads 2 a --skip b --format terse --exact -- -c");
        assert_eq!(
            (asked.filters, asked.skip),
            (vec!["a".into(), "-c".into()], vec![String::from("b")])
        );
        assert!(asked.exact && !asked.list);
        assert_eq!(asked.flags.len(), 7, "{:?}", asked.flags);
    }

    #[test]
    fn an_ignored_extra_runs_when_asked_for_and_is_always_listed() {
        for (line, wanted) in [
            ("", false),
            ("--include-ignored", true),
            ("--ignored stea", true),
            ("--ignored other", false),
            ("--list", true),
            ("--list --ignored", true),
            ("--include-ignored --skip @4cpu", false),
            ("--include-ignored --exact steady", false),
        ] {
            assert_eq!(asked(line).wants(&NAMED), wanted, "{line}");
        }
    }

    #[test]
    fn libtest_runs_beside_where_a_filter_may_mean_its_tests() {
        let rest = |line: &str| asked(line).for_libtest(&[&NAMED]);
        assert_eq!(rest("--exact steady@4cpu --nocapture"), None);
        assert_eq!(rest("--ignored verify-x"), None);
        assert_eq!(
            rest("--include-ignored"),
            Some(vec!["--include-ignored".to_owned()])
        );
        assert_eq!(
            rest("steady@4cpu plain -q"),
            Some(vec!["-q".to_owned(), "plain".to_owned()])
        );
    }
}
