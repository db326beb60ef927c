//! What the runs have shown, kept beside the tests so that the chapter has bugs that were not run this time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ktstr::model::verdict::Outcome;
use serde::{Deserialize, Serialize};

/// The part of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    Fair,
    Core,
    Ext,
}

/// How the bug came into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Planted,
    Shipped,
}

/// All seeds on one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runs {
    pub(super) seeds: u64,
    pub(super) passed: u64,
    /// Failed, and one of the expected checks is among the findings.
    pub(super) shown: u64,
    /// Failed for something else.
    pub(super) other: u64,
    /// Neither passed nor failed.
    pub(super) unfinished: u64,
    /// How many runs each check has found something in.
    pub(super) found_by: BTreeMap<String, u64>,
    /// Of all runs together.
    pub(super) virtual_ms: u64,
    pub(super) real_ms: u64,
}

impl Runs {
    pub(super) fn note(
        &mut self,
        verdict: Outcome,
        is_meant: bool,
        checks: &[String],
        virtual_ms: u64,
        real: Duration,
    ) {
        self.seeds += 1;
        match verdict {
            Outcome::Pass => self.passed += 1,
            Outcome::Fail if is_meant => self.shown += 1,
            Outcome::Fail => self.other += 1,
            Outcome::Inconclusive | Outcome::Skip => self.unfinished += 1,
        }
        for check in checks {
            *self.found_by.entry(check.clone()).or_default() += 1;
        }
        self.virtual_ms += virtual_ms;
        self.real_ms += u64::try_from(real.as_millis()).unwrap_or(u64::MAX);
    }

    /// Per run, in seconds.
    pub(super) fn mean_s(&self, all_ms: u64) -> String {
        let ms = all_ms / self.seeds.max(1);
        format!("{}.{}", ms / 1000, ms % 1000 / 100)
    }
}

/// A bug in one series of kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) class: Class,
    pub(super) what: String,
    pub(super) fix: Option<String>,
    pub(super) asserts: bool,
    pub(super) series: String,
    pub(super) kind: Kind,
    /// On the kernel that has it.
    pub(super) with: Runs,
    /// On the same kernel without it.
    pub(super) without: Option<Runs>,
}

impl Row {
    /// Checks, the most frequent first.
    pub(super) fn found_by(&self) -> String {
        let mut found: Vec<(&String, &u64)> = self.with.found_by.iter().collect();
        found.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let names: Vec<String> = found
            .into_iter()
            .take(3)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        names.join(", ")
    }

    /// Seeds that show it, of those that ran.
    pub(super) fn shown(&self) -> String {
        format!("{} of {}", self.with.shown, self.with.seeds)
    }

    /// Seeds that pass without it, of those that ran.
    pub(super) fn passed(&self) -> String {
        self.without.as_ref().map_or_else(
            || String::from("–"),
            |runs| format!("{} of {}", runs.passed, runs.seeds),
        )
    }

    /// For the terminal.
    pub(super) fn line(&self) -> String {
        format!(
            "{} in {} ({:?}): {} seeds show it, found by {}; without it {} pass; {} virtual s, {} real s per run",
            self.name,
            self.series,
            self.kind,
            self.shown(),
            self.found_by(),
            self.passed(),
            self.with.mean_s(self.with.virtual_ms),
            self.with.mean_s(self.with.real_ms),
        )
    }
}

/// All rows, in the order of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) rows: Vec<Row>,
}

impl Results {
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("cannot read the table of results {}", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    /// In the place of an older row of the same bug and kernel.
    pub(super) fn put(&mut self, row: Row) {
        self.rows
            .retain(|old| (&old.name, &old.series, old.kind) != (&row.name, &row.series, row.kind));
        self.rows.push(row);
        self.rows.sort_by(|a, b| {
            (a.kind, a.class, &a.name, &a.series).cmp(&(b.kind, b.class, &b.name, &b.series))
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn row(name: &str, kind: Kind, shown: u64) -> Row {
        let mut with = Runs::default();
        for seed in 0..4 {
            let checks = [String::from("cfs-load")];
            let (verdict, checks): (_, &[String]) = match seed < shown {
                true => (Outcome::Fail, &checks),
                false => (Outcome::Pass, &[]),
            };
            let real = Duration::from_millis(2500);
            with.note(verdict, seed < shown, checks, 1200, real);
        }
        let mut without = Runs::default();
        without.note(Outcome::Pass, false, &[], 1200, Duration::from_secs(2));
        Row {
            name: name.to_owned(),
            class: Class::Fair,
            what: String::from("it is wrong"),
            fix: Some(String::from("0123456789ab")),
            asserts: false,
            series: String::from("6.12"),
            kind,
            with,
            without: (kind == Kind::Planted).then_some(without),
        }
    }

    #[test]
    fn a_row_counts_what_shows_the_bug() {
        let row = row("a", Kind::Planted, 3);
        assert_eq!(
            row.line(),
            "a in 6.12 (Planted): 3 of 4 seeds show it, found by `cfs-load`; without it 1 of 1 pass; 1.2 virtual s, 2.5 real s per run"
        );
    }

    #[test]
    fn a_new_row_takes_the_place_of_the_old_one() {
        let mut results = Results::default();
        results.put(row("b", Kind::Planted, 1));
        results.put(row("a", Kind::Planted, 1));
        results.put(row("b", Kind::Planted, 4));
        let shown: Vec<_> = results
            .rows
            .iter()
            .map(|row| (row.name.as_str(), row.with.shown))
            .collect();
        assert_eq!(shown, [("a", 1), ("b", 4)]);
    }
}
