//! One candidate, judged: its runs in virtual time, and what they say.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ktstr::host::evidence::clock::replay_line;
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::model::verdict::Outcome;
use serde::Serialize;

use crate::interrupt;
use crate::output::shell_word;
use crate::seeds::Built;

/// What the runs of a candidate came to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Judged {
    /// What the user calls it, such as a commit with its subject.
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// The first finding of a failure, or why it could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) says: Option<String>,
    /// Hash of the failure's cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// The command that has the run again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replay: Option<String>,
}

/// Of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The test passes under each seed.
    Good,
    /// It fails under one.
    Bad,
    /// Nobody knows.
    Skipped,
}

impl Judged {
    /// One that could not be judged.
    pub(crate) fn skipped(name: &str, why: &str) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::Skipped,
            says: Some(why.to_owned()),
            cause: None,
            replay: None,
        }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let says = self.says.as_deref().unwrap_or_default();
        match self.verdict {
            Verdict::Good => String::from("good: the test passes"),
            Verdict::Bad => {
                let cause = self.cause.as_deref().unwrap_or("unknown");
                format!("bad: {says} (cause {cause})")
            }
            Verdict::Skipped => format!("skipped: {says}"),
        }
    }
}

/// What `replay` needs beside the run's own words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Again {
    /// Where the test was built, where that is not the project's place.
    pub(crate) target: Option<PathBuf>,
    pub(crate) arguments: Vec<OsString>,
}

/// Runs the test under each seed, until one fails, with records in `dir`.
///
/// # Errors
/// When a run leaves no record.
pub(crate) fn judge(
    name: &str,
    built: &Built,
    seeds: &[u64],
    dir: &Path,
    again: &Again,
) -> Result<Judged> {
    let mut judged = Judged {
        name: name.to_owned(),
        verdict: Verdict::Good,
        says: None,
        cause: None,
        replay: None,
    };
    for seed in seeds {
        let record = record(built, *seed, &dir.join(format!("seed-{seed}")))?;
        if interrupt::requested().is_some() {
            anyhow::bail!("interrupted");
        }
        judged.replay = Some(replay(&record, *seed, again));
        match record.verdict {
            Outcome::Pass => {}
            Outcome::Fail => {
                judged.verdict = Verdict::Bad;
                judged.says = Some(first_line(record.result.failure_details().next()));
                judged.cause = record.cause;
                return Ok(judged);
            }
            Outcome::Inconclusive => {
                let why = first_line(record.result.inconclusive_details().next());
                return Ok(Judged::skipped(name, &format!("inconclusive: {why}")));
            }
            Outcome::Skip => {
                let why = record.skip_reason.unwrap_or_default();
                return Ok(Judged::skipped(name, &format!("the test skips: {why}")));
            }
        }
    }
    Ok(judged)
}

fn record(built: &Built, seed: u64, dir: &Path) -> Result<Sidecar> {
    std::fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let run = built.command(seed, dir).output();
    let run = run.context("failed to run the test binary")?;
    built.record_of(&run, dir)
}

fn first_line(detail: Option<impl ToString>) -> String {
    let text = detail.map(|detail| detail.to_string()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn replay(record: &Sidecar, seed: u64, again: &Again) -> String {
    let (identity, fingerprint) = (&record.clock.identity, &record.clock.fingerprint);
    let line = replay_line(
        &shell_word(&record.test),
        seed,
        identity.as_deref(),
        fingerprint.as_deref(),
    );
    let word = |word: &OsStr| shell_word(&word.to_string_lossy());
    let place = again.target.as_ref().map_or_else(String::new, |target| {
        format!("CARGO_TARGET_DIR={} ", word(target.as_os_str()))
    });
    let further = again.arguments.iter();
    let further: String = further
        .map(|argument| format!(" {}", word(argument)))
        .collect();
    place + &line + &further
}
