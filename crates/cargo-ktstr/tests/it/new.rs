//! `cargo ktstr new`: what it writes runs as it is.

use std::fs;
use std::process::Command;

use crate::fixture::{Ran, alone_outside, builds_outside, ktstr, repository};

fn new(dir: &std::path::Path, args: &[&str]) -> Ran {
    let mut command: Command = ktstr(&["new"]);
    command.args(args).current_dir(dir);
    Ran::new(command.output().unwrap())
}

#[test]
fn a_new_package_has_a_test_that_passes() {
    let dir = tempfile::tempdir().unwrap();
    let source = repository().join("crates/ktstr");
    let source = source.to_str().unwrap();
    new(dir.path(), &["my-tests", "--ktstr-path", source])
        .exits(0)
        .says(&["cd my-tests", "cargo ktstr test"]);
    let root = dir.path().join("my-tests");
    // The versions that are built already; a user's cargo would choose.
    fs::copy(repository().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    let _alone = alone_outside("my-tests");
    let mut command = ktstr(&["test", "--offline", "--json"]);
    command.current_dir(&root);
    let json = Ran::new(builds_outside(&mut command).output().unwrap())
        .exits(0)
        .json();
    let tests = json["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 1, "{json}");
    assert_eq!(tests[0]["name"], "two_workers_get_on");
    assert_eq!(tests[0]["verdict"], "pass");
    let record = tests[0]["artifacts"][0].as_str().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert!(record["engine"].is_string(), "no VM ran: {record}");
}

#[test]
fn a_new_package_takes_the_version_of_the_command() {
    let dir = tempfile::tempdir().unwrap();
    new(dir.path(), &["plain"]).exits(0);
    let manifest = fs::read_to_string(dir.path().join("plain/Cargo.toml")).unwrap();
    let line = format!(
        "[dev-dependencies]\nktstr = \"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(manifest.contains(&line), "{manifest}");
}

#[test]
fn what_cannot_be_made_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = repository();
    let wrong = wrong.to_str().unwrap();
    new(dir.path(), &["other", "--ktstr-path", wrong])
        .exits(1)
        .says(&["crates/ktstr"]);
    assert!(!dir.path().join("other").exists());
    fs::create_dir(dir.path().join("taken")).unwrap();
    new(dir.path(), &["taken"]).exits(1).says(&["taken"]);
}
