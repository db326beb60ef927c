//! From a payload's metrics to findings. The guest does it for JSON, the host after an extractor.

use crate::model::payload::{MetricCheck, Payload, PayloadEnd, PayloadReport, is_truncation_mark};
use crate::model::verdict::{AssertDetail, DetailKind};

/// What `report` says against `payload`'s checks; a payload that the test itself killed owes nothing.
#[must_use]
pub fn apply_checks(payload: &Payload, report: &PayloadReport) -> Vec<AssertDetail> {
    let mut findings = Vec::new();
    if report.end != PayloadEnd::Killed {
        findings.extend(end_finding(payload, report));
        let checks = payload.checks.iter();
        findings.extend(checks.filter_map(|check| check_finding(*check, report)));
    }
    for hint in payload.metrics {
        let (Some(metric), Some((lowest, highest))) = (report.metric(hint.name), hint.bounds)
        else {
            continue;
        };
        if !(lowest..=highest).contains(&metric.value) {
            let text = format!(
                "payload {:?}: {} is {} {}, outside the declared plausible range {lowest}..={highest}",
                report.payload, metric.name, metric.value, metric.unit
            );
            findings.push(AssertDetail::inconclusive(DetailKind::Benchmark, text));
        }
    }
    if let Some(mark) = report
        .metrics
        .iter()
        .find(|metric| is_truncation_mark(&metric.name))
    {
        let text = format!(
            "payload {:?}: its JSON is deeper than 64 levels; what lies deeper is not among its metrics ({})",
            report.payload, mark.name
        );
        findings.push(AssertDetail::inconclusive(DetailKind::Benchmark, text));
    }
    findings
}

fn end_finding(payload: &Payload, report: &PayloadReport) -> Option<AssertDetail> {
    let wanted = payload
        .checks
        .iter()
        .find_map(|check| match check {
            MetricCheck::ExitCode(code) => Some(*code),
            _ => None,
        })
        .unwrap_or(0);
    let how = match report.end {
        PayloadEnd::Exited(code) if code == wanted => return None,
        PayloadEnd::Exited(code) if wanted != 0 => {
            format!("exited with status {code}, expected {wanted}")
        }
        PayloadEnd::Exited(code) => format!("exited with status {code}"),
        PayloadEnd::Signalled(signal) => format!("was ended by signal {signal}"),
        PayloadEnd::TimedOut { after_ms } => {
            format!("did not end within {after_ms} ms, and was killed")
        }
        PayloadEnd::Killed => return None,
    };
    let text = format!("payload {:?} {how}", report.payload);
    Some(AssertDetail::fail(DetailKind::Other, text))
}

fn check_finding(check: MetricCheck, report: &PayloadReport) -> Option<AssertDetail> {
    let (name, lowest, highest) = match check {
        MetricCheck::Min { metric, at_least } => (metric, at_least, f64::INFINITY),
        MetricCheck::Max { metric, at_most } => (metric, f64::NEG_INFINITY, at_most),
        MetricCheck::Range {
            metric,
            at_least,
            at_most,
        } => (metric, at_least, at_most),
        MetricCheck::Exists { metric } => (metric, f64::NEG_INFINITY, f64::INFINITY),
        MetricCheck::ExitCode(_) => return None,
    };
    let head = format!("payload {:?}: metric {name:?}", report.payload);
    let Some(metric) = report.metric(name) else {
        // What was not measured has not been shown to be wrong, unless its being there is what was asked.
        let text = format!("{head} is not in its output; there are: {}", known(report));
        return Some(match check {
            MetricCheck::Exists { .. } => AssertDetail::fail(DetailKind::Benchmark, text),
            _ => AssertDetail::inconclusive(DetailKind::Benchmark, text),
        });
    };
    let (value, unit) = (metric.value, &metric.unit);
    let text = if value < lowest {
        format!("{head} is {value} {unit}, at least {lowest} is required")
    } else if value > highest {
        format!("{head} is {value} {unit}, at most {highest} is allowed")
    } else {
        return None;
    };
    Some(AssertDetail::fail(DetailKind::Benchmark, text))
}

/// The first names, so that a misspelt one is seen.
fn known(report: &PayloadReport) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<&str> = report
        .metrics
        .iter()
        .take(SHOWN)
        .map(|metric| metric.name.as_str())
        .collect();
    if names.is_empty() {
        return String::from("none");
    }
    if report.metrics.len() > SHOWN {
        names.push("…");
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::payload::{MetricHint, Polarity, Stream, raw_metrics};
    use crate::model::verdict::Outcome;

    const BENCH: Payload = Payload {
        metrics: &[
            MetricHint::lower("lat.p99_us", "us").bounds(0.0, 1e9),
            MetricHint::higher("rps", "1/s"),
        ],
        checks: &[
            MetricCheck::Max {
                metric: "lat.p99_us",
                at_most: 100.0,
            },
            MetricCheck::Min {
                metric: "rps",
                at_least: 10.0,
            },
        ],
        ..Payload::binary("bench", "bench")
    };

    fn report(stdout: &str, stderr: &str) -> PayloadReport {
        PayloadReport {
            index: 0,
            payload: "bench".into(),
            end: PayloadEnd::Exited(0),
            metrics: raw_metrics(&BENCH, "json", stdout.as_bytes(), stderr.as_bytes()),
            awaits_extractor: false,
        }
    }

    #[track_caller]
    fn check(report: &PayloadReport, expected: &[(Outcome, &str)]) {
        let findings = apply_checks(&BENCH, report);
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
        for (finding, (outcome, needle)) in findings.iter().zip(expected) {
            assert_eq!(finding.outcome, *outcome, "{finding:?}");
            assert!(finding.message.contains(needle), "{finding:?}");
        }
    }

    #[test]
    fn metrics_take_unit_and_polarity_from_the_hints() {
        let report = report(
            r#"{"lat":{"p99_us":40},"rps":12,"more":1}"#,
            r#"{"rps":99}"#,
        );
        let p99 = report.metric("lat.p99_us").unwrap();
        assert_eq!(
            (p99.unit.as_str(), p99.polarity),
            ("us", Polarity::LowerBetter)
        );
        assert_eq!(p99.stream, Stream::Stdout);
        assert_eq!(report.metric("more").unwrap().polarity, Polarity::Unknown);
        check(&report, &[]);
    }

    #[test]
    fn stderr_counts_when_stdout_has_no_numbers() {
        let report = report(
            "bench 1.0\n{\"name\":\"x\"}",
            "warming up\n{\"rps\": 11,\n \"lat\":{\"p99_us\":1}}\nbye",
        );
        assert_eq!(report.metric("rps").unwrap().stream, Stream::Stderr);
        check(&report, &[]);
    }

    #[test]
    fn a_bracketed_log_line_is_no_document() {
        let log = "[1] starting\n[ 0.12] ready\n{\"name\": \"bench\"}\n{\"rps\": 11, \"lat\": {\"p99_us\": 1}}\n[2] done";
        let judged = report(log, "{\"rps\": 99}");
        let names: Vec<&str> = judged.metrics.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["lat.p99_us", "rps"]);
        assert_eq!(judged.metric("rps").unwrap().value, 11.0);
        let elsewhere = report("[1] starting\n[2] done", "{\"rps\": 99}");
        assert_eq!(elsewhere.metric("rps").unwrap().stream, Stream::Stderr);
        check(&judged, &[]);
    }

    #[test]
    fn limits_are_told_with_what_was_found() {
        check(
            &report(r#"{"lat":{"p99_us":400},"rps":2}"#, ""),
            &[
                (Outcome::Fail, "400 us, at most 100"),
                (Outcome::Fail, "2 1/s, at least 10"),
            ],
        );
    }

    #[test]
    fn what_was_not_measured_or_cannot_be_true_is_inconclusive() {
        check(
            &report(r#"{"lat":{"p98_us":1},"rps":12}"#, ""),
            &[(Outcome::Inconclusive, "there are: lat.p98_us, rps")],
        );
        check(
            &report(r#"{"lat":{"p99_us":-4},"rps":12}"#, ""),
            &[(Outcome::Inconclusive, "plausible range")],
        );
        let exists = Payload {
            checks: &[MetricCheck::Exists { metric: "rps" }],
            ..Payload::binary("bench", "bench")
        };
        let findings = apply_checks(&exists, &report("no numbers", ""));
        assert_eq!(findings[0].outcome, Outcome::Fail);
        assert!(findings[0].message.ends_with("there are: none"));
    }

    #[test]
    fn ends_are_judged() {
        let ended = |end| PayloadReport {
            end,
            ..report(r#"{"lat":{"p99_us":1},"rps":12}"#, "")
        };
        check(
            &ended(PayloadEnd::Exited(3)),
            &[(Outcome::Fail, "status 3")],
        );
        check(
            &ended(PayloadEnd::Signalled(11)),
            &[(Outcome::Fail, "signal 11")],
        );
        check(&ended(PayloadEnd::Killed), &[]);
        let three = Payload {
            checks: &[MetricCheck::ExitCode(3)],
            ..Payload::binary("bench", "bench")
        };
        assert!(apply_checks(&three, &ended(PayloadEnd::Exited(3))).is_empty());
        let found = apply_checks(&three, &ended(PayloadEnd::Exited(0)));
        assert!(found[0].message.contains("expected 3"), "{found:?}");
    }
}
