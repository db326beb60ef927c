//! One test's life on the host, in the order of SPEC 8.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ktstr_vmm::{Engine, EngineChoice, Probe};

use crate::host::boot::archive::Programs;
use crate::host::boot::session::{self, Ran, Session, SessionTimes};
use crate::host::evidence::artifacts::{clear_stale, sidecar_dir, test_dir, write_atomic};
use crate::host::evidence::bug_summary::{bug_summary, without_verifier_logs};
use crate::host::evidence::dump::{
    CapturedDump, DUMP_SCHEMA, PlaceholderDump, ensure_dump, write_dump,
};
use crate::host::evidence::dump_text;
use crate::host::evidence::figures::Figures;
use crate::host::evidence::message::{self, Console, Parts};
use crate::host::evidence::repro::{self, FirstRun, Repro, repro_path};
use crate::host::evidence::sidecar::{SIDECAR_SCHEMA, Sidecar};
use crate::host::evidence::timeline::Timeline;
use crate::host::judge::evaluate::{
    Deadlines, exit_words, guest_result, no_result, scheduler_exit,
};
use crate::host::judge::monitor;
use crate::host::judge::payload;
use crate::host::plan::config::HostConfig;
use crate::host::plan::includes;
use crate::host::plan::kernel::{Kernel, resolve_test_kernel};
use crate::host::plan::scheduler::{ResolveSource, resolve_scheduler};
use crate::host::tools::coverage;
use crate::host::watch::coordinator::Failure;
use crate::model::call::call;
use crate::model::ctx::Ctx;
use crate::model::entry::KtstrTestEntry;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};

/// What the user is told of one test.
#[derive(Debug)]
pub struct Report {
    /// The final verdict.
    pub outcome: Outcome,
    /// The failure message, or the skip reason; empty for a pass.
    pub text: String,
    /// The stored record.
    pub sidecar: Sidecar,
}

/// Everything gathered on the way; the sidecar is made from it whatever happened.
#[derive(Debug, Default)]
struct Evidence {
    vm: Option<VmResult>,
    times: SessionTimes,
    kernel_image: Option<PathBuf>,
    scheduler_source: Option<ResolveSource>,
    deadlines: Option<Deadlines>,
    /// The state that was captured for a failure.
    failure: Option<Failure>,
    /// Why the guest's kernel could not be looked into.
    blind: Option<String>,
    /// What was run, for a second time.
    programs: Option<Programs>,
    /// What the second run showed, or why there was none though one was due.
    repro: Option<anyhow::Result<Repro>>,
}

/// Runs one test and stores its record. Never panics on what a guest, a file or a user did.
#[must_use]
pub fn run_test(entry: &KtstrTestEntry, config: &HostConfig, manifest_dir: &Path) -> Report {
    let clock = Clock::start();
    let mut evidence = Evidence::default();
    if config.engine == EngineChoice::Auto && !entry.host_only {
        // Measured once per process; here while kernel, programs and archive are gathered.
        thread::spawn(ktstr_vmm::probe);
    }
    let kernel = resolve_test_kernel();
    let label = kernel
        .as_ref()
        .map_or_else(|_| String::from("no-kernel"), Kernel::label);
    let dir = test_dir(config, &sidecar_dir(config, &label), entry.name);
    let result = match judge(entry, config, manifest_dir, kernel, &dir, &mut evidence) {
        Ok(result) => result,
        Err(error) => AssertResult::fail(DetailKind::Setup, format!("{error:#}")),
    };
    let first = FirstRun {
        entry,
        failure: evidence.failure.as_ref(),
        programs: evidence.programs.as_ref(),
        result: &result,
    };
    evidence.repro = repro::attempt(&first, config, &dir);
    let satisfied = evidence
        .repro
        .as_ref()
        .is_some_and(|repro| repro.as_ref().is_ok_and(Repro::is_valid));
    if let Some(vm) = &mut evidence.vm {
        vm.expect_auto_repro_satisfied = entry.expect_auto_repro && satisfied;
    }
    let result = apply_expectations(entry, result, satisfied);
    let mut report = compose(entry, result, &evidence, &dir, &clock);
    report.sidecar.binary.clone_from(&config.binary);
    report.sidecar.dir.clone_from(&dir);
    if let Err(error) = report.sidecar.write(&dir) {
        // The record is a copy of the verdict, never the verdict: its loss is told and changes nothing.
        report
            .text
            .push_str(&format!("ktstr: warning: {error}: {}\n", error.source));
    }
    report
}

#[derive(Debug)]
struct Clock {
    monotonic: Instant,
    wall_s: u64,
}

impl Clock {
    fn start() -> Self {
        let wall_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            monotonic: Instant::now(),
            wall_s,
        }
    }
}

fn judge(
    entry: &KtstrTestEntry,
    config: &HostConfig,
    manifest_dir: &Path,
    kernel: Result<Kernel, crate::host::plan::kernel::KernelError>,
    dir: &Path,
    evidence: &mut Evidence,
) -> anyhow::Result<AssertResult> {
    entry.validate()?;
    if let Some(reason) = skip_reason(entry, || config.engine.resolve()) {
        return Ok(AssertResult::skip(reason));
    }
    clear_stale(dir, entry.name)?;
    if entry.host_only {
        return Ok(run_on_host(entry));
    }
    let kernel = kernel?;
    evidence.kernel_image = Some(kernel.image.clone());
    let spec = entry.scheduler_spec();
    let (scheduler, source) = resolve_scheduler(spec, config, manifest_dir)?;
    evidence.scheduler_source = scheduler.is_some().then_some(source);

    let staged = entry
        .staged_schedulers
        .iter()
        .map(|staged| Ok(resolve_scheduler(staged.spec, config, manifest_dir)?.0))
        .collect::<anyhow::Result<_>>()?;
    let programs = Programs {
        scheduler,
        staged,
        includes: includes::of_entry(entry, manifest_dir)?,
        probes: None,
    };
    evidence.programs = Some(programs.clone());
    let session = Session::prepare(entry, config, &kernel, &programs, dir)?;
    evidence.deadlines = Some(session.deadlines());
    let Ran {
        mut vm,
        times,
        outcome,
        lost,
    } = match session.run() {
        Ok(ran) => ran,
        Err(error) => return unavailable(&error).map(AssertResult::skip).ok_or(error),
    };
    evidence.times = times;
    coverage::keep(&vm, config, entry.name);
    evidence.failure = outcome.failure;
    evidence.blind = outcome.blind;
    vm.entry_name = Some(entry.name.to_owned());
    vm.artifact_dir = Some(dir.to_owned());
    let guest = guest_result(&vm);
    let deadlines = evidence
        .deadlines
        .unwrap_or_else(|| session::deadlines_of(entry, vm.engine));
    let mut result = guest.clone().unwrap_or_else(|| no_result(&vm, &deadlines));
    add_host_findings(&mut result, &vm, guest.is_some());
    payload::settle(entry, &vm, manifest_dir, &mut result);
    lost.excuse(&mut result, &vm);
    let callbacks = run_callbacks(entry, &vm, guest.as_ref());
    // After the callbacks, which may drain the bridge themselves.
    result.stats.phases = vm.phase_buckets();
    vm.success = result.is_pass() || result.is_skip();
    // After the callbacks, which may want the captures for themselves.
    leave_timeline(&vm, dir, entry.name);
    evidence.vm = Some(vm);
    drop(kernel);
    if let Some(found) = callbacks {
        result.merge(found);
    }
    check_cleanup(entry, evidence, &mut result);
    match_error(entry, evidence, &mut result);
    if !result.is_skip() {
        let report = evidence.vm.as_ref().and_then(|vm| vm.monitor.as_ref());
        result.merge(monitor::judge(&entry.merged_assert(), report));
    }
    Ok(result)
}

/// `host_only`: the function runs here, in this process, and its panic is a failure as in a guest.
fn run_on_host(entry: &KtstrTestEntry) -> AssertResult {
    let ctx = Ctx::new(session::test_plan(entry), None).with_payloads(entry.payloads());
    let mut result = call(&ctx, entry.func);
    result.stats.name_payload_metrics();
    result.note("host_only: no VM was booted");
    result
}

/// For reports; its loss is told and changes nothing.
fn leave_timeline(vm: &VmResult, dir: &Path, test: &str) {
    let mut timeline = Timeline::of(vm);
    if let Some(report) = &vm.monitor {
        timeline.add_samples(report);
    }
    timeline.add_captures(vm.captures_series());
    if let Err(error) = timeline.write(dir, test) {
        tracing::warn!(%error, source = %error.source, "the timeline is lost");
    }
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

/// What the host saw that the guest's own verdict cannot hold.
fn add_host_findings(result: &mut AssertResult, vm: &VmResult, guest_reported: bool) {
    if !guest_reported {
        return;
    }
    if let Some(crash) = &vm.crash_message {
        result.push(AssertDetail::fail(
            DetailKind::Other,
            format!("guest crashed after its verdict: {crash}"),
        ));
    } else if vm.timed_out {
        let text = format!(
            "the guest reported its verdict but did not end within {:.1} s",
            vm.duration.as_secs_f64()
        );
        result.push(AssertDetail::fail(DetailKind::Other, text));
    }
    if let Some(exit) = scheduler_exit(vm) {
        refine_death(result, vm, &exit);
    }
    let has_death = result.details.iter().any(|detail| {
        use DetailKind::{SchedulerCrashed, SchedulerDiedUnknownReason, SchedulerExitedCleanly};
        matches!(
            detail.kind,
            SchedulerCrashed | SchedulerDiedUnknownReason | SchedulerExitedCleanly
        )
    });
    if let Some(exit) = scheduler_exit(vm).filter(|exit| !has_death && exit.code != Some(0)) {
        let text = format!("scheduler died during the test: {}", exit_words(vm, &exit));
        result.push(AssertDetail::fail(DetailKind::SchedulerCrashed, text));
    }
    if let Some(frames) = vm
        .guest_messages
        .as_ref()
        .filter(|frames| frames.gaps + frames.bad_crc > 0)
    {
        let text = format!(
            "the frame stream was damaged: {} gaps, {} bad checksums",
            frames.gaps, frames.bad_crc
        );
        result.push(AssertDetail::inconclusive(DetailKind::Other, text));
    }
}

/// The guest's test process is not the scheduler's parent and cannot know its exit status; init told it by frame.
fn refine_death(result: &mut AssertResult, vm: &VmResult, exit: &ktstr_wire::SchedExit) {
    let kind = if exit.code == Some(0) {
        DetailKind::SchedulerExitedCleanly
    } else {
        DetailKind::SchedulerCrashed
    };
    for detail in &mut result.details {
        if detail.kind == DetailKind::SchedulerDiedUnknownReason {
            detail.kind = kind;
            detail.message = format!("{}; {}", detail.message, exit_words(vm, exit));
        }
    }
}

/// `post_vm` is not asked after a hard Fail of the guest; `post_vm_unconditional` always is. Both errors are named.
fn run_callbacks(
    entry: &KtstrTestEntry,
    vm: &VmResult,
    guest: Option<&AssertResult>,
) -> Option<AssertResult> {
    let mut found = AssertResult::pass();
    let guest_failed = guest.is_some_and(AssertResult::is_fail);
    let callbacks = [
        ("post_vm", entry.post_vm.filter(|_| !guest_failed)),
        ("post_vm_unconditional", entry.post_vm_unconditional),
    ];
    for (name, callback) in callbacks {
        let Some(Err(error)) = callback.map(|callback| callback(vm)) else {
            continue;
        };
        found.push(AssertDetail::fail(
            DetailKind::Other,
            format!("{name}: {error:#}"),
        ));
    }
    (!found.details.is_empty()).then_some(found)
}

fn check_cleanup(entry: &KtstrTestEntry, evidence: &Evidence, result: &mut AssertResult) {
    let measured = evidence.vm.as_ref().and_then(|vm| vm.cleanup_duration);
    let (Some(budget_ms), Some(measured)) = (entry.cleanup_budget_ms, measured) else {
        return;
    };
    if measured > Duration::from_millis(budget_ms) {
        let text = format!(
            "cleanup took {} ms, budget {budget_ms} ms",
            measured.as_millis()
        );
        result.push(AssertDetail::fail(DetailKind::Other, text));
    }
}

/// `expect_scx_bpf_error_*`: the text must be in the scheduler's log, the console, the dump or a detail.
fn match_error(entry: &KtstrTestEntry, evidence: &Evidence, result: &mut AssertResult) {
    let details = result.details.iter().map(|detail| detail.message.clone());
    let mut texts: Vec<String> = details.collect();
    if let Some(vm) = &evidence.vm {
        texts.extend([
            without_verifier_logs(&vm.scheduler_log()),
            vm.stderr.clone(),
        ]);
    }
    let scx = evidence
        .failure
        .as_ref()
        .and_then(|failure| failure.report.scx.as_ref());
    if let Some(exit) = scx.and_then(|scx| scx.exit.as_ref()) {
        texts.extend(exit.reason.iter().chain(&exit.msg).cloned());
    }
    let mut expect = |what: String, found: &dyn Fn(&str) -> bool| {
        if !texts.iter().any(|text| found(text)) {
            let text = format!(
                "{MATCHER_MISMATCH}: no scx_bpf_error text {what} in scheduler log, console or dump"
            );
            result.push(AssertDetail::fail(DetailKind::SchedulerEvent, text));
        }
    };
    if let Some(wanted) = entry.expect_scx_bpf_error_contains {
        expect(format!("with '{wanted}'"), &|text| text.contains(wanted));
    }
    // A pattern that does not compile was refused with the entry.
    if let Some(pattern) = entry.expect_scx_bpf_error_matches
        && let Ok(regex) = regex::Regex::new(pattern)
    {
        expect(format!("that matches '{pattern}'"), &|text| {
            text.lines().any(|line| regex.is_match(line))
        });
    }
}

/// Begins the detail of a matcher that found nothing; `expect_err` never turns such a failure around.
const MATCHER_MISMATCH: &str = "expected scheduler error not found";

/// `expect_err`, `expect_auto_repro` and `allow_inconclusive`, after everything else is known.
fn apply_expectations(
    entry: &KtstrTestEntry,
    result: AssertResult,
    reproduced: bool,
) -> AssertResult {
    let blocks_inversion = |detail: &&AssertDetail| {
        detail.kind == DetailKind::Setup
            || detail.message.starts_with(MATCHER_MISMATCH)
            || detail.message.starts_with("post_vm")
    };
    let blocked = result
        .failure_details()
        .any(|detail| blocks_inversion(&detail));
    match result.outcome() {
        Outcome::Fail if entry.expect_err && !blocked => turned(result, "expected failure"),
        Outcome::Fail if entry.expect_auto_repro && reproduced && !blocked => {
            turned(result, "expected failure, seen again by auto-repro")
        }
        Outcome::Fail if entry.expect_auto_repro && !reproduced => {
            let mut failed = result;
            let text = "expect_auto_repro: no valid repro artifact landed";
            failed.push(AssertDetail::fail(DetailKind::Other, text));
            failed
        }
        Outcome::Pass if entry.expect_auto_repro => {
            let mut failed = result;
            let text = "the test passed, but expect_auto_repro says that it must fail";
            failed.push(AssertDetail::fail(DetailKind::Other, text));
            failed
        }
        Outcome::Pass if entry.expect_err => {
            let mut failed = result;
            let text = "the test passed, but expect_err says that it must fail";
            failed.push(AssertDetail::fail(DetailKind::Other, text));
            failed
        }
        Outcome::Inconclusive if entry.allow_inconclusive => {
            let mut allowed = AssertResult::pass();
            for detail in result.inconclusive_details() {
                allowed.note(format!("inconclusive, which this test allows: {detail}"));
            }
            allowed.info_notes.extend(result.info_notes);
            allowed.stats = result.stats;
            allowed
        }
        _ => result,
    }
}

/// A failure as the pass that it stands for.
fn turned(result: AssertResult, what: &str) -> AssertResult {
    let mut turned = AssertResult::pass();
    for detail in result.failure_details() {
        turned.note(format!("{what}: {detail}"));
    }
    turned.info_notes.extend(result.info_notes);
    turned.stats = result.stats;
    turned
}

fn compose(
    entry: &KtstrTestEntry,
    result: AssertResult,
    evidence: &Evidence,
    dir: &Path,
    clock: &Clock,
) -> Report {
    let outcome = result.outcome();
    let mut text = String::new();
    match outcome {
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
    let sidecar = make_sidecar(entry, result, evidence, clock, &text);
    Report {
        outcome,
        text,
        sidecar,
    }
}

/// Where a failing guest's memory goes, when it is wanted.
pub(in crate::host) fn vmcore_of(entry: &KtstrTestEntry, dir: &Path) -> PathBuf {
    dir.join(format!("{}.vmcore", entry.name))
}

/// Writes console, kernel log and the dump of a failure; returns where they lie, or why they do not.
fn leave_evidence(
    entry: &KtstrTestEntry,
    result: &AssertResult,
    evidence: &Evidence,
    dir: &Path,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut keep =
        |written: Result<PathBuf, crate::host::evidence::artifacts::ArtifactError>| match written {
            Ok(path) => lines.push(path.display().to_string()),
            Err(error) => lines.push(format!("warning: {error}: {}", error.source)),
        };
    if let Some(vm) = &evidence.vm {
        let console = dir.join(format!("{}.console", entry.name));
        keep(write_atomic(&console, vm.stderr.as_bytes()).map(|()| console));
        let kmsg = vm.guest_kmsg();
        if !kmsg.is_empty() {
            let dmesg = dir.join(format!("{}.dmesg", entry.name));
            keep(write_atomic(&dmesg, kmsg.as_bytes()).map(|()| dmesg));
        }
    }
    keep(leave_dump(entry, result, evidence, dir));
    if let Some(Ok(_)) = &evidence.repro {
        keep(Ok(repro_path(dir, entry.name)));
    }
    let vmcore = vmcore_of(entry, dir);
    if vmcore.is_file() {
        let opened = evidence
            .kernel_image
            .as_deref()
            .and_then(crate::host::plan::kernel::with_debug_information)
            .map(|vmlinux| {
                format!(
                    "  open it: drgn -c {} -s {}",
                    vmcore.display(),
                    vmlinux.display()
                )
            });
        keep(Ok(vmcore));
        lines.extend(opened);
    }
    lines
}

/// The captured state, or a placeholder that says why there is none.
fn leave_dump(
    entry: &KtstrTestEntry,
    result: &AssertResult,
    evidence: &Evidence,
    dir: &Path,
) -> Result<PathBuf, crate::host::evidence::artifacts::ArtifactError> {
    let vm = evidence.vm.as_ref();
    let stage = vm.map(|vm| vm.stages().label);
    let summary = summary_of(evidence);
    let engine = vm.map(|vm| vm.engine.to_string());
    let exit_reason = vm.map(|vm| vm.exit_reason.as_str());
    let captured = evidence.failure.as_ref();
    if let Some(failure) = captured.filter(|failure| !failure.report.is_placeholder) {
        return write_dump(
            dir,
            &CapturedDump {
                test: entry.name,
                trigger: &failure.trigger,
                stage,
                bug_summary: summary.as_deref(),
                engine,
                exit_reason,
                report: &failure.report,
            },
        );
    }
    let first = result
        .failure_details()
        .chain(result.inconclusive_details())
        .next();
    let why = captured
        .and_then(|failure| failure.report.reason.clone())
        .or_else(|| evidence.blind.clone())
        .unwrap_or_else(|| String::from("no state was captured"));
    let reason = match (stage, first) {
        (Some(stage), Some(detail)) => format!("{why}; {stage}; {detail}"),
        (None, Some(detail)) => format!("no VM ran; {detail}"),
        _ => why,
    };
    ensure_dump(
        dir,
        &PlaceholderDump {
            schema: DUMP_SCHEMA,
            is_placeholder: true,
            test: entry.name,
            reason,
            stage,
            bug_summary: summary.as_deref(),
            engine,
            exit_reason,
        },
    )
}

fn summary_of(evidence: &Evidence) -> Option<String> {
    let vm = evidence.vm.as_ref()?;
    bug_summary([vm.scheduler_log().as_str(), vm.stderr.as_str()])
}

fn message_parts(
    entry: &KtstrTestEntry,
    result: &AssertResult,
    evidence: &Evidence,
    artifacts: Vec<String>,
) -> Parts {
    let ordered = result
        .failure_details()
        .chain(result.inconclusive_details())
        .chain(result.skip_details());
    let vm = evidence.vm.as_ref();
    let died = vm.is_some_and(|vm| guest_result(vm).is_none() || scheduler_exit(vm).is_some());
    let console = vm
        .filter(|vm| died || vm.crash_message.is_some())
        .map(|vm| Console {
            stage: vm.stages().label.to_owned(),
            exit: format!("exit code {}, VM ended by {}", vm.exit_code, vm.exit_reason),
            text: vm.stderr.clone(),
        });
    Parts {
        test: entry.name.to_owned(),
        scheduler: entry.scheduler_name().map(str::to_owned),
        topology: entry.topology.to_string(),
        verdict: if result.is_fail() {
            "failed"
        } else {
            "inconclusive"
        },
        engine: vm.map_or_else(
            || String::from("none: no VM ran"),
            |vm| format!("{} ({})", vm.engine, vm.engine_why),
        ),
        bug_summary: summary_of(evidence),
        details: ordered
            .map(|detail| format!("{:?}: {detail}", detail.kind))
            .collect(),
        info: result.info_notes.clone(),
        stats: result.stats.lines(),
        console,
        timeline: vm.map(session::timeline_lines).unwrap_or_default(),
        output: vm.map(|vm| vm.output.clone()).unwrap_or_default(),
        scheduler_log: vm.map(VmResult::scheduler_log).unwrap_or_default(),
        monitor: vm
            .and_then(|vm| vm.monitor.as_ref())
            .map(monitor::lines)
            .unwrap_or_default(),
        dump: evidence.failure.as_ref().map_or_else(Vec::new, |failure| {
            dump_text::lines(&failure.trigger, &failure.report)
        }),
        auto_repro: match &evidence.repro {
            Some(Ok(repro)) => repro.lines(),
            Some(Err(error)) => vec![format!("no second run: {error:#}")],
            None => Vec::new(),
        },
        artifacts,
    }
}

fn make_sidecar(
    entry: &KtstrTestEntry,
    result: AssertResult,
    evidence: &Evidence,
    clock: &Clock,
    text: &str,
) -> Sidecar {
    let vm = evidence.vm.as_ref();
    let outcome = result.outcome();
    let failed = matches!(outcome, Outcome::Fail | Outcome::Inconclusive);
    Sidecar {
        schema: SIDECAR_SCHEMA.to_owned(),
        test: entry.name.to_owned(),
        binary: String::new(),
        dir: PathBuf::new(),
        verdict: outcome,
        skip_reason: (outcome == Outcome::Skip).then(|| text.to_owned()),
        engine: vm.map(|vm| vm.engine.to_string()),
        engine_why: vm.map(|vm| vm.engine_why.clone()),
        topology: entry.topology.to_string(),
        scheduler: entry.scheduler_name().map(str::to_owned),
        scheduler_source: evidence.scheduler_source.map(|source| source.to_string()),
        kernel: evidence.kernel_image.clone(),
        kernel_release: evidence.times.kernel_release.clone(),
        boot_ms: vm.and_then(|vm| vm.boot_duration).map(millis),
        scenario_ms: vm.and_then(session::scenario_ms),
        vm_ms: vm.map(|vm| millis(vm.duration)),
        cleanup_ms: vm.and_then(|vm| vm.cleanup_duration).map(millis),
        initramfs_bytes: evidence.times.initramfs_bytes,
        initramfs_ms: evidence.times.initramfs.map(millis),
        standstill_us: evidence
            .times
            .standstill
            .and_then(|time| u64::try_from(time.as_micros()).ok()),
        total_ms: millis(clock.monotonic.elapsed()),
        exit_reason: vm.map(|vm| vm.exit_reason.clone()),
        timed_out: vm.is_some_and(|vm| vm.timed_out),
        stage: vm.map(|vm| vm.stages().label.to_owned()),
        verifier_stats: vm.map(|vm| vm.verifier_stats.clone()).unwrap_or_default(),
        figures: vm.map(Figures::of).unwrap_or_default(),
        message: failed.then(|| text.to_owned()),
        result,
        started_at: clock.wall_s,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

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
}
