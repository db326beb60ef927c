//! A small project whose test binary behaves like one of ktstr's, without VMs: it lists, runs and leaves sidecars.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
        let (verdict, outcome, message) = match name.split('@').next().unwrap() {
            name if name == "hangs" || env::var_os("FAKE_HANG").is_some() => {
                fs::write(format!("{dir}/hangs.pid"), process::id().to_string()).unwrap();
                loop { std::thread::park(); }
            }
            "passes" | "verify-good" => ("Pass", 0, "null".to_string()),
            "skips" => ("Skip", 0, "null".to_string()),
            "unsure" => ("Inconclusive", 2, "\"ktstr_test 'unsure' inconclusive:\\n  no samples\"".to_string()),
            "dies" => process::abort(),
            _ => ("Fail", 1, "\"BUG SUMMARY: queue seven is gone\\nktstr_test 'fails' failed:\"".to_string()),
        };
        let floor = if verdict == "Skip" { "Skip" } else { "Pass" };
        let details = if verdict == "Pass" { String::new() } else { format!("{{\"outcome\":\"{verdict}\",\"kind\":\"Other\",\"message\":\"because of {name}\"}}") };
        let skip = if verdict == "Skip" { "\"no such device\"" } else { "null" };
        // Below zero: this revision measures no more what the others do.
        let figures = if SPEED < 0.0 { String::new() } else { format!("\"ops_per_s\":{:.3}", SPEED * noise(&dir)) };
        let json = format!("{{\"schema\":\"ktstr.sidecar/1\",\"test\":\"{name}\",\"verdict\":\"{verdict}\",\"skip_reason\":{skip},\"engine\":\"tcg\",\"engine_why\":\"asked for\",\"topology\":\"1n1l2c1t\",\"scheduler\":null,\"scheduler_source\":null,\"kernel\":null,\"kernel_release\":\"6.12\",\"boot_ms\":1,\"scenario_ms\":2,\"vm_ms\":3,\"cleanup_ms\":1,\"initramfs_bytes\":1,\"initramfs_ms\":1,\"total_ms\":1500,\"exit_reason\":null,\"timed_out\":false,\"stage\":null,\"verifier_stats\":[{{\"name\":\"s_enqueue\",\"verified_insns\":250000}}],\"message\":{message},\"result\":{{\"floor\":\"{floor}\",\"details\":[{details}],\"info_notes\":[],\"stats\":{{\"cgroups\":[],\"phases\":[],\"ext_metrics\":{{{figures}}}}}}},\"started_at\":1}}");
        if let Err(error) = fs::write(format!("{dir}/{name}.json"), json) { eprintln!("no sidecar: {error}"); code = 1; }
        if outcome != 0 { fs::write(format!("{dir}/{name}.failure-dump.json"), "{}").ok(); }
        code = code.max(outcome);
    }
    process::exit(code);
}
"##;

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
    command.arg("ktstr").args(args).stdin(Stdio::null());
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
