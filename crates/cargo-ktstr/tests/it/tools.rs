//! The tools with nothing made up: real test binaries of the package `ktstr-sample`, real guests. What one run left serves
//! several of them, since a boot is what costs.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fixture::{Ran, ktstr, repository, target};

/// `cargo ktstr COMMAND` somewhere else than in the repository, so that `--manifest-path` says where it is.
fn command(args: &[&str], here: &Path) -> Command {
    let mut command = ktstr(args);
    command
        .arg("--manifest-path")
        .arg(repository().join("Cargo.toml"))
        .current_dir(here)
        .env("CARGO_TARGET_DIR", target());
    command
}

fn run(args: &[&str], here: &Path) -> Ran {
    let mut command = command(args, here);
    // The flag wins over the variable, which names an engine that most hosts do not have.
    if args.contains(&"--engine") {
        command.env("KTSTR_ENGINE", "kvm");
    }
    Ran::new(command.output().unwrap())
}

/// The same, on the sample's tools.
fn on_sample(args: &[&str], here: &Path) -> Ran {
    let sample = [
        "--package",
        "ktstr-sample",
        "--features",
        "sample",
        "--test",
        "tools",
        "--offline",
    ];
    run(&[args, &sample].concat(), here)
}

fn metric(list: &Value, name: &str) -> Option<Value> {
    let mut rows = list.as_array().unwrap().iter();
    rows.find(|row| row["name"] == name).cloned()
}

/// One boot: its figures are in the record, in `stats`, on the page and in the trace; a comparison of the same test later is
/// no run of its own.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one boot, looked at through every tool"
)]
fn what_one_run_measured_is_in_every_tool() {
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let first = on_sample(&["test", "--exact", "measured", "--json"], here);
    let first = first.exits(0).json();
    let id = first["run"].as_str().unwrap();
    let sidecar = record_of(id, "measured");
    let monitor = &sidecar["monitor"];
    assert_eq!(monitor["cpus"], 2, "{monitor:#}");
    let watched = &monitor["watched"]["dispatched"];
    assert!(
        watched["last"].as_u64().unwrap() > watched["first"].as_u64().unwrap(),
        "{watched}"
    );
    assert_eq!(sidecar["periodic"]["target"], 2, "{sidecar:#}");
    assert!(sidecar["disk"]["reads_completed"].is_u64(), "{sidecar:#}");
    assert!(sidecar["watchdog"]["wanted"].is_u64(), "{sidecar:#}");

    let list = run(&["stats", "list-metrics", "--json"], here)
        .exits(0)
        .json();
    for (name, polarity) in [
        ("monitor.avg_imbalance_ratio", "lower"),
        ("monitor.max_local_dsq_depth", "lower"),
        ("watched.dispatched.growth", "unknown"),
        ("disk.io_errors", "lower"),
        ("periodic.real", "higher"),
        ("verifier.fixture_enqueue.verified_insns", "lower"),
    ] {
        let row = metric(&list, name).unwrap_or_else(|| panic!("no {name} in {list:#}"));
        assert_eq!(row["polarity"], polarity, "{row}");
    }
    let trend = [
        "stats",
        "trend",
        "watched.dispatched.growth",
        "--test",
        "measured",
        "--last",
        "1",
        "--json",
    ];
    let trend = run(&trend, here).exits(0).json();
    assert_eq!(trend.as_array().unwrap().len(), 1, "{trend:#}");
    assert!(trend[0]["value"].as_f64().unwrap() > 0.0, "{trend:#}");

    let page = here.join("page.html");
    run(&["report", "--run", id, "--output", "page.html"], here).exits(0);
    let page = fs::read_to_string(page).unwrap();
    for part in [
        "measured",
        "monitor.max_imbalance_ratio",
        "CPU 1",
        "phases",
        "periodic_000",
    ] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    run(&["report", "--run", id, "--perfetto", "trace.json"], here).exits(0);
    let trace: Value = serde_json::from_slice(&fs::read(here.join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let runnable = events
        .iter()
        .filter(|event| event["name"] == "CPU 001 runnable");
    assert!(runnable.count() > 5, "samples of a real guest");

    // A against A, twice: too few pairs to say anything, and so it is said.
    let delta = on_sample(
        &[
            "perf-delta",
            ".",
            ".",
            "measured",
            "--exact",
            "--pairs",
            "2",
            "--metric",
            "watched.dispatched.growth",
            "--metric",
            "monitor.avg_nr_running",
            "--engine",
            "tcg",
            "--json",
        ],
        here,
    );
    let delta = delta.exits(2).json();
    let rows = delta["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{delta:#}");
    for row in rows {
        assert_eq!(
            (&row["verdict"], &row["low"]),
            (&"unsure".into(), &Value::Null),
            "{row:#}"
        );
        assert!(row["median_a"].as_f64().unwrap() > 0.0, "{row:#}");
    }
    let runs = Path::new(delta["directory"].as_str().unwrap());
    assert!(
        runs.starts_with(target().join("ktstr-perf")),
        "{}",
        runs.display()
    );
    let record = fs::read(runs.join("pair-002-b/measured.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["engine"], "tcg");
    let last = run(&["stats", "last-run", "--run", id, "--json"], here)
        .exits(0)
        .json();
    assert_eq!(last[0]["test"], "measured");
    let compared = delta["directory"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap();
    run(&["stats", "last-run", "--run", compared], here)
        .exits(1)
        .says(&["no run"]);
}

fn record_of(run: &str, test: &str) -> Value {
    let runs = fs::read_dir(target().join("ktstr")).unwrap();
    let dir = runs
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(run))
        .unwrap_or_else(|| panic!("no run {run}"));
    serde_json::from_slice(&fs::read(dir.join(format!("{test}.json"))).unwrap()).unwrap()
}

/// A scheduler that switches only tasks of SCHED_EXT and loses one of them: red, with the worker's or the kernel's word.
#[test]
fn a_cell_of_the_verifier_sees_that_a_worker_gets_nothing() {
    let here = tempfile::tempdir().unwrap();
    let cells = on_sample(
        &[
            "verifier",
            "--scheduler",
            "sample-losing",
            "--scheduler",
            "sample-fixture",
            "--preset",
            "4cpu-1llc-nosmt",
            "--engine",
            "tcg",
            "--json",
        ],
        here.path(),
    );
    let cells = cells.exits(1).json();
    let cells = cells.as_array().unwrap();
    let verdicts: Vec<(&str, &str)> = cells
        .iter()
        .map(|cell| {
            (
                cell["scheduler"].as_str().unwrap(),
                cell["verdict"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        verdicts,
        [("sample-fixture", "pass"), ("sample-losing", "fail")],
        "{cells:#?}"
    );
    let programs = cells[0]["programs"].as_array().unwrap();
    assert!(
        programs
            .iter()
            .any(|program| program["verified_insns"].as_u64().unwrap() > 0)
    );
    assert!(
        cells[1]["message"].as_str().unwrap().contains("stall"),
        "{:#}",
        cells[1]
    );
}

/// A test's own VM with its scheduler, and the test's file as it would run on bare metal, in a guest.
#[test]
fn a_shell_has_the_tests_scheduler_and_an_export_runs_elsewhere() {
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let ops = "cat /sys/kernel/sched_ext/root/ops; nproc";
    let shell = [
        "shell",
        "--engine",
        "tcg",
        "--test",
        "measured",
        "--package",
        "ktstr-sample",
        "--features",
        "sample",
        "--offline",
        "--exec",
        ops,
    ];
    let shell = run(&shell, here);
    shell.exits(0);
    assert!(shell.stdout.starts_with("fixture"), "{}", shell.stdout);
    assert!(shell.stdout.ends_with("\n2\n"), "{}", shell.stdout);

    let export = [
        "export",
        "judged_by_the_host",
        "--package",
        "ktstr-sample",
        "--features",
        "sample",
        "--offline",
        "--output",
        "judged.sh",
    ];
    run(&export, here).exits(0).says(&["judged.sh"]);
    let refused = [
        "export",
        "measured",
        "--package",
        "ktstr-sample",
        "--features",
        "sample",
        "--offline",
    ];
    run(&refused, here).exits(1).says(&["disk: a VM has it"]);
    let elsewhere =
        "/include-files/judged.sh; echo ended with $?; ls /sys/fs/cgroup/ktstr 2>&1 | tail -1";
    let bare = [
        "shell",
        "--topology",
        "1n1l2c1t",
        "--memory-mib",
        "1500",
        "--exec-timeout",
        "300",
        "--include",
        "judged.sh",
        "--exec",
        elsewhere,
    ];
    // No project: a plain guest.
    let bare = Ran::new(ktstr(&bare).current_dir(here).output().unwrap());
    bare.exits(0).says(&[
        "running judged_by_the_host",
        "inconclusive: the test itself ended with 0; unjudged on this machine: post_vm",
        "ended with 2",
        "No such file",
    ]);
}
