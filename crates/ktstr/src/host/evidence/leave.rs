//! The files that a failure leaves, and the timeline of every run.

use std::path::{Path, PathBuf};

use ktstr_kernel::with_debug_information;

use crate::host::evidence::artifacts::{ArtifactError, artifact_path, vmcore_path, write_atomic};
use crate::host::evidence::dump::{
    CapturedDump, DUMP_SCHEMA, PlaceholderDump, ensure_dump, write_dump,
};
use crate::host::evidence::gathered::Evidence;
use crate::host::evidence::repro::repro_path;
use crate::host::evidence::timeline::Timeline;
use crate::model::entry::KtstrTestEntry;
use crate::model::result::VmResult;
use crate::model::verdict::AssertResult;

/// For reports; its loss is told and changes nothing.
pub(in crate::host) fn leave_timeline(vm: &VmResult, dir: &Path, test: &str) {
    let mut timeline = Timeline::of(vm);
    if let Some(report) = &vm.monitor {
        timeline.add_samples(report);
    }
    timeline.add_captures(vm.captures_series());
    if let Err(error) = timeline.write(dir, test) {
        tracing::warn!(%error, source = %error.source, "the timeline is lost");
    }
}

/// Writes console, kernel log and the dump of a failure; returns where they lie, or why they do not.
pub(in crate::host) fn leave_evidence(
    entry: &KtstrTestEntry,
    result: &AssertResult,
    evidence: &Evidence,
    dir: &Path,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut keep = |written: Result<PathBuf, ArtifactError>| match written {
        Ok(path) => lines.push(path.display().to_string()),
        Err(error) => lines.push(format!("warning: {error}: {}", error.source)),
    };
    if let Some(vm) = evidence.vm() {
        let texts = [
            ("console", vm.stderr.clone()),
            ("dmesg", vm.guest_kmsg()),
            ("output", vm.output.clone()),
            ("sched.log", vm.scheduler_log()),
            (
                "findings",
                evidence.whole_findings.clone().unwrap_or_default(),
            ),
        ];
        for (suffix, text) in texts {
            // The console is there even when it is empty: a kernel that said nothing is a finding.
            if !text.is_empty() || suffix == "console" {
                let path = artifact_path(dir, entry.name, suffix);
                keep(write_atomic(&path, text.as_bytes()).map(|()| path));
            }
        }
    }
    keep(leave_dump(entry, result, evidence, dir));
    if let Some(Ok(_)) = &evidence.repro {
        keep(Ok(repro_path(dir, entry.name)));
    }
    let vmcore = vmcore_path(dir, entry.name);
    if vmcore.is_file() {
        let opened = evidence
            .kernel_image
            .as_deref()
            .and_then(with_debug_information)
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
pub(in crate::host) fn leave_dump(
    entry: &KtstrTestEntry,
    result: &AssertResult,
    evidence: &Evidence,
    dir: &Path,
) -> Result<PathBuf, ArtifactError> {
    let vm = evidence.vm();
    let stage = vm.map(|vm| vm.stages().label);
    let summary = evidence.bug_summary();
    let engine = vm.map(|vm| vm.engine.to_string());
    let exit_reason = vm.map(|vm| vm.exit_reason.to_string());
    let exit_reason = exit_reason.as_deref();
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
