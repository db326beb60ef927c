//! `cargo ktstr replay`: the failed tests of a run, again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::exit::Exit;
use crate::output::{self, shell_word};
use crate::project::Project;
use crate::runs::{self, RunDir};
use crate::test::{self, Case, cases_of};

/// Which run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The run; the last one by default.
    #[arg(long)]
    run: Option<String>,
    /// Only print the commands.
    #[arg(long)]
    dry_run: bool,
    /// The project, when it is not here.
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
}

/// Reads what `cargo ktstr test` would.
#[derive(Debug, Parser)]
struct Again {
    #[command(flatten)]
    test: test::Options,
}

/// Runs them, one `cargo ktstr test` per kernel.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let project = Project::find(options.manifest_path.as_deref())?;
    let mut exit = Exit::Pass;
    let mut found = false;
    let manifest_path = options
        .manifest_path
        .as_deref()
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
