//! From a program's declared name to the file that goes into the guest: schedulers and payloads.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host::plan::config::Variable;

/// Where a program came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveSource {
    /// Nothing to run: the kernel schedules by itself.
    Kernel,
    /// `KTSTR_SCHEDULER` named it.
    Override,
    /// The declaration named its path.
    Path,
    /// Built by cargo from the workspace.
    Workspace,
    /// Found on `PATH`.
    OnPath,
}

impl fmt::Display for ResolveSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "in the kernel",
            Self::Override => Variable::Scheduler.name(),
            Self::Path => "the declared path",
            Self::Workspace => "built from the workspace",
            Self::OnPath => "found on PATH",
        })
    }
}

/// A program that cannot be run. Always a failure, never a skip.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The named file is not there or not a program.
    #[error(
        "{what} '{path}' ({source_name}) is not an executable file; build it, or correct the path",
        path = path.display()
    )]
    NotExecutable {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Where it was named.
        source_name: ResolveSource,
    },
    /// Neither the workspace nor `PATH` has it.
    #[error(
        "{what} '{name}' is neither a binary of the workspace at {workspace} nor on PATH; add it to the workspace, \
         install it{}",
        hint(what, name),
        workspace = workspace.display()
    )]
    NotFound {
        /// What it is for.
        what: &'static str,
        /// The name that was declared.
        name: String,
        /// Where cargo was asked.
        workspace: PathBuf,
    },
    /// Cargo refused to build it.
    #[error(
        "{what} '{name}' does not build (cargo exited with {status}); run `cargo build --workspace --bin {name}`\n{stderr}"
    )]
    Build {
        /// What it is for.
        what: &'static str,
        /// The binary target.
        name: String,
        /// Cargo's exit status.
        status: String,
        /// The end of cargo's error output.
        stderr: String,
    },
    /// Cargo itself could not be run.
    #[error("failed to run cargo for {what} '{name}'")]
    Cargo {
        /// What it is for.
        what: &'static str,
        /// The binary target.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A scheduler can be named by a variable too.
fn hint(what: &str, name: &str) -> String {
    let install = format!(" (`cargo install {name}`)");
    match what {
        "scheduler" => format!("{install}, or set KTSTR_SCHEDULER to its path"),
        _ => format!("{install}, or declare its path"),
    }
}

/// Finds the program `name`: in the workspace around `manifest_dir`, where it is built, or on `PATH`. `what` is for messages.
///
/// # Errors
/// When it is nowhere or does not build; the message names the next step.
pub(in crate::host) fn find_program(
    what: &'static str,
    name: &str,
    manifest_dir: &Path,
) -> Result<(PathBuf, ResolveSource), ProgramError> {
    if workspace_has(name, manifest_dir) {
        return checked(
            what,
            build(what, name, manifest_dir)?,
            ResolveSource::Workspace,
        );
    }
    match on_path(name) {
        Some(path) => Ok((path, ResolveSource::OnPath)),
        None => Err(ProgramError::NotFound {
            what,
            name: name.to_owned(),
            workspace: manifest_dir.to_owned(),
        }),
    }
}

/// The file, if it can be executed.
///
/// # Errors
/// When it cannot.
pub(in crate::host) fn checked(
    what: &'static str,
    path: PathBuf,
    source_name: ResolveSource,
) -> Result<(PathBuf, ResolveSource), ProgramError> {
    if is_executable(&path) {
        Ok((path, source_name))
    } else {
        Err(ProgramError::NotExecutable {
            what,
            path,
            source_name,
        })
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first executable file of this name in a directory of `PATH`.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

/// The cargo that called this process, or the one on `PATH`, as a shell would call it: without the variables by which it tells a
/// program its package (<https://doc.rust-lang.org/cargo/reference/environment-variables.html>). Some build scripts depend on these
/// (ring 0.17 does), so that each caller of another package would have all that needs such a crate built anew.
#[must_use]
pub fn cargo() -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    without_package(&mut command);
    command
}

/// Removes from a command's environment what tells the package that runs this process; see [`cargo`].
pub fn without_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if tells_the_package(&name) {
            command.env_remove(name);
        }
    }
}

fn tells_the_package(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    [&b"CARGO_PKG_"[..], b"CARGO_MANIFEST_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Asks cargo, offline and without building, whether the workspace has a binary target of this name.
fn workspace_has(name: &str, manifest_dir: &Path) -> bool {
    let output = cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(manifest_dir)
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    serde_json::from_slice::<Value>(&output.stdout)
        .is_ok_and(|metadata| has_bin_target(&metadata, name))
}

fn has_bin_target(metadata: &Value, name: &str) -> bool {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .any(|target| {
            target["name"] == name
                && target["kind"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
        })
}

/// Builds the binary target and returns the path that cargo reports for it.
fn build(what: &'static str, name: &str, manifest_dir: &Path) -> Result<PathBuf, ProgramError> {
    let fail = |source| ProgramError::Cargo {
        what,
        name: name.to_owned(),
        source,
    };
    let child = cargo()
        .args([
            "build",
            "--workspace",
            "--bin",
            name,
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(manifest_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let output = child.wait_with_output().map_err(fail)?;
    if !output.status.success() {
        return Err(ProgramError::Build {
            what,
            name: name.to_owned(),
            status: output.status.to_string(),
            stderr: last_lines(&String::from_utf8_lossy(&output.stderr), 40),
        });
    }
    let executable = BufReader::new(output.stdout.as_slice())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact" && message["target"]["name"] == name
        })
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .last();
    executable.ok_or_else(|| ProgramError::NotFound {
        what,
        name: name.to_owned(),
        workspace: manifest_dir.to_owned(),
    })
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bin_targets_count() {
        let metadata = serde_json::json!({"packages": [
            {"targets": [{"name": "sched", "kind": ["lib"]}, {"name": "sched", "kind": ["bin"]}]},
            {"targets": [{"name": "other", "kind": ["test"]}]},
        ]});
        assert!(has_bin_target(&metadata, "sched"));
        assert!(!has_bin_target(&metadata, "other"));
    }
}
