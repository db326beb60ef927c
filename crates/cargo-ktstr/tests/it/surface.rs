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
    &["doctor"],
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

/// What is typed is `cargo ktstr`: bash itself completes it, and asks cargo's own function about everything else.
#[test]
fn bash_completes_behind_cargo() {
    let script = Ran::new(ktstr(&["completions", "bash"]).output().unwrap());
    script.exits(0);
    let ask = |words: &str, at: usize| {
        let text = format!(
            "_cargo_own() {{ COMPREPLY=(build); }}\ncomplete -F _cargo_own cargo\n{}\n\
             COMP_WORDS=({words})\nCOMP_CWORD={at}\nfunction=$(complete -p cargo | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
             $function cargo \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\necho \"${{COMPREPLY[@]}}\"\n",
            script.stdout
        );
        let output = std::process::Command::new("bash")
            .args(["-c", &text])
            .output()
            .unwrap();
        let ran = Ran::new(output);
        ran.exits(0);
        ran.stdout.trim().to_owned()
    };
    assert_eq!(ask("cargo ktstr rep", 2), "replay report");
    assert_eq!(
        ask("cargo ktstr ''", 2)
            .split(' ')
            .filter(|word| *word == "perf-delta")
            .count(),
        1
    );
    assert!(ask("cargo ktstr test --jun", 3).contains("--junit"));
    assert_eq!(ask("cargo ktstr test --engine ''", 4), "auto kvm tcg");
    assert_eq!(ask("cargo bu", 1), "build");
}

/// Each flag stands under the heading that it belongs to.
#[test]
fn help_puts_flags_under_their_own_headings() {
    let ran = Ran::new(ktstr(&["test", "--help"]).output().unwrap());
    let at = |needle: &str| {
        let found = ran.stdout.find(needle);
        found.unwrap_or_else(|| panic!("{needle} is not in {}", ran.stdout))
    };
    let (options, packages, gauntlet) = (at("\nOptions:"), at("\nPackages:"), at("\nGauntlet:"));
    for flag in [
        "--junit",
        "--ktap",
        "--json",
        "--fail-fast",
        "--verbose",
        "--engine",
        "--shard",
    ] {
        let at = at(&format!(" {flag}"));
        assert!(
            at > options && at < packages.min(gauntlet),
            "{flag} stands at {at}: {}",
            ran.stdout
        );
    }
    assert!(at(" --budget") > gauntlet && at(" --manifest-path") > packages);
}

#[test]
fn outside_of_a_project_cargo_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = ktstr(&["test"]).current_dir(dir.path()).output().unwrap();
    Ran::new(output)
        .exits(1)
        .says(&["cannot read the cargo project", "Cargo.toml"]);
}

/// On whatever host this is; the project's cache has no kernel.
#[test]
fn a_doctor_looks_at_this_host_and_says_what_mends_it() {
    let project = Project::new();
    let text = project.run(&["doctor"]);
    text.exits(1).says(&[
        "kvm",
        "cpu",
        "clock",
        "huge pages",
        "performance mode",
        "qemu",
        "no kernel that the next run could take",
        "mend: cargo ktstr kernel build",
    ]);
    assert!(!text.stdout.contains("xtask"), "{}", text.stdout);
    let mut command = project.command(&["doctor", "--json"]);
    command.env("KTSTR_QEMU", "/bin/true");
    let json = Ran::new(command.output().unwrap()).exits(1).json();
    assert_eq!(json["healthy"], false);
    let findings = json["findings"].as_array().unwrap();
    for finding in findings {
        let health = finding["health"].as_str().unwrap();
        assert!(["good", "less", "bad"].contains(&health), "{finding}");
        assert!(health != "bad" || finding["mend"].is_string(), "{finding}");
    }
    let liar = findings
        .iter()
        .find(|finding| finding["found"].as_str().unwrap().contains("'/bin/true'"));
    assert_ne!(liar.unwrap()["health"], "good");
}

#[test]
fn locks_are_shown_with_their_holders() {
    let project = Project::new();
    project.run(&["locks"]).exits(0);
    let held = [
        ("kernels", "kernel mine"),
        ("templates", "booted guest mine"),
    ];
    let files = held.map(|(dir, _)| {
        let dir = project.cache().join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        let file = std::fs::File::create(dir.join(".mine.lock")).unwrap();
        file.lock_shared().unwrap();
        file
    });
    let json = project.run(&["locks", "--json"]).exits(0).json();
    for (_, what) in held {
        let mut locks = json.as_array().unwrap().iter();
        let mine = locks.find(|lock| lock["what"] == what).unwrap();
        assert_eq!(mine["mode"], "shared");
        assert_eq!(mine["holders"][0]["pid"], std::process::id());
    }
    drop(files);
}
