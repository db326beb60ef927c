//! Payloads run in real guests, and what they measure reaches the record.

use ktstr::model::payload::{PayloadEnd, Polarity, Stream};
use ktstr_tests::CaseRun;

#[track_caller]
fn run(case: &str, code: i32) -> CaseRun {
    let run = CaseRun::new(env!("CARGO_BIN_EXE_payloads"), case, &[]).expect("the case runs");
    run.exits(code);
    run
}

#[test]
fn a_benchmarks_json_becomes_metrics() {
    let run = run("json_metrics", 0);
    let stats = &run.sidecar.as_ref().unwrap().result.stats;
    let [report] = stats.payloads.as_slice() else {
        panic!("{stats:?}")
    };
    assert_eq!(report.end, PayloadEnd::Exited(0));
    let p99 = report.metric("wakeup.p99_us").unwrap();
    assert_eq!(
        (p99.unit.as_str(), p99.polarity),
        ("us", Polarity::LowerBetter)
    );
    assert_eq!((p99.source.as_str(), p99.stream), ("json", Stream::Stdout));
    assert!(p99.value > 0.0 && p99.value >= report.metric("wakeup.p50_us").unwrap().value);
    assert_eq!(stats.ext_metrics["wakebench.wakeup.p99_us"], p99.value);
}

#[test]
fn an_extractor_on_the_host_reads_free_text() {
    let run = run("extracted_metrics", 0);
    let stats = &run.sidecar.as_ref().unwrap().result.stats;
    let [report] = stats.payloads.as_slice() else {
        panic!("{stats:?}")
    };
    assert_eq!(
        report.metric("wakeup_p99").unwrap().source,
        "./extractors/schbench.sh"
    );
    assert!(stats.ext_metrics["wakebench.rps"] > 0.0);
}

#[test]
fn a_payloads_checks_fail_the_test() {
    let run = run("failed_checks", 1);
    run.says(&[
        "exited with status 0, expected 3",
        "metric \"rps\"",
        "at least 1000000000000 is required",
    ]);
}
