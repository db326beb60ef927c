//! Running without cargo-nextest: cargo builds, then each test of ktstr gets a process of its own, as under nextest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use ktstr::host::tools::describe::{DESCRIBE_ENV, DESCRIBE_SCHEMA, Description};
use serde::Deserialize;

use super::{Other, Pass, RunnerReport, Selection};
use crate::{interrupt, project};

/// A built test binary.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    /// Its package's directory: where tests run.
    pub(crate) dir: PathBuf,
    /// The target's name.
    pub(crate) name: String,
}

/// Another place to build than the working directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) root: &'a Path,
    pub(crate) target: &'a Path,
}

/// Builds the selected test binaries; `None` when the build failed, which cargo has told by itself.
///
/// # Errors
/// When cargo cannot be run.
pub(crate) fn build(
    selection: &Selection,
    place: Option<&Place<'_>>,
) -> Result<Option<Vec<Binary>>> {
    let output = {
        let mut command = project::cargo();
        command
            .args([
                "test",
                "--no-run",
                "--message-format=json-render-diagnostics",
            ])
            .args(selection.cargo_arguments())
            .stderr(Stdio::inherit());
        if let Some(place) = place {
            command
                .current_dir(place.root)
                .env("CARGO_TARGET_DIR", place.target);
        }
        command.output().context("failed to run cargo")?
    };
    if !output.status.success() {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut binaries: Vec<Binary> = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Message>(line) else {
            continue;
        };
        let is_test = message.profile.is_some_and(|profile| profile.test);
        if message.reason != "compiler-artifact" || !is_test {
            continue;
        }
        if let (Some(path), Some(manifest)) = (message.executable, message.manifest_path) {
            let dir = manifest.parent().map(PathBuf::from).unwrap_or_default();
            let name = message.target.map(|target| target.name).unwrap_or_default();
            binaries.push(Binary { path, dir, name });
        }
    }
    binaries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(binaries))
}

/// What a binary says of itself; `None` for one that is none of ktstr's.
pub(crate) fn describe(binary: &Binary) -> Option<Description> {
    let output = Command::new(&binary.path)
        .args(["--list", "--format", "terse"])
        .env(DESCRIBE_ENV, "1")
        .current_dir(&binary.dir)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let description: Description = serde_json::from_slice(&output.stdout).ok()?;
    (description.schema == DESCRIBE_SCHEMA).then_some(description)
}

/// The command that runs one test of ktstr, and only it.
///
/// # Errors
/// When nothing builds, or no binary has it; with the names that there are.
pub(crate) fn find(name: &str, selection: &Selection) -> Result<Command> {
    let selection = Selection {
        filters: vec![name.to_owned()],
        exact: true,
        include_ignored: true,
        ..selection.clone()
    };
    let Some(binaries) = build(&selection, None)? else {
        bail!("the tests could not be built; the compiler's words are above");
    };
    let mut known = Vec::new();
    for binary in &binaries {
        let Some(description) = describe(binary) else {
            continue;
        };
        if !list(binary, &selection)?.is_empty() {
            let mut command = Command::new(&binary.path);
            command.args(["--exact", name]).current_dir(&binary.dir);
            return Ok(command);
        }
        known.extend(description.tests.into_iter().map(|test| test.name));
    }
    bail!(
        "there is no test '{name}' of ktstr here; there are: {}",
        known.join(", ")
    )
}

/// Names of a binary's tests that are to be run.
///
/// # Errors
/// When the binary cannot be run.
pub(crate) fn list(binary: &Binary, selection: &Selection) -> Result<Vec<String>> {
    let list = |ignored: bool| -> Result<Vec<String>> {
        let mut command = Command::new(&binary.path);
        command
            .args(["--list", "--format", "terse"])
            .envs(selection.asks().map(|name| (name, "1")))
            .current_dir(&binary.dir);
        if ignored {
            command.arg("--ignored");
        }
        let output = command
            .output()
            .with_context(|| format!("failed to run {}", binary.path.display()))?;
        if !output.status.success() {
            bail!(
                "{} cannot list its tests: {}",
                binary.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    };
    let ignored = list(true)?;
    let wanted = |name: &String| {
        let is_ignored = ignored.contains(name);
        let by_flag = match (selection.ignored, selection.include_ignored) {
            (true, _) => is_ignored,
            (_, true) => true,
            _ => !is_ignored,
        };
        by_flag && selection.matches(name)
    };
    let mut names: Vec<String> = list(false)?.into_iter().filter(wanted).collect();
    names.sort();
    Ok(names)
}

/// Runs the tests of a pass.
///
/// # Errors
/// When cargo or a test binary cannot be run.
pub(super) fn run(pass: &Pass<'_>) -> Result<RunnerReport> {
    let mut report = RunnerReport::default();
    let Some(binaries) = build(&pass.options.selection, None)? else {
        report.broken = Some(String::from(
            "the tests could not be built; the compiler's words are above",
        ));
        return Ok(report);
    };
    let mut index = 0;
    for binary in &binaries {
        for name in list(binary, &pass.options.selection)? {
            let mine = pass.options.shard.is_none_or(|shard| shard.has(index));
            index += 1;
            if !mine {
                continue;
            }
            let test = run_one(binary, &name, pass)?;
            let stop = test.failed && pass.options.fail_fast;
            report.tests.push(test);
            if stop || interrupt::requested().is_some() {
                return Ok(report);
            }
        }
    }
    Ok(report)
}

fn run_one(binary: &Binary, name: &str, pass: &Pass<'_>) -> Result<Other> {
    let started = Instant::now();
    let mut command = command(binary, name, &pass.env);
    command.args(&pass.options.runner_args);
    let to_stdout = pass
        .options
        .ktap
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if pass.options.json || to_stdout {
        command.stdout(Stdio::null());
    }
    let status = interrupt::run(&mut command)?;
    Ok(Other {
        name: name.to_owned(),
        failed: !status.success(),
        message: if status.success() {
            String::new()
        } else {
            format!("{} ended with {status}", binary.name)
        },
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Runs one test and nothing else; what it has to say is in its sidecar.
///
/// # Errors
/// When the binary cannot be run.
pub(crate) fn run_alone(binary: &Binary, name: &str, env: &[(&str, OsString)]) -> Result<()> {
    let mut command = command(binary, name, env);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    interrupt::run(&mut command).map(drop)
}

fn command(binary: &Binary, name: &str, env: &[(&str, OsString)]) -> Command {
    let mut command = Command::new(&binary.path);
    command
        .args(["--exact", name, "--include-ignored"])
        .current_dir(&binary.dir)
        .env("CARGO_MANIFEST_DIR", &binary.dir)
        .envs(env.iter().map(|(name, value)| (*name, value)));
    command
}
