//! A captured state as lines for the failure message: what its reader needs first. The file holds all of it.

use ktstr_monitor::bpf::{MapContents, MapEntry, MapValue};
use ktstr_monitor::render::RenderedValue;
use ktstr_monitor::sched::{DispatchQueue, ScxExit, ScxScheduler};
use ktstr_monitor::{FailureDumpReport, MapSection};

/// Lines of one part before the rest is only counted.
const MAX_LINES: usize = 16;
/// Entries of a map shown.
const MAX_ENTRIES: usize = 4;
/// Unreadable parts named.
const MAX_PROBLEMS: usize = 3;
/// Characters of a line.
const MAX_WIDTH: usize = 240;

/// The lines; a placeholder gives its reason.
pub(in crate::host) fn lines(trigger: &str, report: &FailureDumpReport) -> Vec<String> {
    if report.is_placeholder {
        return vec![
            report
                .reason
                .clone()
                .unwrap_or_else(|| String::from("no reason given")),
        ];
    }
    let mut lines = vec![format!("captured at {trigger}")];
    lines.extend(sched_ext(report));
    lines.extend(limited("CPU", report.vcpus.len(), cpus(report)));
    lines.extend(limited(
        "queue",
        report.dispatch_queues.len(),
        queues(report),
    ));
    let held = held(report);
    lines.extend(limited("held task", held.len(), held.into_iter()));
    lines.extend(maps(report));
    lines.extend(problems(report));
    lines.iter().map(|line| cut(line)).collect()
}

/// A dump with holes must not look like a small one.
fn problems(report: &FailureDumpReport) -> Vec<String> {
    let all: Vec<String> = report
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.what, problem.why))
        .collect();
    if all.is_empty() {
        return all;
    }
    let shown: Vec<&str> = all.iter().take(MAX_PROBLEMS).map(String::as_str).collect();
    // Beyond a bound the reader itself only counts them.
    let dropped = usize::try_from(report.problems.dropped()).unwrap_or(usize::MAX);
    let total = all.len().saturating_add(dropped);
    let more = total.saturating_sub(MAX_PROBLEMS);
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    vec![format!(
        "{total} parts of this state could not be read: {}{more}",
        shown.join("; ")
    )]
}

fn sched_ext(report: &FailureDumpReport) -> Vec<String> {
    let Some(scx) = &report.scx else {
        return Vec::new();
    };
    let loaded = scx.ops_name.as_deref().is_some_and(|name| !name.is_empty());
    if !loaded && scx.state.as_deref() == Some("disabled") {
        return vec![String::from("sched_ext: no scheduler is loaded")];
    }
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| String::from("?"));
    let mut lines = vec![format!(
        "sched_ext: {} is {}{}",
        word(&scx.ops_name),
        word(&scx.state),
        scx.bypass_depth
            .filter(|depth| *depth > 0)
            .map_or_else(String::new, |depth| format!(", bypassed {depth} times")),
    )];
    for child in scx.schedulers.iter().filter(|one| one.level != Some(0)) {
        lines.push(format!(
            "sched_ext: {} schedules {}",
            word(&child.ops_name),
            word(&child.cgroup),
        ));
    }
    let Some(leaving) = scx.leaving() else {
        return lines;
    };
    let who = leaving.child.map_or_else(String::new, |child| {
        format!(" of {}", word(&child.ops_name))
    });
    if let Some(exit) = leaving.exit.filter(|exit| exit.kind != 0) {
        let said = [&exit.reason, &exit.msg].into_iter().flatten();
        let said: Vec<&str> = said
            .map(String::as_str)
            .filter(|text| !text.is_empty())
            .collect();
        lines.push(format!(
            "exit{who}: {} ({}){}",
            exit.kind_name,
            said.join(": "),
            exit_code(exit)
        ));
        lines.extend(exit.backtrace.iter().map(|frame| format!("  {frame}")));
    } else {
        // The kernel fills in the words of an exit without an error only after this moment.
        let kind = leaving.kind;
        lines.push(match leaving.kind_name {
            Some(name) => format!("exit{who}: {name} ({kind})"),
            None => format!("exit kind{who}: {kind}"),
        });
    }
    lines
}

/// The code of an exit, with its meaning where that is known.
fn exit_code(exit: &ScxExit) -> String {
    let words = &exit.exit_code_words;
    match exit.exit_code {
        None | Some(0) => String::new(),
        Some(code) if words.is_empty() => format!(", exit code {code}"),
        Some(code) => format!(", exit code {code:#x}: {}", words.join(", ")),
    }
}

fn cpus(report: &FailureDumpReport) -> impl Iterator<Item = String> {
    let number =
        |value: Option<u64>| value.map_or_else(|| String::from("?"), |value| value.to_string());
    report.runqueues.iter().map(move |rq| {
        let vcpu = report
            .vcpus
            .iter()
            .find(|vcpu| vcpu.registers.vcpu == rq.cpu);
        let at = vcpu.and_then(|vcpu| vcpu.symbol.as_deref()).unwrap_or("?");
        let source = vcpu.and_then(|vcpu| vcpu.source.as_ref());
        let source = source.map_or_else(String::new, |line| format!(" ({line})"));
        let curr = rq.curr.as_ref().map_or_else(
            || String::from("?"),
            |task| format!("{}[{}]", task.comm, task.pid),
        );
        let scx = rq.scx.as_ref().map_or_else(String::new, |scx| {
            format!(
                ", scx {} runnable, local queue {}",
                number(scx.nr_running),
                number(scx.local_dsq_depth)
            )
        });
        format!(
            "cpu {}: runs {curr} at {at}{source}; {} runnable{scx}",
            rq.cpu,
            number(rq.nr_running)
        )
    })
}

fn queues(report: &FailureDumpReport) -> impl Iterator<Item = String> {
    let waiting = report
        .dispatch_queues
        .iter()
        .filter(|queue| queue.nr.is_some_and(|nr| nr > 0) || !queue.tasks.is_empty());
    waiting.map(move |queue| {
        let tasks: Vec<String> = queue
            .tasks
            .iter()
            .take(MAX_ENTRIES)
            .map(|entry| format!("{}[{}]", entry.task.comm, entry.task.pid))
            .collect();
        let more = queue.tasks.len().saturating_sub(MAX_ENTRIES);
        format!(
            "queue {:?} {:#x}{}: {} waiting: {}{}",
            queue.kind,
            queue.id.unwrap_or(0),
            owner(report, queue),
            queue.nr.unwrap_or(0),
            tasks.join(" "),
            if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            }
        )
    })
}

/// ` of NAME` where there are several schedulers, each with ids of its own.
fn owner(report: &FailureDumpReport, queue: &DispatchQueue) -> String {
    let schedulers = report.scx.as_ref().map_or(&[][..], |scx| &scx.schedulers);
    let is_its = |one: &&ScxScheduler| one.id.is_some() && one.id == queue.scheduler;
    let name = schedulers
        .iter()
        .find(is_its)
        .and_then(|one| one.ops_name.as_deref());
    match name {
        Some(name) if schedulers.len() > 1 => format!(" of {name}"),
        _ => String::new(),
    }
}

/// Tasks that the kernel has handed to the BPF scheduler and not got back (`SCX_OPSS_QUEUED`): in no queue of the kernel's,
/// and what a stall is mostly about. Those that wait longest come first.
fn held(report: &FailureDumpReport) -> Vec<String> {
    /// `SCX_OPSS_STATE_MASK` and `SCX_OPSS_QUEUED` (`enum scx_ops_state`).
    const STATE_MASK: u64 = 3;
    const QUEUED: u64 = 2;
    let now = report.scx.as_ref().and_then(|scx| scx.jiffies);
    let mut held: Vec<(u64, String)> = report
        .tasks
        .iter()
        .filter_map(|task| {
            let scx = task.scx.as_ref()?;
            if scx.ops_state? & STATE_MASK != QUEUED {
                return None;
            }
            let waits = now.zip(scx.runnable_at);
            let waits = waits.map(|(now, since)| now.saturating_sub(since));
            let text = format!(
                "held by the scheduler: {}[{}]{}{}",
                task.comm,
                task.pid,
                waits.map_or_else(String::new, |ticks| format!(", runnable for {ticks} ticks")),
                task.cpu
                    .map_or_else(String::new, |cpu| format!(", last on CPU {cpu}")),
            );
            Some((waits.unwrap_or(0), text))
        })
        .collect();
    held.sort_by_key(|(waits, _)| std::cmp::Reverse(*waits));
    held.into_iter().map(|(_, text)| text).collect()
}

/// Variables first: they are what a scheduler's author looks for.
fn maps(report: &FailureDumpReport) -> Vec<String> {
    let (mut variables, mut entries_lines) = (Vec::new(), Vec::new());
    for section in &report.maps {
        match &section.contents {
            MapContents::Section(value) if !is_read_only(section) => {
                variables.extend(variables_of(&section.map.name, value));
            }
            MapContents::Entries(entries) => entries_lines.extend(entries_of(section, entries)),
            _ => {}
        }
    }
    let total = variables.len();
    let mut lines = limited("variable line", total, variables.into_iter());
    let total = entries_lines.len();
    lines.extend(limited("map line", total, entries_lines.into_iter()));
    lines
}

/// What never changes is in the source already, or in the kernel's configuration.
fn is_read_only(section: &MapSection) -> bool {
    let name = &section.map.name;
    name.ends_with(".rodata") || name.contains(".rodata.") || name.ends_with(".kconfig")
}

/// A section's variables that are not zero, in as many lines as they need, short ones first.
fn variables_of(name: &str, section: &RenderedValue) -> Vec<String> {
    let RenderedValue::Struct { members, .. } = section else {
        return vec![format!("{name}: {section}")];
    };
    // A text of a function's own is the format of a message (`scx_bpf_error`, `bpf_printk`).
    let is_format = |name: &str, value: &RenderedValue| {
        name.contains('.') && matches!(value, RenderedValue::Text(_))
    };
    let mut texts: Vec<String> = members
        .iter()
        .filter(|(name, value)| !value.is_zero() && !is_format(name, value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    texts.sort_by_key(|text| text.chars().count() > MAX_WIDTH / 4);
    let mut lines: Vec<String> = Vec::new();
    for text in texts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + text.chars().count() + 2 < MAX_WIDTH => {
                line.push_str(", ");
                line.push_str(&text);
            }
            _ => lines.push(format!("{name}: {text}")),
        }
    }
    lines
}

fn entries_of(section: &MapSection, entries: &[MapEntry]) -> Vec<String> {
    let is_zero = |entry: &&MapEntry| match &entry.value {
        MapValue::Value(value) => value.is_zero(),
        MapValue::PerCpu(values) => values.iter().all(|(_, value)| value.is_zero()),
    };
    let full: Vec<&MapEntry> = entries.iter().filter(|entry| !is_zero(entry)).collect();
    let mut lines: Vec<String> = full
        .iter()
        .take(MAX_ENTRIES)
        .map(|entry| {
            let value = match &entry.value {
                MapValue::Value(value) => value.to_string(),
                MapValue::PerCpu(values) => values
                    .iter()
                    .map(|(cpu, value)| format!("cpu{cpu} {value}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            format!("{}[{}]: {value}", section.map.name, entry.key)
        })
        .collect();
    let more = full.len().saturating_sub(MAX_ENTRIES);
    if more > 0 {
        lines.push(format!("{}: {more} more entries", section.map.name));
    }
    lines
}

fn limited(what: &str, total: usize, lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut shown: Vec<String> = lines.take(MAX_LINES).collect();
    if total > MAX_LINES && shown.len() == MAX_LINES {
        shown.push(format!("({} more {what}s)", total - MAX_LINES));
    }
    shown
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(MAX_WIDTH) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_monitor::sched::{Runqueue, ScxState};

    #[test]
    fn a_placeholder_shows_its_reason() {
        let report = FailureDumpReport::placeholder("the guest never booted");
        assert_eq!(lines("x", &report), ["the guest never booted"]);
    }

    /// A dump with 64 unreadable parts looked like a short one.
    #[test]
    fn parts_that_could_not_be_read_are_counted_and_the_first_are_named() {
        let unreadable = |count: u64| {
            let mut report = FailureDumpReport::default();
            for number in 0..count {
                let error = ktstr_monitor::Error::Implausible {
                    what: "length",
                    value: number,
                };
                report.problems.note(&format!("part {number}"), &error);
            }
            lines("x", &report).join("\n")
        };
        assert!(!unreadable(0).contains("could not be read"));
        let two = unreadable(2);
        assert!(
            two.contains("2 parts of this state could not be read: part 0: ")
                && two.contains("part 1: ")
                && !two.contains("more"),
            "{two}"
        );
        // More than the reader keeps.
        let many = unreadable(1_000);
        assert!(many.contains("1000 parts of this state"), "{many}");
    }

    #[test]
    fn tasks_that_the_scheduler_holds_are_named_longest_first() {
        use ktstr_monitor::sched::{Task, TaskScx};
        let task = |pid: i32, ops_state: u64, runnable_at: u64| Task {
            pid,
            comm: format!("w{pid}"),
            cpu: Some(1),
            scx: Some(TaskScx {
                ops_state: Some(ops_state),
                runnable_at: Some(runnable_at),
                ..TaskScx::default()
            }),
            ..Task::default()
        };
        let mut report = FailureDumpReport {
            // A sequence number is above the state.
            tasks: vec![task(1, 2, 900), task(2, 0, 100), task(3, 4 * 7 + 2, 200)],
            ..FailureDumpReport::default()
        };
        report.scx = crate::host::watch::coordinator::Failure::of_exit_for_tests(1026)
            .report
            .scx
            .clone();
        if let Some(scx) = &mut report.scx {
            scx.jiffies = Some(1000);
        }
        let lines = lines("x", &report);
        let held: Vec<&String> = lines
            .iter()
            .filter(|line| line.contains("held by"))
            .collect();
        assert_eq!(held.len(), 2, "{lines:?}");
        assert!(
            held[0].contains("w3[3], runnable for 800 ticks, last on CPU 1"),
            "{held:?}"
        );
        assert!(held[1].contains("w1[1]"), "{held:?}");
    }

    #[test]
    fn variables_take_the_lines_they_need() {
        let number = |name: &str, value| (name.to_owned(), RenderedValue::Unsigned(value));
        let mut members = vec![
            ("note".to_owned(), RenderedValue::Text("x".repeat(300))),
            (
                "enqueue.___fmt".to_owned(),
                RenderedValue::Text("no CPU %d".to_owned()),
            ),
            number("zero", 0),
        ];
        members.extend((1..=60).map(|n| number(&format!("counter_{n}"), n)));
        let section = RenderedValue::Struct {
            type_name: ".bss".to_owned(),
            members,
        };
        let lines = variables_of("a.bss", &section);
        assert!(lines[0].starts_with("a.bss: counter_1=1, counter_2=2,"));
        let (note, counters) = lines.split_last().unwrap();
        assert!(note.starts_with("a.bss: note="), "{note}");
        assert!(counters.iter().all(|line| line.len() < MAX_WIDTH));
        let all = counters.join(" ");
        assert!(
            (1..=60).all(|n| all.contains(&format!("counter_{n}={n}"))),
            "{all}"
        );
        assert!(!all.contains("fmt") && !all.contains("zero"), "{all}");
        let nothing = RenderedValue::Struct {
            type_name: ".bss".to_owned(),
            members: vec![number("zero", 0)],
        };
        assert!(variables_of("a.bss", &nothing).is_empty());
    }

    #[test]
    fn many_cpus_are_counted_not_listed() {
        let runqueues = (0..40).map(|cpu| Runqueue {
            cpu,
            nr_running: Some(3),
            ..Runqueue::default()
        });
        let report = FailureDumpReport {
            runqueues: runqueues.collect(),
            vcpus: vec![ktstr_monitor::VcpuSection::default(); 40],
            ..FailureDumpReport::default()
        };
        let lines = lines("the scheduler's exit", &report);
        assert_eq!(lines[0], "captured at the scheduler's exit");
        assert!(lines[1].starts_with("cpu 0: runs ?"), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("(24 more CPUs)"));
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let line = "ü".repeat(500);
        assert_eq!(cut(&line).chars().count(), MAX_WIDTH + 1);
    }

    /// The kernel's part of the code was in the JSON only, as a number.
    #[test]
    fn an_exits_code_is_told_in_the_kernels_words() {
        let exit = |code, words: &[&str]| ScxExit {
            exit_code: code,
            exit_code_words: words.iter().map(|word| (*word).to_owned()).collect(),
            ..ScxExit::default()
        };
        assert_eq!(
            exit_code(&exit(Some(281_479_271_677_952), &["hotplug", "restart"])),
            ", exit code 0x1000100000000: hotplug, restart"
        );
        assert_eq!(exit_code(&exit(Some(-7), &[])), ", exit code -7");
        assert_eq!(exit_code(&exit(Some(0), &[])), "");
        assert_eq!(exit_code(&exit(None, &[])), "");
    }

    #[test]
    fn an_exit_has_its_words() {
        let scx = ScxState {
            state: Some("disabling".into()),
            ops_name: Some("fixture".into()),
            bypass_depth: Some(0),
            exit_kind: Some(1025),
            exit_kind_name: Some("error_bpf".into()),
            exit: Some(ScxExit {
                kind: 1025,
                kind_name: "error_bpf".into(),
                exit_code: Some(1 << 48 | 1 << 32),
                exit_code_words: vec!["hotplug".into(), "restart".into()],
                reason: Some("scx_bpf_error".into()),
                msg: Some("queue seven".into()),
                backtrace: vec!["f+0x1".into()],
                ..ScxExit::default()
            }),
            ..ScxState::default()
        };
        let report = FailureDumpReport {
            scx: Some(scx),
            ..FailureDumpReport::default()
        };
        let lines = lines("t", &report);
        assert_eq!(
            lines[1..],
            [
                "sched_ext: fixture is disabling",
                "exit: error_bpf (scx_bpf_error: queue seven), exit code 0x1000100000000: hotplug, restart",
                "  f+0x1"
            ]
        );
    }

    /// The root is in charge while a scheduler below it is ejected.
    #[test]
    fn a_childs_exit_and_queues_have_its_name() {
        let scheduler = |id, level, name: &str, cgroup: &str| ScxScheduler {
            id: Some(id),
            level: Some(level),
            ops_name: Some(name.into()),
            cgroup: Some(cgroup.into()),
            ..ScxScheduler::default()
        };
        let child = ScxScheduler {
            exit_kind: Some(1025),
            exit_kind_name: Some("error_bpf".into()),
            ..scheduler(2, 1, "inner", "/left")
        };
        let scx = ScxState {
            state: Some("enabled".into()),
            ops_name: Some("outer".into()),
            schedulers: vec![scheduler(1, 0, "outer", "/"), child],
            ..ScxState::default()
        };
        let queue = DispatchQueue {
            kind: ktstr_monitor::sched::DsqKind::User,
            scheduler: Some(2),
            id: Some(7),
            nr: Some(1),
            tasks: Vec::new(),
        };
        let report = FailureDumpReport {
            scx: Some(scx),
            dispatch_queues: vec![queue],
            ..FailureDumpReport::default()
        };
        let lines = lines("t", &report);
        assert_eq!(
            lines[1..],
            [
                "sched_ext: outer is enabled",
                "sched_ext: inner schedules /left",
                "exit of inner: error_bpf (1025)",
                "queue User 0x7 of inner: 1 waiting: "
            ]
        );
    }
}
