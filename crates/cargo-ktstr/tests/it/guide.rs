//! The guide under `book/`: its Rust compiles, its links lead somewhere, and its first chapter works when it is copied.
//!
//! A fenced block says what it is for in its info string: `rust` is compiled; `…,file=PATH` is a file of the first chapter's
//! project, with `insert` put above the last line; `sh` is run there, `sh,fails` must fail; `text,output` is what the
//! command before it says, with `…` for anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Ran, ktstr};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn chapter(name: &str) -> String {
    let path = repository().join("book/src").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn chapters() -> Vec<String> {
    let summary = chapter("SUMMARY.md");
    let links = summary
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    links.map(str::to_owned).collect()
}

/// Info string and text of each fenced block.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, body)), None) => body.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Projects outside of the workspace share one build of ktstr.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide")
}

#[test]
fn links_and_anchors_lead_somewhere() {
    let names = chapters();
    assert!(names.len() >= 6, "{names:?}");
    for name in &names {
        for link in chapter(name)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next().map(str::to_owned))
        {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            assert!(names.contains(&file.to_owned()), "{name} links to {link}");
            let heading = |line: &str| {
                line.trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .replace(' ', "-")
            };
            let has = chapter(file)
                .lines()
                .any(|line| line.starts_with('#') && heading(line) == anchor);
            assert!(
                anchor.is_empty() || has,
                "{name} links to {link}, which has no such heading"
            );
        }
    }
}

#[test]
fn every_rust_block_compiles() {
    let dir = tempfile::tempdir().unwrap();
    let mut modules = String::new();
    let mut count = 0;
    for name in chapters() {
        for (info, body) in blocks(&chapter(&name)) {
            if info != "rust" {
                continue;
            }
            count += 1;
            // A module each: names of one block are none of another's.
            let indented: String = body
                .lines()
                .filter(|line| !line.contains("test_main!"))
                .map(|line| format!("    {line}\n"))
                .collect();
            modules.push_str(&format!(
                "/// {name}\npub mod block_{count} {{\n{indented}}}\n"
            ));
        }
    }
    assert!(count >= 10, "{count} blocks");
    let root = repository();
    let manifest = format!(
        "[package]\nname = \"guide-blocks\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dev-dependencies]\n\
         ktstr = {{ path = {:?} }}\n\n[[test]]\nname = \"blocks\"\nharness = false\n\n[workspace]\n",
        root.join("crates/ktstr")
    );
    fs::create_dir_all(dir.path().join("src")).unwrap();
    fs::create_dir_all(dir.path().join("tests")).unwrap();
    fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(dir.path().join("src/lib.rs"), "").unwrap();
    fs::write(
        dir.path().join("tests/blocks.rs"),
        format!("{modules}\nktstr::test_main!();\n"),
    )
    .unwrap();
    fs::copy(root.join("Cargo.lock"), dir.path().join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--offline"])
        .current_dir(dir.path())
        .env("CARGO_TARGET_DIR", target())
        .output()
        .unwrap();
    Ran::new(output).exits(0);
}

#[test]
fn the_first_chapter_works_as_it_is_written() {
    let project = tempfile::tempdir().unwrap();
    let root = repository();
    // The same versions as here, so that nothing has to be fetched.
    fs::copy(root.join("Cargo.lock"), project.path().join("Cargo.lock")).unwrap();
    let mut said = String::new();
    let mut ran = 0;
    for (info, body) in blocks(&chapter("getting-started.md")) {
        let body = body.replace("/path/to/ktstr", &root.display().to_string());
        if let Some(file) = info.split("file=").nth(1) {
            write_file(project.path(), file, &body);
        } else if info == "sh" || info == "sh,fails" {
            said = run_shell(project.path(), &body, info == "sh,fails");
            ran += 1;
        } else if info == "text,output" {
            body.lines().for_each(|line| assert_said(&said, line));
        }
    }
    assert_eq!(ran, 4, "blocks of commands");
    assert!(
        said.contains("report.html") && said.contains("--exact six_workers_never_wait"),
        "{said}"
    );
}

fn write_file(project: &Path, file: &str, body: &str) {
    let (name, insert) = match file.split_once(',') {
        Some((name, "insert")) => (name, true),
        _ => (file, false),
    };
    let path = project.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = if insert {
        let old = fs::read_to_string(&path).unwrap();
        let (head, last) = old.trim_end().rsplit_once('\n').unwrap();
        format!("{head}\n{body}\n{last}\n")
    } else {
        body.to_owned()
    };
    fs::write(path, text).unwrap();
}

/// In an environment where `cargo ktstr` is the one under test.
fn run_shell(project: &Path, script: &str, fails: bool) -> String {
    // Taken from the fixture so that the caller's own choices do not reach the guide's commands.
    let clean = ktstr(&[]);
    let bin = Path::new(env!("CARGO_BIN_EXE_cargo-ktstr"))
        .parent()
        .unwrap();
    let mut path = vec![bin.to_owned()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(project);
    for (name, value) in clean.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_NET_OFFLINE", "true");
    let ran = Ran::new(command.output().unwrap());
    ran.exits(i32::from(fails));
    format!("{}{}", ran.stderr, ran.stdout)
}

/// Some line has the parts of this one, in this order.
#[track_caller]
fn assert_said(said: &str, line: &str) {
    let has = |actual: &str| {
        let mut rest = actual;
        line.split('…').all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    assert!(
        said.lines().any(has),
        "the guide shows {line:?}, which is not in:\n{said}"
    );
}
