//! The package `ktstr-authors` under `tests/authors`: tests as scheduler authors have them, in Rust's own harness, under each of
//! the three runners.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use ktstr::host::plan::config::cache_dir;

use crate::fixture::{Ran, bare, files_below, ktstr, lacks, repository, target};

/// On this target of the package; of the whole workspace, whose dependencies are built already with the features that all of it
/// wants of them.
const PACKAGE: [&str; 4] = ["--workspace", "--features", "ktstr-tests", "--test"];

/// Where the scheduler of somebody else is that `cargo xtask setup --checks` has installed.
fn schedulers() -> PathBuf {
    cache_dir().join("schedulers/checks/bin")
}

/// Whether they are installed; one that is not is told.
fn are_there(names: &[&str]) -> bool {
    let home = schedulers();
    let missing = names.iter().find(|name| !home.join(name).is_file());
    if let Some(name) = missing {
        lacks(
            "scheduler",
            &format!("{name} is missing; `cargo xtask setup --checks` installs it"),
        );
    }
    missing.is_none()
}

fn at_home(mut command: Command, records: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .current_dir(repository())
        .env("PATH", format!("{}:{path}", schedulers().display()))
        .env("CARGO_TARGET_DIR", target())
        .env("KTSTR_SIDECAR_DIR", records);
    command
}

/// `cargo test` or `cargo nextest run` on a target of the package, and then `args`.
fn cargo(words: &[&str], test: &str, args: &[&str], records: &Path) -> Ran {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = bare(Command::new(program));
    command.args(words).args(PACKAGE).arg(test).args(args);
    Ran::new(at_home(command, records).output().unwrap())
}

/// `cargo ktstr test` on a target of the package: the verdict of each test by its name.
fn verdicts(test: &str, args: &[&str], records: &Path, code: i32) -> Vec<(String, String)> {
    let mut command = ktstr(&["test", "--json"]);
    command.args(PACKAGE).arg(test).args(args);
    let ran = Ran::new(at_home(command, records).output().unwrap());
    let json = ran.exits(code).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tests = json["tests"].as_array().unwrap().iter();
    tests
        .map(|test| (text(&test["name"]), text(&test["verdict"])))
        .collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, verdict)| ((*name).to_owned(), (*verdict).to_owned()))
        .collect()
}

/// libtest runs them: its names, its filters, its words; and what it has no word for is said.
#[test]
fn cargo_test_runs_ktstr_tests_beside_plain_ones() {
    let dir = tempfile::tempdir().unwrap();
    let test = |args: &[&str]| cargo(&["test"], "default_harness", args, dir.path());
    test(&["--no-fail-fast"]).exits(101).says(&[
        "running 9 tests",
        "test a_plain_test_comes_first ... ok",
        "test guest_runs_the_body ... ok",
        "test host_passes ... ok",
        "test host_skips ... ok",
        "ktstr: SKIP: host_skips: no such device",
        "test host_ignored ... ignored",
        "test host_ignored_by_rusts_own_attribute ... ignored, takes long",
        "test host_fails ... FAILED",
        "test host_unsure ... FAILED",
        "test inner::plain_fails ... FAILED",
        "test host_fails returned an error: queue seven is gone",
        "ktstr_test 'host_unsure' [topo=1n1l2c1t] inconclusive:",
        "inconclusive: it was not measured",
        "the plain one is wrong",
        "4 passed; 3 failed; 2 ignored; 0 measured; 0 filtered out",
        // The one that was registered by hand, which libtest cannot know.
        "test host_by_hand ... ok",
    ]);
    let one = test(&["host_passes", "--", "--nocapture", "--test-threads=1"]);
    one.exits(0).says(&[
        "said by a passing test",
        "1 passed; 0 failed",
        "8 filtered out",
    ]);
    assert!(!one.stdout.contains("host_by_hand"), "{}", one.stdout);
    let quiet = test(&["host_passes"]);
    assert!(!quiet.stdout.contains("said by"), "{}", quiet.stdout);
    test(&["a_plain_test"])
        .exits(0)
        .says(&["1 passed", "a_plain_test_comes_first ... ok"]);
    test(&["--", "--ignored"])
        .exits(0)
        .says(&["2 passed", "host_ignored ... ok"]);
    test(&["--", "--exact", "host_by_hand"])
        .exits(0)
        .says(&["running 1 test", "host_by_hand ... ok"]);
    let list = test(&["--", "--list", "host_p", "by_hand"]);
    list.exits(0).says(&[
        "host_passes: test",
        "host_by_hand: test",
        "1 test, 0 benchmarks",
    ]);
}

/// A process for each test, which nextest lists and calls by its name.
#[test]
fn nextest_runs_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let ran = cargo(
        &["nextest", "run", "--no-fail-fast"],
        "default_harness",
        &[],
        dir.path(),
    );
    // Without what is between them: how many took nextest's minute.
    ran.exits(100).says(&[
        "8 tests run: 5 passed",
        ", 3 failed",
        ", 2 skipped",
        "queue seven is gone",
        "inconclusive: it was not measured",
    ]);
}

/// One machine builds, two others share the tests: each has nextest's archive and no source but the manifests.
#[test]
fn an_archive_is_shared_by_two_workers() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("tests.tar.zst");
    let file = archive.to_str().unwrap();
    let archiving = ["nextest", "archive", "--archive-file", file];
    cargo(&archiving, "default_harness", &[], dir.path()).exits(0);
    let workers = [1, 2].map(|part| {
        let home = dir.path().join(part.to_string());
        for manifest in ["Cargo.toml", "tests/authors/Cargo.toml"] {
            let copy = home.join("checkout").join(manifest);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(repository().join(manifest), copy).unwrap();
        }
        let mut command = bare(Command::new("cargo-nextest"));
        command
            .args(["nextest", "run", "--no-fail-fast", "--archive-file", file])
            .arg("--workspace-remap")
            .arg(home.join("checkout"))
            .args(["--partition", &format!("count:{part}/2")])
            .current_dir(&home)
            .env("KTSTR_SIDECAR_DIR", home.join("records"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        (home, command.spawn().unwrap())
    });
    let mut names = Vec::new();
    for (home, worker) in workers {
        let ran = Ran::new(worker.wait_with_output().unwrap());
        ran.exits(100).says(&["4 tests run"]);
        for path in files_below(&home.join("records")) {
            let name = path.file_name().unwrap().to_string_lossy();
            names.extend(
                name.strip_suffix(".json")
                    .filter(|name| !name.contains('.'))
                    .map(str::to_owned),
            );
        }
    }
    names.sort_unstable();
    let all = [
        "guest_runs_the_body",
        "host_by_hand",
        "host_fails",
        "host_passes",
        "host_skips",
        "host_unsure",
    ];
    assert_eq!(
        names, all,
        "each test of ktstr's leaves one record, on one of the two"
    );
}

/// No other step of CI builds the package with its feature, so its plain test of a declaration's values runs here.
#[test]
fn cargo_test_holds_a_declaration_against_what_tests_get() {
    let dir = tempfile::tempdir().unwrap();
    cargo(&["test"], "declared", &[], dir.path())
        .exits(0)
        .says(&[
            "running 1 test",
            "test what_is_declared_is_what_tests_get ... ok",
            "1 passed; 0 failed; 0 ignored",
        ]);
}

/// Nothing of the verdicts is lost to libtest, which knows two.
#[test]
fn cargo_ktstr_knows_their_verdicts() {
    let all = owned(&[
        ("a_plain_test_comes_first", "pass"),
        ("guest_runs_the_body", "pass"),
        ("host_by_hand", "pass"),
        ("host_fails", "fail"),
        ("host_passes", "pass"),
        ("host_skips", "skip"),
        ("host_unsure", "inconclusive"),
        ("inner::plain_fails", "fail"),
    ]);
    for runner in ["cargo", "nextest"] {
        let dir = tempfile::tempdir().unwrap();
        let args = ["--runner", runner];
        assert_eq!(
            verdicts("default_harness", &args, dir.path(), 1),
            all,
            "{runner}"
        );
        let args = ["--runner", runner, "host_unsure"];
        let unsure = verdicts("default_harness", &args, dir.path(), 2);
        assert_eq!(
            unsure,
            owned(&[("host_unsure", "inconclusive")]),
            "{runner}"
        );
    }
}

/// The shapes of tests that authors have, on real guests; the one that must fail says which claim does not hold.
#[test]
fn authors_tests_have_their_verdicts_in_guests() {
    if !are_there(&["scx_bpfland", "scx_cosmos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let all = cargo(&["test", "--no-fail-fast"], "tenants", &[], dir.path());
    all.exits(101).says(&[
        "running 13 tests",
        "test a_plain_test_comes_first ... ok",
        "test tenants_with_and_without_the_scheduler ... ok",
        "test a_scheduler_in_the_other_form_takes_its_own_topology ... ok",
        "test another_scheduler_takes_arguments_of_one_test ... ok",
        "test a_crowded_cpuset_leaves_the_rest_alone ... ok",
        "test a_claim_that_does_not_hold_is_the_failure ... FAILED",
        "expected at least 1000",
        "12 passed; 1 failed; 0 ignored",
    ]);
    let three = ["a_claim_that_does_not", "a_plain_test", "another_scheduler"];
    let args = ["run", "--no-fail-fast"];
    let nextest = cargo(
        &[&["nextest"][..], &args].concat(),
        "tenants",
        &three,
        dir.path(),
    );
    nextest.exits(100).says(&[
        "3 tests run: 2 passed",
        ", 1 failed",
        "expected at least 1000",
    ]);
    let expected = owned(&[
        ("a_claim_that_does_not_hold_is_the_failure", "fail"),
        ("a_plain_test_comes_first", "pass"),
        ("another_scheduler_takes_arguments_of_one_test", "pass"),
    ]);
    assert_eq!(verdicts("tenants", &three, dir.path(), 1), expected);
}

/// A binary that declares a scheduler and has no test of ktstr's gives the verifier its cells.
#[test]
fn the_verifier_finds_declarations_in_the_default_harness() {
    if !are_there(&["scx_bpfland"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = ktstr(&["verifier", "--json", "--max-cpus", "1"]);
    command
        .args(["--scheduler", "bpfland_primary"])
        .args(PACKAGE)
        .arg("declared");
    let ran = Ran::new(at_home(command, dir.path()).output().unwrap());
    let json = ran.exits(0).json();
    let cells = json.as_array().unwrap();
    assert_eq!(cells.len(), 1, "{json:#}");
    assert_eq!(
        (&cells[0]["scheduler"], &cells[0]["verdict"]),
        (&"bpfland_primary".into(), &"pass".into())
    );
    assert!(
        !cells[0]["programs"].as_array().unwrap().is_empty(),
        "{json:#}"
    );
}
