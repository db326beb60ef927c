//! Auto-repro: a test whose scheduler the kernel ejected is run a second time, with the guest's kernel recording what the
//! scheduler and the functions on the exit's stack do until the exit comes again.
//!
//! The second run never changes the verdict by itself: it adds a section to the failure message and an artifact,
//! `<test>.repro.json`. Only `expect_auto_repro` asks more of it.
//!
//! Absent on purpose: BPF probes with arguments. What is here needs nothing of the guest but tracefs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ktstr_init::{ProbePlan, ProbeReport};
use ktstr_monitor::sched::ScxExit;
use ktstr_wire::Message;
use serde::{Deserialize, Serialize};

use crate::host::boot::session::{Ingredients, Ran, Session};
use crate::host::evidence::artifacts::{artifact_path, write_atomic};
use crate::host::judge::left::guest_result;
use crate::host::plan::config::HostConfig;
use crate::host::plan::kernel::resolve_test_kernel;
use crate::host::plan::programs::Programs;
use crate::host::plan::time::Time;
use crate::host::watch::coordinator::Failure;
use crate::model::entry::KtstrTestEntry;
use crate::model::result::VmResult;
use crate::model::verdict::AssertResult;

/// Names the artifact's form.
const REPRO_SCHEMA: &str = "ktstr.repro/1";
/// Events that every second run records.
const EVENTS: [&str; 4] = [
    "sched/sched_switch",
    "sched/sched_wakeup",
    "sched/sched_migrate_task",
    "sched_ext",
];
/// Functions on the stack of every process or interrupt, and those that raise the exit itself. A timer's would fill the
/// record with ticks.
const GENERIC: [&str; 20] = [
    "__hrtimer_",
    "__sysvec_",
    "bpf_",
    "do_syscall_64",
    "entry_",
    "hrtimer_",
    "irq_",
    "kthread",
    "process_one_work",
    "ret_from_fork",
    "scx_bpf_error",
    "scx_error",
    "scx_exit",
    "scx_ops_error",
    "scx_ops_exit",
    "sysvec_",
    "tick_",
    "update_process_times",
    "worker_thread",
    "x64_sys_call",
];
/// Where the stack of an interrupt begins (`arch/x86/include/asm/idtentry.h`).
const INTERRUPT: &str = "asm_";
/// What runs in an interrupt after an error was raised and before anything is taken down: up to 6.15, from 6.16 on, and where
/// there is a tree of schedulers, from 7.1 on (`kernel/sched/ext.c`, in 7.3 `kernel/sched/ext/ext.c`). Not the functions at which the host holds the guest: where the engine's breakpoints are written to
/// the guest's code, a probe of the guest's own in the same place would undo one of the two.
const ERROR_FUNCTIONS: [&str; 3] = [
    "scx_ops_error_irq_workfn",
    "scx_error_irq_workfn",
    "scx_disable_irq_workfn",
];
/// Functions that are probed at most.
const MAX_FUNCTIONS: usize = 16;
/// Ring buffers of all CPUs together, and of one at least.
const BUFFERS_KIB: u32 = 1024;
const BUFFER_MIN_KIB: u32 = 16;
/// Events in the artifact, and in the message.
const MAX_EVENTS: usize = 1000;
const MAX_LINES: usize = 20;

/// How a scheduler was ejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::host) struct ExitFacts {
    /// `enum scx_exit_kind`.
    pub(in crate::host) kind: u64,
    /// The same in words.
    pub(in crate::host) kind_name: String,
    /// The kernel's reason, and the scheduler's message.
    pub(in crate::host) words: String,
}

impl ExitFacts {
    /// None unless the kernel ejected the scheduler, by the captured state alone: texts may lie.
    fn of(failure: Option<&Failure>) -> Option<Self> {
        let leaving = failure?.report.scx.as_ref()?.leaving()?;
        let kind = Some(leaving.kind).filter(|kind| *kind >= ScxExit::ERROR)?;
        let words = leaving.exit.map(|exit| {
            let said = [&exit.reason, &exit.msg].into_iter().flatten();
            let said: Vec<&str> = said.map(String::as_str).collect();
            said.join(": ")
        });
        Some(Self {
            kind,
            kind_name: leaving.kind_name.unwrap_or_default().to_owned(),
            words: words.unwrap_or_default(),
        })
    }

    fn line(&self) -> String {
        format!("{} ({})", self.kind_name, self.words)
    }
}

/// What a second run showed: the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::host) struct Repro {
    /// The artifact's form.
    pub(in crate::host) schema: String,
    /// The test.
    pub(in crate::host) test: String,
    /// The failure that was to be seen again.
    pub(in crate::host) wanted: ExitFacts,
    /// The exit of the second run, if its scheduler was ejected as well.
    pub(in crate::host) found: Option<ExitFacts>,
    /// The same kind of exit came again.
    pub(in crate::host) reproduced: bool,
    /// How the second run ended, where no exit came.
    pub(in crate::host) instead: Option<String>,
    /// What was recorded; none when the guest did not get that far.
    pub(in crate::host) probes: Option<ProbeReport>,
    /// Events up to the exit, oldest first, as the kernel prints them.
    pub(in crate::host) events: Vec<String>,
    /// Events before those.
    pub(in crate::host) events_left_out: usize,
    /// The second run's whole time.
    pub(in crate::host) took_ms: u64,
}

impl Repro {
    /// The failure came again, and there is a record that ends with it.
    #[must_use]
    pub(in crate::host) fn is_valid(&self) -> bool {
        self.reproduced
            && !self.events.is_empty()
            && self.probes.as_ref().is_some_and(|probes| probes.stopped)
    }

    /// The section of a failure message.
    pub(in crate::host) fn lines(&self) -> Vec<String> {
        let took = Duration::from_millis(self.took_ms);
        let mut lines = vec![match (&self.found, &self.instead) {
            (Some(found), _) if self.reproduced => {
                format!("a second run showed it again: {}, {took:.1?}", found.line())
            }
            (Some(found), _) => {
                format!("a second run ended otherwise: {}, {took:.1?}", found.line())
            }
            (None, Some(instead)) => format!("a second run did not show it: {instead}, {took:.1?}"),
            (None, None) => format!("a second run did not show it, {took:.1?}"),
        }];
        let Some(probes) = &self.probes else {
            lines.push(String::from(
                "nothing was recorded: the guest ended before it could tell",
            ));
            return lines;
        };
        lines.push(format!("recorded: {}", probes.armed.join(", ")));
        for (what, why) in &probes.refused {
            lines.push(format!("not recorded: {what}: {why}"));
        }
        if self.events.is_empty() {
            lines.push(String::from("no event came"));
            return lines;
        }
        // The kernel's own dump of a scheduler is an event per line; the captured state shows it better.
        let told: Vec<&String> = self
            .events
            .iter()
            .filter(|event| !event.contains(" sched_ext_dump:"))
            .collect();
        let shown = told.len().min(MAX_LINES);
        lines.push(if probes.stopped {
            format!("the last {shown} events before a scheduler's exit:")
        } else {
            format!("the last {shown} events; no exit closed the record:")
        });
        let last = told.iter().skip(told.len() - shown);
        lines.extend(last.map(|event| format!("  {}", event.trim_start())));
        lines
    }
}

/// Where a test's repro artifact lies.
pub(in crate::host) fn repro_path(dir: &Path, test: &str) -> PathBuf {
    artifact_path(dir, test, "repro.json")
}

/// What a first run left to go by.
#[derive(Debug)]
pub(in crate::host) struct FirstRun<'a> {
    pub(in crate::host) entry: &'a KtstrTestEntry,
    pub(in crate::host) failure: Option<&'a Failure>,
    pub(in crate::host) programs: Option<&'a Programs>,
    pub(in crate::host) result: &'a AssertResult,
}

/// Runs the test again where that may tell more, and leaves the artifact. The VM's own deadline bounds it.
pub(in crate::host) fn attempt(
    first: &FirstRun<'_>,
    config: &HostConfig,
    dir: &Path,
) -> Option<anyhow::Result<Repro>> {
    let wanted = wanted(first)?;
    tracing::info!(test = first.entry.name, exit = %wanted.kind_name, "auto-repro: a second run, with probes");
    Some(run_again(first, wanted, config, dir))
}

/// The exit that a second run is to show, if one is to be made at all.
fn wanted(first: &FirstRun<'_>) -> Option<ExitFacts> {
    let asked = first.entry.auto_repro && !first.entry.expect_err && first.result.is_fail();
    first.programs?.scheduler.as_ref().filter(|_| asked)?;
    ExitFacts::of(first.failure)
}

fn run_again(
    first: &FirstRun<'_>,
    wanted: ExitFacts,
    config: &HostConfig,
    dir: &Path,
) -> anyhow::Result<Repro> {
    let entry = first.entry;
    let clock = std::time::Instant::now();
    let kernel = resolve_test_kernel()?;
    let exit = first
        .failure
        .and_then(|failure| failure.report.scx.as_ref()?.leaving()?.exit);
    let programs = Programs {
        probes: Some(probe_plan(entry, &wanted, exit)),
        ..first.programs.cloned().unwrap_or_default()
    };
    // The memory and the events that are kept are the first run's.
    let config = HostConfig {
        events: None,
        ..config.clone()
    };
    let time = Time::of(entry, &config)?;
    let booted = Session::started(Ingredients {
        entry,
        config: &config,
        kernel: &kernel,
        programs: &programs,
        time: &time,
        vmcore: None,
    })?;
    let ran = booted.watch()?;
    let took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
    let repro = compose(entry, wanted, &ran, took_ms);
    let json = serde_json::to_vec_pretty(&repro)?;
    write_atomic(&repro_path(dir, entry.name), &json)?;
    Ok(repro)
}

fn probe_plan(entry: &KtstrTestEntry, wanted: &ExitFacts, exit: Option<&ScxExit>) -> ProbePlan {
    let functions = match exit {
        // A stall's stack is the watchdog's own, and says nothing.
        Some(exit) if wanted.kind != ScxExit::ERROR_STALL => functions_of(&exit.backtrace),
        _ => Vec::new(),
    };
    let cpus = entry.topology.total_cpus().max(1);
    ProbePlan {
        events: EVENTS.map(String::from).to_vec(),
        functions,
        stop_at: ERROR_FUNCTIONS.map(String::from).to_vec(),
        buffer_kib: (BUFFERS_KIB / cpus).max(BUFFER_MIN_KIB),
    }
}

/// Kernel functions of a stack such as `enqueue_task_scx+0x21`, innermost first, without those that say nothing. What an
/// interrupt found running has no part in it, and may be a system call that a worker makes without end.
fn functions_of(backtrace: &[String]) -> Vec<String> {
    let mut functions: Vec<String> = Vec::new();
    for frame in backtrace {
        let Some((name, _)) = frame.split_once('+') else {
            continue;
        };
        if name.starts_with(INTERRUPT) {
            break;
        }
        let says_nothing = GENERIC.iter().any(|generic| name.starts_with(generic));
        if !says_nothing && !functions.iter().any(|known| known == name) {
            functions.push(name.to_owned());
        }
    }
    functions.truncate(MAX_FUNCTIONS);
    functions
}

fn compose(entry: &KtstrTestEntry, wanted: ExitFacts, ran: &Ran, took_ms: u64) -> Repro {
    let found = ExitFacts::of(ran.outcome.failure.as_ref());
    let reproduced = found
        .as_ref()
        .is_some_and(|found| found.kind == wanted.kind);
    let instead = found.is_none().then(|| ending(&ran.vm));
    let (probes, record) = record_of(&ran.vm);
    let (events, events_left_out) = events_of(&record);
    Repro {
        schema: REPRO_SCHEMA.to_owned(),
        test: entry.name.to_owned(),
        wanted,
        found,
        reproduced,
        instead,
        probes,
        events,
        events_left_out,
        took_ms,
    }
}

fn ending(vm: &VmResult) -> String {
    match guest_result(vm) {
        Some(result) => match result.failure_details().next() {
            Some(detail) => format!("the test failed otherwise: {detail}"),
            None => String::from("the test did not fail"),
        },
        None => format!(
            "no result came, the VM ended by {}: {}",
            vm.exit_reason,
            how_far(vm)
        ),
    }
}

/// How far a guest came that told no result, and what it died of.
fn how_far(vm: &VmResult) -> String {
    let stage = vm.stages();
    let panic = ktstr_vmm::kernel_panic(&vm.stderr);
    let said = [
        Some(stage.label),
        Some(stage.detail.as_str()),
        vm.crash_message.as_deref(),
        panic,
    ];
    let said: Vec<&str> = said
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    said.join(": ")
}

/// What the guest sent of its probes.
fn record_of(vm: &VmResult) -> (Option<ProbeReport>, String) {
    let (mut probes, mut record) = (None, String::new());
    let frames = vm.guest_messages.iter();
    for (_, message) in frames.flat_map(|frames| frames.messages()) {
        match message {
            Message::ProbeOutput(json) => probes = serde_json::from_slice(&json).ok(),
            Message::Trace(bytes) => record.push_str(&String::from_utf8_lossy(&bytes)),
            _ => {}
        }
    }
    (probes, record)
}

/// The last events of a record, and how many came before; the kernel's header lines begin with `#`.
fn events_of(record: &str) -> (Vec<String>, usize) {
    let events: Vec<&str> = record
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .collect();
    let left_out = events.len().saturating_sub(MAX_EVENTS);
    let kept = events.iter().skip(left_out);
    (kept.map(|event| (*event).to_owned()).collect(), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::DetailKind;

    fn facts(kind: u64) -> ExitFacts {
        ExitFacts {
            kind,
            kind_name: "error_bpf".into(),
            words: "scx_bpf_error: queue seven".into(),
        }
    }

    fn repro() -> Repro {
        Repro {
            schema: REPRO_SCHEMA.into(),
            test: "t".into(),
            wanted: facts(1025),
            found: Some(facts(1025)),
            reproduced: true,
            instead: None,
            probes: Some(ProbeReport {
                armed: vec!["sched_ext".into()],
                stopped: true,
                ..ProbeReport::default()
            }),
            events: (0..30).map(|number| format!("   event {number}")).collect(),
            events_left_out: 0,
            took_ms: 8300,
        }
    }

    #[test]
    fn the_stack_is_probed_without_what_every_stack_has() {
        let stack = [
            "scx_bpf_error_bstr+0x4",
            "bpf_prog_aa_fixture_enqueue+0x9a",
            "enqueue_task_scx+0x21",
            "ttwu_do_activate+0x5",
            "ttwu_do_activate+0x9",
            "__hrtimer_run_queues+0x11",
            "ret_from_fork_asm+0x11",
            "0xffffffff81000000",
        ];
        let functions = functions_of(&stack.map(String::from));
        assert_eq!(functions, ["enqueue_task_scx", "ttwu_do_activate"]);
        // A worker's system call filled the whole record.
        let interrupted = [
            "enqueue_task_scx+0x21",
            "sysvec_apic_timer_interrupt+0x2c",
            "asm_sysvec_apic_timer_interrupt+0x16",
            "posix_cpu_clock_get+0x1c",
            "__x64_sys_clock_gettime+0x30",
        ];
        let functions = functions_of(&interrupted.map(String::from));
        assert_eq!(functions, ["enqueue_task_scx"]);
    }

    #[test]
    fn only_a_failure_by_a_thrown_out_scheduler_is_tried_again() {
        let failed = AssertResult::fail(DetailKind::Other, "x");
        let programs = Programs {
            scheduler: Some("/bin/s".into()),
            ..Programs::default()
        };
        let first = FirstRun {
            entry: &KtstrTestEntry::DEFAULT,
            failure: None,
            programs: Some(&programs),
            result: &failed,
        };
        assert_eq!(wanted(&first), None, "no state was captured");
        let failure = Failure::of_exit_for_tests(1025);
        let thrown_out = FirstRun {
            failure: Some(&failure),
            ..first
        };
        assert_eq!(wanted(&thrown_out).unwrap().kind, 1025);
        let left = Failure::of_exit_for_tests(64);
        let passed = AssertResult::pass();
        let expected = KtstrTestEntry {
            expect_err: true,
            ..KtstrTestEntry::DEFAULT
        };
        for not in [
            FirstRun {
                failure: Some(&left),
                ..thrown_out
            },
            FirstRun {
                result: &passed,
                ..thrown_out
            },
            FirstRun {
                entry: &expected,
                ..thrown_out
            },
            FirstRun {
                programs: None,
                ..thrown_out
            },
        ] {
            assert_eq!(wanted(&not), None);
        }
    }

    #[test]
    fn an_artifact_is_valid_when_the_record_ends_with_the_same_exit() {
        assert!(repro().is_valid());
        let open = ProbeReport::default();
        for not in [
            Repro {
                reproduced: false,
                ..repro()
            },
            Repro {
                events: Vec::new(),
                ..repro()
            },
            Repro {
                probes: None,
                ..repro()
            },
            Repro {
                probes: Some(open),
                ..repro()
            },
        ] {
            assert!(!not.is_valid());
        }
    }

    #[test]
    fn the_section_says_what_came_of_it() {
        let text = repro().lines().join("\n");
        assert!(
            text.contains("showed it again: error_bpf (scx_bpf_error: queue seven), 8.3s"),
            "{text}"
        );
        assert!(
            text.contains("the last 20 events before") && text.ends_with("  event 29"),
            "{text}"
        );
        assert!(!text.contains("event 9\n"), "{text}");
        let mut dumped = repro();
        dumped.events.push(" t-1 [0] 1.0: sched_ext_dump: x".into());
        assert_eq!(dumped.lines(), repro().lines());
        let other = Repro {
            found: None,
            reproduced: false,
            instead: Some("the test did not fail".into()),
            probes: None,
            ..repro()
        };
        let text = other.lines().join("\n");
        assert!(
            text.contains("did not show it: the test did not fail"),
            "{text}"
        );
        assert!(text.contains("nothing was recorded"), "{text}");
    }

    #[test]
    fn a_records_header_is_no_event_and_its_end_is_kept() {
        let mut record = String::from("# tracer: nop\n#\n\n");
        for number in 0..MAX_EVENTS + 2 {
            record.push_str(&format!(" e{number}\n"));
        }
        let (events, left_out) = events_of(&record);
        assert_eq!((events.len(), left_out), (MAX_EVENTS, 2));
        assert_eq!(events[0], " e2");
    }
}
