//! Payloads run in real guests, and what they measure reaches the record.

use std::fs;
use std::path::Path;
use std::process::Command;

use ktstr::model::payload::{PayloadEnd, Polarity, Stream};
use ktstr_tests::CaseRun;

#[path = "../../crates/ktstr-vmm/tests/shared/program.rs"]
mod program;

use program::write_program;

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

/// Programs that start on the host start in the guest: with what their run path leads to, and with their interpreter.
#[test]
fn programs_bring_their_libraries_and_interpreters() {
    let home = tempfile::tempdir().expect("a directory");
    let bin = home.path().join("bin");
    for dir in ["bin", "lib"] {
        fs::create_dir(home.path().join(dir)).expect("a directory");
    }
    let write = |name: &str, text: &str| {
        fs::write(home.path().join(name), text).expect("a file");
    };
    write("status.c", "int status(void) { return 7; }");
    write(
        "main.c",
        "int status(void); int main(void) { return status(); }",
    );
    compile(
        home.path(),
        "-shared -fPIC -o lib/libktstrstatus.so status.c",
    );
    compile(
        home.path(),
        "-o bin/with-library main.c -Llib -lktstrstatus -Wl,-rpath,$ORIGIN/../lib",
    );
    write_program(&bin.join("shell-script"), "#!/bin/sh\nexit 8\n");
    write_program(
        &bin.join("env-script"),
        "#!/usr/bin/env bash\n[[ 1 -lt 2 ]] && exit 9\n",
    );
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", bin.display());
    let case = "programs_of_strangers";
    let run = CaseRun::new(
        env!("CARGO_BIN_EXE_payloads"),
        case,
        &[("PATH", path.as_str())],
    )
    .expect("the case runs");
    run.exits(0);
    let payloads = &run
        .sidecar
        .as_ref()
        .expect("a record")
        .result
        .stats
        .payloads;
    let ends: Vec<PayloadEnd> = payloads.iter().map(|payload| payload.end).collect();
    assert_eq!(ends, [7, 8, 9].map(PayloadEnd::Exited), "{payloads:?}");
}

fn compile(dir: &Path, args: &str) {
    let status = Command::new("cc")
        .current_dir(dir)
        .args(args.split(' '))
        .status()
        .expect("cc runs");
    assert!(status.success(), "cc {args}: {status}");
}
