//! The words of a failure: one message, in sections, each present only when it has content.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::host::judge::text::{cut_line, strip_ansi};
use crate::model::names::file_stem;

/// Lines of the scheduler's log that a message keeps.
const SCHED_LOG_LINES: usize = 200;
/// Lines of the kernel console that a message keeps when no panic is on it.
const CONSOLE_LINES: usize = 20;

/// Everything a failure message may be made of.
#[derive(Debug, Default, Clone)]
pub(in crate::host) struct Parts {
    pub(in crate::host) test: String,
    pub(in crate::host) scheduler: Option<String>,
    pub(in crate::host) topology: String,
    /// `failed` or `inconclusive`.
    pub(in crate::host) verdict: &'static str,
    pub(in crate::host) engine: String,
    /// Whose time passed, and how to have the same run again.
    pub(in crate::host) clock: Vec<String>,
    /// Its release and image.
    pub(in crate::host) kernel: Option<String>,
    pub(in crate::host) bug_summary: Option<String>,
    pub(in crate::host) details: Vec<String>,
    pub(in crate::host) info: Vec<String>,
    pub(in crate::host) stats: Vec<String>,
    /// The kernel console, when it helps: a death of guest or scheduler, or on request.
    pub(in crate::host) console: Option<Console>,
    pub(in crate::host) timeline: Vec<String>,
    /// How many periodic captures there were of those asked for.
    pub(in crate::host) periodic: Option<String>,
    /// Checks over the captures that did not hold, and the captures.
    pub(in crate::host) temporal: Vec<String>,
    pub(in crate::host) output: String,
    pub(in crate::host) scheduler_log: String,
    /// What the runqueues did.
    pub(in crate::host) monitor: Vec<String>,
    /// The captured state, as far as a message has room for it.
    pub(in crate::host) dump: Vec<String>,
    /// What a second run showed.
    pub(in crate::host) auto_repro: Vec<String>,
    pub(in crate::host) artifacts: Vec<String>,
}

/// The console section.
#[derive(Debug, Clone)]
pub(in crate::host) struct Console {
    pub(in crate::host) stage: String,
    pub(in crate::host) exit: String,
    pub(in crate::host) text: String,
}

/// Renders `parts`: the verdict first, then what explains it, then where the files lie.
pub(in crate::host) fn render(parts: &Parts) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "cause: {}", cause(parts));
    if let Some(summary) = &parts.bug_summary {
        let _ = writeln!(out, "BUG SUMMARY: {summary}");
    }
    let sched = parts
        .scheduler
        .as_deref()
        .map(|s| format!(" [sched={s}]"))
        .unwrap_or_default();
    let _ = writeln!(
        out,
        "ktstr_test '{}'{sched} [topo={}] {}:",
        parts.test, parts.topology, parts.verdict
    );
    for detail in &parts.details {
        push_indented(&mut out, detail);
    }
    section(&mut out, "info", &parts.info);
    section(&mut out, "stats", &parts.stats);
    if let Some(console) = &parts.console {
        render_console(
            &mut out,
            console,
            &format!("{}.console", file_stem(&parts.test)),
        );
    }
    section(&mut out, "timeline", &parts.timeline);
    let periodic: Vec<String> = parts.periodic.iter().cloned().collect();
    section(&mut out, "periodic samples", &periodic);
    section(&mut out, "temporal", &parts.temporal);
    let file = |suffix: &str| format!("{}.{suffix}", file_stem(&parts.test));
    section(
        &mut out,
        "guest output",
        &tail(
            &strip_ansi(&parts.output),
            CONSOLE_LINES * 2,
            &file("output"),
        ),
    );
    section(
        &mut out,
        "scheduler log",
        &scheduler_log_lines(&parts.scheduler_log, &file("sched.log")),
    );
    section(&mut out, "monitor", &parts.monitor);
    section(&mut out, "sched_ext dump", &parts.dump);
    section(&mut out, "auto-repro", &parts.auto_repro);
    section(&mut out, "artifacts", &parts.artifacts);
    if let Some(kernel) = &parts.kernel {
        let _ = writeln!(out, "kernel: {kernel}");
    }
    let _ = writeln!(out, "engine: {}", parts.engine);
    for (line, label) in parts.clock.iter().zip(["clock: ", "  ", "  "]) {
        let _ = writeln!(out, "{label}{line}");
    }
    out
}

fn push_indented(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "  {}", cut_line(line));
    }
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "--- {title}");
    for line in lines {
        push_indented(out, line);
    }
}

fn render_console(out: &mut String, console: &Console, file: &str) {
    let _ = writeln!(
        out,
        "--- console (guest: {}; {})",
        console.stage, console.exit
    );
    let text = strip_ansi(&console.text);
    let lines = if mentions_panic(&text) {
        tail(&text, usize::MAX, file)
    } else {
        tail(&text, CONSOLE_LINES, file)
    };
    for line in lines {
        push_indented(out, &line);
    }
}

fn mentions_panic(console: &str) -> bool {
    let other = ["BUG:", "Oops:"];
    ktstr_vmm::kernel_panic(console).is_some() || other.iter().any(|mark| console.contains(mark))
}

/// The last `count` non-empty lines, with a note on what was left out and where it is.
fn tail(text: &str, count: usize, file: &str) -> Vec<String> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let dropped = lines.len().saturating_sub(count);
    let mut kept = Vec::new();
    if dropped > 0 {
        kept.push(format!("… {dropped} earlier lines are in {file}"));
    }
    kept.extend(lines.iter().skip(dropped).map(|line| (*line).to_owned()));
    kept
}

/// A verifier's log is kept whole, with repeated loop bodies collapsed; any other log keeps its end.
fn scheduler_log_lines(log: &str, file: &str) -> Vec<String> {
    let text = strip_ansi(log);
    if is_verifier_log(&text) {
        collapse_cycles(&text.lines().collect::<Vec<_>>())
    } else {
        tail(&text, SCHED_LOG_LINES, file)
    }
}

fn is_verifier_log(log: &str) -> bool {
    log.contains("processed ") && log.contains(" insns ") || log.contains("BEGIN PROG LOAD LOG")
}

/// Replaces runs of at least three equal blocks of 5 to 64 lines by one block and a count. Numbers are ignored in the
/// comparison, because a verifier walks the same loop with other register values.
fn collapse_cycles(lines: &[&str]) -> Vec<String> {
    const PERIODS: std::ops::RangeInclusive<usize> = 5..=64;
    let shapes: Vec<String> = lines
        .iter()
        .map(|line| line.chars().filter(|c| !c.is_ascii_digit()).collect())
        .collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let found = PERIODS.clone().find_map(|period| {
            let repeats = repeats_at(&shapes, at, period);
            (repeats >= 3).then_some((period, repeats))
        });
        let Some((period, repeats)) = found else {
            out.push(lines.get(at).copied().unwrap_or_default().to_owned());
            at += 1;
            continue;
        };
        out.extend(
            lines
                .iter()
                .skip(at)
                .take(period)
                .map(|line| (*line).to_owned()),
        );
        out.push(format!(
            "… the {period} lines above repeat {} more times",
            repeats - 1
        ));
        at += period * repeats;
    }
    out
}

fn repeats_at(shapes: &[String], at: usize, period: usize) -> usize {
    let Some(block) = shapes.get(at..at + period) else {
        return 0;
    };
    let rest = shapes.get(at..).unwrap_or_default();
    rest.chunks_exact(period)
        .take_while(|chunk| *chunk == block)
        .count()
}

/// Eight bytes that are equal for failures of one cause: numbers and the test's name do not count.
pub(in crate::host) fn cause(parts: &Parts) -> String {
    let mut hash = Sha256::new();
    for text in parts.bug_summary.iter().chain(parts.details.first()) {
        let shape: String = text
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .collect();
        hash.update(shape.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            test: "two_groups".into(),
            scheduler: Some("fixture".into()),
            topology: "1n2l2c1t".into(),
            verdict: "failed",
            engine: "tcg (no usable /dev/kvm)".into(),
            details: vec!["cgroup 'a': worker 1 ran 0 iterations in 5000 ms".into()],
            ..Parts::default()
        }
    }

    #[test]
    fn empty_sections_leave_no_trace() {
        let text = render(&parts());
        assert!(
            text.contains(
                "ktstr_test 'two_groups' [sched=fixture] [topo=1n2l2c1t] failed:\n  cgroup 'a'"
            ),
            "{text}"
        );
        assert!(!text.contains("---"), "{text}");
        assert!(!text.contains("BUG SUMMARY"), "{text}");
    }

    #[test]
    fn sections_come_in_the_order_of_the_contract() {
        let full = Parts {
            bug_summary: Some("scx_bpf_error (boom)".into()),
            info: vec!["i".into()],
            stats: vec!["s".into()],
            console: Some(Console {
                stage: "done".into(),
                exit: "power off".into(),
                text: "c".into(),
            }),
            timeline: vec!["t".into()],
            periodic: Some("2 of 3 fired".into()),
            temporal: vec!["fell".into()],
            scheduler_log: "l".into(),
            kernel: Some("6.12.1 (/k)".into()),
            ..parts()
        };
        let text = render(&full);
        let order = [
            "cause:",
            "BUG SUMMARY:",
            "ktstr_test '",
            "--- info",
            "--- stats",
            "--- console",
            "--- timeline",
            "--- periodic samples",
            "--- temporal",
            "--- scheduler log",
            "kernel: 6.12.1 (/k)",
            "engine:",
        ];
        let places: Vec<usize> = order.iter().map(|mark| text.find(mark).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn a_cause_has_no_numbers() {
        let slower = Parts {
            details: vec!["cgroup 'a': worker 3 ran 0 iterations in 7000 ms".into()],
            ..parts()
        };
        let other = Parts {
            details: vec!["cgroup 'a': gap".into()],
            ..parts()
        };
        assert_eq!(cause(&parts()), cause(&slower));
        assert_ne!(cause(&parts()), cause(&other));
    }

    #[test]
    fn a_long_log_keeps_its_end_and_says_so() {
        let log: String = (0..500).map(|i| format!("line {i}\n")).collect();
        let lines = scheduler_log_lines(&log, "t.sched.log");
        assert_eq!(lines.len(), SCHED_LOG_LINES + 1);
        assert!(
            lines[0].contains("300 earlier lines are in t.sched.log"),
            "{}",
            lines[0]
        );
        assert_eq!(lines.last().unwrap(), "line 499");
    }

    #[test]
    fn verifier_loops_are_collapsed() {
        let mut log = String::from("BEGIN PROG LOAD LOG\n");
        for i in 0..40 {
            for insn in 0..6 {
                log.push_str(&format!(
                    "{insn}: r{insn} += {i} op{}\n",
                    ["a", "b", "c", "d", "e", "f"][insn]
                ));
            }
        }
        log.push_str("processed 240 insns (limit 1000000)\n");
        let lines = scheduler_log_lines(&log, "t.sched.log");
        assert!(lines.len() < 12, "{lines:#?}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains("6 lines above repeat 39 more")),
            "{lines:#?}"
        );
        assert!(lines.last().unwrap().starts_with("processed"));
    }
}
