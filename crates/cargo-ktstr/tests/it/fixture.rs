//! A small project whose test binary behaves like one of ktstr's, without VMs: it lists, runs and leaves sidecars.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ktstr::host::evidence::sidecar::{SIDECAR_SCHEMA, Sidecar};
use ktstr::host::plan::program::without_package;
use ktstr::model::verdict::{AssertResult, DetailKind, Outcome};

/// The root of this repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Where this test was built, so that dependencies of the repository's other packages are built already.
pub(crate) fn target() -> PathBuf {
    let here = Path::new(env!("CARGO_BIN_EXE_cargo-ktstr"));
    here.ancestors().nth(2).unwrap().to_owned()
}

/// Where projects outside of the workspace share one build of ktstr, also with `tests/tests/out_of_tree.rs`. Each has a name of
/// its own, by which cargo and the records of its runs tell them apart.
pub(crate) fn outside_target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("strangers")
}

/// The right to build and run the package of this name there while the file is open. Cargo gives packages of one name the same files,
/// wherever they lie: two runs of these tests would replace each other's.
pub(crate) fn alone_outside(package: &str) -> fs::File {
    let target = outside_target();
    fs::create_dir_all(&target).unwrap();
    let file = fs::File::create(target.join(format!("{package}.lock"))).unwrap();
    file.lock().unwrap();
    file
}

/// Builds there with what a panic needs of debug information and no more: a third of a build's time is for the rest.
pub(crate) fn builds_outside(command: &mut Command) -> &mut Command {
    command
        .env("CARGO_TARGET_DIR", outside_target())
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
}

/// What the fake tests do is in their names.
const HARNESS: &str = r##"
use std::{env, fs, process};
const TESTS: &[(&str, bool)] = &[("fails", false), ("hangs", true), ("passes", false), ("skips", false), ("unsure", true), ("dies", true)];
const DESCRIPTION: &str = r#"{"schema":"ktstr.describe/1","manifest_dir":"/","presets":[{"name":"small","shape":"1n1l4c1t","cpus":4}],
"schedulers":[{"name":"bad","kind":{"kind":"discover","binary":"b"},"args":[],"topology":null,"kernels":[]},{"name":"good","kind":{"kind":"discover","binary":"g"},"args":[],"topology":null,"kernels":[]}],
"tests":[
{"name":"fails","topology":"1n1l2c1t","cpus":2,"memory_mib":256,"duration_s":3,"watchdog_timeout_s":5,"scheduler":null,"ignore":false,"host_only":false,"performance_mode":false,"presets":[{"name":"small","shape":"1n1l4c1t","cpus":4}]},
{"name":"passes","topology":"1n1l2c1t","cpus":2,"memory_mib":256,"duration_s":3,"watchdog_timeout_s":5,"scheduler":null,"ignore":false,"host_only":false,"performance_mode":false,"presets":[{"name":"small","shape":"1n1l4c1t","cpus":4},{"name":"large","shape":"1n8l8c2t","cpus":128}]}
]}"#;
const SPEED: f64 = 1000.0;
/// About 3 % of noise that depends only on the place of the record and a seed, so that a run can be told again.
fn noise(dir: &str) -> f64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    (dir.rsplit('/').next(), env::var("FAKE_SEED").ok()).hash(&mut hash);
    let unit = hash.finish() as f64 / u64::MAX as f64;
    1.0 + 0.1 * (unit - 0.5)
}
/// What a test of ktstr's would leave, as the framework's own type writes it.
fn record(verdict: &str) -> &'static str {
    match verdict {
        "Pass" => include_str!("Pass.json"),
        "Skip" => include_str!("Skip.json"),
        "Inconclusive" => include_str!("Inconclusive.json"),
        _ => include_str!("Fail.json"),
    }
}
fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let only_ignored = has("--ignored");
    if has("--list") && env::var_os("KTSTR_DESCRIBE").is_some() {
        println!("{}", DESCRIPTION);
        return;
    }
    let mut tests: Vec<(&str, bool)> = TESTS.to_vec();
    if env::var_os("KTSTR_GAUNTLET").is_some() { tests.extend([("passes@small", true), ("passes@large", true), ("fails@small", true)]); }
    if env::var_os("KTSTR_VERIFIER").is_some() { tests.extend([("verify-good", true), ("verify-good@small", true), ("verify-bad", true), ("verify-bad@small", true)]); }
    if has("--list") {
        for (name, ignored) in &tests { if !only_ignored || *ignored { println!("{name}: test"); } }
        return;
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let dir = ["KTSTR_SIDECAR_DIR", "KTSTR_RUN_DIR"].iter().filter_map(|name| env::var(name).ok()).find(|dir| !dir.is_empty()).expect("a directory");
    let mut code = 0;
    for (name, ignored) in &tests {
        let by_flag = if only_ignored { *ignored } else { has("--include-ignored") || !ignored };
        let by_name = filters.is_empty() || filters.iter().any(|filter| if has("--exact") { filter.as_str() == *name } else { name.contains(filter.as_str()) });
        if !(by_flag && by_name) { continue; }
        let (verdict, outcome) = match name.split('@').next().unwrap() {
            name if name == "hangs" || env::var_os("FAKE_HANG").is_some() => {
                fs::write(format!("{dir}/hangs.pid"), process::id().to_string()).unwrap();
                loop { std::thread::park(); }
            }
            "passes" | "verify-good" => ("Pass", 0),
            "skips" => ("Skip", 0),
            "unsure" => ("Inconclusive", 2),
            "dies" => process::abort(),
            _ => ("Fail", 1),
        };
        // Below zero: this revision measures no more what the others do.
        let figures = if SPEED < 0.0 { String::new() } else { format!("\"ops_per_s\":{:.3}", SPEED * noise(&dir)) };
        let json = record(verdict).replace("@TEST@", name).replace("@BINARY@", "fake.sched").replace("\"ops_per_s\":987654321.5", &figures);
        if let Err(error) = fs::write(format!("{dir}/{name}.json"), json) { eprintln!("no sidecar: {error}"); code = 1; }
        if outcome != 0 { fs::write(format!("{dir}/{name}.failure-dump.json"), "{}").ok(); }
        code = code.max(outcome);
    }
    process::exit(code);
}
"##;

/// The record of one test; its marks become the test's own values.
fn record(verdict: Outcome) -> Sidecar {
    let because = "because of @TEST@";
    let mut result = match verdict {
        Outcome::Pass => AssertResult::pass(),
        Outcome::Skip => AssertResult::skip("no such device"),
        Outcome::Inconclusive => AssertResult::inconclusive(DetailKind::Other, because),
        Outcome::Fail => AssertResult::fail(DetailKind::Other, because),
    };
    let metrics = &mut result.stats.ext_metrics;
    metrics.insert(String::from("ops_per_s"), 987_654_321.5);
    let message = match verdict {
        Outcome::Pass | Outcome::Skip => None,
        Outcome::Inconclusive => Some("ktstr_test 'unsure' inconclusive:\n  no samples"),
        Outcome::Fail => Some("BUG SUMMARY: queue seven is gone\nktstr_test 'fails' failed:"),
    };
    // What a record cannot be without; the type fills in the rest, and refuses what it does not know any more.
    let record = serde_json::json!({
        "schema": SIDECAR_SCHEMA, "test": "@TEST@", "binary": "@BINARY@", "verdict": verdict, "topology": "1n1l2c1t",
        "total_ms": 1500, "timed_out": false, "started_at": 1, "result": result,
    });
    let skipped = verdict == Outcome::Skip;
    Sidecar {
        skip_reason: skipped.then(|| String::from("no such device")),
        engine: Some(String::from("tcg")),
        engine_why: Some(String::from("asked for")),
        kernel_release: Some(String::from("6.12")),
        boot_ms: Some(1),
        scenario_ms: Some(2),
        vm_ms: Some(3),
        cleanup_ms: Some(1),
        initramfs_bytes: Some(1),
        initramfs_ms: Some(1),
        verifier_stats: serde_json::from_value(serde_json::json!([
            {"name": "s_enqueue", "verified_insns": 250_000}
        ]))
        .unwrap(),
        message: message.map(str::to_owned),
        ..serde_json::from_value(record).unwrap()
    }
}

/// The project, its target directory and a home of its own.
pub(crate) struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("project");
        fs::create_dir_all(root.join("src")).unwrap();
        fs::create_dir_all(root.join("tests")).unwrap();
        let manifest = "[package]\nname = \"fake\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\ndoctest = false\ntest = false\n\n\
                        [[test]]\nname = \"sched\"\nharness = false\n\n[workspace]\n";
        fs::write(root.join("Cargo.toml"), manifest).unwrap();
        fs::write(root.join("src/lib.rs"), "").unwrap();
        fs::write(root.join("tests/sched.rs"), HARNESS).unwrap();
        for (name, outcome) in [
            ("Pass", Outcome::Pass),
            ("Skip", Outcome::Skip),
            ("Inconclusive", Outcome::Inconclusive),
            ("Fail", Outcome::Fail),
        ] {
            let json = serde_json::to_string(&record(outcome)).unwrap();
            fs::write(root.join("tests").join(format!("{name}.json")), json).unwrap();
        }
        fs::write(root.join("bzImage"), "no real kernel").unwrap();
        Self { dir }
    }

    /// Makes the project a repository with one commit per speed; `HEAD~1` is the first of two.
    pub(crate) fn commit_speeds(&self, speeds: &[i32]) {
        fs::write(self.root().join(".gitignore"), "target\n").unwrap();
        self.git(&["init", "--quiet"]);
        for speed in speeds {
            let harness =
                HARNESS.replace("SPEED: f64 = 1000.0", &format!("SPEED: f64 = {speed}.0"));
            fs::write(self.root().join("tests/sched.rs"), harness).unwrap();
            self.git(&["add", "."]);
            let name = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"];
            self.git(&[&name[..], &["commit", "--quiet", "-m", "speed"]].concat());
        }
    }

    pub(crate) fn git(&self, args: &[&str]) {
        let status = Command::new("git")
            .arg("-C")
            .arg(self.root())
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "git {args:?}");
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache/ktstr")
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.root().join("target/ktstr")
    }

    /// `cargo ktstr ARGS` in the project.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = ktstr(args);
        command
            .current_dir(self.root())
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env("CARGO_NET_OFFLINE", "true");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }
}

/// The binary as cargo calls it, in an environment without the caller's choices.
pub(crate) fn ktstr(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-ktstr"));
    command.arg("ktstr").args(args);
    bare(command)
}

/// In an environment without the caller's choices.
pub(crate) fn bare(mut command: Command) -> Command {
    command.stdin(Stdio::null());
    for name in [
        "KTSTR_KERNEL",
        "KTSTR_TEST_KERNEL",
        "KTSTR_KERNEL_MIRROR",
        "KTSTR_CACHE_DIR",
        "KTSTR_ENGINE",
        "KTSTR_SIDECAR_DIR",
        "KTSTR_RUN_DIR",
        "KTSTR_RUN_ID",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
    // This test may itself run under nextest, which must not leak into the inner one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NEXTEST") {
            command.env_remove(name);
        }
    }
    without_package(&mut command);
    command
}

/// A command that ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// On either stream.
    #[track_caller]
    pub(crate) fn says(&self, needles: &[&str]) -> &Self {
        for needle in needles {
            assert!(
                self.stdout.contains(needle) || self.stderr.contains(needle),
                "{needle:?} is not in stdout:\n{}\nstderr:\n{}",
                self.stdout,
                self.stderr
            );
        }
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{error} in:\n{}\nstderr:\n{}", self.stdout, self.stderr)
        })
    }
}

/// Everything below a directory, for "nothing was left".
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// What a test needs and this machine has not: a failure, unless `KTSTR_TESTS_LACK` names it (CONTRIBUTING.md).
#[track_caller]
pub(crate) fn lacks(what: &str, why: &str) {
    let listed = std::env::var("KTSTR_TESTS_LACK").unwrap_or_default();
    assert!(
        listed.split(',').any(|named| named == what),
        "{why}; where this machine cannot have it, set KTSTR_TESTS_LACK={what}"
    );
    eprintln!("skipped: {why}");
}
