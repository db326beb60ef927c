//! The examples of the crate `ktstr`, which the guide shows: each is a test that passes in a guest.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use ktstr::host::plan::program::cargo;

/// Built with the features that the whole workspace wants of its dependencies, with which they are built already.
#[track_caller]
fn passes(example: &str, test: &str) {
    let built = cargo()
        .args(["build", "--offline", "--workspace", "--example", example])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .status()
        .unwrap();
    assert!(built.success(), "{example} was not built");
    let program = env!("CARGO_BIN_EXE_captures");
    let beside = Path::new(program).with_file_name("examples").join(example);
    let output = Command::new(beside).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let line = text.lines().find(|line| line.contains(test));
    assert!(line.is_some_and(|line| line.ends_with("ok")), "{text}");
}

#[test]
fn own_counter() {
    passes("own_counter", "groups_swap_their_llcs");
}

#[test]
fn interactive() {
    passes("interactive", "interactive_beside_batch");
}

#[test]
fn upgrade() {
    passes("upgrade", "upgrade_in_flight");
}
