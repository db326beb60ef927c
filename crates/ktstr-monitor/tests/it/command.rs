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
fn every_view_has_a_table() {
    assert_eq!(stdout(&["domains"]).lines().count(), 9);
    assert!(stdout(&["scx"]).contains("state enabled, scheduler fixture"));
    assert!(stdout(&["dsqs"]).contains("local of CPU 3"));
    assert!(stdout(&["programs"]).contains("fixture_enqueue"));
    assert!(stdout(&["maps"]).contains("not shown: "));
}

/// QEMU's dump has each vCPU's registers.
#[test]
fn a_dump_says_where_each_vcpu_was() {
    let dump: serde_json::Value = serde_json::from_str(&stdout(&["dump", "--json"])).unwrap();
    let vcpus = dump["vcpus"].as_array().unwrap();
    assert_eq!(vcpus.len(), 4);
    let symbols = lab().kernel.symbols();
    for vcpu in vcpus {
        let rip = vcpu["rip"].as_u64().unwrap();
        let in_kernel = rip >= lab().kernel.text().0;
        let symbol = vcpu["symbol"].as_str().unwrap();
        let name = symbol.split('+').next().unwrap();
        assert_eq!(
            in_kernel,
            symbols.find(name).is_some() || name.starts_with("bpf_"),
            "{vcpu}"
        );
    }
}

/// Runs the program alone, with these words.
fn bare(words: &[&str]) -> Output {
    let exe = std::env::current_exe().unwrap();
    let program = exe
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/ktstr-monitor");
    Command::new(program).args(words).output().unwrap()
}

#[test]
fn help_is_no_mistake() {
    for words in [&["--help"][..], &["inspect", "-h"]] {
        let output = bare(words);
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("exit status: 0")
        );
    }
}

#[track_caller]
fn complaint(output: &Output, status: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    assert!(complaint(&bare(&[]), 2).contains("usage:"));
    assert!(complaint(&bare(&["look"]), 2).contains("usage:"));
    let said = complaint(&inspect(&["nonsense"]), 2);
    assert!(
        said.contains("cannot look at `nonsense`, only at where, runqueues,"),
        "{said}"
    );
    assert!(complaint(&inspect(&["tasks", "--wrong"]), 2).contains("unknown option --wrong"));
    assert!(complaint(&inspect(&["tasks", "--cr3"]), 2).contains("--cr3 wants a value"));
    assert!(complaint(&inspect(&["tasks", "--cr3", "zebra"]), 2).contains("expected hex"));
}

#[test]
fn wrong_files_are_explained() {
    assert!(
        complaint(&inspect(&["tasks", "--vmlinux", "/nowhere"]), 1)
            .contains("cannot open /nowhere")
    );
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    assert!(
        complaint(&inspect(&["tasks", "--vmlinux", program]), 1).contains("not a usable vmlinux")
    );
    assert!(
        complaint(&bare(&["inspect", "/nowhere", "tasks"]), 1).contains("cannot open /nowhere")
    );
    assert!(complaint(&bare(&["inspect", program, "tasks"]), 1).contains("wanted: an ELF dump"));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let output = bare(&["inspect", empty.path().to_str().unwrap(), "dump", "--json"]);
    assert!(complaint(&output, 1).contains("it is empty"));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["is_placeholder"], true);
    assert!(report["reason"].as_str().unwrap().contains("it is empty"));
}

/// The first tenth of a dump has the headers, and little memory.
#[test]
fn a_dump_that_was_cut_short_is_called_so() {
    let mut whole = std::fs::File::open(&lab().vmcore).unwrap();
    let len = whole.metadata().unwrap().len() / 10;
    let mut cut = tempfile::NamedTempFile::new().unwrap();
    std::io::copy(&mut std::io::Read::take(&mut whole, len), &mut cut).unwrap();
    let output = bare(&["inspect", cut.path().to_str().unwrap(), "runqueues"]);
    let status = output.status.code().unwrap();
    let said = complaint(&output, status);
    assert!([1, 3].contains(&status), "{said}");
    assert!(said.contains("was cut short"), "{said}");
}
