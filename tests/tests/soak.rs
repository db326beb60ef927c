//! Each fault of the fixture leaves a dump with the fault's own counters as they were at that moment, every time.
//!
//! CI looks once at each. `KTSTR_SOAK_RUNS=20` is the long form, `KTSTR_SOAK_FAULT=stall` looks at one fault alone; with
//! `--nocapture`, each run is told. In the lab (`cargo xtask ci --lab`) the same is looked at on the kvm engine.

use std::time::Instant;

use ktstr_tests::CaseRun;
use serde_json::Value;

/// A fault and what its dump must show.
struct Fault {
    /// The case that meets it is `NAME_with_state`, or in the lab `NAME_in_the_lab`.
    name: &'static str,
    /// The dump's trigger.
    trigger: &'static str,
    /// `scx_exit_kind` then; `None` while the scheduler is in charge.
    exit_kind: Option<u64>,
    /// A counter in the fixture's `.bss` that only this fault moves; `dispatched` for one that moves none.
    counter: &'static str,
}

const FAULTS: [Fault; 4] = [
    Fault {
        name: "error",
        trigger: "the scheduler's exit",
        exit_kind: Some(1025),
        counter: "errors",
    },
    Fault {
        name: "starve",
        trigger: "the test's own verdict",
        exit_kind: None,
        counter: "starved",
    },
    Fault {
        name: "leave",
        trigger: "the scheduler's exit",
        exit_kind: Some(64),
        counter: "dispatched",
    },
    Fault {
        name: "stall",
        trigger: "the scheduler's exit",
        exit_kind: Some(1026),
        counter: "stalled",
    },
];

/// What is wrong with the dump, or the counter's value.
fn look(fault: &Fault, in_lab: bool, run: &CaseRun) -> Result<u64, String> {
    let ran_on = run.sidecar.as_ref().and_then(|run| run.engine.as_deref());
    if in_lab && ran_on != Some("kvm") {
        return Err(format!("it ran on {ran_on:?} in the lab"));
    }
    // A host that took the vCPUs away excuses a gap: 2, with the same dump.
    let excused = fault.exit_kind.is_none() && run.code == Some(2);
    if run.code != Some(1) && !excused {
        return Err(format!("it ended with {:?}, not 1", run.code));
    }
    let dump = run.dump();
    let expect = |what: &str, found: &Value, wanted: Value| {
        if *found == wanted {
            Ok(())
        } else {
            Err(format!("{what} is {found}, not {wanted}"))
        }
    };
    expect("is_placeholder", &dump["is_placeholder"], false.into())?;
    expect("trigger", &dump["trigger"], fault.trigger.into())?;
    if let Some(kind) = fault.exit_kind {
        expect("exit_kind", &dump["scx"]["exit_kind"], kind.into())?;
    }
    let maps = dump["maps"].as_array().ok_or("the dump has no maps")?;
    let bss = maps
        .iter()
        .find(|map| {
            let name = map["name"].as_str().unwrap_or_default();
            name.ends_with(".bss")
        })
        .ok_or("no map is a .bss")?;
    let section = &bss["contents"]["section"];
    // The fixture's own exit has not run yet.
    expect("exit_info.kind", &section["exit_info"]["kind"], 0.into())?;
    match section["stats"][fault.counter].as_u64() {
        Some(count @ 1..) => Ok(count),
        other => Err(format!("stats.{} is {other:?}: {section}", fault.counter)),
    }
}

#[test]
fn each_fault_shows_its_own_counters_at_the_moment_it_is_caught() {
    let runs = std::env::var("KTSTR_SOAK_RUNS").ok();
    let runs: usize = runs.and_then(|runs| runs.parse().ok()).unwrap_or(1);
    let only = std::env::var("KTSTR_SOAK_FAULT").ok();
    let in_lab = std::env::var_os("KTSTR_LAB").is_some();
    let place = if in_lab { "in_the_lab" } else { "with_state" };
    let mut wrong = Vec::new();
    for fault in &FAULTS {
        if only.as_ref().is_some_and(|only| only != fault.name) {
            continue;
        }
        let mut good = 0;
        for number in 1..=runs {
            let started = Instant::now();
            let case = format!("{}_{place}", fault.name);
            let run = CaseRun::new(env!("CARGO_BIN_EXE_captures"), &case, &[]);
            let run = run.expect("the case runs");
            let seen = look(fault, in_lab, &run);
            eprintln!(
                "{} {number}/{runs}: {seen:?}, {:.1?}",
                fault.name,
                started.elapsed()
            );
            match seen {
                Ok(_) => good += 1,
                Err(why) => {
                    // At once: a soak may be ended before its end.
                    eprintln!("{}", run.text);
                    wrong.push(format!("{} {number}: {why}", fault.name));
                }
            }
        }
        eprintln!("{}: {good} of {runs}", fault.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
