//! Virtual time on the command line: real guests, whose seed is all that decides how they run.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use ktstr::model::events::{Events, What};
use serde_json::Value;

use crate::end_to_end::{case, command, json, test};
use crate::fixture::Ran;

fn ran(args: &[&str]) -> Ran {
    Ran::new(command(args).output().unwrap())
}

/// Of this package alone, so that all commands build the same test binary, without which no run is the same.
const SAMPLE: [&str; 4] = ["--package", "ktstr-sample", "--features", "sample"];

/// The record of `left::same` after `cargo ktstr test` with these arguments.
fn record(more: &[&str]) -> Value {
    let args = [
        &[
            "test",
            "--runner",
            "cargo",
            "--test",
            "sched",
            "--exact",
            "left::same",
        ],
        &SAMPLE[..],
        more,
    ]
    .concat();
    let json = json(command(&args), 0);
    assert_eq!(case(&json, "left::same")["verdict"], "pass");
    let path = Path::new(json["directories"][0].as_str().unwrap()).join("left__same.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_seed_is_a_run_and_a_replay_knows_it() {
    let first = record(&["--seed", "7"]);
    assert_eq!(first["clock"], "virtual", "{first:#}");
    assert_eq!(first["seed"], 7);
    let fingerprint = first["fingerprint"].as_str().unwrap();
    let replay = |seed: &str| {
        let args = [
            &[
                "replay",
                "left::same",
                "--seed",
                seed,
                "--fingerprint",
                fingerprint,
            ][..],
            &SAMPLE,
        ];
        ran(&args.concat())
    };
    replay("7").exits(0);
    replay("8")
        .exits(3)
        .says(&["not the same run", fingerprint]);
    let identity = first["identity"].as_str().unwrap();
    // The fifth of eight parts.
    let (before, after) = identity.split_at(20);
    let other = if after.starts_with('0') { "1" } else { "0" };
    let other = format!("{before}{other}{}", &after[1..]);
    let made_of = |identity: &str| {
        let args = [
            &["replay", "left::same", "--seed", "7", "--identity"][..],
            &[identity],
            &SAMPLE,
        ];
        ran(&args.concat())
    };
    made_of(identity).exits(0);
    made_of(&other)
        .exits(3)
        .says(&["not the same run", "has changed: kernel.", &other]);
    made_of("7").exits(64).says(&["40 hexadecimal digits"]);
}

#[test]
fn the_clock_is_what_was_asked_for() {
    assert_eq!(record(&["--time", "host"])["clock"], "host");
    let virtual_time = record(&["--time", "virtual"]);
    assert_eq!(virtual_time["clock"], "virtual");
    assert_eq!(virtual_time["seed"], 0);
    let both = [&["--time", "host", "--seed", "1"][..]].concat();
    Ran::new(test(&["sched"], &both).output().unwrap())
        .exits(64)
        .says(&["--time host and --seed"]);
    ran(&["replay", "left::same"]).exits(64).says(&["--seed"]);
}

/// Both runs of a pair are the same run, figure by figure.
#[test]
fn a_revision_does_not_differ_from_itself() {
    let delta = |more: &[&str]| {
        let args = [
            &[
                "perf-delta",
                ".",
                ".",
                "steady_work",
                "--exact",
                "--include-ignored",
            ][..],
            &[
                "--test",
                "sched",
                "--time",
                "virtual",
                "--pairs",
                "2",
                "--allow-unsure",
                "--json",
            ],
            &SAMPLE,
            more,
        ];
        ran(&args.concat())
    };
    let compared = delta(&["--metric", "iterations_per_s", "--metric", "cpu_time_ms"]);
    let compared = compared.exits(0).json();
    for row in compared["rows"].as_array().unwrap() {
        assert_eq!(row["change"], 0.0, "{row:#}");
        assert_eq!(row["median_a"], row["median_b"], "{row:#}");
        assert!(row["median_a"].as_f64().unwrap() > 0.0, "{row:#}");
    }
    delta(&["--metric", "boot_ms"])
        .exits(1)
        .says(&["boot_ms measures the host's time"]);
}

/// About half of all seeds fail.
#[test]
fn an_exploration_tells_what_failed_and_how_to_see_it_again() {
    let explore = [
        &["explore", "odd_rounds", "--seeds", "6", "--json"][..],
        &SAMPLE,
    ]
    .concat();
    let output = command(&explore).output().unwrap();
    let code = output.status.code();
    let found = Ran::new(output).json();
    assert_eq!(found["runs"], 6, "{found:#}");
    assert_eq!(found["distinct"], 6, "{found:#}");
    let failures = found["failures"].as_array().unwrap();
    assert_eq!(code, Some(i32::from(!failures.is_empty())), "{found:#}");
    for failure in failures {
        assert!(
            failure["says"].as_str().unwrap().contains("changes"),
            "{found:#}"
        );
        let line = failure["replay"].as_str().unwrap();
        let words: Vec<&str> = line.split(' ').skip(2).collect();
        ran(&[&words[..], &SAMPLE].concat())
            .exits(1)
            .says(&["changes"]);
    }
}

#[test]
fn a_look_shows_the_state_at_its_moment() {
    let look = |at: &str, more: &[&str]| {
        ran(&[
            &["look", "odd_rounds", "--seed", "2", "--at", at],
            more,
            &SAMPLE[..],
        ]
        .concat())
    };
    let over = look("1000s", &[]);
    over.exits(1).says(&["was over before 1000s"]);
    let (_, took) = over.stderr.split_once("it took ").unwrap();
    let took: u64 = took.split(' ').next().unwrap().parse().unwrap();
    // Booted, and not yet done.
    let at = took - 100;
    let shown = look(&format!("{at}ms"), &["--vmcore"]);
    shown.exits(0).says(&[
        &format!("ended for a look at {}.{:03}", at / 1000, at % 1000),
        "cpu 1: runs",
        "seed 2",
        ".vmcore",
    ]);
    let vmcore = shown
        .stdout
        .split_whitespace()
        .find(|word| word.ends_with(".vmcore"))
        .unwrap();
    let checked = ran(&["check", vmcore, "--json"]);
    checked.exits(0);
    let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(checked["violations"], serde_json::json!([]));
    assert!(checked["judged"].as_u64().unwrap() > 0, "{checked}");
    ran(&["check", vmcore, "--vmlinux", "/proc/self/exe"]).exits(2);
    let again = look(&format!("{}.{:03}s", at / 1000, at % 1000), &[]);
    let state = |ran: &Ran| {
        let (_, dump) = ran.stdout.split_once("--- sched_ext dump").unwrap();
        dump.split_once("--- artifacts").unwrap().0.to_owned()
    };
    assert_eq!(
        state(&shown),
        state(&again),
        "the same moment of the same run"
    );
}

/// Virtual milliseconds that the run of a seed takes.
fn length_ms(test: &str, seed: &str) -> u64 {
    let over = ran(&[
        &["look", test, "--seed", seed, "--at", "1000s"],
        &SAMPLE[..],
    ]
    .concat());
    let (_, took) = over.stderr.split_once("it took ").unwrap();
    took.split(' ').next().unwrap().parse().unwrap()
}

/// A run whose events are written is the run without: both of a busy test and of an idle one.
#[test]
fn events_of_the_scheduler_are_neutral_to_the_run() {
    let dir = tempfile::tempdir().unwrap();
    for test in ["steady_work", "left::same"] {
        let again = |more: &[&str], events: Option<&Path>| {
            let args = [&["replay", test, "--seed", "3"], more, &SAMPLE].concat();
            let mut command = command(&args);
            if let Some(path) = events {
                command.env("KTSTR_EVENTS", path);
            }
            Ran::new(command.output().unwrap())
        };
        let without = again(&["--fingerprint", "0"], None);
        let (_, found) = without.stderr.split_once("its fingerprint is ").unwrap();
        let fingerprint = found.split(',').next().unwrap();
        let path = dir.path().join("events");
        again(&["--fingerprint", fingerprint], Some(&path)).exits(0);
        let file = std::fs::File::open(&path).unwrap();
        let events = Events::read(std::io::BufReader::new(file)).unwrap();
        assert_eq!(events.cut, None);
        let kinds = |kind: fn(&What) -> bool| {
            let of_kind = events.list.iter().filter(|event| kind(&event.what));
            of_kind.count()
        };
        let runs = kinds(|what| matches!(what, What::Run));
        let stops = kinds(|what| matches!(what, What::Stop(_)));
        assert!(runs > 20 && stops > 20, "{test}: {runs} {stops}");
        assert!(
            kinds(|what| matches!(what, What::Wake { .. })) > 5,
            "{test}"
        );
        assert!(events.list.is_sorted_by_key(|event| event.at_ns), "{test}");
        one_story_each(&events);
    }
}

/// Whoever runs on a CPU was stopped there before another ran, and no task runs on two.
fn one_story_each(events: &Events) {
    let mut running: HashMap<u32, i32> = HashMap::new();
    for event in &events.list {
        match event.what {
            What::Run => {
                assert!(!running.values().any(|pid| *pid == event.pid), "{event}");
                assert_eq!(running.insert(event.cpu, event.pid), None, "{event}");
            }
            What::Stop(_) => {
                // What ran when the first event came is known by its end alone.
                let ran = running.remove(&event.cpu);
                assert!(ran.is_none_or(|pid| pid == event.pid), "{event}");
            }
            What::Migrate { from, to } => assert_ne!(from, to),
            What::Wake { .. } => {}
        }
    }
}

#[test]
fn two_seeds_are_told_by_the_first_event_that_differs() {
    let look = |other: &str| {
        ran(&[
            &[
                "look",
                "odd_rounds",
                "--seed",
                "2",
                "--until-differs",
                other,
            ],
            &SAMPLE[..],
        ]
        .concat())
    };
    look("2").exits(1).says(&["seed 2: ", "no event differs"]);
    let shown = look("5");
    shown.exits(0).says(&[
        "seed 2: ",
        "seed 5: ",
        "first difference: at ",
        "state in seed 2: cargo ktstr look odd_rounds --seed 2 --at ",
        "ended for a look at ",
    ]);
    let (head, _) = shown.stdout.split_once("state in seed 2").unwrap();
    let (_, first) = head.split_once("first difference: at ").unwrap();
    let at = first.split("s,").next().unwrap();
    // The state is that of this very moment, to the microsecond that a message tells.
    let told = format!("ended for a look at {:.6} s", at.parse::<f64>().unwrap());
    shown.says(&[&told]);
    let again = look("5");
    let (head_again, _) = again.stdout.split_once("state in seed 2").unwrap();
    assert_eq!(head, head_again);
    ran(&["look", "odd_rounds", "--until-differs", "1", "--at", "1s"]).exits(64);
    ran(&["look", "odd_rounds"]).exits(64).says(&["--at"]);
}

/// A packet of the remote serial protocol (GDB manual, appendix E), and its answer.
fn ask(stub: &mut UnixStream, packet: &str) -> String {
    let sum = packet.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
    write!(stub, "${packet}#{sum:02x}").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"#") {
        stub.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    stub.read_exact(&mut [0; 2]).unwrap();
    stub.write_all(b"+").unwrap();
    let text = String::from_utf8(answer).unwrap();
    text.trim_start_matches(['+', '$'])
        .trim_end_matches('#')
        .to_owned()
}

#[test]
fn gdb_sees_the_guest_at_its_moment() {
    let at = format!("{}ms", length_ms("odd_rounds", "2") - 100);
    let offered = || {
        let args = ["look", "odd_rounds", "--seed", "2", "--at", &at, "--gdb"];
        let mut look = command(&[&args[..], &SAMPLE].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(look.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, socket) = line.split_once("target remote ")?;
            Some(socket.trim_end_matches('\'').to_owned())
        });
        (look, line.unwrap(), lines)
    };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (mut look, socket, lines) = offered();
        let mut stub = UnixStream::connect(&socket).unwrap();
        let stopped = ask(&mut stub, "?");
        assert!(stopped.starts_with('T'), "{stopped}");
        let registers = ask(&mut stub, "g");
        assert!(registers.len() > 16 * 17, "{registers}");
        seen.push(registers);
        // A step, then on: the guest lives, and is answered at its gate.
        let stepped = ask(&mut stub, "vCont;s:1");
        assert!(stepped.starts_with('T'), "{stepped}");
        assert_ne!(ask(&mut stub, "g"), seen[0], "a step is one instruction");
        assert_eq!(ask(&mut stub, "D;1"), "OK");
        drop(stub);
        assert!(look.wait().unwrap().success());
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert!(
            rest.iter().any(|line| line.contains("ended for a look at")),
            "{rest:?}"
        );
        assert!(!Path::new(&socket).exists());
    }
    assert_eq!(seen[0], seen[1], "the same moment of the same run");
}

#[test]
fn what_is_no_vmcore_could_not_be_judged() {
    let own = std::env::current_exe().unwrap();
    let path = own.to_str().unwrap();
    ran(&["check", path]).exits(2).says(&["cargo ktstr check:"]);
    ran(&["check", "--list"])
        .exits(0)
        .says(&["rq-nr-running", "cfs-tree-order", "6.12, 7.3"]);
}

#[test]
fn a_scheduler_of_the_command_line_runs_under_seeds_too() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = dir.path().join("scx_mine");
    std::fs::write(&scheduler, "no program").unwrap();
    let path = scheduler.to_str().unwrap();
    for first in [
        &["replay", "scheduler_by_name", "--seed", "1"][..],
        &["explore", "scheduler_by_name", "--seeds", "1"],
        &["look", "scheduler_by_name", "--at", "1s"],
    ] {
        ran(&[first, &["--scheduler", path], &SAMPLE].concat())
            .exits(1)
            .says(&[path]);
    }
}
