//! Which packages, targets and tests `perf-delta` and `verifier` take: each flag against the same command without it.

use std::fs;

use crate::fixture::{Project, Ran};

/// The commands, as they run something quick that passes or is unsure.
const DELTA: [&str; 10] = [
    "perf-delta",
    ".",
    ".",
    "--kernel",
    "./bzImage",
    "--metric",
    "ops_per_s",
    "--pairs",
    "2",
    "--allow-unsure",
];
/// One test under one seed, and under several.
const SEEDS: [&[&str]; 3] = [
    &["replay", "passes", "--seed", "1"],
    &["explore", "passes", "--seeds", "1"],
    &["look", "passes", "--at", "1s"],
];
/// Of the last two commits, both of which pass.
const BISECT: [&str; 6] = [
    "bisect",
    "passes",
    "--good-rev",
    "HEAD~1",
    "--bad-rev",
    "HEAD",
];
const VERIFIER: [&str; 5] = ["verifier", "--kernel", "./bzImage", "--scheduler", "good"];

/// A workspace of two packages, with features that decide what compiles.
fn project() -> Project {
    let project = Project::new();
    let root = project.root();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("[workspace]", "[features]\ndefault = [\"usual\"]\nusual = []\nextra = []\n\n[workspace]\nmembers = [\"second\"]");
    fs::write(root.join("Cargo.toml"), manifest).unwrap();
    let library = "#[cfg(feature = \"extra\")] compile_error!(\"extra is on\");\n\
                   #[cfg(not(feature = \"usual\"))] compile_error!(\"usual is off\");\n\
                   #[cfg(not(debug_assertions))] compile_error!(\"optimised\");\n";
    fs::write(root.join("src/lib.rs"), library).unwrap();
    fs::create_dir_all(root.join("second/src")).unwrap();
    let second = "[package]\nname = \"second\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    fs::write(root.join("second/Cargo.toml"), second).unwrap();
    fs::write(
        root.join("second/src/lib.rs"),
        "compile_error!(\"second is built\");\n",
    )
    .unwrap();
    project
}

fn with(project: &Project, command: &[&str], more: &[&str]) -> Ran {
    project.run(&[command, more].concat())
}

#[test]
fn packages_targets_and_features_are_cargos() {
    let project = project();
    for command in [&DELTA[..], &VERIFIER] {
        let plain: &[&str] = if command[0] == "perf-delta" {
            &["passes"]
        } else {
            &[]
        };
        with(&project, command, plain).exits(0);
        for (flags, says) in [
            (&["--package", "second"][..], "second is built"),
            (&["--workspace"], "second is built"),
            (&["--test", "nope"], "no test target named `nope`"),
            (&["--bin", "nope"], "no bin target named `nope`"),
            (&["--features", "extra"], "extra is on"),
            (&["--all-features"], "extra is on"),
            (&["--no-default-features"], "usual is off"),
            (&["--release"], "optimised"),
            (&["--manifest-path", "./nope/Cargo.toml"], "nope/Cargo.toml"),
            (&["--engine", "qemu"], "qemu"),
        ] {
            let ran = with(&project, command, &[plain, flags].concat());
            assert!(
                matches!(ran.code, Some(1 | 64)),
                "{flags:?}: {}",
                ran.stderr
            );
            ran.says(&[says]);
        }
        let lock = project.root().join("Cargo.lock");
        fs::remove_file(&lock).unwrap();
        with(&project, command, &[plain, &["--locked"]].concat())
            .exits(1)
            .says(&["--locked"]);
        assert!(!lock.exists());
    }
}

/// A dependency that is nowhere: cargo's refusal says that it was not allowed to look.
#[test]
fn offline_is_cargos() {
    let project = project();
    let path = project.root().join("Cargo.toml");
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        manifest.replace(
            "[features]",
            "[dependencies]\nktstr-no-such-crate = \"1\"\n\n[features]",
        ),
    )
    .unwrap();
    let shell = [
        "shell",
        "--kernel",
        "./bzImage",
        "--test",
        "passes",
        "--exec",
        "true",
    ];
    project.commit_speeds(&[1, 2]);
    let all = [
        &DELTA[..],
        &VERIFIER,
        &BISECT,
        &shell,
        &["export", "passes"],
    ];
    for command in all.into_iter().chain(SEEDS) {
        let mut command = project.command(&[command, &["--offline"]].concat());
        let ran = Ran::new(command.env_remove("CARGO_NET_OFFLINE").output().unwrap());
        ran.exits(1).says(&["offline"]);
    }
}

#[test]
fn filters_of_a_comparison_choose_tests() {
    let project = Project::new();
    let delta = |more: &[&str]| with(&project, &DELTA, more);
    delta(&["passe"]).exits(0);
    delta(&["--exact", "passe"]).exits(1);
    delta(&["--exact", "passes"]).exits(0).says(&["passes"]);
    // `unsure` is an ignored one, and does not pass where it is run.
    delta(&["unsure"]).exits(1).says(&["no test matches"]);
    for flag in ["--include-ignored", "--ignored"] {
        delta(&["unsure", flag])
            .exits(1)
            .says(&["did not pass, left out: unsure"]);
    }
    delta(&["passes", "--ignored"])
        .exits(1)
        .says(&["no test matches"]);
}

#[test]
fn the_sweep_takes_schedulers_presets_and_no_tests() {
    let project = Project::new();
    let sweep = |more: &[&str]| with(&project, &["verifier", "--kernel", "./bzImage"], more);
    let cells = |more: &[&str]| {
        let json = sweep(&[more, &["--json"]].concat()).json();
        let text = |cell: &serde_json::Value| {
            format!(
                "{} {}",
                cell["scheduler"].as_str().unwrap(),
                cell["preset"].as_str().unwrap()
            )
        };
        json.as_array()
            .unwrap()
            .iter()
            .map(text)
            .collect::<Vec<String>>()
    };
    assert_eq!(cells(&[]).len(), 4);
    assert_eq!(
        cells(&["--scheduler", "good"]),
        ["good declared", "good small"]
    );
    assert_eq!(
        cells(&["--scheduler", "good", "--preset", "small"]),
        ["good small"]
    );
    assert_eq!(
        cells(&["--scheduler", "good", "--max-cpus", "2"]),
        ["good declared"]
    );
    assert_eq!(cells(&["goo", "--preset", "small"]), ["good small"]);
    sweep(&["--exact", "goo"])
        .exits(1)
        .says(&["no cell is left"]);
    // The whole message of a red cell is there for those who ask.
    let message = "ktstr_test 'fails' failed:";
    let (plain, log) = (sweep(&[]), sweep(&["--log"]));
    assert!(!plain.stdout.contains(message), "{}", plain.stdout);
    assert!(log.stdout.contains(message), "{}", log.stdout);
    for flag in ["--ignored", "--include-ignored"] {
        sweep(&[flag]).exits(1).says(&[flag, "cells, not tests"]);
    }
}

#[test]
fn a_shell_and_an_export_find_their_test_where_they_are_told() {
    let project = project();
    project.commit_speeds(&[1, 2]);
    let shell = [
        "shell",
        "--kernel",
        "./bzImage",
        "--exec",
        "true",
        "--test",
        "passes",
    ];
    let all = [&shell[..], &["export", "passes"], &BISECT];
    for command in all.into_iter().chain(SEEDS) {
        for (flags, says) in [
            (&["--package", "second"][..], "second is built"),
            (&["--features", "extra"], "extra is on"),
            (&["--manifest-path", "./nope/Cargo.toml"], "nope/Cargo.toml"),
        ] {
            with(&project, command, flags).exits(1).says(&[says]);
        }
    }
    for command in [&["export", "passes"][..], &BISECT]
        .into_iter()
        .chain(SEEDS)
    {
        with(&project, command, &["--release"])
            .exits(1)
            .says(&["optimised"]);
    }
    for command in SEEDS {
        with(&project, command, &["--kernel", "./gone"])
            .exits(1)
            .says(&["./gone"]);
    }
    // Another kernel than none: the shell's is looked at before its test.
    with(
        &project,
        &["shell", "--exec", "true"],
        &["--kernel", "./gone"],
    )
    .exits(1)
    .says(&["./gone"]);
}
