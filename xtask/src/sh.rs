//! Running commands, with a log and a line of progress each.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo builds to.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A log file below the target directory.
pub(crate) fn log_path(name: &str) -> Result<PathBuf> {
    let dir = target().join("xtask-logs");
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir.join(format!("{name}.log")))
}

/// Cargo, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// A spinner with the elapsed time on a terminal, one plain line in a pipe.
fn spinner(name: &str, log: &Path) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if spinner.is_hidden() {
        eprintln!("  {name} …");
        return spinner;
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(format!("{name} (log {})", log.display()));
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Runs `command` with its output in a log; the error shows the end of the log and where it is.
pub(crate) fn logged(name: &str, command: &mut Command) -> Result<()> {
    let path = log_path(name)?;
    let log =
        File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    let errors = log.try_clone().context("failed to share the log")?;
    let started = Instant::now();
    let spinner = spinner(name, &path);
    let status = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .status();
    spinner.finish_and_clear();
    let status = status.with_context(|| format!("failed to run {command:?}"))?;
    let seconds = started.elapsed().as_secs_f64();
    if status.success() {
        eprintln!("  {name} ok ({seconds:.1} s)");
        return Ok(());
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    bail!(
        "{name} failed ({status}, {seconds:.1} s); run {command:?}; log {}:\n{}",
        path.display(),
        telling(&text)
    )
}

/// What a log says of a failure: the tests that failed, wherever they are in it, and its end.
fn telling(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let (head, tail) = lines.split_at(lines.len().saturating_sub(TAIL));
    let mut shown: Vec<&str> = head
        .iter()
        .copied()
        .filter(|line| line.ends_with("FAILED") || line.contains(") panicked at "))
        .take(MOST_FAILURES)
        .collect();
    if !shown.is_empty() {
        shown.push("…");
    }
    shown.extend(tail);
    shown.join("\n")
}

/// Lines at the end of a log that a failure shows.
const TAIL: usize = 40;
/// Lines about failed tests that it shows before them.
const MOST_FAILURES: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_failed_early_is_named() {
        let mut log = String::from("test a::fine ... ok\ntest a::wrong ... FAILED\n");
        log.push_str("thread 'a::wrong' (7) panicked at src/a.rs:3:5:\n");
        log.push_str(&"Doc-tests\n".repeat(100));
        let told = telling(&log);
        assert!(
            told.starts_with("test a::wrong ... FAILED\nthread 'a::wrong'"),
            "{told}"
        );
        assert!(
            !told.contains("fine") && told.lines().count() == TAIL + 3,
            "{told}"
        );
    }
}
