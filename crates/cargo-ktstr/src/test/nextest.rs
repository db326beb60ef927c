//! Running through cargo-nextest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::select::{Listed, NOT_BUILT};
use super::{Pass, RunnerReport, Seen, junit};
use crate::{interrupt, kernel, project};

/// Nextest's own status for "some tests failed, or it was stopped".
const TESTS_FAILED: i32 = 100;
/// Nextest's own status for "the tests do not build".
const BUILD_FAILED: i32 = 101;
/// Nextest's own status for "nothing to run".
const NO_TESTS: i32 = 4;
/// The profile whose report is ours: a project's own configuration of its report is left alone.
const PROFILE: &str = "ktstr";

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
fn junit_path(dir: &Path) -> PathBuf {
    dir.join(".nextest.xml")
}

/// Runs the tests of a pass.
///
/// # Errors
/// When nextest cannot be run, its report cannot be read, or a test that was named exactly does not exist.
pub(super) fn run(pass: &Pass<'_>) -> Result<RunnerReport> {
    let config = Config::write(pass)?;
    let suites = match list(pass, &config)? {
        Ok(suites) => suites,
        Err(broken) => {
            return Ok(RunnerReport {
                broken: Some(broken),
                ..RunnerReport::default()
            });
        }
    };
    let listed: Vec<Listed> = suites.values().flat_map(Suite::listed).collect();
    pass.options.selection.check_exact(&listed)?;
    let matched = suites.values().map(Suite::matched).sum();
    let mut command = command(pass, &config, "run");
    command.arg("--no-tests=pass");
    arguments_of_run(&mut command, pass);
    let status = interrupt::run(&mut command)?;
    let tests = match fs::read_to_string(junit_path(&pass.dir)) {
        Ok(xml) => seen(&xml, &suites)?,
        // Written once something ran.
        Err(_) => Vec::new(),
    };
    let broken = match status.code() {
        Some(0 | NO_TESTS) => None,
        Some(TESTS_FAILED) if tests.iter().any(|test| test.failed) => None,
        _ if interrupt::requested().is_some() => None,
        Some(BUILD_FAILED) => Some(String::from(NOT_BUILT)),
        _ => Some(format!(
            "cargo nextest ended with {status}; see its output above"
        )),
    };
    Ok(RunnerReport {
        tests,
        matched,
        broken,
    })
}

fn seen(xml: &str, suites: &BTreeMap<String, Suite>) -> Result<Vec<Seen>> {
    let seen = |test: junit::Read| Seen {
        binary: suites
            .get(&test.suite)
            .map_or_else(|| test.suite.clone(), Suite::binary),
        message: if test.message.is_empty() && test.failed {
            String::from("its process failed")
        } else {
            test.message
        },
        name: test.name,
        failed: test.failed,
        seconds: test.seconds,
        failed_before: test.failed_before,
    };
    Ok(junit::read(xml)?.into_iter().map(seen).collect())
}

/// The configuration of a pass, beside its results.
struct Config {
    flag: &'static str,
    value: String,
    /// What of the user's arguments is not in the configuration.
    rest: Vec<std::ffi::OsString>,
}

impl Config {
    /// Beneath the project's own configuration: no more tests at once than VMs may run. Above it: where our report goes. A
    /// profile that the user chose is inherited, which only the file that holds it can do: that is copied, with ours behind.
    fn write(pass: &Pass<'_>) -> Result<Self> {
        let chosen = Chosen::from(&pass.options.runner_args);
        let report = format!(
            "[profile.{PROFILE}.junit]\npath = {:?}\nreport-name = \"ktstr\"\n",
            junit_path(&pass.dir).display().to_string()
        );
        let path = pass.dir.join(".nextest.toml");
        let base = match (&chosen.profile, &chosen.file) {
            (None, None) => None,
            (_, Some(file)) => Some(file.clone()),
            (Some(_), None) => Some(pass.workspace_root.join(".config/nextest.toml")),
        };
        let (flag, value, text) = match base {
            None => {
                let threads = (kernel::cpus() / 2).max(1);
                let text = format!("[profile.default]\ntest-threads = {threads}\n\n{report}");
                (
                    "--tool-config-file",
                    format!("ktstr:{}", path.display()),
                    text,
                )
            }
            Some(base) => {
                let own = fs::read_to_string(&base).with_context(|| {
                    format!(
                        "the nextest configuration {} cannot be read",
                        base.display()
                    )
                })?;
                let profile = chosen.profile.as_deref().unwrap_or("default");
                let text =
                    format!("{own}\n[profile.{PROFILE}]\ninherits = {profile:?}\n\n{report}");
                ("--config-file", path.display().to_string(), text)
            }
        };
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Self {
            flag,
            value,
            rest: chosen.rest,
        })
    }
}

/// What the user's runner arguments say of nextest's configuration.
#[derive(Debug, Default, PartialEq)]
struct Chosen {
    profile: Option<String>,
    file: Option<PathBuf>,
    rest: Vec<std::ffi::OsString>,
}

impl Chosen {
    fn from(args: &[std::ffi::OsString]) -> Self {
        let mut chosen = Self {
            profile: std::env::var("NEXTEST_PROFILE")
                .ok()
                .filter(|profile| !profile.is_empty()),
            ..Self::default()
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            let (flag, inline) = match text.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (text.as_ref(), None),
            };
            let mut value = || {
                let next = || args.next().map(|next| next.to_string_lossy().into_owned());
                inline.clone().or_else(next)
            };
            match flag {
                "--profile" | "-P" => chosen.profile = value(),
                "--config-file" => chosen.file = value().map(PathBuf::from),
                _ => chosen.rest.push(arg.clone()),
            }
        }
        chosen.profile = chosen.profile.filter(|profile| profile != "default");
        chosen
    }
}

/// A test binary as `cargo nextest list` shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Suite {
    package_name: String,
    binary_name: String,
    testcases: BTreeMap<String, Test>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Test {
    ignored: bool,
    filter_match: Match,
}

#[derive(Debug, Deserialize)]
struct Match {
    status: String,
}

impl Suite {
    /// Its name in our records.
    fn binary(&self) -> String {
        format!("{}.{}", self.package_name, self.binary_name)
    }

    fn listed(&self) -> impl Iterator<Item = Listed> + '_ {
        self.testcases.iter().map(|(name, test)| Listed {
            name: name.clone(),
            ignored: test.ignored,
        })
    }

    fn matched(&self) -> usize {
        let tests = self.testcases.values();
        tests
            .filter(|test| test.filter_match.status == "matches")
            .count()
    }
}

/// Every test binary with its tests, by nextest's name of it; or why there is none.
fn list(
    pass: &Pass<'_>,
    config: &Config,
) -> Result<std::result::Result<BTreeMap<String, Suite>, String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct List {
        rust_suites: BTreeMap<String, Suite>,
    }
    let mut command = command(pass, config, "list");
    command.args(["--message-format", "json"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run cargo nextest")?;
    match output.status.code() {
        Some(0 | NO_TESTS) => {}
        Some(BUILD_FAILED) => return Ok(Err(String::from(NOT_BUILT))),
        _ => {
            return Ok(Err(format!(
                "cargo nextest cannot list the tests ({}); see its output above",
                output.status
            )));
        }
    }
    let list: List = serde_json::from_slice(&output.stdout)
        .context("the output of `cargo nextest list` has an unknown format")?;
    Ok(Ok(list.rust_suites))
}

/// What both of nextest's commands take: what to build, which tests, which configuration.
fn command(pass: &Pass<'_>, config: &Config, subcommand: &str) -> Command {
    let selection = &pass.options.selection;
    let mut command = project::cargo();
    command
        .args(["nextest", subcommand])
        .args(selection.cargo_arguments())
        .args([config.flag, &config.value])
        .args(["--profile", PROFILE]);
    if selection.ignored {
        command.args(["--run-ignored", "only"]);
    } else if selection.include_ignored {
        command.args(["--run-ignored", "all"]);
    }
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
    command.envs(pass.env.iter().map(|(name, value)| (*name, value)));
    // Chosen already; it would win over the command line's.
    command.env_remove("NEXTEST_PROFILE");
    let rest = config.rest.iter().map(std::ffi::OsString::as_os_str);
    if subcommand == "run" {
        command.args(rest.collect::<Vec<&OsStr>>());
    }
    command
}

fn arguments_of_run(command: &mut Command, pass: &Pass<'_>) {
    let options = pass.options;
    command.arg(if options.fail_fast {
        "--fail-fast"
    } else {
        "--no-fail-fast"
    });
    if let Some(shard) = options.shard {
        command
            .arg("--partition")
            .arg(format!("count:{}/{}", shard.k, shard.n));
    }
    if options.verbose {
        command.args(["--success-output", "immediate"]);
    }
    if options.takes_stdout() {
        command.stdout(Stdio::null());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_the_users_is_taken_out_of_the_arguments() {
        let chosen = |args: &[&str]| {
            let args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
            Chosen::from(&args)
        };
        let ci = chosen(&["--retries", "2", "-P", "ci", "--config-file=c.toml"]);
        assert_eq!(ci.profile.as_deref(), Some("ci"));
        assert_eq!(ci.file, Some(PathBuf::from("c.toml")));
        assert_eq!(ci.rest, ["--retries", "2"]);
        assert_eq!(chosen(&["--profile", "default"]), Chosen::default());
    }
}
