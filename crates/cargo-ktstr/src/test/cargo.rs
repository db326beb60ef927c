//! Running without cargo-nextest: cargo builds, then each test of ktstr gets a process of its own, as under nextest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::select::{Listed, NOT_BUILT};
use super::{Pass, RunnerReport, Seen, Selection};
use crate::{interrupt, project};
use anyhow::{Context as _, Result, bail};
use ktstr::host::tools::describe::{DESCRIBE_ENV, DESCRIBE_SCHEMA, Description};

/// A built test binary.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    /// Its package's directory: where tests run.
    pub(crate) dir: PathBuf,
    /// The target's name.
    pub(crate) name: String,
    /// The package's.
    pub(crate) package: String,
}

impl Binary {
    /// Its name in our records.
    fn id(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
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
    let mut binaries: Vec<Binary> = Vec::new();
    for message in cargo_metadata::Message::parse_stream(output.stdout.as_slice()) {
        let Ok(cargo_metadata::Message::CompilerArtifact(artifact)) = message else {
            continue;
        };
        if !artifact.profile.test {
            continue;
        }
        let Some(path) = artifact.executable else {
            continue;
        };
        let dir = artifact.manifest_path.parent();
        binaries.push(Binary {
            path: path.into(),
            dir: dir.map(PathBuf::from).unwrap_or_default(),
            name: artifact.target.name,
            package: package_of(artifact.manifest_path.as_std_path()),
        });
    }
    binaries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(binaries))
}

/// The name of the package whose manifest this is; that of its directory when cargo cannot read it any more.
fn package_of(manifest: &Path) -> String {
    let mut command = cargo_metadata::MetadataCommand::new();
    let metadata = command.manifest_path(manifest).no_deps().exec();
    let named = metadata.ok().and_then(|metadata| {
        let mut packages = metadata.packages.into_iter();
        packages.find(|package| package.manifest_path == manifest)
    });
    named.map_or_else(
        || {
            let dir = manifest.parent().and_then(Path::file_name);
            dir.map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        },
        |package| package.name.to_string(),
    )
}

/// What a binary says of itself; `None` for one that is none of ktstr's.
///
/// # Errors
/// When it is one of ktstr's and refuses to run.
pub(crate) fn describe(binary: &Binary) -> Result<Option<Description>> {
    let Some(description) = ask(binary) else {
        return Ok(None);
    };
    if !description.faults.is_empty() {
        bail!(
            "the test binary {} cannot be run: {}",
            binary.name,
            description.faults.join("; ")
        );
    }
    Ok(Some(description))
}

fn ask(binary: &Binary) -> Option<Description> {
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
pub(crate) fn find(
    name: &str,
    selection: &Selection,
    place: Option<&Place<'_>>,
) -> Result<Command> {
    let selection = Selection {
        filters: vec![name.to_owned()],
        exact: true,
        include_ignored: true,
        ..selection.clone()
    };
    let Some(binaries) = build(&selection, place)? else {
        bail!("{NOT_BUILT}");
    };
    let mut known = Vec::new();
    for binary in &binaries {
        let Some(description) = describe(binary)? else {
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
        "no ktstr test named '{name}'; there are: {}",
        known.join(", ")
    )
}

/// Names of a binary's tests that are to be run.
///
/// # Errors
/// When the binary cannot be run.
pub(crate) fn list(binary: &Binary, selection: &Selection) -> Result<Vec<String>> {
    let wanted = |test: &Listed| {
        let by_flag = match (selection.ignored, selection.include_ignored) {
            (true, _) => test.ignored,
            (_, true) => true,
            _ => !test.ignored,
        };
        by_flag && selection.matches(&test.name)
    };
    let all = list_all(binary, selection)?.into_iter();
    let mut names: Vec<String> = all.filter(wanted).map(|test| test.name).collect();
    names.sort();
    Ok(names)
}

/// Every test of a binary.
fn list_all(binary: &Binary, selection: &Selection) -> Result<Vec<Listed>> {
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
    let listed = |name: String| Listed {
        ignored: ignored.contains(&name),
        name,
    };
    Ok(list(false)?.into_iter().map(listed).collect())
}

/// Runs the tests of a pass.
///
/// # Errors
/// When cargo or a test binary cannot be run, or a test that was named exactly does not exist.
pub(super) fn run(pass: &Pass<'_>) -> Result<RunnerReport> {
    let mut report = RunnerReport::default();
    let selection = &pass.options.selection;
    let Some(binaries) = build(selection, None)? else {
        report.broken = Some(String::from(NOT_BUILT));
        return Ok(report);
    };
    let mut listed = Vec::new();
    let mut jobs = Vec::new();
    for binary in &binaries {
        if selection.exact {
            listed.extend(list_all(binary, selection)?);
        }
        let names = list(binary, selection)?.into_iter();
        jobs.extend(names.map(|name| (binary, name)));
    }
    selection.check_exact(&listed)?;
    report.matched = jobs.len();
    for (index, (binary, name)) in jobs.into_iter().enumerate() {
        if !pass.options.shard.is_none_or(|shard| shard.has(index)) {
            continue;
        }
        let test = run_one(binary, &name, pass)?;
        let stop = test.failed && pass.options.fail_fast;
        report.tests.push(test);
        if stop || interrupt::requested().is_some() {
            break;
        }
    }
    Ok(report)
}

fn run_one(binary: &Binary, name: &str, pass: &Pass<'_>) -> Result<Seen> {
    let started = Instant::now();
    let mut command = command(binary, name, &pass.env);
    command.args(&pass.options.runner_args);
    if pass.options.takes_stdout() {
        command.stdout(Stdio::null());
    }
    let status = interrupt::run(&mut command)?;
    Ok(Seen {
        binary: binary.id(),
        name: name.to_owned(),
        failed: !status.success(),
        message: if status.success() {
            String::new()
        } else {
            format!("{} ended with {status}", binary.name)
        },
        seconds: started.elapsed().as_secs_f64(),
        failed_before: Vec::new(),
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
