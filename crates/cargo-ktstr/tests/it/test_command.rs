//! `cargo ktstr test` and `replay`, with both runners where both are there.

use std::fs;

use crate::fixture::{Project, files_below, lacks};

fn has_nextest() -> bool {
    let output = std::process::Command::new("cargo")
        .args(["nextest", "--version"])
        .output()
        .unwrap();
    output.status.success()
}

/// Runners of this host; the fall-back always is.
fn runners() -> Vec<&'static str> {
    if has_nextest() {
        vec!["cargo", "nextest"]
    } else {
        lacks(
            "nextest",
            "there is no cargo-nextest; `cargo xtask setup --checks` installs it",
        );
        vec!["cargo"]
    }
}

#[test]
fn verdicts_become_exit_codes_and_a_summary() {
    for runner in runners() {
        let project = Project::new();
        let test = |args: &[&str]| {
            let mut all = vec!["test", "--kernel", "./bzImage", "--runner", runner];
            all.extend(args);
            project.run(&all)
        };
        test(&["--exact", "passes"])
            .exits(0)
            .says(&["1 test in", "1 passed", "on tcg"]);
        test(&["skips"]).exits(0).says(&["SKIP skips", "1 skipped"]);
        test(&["--ignored", "unsure"]).exits(2).says(&[
            "INCONCLUSIVE unsure",
            "no samples".trim_start_matches("no samples"),
        ]);
        let failed = test(&["--include-ignored", "--exact", "passes", "fails", "unsure"]);
        failed.exits(1).says(&[
            "FAIL fails: queue seven is gone",
            "fails.failure-dump.json",
            "again: cargo ktstr test --kernel",
            "--include-ignored --exact fails",
            "1 passed, 1 failed, 1 inconclusive",
        ]);
        test(&["--ignored", "dies"]).exits(1).says(&["FAIL dies"]);
        test(&["no_such_test"]).exits(1).says(&["no test matches"]);
    }
}

#[test]
fn reports_hold_every_verdict() {
    for runner in runners() {
        let project = Project::new();
        let ran = project.run(&[
            "test",
            "--kernel",
            "./bzImage",
            "--runner",
            runner,
            "--junit",
            "out/junit.xml",
            "--ktap",
            "-",
        ]);
        ran.exits(1);
        assert!(
            ran.stdout.starts_with("KTAP version 1\n1..3\n"),
            "{}",
            ran.stdout
        );
        assert!(
            ran.stdout.contains("ok 3 skips # SKIP no such device"),
            "{}",
            ran.stdout
        );
        let xml = fs::read_to_string(project.root().join("out/junit.xml")).unwrap();
        assert!(
            xml.contains("tests=\"3\" skipped=\"1\" failures=\"1\" errors=\"0\""),
            "{xml}"
        );
        let json = project
            .run(&[
                "test",
                "--kernel",
                "./bzImage",
                "--runner",
                runner,
                "--json",
            ])
            .exits(1)
            .json();
        assert_eq!(json["counts"]["fail"], 1);
        assert_eq!(json["tests"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn shards_and_kernels_share_the_matrix() {
    for runner in runners() {
        let project = Project::new();
        let mut seen = Vec::new();
        for shard in ["1/2", "2/2"] {
            let ran = project.run(&[
                "test",
                "--kernel",
                "./bzImage",
                "--runner",
                runner,
                "--shard",
                shard,
                "--json",
            ]);
            let json = ran.json();
            seen.extend(
                json["tests"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|test| test["name"].to_string()),
            );
        }
        seen.sort();
        assert_eq!(seen, ["\"fails\"", "\"passes\"", "\"skips\""]);
        fs::write(project.root().join("other"), "").unwrap();
        let ran = project.run(&[
            "test",
            "-k",
            "./bzImage",
            "-k",
            "./other",
            "--runner",
            runner,
            "passes",
            "--json",
        ]);
        let json = ran.exits(0).json();
        assert_eq!(json["directories"].as_array().unwrap().len(), 2);
        assert_eq!(json["tests"][1]["kernel"], "other");
    }
}

#[test]
fn replay_runs_what_failed_and_only_that() {
    let project = Project::new();
    project
        .run(&["replay"])
        .exits(1)
        .says(&["no results", "cargo ktstr test"]);
    project.run(&["test", "--kernel", "./bzImage"]).exits(1);
    let dry = project.run(&["replay", "--dry-run"]);
    dry.exits(0);
    assert!(
        dry.stdout.ends_with("--include-ignored --exact fails\n"),
        "{}",
        dry.stdout
    );
    project
        .run(&["replay"])
        .exits(1)
        .says(&["1 test in", "FAIL fails"]);
    project
        .run(&["test", "--kernel", "./bzImage", "passes"])
        .exits(0);
    project.run(&["replay"]).exits(0).says(&["nothing failed"]);
    project
        .run(&["replay", "--run", "nope"])
        .exits(1)
        .says(&["no run 'nope'"]);
}

#[test]
fn a_project_that_does_not_build_is_a_failure() {
    for runner in runners() {
        let project = Project::new();
        fs::write(project.root().join("src/lib.rs"), "fn broken(").unwrap();
        project
            .run(&["test", "--kernel", "./bzImage", "--runner", runner])
            .exits(1)
            .says(&["could not be built"]);
    }
}

#[test]
fn a_missing_kernel_names_the_next_step() {
    let project = Project::new();
    project
        .run(&["test"])
        .exits(1)
        .says(&["no kernel to test on", "cargo ktstr kernel build"]);
    project
        .run(&["test", "--kernel", "./gone"])
        .exits(1)
        .says(&["./gone", "No such file"]);
    project.run(&["test", "--kernel", "nope"]).exits(1).says(&[
        "'nope'",
        "not in the cache",
        "6.12.30",
    ]);
    project
        .run(&["test", "--kernel", "a b"])
        .exits(1)
        .says(&["'a b'", "expected a version"]);
    assert!(
        files_below(&project.runs()).is_empty(),
        "nothing ran, so nothing is left"
    );
}

#[test]
fn two_at_once_do_not_meet() {
    let project = Project::new();
    // Built once, so that the two below run their tests at the same time.
    project
        .run(&["test", "--kernel", "./bzImage", "passes"])
        .exits(0);
    let mut children: Vec<_> = (0..2)
        .map(|_| {
            let mut command =
                project.command(&["test", "--kernel", "./bzImage", "passes", "--json"]);
            command
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut runs: Vec<String> = children
        .drain(..)
        .map(|child| {
            let ran = crate::fixture::Ran::new(child.wait_with_output().unwrap());
            ran.exits(0);
            ran.json()["run"].to_string()
        })
        .collect();
    runs.dedup();
    assert_eq!(runs.len(), 2);
}

#[test]
fn coverage_counts_the_workspaces_own_lines() {
    let project = Project::new();
    let ran = project.run(&[
        "coverage",
        "--lcov",
        "lines.info",
        "--html",
        "pages",
        "--",
        "--kernel",
        "./bzImage",
        "--runner",
        "cargo",
        "passes",
    ]);
    ran.exits(0)
        .says(&["host processes and 0 guest processes", "lines.info"]);
    let lines = std::fs::read_to_string(project.root().join("lines.info")).unwrap();
    assert!(lines.contains("SF:"), "{lines}");
    let reached = |line: &str| line.starts_with("DA:") && !line.ends_with(",0");
    assert!(lines.lines().any(reached), "{lines}");
    assert!(project.root().join("pages/index.html").is_file());
    // The tests' verdict is the command's, and the report is there all the same. With --keep the first run's counters are added
    // to, without they are gone.
    let manifest = project.root().join("Cargo.toml").display().to_string();
    let kernel = project.root().join("bzImage").display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let again = |more: &[&str]| {
        let test = ["--", "--kernel", &kernel, "--runner", "cargo", "fails"];
        let mut command =
            project.command(&[&["coverage", "--manifest-path", &manifest], more, &test].concat());
        let ran = crate::fixture::Ran::new(command.current_dir(elsewhere.path()).output().unwrap());
        ran.exits(1);
        ran
    };
    let kept = again(&["--keep", "--json"]);
    let totals = &kept.json()["data"][0]["totals"]["lines"];
    assert!(totals["covered"].as_u64() > Some(0), "{totals}");
    let fresh = again(&[]);
    fresh.says(&["TOTAL"]);
    assert!(
        counted(&kept) > counted(&fresh),
        "{}{}",
        kept.stderr,
        fresh.stderr
    );
}

/// How many host processes a report is made of.
fn counted(ran: &crate::fixture::Ran) -> u32 {
    let (_, rest) = ran.stderr.split_once("counters of ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn coverage_without_llvms_tools_says_how_to_get_them() {
    let project = Project::new();
    let output = project
        .command(&["coverage"])
        .env("PATH", "/nonexistent")
        .env("RUSTC", fake_rustc(&project.root()))
        .output()
        .unwrap();
    crate::fixture::Ran::new(output)
        .exits(1)
        .says(&["LLVM 99", "rustup component add llvm-tools"]);
}

/// A compiler of another LLVM, without tools beside it.
fn fake_rustc(dir: &std::path::Path) -> std::path::PathBuf {
    let path = dir.join("rustc");
    let script = "#!/bin/sh\ncase \"$1\" in -vV) echo 'LLVM version: 99.0.1';; *) echo /no/such/lib;; esac\n";
    crate::program::write_program(&path, script);
    path
}
