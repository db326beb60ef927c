//! Running through cargo-nextest.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::junit;
use super::{Other, Pass, RunnerReport};
use crate::{interrupt, kernel, project};

/// What nextest calls itself; `None` when it is not installed.
pub(crate) fn version() -> Option<String> {
    let output = project::cargo()
        .args(["nextest", "--version"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Where this pass has nextest write its own report.
fn junit_path(dir: &Path) -> std::path::PathBuf {
    dir.join(".nextest.xml")
}

/// Runs the tests of a pass.
///
/// # Errors
/// When nextest cannot be run, or its report cannot be read.
pub(super) fn run(pass: &Pass<'_>) -> Result<RunnerReport> {
    let config = pass.dir.join(".nextest.toml");
    fs::write(&config, tool_config(&pass.dir))
        .with_context(|| format!("failed to write {}", config.display()))?;
    let status = interrupt::run(&mut command(pass, &config))?;
    let xml = fs::read_to_string(junit_path(&pass.dir)).unwrap_or_default();
    let tests: Vec<Other> = junit::read(&xml);
    // 0: all passed; 100: some failed, or it was stopped; 4: nothing to run.
    let broken = match status.code() {
        Some(0 | 4) => None,
        Some(100) if tests.iter().any(|test| test.failed) => None,
        _ if interrupt::requested().is_some() => None,
        Some(101) => Some(String::from(
            "the tests could not be built; the compiler's words are above",
        )),
        _ => Some(format!(
            "cargo nextest ended with {status}; its words are above"
        )),
    };
    Ok(RunnerReport { tests, broken })
}

/// Defaults beneath the project's own nextest configuration: a report, and no more tests at once than VMs may run.
fn tool_config(dir: &Path) -> String {
    let path = junit_path(dir).display().to_string();
    format!(
        "[profile.default]\ntest-threads = {}\n\n[profile.default.junit]\npath = {path:?}\nreport-name = \"ktstr\"\n",
        (kernel::cpus() / 2).max(1)
    )
}

fn command(pass: &Pass<'_>, config: &Path) -> Command {
    let options = pass.options;
    let selection = &options.selection;
    let mut command = project::cargo();
    command
        .args(["nextest", "run"])
        .args(selection.cargo_arguments());
    command
        .arg("--tool-config-file")
        .arg(format!("ktstr:{}", config.display()));
    command.arg("--no-tests=pass");
    command.arg(if options.fail_fast {
        "--fail-fast"
    } else {
        "--no-fail-fast"
    });
    if selection.ignored {
        command.args(["--run-ignored", "only"]);
    } else if selection.include_ignored {
        command.args(["--run-ignored", "all"]);
    }
    if let Some(shard) = options.shard {
        command
            .arg("--partition")
            .arg(format!("count:{}/{}", shard.k, shard.n));
    }
    if options.verbose {
        command.args(["--success-output", "immediate"]);
    }
    command.args(&options.runner_args);
    for expression in &selection.expressions {
        command.arg("-E").arg(expression);
    }
    if selection.exact {
        let tests: Vec<String> = selection
            .filters
            .iter()
            .map(|name| format!("test(={name})"))
            .collect();
        command.arg("-E").arg(tests.join(" + "));
    } else {
        command.args(&selection.filters);
    }
    if options.json
        || options
            .ktap
            .as_ref()
            .is_some_and(|path| path.as_os_str() == "-")
    {
        command.stdout(Stdio::null());
    }
    command.envs(pass.env.iter().map(|(name, value)| (*name, value)));
    command
}
