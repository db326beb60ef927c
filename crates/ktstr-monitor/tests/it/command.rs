//! The example program, as its user runs it.

use std::process::{Command, Output};

use crate::lab::lab;

fn inspect(words: &[&str]) -> Output {
    let exe = std::env::current_exe().unwrap();
    let program = exe
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/ktstr-monitor");
    Command::new(&program)
        .arg("inspect")
        .arg(&lab().vmcore)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

#[track_caller]
fn stdout(words: &[&str]) -> String {
    let output = inspect(words);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tables_are_for_people() {
    assert!(stdout(&["runqueues"]).lines().count() == 5);
    assert!(stdout(&["tasks"]).contains("scx-fixture"));
    assert!(stdout(&["maps"]).contains("percpu_hash t_phash"));
    assert!(stdout(&["dmesg"]).contains("] monitor says hello"));
}

#[test]
fn json_is_for_programs() {
    let dump: serde_json::Value = serde_json::from_str(&stdout(&["dump", "--json"])).unwrap();
    assert_eq!(dump["is_placeholder"], false);
    let place: serde_json::Value = serde_json::from_str(&stdout(&["where", "--json"])).unwrap();
    assert_eq!(place["text"], lab().kernel.text().to_string());
}

#[test]
fn mistakes_are_explained() {
    let complaint = |words: &[&str]| {
        let output = inspect(words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(complaint(&["nonsense"]).contains("usage:"));
    assert!(complaint(&["tasks", "--vmlinux", "/nowhere"]).contains("cannot open /nowhere"));
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    assert!(complaint(&["tasks", "--vmlinux", program]).contains("no usable vmlinux"));
}
