//! What an exploration has found: runs counted, failures grouped by their cause.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ktstr::host::evidence::clock::replay_line;
use ktstr::host::evidence::sidecar::Sidecar;
use ktstr::model::verdict::Outcome;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::shell_word;

/// Failures of one cause.
#[derive(Debug, Serialize)]
pub(super) struct Cause {
    cause: String,
    /// What the first finding says.
    says: String,
    /// Seeds that show it.
    seeds: Vec<u64>,
    /// Of the run that failed soonest: virtual milliseconds, seed, fingerprint.
    soonest_ms: u64,
    soonest_seed: u64,
    fingerprint: Option<String>,
    replay: String,
}

/// All runs so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    runs: u64,
    unfinished: u64,
    distinct: BTreeSet<String>,
    causes: BTreeMap<String, Cause>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    test: &'a str,
    runs: u64,
    seconds: f64,
    runs_per_hour: u64,
    distinct: usize,
    unfinished: u64,
    failures: Vec<&'a Cause>,
}

impl Found {
    /// Notes a run; true when it failed.
    pub(super) fn note(&mut self, seed: u64, record: &Sidecar) -> bool {
        self.runs += 1;
        self.distinct.extend(record.clock.fingerprint.clone());
        match record.verdict {
            Outcome::Pass | Outcome::Skip => return false,
            Outcome::Inconclusive => {
                self.unfinished += 1;
                return false;
            }
            Outcome::Fail => {}
        }
        let ms = record.vm_ms.unwrap_or(0);
        let key = record.cause.clone().unwrap_or_default();
        let fingerprint = record.clock.fingerprint.as_deref();
        let cause = self.causes.entry(key.clone()).or_insert_with(|| Cause {
            cause: key,
            says: says(record),
            seeds: Vec::new(),
            soonest_ms: u64::MAX,
            soonest_seed: seed,
            fingerprint: None,
            replay: String::new(),
        });
        cause.seeds.push(seed);
        if (ms, seed) < (cause.soonest_ms, cause.soonest_seed) {
            cause.soonest_ms = ms;
            cause.soonest_seed = seed;
            cause.fingerprint = fingerprint.map(str::to_owned);
            let identity = record.clock.identity.as_deref();
            let test = shell_word(&record.test);
            cause.replay = replay_line(&test, seed, identity, fingerprint);
        }
        true
    }

    /// 1 when something failed, 2 when something was not finished, else 0.
    pub(super) fn exit(&self) -> Exit {
        if !self.causes.is_empty() {
            Exit::Fail
        } else if self.unfinished > 0 {
            Exit::Inconclusive
        } else {
            Exit::Pass
        }
    }

    pub(super) fn summary<'a>(&'a self, test: &'a str, took: Duration) -> Summary<'a> {
        let mut failures: Vec<&Cause> = self.causes.values().collect();
        failures.sort_by_key(|cause| (cause.soonest_ms, cause.soonest_seed));
        let seconds = took.as_secs_f64();
        Summary {
            test,
            runs: self.runs,
            seconds,
            runs_per_hour: per_hour(self.runs, took),
            distinct: self.distinct.len(),
            unfinished: self.unfinished,
            failures,
        }
    }
}

fn per_hour(runs: u64, took: Duration) -> u64 {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    runs.saturating_mul(3_600_000) / ms
}

fn says(record: &Sidecar) -> String {
    let detail = record.result.failure_details().next();
    let text = detail.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

impl Summary<'_> {
    /// For people.
    pub(super) fn text(&self) -> String {
        let failed: usize = self.failures.iter().map(|cause| cause.seeds.len()).sum();
        let mut text = format!(
            "{}: {} runs in {:.0} s ({} an hour), {} of them distinct, {failed} failed, {} not finished\n",
            self.test, self.runs, self.seconds, self.runs_per_hour, self.distinct, self.unfinished
        );
        for cause in &self.failures {
            text.push_str(&format!(
                "{} of {} runs, cause {}: {}\n  soonest after {} ms of virtual time, seed {}: {}\n",
                cause.seeds.len(),
                self.runs,
                cause.cause,
                cause.says,
                cause.soonest_ms,
                cause.soonest_seed,
                cause.replay
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use ktstr::model::verdict::{AssertResult, DetailKind};

    use super::*;

    fn record(fingerprint: &str, ms: u64, failure: Option<(&str, &str)>) -> Sidecar {
        let result = failure.map_or_else(AssertResult::pass, |(_, says)| {
            AssertResult::fail(DetailKind::Stuck, says)
        });
        let mut json = serde_json::json!({
            "schema": ktstr::host::evidence::sidecar::SIDECAR_SCHEMA, "test": "races", "verdict": result.outcome(),
            "topology": "1n1l2c1t", "total_ms": 1, "timed_out": false, "started_at": 0, "vm_ms": ms,
            "fingerprint": fingerprint, "result": result,
        });
        if let Some((cause, _)) = failure {
            json["cause"] = cause.into();
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn failures_are_grouped_and_the_soonest_comes_first() {
        let mut found = Found::default();
        for (seed, record) in [
            (0, record("a", 900, None)),
            (1, record("b", 800, Some(("late", "worker 3 stuck")))),
            (2, record("c", 500, Some(("early", "a lost kick")))),
            (3, record("d", 300, Some(("early", "a lost kick")))),
            (4, record("d", 300, Some(("early", "a lost kick")))),
        ] {
            assert_eq!(found.note(seed, &record), seed > 0);
        }
        assert_eq!(found.exit(), Exit::Fail);
        let text = found.summary("races", Duration::from_secs(10)).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "races: 5 runs in 10 s (1800 an hour), 4 of them distinct, 4 failed, 0 not finished"
        );
        assert_eq!(lines[1], "3 of 5 runs, cause early: a lost kick");
        assert_eq!(
            lines[2],
            "  soonest after 300 ms of virtual time, seed 3: cargo ktstr replay races --seed 3 --fingerprint d"
        );
        assert!(lines[3].starts_with("1 of 5 runs, cause late"), "{text}");
    }

    #[test]
    fn nothing_found_passes() {
        let mut found = Found::default();
        found.note(0, &record("a", 1, None));
        assert_eq!(found.exit(), Exit::Pass);
    }
}
