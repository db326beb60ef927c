//! What a test binary does on the host under either harness, Rust's own and libtest-mimic: which tests there are beside those
//! that are listed anyway, what it does instead of running tests, and what it says of each.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use crate::host::plan::config::Variable;
use crate::host::run::Report;
use crate::host::tools::describe::on_presets;
use crate::host::tools::export::{self, EXPORT_ENV};
use crate::host::tools::shell::{self, ShellOrder};
use crate::host::tools::verify::{cells, wants_cells};
use crate::model::entry::{KTSTR_SCHEDULERS, KTSTR_TESTS, KtstrTestEntry, TEST_MAINS};

/// A pass or a skip.
pub(in crate::host) const EXIT_PASS: u8 = 0;
/// A failure.
pub(in crate::host) const EXIT_FAIL: u8 = 1;
/// Not measurable.
pub(in crate::host) const EXIT_INCONCLUSIVE: u8 = 2;

/// The directory of the package that the test belongs to. Cargo and nextest run tests in it.
pub(in crate::host) fn home_of(entry: &KtstrTestEntry) -> PathBuf {
    let own = [entry.manifest_dir]
        .into_iter()
        .chain(entry.scheduler.map(|scheduler| scheduler.manifest_dir));
    let known = own.chain(homes()).find(|dir| !dir.is_empty());
    known.map_or_else(
        || std::env::current_dir().unwrap_or_default(),
        PathBuf::from,
    )
}

pub(in crate::host) fn homes() -> impl Iterator<Item = &'static str> {
    let tests = KTSTR_TESTS.iter().map(|entry| entry.manifest_dir);
    let schedulers = KTSTR_SCHEDULERS.iter().map(|one| one.manifest_dir);
    TEST_MAINS.iter().copied().chain(tests).chain(schedulers)
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

/// Tests on presets are many and ignored, so they are listed only on request: by the variable, or by naming one.
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

/// One line of where the time went.
pub(in crate::host) fn timings(report: &Report) -> String {
    let side = &report.sidecar;
    let clock = match (side.clock.seed, &side.clock.fingerprint) {
        (Some(seed), Some(fingerprint)) => {
            format!(", virtual time, seed {seed}, fingerprint {fingerprint}")
        }
        _ => String::new(),
    };
    format!(
        "ktstr: {}: {} on {}{clock} (boot {} ms, VM {} ms, total {} ms)",
        side.test,
        side.verdict,
        side.engine.as_deref().unwrap_or("no engine"),
        side.boot_ms.unwrap_or(0),
        side.vm_ms.unwrap_or(0),
        side.total_ms
    )
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
    fn one_fitting_filter_is_enough() {
        let filters = ["steady".to_owned(), "left::".to_owned()];
        assert!(is_wanted("steady@4cpu", &filters, false));
        assert!(is_wanted("left::same", &filters, false));
        assert!(!is_wanted("right::same", &filters, false));
        assert!(!is_wanted("steady@4cpu", &filters, true));
        assert!(is_wanted("steady", &filters, true));
        assert!(is_wanted("anything", &[], true));
    }
}
