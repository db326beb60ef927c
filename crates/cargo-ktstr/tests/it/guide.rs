//! The guide under `book/`: its Rust compiles, its links lead somewhere, and its first chapter works when it is copied.
//!
//! A fenced block says what it is for in its info string: `rust` is compiled; `…,file=PATH` is a file of the reader's project,
//! with `append` put at its end; `sh` is run there, `sh,fails` must fail; `text,output,from=A,to=B` is what the command
//! before it says, from the first line that begins with A to the next that begins with B, without either from the start or to
//! the end. `UPDATE_GUIDE=1` writes these anew; otherwise each line must have been said, whatever its numbers.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{
    Ran, alone_outside, bare, builds_outside, ktstr, outside_target as target, repository,
};

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
            if !names.contains(&file.to_owned()) {
                // mdBook copies what is no chapter beside the pages.
                let beside =
                    repository().join("book/src").join(file).is_file() && anchor.is_empty();
                assert!(beside, "{name} links to {link}");
                continue;
            }
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
fn every_rust_block_compiles_and_what_is_registered_by_hand_runs() {
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
    let _alone = alone_outside("guide-blocks");
    let cargo = |args: &[&str]| {
        let mut command = bare(Command::new(env!("CARGO")));
        command
            .args(["test", "--offline", "--test", "blocks"])
            .args(args)
            .current_dir(dir.path());
        Ran::new(builds_outside(&mut command).output().unwrap())
    };
    cargo(&["--no-run"]).exits(0);
    cargo(&["--", "--exact", "by_hand"])
        .exits(0)
        .says(&["test by_hand ... ok", "1 passed"]);
}

/// Chapters whose commands are run, in this order and in one project, and how many blocks of commands each has.
const TOLD: [(&str, usize); 2] = [("getting-started.md", 4), ("reading-failures.md", 1)];

#[test]
fn the_first_chapters_work_as_they_are_written() {
    let project = tempfile::tempdir().unwrap();
    // The same versions as here, so that nothing has to be fetched.
    fs::copy(
        repository().join("Cargo.lock"),
        project.path().join("Cargo.lock"),
    )
    .unwrap();
    let _alone = alone_outside("my-sched-tests");
    let updates = std::env::var_os("UPDATE_GUIDE").is_some();
    for (name, commands) in TOLD {
        let mut text = chapter(name);
        let mut ran = Vec::new();
        for (info, body) in blocks(&text) {
            let real = body.replace("/path/to/ktstr", &repository().display().to_string());
            if let Some(file) = info.split("file=").nth(1) {
                write_file(project.path(), file, &real);
            } else if info == "sh" || info == "sh,fails" {
                let said = run_shell(project.path(), &real, info == "sh,fails");
                ran.push(as_the_reader_sees(&said, project.path()));
            } else if let Some(part) = info.strip_prefix("text,output") {
                assert!(updates || !body.is_empty(), "{name}: an empty {info}");
                let said = ran.last().expect("a command before its output");
                if updates {
                    let shown = part_of(said, part);
                    text = text.replace(
                        &format!("{info}\n{body}```"),
                        &format!("{info}\n{shown}```"),
                    );
                } else {
                    body.lines().for_each(|line| assert_said(said, line));
                }
            }
        }
        assert_eq!(ran.len(), commands, "blocks of commands of {name}");
        if updates {
            fs::write(repository().join("book/src").join(name), text).unwrap();
        }
    }
}

/// The project has a better name than that of its temporary directory, and its own target directory.
fn as_the_reader_sees(said: &str, project: &Path) -> String {
    const READERS: &str = "/home/you/my-sched-tests";
    said.replace(
        &target().display().to_string(),
        &format!("{READERS}/target"),
    )
    .replace(&project.display().to_string(), READERS)
}

/// What `,from=A,to=B` takes of an output.
fn part_of(said: &str, part: &str) -> String {
    let bound = |key: &str| part.split(',').find_map(|word| word.strip_prefix(key));
    let mut lines = said.lines().peekable();
    if let Some(from) = bound("from=") {
        while lines
            .next_if(|line| !line.trim_start().starts_with(from))
            .is_some()
        {}
        assert!(
            lines.peek().is_some(),
            "no line begins with {from:?} in:\n{said}"
        );
    }
    let to = bound("to=");
    let mut shown = String::new();
    for line in lines {
        shown.push_str(&format!("{}\n", line.trim_end()));
        if to.is_some_and(|to| line.trim_start().starts_with(to)) {
            break;
        }
    }
    shown
}

fn write_file(project: &Path, file: &str, body: &str) {
    let (name, append) = match file.split_once(',') {
        Some((name, "append")) => (name, true),
        _ => (file, false),
    };
    let path = project.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = if append {
        format!("{}\n{body}", fs::read_to_string(&path).unwrap())
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
        .env("CARGO_NET_OFFLINE", "true");
    let ran = Ran::new(builds_outside(&mut command).output().unwrap());
    ran.exits(i32::from(fails));
    format!("{}{}", ran.stderr, ran.stdout)
}

/// Some line is this one but for its numbers.
#[track_caller]
fn assert_said(said: &str, line: &str) {
    assert!(
        said.lines().any(|actual| shape(actual) == shape(line)),
        "the guide shows {line:?}, which is not in what was said; if that is as it should be, write the guide anew with \
         UPDATE_GUIDE=1. It was:\n{said}"
    );
}

/// Words behind which a line tells of one run or one machine: which kernel, why this engine, what a CPU ran at that moment, and where and for
/// how long a worker stood still.
const VARIES_BEHIND: [&str; 4] = ["kernel: ", "engine: ", ": runs ", " made no progress "];

/// A line without what differs from run to run and from machine to machine: numbers, long hexadecimal words, lists in
/// brackets, width, and what is behind [`VARIES_BEHIND`].
fn shape(line: &str) -> String {
    let line = VARIES_BEHIND.iter().fold(line, |line, words| {
        line.split_once(words).map_or(line, |(before, _)| before)
    });
    let mut shape = String::new();
    for (number, outside) in line.split('[').enumerate() {
        let outside = match outside.split_once(']') {
            Some((_, behind)) if number > 0 => behind,
            _ => outside,
        };
        let words = outside.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        let ends = outside
            .chars()
            .filter(|c| !c.is_ascii_alphanumeric() && *c != '.');
        let mut ends = ends.map(String::from).chain([String::new()]);
        for word in words {
            shape.push_str(&plain(word));
            shape.push_str(&ends.next().unwrap_or_default());
        }
    }
    shape.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A word without its numbers.
fn plain(word: &str) -> String {
    if word == "kvm" {
        return String::from("tcg");
    }
    if word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit()) {
        return String::from("0");
    }
    let mut plain = String::new();
    for c in word.chars() {
        match c {
            '0'..='9' | '.' if plain.ends_with('0') => {}
            '0'..='9' => plain.push('0'),
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn a_line_of_the_guide_stands_for_others_of_its_shape() {
    let line =
        "  worker 3 waited 31.5 ms on CPUs [0, 1], kernel-0a1b2c3d4e5f6071 on tcg: runs init";
    let other = "worker 12  waited 7 ms on CPUs [2], kernel-ffffffffffffffff on kvm: runs me";
    assert_eq!(shape(line), shape(other));
    assert_ne!(shape(line), shape("worker 12 waited"));
    assert_ne!(shape("a [1] b"), shape("a [1] c"));
    let said = "first\n  second\nthird\nfourth\n";
    assert_eq!(part_of(said, ",from=second,to=third"), "  second\nthird\n");
    assert_eq!(part_of(said, ",to=second"), "first\n  second\n");
    assert_eq!(part_of(said, ""), said);
}
