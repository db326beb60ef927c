//! What a failure message is made of, from everything that was gathered.

use crate::host::boot::session;
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::message::{Console, Parts};
use crate::host::evidence::{clock, dump_text};
use crate::host::judge::left::{guest_result, scheduler_exit};
use crate::host::judge::monitor;
use crate::model::entry::KtstrTestEntry;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertResult, DetailKind};

/// Captures that the temporal section lists.
const MAX_SAMPLES: usize = 20;

pub(in crate::host) fn message_parts(
    entry: &KtstrTestEntry,
    result: &AssertResult,
    evidence: &Evidence,
    artifacts: Vec<String>,
) -> Parts {
    let ordered = result
        .failure_details()
        .chain(result.inconclusive_details())
        .chain(result.skip_details());
    let vm = evidence.vm();
    let thrown_out = evidence
        .left
        .as_ref()
        .is_some_and(|left| left.thrown_out().is_some());
    let died = thrown_out
        || vm.is_some_and(|vm| guest_result(vm).is_none() || scheduler_exit(vm).is_some());
    let console = vm
        .filter(|vm| died || evidence.verbose || vm.crash_message.is_some())
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
        clock: vm.map_or_else(Vec::new, |vm| clock::lines(entry.name, vm)),
        kernel: kernel_line(evidence),
        bug_summary: evidence.bug_summary(),
        details: ordered
            .map(|detail| format!("{:?}: {detail}", detail.kind))
            .collect(),
        info: result.info_notes.clone(),
        stats: result.stats.lines(),
        console,
        timeline: vm.map(session::timeline_lines).unwrap_or_default(),
        periodic: vm.and_then(periodic_line),
        temporal: temporal_lines(result, vm),
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

/// `6.12.30 (/path/to/bzImage)`; the release is the guest's own word.
fn kernel_line(evidence: &Evidence) -> Option<String> {
    let image = evidence.kernel_image.as_ref()?;
    let release = evidence.times.kernel_release.as_deref();
    let release = release.unwrap_or("a kernel that did not report its release");
    Some(format!("{release} ({})", image.display()))
}

/// Where periodic captures were asked for.
fn periodic_line(vm: &VmResult) -> Option<String> {
    let VmResult {
        periodic_fired: fired,
        periodic_real: real,
        periodic_target: target,
        ..
    } = vm;
    (*target > 0)
        .then(|| format!("{fired} of {target} fired, {real} of them with the guest's state"))
}

/// What checks over the captures found, and the captures that they had.
fn temporal_lines(result: &AssertResult, vm: Option<&VmResult>) -> Vec<String> {
    let found: Vec<String> = result
        .details_of_kind(DetailKind::Temporal)
        .map(ToString::to_string)
        .collect();
    let Some(vm) = vm.filter(|_| !found.is_empty()) else {
        return Vec::new();
    };
    let series = vm.captures_series();
    let mut lines = found;
    for sample in series.iter().take(MAX_SAMPLES) {
        let step = sample.step_index.map(|step| format!(", step {step}"));
        let gap = sample.report.as_ref().err();
        let gap = gap.map(|reason| format!(": no state: {reason}"));
        lines.push(format!(
            "{} at {} ms{}{}",
            sample.tag,
            sample.elapsed_ms,
            step.unwrap_or_default(),
            gap.unwrap_or_default()
        ));
    }
    let more = series.len().saturating_sub(MAX_SAMPLES);
    if more > 0 {
        lines.push(format!("… and {more} more captures"));
    }
    lines
}
