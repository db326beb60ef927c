//! `cargo xtask tidy`: what no compiler checks. Every complaint says how to mend it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::sh;

/// Longest source file.
const MAX_LINES: usize = 900;
/// Who may use whom among our own crates.
const ARROWS: &[(&str, &[&str])] = &[
    ("ktstr-wire", &[]),
    ("ktstr-vmm", &[]),
    ("ktstr-monitor", &[]),
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
        ],
    ),
    ("cargo-ktstr", &["ktstr"]),
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
    let complaints = complaints(&sh::root())?;
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
    let mut found = arrows(&metadata()?);
    for file in sources(root)? {
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .display()
            .to_string();
        found.extend(check_file(&name, &text));
    }
    found.extend(undocumented(root)?);
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
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

/// Normal and build dependencies among our own crates must follow the house's arrows.
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
            if ours && !allowed.contains(&to) {
                found.push(format!("{name} depends on {to}: arrows point down only; move the shared part below both"));
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

/// Variables of the environment that are between our own processes, or only for our own tests.
const INTERNAL_VARIABLES: &[&str] = &[
    "KTSTR_BLESS",
    "KTSTR_CHAOS_RUNS",
    "KTSTR_DESCRIBE",
    "KTSTR_EXPORT",
    "KTSTR_LAB",
    "KTSTR_LINK_FD",
    "KTSTR_LOG",
    "KTSTR_SCHED_PID",
    "KTSTR_SHELL",
    "KTSTR_SOAK_FAULT",
    "KTSTR_SOAK_RUNS",
    "KTSTR_TESTS",
    "KTSTR_TEST_IMAGE",
    "KTSTR_TEST_PLAN",
    "KTSTR_TEST_SCHEDULER",
    "KTSTR_VERIFIER",
    "KTSTR_VMM_ORPHAN_TEST",
    // cargo ktstr coverage, between its own processes.
    "KTSTR_COVERAGE_DIR",
    "KTSTR_COVERAGE_RUSTC",
    // One test, which runs itself in the lab.
    "KTSTR_LAB_TEST_FAILS",
];

/// Every variable that the sources name must be in the README's table.
fn undocumented(root: &Path) -> Result<Vec<String>> {
    let readme = fs::read_to_string(root.join("README.md")).context("failed to read README.md")?;
    let mut names = BTreeMap::new();
    for file in sources(root)? {
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        for name in variables(&text) {
            names.entry(name.to_owned()).or_insert_with(|| file.clone());
        }
    }
    let missing = names.into_iter().filter(|(name, _)| {
        !INTERNAL_VARIABLES.contains(&name.as_str()) && !readme.contains(&format!("`{name}"))
    });
    let complain = |(name, file): (String, PathBuf)| {
        format!(
            "{} names {name}, which README.md does not explain; add it to the table there",
            file.display()
        )
    };
    Ok(missing.map(complain).collect())
}

/// `"KTSTR_…"` literals.
fn variables(text: &str) -> Vec<&str> {
    let parts = text.split('"').skip(1).step_by(2);
    let is_name = |part: &&str| {
        part.strip_prefix("KTSTR_").is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        })
    };
    // Quotes do not pair up in every file; looking at both halves finds all.
    let others = text.split('"').step_by(2);
    parts.chain(others).filter(is_name).collect()
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
    fn variables_are_found_as_literals() {
        let text =
            r#"let a = env("KTSTR_ENGINE"); let b = '"'; env("KTSTR_KERNEL"); "KTSTR_x" KTSTR_NO"#;
        let mut found = variables(text);
        found.sort_unstable();
        assert_eq!(found, ["KTSTR_ENGINE", "KTSTR_KERNEL"]);
    }

    #[test]
    fn upward_arrows_are_found() {
        let metadata = serde_json::json!({"packages": [{
            "name": "ktstr-wire", "license": "MIT", "dependencies": [{"name": "ktstr"}, {"name": "serde"}],
        }]});
        let found = arrows(&metadata);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("ktstr-wire depends on ktstr"),
            "{}",
            found[0]
        );
        let rooms = check_file("crates/ktstr/src/model/x.rs", "use crate::host::y;");
        assert!(rooms[0].contains("model uses crate::host"), "{rooms:?}");
        assert!(check_file("crates/ktstr/src/guest/x.rs", "use crate::model::y;").is_empty());
        assert_eq!(check_file("xtask/src/x.rs", &"\n".repeat(901)).len(), 1);
    }
}
