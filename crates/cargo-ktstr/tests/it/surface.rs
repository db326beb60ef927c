//! What every subcommand has in common: help, wrong arguments.

use crate::fixture::{Project, Ran, ktstr};

const COMMANDS: &[&[&str]] = &[
    &["test"],
    &["replay"],
    &["stats"],
    &["stats", "last-run"],
    &["stats", "trend"],
    &["stats", "list-metrics"],
    &["perf-delta"],
    &["report"],
    &["verifier"],
    &["coverage"],
    &["shell"],
    &["export"],
    &["kernel", "list"],
    &["kernel", "build"],
    &["kernel", "clean"],
    &["locks"],
    &["completions"],
];

#[test]
fn every_command_has_help_that_says_what_it_is_for() {
    for command in COMMANDS {
        let mut args = command.to_vec();
        args.push("--help");
        let ran = Ran::new(ktstr(&args).output().unwrap());
        ran.exits(0).says(&["Usage: cargo ktstr", "--help"]);
        assert!(
            ran.stdout
                .lines()
                .next()
                .is_some_and(|line| line.len() > 20),
            "{}",
            ran.stdout
        );
    }
}

#[test]
fn a_wrong_argument_is_64_and_shows_itself() {
    for command in COMMANDS {
        let mut args = command.to_vec();
        args.push("--no-such-flag");
        Ran::new(ktstr(&args).output().unwrap())
            .exits(64)
            .says(&["--no-such-flag"]);
    }
    Ran::new(ktstr(&["tset"]).output().unwrap())
        .exits(64)
        .says(&["tset", "test"]);
    Ran::new(ktstr(&["test", "--shard", "4/3"]).output().unwrap())
        .exits(64)
        .says(&["4/3", "1/3"]);
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        Ran::new(ktstr(&["completions", shell]).output().unwrap())
            .exits(0)
            .says(&["replay", "kernel"]);
    }
}

#[test]
fn outside_of_a_project_cargo_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = ktstr(&["test"]).current_dir(dir.path()).output().unwrap();
    Ran::new(output)
        .exits(1)
        .says(&["no cargo project", "Cargo.toml"]);
}

#[test]
fn locks_are_shown_with_their_holders() {
    let project = Project::new();
    project.run(&["locks"]).exits(0);
    let kernels = project.cache().join("kernels");
    std::fs::create_dir_all(&kernels).unwrap();
    let file = std::fs::File::create(kernels.join(".mine.lock")).unwrap();
    file.lock_shared().unwrap();
    let json = project.run(&["locks", "--json"]).exits(0).json();
    let mine = json
        .as_array()
        .unwrap()
        .iter()
        .find(|lock| lock["what"] == "kernel mine")
        .unwrap();
    assert_eq!(mine["mode"], "shared");
    assert_eq!(mine["holders"][0]["pid"], std::process::id());
}
