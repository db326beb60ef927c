//! Parts of a run are killed at random moments while captures go on. However it ends, it ends in time, says what happened
//! and leaves whole files.
//!
//! `KTSTR_CHAOS_RUNS` says how many runs; CI does a few, `KTSTR_CHAOS_RUNS=50` is the long form.

use std::time::{Duration, Instant};

use ktstr_tests::CaseRun;

/// The VM's deadline of these cases (5 s of duration, 20 s and 4 s per vCPU) and the last look of 30 s.
const LONGEST: Duration = Duration::from_secs(63);

/// The victims, and what a truthful message of their death may say.
const VICTIMS: [(&str, &[&str]); 4] = [
    ("chaos_scheduler", &["scheduler (pid", "died"]),
    ("chaos_child", &["signal 9", "137", "SIGKILL"]),
    ("chaos_guest", &["Kernel panic", "guest crashed"]),
    ("chaos_emulator", &["died with signal 9"]),
];

fn runs() -> usize {
    let asked = std::env::var("KTSTR_CHAOS_RUNS").ok();
    asked.and_then(|runs| runs.parse().ok()).unwrap_or(4)
}

fn strike(case: &str) -> CaseRun {
    let exe = env!("CARGO_BIN_EXE_captures");
    if case != "chaos_emulator" {
        return CaseRun::new(exe, case, &[]).expect("the case runs");
    }
    let run = CaseRun::interrupted(exe, case, "payload starting", |pid| {
        let random = u64::from(std::process::id()) ^ u64::from(pid).wrapping_mul(0x9e37_79b9);
        let moment = Duration::from_millis(random % 3000);
        eprintln!(
            "chaos: the emulator is struck after {} ms",
            moment.as_millis()
        );
        let until = Instant::now() + moment;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        let emulator = ktstr_tests::child_named(pid, "qemu-system")?;
        rustix::process::kill_process(emulator, rustix::process::Signal::KILL)?;
        Ok(())
    });
    run.expect("the case runs")
}

#[test]
fn a_run_that_loses_a_part_ends_in_time_with_the_truth_and_whole_files() {
    for (number, (case, words)) in VICTIMS.iter().cycle().take(runs()).enumerate() {
        let started = Instant::now();
        let run = strike(case);
        let took = started.elapsed();
        let moment = run
            .text
            .lines()
            .find(|line| line.contains("chaos: strikes"));
        let vm_ms = run.sidecar.as_ref().and_then(|sidecar| sidecar.vm_ms);
        // With `--nocapture`, the log of a long form. A busy host lets runs wait before they start.
        eprintln!(
            "run {number}, {case}: VM {vm_ms:?} ms, in all {took:.1?}, {}",
            moment.unwrap_or("no word of the moment").trim()
        );
        let ran = vm_ms.map_or(took, Duration::from_millis);
        assert!(ran < LONGEST, "run {number}, {case}: {ran:?}\n{}", run.text);
        run.exits(1);
        assert!(
            words.iter().any(|word| run.text.contains(word)),
            "run {number}, {case}: none of {words:?} is in\n{}",
            run.text
        );
        let sidecar = run
            .sidecar
            .as_ref()
            .expect("a failure leaves a whole sidecar");
        assert_eq!(sidecar.verdict.as_str(), "fail");
        let dump = run.dump();
        assert!(dump["is_placeholder"].is_boolean(), "{dump}");
        let left: Vec<String> = std::fs::read_dir(run.dir.path())
            .expect("the artifact directory exists")
            .map(|entry| {
                entry
                    .expect("a name")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| !name.starts_with(case))
            .collect();
        assert!(left.is_empty(), "temporary files are left: {left:?}");
    }
}
