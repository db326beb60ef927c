//! From what a VM left behind to one verdict.

use std::time::Duration;

use ktstr_wire::{Message, SchedExit};

use crate::host::evidence::bug_summary::bug_summary;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertResult, DetailKind};

/// The stable beginnings of the messages for a run without a result.
pub(crate) mod error_class {
    /// The guest panicked or its init did.
    pub(crate) const CRASHED: &str = "guest crashed";
    /// The VM's deadline ended the run.
    pub(crate) const TIMED_OUT: &str = "timed out with no result";
    /// The scheduler was gone before the test could report.
    pub(crate) const SCHEDULER_EXITED: &str = "scheduler exited before the test reported";
    /// Nothing better is known.
    pub(crate) const NO_RESULT: &str = "no result from the guest";
    /// The engine process died under the guest.
    pub(crate) const ENGINE_DIED: &str = "the VM's engine died";
}

/// The deadlines that were in force, for the message of a time-out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// Of the whole VM.
    pub(crate) vm: Duration,
    /// The scheduler watchdog that the test declared.
    pub(crate) watchdog: Duration,
    /// The scenario's declared duration.
    pub(crate) duration: Duration,
}

/// The guest's own verdict: the last undamaged TestResult frame that can be read.
#[must_use]
pub(crate) fn guest_result(vm: &VmResult) -> Option<AssertResult> {
    let frames = vm.guest_messages.as_ref()?;
    frames
        .messages()
        .filter_map(|(_, message)| match message {
            Message::TestResult(body) => serde_json::from_slice(&body.body).ok(),
            _ => None,
        })
        .last()
}

/// How the scheduler process ended, when it did so by itself.
#[must_use]
pub(crate) fn scheduler_exit(vm: &VmResult) -> Option<SchedExit> {
    let frames = vm.guest_messages.as_ref()?;
    frames
        .messages()
        .filter_map(|(_, message)| match message {
            Message::SchedExit(exit) if exit.stop.is_none() => Some(exit),
            _ => None,
        })
        .last()
}

/// The verdict for a run whose guest never reported one.
///
/// The order of preference is the contract's: crash, time-out, scheduler exit, nothing received.
#[must_use]
pub(crate) fn no_result(vm: &VmResult, deadlines: &Deadlines) -> AssertResult {
    let stage = vm.stages();
    let mut said = stage.label.to_owned();
    if !stage.detail.is_empty() {
        said = format!("{said}: {}", stage.detail);
    }
    let (kind, text) = if let Some(crash) = &vm.crash_message {
        (
            DetailKind::Other,
            format!("{}: {crash} ({said})", error_class::CRASHED),
        )
    } else if let Some(panic) = ktstr_vmm::kernel_panic(&vm.stderr) {
        (
            DetailKind::Other,
            format!("{}: {panic} ({said})", error_class::CRASHED),
        )
    } else if vm.timed_out {
        (DetailKind::Other, timed_out_text(vm, deadlines, &said))
    } else if let Some(exit) = scheduler_exit(vm) {
        let kind = if exit.code == Some(0) {
            DetailKind::SchedulerExitedCleanly
        } else {
            DetailKind::SchedulerCrashed
        };
        (
            kind,
            format!(
                "{}: {} ({said})",
                error_class::SCHEDULER_EXITED,
                exit_words(vm, &exit)
            ),
        )
    } else if vm.exit_reason.starts_with("engine died") {
        (
            DetailKind::Other,
            format!("{}: {} ({said})", error_class::ENGINE_DIED, vm.exit_reason),
        )
    } else {
        // Where the test never began, init's own status stands in for its process.
        let process = if stage.reached_payload {
            format!("; {}", process_end(vm.exit_code))
        } else {
            String::new()
        };
        let text = format!(
            "{}: {said}{process}; the VM ended by {}",
            error_class::NO_RESULT,
            vm.exit_reason
        );
        (DetailKind::Other, text)
    };
    AssertResult::fail(kind, text)
}

/// How the test's process ended, from the status that init told; negative without one.
fn process_end(code: i32) -> String {
    match code {
        ..0 => String::from("the end of the test's process was not seen"),
        129..=192 => format!("the test's process was killed by signal {}", code - 128),
        _ => format!("the test's process ended with exit code {code}"),
    }
}

fn timed_out_text(vm: &VmResult, deadlines: &Deadlines, said: &str) -> String {
    let hint = if vm.stages().reached_payload {
        "the test function or its workers hang; the console and the scheduler's log show where"
    } else {
        "the guest did not get as far as the test; the console shows how far it came"
    };
    format!(
        "{}: {said}\nelapsed {:.1} s, VM deadline {:.1} s, watchdog {:.1} s, duration {:.1} s\nhint: {hint}",
        error_class::TIMED_OUT,
        vm.duration.as_secs_f64(),
        deadlines.vm.as_secs_f64(),
        deadlines.watchdog.as_secs_f64(),
        deadlines.duration.as_secs_f64(),
    )
}

/// The scheduler's end in words: its status, and the reason that it or the kernel gave.
#[must_use]
pub(crate) fn exit_words(vm: &VmResult, exit: &SchedExit) -> String {
    let status = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => String::from("unknown status"),
    };
    let reason = if exit.reason.is_empty() {
        bug_summary([vm.scheduler_log().as_str(), vm.stderr.as_str()])
    } else {
        Some(exit.reason.clone())
    };
    reason.map_or(status.clone(), |reason| format!("{status}, {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::result::{BulkDrainResult, BulkEntry};
    use ktstr_wire::{Assembler, Event, Lifecycle, Stage};

    const DEADLINES: Deadlines = Deadlines {
        vm: Duration::from_secs(40),
        watchdog: Duration::from_secs(5),
        duration: Duration::from_secs(12),
    };

    fn with_messages(messages: &[Message]) -> VmResult {
        let mut assembler = Assembler::new();
        for (seq, message) in messages.iter().enumerate() {
            assembler.push(&ktstr_wire::encode(message, u32::try_from(seq).unwrap(), 0).unwrap());
        }
        let mut frames = BulkDrainResult::default();
        while let Some(event) = assembler.next_event() {
            if let Event::Frame(frame) = event {
                frames.entries.push(BulkEntry {
                    frame,
                    host_elapsed: Duration::ZERO,
                });
            }
        }
        VmResult {
            success: false,
            guest_messages: Some(frames),
            ..VmResult::test_fixture()
        }
    }

    fn life(stage: Stage) -> Message {
        Message::Lifecycle(Lifecycle {
            stage,
            detail: String::new(),
        })
    }

    #[track_caller]
    fn check(vm: &VmResult, start: &str, needles: &[&str]) {
        let result = no_result(vm, &DEADLINES);
        let text = result.details[0].to_string();
        assert!(text.contains(start), "{text}");
        for needle in needles {
            assert!(text.contains(needle), "{text:?} lacks {needle:?}");
        }
    }

    #[test]
    fn a_crash_is_preferred_to_the_time_out_it_caused() {
        let vm = VmResult {
            crash_message: Some("boom".into()),
            timed_out: true,
            ..with_messages(&[])
        };
        check(&vm, error_class::CRASHED, &["boom", "init never started"]);
    }

    #[test]
    fn a_kernel_panic_on_the_console_is_a_crash() {
        let vm = VmResult {
            stderr: "[ 1.0] Kernel panic - not syncing: VFS\n".into(),
            ..with_messages(&[])
        };
        check(
            &vm,
            error_class::CRASHED,
            &["Kernel panic - not syncing: VFS"],
        );
    }

    #[test]
    fn a_time_out_tells_all_deadlines_and_where_to_look() {
        let vm = VmResult {
            timed_out: true,
            ..with_messages(&[life(Stage::InitUp), life(Stage::PayloadStarting)])
        };
        check(
            &vm,
            error_class::TIMED_OUT,
            &[
                "VM deadline 40.0 s",
                "watchdog 5.0 s",
                "duration 12.0 s",
                "workers hang",
            ],
        );
    }

    #[test]
    fn a_scheduler_exit_has_its_status_and_reason() {
        let exit = SchedExit {
            code: Some(1),
            signal: None,
            reason: String::new(),
            stop: None,
        };
        let log = Message::SchedLog(ktstr_wire::SchedLog::Chunk(
            b"EXIT: scx_bpf_error (x)\n".to_vec(),
        ));
        let vm = with_messages(&[
            life(Stage::InitUp),
            log,
            Message::SchedExit(exit),
            life(Stage::SchedulerDied),
        ]);
        check(
            &vm,
            error_class::SCHEDULER_EXITED,
            &["exit status 1", "scx_bpf_error (x)"],
        );
    }

    #[test]
    fn a_scheduler_that_never_attached_is_told_though_the_guest_ended_well() {
        let not_attached = Message::Lifecycle(Lifecycle {
            stage: Stage::SchedulerNotAttached,
            detail: "state is still 'disabled' after 30000 ms".into(),
        });
        let vm = with_messages(&[
            life(Stage::InitUp),
            not_attached,
            Message::Exit(1),
            life(Stage::Done),
        ]);
        check(
            &vm,
            error_class::NO_RESULT,
            &["the scheduler never attached: state is still 'disabled'"],
        );
        let text = no_result(&vm, &DEADLINES).details[0].to_string();
        assert!(!text.contains("test's process"), "{text}");
    }

    #[test]
    fn silence_says_how_far_it_came() {
        check(
            &with_messages(&[life(Stage::InitUp)]),
            error_class::NO_RESULT,
            &["init started", "power off"],
        );
    }
}
