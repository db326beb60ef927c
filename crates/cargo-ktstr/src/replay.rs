//! `cargo ktstr replay`: the failed tests of a run, or one test under one seed, again.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use clap::Parser;
use ktstr::host::evidence::clock::Identity;

use crate::exit::Exit;
use crate::output::{self, shell_word};
use crate::project::Project;
use crate::runs::{self, RunDir};
use crate::seeds::{RunOptions, again};
use crate::test::{self, Case, cases_of};

/// Which run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: as those of `cargo ktstr test`; 3 when a run of a seed is not the one whose identity or fingerprint is given."
)]
pub(crate) struct Options {
    /// One test, by its whole name, under the seed that is given; without it, all that failed in a run.
    #[arg(requires = "seed", conflicts_with_all = ["run", "dry_run"])]
    test: Option<String>,
    /// The seed of virtual time: the same seed is the same run.
    #[arg(long, value_name = "N", requires = "test")]
    seed: Option<u64>,
    /// What the run must be made of; its replay line says it.
    #[arg(long, value_name = "HASH", requires = "test")]
    identity: Option<Identity>,
    /// The fingerprint that the run must have.
    #[arg(long, value_name = "HASH", requires = "test")]
    fingerprint: Option<String>,
    #[command(flatten)]
    how: RunOptions,
    /// The run; the last one by default.
    #[arg(long)]
    run: Option<String>,
    /// Only print the commands.
    #[arg(long)]
    dry_run: bool,
}

/// Reads what `cargo ktstr test` would.
#[derive(Debug, Parser)]
struct Again {
    #[command(flatten)]
    test: test::Options,
}

/// Runs them, one `cargo ktstr test` per kernel.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    if let (Some(test), Some(seed)) = (&options.test, options.seed) {
        let wanted = again::Wanted {
            identity: options.identity,
            fingerprint: options.fingerprint.as_deref(),
        };
        return again::run(test, seed, &wanted, &options.how);
    }
    let manifest_path = options.how.build.manifest_path.as_deref();
    let project = Project::find(manifest_path)?;
    let mut exit = Exit::Pass;
    let mut found = false;
    let manifest_path = manifest_path
        .map(std::path::absolute)
        .transpose()
        .context("--manifest-path cannot be read")?;
    for dir in runs::select(&project, options.run.as_deref())? {
        if let Some(broken) = dir.manifest.as_ref().and_then(|run| run.broken.as_deref()) {
            eprintln!(
                "cargo ktstr: run {} could not run its tests: {broken}; start it again with `cargo ktstr test`",
                dir.name()
            );
            exit = worse(exit, Exit::Fail);
        }
        let Some(mut args) = arguments(&dir)? else {
            continue;
        };
        // The run was started where its project is; this may be elsewhere.
        if let Some(path) = &manifest_path
            && !args.contains(&String::from("--manifest-path"))
        {
            let path = path.display().to_string();
            args.splice(0..0, [String::from("--manifest-path"), path]);
        }
        found = true;
        let words: Vec<String> = args.iter().map(|word| shell_word(word)).collect();
        output::print(&format!("cargo ktstr test {}\n", words.join(" ")))?;
        if options.dry_run {
            continue;
        }
        let again = Again::try_parse_from(std::iter::once(String::from("test")).chain(args))
            .context("the run's manifest holds arguments that this version does not know")?;
        exit = worse(exit, test::run(&again.test)?);
        if matches!(exit, Exit::Interrupted(_)) {
            break;
        }
    }
    if !found && exit == Exit::Pass {
        eprintln!("cargo ktstr: nothing failed in that run");
    }
    Ok(exit)
}

/// Arguments that run what failed in this directory; `None` when nothing did.
fn arguments(dir: &RunDir) -> Result<Option<Vec<String>>> {
    let failed: Vec<String> = cases_of(dir)?
        .into_iter()
        .filter(Case::is_bad)
        .map(|case| case.test().to_owned())
        .collect::<BTreeSet<String>>()
        .into_iter()
        .collect();
    if failed.is_empty() {
        return Ok(None);
    }
    let mut args = dir.rerun_arguments();
    args.extend([String::from("--include-ignored"), String::from("--exact")]);
    args.extend(failed);
    Ok(Some(args))
}

/// Fail before inconclusive before pass; an interrupt before all.
fn worse(a: Exit, b: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Pass => 0,
        Exit::Inconclusive => 1,
        Exit::Fail | Exit::Usage | Exit::Command(_) => 2,
        Exit::Interrupted(_) => 3,
    };
    if rank(b) > rank(a) { b } else { a }
}
