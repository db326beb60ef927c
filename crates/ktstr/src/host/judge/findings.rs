//! What the host found that the guest's own verdict cannot hold.

use std::time::Duration;

use ktstr_vmm::ExitReason;
use ktstr_wire::{Message, SchedExit, SchedStop};

use crate::host::judge::add;
use crate::host::judge::books;
use crate::host::judge::emulator;
use crate::host::judge::evaluate::no_result;
use crate::host::judge::kernel_log;
use crate::host::judge::left::{Left, exit_frame, guest_result, messages, scheduler_exit};
use crate::host::judge::scheduler_end::{cause, exit_words};
use crate::model::entry::KtstrTestEntry;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};

/// A request to stop is SIGINT, and one that is not handled ends a process by it; a shell says 130.
const STOP_SIGNALS: [i32; 2] = [2, 15];
const STOP_STATUSES: [i32; 3] = [0, 130, 143];
/// A stall of the host's that explains why a scheduler did not leave in time.
const STOP_STALL_NS: u64 = 1_000_000_000;

/// The guest's verdict, or what stands for it, with everything that the host knows beside it.
pub(in crate::host) fn of(entry: &KtstrTestEntry, left: &Left) -> AssertResult {
    let guest = guest_result(&left.vm);
    let reported = guest.is_some();
    let mut result = guest.unwrap_or_else(|| no_result(left));
    if reported {
        let end = end_after_verdict(left, result.outcome());
        add(&mut result, end);
        judge_death(&mut result, left);
    }
    let stops = stops(left, &result);
    add(&mut result, stops);
    let warnings = kernel_warnings(entry, left, &result);
    add(&mut result, warnings);
    let books = books::judge(left.books.as_ref(), entry.allow_invariant);
    add(&mut result, books);
    if reported && let Some(text) = damage(left) {
        result.push(AssertDetail::inconclusive(DetailKind::Other, text));
    }
    if let Some(cause) = emulator::stale_breakpoint(&left.vm) {
        result.push(cause);
        // Before what came of it.
        result.details.rotate_right(1);
    }
    if let Some(text) = dropped(left) {
        result.note(text);
    }
    if let Some(text) = cleanup_overrun(entry, left.vm.cleanup_duration) {
        result.push(AssertDetail::fail(DetailKind::Other, text));
    }
    result
}

/// A guest that has reported its verdict still has to end as it should: by an Exit frame and power-off.
fn end_after_verdict(left: &Left, verdict: Outcome) -> AssertResult {
    let vm = &left.vm;
    let fail = AssertResult::fail;
    if left.ended_well() {
        let code = exit_frame(vm).unwrap_or(0);
        if verdict == Outcome::Fail || code == verdict.exit_code() {
            return AssertResult::pass();
        }
        let text = match code {
            129..=192 => format!(
                "the test's process was killed by signal {} after its verdict",
                code - 128
            ),
            _ => format!(
                "the test's process ended with exit code {code} after a verdict of {verdict}"
            ),
        };
        return fail(DetailKind::Other, text);
    }
    if let Some(crash) = &vm.crash_message {
        return fail(
            DetailKind::GuestCrashed,
            format!("guest crashed after its verdict: {crash}"),
        );
    }
    if vm.timed_out {
        let text = format!(
            "the guest reported its verdict but did not end within {:.1} s",
            vm.duration.as_secs_f64()
        );
        return fail(DetailKind::TimedOut, text);
    }
    match &vm.exit_reason {
        ExitReason::EngineDied { .. } => fail(
            DetailKind::EngineDied,
            format!("the VM's engine died after the verdict: {}", vm.exit_reason),
        ),
        ExitReason::Panic => {
            let panic = ktstr_vmm::kernel_panic(&vm.stderr);
            let words = panic.unwrap_or("its kernel panicked");
            fail(
                DetailKind::GuestCrashed,
                format!("guest crashed after its verdict: {words}"),
            )
        }
        ExitReason::PowerOff => fail(
            DetailKind::GuestCrashed,
            String::from(
                "the guest powered off after its verdict without reporting its end: something in it pulled the plug",
            ),
        ),
        other => fail(
            DetailKind::GuestCrashed,
            format!("the guest ended by {other} after its verdict, not by power-off"),
        ),
    }
}

fn is_death(kind: DetailKind) -> bool {
    use DetailKind::{SchedulerCrashed, SchedulerDiedUnknownReason, SchedulerExitedCleanly};
    matches!(
        kind,
        SchedulerCrashed | SchedulerDiedUnknownReason | SchedulerExitedCleanly
    )
}

/// The guest's test process sees only that the scheduler is gone. Init knows its status, the captured state the kernel's
/// reason; and neither may be missing from the verdict.
fn judge_death(result: &mut AssertResult, left: &Left) {
    let (vm, exit) = (&left.vm, scheduler_exit(&left.vm));
    for detail in &mut result.details {
        if detail.kind == DetailKind::SchedulerDiedUnknownReason
            && let Some((kind, words)) = cause(left, exit.as_ref())
        {
            detail.kind = kind;
            detail.message = format!("{}; {words}", detail.message);
        }
    }
    if result.details.iter().any(|detail| is_death(detail.kind)) {
        return;
    }
    if let Some(thrown) = left.thrown_out() {
        let text = format!(
            "the kernel ejected the scheduler during the test: {}",
            thrown.words()
        );
        result.push(AssertDetail::fail(DetailKind::SchedulerCrashed, text));
    } else if let Some(exit) = exit.filter(|exit| exit.code != Some(0)) {
        let text = format!("scheduler died during the test: {}", exit_words(vm, &exit));
        result.push(AssertDetail::fail(DetailKind::SchedulerCrashed, text));
    }
}

/// Schedulers that were asked to stop and did it badly.
fn stops(left: &Left, result: &AssertResult) -> AssertResult {
    let dead = result.details.iter().any(|detail| is_death(detail.kind));
    let mut found = AssertResult::pass();
    for message in messages(&left.vm) {
        let Message::SchedExit(exit) = message else {
            continue;
        };
        let Some(stop) = exit.stop.clone() else {
            continue;
        };
        if let Some(detail) = stop_fault(left, &exit, &stop, dead) {
            found.push(detail);
        }
        for failed in &stop.failed_commands {
            let text = format!("the scheduler was not turned off: {failed}");
            found.push(AssertDetail::fail(DetailKind::Setup, text));
        }
        if !stop.left_behind.is_empty() {
            let text = format!(
                "the scheduler left processes behind when it was stopped: {}",
                stop.left_behind.join(", ")
            );
            found.push(AssertDetail::fail(DetailKind::Other, text));
        }
    }
    found
}

/// `dead`: its end during the test is a finding already, and a status that repeats it is none.
fn stop_fault(left: &Left, exit: &SchedExit, stop: &SchedStop, dead: bool) -> Option<AssertDetail> {
    let words = exit_words(&left.vm, exit);
    if stop.killed {
        let text = format!(
            "the scheduler did not leave when it was asked to, and had to be killed ({words})"
        );
        let detail = AssertDetail::fail(DetailKind::SchedulerCrashed, text);
        return Some(detail.explained_by_stall_ns(STOP_STALL_NS));
    }
    let clean = match (exit.code, exit.signal) {
        (Some(code), _) => STOP_STATUSES.contains(&code) || dead,
        (None, Some(signal)) => STOP_SIGNALS.contains(&signal),
        (None, None) => true,
    };
    (!clean).then(|| {
        let text = format!("the scheduler failed while it was being stopped: {words}");
        AssertDetail::fail(DetailKind::SchedulerCrashed, text)
    })
}

/// Once per fault: a panic that is the verdict already is not told as a warning, too.
fn kernel_warnings(entry: &KtstrTestEntry, left: &Left, result: &AssertResult) -> AssertResult {
    // A pattern that does not compile was refused with the entry.
    let allowed = entry
        .allow_kernel_warning
        .and_then(|pattern| regex::Regex::new(pattern).ok());
    let mut found = kernel_log::judge(&left.vm, allowed.as_ref());
    let is_crash = |detail: &AssertDetail| detail.kind == DetailKind::GuestCrashed;
    if result.details.iter().any(is_crash) {
        found.details.retain(|detail| !is_crash(detail));
    }
    found
}

fn damage(left: &Left) -> Option<String> {
    let frames = left.vm.guest_messages.as_ref()?;
    (frames.gaps + frames.bad_crc > 0).then(|| {
        format!(
            "the frame stream was damaged: {} gaps, {} bad checksums",
            frames.gaps, frames.bad_crc
        )
    })
}

fn dropped(left: &Left) -> Option<String> {
    let frames = left.vm.guest_messages.as_ref()?;
    (frames.dropped > 0).then(|| {
        format!(
            "the guest sent more than is kept: {} frames of {} bytes, the oldest output first, are in no artifact",
            frames.dropped, frames.dropped_bytes
        )
    })
}

fn cleanup_overrun(entry: &KtstrTestEntry, measured: Option<Duration>) -> Option<String> {
    let (budget_ms, measured) = (entry.cleanup_budget_ms?, measured?);
    (measured > Duration::from_millis(budget_ms)).then(|| {
        format!(
            "cleanup took {} ms, budget {budget_ms} ms",
            measured.as_millis()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::judge::made_up::{left, verdict, with_messages};

    #[test]
    fn a_clean_up_is_held_to_its_budget() {
        let within = |cleanup_budget_ms| {
            let entry = KtstrTestEntry {
                cleanup_budget_ms,
                ..KtstrTestEntry::DEFAULT
            };
            cleanup_overrun(&entry, Some(Duration::from_millis(900)))
        };
        assert_eq!(within(None), None);
        assert_eq!(within(Some(900)), None);
        let text = within(Some(500)).unwrap();
        assert!(text.contains("900 ms, budget 500 ms"), "{text}");
    }

    /// The kernel's log has the panic, and a warning that speaks of one.
    #[test]
    fn a_panic_is_told_once_and_what_only_speaks_of_one_is_kept() {
        const LOG: &str = "4,1,5000000,-;WARNING: CPU: 0 PID: 7 Comm: Kernel panic at fair.c:1\n\
                           0,2,6000000,-;Kernel panic - not syncing: sysrq triggered crash";
        let found = |crash: Option<&str>| {
            let passed = verdict(&AssertResult::pass());
            let vm = with_messages(&[passed, Message::Dmesg(LOG.into())]);
            let warnings = kernel_warnings(
                &KtstrTestEntry::DEFAULT,
                &left(vm),
                &match crash {
                    Some(text) => AssertResult::fail(DetailKind::GuestCrashed, text),
                    None => AssertResult::pass(),
                },
            );
            let details = warnings.details.into_iter();
            details
                .map(|detail| (detail.kind, detail.message))
                .collect::<Vec<_>>()
        };
        let crashed = found(Some("boom"));
        assert_eq!(crashed.len(), 1, "{crashed:?}");
        assert_eq!(crashed[0].0, DetailKind::KernelWarning);
        assert!(crashed[0].1.contains("Comm: Kernel panic"), "{crashed:?}");
        let alone = found(None);
        assert_eq!(alone.len(), 2, "{alone:?}");
        assert_eq!(alone[1].0, DetailKind::GuestCrashed);
        assert!(
            alone[1]
                .1
                .contains("the kernel panicked: Kernel panic - not syncing: sysrq"),
            "{alone:?}"
        );
    }

    #[test]
    fn what_was_not_kept_is_told_and_moves_no_verdict() {
        let notes = |dropped| {
            let mut vm = with_messages(&[]);
            let frames = vm.guest_messages.as_mut().unwrap();
            (frames.dropped, frames.dropped_bytes) = (dropped, 7000 * dropped);
            of(&KtstrTestEntry::DEFAULT, &left(vm))
        };
        let (none, some) = (notes(0), notes(2));
        assert_eq!(none.details, some.details);
        let text = "2 frames of 14000 bytes";
        assert!(
            some.info_notes.iter().any(|note| note.contains(text)),
            "{:?}",
            some.info_notes
        );
        assert!(
            !none
                .info_notes
                .iter()
                .any(|note| note.contains("frames of"))
        );
    }
}
