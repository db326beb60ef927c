//! JUnit: written from our results, and read as nextest writes it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ktstr::model::verdict::Outcome;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::{Case, Finished};

/// One suite per kernel, and one for what kept the tests from running.
///
/// # Errors
/// When the report cannot be serialised.
pub(crate) fn render(finished: &Finished) -> Result<String> {
    let mut kernels: Vec<&str> = finished
        .cases
        .iter()
        .map(|case| case.kernel.as_str())
        .collect();
    kernels.sort_unstable();
    kernels.dedup();
    let mut report = Report::new("ktstr");
    let mut total = Duration::ZERO;
    for kernel in kernels {
        let mut suite = TestSuite::new(kernel);
        let mut time = Duration::ZERO;
        for case in finished.cases.iter().filter(|case| case.kernel == kernel) {
            time += duration(case.seconds);
            suite.add_test_case(one(case));
        }
        suite.set_time(time);
        total += time;
        report.add_test_suite(suite);
    }
    if !finished.broken.is_empty() {
        let mut suite = TestSuite::new("cargo ktstr");
        for broken in &finished.broken {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(broken.as_str()).set_type("not run");
            suite.add_test_case(TestCase::new("run the tests", status));
        }
        report.add_test_suite(suite);
    }
    report.set_time(total);
    report
        .to_string()
        .context("failed to serialise the JUnit report")
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn one(case: &Case) -> TestCase {
    let bad = |kind: NonSuccessKind, word: &str| {
        let mut status = TestCaseStatus::non_success(kind);
        status
            .set_message(case.headline())
            .set_type(word)
            .set_description(case.message.as_str());
        status
    };
    let mut status = match case.verdict {
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Skip => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(case.message.as_str());
            status
        }
        Outcome::Fail => bad(NonSuccessKind::Failure, "fail"),
        // A check without a signal is no failed check; JUnit's word for that is an error.
        Outcome::Inconclusive => bad(NonSuccessKind::Error, "inconclusive"),
    };
    if case.verdict != Outcome::Skip {
        status.add_reruns(case.failed_before.iter().map(|headline| {
            let mut rerun = TestRerun::new(NonSuccessKind::Failure);
            rerun.set_message(headline.as_str()).set_type("fail");
            rerun
        }));
    }
    let mut test = TestCase::new(case.name.as_str(), status);
    test.set_time(duration(case.seconds));
    let class = match &case.sidecar {
        Some(sidecar) => format!(
            "{}.{}",
            sidecar.scheduler.as_deref().unwrap_or("eevdf"),
            sidecar.topology
        ),
        None => case.binary.clone(),
    };
    test.set_classname(class);
    if case.is_bad() || case.is_flaky() {
        let files: String = case
            .artifacts
            .iter()
            .map(|path| format!("[[ATTACHMENT|{}]]\n", path.display()))
            .collect();
        if !files.is_empty() {
            test.set_system_out(files);
        }
    }
    test
}

/// A test of nextest's report.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    /// Nextest's name of the binary.
    pub(super) suite: String,
    pub(super) name: String,
    pub(super) failed: bool,
    pub(super) message: String,
    pub(super) seconds: f64,
    pub(super) failed_before: Vec<String>,
}

/// The tests of a report as nextest writes it.
///
/// # Errors
/// When it is no JUnit report.
pub(super) fn read(xml: &str) -> Result<Vec<Read>> {
    let report = Report::deserialize_from_str(xml).context("nextest's report cannot be read")?;
    let mut tests = Vec::new();
    for suite in report.test_suites {
        for test in suite.test_cases {
            let words = |message: &Option<quick_junit::XmlString>,
                         ty: &Option<quick_junit::XmlString>| {
                let part = |text: &Option<quick_junit::XmlString>| {
                    text.as_ref().map(|text| text.as_str().to_owned())
                };
                [part(message), part(ty)]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(": ")
            };
            let before = |runs: &[TestRerun]| -> Vec<String> {
                runs.iter()
                    .map(|run| words(&run.message, &run.ty))
                    .collect()
            };
            let (failed, message, failed_before) = match &test.status {
                TestCaseStatus::Success { flaky_runs } => {
                    (false, String::new(), before(flaky_runs))
                }
                TestCaseStatus::NonSuccess {
                    message,
                    ty,
                    reruns,
                    ..
                } => (true, words(message, ty), before(&reruns.runs)),
                TestCaseStatus::Skipped { .. } => continue,
            };
            tests.push(Read {
                suite: suite.name.as_str().to_owned(),
                name: test.name.as_str().to_owned(),
                failed,
                message,
                seconds: test.time.unwrap_or_default().as_secs_f64(),
                failed_before,
            });
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::RunDir;

    fn case(name: &str, verdict: Outcome, message: &str) -> Case {
        Case {
            name: name.to_owned(),
            test: name.to_owned(),
            binary: String::from("p.t"),
            kernel: String::from("6.12"),
            verdict,
            message: message.to_owned(),
            seconds: 1.5,
            failed_before: Vec::new(),
            artifacts: vec!["/t/a.console".into()],
            sidecar: None,
            dir: RunDir::open("/t".into()),
        }
    }

    fn finished(cases: Vec<Case>, broken: &[&str]) -> Finished {
        Finished {
            cases,
            broken: broken.iter().map(|text| (*text).to_owned()).collect(),
            ..Finished::new("r")
        }
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let flaky = Case {
            failed_before: vec!["at first".into()],
            ..case("at-last", Outcome::Pass, "")
        };
        let cases = vec![
            case("good", Outcome::Pass, ""),
            case("bad", Outcome::Fail, "<&\"> \u{1b}[31m first\nsecond"),
            case("unsure", Outcome::Inconclusive, "no samples"),
            case("left", Outcome::Skip, "no SMT"),
            flaky,
        ];
        let xml = render(&finished(cases, &[])).unwrap();
        assert!(
            xml.contains("tests=\"5\" skipped=\"1\" failures=\"1\" errors=\"1\""),
            "{xml}"
        );
        assert!(xml.contains("<flakyFailure"), "{xml}");
        assert!(
            !xml.contains('\u{1b}') && !xml.contains("[31m"),
            "control characters break XML readers: {xml}"
        );
        let read = read(&xml).unwrap();
        let failed: Vec<_> = read
            .iter()
            .map(|test| (test.name.as_str(), test.failed, test.failed_before.len()))
            .collect();
        assert_eq!(
            failed,
            [
                ("good", false, 0),
                ("bad", true, 0),
                ("unsure", true, 0),
                ("at-last", false, 1)
            ]
        );
        assert!(read[1].message.starts_with("<&\">"), "{}", read[1].message);
    }

    #[test]
    fn a_run_that_could_not_be_is_an_error() {
        let xml = render(&finished(Vec::new(), &["the tests could not be built"])).unwrap();
        assert!(
            xml.contains("tests=\"1\"")
                && xml.contains("errors=\"1\"")
                && xml.contains("could not be built"),
            "{xml}"
        );
    }
}
