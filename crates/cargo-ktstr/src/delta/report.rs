//! The comparison as people and tools read it.

use std::path::PathBuf;

use serde::Serialize;

use super::statistics::Delta;
use super::{Row, Verdict};
use crate::output;
use crate::results::unit;
use crate::stats::number;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) kernel: String,
    pub(crate) pairs: usize,
    pub(crate) seed: u64,
    pub(crate) alpha: f64,
    pub(crate) threshold: f64,
    /// Every record that went in.
    pub(crate) directory: PathBuf,
    pub(crate) failures: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// For people.
pub(crate) fn render(report: &Report) -> String {
    let mut text = format!(
        "A {}\nB {}\non {}, {} pairs\n\n",
        report.a, report.b, report.kernel, report.pairs
    );
    let level = format!("{:.0} % INTERVAL", (1.0 - report.alpha) * 100.0);
    let mut table = output::table([
        "TEST", "METRIC", "A", "B", "CHANGE", &level, "EFFECT", "P", "VERDICT",
    ]);
    for row in &report.rows {
        let delta = row.delta.as_ref();
        let told = |tell: &dyn Fn(&Delta) -> String| delta.map_or_else(|| String::from("-"), tell);
        let value = |value: f64| format!("{} {}", number(value), unit(&row.metric));
        table.add_row([
            row.test.clone(),
            row.metric.clone(),
            told(&|delta| value(delta.median_a)),
            told(&|delta| value(delta.median_b)),
            told(&change),
            told(&interval),
            told(&|delta| format!("{:+.2}", delta.effect)),
            told(&|delta| format!("{:.4}", delta.p)),
            verdict(row),
        ]);
    }
    text.push_str(&output::lines(&table));
    for failure in &report.failures {
        text.push_str(&format!("did not pass, left out: {failure}\n"));
    }
    text.push_str(&format!(
        "\nIf A and B were the same, the chance of any alarm in this table would be at most {:.1} %.\n\
         Smallest change that matters: {:.1} %. Order of runs: --seed {}. Records: {}\n",
        report.alpha * 100.0,
        report.threshold * 100.0,
        report.seed,
        report.directory.display()
    ));
    text
}

fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

fn change(delta: &Delta) -> String {
    // Nothing is a share of nothing.
    if delta.median_a == 0.0 && delta.change != 0.0 {
        return String::from("from 0");
    }
    percent(delta.change)
}

fn interval(delta: &Delta) -> String {
    match (delta.low, delta.high) {
        (Some(low), Some(high)) => format!("{} .. {}", percent(low), percent(high)),
        _ => String::from("too few pairs"),
    }
}

fn verdict(row: &Row) -> String {
    match (row.verdict, row.more_pairs) {
        (Verdict::Regression, _) => String::from("REGRESSION"),
        (Verdict::Improvement, _) => String::from("improvement"),
        (Verdict::Changed, _) => String::from("changed"),
        (Verdict::Same, _) => String::from("same"),
        (Verdict::Vanished, _) => format!("VANISHED: {} pairs have it in A only", row.only_a),
        (Verdict::Appeared, _) => format!("new in B: {} pairs have it", row.only_b),
        (Verdict::Unsure, Some(more)) => format!("unsure: {more} more pairs would tell"),
        (Verdict::Unsure, None) if row.delta.is_none() => {
            String::from("unsure: no two pairs have it on both sides")
        }
        (Verdict::Unsure, None) => String::from("unsure: too noisy for any number of runs"),
    }
}
