//! Programs that run in the guest beside or instead of workers: what a test declares of them, and what they measured.
//!
//! ```
//! use ktstr::prelude::*;
//!
//! const BENCH: Payload = Payload {
//!     output: OutputFormat::Json,
//!     metrics: &[MetricHint::lower("wakeup.p99_us", "us")],
//!     checks: &[MetricCheck::Max { metric: "wakeup.p99_us", at_most: 5_000.0 }],
//!     ..Payload::binary("wakebench", "wakebench")
//! };
//! # assert_eq!(BENCH.name(), "wakebench");
//! ```

mod leaves;
mod metric;
mod read;

pub use leaves::{JSON_DEPTH, TRUNCATION_MARK, is_truncation_mark, numeric_leaves};
pub use metric::{Metric, MetricCheck, MetricHint, Polarity, Stream};
pub use read::raw_metrics;

use serde::{Deserialize, Serialize};

/// What kind of program a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum PayloadKind {
    /// A program of this name or host path: built from the workspace, or found on `PATH`.
    Binary(&'static str),
    /// A scheduler. Never runs as a payload: `scheduler` and `staged_schedulers` are its places.
    Scheduler(&'static str),
}

/// Where a payload's metrics come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum OutputFormat {
    /// Its exit status alone.
    ExitCode,
    /// Each number in the JSON that it writes: to its standard output, or, when there is none, to standard error.
    Json,
    /// A command of the host, with its arguments, that reads the payload's output on standard input and writes JSON. A name
    /// with a `/` is a path in the test's package, any other is looked for on `PATH`.
    Extract(&'static [&'static str]),
}

/// A program for the guest. Const-constructible: `..Payload::binary("name", "program")`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Payload {
    /// The name by which operations call it, and its file's in the guest.
    pub name: &'static str,
    /// The program.
    pub kind: PayloadKind,
    /// Arguments that come before an operation's own.
    pub default_args: &'static [&'static str],
    /// Where its metrics come from.
    pub output: OutputFormat,
    /// What is known of its metrics; metrics without a hint are kept too.
    pub metrics: &'static [MetricHint],
    /// What must hold of each of its runs. Without [`MetricCheck::ExitCode`] the exit status must be 0.
    pub checks: &'static [MetricCheck],
    /// Further host files for the guest's `/include-files`.
    pub include_files: &'static [&'static str],
}

impl Payload {
    /// A program of which only the exit status counts, and what operations call it: `Payload::binary("disk", "fio")`. The program
    /// is a name or a host path.
    #[must_use]
    pub const fn binary(name: &'static str, program: &'static str) -> Self {
        Self {
            name,
            kind: PayloadKind::Binary(program),
            default_args: &[],
            output: OutputFormat::ExitCode,
            metrics: &[],
            checks: &[],
            include_files: &[],
        }
    }

    /// The name by which operations call it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it stands for a scheduler, which never runs as a payload.
    #[must_use]
    pub const fn is_scheduler(&self) -> bool {
        matches!(self.kind, PayloadKind::Scheduler(_))
    }

    /// The program as declared.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        match self.kind {
            PayloadKind::Binary(program) | PayloadKind::Scheduler(program) => program,
        }
    }

    /// The hint for a metric of this name.
    #[must_use]
    pub fn hint(&self, metric: &str) -> Option<&'static MetricHint> {
        self.metrics.iter().find(|hint| hint.name == metric)
    }
}

/// What is wrong with the payloads of one test, in words.
pub(crate) fn faults_of(payload: Option<&Payload>, workloads: &[&Payload]) -> Vec<String> {
    let all: Vec<&Payload> = payload
        .into_iter()
        .chain(workloads.iter().copied())
        .collect();
    let mut faults = Vec::new();
    for (index, payload) in all.iter().enumerate() {
        let name = payload.name();
        if payload.is_scheduler() {
            faults.push(format!(
                "payload {name:?} is a scheduler; declare it as scheduler or in staged_schedulers"
            ));
        }
        if name.is_empty() || name.contains('/') {
            faults.push(format!(
                "payload {:?} has the name {name:?}, which is to be its file's name in the guest: not empty, without a slash",
                payload.program()
            ));
        }
        if all.iter().take(index).any(|earlier| earlier.name() == name) {
            faults.push(format!("payload {name:?} is declared twice"));
        }
        if let OutputFormat::Extract([]) = payload.output {
            faults.push(format!("payload {name:?}: its extractor has no command"));
        }
        faults.extend(
            payload
                .metrics
                .iter()
                .filter_map(MetricHint::fault)
                .map(|fault| format!("payload {name:?}: {fault}")),
        );
    }
    faults
}

/// What became of a payload's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PayloadEnd {
    /// It ended by itself.
    Exited(i32),
    /// A signal ended it that the test did not send.
    Signalled(i32),
    /// The test killed it, or its step was over.
    Killed,
    /// It ran longer than it may, and was killed.
    TimedOut {
        /// How long it had.
        after_ms: u64,
    },
}

/// One run of a payload: how it ended and what it measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PayloadReport {
    /// Number of the run in this test, from 0; pairs the report with the run's raw output.
    pub index: u32,
    /// The payload's name.
    pub payload: String,
    /// How it ended.
    pub end: PayloadEnd,
    /// What it measured.
    pub metrics: Vec<Metric>,
    /// The host has still to run the extractor on the raw output.
    pub awaits_extractor: bool,
}

impl PayloadReport {
    /// What its metrics' names begin with: the payload's name, with the number of its run from the second on.
    #[must_use]
    pub fn title(&self, run: usize) -> String {
        match run {
            0 | 1 => self.payload.clone(),
            run => format!("{}#{run}", self.payload),
        }
    }

    /// The metric of this name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_that_cannot_be_are_refused() {
        const ONE: Payload = Payload::binary("one", "/opt/bin/one");
        const SCHEDULER: Payload = Payload {
            kind: PayloadKind::Scheduler("scx_one"),
            output: OutputFormat::Extract(&[]),
            metrics: &[MetricHint::lower("p99", "us").bounds(5.0, 1.0)],
            ..Payload::binary("", "")
        };
        assert!(faults_of(Some(&ONE), &[]).is_empty());
        assert_eq!((ONE.name(), ONE.program()), ("one", "/opt/bin/one"));
        assert!(!ONE.is_scheduler() && SCHEDULER.is_scheduler());
        const PLACED: Payload = Payload::binary("/opt/bin/two", "two");
        let faults = faults_of(Some(&ONE), &[&ONE, &SCHEDULER, &PLACED]).join("; ");
        for needle in [
            "\"one\" is declared twice",
            "staged_schedulers",
            "has the name \"\"",
            "without a slash",
            "no command",
            "empty range 5..=1",
        ] {
            assert!(faults.contains(needle), "{faults:?} lacks {needle:?}");
        }
    }
}
