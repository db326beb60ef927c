//! The verdict for a run whose guest reported none.

use ktstr_vmm::ExitReason;
use ktstr_wire::Stage;

use crate::host::judge::left::{Left, scheduler_exit};
use crate::host::judge::scheduler_end::cause;
use crate::model::result::VmResult;
use crate::model::stage::StageSummary;
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

/// The verdict for a run whose guest never reported one.
///
/// The order of preference is the contract's: crash, time-out, scheduler exit, nothing received. An engine that died is no
/// guest that did anything, so it comes before what the guest's scheduler did.
#[must_use]
pub(in crate::host) fn no_result(left: &Left) -> AssertResult {
    let vm = &left.vm;
    let stage = vm.stages();
    let mut said = stage.label.to_owned();
    if !stage.detail.is_empty() {
        said = format!("{said}: {}", stage.detail);
    }
    let exit = scheduler_exit(vm);
    let panic = ktstr_vmm::kernel_panic(&vm.stderr);
    let (kind, text) = if let Some(crash) = vm.crash_message.as_deref().or(panic) {
        (
            DetailKind::GuestCrashed,
            format!("{}: {crash} ({said})", error_class::CRASHED),
        )
    } else if vm.timed_out {
        (DetailKind::TimedOut, timed_out_text(left, &said))
    } else if stage.last == Some(Stage::SetupFailed) {
        (DetailKind::Setup, said)
    } else if matches!(vm.exit_reason, ExitReason::EngineDied { .. }) {
        (
            DetailKind::EngineDied,
            format!("{}: {} ({said})", error_class::ENGINE_DIED, vm.exit_reason),
        )
    } else if exit.is_some() || left.thrown_out().is_some() {
        let (kind, words) = cause(left, exit.as_ref()).unwrap_or_else(|| {
            let words = String::from("its status is not known");
            (DetailKind::SchedulerDiedUnknownReason, words)
        });
        (
            kind,
            format!("{}: {words} ({said})", error_class::SCHEDULER_EXITED),
        )
    } else {
        nothing_received(vm, &stage, &said)
    };
    AssertResult::fail(kind, text)
}

fn nothing_received(vm: &VmResult, stage: &StageSummary, said: &str) -> (DetailKind, String) {
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
    let kind = match (&vm.exit_reason, stage.reached_payload) {
        // The guest ended in good order, without a test: what kept it from that is in its own words.
        (ExitReason::PowerOff, false) => DetailKind::Setup,
        (ExitReason::PowerOff, true) => DetailKind::Other,
        _ => DetailKind::GuestCrashed,
    };
    (kind, text)
}

/// How the test's process ended, from the status that init told; negative without one.
fn process_end(code: i32) -> String {
    match code {
        ..0 => String::from("the end of the test's process was not seen"),
        129..=192 => format!("the test's process was killed by signal {}", code - 128),
        _ => format!("the test's process ended with exit code {code}"),
    }
}

fn timed_out_text(left: &Left, said: &str) -> String {
    let Left { vm, deadlines, .. } = left;
    let exit = scheduler_exit(vm);
    let gone = exit.is_some() || left.thrown_out().is_some();
    let scheduler = cause(left, exit.as_ref()).filter(|_| gone);
    let hint = if let Some((_, words)) = scheduler {
        format!("the scheduler was gone before: {words}")
    } else if vm.stages().reached_payload {
        String::from(
            "the test function or its workers hang; the console and the scheduler's log show where",
        )
    } else {
        String::from("the guest did not get as far as the test; the console shows how far it came")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::judge::made_up::{left, life, with_messages};
    use ktstr_wire::{Lifecycle, Message, SchedExit};

    #[track_caller]
    fn check(vm: &VmResult, start: &str, needles: &[&str]) {
        let result = no_result(&left(vm.clone()));
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
    fn what_could_not_be_set_up_is_of_that_kind() {
        let failed = Message::Lifecycle(Lifecycle {
            stage: Stage::SetupFailed,
            detail: "enable command 'exit 1' failed: exit status 1 (no output)".into(),
        });
        let vm = with_messages(&[
            life(Stage::InitUp),
            failed,
            Message::Exit(1),
            life(Stage::Done),
        ]);
        check(
            &vm,
            "could not be set up",
            &["enable command 'exit 1' failed"],
        );
        let kind = no_result(&left(vm)).details[0].kind;
        assert_eq!(kind, DetailKind::Setup);
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
        let text = no_result(&left(vm)).details[0].to_string();
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
