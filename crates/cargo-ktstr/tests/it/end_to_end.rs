//! The command line with nothing made up: the package `ktstr-sample` under `tests/sample`, its real test binaries, real guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fixture::{Ran, ktstr, repository, target};

/// `cargo ktstr COMMAND`, in the repository.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = ktstr(args);
    command
        .current_dir(repository())
        .env("CARGO_TARGET_DIR", target())
        .env_remove("SAMPLE_DIR");
    command
}

pub(crate) fn run(args: &[&str]) -> Ran {
    Ran::new(command(args).output().unwrap())
}

/// `cargo ktstr test` on these targets of the sample. Of the whole workspace, whose dependencies are built already with the
/// features that all of it wants of them.
pub(crate) fn test(targets: &[&str], args: &[&str]) -> Command {
    let mut all = vec!["test", "--workspace", "--features", "sample"];
    for target in targets {
        all.extend(["--test", target]);
    }
    all.extend(args);
    command(&all)
}

pub(crate) fn json(mut command: Command, code: i32) -> Value {
    let ran = Ran::new(command.arg("--json").output().unwrap());
    ran.exits(code).json()
}

/// Name to verdict of each test.
fn verdicts(json: &Value) -> Vec<(String, String)> {
    let tests = json["tests"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    tests
        .map(|test| (text(&test["name"]), text(&test["verdict"])))
        .collect()
}

pub(crate) fn case<'j>(json: &'j Value, name: &str) -> &'j Value {
    let tests = json["tests"].as_array().unwrap();
    let found = tests.iter().find(|test| test["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {json:#}"))
}

const HOST: [(&str, &str); 10] = [
    ("host_aborts", "fail"),
    ("host_by_hand", "pass"),
    ("host_fails", "fail"),
    ("host_flaky", "skip"),
    ("host_skips", "skip"),
    ("host_unsure", "inconclusive"),
    ("ktstr-sample.other::smoke", "fail"),
    ("ktstr-sample.plain::smoke", "fail"),
    ("ktstr-sample.sched::smoke", "pass"),
    ("plain_passes", "pass"),
];

/// A test is its binary and its name: one that passed hides no other of that name, whether that one aborted before its record
/// or is none of ktstr's. A later call lists all of them.
#[test]
fn no_failure_is_lost_to_another_test_of_its_name() {
    for runner in ["cargo", "nextest"] {
        let dir = tempfile::tempdir().unwrap();
        let junit = dir.path().join("junit.xml");
        let junit = junit.to_str().unwrap();
        let ktap = dir.path().join("ktap");
        let ktap = ktap.to_str().unwrap();
        let args = [
            "--runner", runner, "--junit", junit, "--ktap", ktap, "host_", "smoke", "plain_",
        ];
        let json = json(test(&["sched", "other", "plain"], &args), 1);
        let expected = HOST.map(|(name, verdict)| (name.to_owned(), verdict.to_owned()));
        assert_eq!(verdicts(&json), expected, "{runner}");
        let aborted = case(&json, "ktstr-sample.other::smoke")["message"]
            .as_str()
            .unwrap();
        assert!(
            aborted.contains("SIGABRT") || aborted.contains("signal: 6"),
            "{aborted}"
        );

        let xml = fs::read_to_string(junit).unwrap();
        assert_eq!(xml.matches("::smoke\"").count(), 3, "{xml}");
        assert!(
            xml.contains("tests=\"10\" skipped=\"2\" failures=\"4\" errors=\"1\""),
            "{xml}"
        );
        assert!(xml.contains("queue seven &lt;is&gt; gone"), "{xml}");
        let ktap = fs::read_to_string(ktap).unwrap();
        assert!(ktap.starts_with("KTAP version 1\n1..10\n# "), "{ktap}");
        assert!(ktap.contains("\nnot ok 1 host_aborts\n"), "{ktap}");

        let id = json["run"].as_str().unwrap();
        let replay = run(&["replay", "--run", id, "--dry-run"]);
        replay.exits(0);
        assert!(
            replay
                .stdout
                .ends_with("--exact host_aborts host_fails host_unsure smoke\n"),
            "{}",
            replay.stdout
        );
        let stats = run(&["stats", "last-run", "--run", id]);
        stats
            .exits(0)
            .says(&["ktstr-sample.other::smoke", "host_aborts"]);
        let page = dir.path().join("report.html");
        let page = page.to_str().unwrap();
        run(&["report", "--run", id, "--output", page]).exits(0);
        let page = fs::read_to_string(page).unwrap();
        assert!(
            page.contains("ktstr-sample.plain::smoke"),
            "the page lacks a plain test"
        );
    }
}

/// A retried test keeps what its failing attempt left, and passes as flaky.
#[test]
fn a_flaky_test_is_told_with_its_first_failure() {
    let dir = tempfile::tempdir().unwrap();
    let junit = dir.path().join("junit.xml");
    let args = ["--runner", "nextest", "--exact", "host_flaky", "--junit"];
    let mut flaky = test(&["sched"], &args);
    flaky
        .arg(&junit)
        .args(["--", "--retries", "1"])
        .env("SAMPLE_DIR", dir.path());
    let ran = Ran::new(flaky.output().unwrap());
    ran.exits(0).says(&[
        "FLAKY host_flaky: passed at attempt 2",
        "the first time it fails",
        "host_flaky.attempt-1.json",
        "host_flaky.attempt-1.failure-dump.json",
        "1 passed (1 flaky)",
    ]);
    let run_dir = ran
        .stdout
        .lines()
        .last()
        .map(|line| Path::new(line.trim()).file_name().unwrap());
    let id = run_dir.unwrap().to_str().unwrap();
    for tool in [
        &["stats", "last-run", "--run", id][..],
        &[
            "report",
            "--run",
            id,
            "--output",
            dir.path().join("p.html").to_str().unwrap(),
        ],
    ] {
        run(tool).exits(0);
    }
    run(&["stats", "last-run", "--run", id]).says(&["flaky: passed at attempt 2"]);
    let page = fs::read_to_string(dir.path().join("p.html")).unwrap();
    assert!(
        page.contains("flaky: passed at attempt 2"),
        "the page hides it"
    );
    let xml = fs::read_to_string(junit).unwrap();
    assert!(
        xml.contains("<flakyFailure") && xml.contains("the first time it fails"),
        "{xml}"
    );
}

/// A name that means two things stops the binary, with both places, under every runner.
#[test]
fn a_binary_with_two_of_one_name_does_not_start() {
    let needles = [
        "'left::same' (tests/sample/tests/twins.rs:1",
        "'left__same'",
        "two schedulers are called 'twin'",
    ];
    for runner in ["cargo", "nextest"] {
        let ran = test(&["twins"], &["--runner", runner]).output().unwrap();
        Ran::new(ran).exits(1).says(&needles);
    }
    let gauntlet = test(&["twins"], &["--gauntlet", "--list"])
        .output()
        .unwrap();
    Ran::new(gauntlet).exits(1).says(&needles);
}

/// Two tests of one function's name, each in its own guest; what they leave is named after their paths.
#[test]
fn tests_of_one_name_in_two_modules_are_two_tests() {
    let first = json(
        test(
            &["sched"],
            &["--runner", "nextest", "--engine", "tcg", "same"],
        ),
        1,
    );
    let why = |dir: &Value, name: &str| -> String {
        let path = Path::new(dir.as_str().unwrap()).join(name);
        let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        record["engine_why"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        why(&first["directories"][0], "left__same.json"),
        "asked for"
    );
    let expected = [("left::same", "pass"), ("right::same", "fail")];
    let expected = expected.map(|(name, verdict)| (name.to_owned(), verdict.to_owned()));
    assert_eq!(verdicts(&first), expected);
    let failed = case(&first, "right::same");
    assert!(
        failed["message"]
            .as_str()
            .unwrap()
            .contains("the right one ran"),
        "{failed:#}"
    );
    let left = failed["artifacts"].to_string();
    for file in [
        "right__same.json",
        "right__same.failure-dump.json",
        "right__same.timeline.json",
    ] {
        assert!(left.contains(file), "{file} is not in {left}");
    }
    // From elsewhere, with a path that means something only there.
    let id = first["run"].as_str().unwrap();
    let replay = command(&["replay", "--run", id, "--manifest-path", "../../Cargo.toml"])
        .current_dir(repository().join("tests/sample"))
        .output()
        .unwrap();
    Ran::new(replay)
        .exits(1)
        .says(&["FAIL right::same: the right one ran", "1 test in"]);
}

/// `--scheduler` is the binary of every scheduler that is declared by name: without it this one does not exist.
#[test]
fn a_scheduler_of_the_command_line_takes_the_place_of_the_declared() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = dir.path().join("scx_mine");
    fs::write(&scheduler, "no program").unwrap();
    let message = |more: &[&str]| {
        let args = [&["--runner", "cargo", "--exact", "scheduler_by_name"], more].concat();
        let json = json(test(&["sched"], &args), 1);
        let case = case(&json, "scheduler_by_name");
        case["message"].as_str().unwrap().to_owned()
    };
    let without = message(&[]);
    assert!(without.contains("scx_that_nobody_has"), "{without}");
    let path = scheduler.to_str().unwrap();
    let with = message(&["--scheduler", path]);
    assert!(
        with.contains(path) && !with.contains("scx_that_nobody_has"),
        "{with}"
    );
}

/// One test on four presets, of which it fits one, and on two kernels; its payload is there in each. Each kernel that is named is
/// the one that runs, by its own word, and has a directory of its own, also when two images have one name.
#[test]
fn cells_of_the_gauntlet_run_on_their_preset_and_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("stock/bzImage");
    fs::create_dir(image.parent().unwrap()).unwrap();
    let stock = stock_kernel();
    fs::copy(&stock, &image).unwrap();
    let ours = Ran::new(ktstr(&["kernel", "list", "--json"]).output().unwrap())
        .exits(0)
        .json();
    // The newest comes first.
    let ours = format!("{}/bzImage", ours[0]["path"].as_str().unwrap());
    let args = [
        "--runner",
        "nextest",
        "--gauntlet",
        "--max-cpus",
        "9",
        "-k",
        &ours,
        "-k",
        image.to_str().unwrap(),
        "one_llc_only",
    ];
    let mut gauntlet = test(&["sched"], &args);
    // A variable that would win.
    gauntlet.env("KTSTR_KERNEL", "/no/such/kernel");
    // Each cell is another machine, of which there is one guest.
    gauntlet.env("KTSTR_FORK", "off");
    let json = json(gauntlet, 1);
    let directories = json["directories"].as_array().unwrap();
    assert_eq!(directories.len(), 2, "{json:#}");
    let record = |kernel: usize, preset: &str| -> Value {
        let path = Path::new(directories[kernel].as_str().unwrap())
            .join(format!("one_llc_only@{preset}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let tests = json["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 8, "{json:#}");
    let labels = [&tests[0]["kernel"], &tests[4]["kernel"]];
    assert_ne!(labels[0], labels[1]);
    let of_stock = stock.file_name().unwrap().to_string_lossy().into_owned();
    let of_stock = of_stock.strip_prefix("vmlinuz-").unwrap();
    for (kernel, cells) in tests.chunks(4).enumerate() {
        for (cell, (preset, verdict, shares)) in cells.iter().zip([
            ("4cpu-1llc-nosmt", "pass", None),
            ("4cpu-2llc-nosmt", "fail", Some("0-1, of 0-3")),
            ("8cpu-2llc-smt", "fail", Some("0-3, of 0-7")),
            ("9cpu-3llc-nosmt", "fail", Some("0-2, of 0-8")),
        ]) {
            assert_eq!(cell["name"], format!("one_llc_only@{preset}"));
            assert_eq!(cell["verdict"], verdict, "{cell:#}");
            assert_eq!(&cell["kernel"], labels[kernel], "{cell:#}");
            if let Some(shares) = shares {
                let message = cell["message"].as_str().unwrap();
                assert!(message.contains(shares), "{preset}: {message}");
                assert!(!message.contains("not in this binary"), "{message}");
            }
            let record = record(kernel, preset);
            let release = record["kernel_release"].as_str().unwrap();
            assert_eq!(release == of_stock, kernel == 1, "{release}");
            assert_ne!(record["engine_why"], "asked for", "no engine was asked for");
        }
    }
}

/// Debian's own kernel, which `cargo xtask setup --checks` fetches.
fn stock_kernel() -> PathBuf {
    stock("stock-kernel")
}

fn stock(dir: &str) -> PathBuf {
    let home = target().join("tools").join(dir);
    let images = fs::read_dir(&home).into_iter().flatten().flatten();
    let mut images = images
        .map(|entry| entry.path())
        .filter(|path| path.is_file());
    images.next().unwrap_or_else(|| {
        panic!(
            "there is no kernel in {}; `cargo xtask setup --checks` fetches it",
            home.display()
        )
    })
}

/// Debian's cloud image as a package: what needs no sched_ext passes, and what does says what that kernel lacks.
#[test]
fn a_distributions_package_runs_what_it_has_the_options_for() {
    let package = stock("stock-package");
    let args = |name| {
        let package = package.to_str().unwrap();
        ["--runner", "cargo", "-k", package, "--exact", name]
    };
    let passed = json(test(&["sched"], &args("left::same")), 0);
    assert_eq!(
        verdicts(&passed),
        [(String::from("left::same"), String::from("pass"))]
    );
    let mut lacking = test(&["sched"], &args("scheduler_by_name"));
    // It does not come to its start.
    lacking.env("KTSTR_SCHEDULER", "/bin/true");
    let failed = json(lacking, 1);
    let message = case(&failed, "scheduler_by_name")["message"].as_str();
    let message = message.unwrap();
    assert!(
        message.contains("this kernel has no sched_ext")
            && message.contains("CONFIG_SCHED_CLASS_EXT=y"),
        "{message}"
    );
}

/// What is asked for and cannot be is refused, not ignored.
#[test]
fn a_selection_that_means_nothing_is_an_error() {
    let refused = |targets: &[&str], args: &[&str], code: i32, needles: &[&str]| {
        let ran = test(targets, args).output().unwrap();
        Ran::new(ran).exits(code).says(needles);
    };
    for runner in ["cargo", "nextest"] {
        let exact = ["--runner", runner, "--exact", "smoke", "smokee"];
        refused(
            &["sched"],
            &exact,
            1,
            &["no test 'smokee'", "there are smoke"],
        );
        let ignored = ["--runner", runner, "--exact", "host_ignored"];
        refused(
            &["sched"],
            &ignored,
            1,
            &["'host_ignored' is an ignored one", "--include-ignored"],
        );
        let shard = ["--runner", runner, "--shard", "1/2", "typo"];
        refused(&["sched"], &shard, 1, &["no test matches"]);
        // One test, two shards: the other has none, which is no fault.
        let both = ["1/2", "2/2"].map(|shard| {
            let args = ["--runner", runner, "--shard", shard, "--exact", "smoke"];
            json(test(&["sched"], &args), 0)["tests"]
                .as_array()
                .unwrap()
                .len()
        });
        assert_eq!(both.iter().sum::<usize>(), 1, "{both:?}");
    }
    let expression = ["--runner", "cargo", "-E", "test(smoke)"];
    refused(&["sched"], &expression, 1, &["--runner cargo", "-E"]);
    refused(
        &["sched"],
        &["--json", "--ktap", "-"],
        64,
        &["--json", "--ktap"],
    );
    let verifier = run(&["verifier", "--package", "ktstr-sample", "-E", "test(x)"]);
    verifier.exits(1).says(&["cargo ktstr verifier", "-E"]);
    let delta = run(&[
        "perf-delta",
        ".",
        "--package",
        "ktstr-sample",
        "-E",
        "test(x)",
    ]);
    delta.exits(1).says(&["cargo ktstr perf-delta", "-E"]);
}

/// Filters of a test binary itself, as any Rust test has them.
#[test]
fn a_test_binary_takes_several_filters() {
    let listed = json(
        test(&["sched"], &["--runner", "cargo", "--exact", "smoke"]),
        0,
    );
    let record = Path::new(listed["directories"][0].as_str().unwrap()).join("smoke.json");
    assert!(record.is_file(), "{}", record.display());
    let binary = newest_binary("sched");
    let list = |args: &[&str]| {
        let output = Command::new(&binary).args(args).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, names) = list(&["--list", "--format", "terse", "left::", "smoke", "host_s"]);
    assert_eq!(code, Some(0));
    assert_eq!(names, "host_skips: test\nleft::same: test\nsmoke: test\n");
    assert_eq!(
        list(&["--no-such-flag"]).0,
        Some(64),
        "2 means inconclusive"
    );
}

fn newest_binary(target_name: &str) -> PathBuf {
    let deps = target().join("debug/deps");
    let begin = format!("{target_name}-");
    let entries = fs::read_dir(deps).unwrap().flatten();
    let programs = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with(&begin) && !name.contains('.')
    });
    let newest = programs.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    newest.unwrap().path()
}
