//! `cargo ktstr bisect`: which version or revision brought a failure, or took it away.
//!
//! Each step is a test in virtual time under the same seeds, so that it is a verdict and not a coin.

mod crates;
mod revisions;
mod search;
mod step;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::exit::Exit;
use crate::output;
use crate::project::Project;
use crate::seeds::{Built, RunOptions};
use crate::{interrupt, runs};

use search::{Tried, first_new};
use step::{Again, Judged, Verdict};

/// What to search, and with which test.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo ktstr bisect my_test --good-rev v1.2 --bad-rev HEAD\n  \
    cargo ktstr bisect my_test --scheduler scx_lavd --good 1.1.0 --bad 1.1.3\n\n\
    Every run is in virtual time under the same seeds. A candidate is bad when the test fails under one of them, and good when it \
    passes under all; one that does not build, or whose run is inconclusive, is skipped. Where the good end is the newer one, what \
    is found is the change that took the failure away. Of revisions only first parents are tried: a merge counts as one change.\n\n\
    Exit codes: 0 the change was found, 1 the good or the bad end did not behave as given, or could not be built, \
    2 skipped candidates leave several possible changes."
)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["scheduler", "good_rev"])))]
pub(crate) struct Options {
    /// The test, by its whole name.
    test: String,
    /// Search the versions of this crate of crates.io, whose binary of the same name is then every scheduler that the test names.
    #[arg(long, value_name = "CRATE", requires_all = ["good", "bad"])]
    scheduler: Option<String>,
    /// A version with which the test passes.
    #[arg(long, value_name = "VERSION", requires = "scheduler")]
    good: Option<String>,
    /// A version with which it fails.
    #[arg(long, value_name = "VERSION", requires = "scheduler")]
    bad: Option<String>,
    /// Search this repository: a revision at which the test passes.
    #[arg(
        long,
        value_name = "REV",
        requires = "bad_rev",
        conflicts_with = "scheduler"
    )]
    good_rev: Option<String>,
    /// A revision at which it fails.
    #[arg(long, value_name = "REV", requires = "good_rev")]
    bad_rev: Option<String>,
    /// The seed of virtual time.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "seeds")]
    seed: u64,
    /// Run each candidate under seeds 0 to N-1, until one fails.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    build: crate::test::Build,
}

/// What is tried.
#[derive(Debug, Clone)]
struct Candidate {
    /// The whole commit, or the version.
    id: String,
    /// For people.
    name: String,
}

/// What was found, which `--json` prints.
#[derive(Debug, Serialize)]
struct Found {
    schema: &'static str,
    test: String,
    /// `bad`, or `good` where the failure was taken away.
    first: &'static str,
    /// Several where those before the last could not be judged.
    candidates: Vec<String>,
    /// The last of them.
    is: Judged,
    /// The one before the first of them.
    before: Judged,
    /// The ends as they were given.
    good: Judged,
    bad: Judged,
    skipped: Vec<Judged>,
}

/// Searches and tells.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let project = Project::find(options.build.manifest_path.as_deref())?;
    let dir = project.runs_root().with_file_name("ktstr-bisect");
    let dir = dir.join(runs::new_run_id());
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let _unwinding = interrupt::Unwinding::begin();
    let mut bisect = Bisect::new(options, &project, dir)?;
    let found = bisect.search();
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    let found = found?;
    if options.json {
        output::print_json(&found)?;
    } else {
        output::print(&found.text())?;
    }
    Ok(if found.candidates.len() == 1 {
        Exit::Pass
    } else {
        Exit::Inconclusive
    })
}

/// Where candidates come from.
enum Source {
    Revisions(Box<revisions::Tree>),
    /// The test is built once.
    Crate(crates::Installer, Box<Built>),
}

struct Bisect<'a> {
    options: &'a Options,
    dir: PathBuf,
    how: RunOptions,
    source: Source,
    /// Oldest first.
    candidates: Vec<Candidate>,
    old_is_good: bool,
    seeds: Vec<u64>,
    skipped: Vec<Judged>,
}

impl<'a> Bisect<'a> {
    fn new(options: &'a Options, project: &Project, dir: PathBuf) -> Result<Self> {
        let how = RunOptions::of(options.build.clone());
        let ((candidates, old_is_good), source) = match options {
            Options {
                scheduler: Some(name),
                good: Some(good),
                bad: Some(bad),
                ..
            } => {
                let list = crates::between(name, good, bad)?;
                let built = Built::new(&options.test, &how)?;
                let installer = crates::Installer::new(name)?;
                (list, Source::Crate(installer, Box::new(built)))
            }
            Options {
                good_rev: Some(good),
                bad_rev: Some(bad),
                ..
            } => {
                let list = revisions::between(project, good, bad)?;
                let newest = list.0.last().context("there are no revisions")?;
                let tree = revisions::Tree::new(project, &newest.id)?;
                (list, Source::Revisions(Box::new(tree)))
            }
            _ => bail!("nothing to search is named"),
        };
        let seeds = match options.seeds {
            Some(count) => (0..count).collect(),
            None => vec![options.seed],
        };
        Ok(Self {
            options,
            dir,
            how,
            source,
            candidates,
            old_is_good,
            seeds,
            skipped: Vec::new(),
        })
    }

    fn search(&mut self) -> Result<Found> {
        let count = self.candidates.len();
        let Some(newest) = count.checked_sub(1).filter(|newest| *newest > 0) else {
            bail!("there is nothing between the two ends");
        };
        eprintln!("cargo ktstr: {count} candidates, the two ends first");
        let old = self.end(0, self.old_is_good)?;
        let new = self.end(newest, !self.old_is_good)?;
        let mut known = vec![None; count];
        known[0] = Some(old.clone());
        known[newest] = Some(new.clone());
        // The oldest is known, so that the search is among those behind it.
        let range = first_new(newest, |at, left| {
            let at = at + 1;
            eprintln!("cargo ktstr: {left} left");
            let judged = self.step(at)?;
            let tried = match (judged.verdict, self.old_is_good) {
                (Verdict::Skipped, _) => Tried::Skipped,
                (Verdict::Good, true) | (Verdict::Bad, false) => Tried::Old,
                (Verdict::Bad, true) | (Verdict::Good, false) => Tried::New,
            };
            match tried {
                Tried::Skipped => self.skipped.push(judged),
                _ => known[at] = Some(judged),
            }
            Ok(tried)
        })?;
        let judged = |at: usize| {
            let judged = known.get(at).cloned().flatten();
            judged.context("a candidate at the border was not judged")
        };
        // The failing side of the change is what a user looks at next.
        self.leave(if self.old_is_good {
            range.end() + 1
        } else {
            *range.start()
        })?;
        let names = self.candidates.iter().map(|candidate| &candidate.name);
        let (good, bad) = if self.old_is_good {
            (old, new)
        } else {
            (new, old)
        };
        Ok(Found {
            schema: "ktstr.bisect/1",
            test: self.options.test.clone(),
            first: if self.old_is_good { "bad" } else { "good" },
            candidates: names
                .skip(range.start() + 1)
                .take(range.clone().count())
                .cloned()
                .collect(),
            is: judged(range.end() + 1)?,
            before: judged(*range.start())?,
            good,
            bad,
            skipped: std::mem::take(&mut self.skipped),
        })
    }

    /// An end that is not as the user says leaves nothing to search.
    fn end(&mut self, at: usize, is_good: bool) -> Result<Judged> {
        let judged = self.step(at)?;
        let said = if is_good { Verdict::Good } else { Verdict::Bad };
        if judged.verdict == said {
            return Ok(judged);
        }
        let said = if is_good { "good" } else { "bad" };
        bail!(
            "{} was said to be {said}, and is {}",
            judged.name,
            judged.line()
        )
    }

    /// Builds and runs one. What cannot be had is skipped, and told.
    fn step(&mut self, at: usize) -> Result<Judged> {
        let candidate = self.candidates.get(at).context("no such candidate")?;
        let (id, name) = (candidate.id.clone(), candidate.name.clone());
        eprintln!("cargo ktstr: building {name}");
        let judged = self.build(&id).and_then(|(built, again)| {
            let dir = self.dir.join(safe(&id));
            step::judge(&name, &built, &self.seeds, &dir, &again)
        });
        if interrupt::requested().is_some() {
            bail!("interrupted");
        }
        let judged = judged.unwrap_or_else(|error| Judged::skipped(&name, &format!("{error:#}")));
        eprintln!("cargo ktstr: {name}: {}", judged.line());
        Ok(judged)
    }

    fn build(&self, id: &str) -> Result<(Built, Again)> {
        match &self.source {
            Source::Revisions(tree) => tree.build(id, &self.options.test, &self.how),
            Source::Crate(installer, built) => {
                let program = installer.install(id)?;
                let built = built.with_scheduler(&program);
                let again = Again {
                    target: None,
                    arguments: vec![OsString::from("--scheduler"), program.into()],
                };
                Ok((built, again))
            }
        }
    }

    /// Leaves the place in which the replay line of this candidate works.
    fn leave(&self, at: usize) -> Result<()> {
        match (&self.source, self.candidates.get(at)) {
            (Source::Revisions(tree), Some(candidate)) => tree.check_out(&candidate.id),
            _ => Ok(()),
        }
    }
}

/// A version or commit as a directory's name.
fn safe(id: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "-.+".contains(*c);
    id.chars().filter(plain).collect()
}

impl Found {
    fn text(&self) -> String {
        let mut text = match self.candidates.as_slice() {
            [one] => format!("first {}: {one}\n", self.first),
            several => format!(
                "first {}: one of these, since only the last could be judged\n  {}\n",
                self.first,
                several.join("\n  ")
            ),
        };
        text += &format!("  {}: {}\n", self.is.name, self.is.line());
        text += &format!(
            "  before it, {}: {}\n",
            self.before.name,
            self.before.line()
        );
        let failing = if self.first == "bad" {
            &self.is
        } else {
            &self.before
        };
        if failing.name != self.bad.name {
            text += &format!("  the bad end, {}: {}\n", self.bad.name, self.bad.line());
            if failing.cause != self.bad.cause {
                text += "  the causes differ: between them the failure changed\n";
            }
        }
        for skipped in &self.skipped {
            text += &format!("skipped: {}: {}\n", skipped.name, skipped.line());
        }
        if let Some(replay) = &failing.replay {
            text += &format!("replay: {replay}\n");
        }
        text
    }
}
