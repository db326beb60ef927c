//! One test under seeds: the run of one seed, and what came of it.

pub(crate) mod again;
mod differ;
pub(crate) mod explore;
mod found;
pub(crate) mod look;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use ktstr::host::evidence::sidecar::{Sidecar, collect_pool};

use crate::kernel;
use crate::test::Build;
use crate::test::cargo::{self, Place};

/// How the test that the argument `test` names is built and run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) build: Build,
    /// The kernel to test on.
    #[arg(long, short, value_name = "KERNEL", requires = "test")]
    kernel: Option<String>,
    /// This binary in place of every scheduler that the test names.
    #[arg(long, value_name = "PATH", requires = "test")]
    scheduler: Option<PathBuf>,
}

impl RunOptions {
    /// On the kernel and with the schedulers that tests choose by themselves.
    pub(crate) fn of(build: Build) -> Self {
        Self {
            build,
            kernel: None,
            scheduler: None,
        }
    }
}

/// A test that is built, to be run under any seed.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    env: Vec<(&'static str, OsString)>,
}

impl Built {
    /// Builds the test and finds its kernel.
    ///
    /// # Errors
    /// When either fails, or there is no such test.
    pub(crate) fn new(test: &str, options: &RunOptions) -> Result<Self> {
        Self::in_place(test, options, None)
    }

    /// The same of a project elsewhere, whatever manifest the options name.
    ///
    /// # Errors
    /// As those of [`new`](Self::new).
    pub(crate) fn in_place(
        test: &str,
        options: &RunOptions,
        place: Option<&Place<'_>>,
    ) -> Result<Self> {
        let mut env: Vec<(&'static str, OsString)> = Vec::new();
        if let Some(named) = &options.kernel {
            let kernels = crate::test::kernels(std::slice::from_ref(named))?;
            let [
                kernel::Resolved {
                    value: Some(value), ..
                },
            ] = kernels.as_slice()
            else {
                anyhow::bail!("--kernel {named} names several kernels; name one of them");
            };
            env.extend(kernel::environment(value));
        }
        if let Some(scheduler) = &options.scheduler {
            let path = std::path::absolute(scheduler).context("--scheduler cannot be read")?;
            env.push(("KTSTR_SCHEDULER", path.into()));
        }
        let mut selection = options.build.selection();
        if place.is_some() {
            selection.manifest_path = None;
        }
        let command = cargo::find(test, &selection, place)?;
        Ok(Self {
            name: test.to_owned(),
            program: command.get_program().to_owned(),
            args: command.get_args().map(OsString::from).collect(),
            dir: command.get_current_dir().map(PathBuf::from),
            env,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same test with this binary in place of every scheduler that it names.
    pub(crate) fn with_scheduler(&self, program: &Path) -> Self {
        let mut other = self.clone();
        other.env.push(("KTSTR_SCHEDULER", program.into()));
        other
    }

    /// The command that runs it under `seed` and leaves its record in `dir`.
    pub(crate) fn command(&self, seed: u64, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .arg("--include-ignored")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("KTSTR_SEED", seed.to_string())
            .env("KTSTR_TIME", "virtual")
            .env("KTSTR_SIDECAR_DIR", dir)
            .stdin(Stdio::null());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// The same of a run whose output was kept: where there is none, what the test binary said.
    pub(crate) fn record_of(&self, run: &Output, dir: &Path) -> Result<Sidecar> {
        self.record(dir).with_context(|| {
            let said = String::from_utf8_lossy(&run.stderr).trim().to_owned();
            format!("the test binary ended with {}: {said}", run.status)
        })
    }

    /// The record that a run has left in `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn record(&self, dir: &Path) -> Result<Sidecar> {
        let records = collect_pool(dir)
            .with_context(|| format!("failed to read {}", dir.display()))?
            .sidecars;
        let mut records = records.into_iter();
        let record = records.find(|record| record.test == self.name);
        record.with_context(|| format!("'{}' has left no record", self.name))
    }
}
