//! `cargo ktstr doctor`: what this host gives to tests, and what makes it better.

use anyhow::Result;
use ktstr::host::tools::doctor::{Finding, Health, doctor};
use serde::Serialize;

use crate::exit::Exit;
use crate::output;

/// How to show it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Put its output into every report of a failure. It ends with 1 where something keeps tests from running."
)]
pub(crate) struct Options {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    /// This program's version.
    version: &'static str,
    /// Nothing keeps tests from running.
    healthy: bool,
    findings: Vec<Finding>,
}

/// Prints what was found.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let findings = doctor();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        healthy: findings.iter().all(|finding| finding.health != Health::Bad),
        findings,
    };
    if options.json {
        output::print_json(&report)?;
    } else {
        output::print(&render(&report.findings))?;
    }
    Ok(if report.healthy {
        Exit::Pass
    } else {
        Exit::Fail
    })
}

fn render(findings: &[Finding]) -> String {
    let mut table = output::table(["", "CHECK", "FOUND"]);
    for finding in findings {
        let mark = match finding.health {
            Health::Good => "ok",
            Health::Less => "less",
            _ => "BAD",
        };
        let mend = finding.mend.as_ref();
        let mend = mend.map_or(String::new(), |mend| format!("\n  mend: {mend}"));
        table.add_row([
            mark.to_owned(),
            finding.check.to_owned(),
            format!("{}{mend}", finding.found),
        ]);
    }
    output::lines(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mend_stands_below_what_it_mends() {
        let findings = [
            Finding::new("cpu", Health::Good, "a CPU"),
            Finding::new("kernel", Health::Bad, "none").mend("build one"),
        ];
        let text = render(&findings);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["ok", "cpu", "a", "CPU"]);
        assert_eq!(lines[2], ["BAD", "kernel", "none"]);
        assert_eq!(lines[3], ["mend:", "build", "one"]);
    }
}
