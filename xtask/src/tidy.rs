//! `cargo xtask tidy`: what no compiler checks. Every complaint says how to mend it.

mod knobs;
mod modules;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr::host::plan::config::Variable;
use serde_json::Value;

use crate::sh;

/// Longest source file.
const MAX_LINES: usize = 900;
/// Who may use whom among our own crates.
const ARROWS: &[(&str, &[&str])] = &[
    ("ktstr-wire", &[]),
    ("ktstr-plugin", &[]),
    ("ktstr-vmm", &["ktstr-plugin", "ktstr-wire"]),
    ("ktstr-monitor", &[]),
    ("ktstr-initramfs", &[]),
    ("ktstr-kernel", &[]),
    ("ktstr-macros", &[]),
    ("ktstr-init", &["ktstr-wire"]),
    (
        "ktstr",
        &[
            "ktstr-wire",
            "ktstr-vmm",
            "ktstr-monitor",
            "ktstr-macros",
            "ktstr-init",
            "ktstr-initramfs",
            "ktstr-kernel",
        ],
    ),
    ("cargo-ktstr", &["ktstr", "ktstr-kernel"]),
    ("scx-fixture", &[]),
];
/// Rooms inside ktstr and the words that a file there must not use.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &["crate::guest", "crate::host"]),
    ("guest", &["crate::host"]),
    ("host", &["crate::guest"]),
];

/// Runs all checks.
pub(crate) fn run() -> Result<()> {
    let root = sh::root();
    let complaints = complaints(&root)?;
    let files = sources(&root)?.into_iter();
    let lines = files.map(|file| Ok(fs::read_to_string(file)?.lines().count()));
    println!(
        "{}",
        modules::summary(&root, &lines.collect::<Result<Vec<_>>>()?)?
    );
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "{} complaints:\n{}",
        complaints.len(),
        complaints.join("\n")
    )
}

fn complaints(root: &Path) -> Result<Vec<String>> {
    let metadata = metadata()?;
    let mut found = arrows(&metadata);
    for file in sources(root)? {
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .display()
            .to_string();
        found.extend(check_file(&name, &text));
        if is_product(&name) {
            found.extend(check_variables(&name, &text));
        }
    }
    for page in ["README.md", "book/src/reference.md"] {
        let text = fs::read_to_string(root.join(page))
            .with_context(|| format!("failed to read {page}"))?;
        found.extend(check_table(page, &text));
    }
    found.extend(knobs::complaints(root, &metadata)?);
    found.extend(modules::complaints(root)?);
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "deny.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
    ] {
        if !root.join(page).is_file() {
            found.push(format!("{page} is missing; write it"));
        }
    }
    Ok(found)
}

fn metadata() -> Result<Value> {
    let output = sh::cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ])
    .output()?;
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Normal and build dependencies among our own crates must follow the house's arrows; tests may use what lies beside them.
fn arrows(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let ours = ARROWS.iter().any(|(crate_name, _)| *crate_name == to);
            if dependency["kind"] == "dev" {
                if reaches(to, name) {
                    found.push(format!("the tests of {name} use {to}, which uses {name}: neither could be published first; move the tests up"));
                }
            } else if ours && !allowed.contains(&to) {
                found.push(format!("{name} depends on {to}: arrows point down only; move the shared part below both"));
            }
        }
        let is_published = package["publish"].is_null();
        for field in ["description", "readme"] {
            if is_published && package[field].is_null() {
                found.push(format!(
                    "{name} is published and has no {field}; add it to its Cargo.toml"
                ));
            }
        }
        if package["license"].is_null() {
            found.push(format!(
                "{name} has no licence; add `license.workspace = true`"
            ));
        }
    }
    found
}

/// Whether one of our crates uses another, itself or by way of a third.
fn reaches(from: &str, to: &str) -> bool {
    let uses = ARROWS.iter().find(|(name, _)| *name == from);
    uses.is_some_and(|(_, below)| below.iter().any(|next| *next == to || reaches(next, to)))
}

fn check_file(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{name} has {lines} lines; find the second thing that lives there and give it its own file"));
    }
    let room = name
        .strip_prefix("crates/ktstr/src/")
        .and_then(|rest| rest.split(['/', '.']).next());
    if let Some((room, forbidden)) = ROOMS.iter().find(|(candidate, _)| Some(*candidate) == room) {
        for word in *forbidden {
            if let Some(line) = text.lines().position(|line| line.contains(word)) {
                found.push(format!(
                    "{name}:{}: {room} uses {word}; move what both need into model",
                    line + 1
                ));
            }
        }
    }
    found
}

/// Variables of the environment that are between our own processes.
const INTERNAL_VARIABLES: &[&str] = &[
    "KTSTR_COVERAGE_DIR",
    "KTSTR_COVERAGE_RUSTC",
    "KTSTR_DESCRIBE",
    "KTSTR_EVENTS",
    "KTSTR_LOOK_AT",
    "KTSTR_LOOK_GDB",
    "KTSTR_EXPORT",
    "KTSTR_LIBTEST_ALONE",
    "KTSTR_LINK_FD",
    "KTSTR_SCHED_ENABLE_SEQ",
    "KTSTR_SCHED_PID",
    "KTSTR_SHELL",
    "KTSTR_TEST_PLAN",
    "KTSTR_VERIFIER",
];
/// Where users' variables are listed and read.
const VARIABLES_FILE: &str = "crates/ktstr/src/host/plan/config.rs";

/// Whether a file goes to users, rather than into our own tests, examples and benchmarks.
fn is_product(name: &str) -> bool {
    let mut parts = name.split('/');
    let is_of_a_crate = parts.next() == Some("crates") && parts.nth(1) == Some("src");
    is_of_a_crate && !parts.any(|part| part == "tests" || part == "tests.rs")
}

/// A variable of ours that product code names is a user's, then it is in `Variable` and read there, or an internal one.
fn check_variables(name: &str, text: &str) -> Vec<String> {
    // Tests stand at the end of their file.
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for variable in variables(line) {
            let is_users = Variable::ALL.iter().any(|user| user.name() == variable);
            let at = format!("{name}:{}", number + 1);
            if !is_users && !INTERNAL_VARIABLES.contains(&variable) {
                found.push(format!("{at} names {variable}; add it to `Variable` in {VARIABLES_FILE} and to the README's table"));
            } else if is_users && name != VARIABLES_FILE && line.contains("::var") {
                found.push(format!(
                    "{at} reads {variable} itself; take it from `Variable` in {VARIABLES_FILE}"
                ));
            }
        }
    }
    found
}

/// The page's table explains every variable of a user, and no other one.
fn check_table(page: &str, text: &str) -> Vec<String> {
    let rows = || text.lines().filter(|line| line.starts_with("| `"));
    let explained = |name: &str| rows().any(|row| row.contains(&format!("`{name}")));
    let missing = Variable::ALL.iter().map(|variable| variable.name());
    let mut found: Vec<String> = missing
        .filter(|name| !explained(name))
        .map(|name| format!("{page} does not explain {name}; add it to the table there"))
        .collect();
    for row in rows() {
        let cell = row.split('`').nth(1).unwrap_or_default();
        let name = cell.split('=').next().unwrap_or_default();
        let is_ours = name.starts_with("KTSTR_");
        if is_ours && !Variable::ALL.iter().any(|variable| variable.name() == name) {
            found.push(format!(
                "{page} explains {name}, which nothing reads; remove the row, or read it"
            ));
        }
    }
    found
}

/// `"KTSTR_…"` literals of a line.
fn variables(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|part| {
        part.strip_prefix("KTSTR_").is_some_and(|rest| {
            let of_a_name = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
            !rest.is_empty() && rest.bytes().all(of_a_name)
        })
    })
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut open = vec![root.join("crates"), root.join("xtask"), root.join("tests")];
    let mut files = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in
            fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))?
        {
            let path = entry?.path();
            let skipped = path
                .file_name()
                .is_some_and(|name| name == "target" || name == "fuzz");
            if path.is_dir() && !skipped {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_tidy() {
        assert_eq!(complaints(&sh::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn variables_of_product_code_are_listed_and_read_in_one_place() {
        let check = |text: &str| check_variables("crates/x/src/y.rs", text);
        assert_eq!(
            check("get(\"KTSTR_SHELL\"); set(\"KTSTR_ENGINE\"); \"KTSTR_x\""),
            Vec::<String>::new()
        );
        let unknown = check("\nget(\"KTSTR_NEW\")");
        assert!(unknown[0].contains("y.rs:2 names KTSTR_NEW"), "{unknown:?}");
        let past = check("env::var_os(\"KTSTR_ENGINE\")");
        assert!(past[0].contains("reads KTSTR_ENGINE itself"), "{past:?}");
        assert!(check("#[cfg(test)]\nmod tests { var(\"KTSTR_NEW\") }").is_empty());
        assert!(is_product("crates/ktstr/src/host/run.rs"));
        for ours in [
            "crates/ktstr/tests/it/main.rs",
            "xtask/src/ci.rs",
            "crates/ktstr/src/model/metrics/tests.rs",
            "crates/ktstr/src/guest/scenario/tests/author.rs",
        ] {
            assert!(!is_product(ours), "{ours}");
        }
    }

    #[test]
    fn the_readme_explains_what_is_read_and_nothing_else() {
        let all: String = Variable::ALL
            .iter()
            .map(|variable| format!("| `{}=1` | … |\n", variable.name()))
            .collect();
        assert_eq!(check_table("README.md", &all), Vec::<String>::new());
        let missing = check_table("README.md", &all.replace("KTSTR_QEMU", "KTSTR_EMULATOR"));
        assert!(
            missing[0].contains("does not explain KTSTR_QEMU"),
            "{missing:?}"
        );
        assert!(
            missing[1].contains("explains KTSTR_EMULATOR, which nothing reads"),
            "{missing:?}"
        );
    }

    #[test]
    fn upward_arrows_are_found() {
        let metadata = serde_json::json!({"packages": [{
            "name": "ktstr-wire", "license": "MIT", "publish": [], "dependencies": [{"name": "ktstr"}, {"name": "serde"}],
        }]});
        let found = arrows(&metadata);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("ktstr-wire depends on ktstr"),
            "{}",
            found[0]
        );
        let of_tests = |to: &str| {
            let dependency = serde_json::json!({"name": to, "kind": "dev"});
            arrows(&serde_json::json!({"packages": [{
                "name": "ktstr-wire", "license": "MIT", "publish": [], "dependencies": [dependency],
            }]}))
        };
        assert!(of_tests("ktstr-initramfs").is_empty());
        assert!(
            of_tests("ktstr")[0].contains("the tests of ktstr-wire use ktstr"),
            "{:?}",
            of_tests("ktstr")
        );
        let unfit = serde_json::json!({"packages": [{"name": "ktstr-wire", "license": "MIT"}]});
        let unfit = arrows(&unfit);
        assert!(unfit[1].contains("has no readme"), "{unfit:?}");
        let rooms = check_file("crates/ktstr/src/model/x.rs", "use crate::host::y;");
        assert!(rooms[0].contains("model uses crate::host"), "{rooms:?}");
        assert!(check_file("crates/ktstr/src/guest/x.rs", "use crate::model::y;").is_empty());
        assert_eq!(check_file("xtask/src/x.rs", &"\n".repeat(901)).len(), 1);
    }
}
