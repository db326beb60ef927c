//! The end of a run: what failed, where its files are, and the one command that runs it again.

use std::path::{Path, PathBuf};

use ktstr::model::verdict::Outcome;
use serde::Serialize;

use super::{Case, Finished};
use crate::output::{colour, shell_word};

/// The summary as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Json {
    schema: &'static str,
    run: String,
    directories: Vec<PathBuf>,
    seconds: f64,
    counts: Counts,
    errors: Vec<String>,
    tests: Vec<JsonCase>,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    pass: usize,
    fail: usize,
    inconclusive: usize,
    skip: usize,
    /// Those of the passed ones that failed before they passed.
    flaky: usize,
}

#[derive(Debug, Serialize)]
struct JsonCase {
    name: String,
    kernel: String,
    verdict: &'static str,
    seconds: f64,
    message: String,
    /// Headlines of the attempts before the last, each of which failed.
    failed_before: Vec<String>,
    artifacts: Vec<PathBuf>,
    rerun: String,
}

impl Json {
    pub(crate) fn new(finished: &Finished) -> Self {
        let case = |case: &Case| JsonCase {
            name: case.name.clone(),
            kernel: case.kernel.clone(),
            verdict: case.verdict.as_str(),
            seconds: case.seconds,
            message: case.message.clone(),
            failed_before: case.failed_before.clone(),
            artifacts: case.artifacts.clone(),
            rerun: rerun(case),
        };
        Self {
            schema: "ktstr.summary/1",
            run: finished.run.clone(),
            directories: finished.dirs.iter().map(|dir| dir.path.clone()).collect(),
            seconds: finished.seconds,
            counts: count(&finished.cases),
            errors: finished.broken.clone(),
            tests: finished.cases.iter().map(case).collect(),
        }
    }
}

fn count(cases: &[Case]) -> Counts {
    let of = |verdict: Outcome| cases.iter().filter(|case| case.verdict == verdict).count();
    Counts {
        pass: of(Outcome::Pass),
        fail: of(Outcome::Fail),
        inconclusive: of(Outcome::Inconclusive),
        skip: of(Outcome::Skip),
        flaky: cases.iter().filter(|case| case.is_flaky()).count(),
    }
}

/// For people.
pub(crate) fn render(finished: &Finished) -> String {
    let mut text = String::from("\n");
    let many = finished.dirs.len() > 1;
    for case in finished
        .cases
        .iter()
        .filter(|case| case.verdict == Outcome::Skip)
    {
        text.push_str(&format!(
            "{} {}: {}\n",
            mark(Outcome::Skip),
            title(case, many),
            case.headline()
        ));
    }
    for case in finished.cases.iter().filter(|case| case.is_flaky()) {
        text.push_str(&format!(
            "{} {}: {}\n",
            word("FLAKY", 33),
            title(case, many),
            case.attempts()
        ));
        for path in &case.artifacts {
            text.push_str(&format!("        {}\n", relative(path).display()));
        }
    }
    for case in finished.cases.iter().filter(|case| case.is_bad()) {
        text.push_str(&format!(
            "{} {}: {}\n",
            mark(case.verdict),
            title(case, many),
            case.headline()
        ));
        for path in &case.artifacts {
            text.push_str(&format!("        {}\n", relative(path).display()));
        }
        text.push_str(&format!("        again: {}\n", rerun(case)));
    }
    for broken in &finished.broken {
        text.push_str(&format!("{} {broken}\n", mark(Outcome::Fail)));
    }
    text.push_str(&totals(finished));
    text
}

fn totals(finished: &Finished) -> String {
    let counts = count(&finished.cases);
    let mut parts = vec![format!("{} passed", counts.pass)];
    if counts.flaky > 0 {
        parts = vec![format!("{} passed ({} flaky)", counts.pass, counts.flaky)];
    }
    for (n, word) in [
        (counts.fail, "failed"),
        (counts.inconclusive, "inconclusive"),
        (counts.skip, "skipped"),
    ] {
        if n > 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    let mut engines: Vec<&str> = finished
        .cases
        .iter()
        .filter_map(|case| case.sidecar.as_ref()?.engine.as_deref())
        .collect();
    engines.sort_unstable();
    engines.dedup();
    let on = if engines.is_empty() {
        String::new()
    } else {
        format!(" on {}", engines.join(", "))
    };
    let dirs: Vec<String> = finished
        .dirs
        .iter()
        .map(|dir| relative(&dir.path).display().to_string())
        .collect();
    let count = finished.cases.len();
    let noun = if count == 1 { "test" } else { "tests" };
    format!(
        "ktstr: {count} {noun} in {:.1} s{on}: {}\n       {}\n",
        finished.seconds,
        parts.join(", "),
        dirs.join("\n       ")
    )
}

fn title(case: &Case, many: bool) -> String {
    if many {
        format!("{} [{}]", case.name, case.kernel)
    } else {
        case.name.clone()
    }
}

fn mark(verdict: Outcome) -> String {
    let (text, code) = match verdict {
        Outcome::Pass => ("PASS", 32),
        Outcome::Skip => ("SKIP", 33),
        Outcome::Inconclusive => ("INCONCLUSIVE", 35),
        Outcome::Fail => ("FAIL", 31),
    };
    word(text, code)
}

fn word(text: &str, code: u8) -> String {
    if colour() {
        format!("\x1b[1;{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Below the working directory where it is, so that a terminal's lines stay short.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .map_or_else(|_| path.to_owned(), Path::to_owned)
}

/// The one command that runs this test again, alone.
pub(crate) fn rerun(case: &Case) -> String {
    let mut words: Vec<String> = ["cargo", "ktstr", "test"].map(str::to_owned).to_vec();
    words.extend(case.dir.rerun_arguments());
    words.extend([
        String::from("--include-ignored"),
        String::from("--exact"),
        case.test().to_owned(),
    ]);
    words
        .iter()
        .map(|word| shell_word(word))
        .collect::<Vec<_>>()
        .join(" ")
}
