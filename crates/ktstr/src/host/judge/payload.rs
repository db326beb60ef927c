//! Payloads after the VM's end: reports that only frames tell of, and extractors for free-text output.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ktstr_wire::{Message, RawPayloadOutput};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::host::plan::config::Variable;
use crate::model::checks::apply_checks;
use crate::model::entry::KtstrTestEntry;
use crate::model::payload::{Metric, OutputFormat, Payload, PayloadReport, Stream, raw_metrics};
use crate::model::result::VmResult;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// How long an extractor may read one output.
const EXTRACTOR_TIME: Duration = Duration::from_secs(60);

/// Adds what only frames tell, runs the extractors, judges what they found, and names all metrics.
pub(in crate::host) fn settle(
    entry: &KtstrTestEntry,
    vm: &VmResult,
    manifest_dir: &Path,
    result: &mut AssertResult,
) {
    let (told, mut raw) = frames_of(vm);
    let mut reports = std::mem::take(&mut result.stats.payloads);
    for report in told {
        // A guest that died before its verdict has told of its payloads all the same.
        if reports.iter().all(|known| known.index != report.index) {
            reports.push(report);
        }
    }
    for report in &mut reports {
        let output = raw.remove(&report.index);
        if report.awaits_extractor {
            extract_into(report, entry, output, manifest_dir, result);
        }
    }
    for index in raw.into_keys() {
        let text =
            format!("the guest sent the output of payload run {index} without a report of it");
        result.push(AssertDetail::fail(DetailKind::Other, text));
    }
    result.stats.payloads = reports;
    result.stats.name_payload_metrics();
}

fn frames_of(vm: &VmResult) -> (Vec<PayloadReport>, BTreeMap<u32, RawPayloadOutput>) {
    let (mut told, mut raw) = (Vec::new(), BTreeMap::new());
    let frames = vm.guest_messages.iter();
    for (_, message) in frames.flat_map(|frames| frames.messages()) {
        match message {
            Message::PayloadMetrics(metrics) => {
                told.extend(serde_json::from_slice::<PayloadReport>(&metrics.body).ok());
            }
            Message::RawPayloadOutput(output) => {
                raw.insert(output.payload_index, output);
            }
            _ => {}
        }
    }
    (told, raw)
}

fn extract_into(
    report: &mut PayloadReport,
    entry: &KtstrTestEntry,
    output: Option<RawPayloadOutput>,
    manifest_dir: &Path,
    result: &mut AssertResult,
) {
    let declared = entry.payloads();
    let payload = declared
        .iter()
        .find(|payload| payload.name() == report.payload);
    let Some((payload, output)) = payload.copied().zip(output) else {
        let text = format!("payload {:?}: its output did not arrive", report.payload);
        result.push(AssertDetail::inconclusive(DetailKind::Other, text));
        return;
    };
    report.awaits_extractor = false;
    match extract(payload, &output, manifest_dir) {
        Ok(metrics) => report.metrics = metrics,
        Err(error) => {
            let text = format!("payload {:?}: its extractor {error:#}", report.payload);
            result.push(AssertDetail::fail(DetailKind::Setup, text));
            return;
        }
    }
    for finding in apply_checks(payload, report) {
        result.push(finding);
    }
}

/// The metrics of standard output, or, when the extractor finds none in it, of standard error.
fn extract(
    payload: &Payload,
    output: &RawPayloadOutput,
    manifest_dir: &Path,
) -> anyhow::Result<Vec<Metric>> {
    let OutputFormat::Extract(command) = payload.output else {
        return Ok(Vec::new());
    };
    for (stream, bytes) in [
        (Stream::Stdout, &output.stdout),
        (Stream::Stderr, &output.stderr),
    ] {
        if bytes.is_empty() {
            continue;
        }
        let json = run_extractor(command, payload.name(), bytes, manifest_dir)?;
        let mut metrics = raw_metrics(payload, command.first().copied().unwrap_or(""), &json, b"");
        for metric in &mut metrics {
            metric.stream = stream;
        }
        if !metrics.is_empty() {
            return Ok(metrics);
        }
    }
    Ok(Vec::new())
}

/// Runs `command` in the test's package with `input` on standard input; its standard output.
fn run_extractor(
    command: &[&str],
    payload: &str,
    input: &[u8],
    manifest_dir: &Path,
) -> anyhow::Result<Vec<u8>> {
    use anyhow::Context as _;
    let (program, args) = command.split_first().context("has no command")?;
    let path = if program.contains('/') {
        manifest_dir.join(program)
    } else {
        program.into()
    };
    // Files instead of pipes: a writer never blocks.
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input)?;
    stdin.seek(SeekFrom::Start(0))?;
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = Command::new(&path)
        .args(args)
        .env(Variable::Payload.name(), payload)
        .current_dir(manifest_dir)
        .stdin(Stdio::from(stdin))
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("'{}' did not start", path.display()))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("has no process number")?;
    let in_time = ended_within(pid, EXTRACTOR_TIME)?;
    if !in_time {
        // Not yet reaped, so the number is still its own.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait()?;
    anyhow::ensure!(
        in_time,
        "'{}' did not end within {} s",
        path.display(),
        EXTRACTOR_TIME.as_secs()
    );
    anyhow::ensure!(
        status.success(),
        "'{}' ended with {status}: {}",
        path.display(),
        String::from_utf8_lossy(&all_of(&mut stderr)?).trim()
    );
    Ok(all_of(&mut stdout)?)
}

fn ended_within(pid: Pid, limit: Duration) -> std::io::Result<bool> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec::try_from(limit).ok();
    let ready = poll(
        &mut [PollFd::new(&pidfd.as_fd(), PollFlags::IN)],
        limit.as_ref(),
    )?;
    Ok(ready > 0)
}

fn all_of(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::payload::{MetricCheck, PayloadEnd};
    use crate::model::result::{BulkDrainResult, BulkEntry};
    use crate::model::verdict::Outcome;

    const SED: Payload = Payload {
        output: OutputFormat::Extract(&["sed", "-n", r#"s/^p99 \(.*\) us$/{"p99_us": \1}/p"#]),
        checks: &[MetricCheck::Max {
            metric: "p99_us",
            at_most: 10.0,
        }],
        ..Payload::binary("bench", "bench")
    };
    const FALSE: Payload = Payload {
        output: OutputFormat::Extract(&["sh", "-c", "echo no such format >&2; exit 4"]),
        ..Payload::binary("broken", "broken")
    };

    fn report(index: u32, payload: &str) -> PayloadReport {
        PayloadReport {
            index,
            payload: payload.into(),
            end: PayloadEnd::Exited(0),
            metrics: Vec::new(),
            awaits_extractor: true,
        }
    }

    fn raw(index: u32, stdout: &str, stderr: &str) -> Message {
        Message::RawPayloadOutput(RawPayloadOutput {
            payload_index: index,
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    fn vm(messages: &[Message]) -> VmResult {
        let mut assembler = ktstr_wire::Assembler::new();
        for (seq, message) in (0..).zip(messages) {
            assembler.push(&ktstr_wire::encode(message, seq, 0).unwrap());
        }
        let mut entries = Vec::new();
        while let Some(ktstr_wire::Event::Frame(frame)) = assembler.next_event() {
            entries.push(BulkEntry {
                frame,
                host_elapsed: Duration::ZERO,
            });
        }
        VmResult {
            guest_messages: Some(BulkDrainResult {
                entries,
                ..BulkDrainResult::default()
            }),
            ..VmResult::test_fixture()
        }
    }

    #[track_caller]
    fn check(
        payload: &'static Payload,
        messages: &[Message],
        reports: Vec<PayloadReport>,
        outcome: Outcome,
        needle: &str,
    ) -> AssertResult {
        let entry = KtstrTestEntry {
            payload: Some(payload),
            ..KtstrTestEntry::DEFAULT
        };
        let mut result = AssertResult::pass();
        result.stats.payloads = reports;
        settle(&entry, &vm(messages), Path::new("/"), &mut result);
        assert_eq!(result.outcome(), outcome, "{result:#?}");
        let text: Vec<&str> = result.details.iter().map(|d| d.message.as_str()).collect();
        assert!(text.join("\n").contains(needle), "{text:?}");
        result
    }

    #[test]
    fn an_extractor_makes_metrics_of_text() {
        let text = "warming up\np99 7 us\n";
        let result = check(
            &SED,
            &[raw(3, text, "")],
            vec![report(3, "bench")],
            Outcome::Pass,
            "",
        );
        assert_eq!(result.stats.ext_metrics.get("bench.p99_us"), Some(&7.0));
        let result = check(
            &SED,
            &[raw(0, "bye", text)],
            vec![report(0, "bench")],
            Outcome::Pass,
            "",
        );
        assert_eq!(result.stats.payloads[0].metrics[0].stream, Stream::Stderr);
        check(
            &SED,
            &[raw(0, "p99 70 us\n", "")],
            vec![report(0, "bench")],
            Outcome::Fail,
            "at most 10",
        );
    }

    #[test]
    fn outputs_are_paired_by_index_not_by_order() {
        let messages = [raw(1, "p99 2 us\n", ""), raw(0, "p99 1 us\n", "")];
        let reports = vec![report(0, "bench"), report(1, "bench")];
        let result = check(&SED, &messages, reports, Outcome::Pass, "");
        assert_eq!(result.stats.ext_metrics["bench.p99_us"], 1.0);
        assert_eq!(result.stats.ext_metrics["bench#2.p99_us"], 2.0);
    }

    #[test]
    fn what_is_lost_or_broken_is_told() {
        let lost = vec![report(0, "bench")];
        check(&SED, &[], lost, Outcome::Inconclusive, "did not arrive");
        check(
            &SED,
            &[raw(9, "", "")],
            vec![],
            Outcome::Fail,
            "run 9 without a report",
        );
        check(
            &FALSE,
            &[raw(0, "x", "")],
            vec![report(0, "broken")],
            Outcome::Fail,
            "exit status: 4: no such format",
        );
    }

    #[test]
    fn a_dead_guests_payloads_are_known_from_frames() {
        let mut told = report(5, "bench");
        told.awaits_extractor = false;
        let body = serde_json::to_vec(&told).unwrap();
        let frame = Message::PayloadMetrics(ktstr_wire::PayloadMetrics {
            payload_index: 5,
            body,
        });
        let result = check(&SED, &[frame], vec![], Outcome::Pass, "");
        assert_eq!(result.stats.payloads, [told]);
    }
}
