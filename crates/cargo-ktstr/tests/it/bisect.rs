//! A real repository with a history, real builds, real guests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Ran, alone_outside, builds_outside, ktstr, outside_target, repository};

const TEST: &str = r#"
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", duration_s = 1)]
fn answers(ctx: &Ctx) -> Result<AssertResult> {
    let cpus = std::thread::available_parallelism()?.get();
    let found = bisected::answer();
    if found != 42 {
        let text = format!("the answer is {found} on {cpus} CPUs");
        return Ok(AssertResult::fail(DetailKind::Other, text));
    }
    execute_defs(ctx, vec![CgroupDef::named("a").workers(1)])
}
"#;

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
        // The same history each time, whose clone and build are found again.
        .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The library at each commit, the oldest first, and the commit's subject.
const HISTORY: [(&str, &str); 8] = [
    ("42", "begin"),
    ("40 + 2", "add by hand"),
    ("6 * 7", "multiply"),
    ("6 * seven", "name a number"),
    ("7 * 6", "turn it round"),
    ("7 * 7", "round up"),
    ("7 * 7 + 1", "round up more"),
    ("84 / 2", "halve"),
];

/// The commits of a repository with that history.
fn history(root: &Path) -> Vec<String> {
    let manifest = format!(
        "[package]\nname = \"bisected\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dev-dependencies]\n\
         ktstr = {{ path = {:?} }}\n\n[workspace]\n",
        repository().join("crates/ktstr")
    );
    for dir in ["src", "tests"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("Cargo.toml"), manifest).unwrap();
    fs::copy(repository().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    fs::write(root.join("tests/sched.rs"), TEST).unwrap();
    git(root, &["init", "--quiet"]);
    let commit = |(body, subject): (&str, &str)| {
        let library = format!("pub fn answer() -> u32 {{ {body} }}\n");
        fs::write(root.join("src/lib.rs"), library).unwrap();
        git(root, &["add", "--all"]);
        git(root, &["commit", "--quiet", "-m", subject]);
        git(root, &["rev-parse", "HEAD"])
    };
    HISTORY.into_iter().map(commit).collect()
}

#[test]
fn the_revision_that_brought_a_failure_is_found() {
    let target = outside_target();
    let _alone = alone_outside("bisected");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("bisected");
    let commits = history(&root);
    let bisect = |good: usize, bad: usize, more: &[&str]| {
        let ends = ["--good-rev", &commits[good], "--bad-rev", &commits[bad]];
        let args = [&["bisect", "answers", "--offline"], &ends[..], more].concat();
        let mut command = ktstr(&args);
        Ran::new(builds_outside(command.current_dir(&root)).output().unwrap())
    };
    // A search has a target directory of its own; here it is the one in which ktstr is built already.
    let place = target.join("ktstr-bisect").join(&commits[0][..12]);
    fs::create_dir_all(&place).unwrap();
    let own = place.join("target");
    if fs::read_link(&own).ok().as_ref() != Some(&target) {
        // One that it had before.
        let _ = fs::remove_dir_all(&own).or_else(|_| fs::remove_file(&own));
        symlink(&target, own).unwrap();
    }
    let found = bisect(0, 6, &["--json", "--seed", "3"]);
    let json = found.exits(0).json();
    assert_eq!(json["first"], "bad", "{json:#}");
    let candidates = json["candidates"].as_array().unwrap();
    let short = |at: usize| commits[at].get(..7).unwrap();
    assert_eq!(candidates.len(), 1, "{json:#}");
    let name = candidates[0].as_str().unwrap();
    assert!(
        name.starts_with(short(5)) && name.ends_with(" round up"),
        "{name}"
    );
    assert_eq!(json["is"]["says"], "the answer is 49 on 2 CPUs");
    assert_eq!(json["bad"]["says"], "the answer is 50 on 2 CPUs");
    assert_eq!(
        json["is"]["cause"], json["bad"]["cause"],
        "numbers are no cause"
    );
    assert_eq!(json["before"]["verdict"], "good");
    let skipped = json["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 1, "{json:#}");
    assert!(
        skipped[0]["name"]
            .as_str()
            .unwrap()
            .ends_with("name a number")
    );
    // The line shows the same again, from wherever it is called.
    let replay = json["is"]["replay"].as_str().unwrap();
    let (place, line) = replay.split_once(" cargo ktstr ").unwrap();
    let place = place.strip_prefix("CARGO_TARGET_DIR=").unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let mut again = ktstr(&words);
    builds_outside(again.current_dir(dir.path())).env("CARGO_TARGET_DIR", place);
    Ran::new(again.output().unwrap())
        .exits(1)
        .says(&["the answer is 49"]);

    assert!(line.contains(" --seed 3 "), "{line}");
    // A good end that is newer: what is found is the mend. Each candidate has two seeds to fail under.
    bisect(7, 5, &["--seeds", "2"]).exits(0).says(&[
        "first good: ",
        " halve\n",
        "before it, ",
        "bad: the answer is 50",
        "replay answers --seed 0 ",
    ]);
    bisect(5, 6, &[])
        .exits(1)
        .says(&["was said to be good, and is bad: the answer is 49"]);
    bisect(0, 0, &[]).exits(1).says(&["the same commit"]);
}

#[test]
fn what_is_searched_must_be_named() {
    let bisect = |args: &[&str]| {
        let args = [&["bisect", "answers"], args].concat();
        Ran::new(ktstr(&args).current_dir(repository()).output().unwrap())
    };
    bisect(&[]).exits(64);
    bisect(&["--good-rev", "a"]).exits(64);
    bisect(&["--scheduler", "scx_a", "--good", "1.0.0"]).exits(64);
    bisect(&["--good-rev", "a", "--bad-rev", "b", "--scheduler", "c"]).exits(64);
    bisect(&["--scheduler", "scx_a", "--good", "1", "--bad", "1.0.0"])
        .exits(1)
        .says(&["invalid version '1'"]);
    bisect(&["--scheduler", "../a", "--good", "1.0.0", "--bad", "1.0.1"])
        .exits(1)
        .says(&["is not the name of a crate"]);
    bisect(&["--good-rev", "no-such", "--bad-rev", "HEAD"])
        .exits(1)
        .says(&["does not know revision 'no-such'"]);
}
