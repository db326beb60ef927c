//! One test's life on the host, in the order of SPEC 8: plan, boot, watch, judge, record.

use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use ktstr_kernel::{Kernel, KernelError};
use ktstr_vmm::{Engine, EngineChoice, Probe};

use crate::host::boot::archive::Programs;
use crate::host::boot::on_host;
use crate::host::boot::session::{Ran, Session};
use crate::host::evidence::artifacts::{clear_stale, sidecar_dir, test_dir};
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::leave::{leave_dump, leave_evidence, leave_timeline, vmcore_of};
use crate::host::evidence::message;
use crate::host::evidence::parts::message_parts;
use crate::host::evidence::record::{Started, make_sidecar};
use crate::host::evidence::repro::{self, FirstRun, Repro};
use crate::host::evidence::sidecar::Sidecar;
use crate::host::evidence::text;
use crate::host::judge::captures::Periodic;
use crate::host::judge::expectations::{self, Facts, Judged};
use crate::host::judge::left::{CapturedExit, Deadlines, Left, guest_result};
use crate::host::judge::{self, callbacks, findings, payload};
use crate::host::plan::admission::{Pause, Share, admit};
use crate::host::plan::config::{HostConfig, Variable};
use crate::host::plan::includes;
use crate::host::plan::kernel::resolve_test_kernel;
use crate::host::plan::scheduler::resolve_scheduler;
use crate::host::tools::coverage;
use crate::model::entry::KtstrTestEntry;
use crate::model::kernel_filter::refusal;
use crate::model::names::file_stem;
use crate::model::verdict::{AssertResult, DetailKind, Outcome};

/// What the user is told of one test.
#[derive(Debug)]
pub struct Report {
    /// The final verdict.
    pub outcome: Outcome,
    /// The failure message, or the skip reason; empty for a pass.
    pub text: String,
    /// What went wrong beside the test, whatever its verdict: a record that could not be written.
    pub warnings: Vec<String>,
    /// The stored record.
    pub sidecar: Sidecar,
}

/// Runs one test and stores its record. Never panics on what a guest, a file, a user or a user's callback did.
#[must_use]
pub fn run_test(entry: &KtstrTestEntry, config: &HostConfig, manifest_dir: &Path) -> Report {
    let started = Started::now();
    let mut evidence = Evidence {
        verbose: config.verbose,
        ..Evidence::default()
    };
    if config.engine != EngineChoice::Tcg && !entry.host_only {
        // Measured once per process; here while kernel, programs and archive are gathered.
        thread::spawn(ktstr_vmm::probe);
    }
    let kernel = resolve_test_kernel();
    let label = kernel
        .as_ref()
        .map_or_else(|_| String::from("no-kernel"), Kernel::label);
    let dir = test_dir(config, &sidecar_dir(config, &label), entry.name);
    let mut warnings = Vec::new();
    // Whatever comes of this run, an earlier one's files are not its own.
    if let Err(error) = clear_stale(&dir, entry.name, config.attempt) {
        warnings.push(format!("{error}: {}", error.source));
    }
    let place = Place {
        config,
        manifest_dir,
        dir: &dir,
    };
    let (result, facts) = match run(entry, &place, kernel, &mut evidence) {
        Ok(judged) => judged,
        Err(error) => refused(AssertResult::fail(DetailKind::Setup, format!("{error:#}"))),
    };
    let first = FirstRun {
        entry,
        failure: evidence.failure.as_ref(),
        programs: evidence.programs.as_ref(),
        result: &result,
    };
    evidence.repro = repro::attempt(&first, config, &dir);
    let landed = evidence
        .repro
        .as_ref()
        .and_then(|repro| repro.as_ref().ok());
    let reproduced = landed.is_some_and(Repro::is_valid);
    if let Some(left) = &mut evidence.left {
        left.vm.expect_auto_repro_satisfied = entry.expect_auto_repro && reproduced;
    }
    let judged = expectations::apply(
        entry,
        result,
        Facts {
            reproduced,
            ..facts
        },
    );
    let mut report = compose(entry, judged, &mut evidence, &dir, &started);
    report.sidecar.binary.clone_from(&config.binary);
    report.sidecar.dir.clone_from(&dir);
    if let Err(error) = report.sidecar.write(&dir) {
        // The record is a copy of the verdict, never the verdict: its loss is told and changes nothing.
        warnings.push(format!("{error}: {}", error.source));
    }
    report.warnings = warnings;
    report
}

/// Where a test runs.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    config: &'a HostConfig,
    manifest_dir: &'a Path,
    /// For its artifacts.
    dir: &'a Path,
}

/// A verdict without a VM.
fn refused(result: AssertResult) -> (AssertResult, Facts) {
    let facts = Facts {
        booted: true,
        ..Facts::default()
    };
    (result, facts)
}

/// Plans, boots and judges one run, up to what the test expects of its verdict.
fn run(
    entry: &KtstrTestEntry,
    place: &Place<'_>,
    kernel: Result<Kernel, KernelError>,
    evidence: &mut Evidence,
) -> anyhow::Result<(AssertResult, Facts)> {
    entry.validate()?;
    if let Some(reason) = skip_reason(entry, || place.config.engine.resolve()) {
        return Ok(refused(AssertResult::skip(reason)));
    }
    if entry.host_only {
        return Ok(refused(on_host::run(entry)));
    }
    place.config.engine.check()?;
    let kernel = kernel?;
    evidence.kernel_image = Some(kernel.image.clone());
    if let Some(reason) = kernel_refused(entry, kernel.release().as_deref()) {
        return Ok(refused(AssertResult::skip(reason)));
    }
    let programs = programs_of(entry, place, evidence)?;
    // Only what can run queues for its turn.
    wait_for_turn(entry, evidence)?;
    let (deadlines, ran) = match boot(entry, place, &kernel, &programs) {
        Ok(booted) => booted,
        Err(error) => {
            let reason = unavailable(&error).ok_or(error)?;
            return Ok(refused(AssertResult::skip(reason)));
        }
    };
    let Ran {
        mut vm,
        times,
        outcome,
        lost,
    } = ran;
    evidence.times = times;
    let periodic = Periodic {
        tally: outcome.periodic,
        scenarios: outcome.scenarios,
        real: vm.periodic_real,
        blind: outcome.blind.clone(),
        evicted: outcome.bridge.evicted(),
    };
    evidence.blind = outcome.blind;
    coverage::keep(&vm, place.config, entry.name);
    vm.entry_name = Some(entry.name.to_owned());
    vm.artifact_dir = Some(place.dir.to_owned());
    let exit = CapturedExit::of(outcome.failure.as_ref());
    evidence.failure = outcome.failure;
    let left = Left {
        vm,
        deadlines,
        exit,
        lost,
        periodic,
    };
    Ok(judge_run(entry, place, left, kernel, evidence))
}

fn wait_for_turn(entry: &KtstrTestEntry, evidence: &mut Evidence) -> anyhow::Result<()> {
    let Some(need) = Share::of_entry(entry) else {
        return Ok(());
    };
    let began = Instant::now();
    let mut say = |line: &str| eprintln!("ktstr: {line}");
    let admission = admit(entry.name, need, &mut say);
    let admission = admission.with_context(|| {
        let name = Variable::LockDir.name();
        format!("no turn for the VM of this test; {name} names a directory for the lock files")
    })?;
    evidence.admission = Some(admission);
    evidence.waited = began.elapsed();
    Ok(())
}

/// Boots as soon as no other VM in performance mode holds what this one needs.
fn boot(
    entry: &KtstrTestEntry,
    place: &Place<'_>,
    kernel: &Kernel,
    programs: &Programs,
) -> anyhow::Result<(Deadlines, Ran)> {
    let mut pause = Pause::new(entry.name);
    let attempt = || {
        let session = Session::prepare(entry, place.config, kernel, programs, place.dir)?;
        Ok((session.deadlines(), session.run()?))
    };
    until_free(attempt, |error| {
        pause.until_a_change(&format!("{error:#}"), &mut |line| {
            eprintln!("ktstr: {line}");
        });
    })
}

/// The first result that is not that another VM holds something; `pause` is called before each further attempt.
fn until_free<T>(
    mut attempt: impl FnMut() -> anyhow::Result<T>,
    mut pause: impl FnMut(&anyhow::Error),
) -> anyhow::Result<T> {
    loop {
        match attempt() {
            Err(error) if is_resource_contention(&error) => pause(&error),
            done => return done,
        }
    }
}

fn programs_of(
    entry: &KtstrTestEntry,
    place: &Place<'_>,
    evidence: &mut Evidence,
) -> anyhow::Result<Programs> {
    let resolve = |spec| resolve_scheduler(spec, place.config, place.manifest_dir);
    let (scheduler, source) = resolve(entry.scheduler_spec())?;
    evidence.scheduler_source = scheduler.is_some().then_some(source);
    let staged = entry.staged_schedulers.iter();
    let programs = Programs {
        scheduler,
        staged: staged
            .map(|staged| Ok(resolve(staged.spec)?.0))
            .collect::<anyhow::Result<_>>()?,
        includes: includes::of_entry(entry, place.manifest_dir)?,
        probes: None,
    };
    evidence.programs = Some(programs.clone());
    Ok(programs)
}

/// The order of SPEC 8 after the VM's end. What is judged, and how, is in [`judge`].
fn judge_run(
    entry: &KtstrTestEntry,
    place: &Place<'_>,
    mut left: Left,
    kernel: Kernel,
    evidence: &mut Evidence,
) -> (AssertResult, Facts) {
    let mut found = findings::of(entry, &left);
    payload::settle(entry, &left.vm, place.manifest_dir, &mut found);
    left.lost.excuse(&mut found, &left.vm);
    left.vm.success = left.succeeded();
    evidence.left = Some(left);
    let evidence = &*evidence;
    let Some(left) = &evidence.left else {
        return refused(found);
    };
    if found.is_fail()
        && let Err(error) = leave_dump(entry, &found, evidence, place.dir)
    {
        tracing::warn!(%error, source = %error.source, "no failure dump for the callbacks");
    }
    let called = callbacks::call(entry, &left.vm, guest_result(&left.vm).as_ref());
    // After the callbacks, which may want the captures for themselves, and may drain the bridge.
    found.stats.phases = left.vm.phase_buckets();
    leave_timeline(&left.vm, place.dir, entry.name);
    drop(kernel);
    let result = judge::fold(entry, left, found, &called);
    (result, judge::facts(left, &called))
}

/// Genuine skips: what this host cannot give, with the reason.
fn skip_reason(entry: &KtstrTestEntry, engine: impl FnOnce() -> Probe) -> Option<String> {
    if !entry.performance_mode {
        return None;
    }
    let Probe { engine, why } = engine();
    (engine == Engine::Tcg).then(|| {
        format!("performance mode needs the kvm engine, and this run has tcg ({why}); run it where /dev/kvm is genuine")
    })
}

/// Why a scheduler's `kernels` leave out this kernel.
fn kernel_refused(entry: &KtstrTestEntry, release: Option<&str>) -> Option<String> {
    let filters = entry.scheduler?.kernels;
    let release = release.unwrap_or("of an unknown release");
    let wanted = refusal(filters, release)?;
    Some(format!(
        "scheduler '{}' is declared for kernels {wanted}, and this one is {release}",
        entry.scheduler_name().unwrap_or_default()
    ))
}

/// What performance mode lacks on this host, when that is why a VM did not start.
fn unavailable(error: &anyhow::Error) -> Option<String> {
    let ours = error.chain().filter_map(|cause| cause.downcast_ref());
    ours.filter(|ours| matches!(ours, ktstr_vmm::Error::PerfModeUnavailable { .. }))
        .map(ktstr_vmm::Error::to_string)
        .next()
}

/// Whether another VM in performance mode holds what this one needs, so that the same test may run later.
#[must_use]
pub fn is_resource_contention(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(ktstr_vmm::Error::ResourceContention { .. })
        )
    })
}

/// Words and files for the final verdict.
fn compose(
    entry: &KtstrTestEntry,
    judged: Judged,
    evidence: &mut Evidence,
    dir: &Path,
    started: &Started,
) -> Report {
    let Judged {
        mut result,
        was_failure,
    } = judged;
    evidence.whole_findings =
        text::make_readable(&mut result, &format!("{}.findings", file_stem(entry.name)));
    let outcome = result.outcome();
    let mut text = String::new();
    match outcome {
        // Whoever expects a failure may want to look at it.
        Outcome::Pass if was_failure => drop(leave_evidence(entry, &result, evidence, dir)),
        // A scheduler's exit that was no failure in the end.
        Outcome::Pass => drop(std::fs::remove_file(vmcore_of(entry, dir))),
        Outcome::Skip => {
            let reasons: Vec<&str> = result
                .skip_details()
                .map(|detail| detail.message.as_str())
                .collect();
            text = reasons.join("; ");
        }
        Outcome::Fail | Outcome::Inconclusive => {
            let artifacts = leave_evidence(entry, &result, evidence, dir);
            text = message::render(&message_parts(entry, &result, evidence, artifacts));
        }
    }
    let sidecar = make_sidecar(entry, result, evidence, started, &text);
    Report {
        outcome,
        text,
        warnings: Vec::new(),
        sidecar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(engine: Engine) -> Probe {
        Probe {
            engine,
            why: String::from("so it is"),
        }
    }

    #[test]
    fn performance_mode_is_skipped_on_tcg_alone() {
        let entry = KtstrTestEntry {
            performance_mode: true,
            ..KtstrTestEntry::DEFAULT
        };
        let reason = skip_reason(&entry, || probe(Engine::Tcg)).unwrap();
        assert!(reason.contains("tcg (so it is)"), "{reason}");
        assert_eq!(skip_reason(&entry, || probe(Engine::Kvm)), None);
        let plain = || unreachable!("nothing is measured for other tests");
        assert_eq!(skip_reason(&KtstrTestEntry::DEFAULT, plain), None);
    }

    #[test]
    fn a_kernel_that_its_scheduler_is_not_declared_for_is_a_skip_with_both_named() {
        static PICKY: crate::model::entry::Scheduler = crate::model::entry::Scheduler {
            name: "picky",
            kernels: &["7.0..7.4"],
            ..crate::model::entry::Scheduler::DEFAULT
        };
        let entry = KtstrTestEntry {
            scheduler: Some(&PICKY),
            ..KtstrTestEntry::DEFAULT
        };
        assert_eq!(kernel_refused(&entry, Some("7.3.4")), None);
        assert_eq!(kernel_refused(&KtstrTestEntry::DEFAULT, None), None);
        for release in [Some("6.12.117"), None] {
            let reason = kernel_refused(&entry, release).unwrap();
            assert!(
                reason.contains("picky") && reason.contains("7.0..7.4"),
                "{reason}"
            );
        }
    }

    #[test]
    fn what_a_host_lacks_is_a_skip_and_what_another_holds_an_error_of_its_own() {
        let lacking = ktstr_vmm::Error::PerfModeUnavailable {
            what: "host CPUs",
            needed: 8,
            found: 2,
        };
        let held = ktstr_vmm::Error::ResourceContention {
            resource: String::from("/tmp/ktstr-llc-0.lock"),
        };
        let wrapped = |error| Err::<(), _>(error).context("failed to start the VM");
        let (lacking, held) = (wrapped(lacking).unwrap_err(), wrapped(held).unwrap_err());
        let reason = unavailable(&lacking).unwrap();
        assert!(reason.contains("8 host CPUs"), "{reason}");
        assert!(!is_resource_contention(&lacking));
        assert!(is_resource_contention(&held));
        assert_eq!(unavailable(&held), None);
    }

    #[test]
    fn a_vm_waits_for_what_another_holds_and_for_nothing_else() {
        let held = || {
            anyhow::Error::from(ktstr_vmm::Error::ResourceContention {
                resource: String::from("/tmp/ktstr-llc-0.lock"),
            })
        };
        let mut answers = vec![Ok(7), Err(held()), Err(held())];
        let mut pauses = 0;
        let done = until_free(|| answers.pop().unwrap(), |_| pauses += 1);
        assert_eq!((done.unwrap(), pauses), (7, 2));
        let other = || Err::<(), _>(anyhow::anyhow!("no such file"));
        let failed = until_free(other, |_| panic!("nobody holds anything"));
        assert_eq!(failed.unwrap_err().to_string(), "no such file");
    }
}
