//! Flags that choose what is built and run: each is turned, and a difference is seen.
//!
//! The tests are plain ones of a project in miniature, whose names tell how they were built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Project, Ran, ktstr};
use crate::kernels::mini_tree;

/// Two packages, of which a command in the root takes the first only.
struct Workspace {
    dir: tempfile::TempDir,
}

impl Workspace {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\"]\ndefault-members = [\"a\"]\n",
        );
        let package = |name: &str| {
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")
        };
        let features = "[features]\ndefault = [\"one\"]\none = []\ntwo = []\n";
        write("a/Cargo.toml", &format!("{}{features}", package("a")));
        write("b/Cargo.toml", &package("b"));
        write(
            "a/tests/first.rs",
            "#[test] fn always() { println!(\"a word of a passing test\"); }\n\
             #[test] #[cfg(feature = \"one\")] fn with_one() {}\n\
             #[test] #[cfg(feature = \"two\")] fn with_two() {}\n\
             #[test] #[cfg(not(debug_assertions))] fn optimised() {}\n",
        );
        write("a/tests/second.rs", "#[test] fn second() {}\n");
        write(
            "a/src/bin/tool.rs",
            "fn main() {}\n#[test] fn in_bin() {}\n",
        );
        write(
            "b/tests/third.rs",
            "#[test] fn in_b() {}\n#[test] #[ignore] fn fails_1() { panic!() }\n#[test] #[ignore] fn fails_2() { panic!() }\n",
        );
        write("bzImage", "no real kernel");
        Self { dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut all = vec!["test"];
        all.extend(args);
        let mut command = ktstr(&all);
        command.current_dir(self.dir.path());
        command.args(["--kernel", self.path("bzImage").to_str().unwrap()]);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names of the tests that ran.
    #[track_caller]
    fn ran(&self, args: &[&str], code: i32) -> Vec<String> {
        let mut command = self.command(args);
        let ran = Ran::new(command.arg("--json").output().unwrap());
        let json = ran.exits(code).json();
        let tests = json["tests"].as_array().unwrap().iter();
        tests
            .map(|test| test["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn packages_targets_and_features_choose_what_is_built() {
    let workspace = Workspace::new();
    let ran = |args: &[&str]| {
        workspace
            .ran(&[args, &["--runner", "cargo"]].concat(), 0)
            .join(" ")
    };
    assert_eq!(ran(&[]), "always in_bin second with_one");
    assert_eq!(ran(&["--workspace"]), "always in_b in_bin second with_one");
    assert_eq!(ran(&["--package", "b"]), "in_b");
    assert_eq!(ran(&["--test", "second"]), "second");
    assert_eq!(ran(&["--bin", "tool"]), "in_bin");
    let first = |flag: &[&str]| ran(&[flag, &["--test", "first"]].concat());
    assert_eq!(first(&["--features", "two"]), "always with_one with_two");
    assert_eq!(first(&["--all-features"]), "always with_one with_two");
    assert_eq!(first(&["--no-default-features"]), "always");
    assert_eq!(first(&["--release"]), "always optimised with_one");
}

#[test]
fn a_manifest_path_is_another_project_than_here() {
    let workspace = Workspace::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = workspace.command(&["--test", "second"]);
    command.current_dir(elsewhere.path());
    Ran::new(command.output().unwrap())
        .exits(1)
        .says(&["cannot read the cargo project"]);
    command
        .arg("--manifest-path")
        .arg(workspace.path("Cargo.toml"));
    Ran::new(command.output().unwrap())
        .exits(0)
        .says(&["1 passed"]);
}

/// Cargo's own words tell that it was asked.
#[test]
fn cargo_hears_of_offline_and_locked() {
    let workspace = Workspace::new();
    let refused = |flag: &[&str], needle: &str| {
        for runner in ["cargo", "nextest"] {
            let args = [flag, &["--runner", runner, "--test", "second"]].concat();
            let ran = Ran::new(workspace.command(&args).output().unwrap());
            ran.exits(1);
            assert!(
                ran.stderr.contains(needle),
                "{needle:?} is not in {}",
                ran.stderr
            );
        }
    };
    // There is no lock file yet, and it may not be made.
    refused(&["--locked"], "--locked");
    workspace.ran(&["--test", "second"], 0);
    let manifest = workspace.path("a/Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let far = "[dependencies]\nfar = { git = \"file:///no/such/repository\" }\n";
    fs::write(&manifest, format!("{text}{far}")).unwrap();
    refused(&["--offline"], "--offline");
    refused(&[], "/no/such/repository");
}

#[test]
fn what_passes_and_what_fails_first() {
    let workspace = Workspace::new();
    let word = "a word of a passing test";
    let told = |args: &[&str]| {
        let args = [&["--runner", "nextest", "--test", "first"], args].concat();
        let ran = Ran::new(workspace.command(&args).output().unwrap());
        ran.exits(0);
        ran.stderr.contains(word) || ran.stdout.contains(word)
    };
    assert!(!told(&[]), "a passing test's words are not shown");
    assert!(told(&["--verbose"]));
    let fails = ["--package", "b", "--ignored", "fails_"];
    for runner in ["cargo", "nextest"] {
        let ran =
            |more: &[&str]| workspace.ran(&[&fails[..], &["--runner", runner], more].concat(), 1);
        assert_eq!(ran(&[]), ["fails_1", "fails_2"], "{runner}");
        assert_eq!(ran(&["--fail-fast"]), ["fails_1"], "{runner}");
    }
    let by_expression = ["--runner", "nextest", "-E", "test(=always) + test(with_)"];
    assert_eq!(workspace.ran(&by_expression, 0), ["always", "with_one"]);
    assert_eq!(workspace.ran(&["--exact", "always"], 0), ["always"]);
}

/// A project's own place for nextest's report, and its own profile, do not take ours away.
#[test]
fn a_projects_own_nextest_configuration_holds() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path(".config")).unwrap();
    fs::write(
        workspace.path(".config/nextest.toml"),
        "[profile.default.junit]\npath = \"own.xml\"\n\n[profile.ci]\nretries = 2\n\n[profile.ci.junit]\npath = \"ci.xml\"\n",
    )
    .unwrap();
    let fails = [
        "--package",
        "b",
        "--ignored",
        "--runner",
        "nextest",
        "fails_1",
    ];
    assert_eq!(workspace.ran(&fails, 1), ["fails_1"]);
    let mut with_profile = workspace.command(&fails);
    with_profile.args(["--json", "--", "--profile", "ci"]);
    let ran = Ran::new(with_profile.output().unwrap());
    let json = ran.exits(1).json();
    assert_eq!(json["errors"], serde_json::json!([]));
    let before = json["tests"][0]["failed_before"].as_array().unwrap();
    assert_eq!(before.len(), 2, "the profile's retries were made: {json:#}");
}

/// Both reports say that nothing could run, and there is one document on standard output.
#[test]
fn a_build_that_fails_is_in_every_report() {
    let project = Project::new();
    fs::write(project.root().join("src/lib.rs"), "fn broken(").unwrap();
    for more in [
        &["--runner", "cargo"][..],
        &["--runner", "nextest"],
        &["--gauntlet"],
    ] {
        let reports = [
            "test",
            "--kernel",
            "./bzImage",
            "--junit",
            "j.xml",
            "--ktap",
            "k",
            "--json",
        ];
        let json = project.run(&[&reports[..], more].concat()).exits(1).json();
        let error = json["errors"][0].as_str().unwrap();
        assert!(error.contains("could not be built"), "{error}");
        let read = |name: &str| fs::read_to_string(project.root().join(name)).unwrap();
        let xml = read("j.xml");
        assert!(
            xml.contains("errors=\"1\"") && xml.contains("could not be built"),
            "{xml}"
        );
        assert!(read("k").contains("1..1\nnot ok 1 "), "{}", read("k"));
        fs::remove_file(project.root().join("j.xml")).unwrap();
    }
    project
        .run(&["replay"])
        .exits(1)
        .says(&["could not be built", "cargo ktstr test"]);
}

/// A rerun is on the scheduler of the run that failed, and so says the summary.
#[test]
fn a_scheduler_is_kept_for_the_rerun() {
    let project = Project::new();
    fs::write(project.root().join("scx_mine"), "").unwrap();
    let args = [
        "test",
        "--kernel",
        "./bzImage",
        "--engine",
        "tcg",
        "--scheduler",
        "./scx_mine",
        "fails",
    ];
    let path = project.root().canonicalize().unwrap().join("scx_mine");
    let flag = format!("--engine tcg --scheduler {}", path.display());
    project.run(&args).exits(1).says(&[&flag]);
    let replay = project.run(&["replay", "--dry-run"]);
    replay.exits(0).says(&[&flag]);
}

#[test]
fn kernels_are_built_with_as_many_jobs_as_asked_for() {
    let project = Project::new();
    let tree = mini_tree(&project.root(), "linux");
    let makefile = tree.join("Makefile");
    let text = fs::read_to_string(&makefile).unwrap();
    let note = format!(
        "vmlinux:\n\techo \"$(MAKEFLAGS)\" > {}\n",
        flags_file(&project.root()).display()
    );
    fs::write(&makefile, text.replace("vmlinux:\n", &note)).unwrap();
    let built = project.run(&["kernel", "build", "./linux", "--jobs", "3", "--json"]);
    let json = built.exits(0).json();
    let image = json[0]["image"].as_str().unwrap();
    assert!(Path::new(image).is_file(), "{json:#}");
    let flags = fs::read_to_string(flags_file(&project.root())).unwrap();
    assert!(flags.contains("-j3"), "{flags}");
    project
        .run(&["kernel", "clean", "--keep", "0"])
        .exits(0)
        .says(&["removed"]);
}

fn flags_file(root: &Path) -> PathBuf {
    root.join("makeflags")
}
