//! All of the judging on made-up runs: every guest result with every finding of the host, every callback and every
//! expectation, against the contract's rules; and the rows that matter, each written out.

use ktstr_vmm::ExitReason;
use ktstr_wire::{Message, SchedExit, SchedStop, Stage};

use super::callbacks::{self, Called};
use super::expectations::{self, Facts, Judged};
use super::left::{CapturedExit, Left, guest_result};
use super::made_up::{left, life, verdict, with_messages};
use super::{add, facts, findings, fold};
use crate::model::claim::Verdict;
use crate::model::entry::{KtstrTestEntry, PostVm};
use crate::model::post_vm::post_vm_skip;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind, Outcome};
use Outcome::{Fail, Inconclusive, Pass, Skip};

/// What the guest reported; `None`: nothing, though its test had begun.
const GUESTS: [Option<Outcome>; 5] = [None, Some(Skip), Some(Pass), Some(Inconclusive), Some(Fail)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Nothing,
    Crashed,
    Panicked,
    TimedOut,
    EngineDied,
    Rebooted,
    NoExitFrame,
    KilledAfterVerdict,
    KernelWarning,
    ThrownOut,
    BadStop,
    Damaged,
    SlowCleanup,
}

const HOSTS: [Host; 13] = [
    Host::Nothing,
    Host::Crashed,
    Host::Panicked,
    Host::TimedOut,
    Host::EngineDied,
    Host::Rebooted,
    Host::NoExitFrame,
    Host::KilledAfterVerdict,
    Host::KernelWarning,
    Host::ThrownOut,
    Host::BadStop,
    Host::Damaged,
    Host::SlowCleanup,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callback {
    None,
    Holds,
    Errs,
    Panics,
    Refutes,
    CannotTell,
    Skips,
    /// `post_vm` skips and `post_vm_unconditional` fails.
    SkipsAndErrs,
}

const CALLBACKS: [Callback; 8] = [
    Callback::None,
    Callback::Holds,
    Callback::Errs,
    Callback::Panics,
    Callback::Refutes,
    Callback::CannotTell,
    Callback::Skips,
    Callback::SkipsAndErrs,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    Error,
    ErrorWithText,
    ErrorWithOtherText,
    Repro,
    ReproThatCame,
    MayBeInconclusive,
}

const EXPECTS: [Expect; 7] = [
    Expect::Nothing,
    Expect::Error,
    Expect::ErrorWithText,
    Expect::ErrorWithOtherText,
    Expect::Repro,
    Expect::ReproThatCame,
    Expect::MayBeInconclusive,
];

/// One of the combinations.
type Row = (Option<Outcome>, Host, Callback, Expect);

const MS: std::time::Duration = std::time::Duration::from_millis(1);

fn of(outcome: Outcome) -> AssertResult {
    match outcome {
        Skip => AssertResult::skip("too small"),
        Pass => AssertResult::pass(),
        Inconclusive => AssertResult::inconclusive(DetailKind::Other, "no samples"),
        Fail => AssertResult::fail(DetailKind::Stuck, "stuck 3 s"),
    }
}

fn run(guest: Option<Outcome>, host: Host) -> Left {
    let mut messages = vec![life(Stage::KernelUp), life(Stage::PayloadStarting)];
    // Every run's scheduler has the text that a matcher wants.
    let log = b"queue seven".to_vec();
    messages.push(Message::SchedLog(ktstr_wire::SchedLog::Chunk(log)));
    messages.extend(guest.map(|outcome| verdict(&of(outcome))));
    if host == Host::BadStop {
        messages.push(Message::SchedExit(SchedExit {
            code: None,
            signal: Some(6),
            reason: String::new(),
            stop: Some(SchedStop::default()),
        }));
    }
    if host == Host::KernelWarning {
        let record = b"4,1,9000000,-;WARNING: CPU: 1 at kernel/sched/ext.c:1".to_vec();
        messages.push(Message::Dmesg(record));
    }
    let unfinished = [
        Host::Crashed,
        Host::Panicked,
        Host::TimedOut,
        Host::EngineDied,
        Host::Rebooted,
        Host::NoExitFrame,
    ];
    if !unfinished.contains(&host) {
        let code = match (host, guest) {
            (Host::KilledAfterVerdict, _) => 139,
            (_, Some(outcome)) => outcome.exit_code(),
            (_, None) => 1,
        };
        messages.push(Message::Exit(code));
    }
    let mut left = left(with_messages(&messages));
    let vm = &mut left.vm;
    match host {
        Host::Crashed => vm.crash_message = Some("boom".into()),
        Host::Panicked => vm.exit_reason = ExitReason::Panic,
        Host::TimedOut => {
            vm.timed_out = true;
            vm.exit_reason = ExitReason::Deadline;
        }
        Host::EngineDied => {
            vm.exit_reason = ExitReason::EngineDied {
                status: "signal 9".into(),
                stderr: String::new(),
            };
        }
        Host::Rebooted => vm.exit_reason = ExitReason::Reboot,
        Host::ThrownOut => {
            left.exit = Some(CapturedExit {
                kind: 1026,
                name: "error_stall".into(),
                texts: vec!["runnable task stall".into()],
            });
        }
        Host::Damaged => {
            if let Some(frames) = &mut vm.guest_messages {
                frames.gaps = 1;
            }
        }
        Host::SlowCleanup => vm.cleanup_duration = Some(900 * MS),
        _ => {}
    }
    left
}

fn holds(_: &VmResult) -> anyhow::Result<AssertResult> {
    Ok(AssertResult::pass())
}

fn errs(_: &VmResult) -> anyhow::Result<AssertResult> {
    anyhow::bail!("not what I wanted")
}

fn panics(_: &VmResult) -> anyhow::Result<AssertResult> {
    // Not `panic!`: a hundred of them would be printed.
    std::panic::resume_unwind(Box::new("left == right"))
}

fn refutes(_: &VmResult) -> anyhow::Result<AssertResult> {
    let mut verdict = Verdict::new();
    verdict.claim("captures", 2).eq(3);
    Ok(verdict.into_result())
}

fn cannot_tell(_: &VmResult) -> anyhow::Result<AssertResult> {
    Ok(AssertResult::inconclusive(
        DetailKind::Temporal,
        "one sample",
    ))
}

fn skips(_: &VmResult) -> anyhow::Result<AssertResult> {
    Err(post_vm_skip("this host is too busy"))
}

fn entry(callback: Callback, expect: Expect) -> KtstrTestEntry {
    let (first, second): (Option<PostVm>, Option<PostVm>) = match callback {
        Callback::None => (None, None),
        Callback::Holds => (Some(holds), None),
        Callback::Errs => (Some(errs), None),
        Callback::Panics => (Some(panics), None),
        Callback::Refutes => (Some(refutes), None),
        Callback::CannotTell => (Some(cannot_tell), None),
        Callback::Skips => (Some(skips), None),
        Callback::SkipsAndErrs => (Some(skips), Some(errs)),
    };
    let text = match expect {
        Expect::ErrorWithText => Some("queue seven"),
        Expect::ErrorWithOtherText => Some("queue eight"),
        _ => None,
    };
    KtstrTestEntry {
        name: "t",
        post_vm: first,
        post_vm_unconditional: second,
        expect_err: matches!(
            expect,
            Expect::Error | Expect::ErrorWithText | Expect::ErrorWithOtherText
        ),
        expect_scx_bpf_error_contains: text,
        expect_auto_repro: matches!(expect, Expect::Repro | Expect::ReproThatCame),
        allow_inconclusive: expect == Expect::MayBeInconclusive,
        cleanup_budget_ms: Some(500),
        ..KtstrTestEntry::DEFAULT
    }
}

/// As `run_test` does, without its files.
fn judge(left: &Left, entry: &KtstrTestEntry, reproduced: bool) -> Judged {
    let found = findings::of(entry, left);
    let called = callbacks::call(entry, &left.vm, guest_result(&left.vm).as_ref());
    let result = fold(entry, left, found, &called);
    let facts = Facts {
        reproduced,
        ..facts(left, &called)
    };
    expectations::apply(entry, result, facts)
}

/// The contract's rules, in its own order.
fn contract(guest: Option<Outcome>, host: Host, callback: Callback, expect: Expect) -> Outcome {
    let reported = guest.is_some();
    let hosts = match host {
        Host::Nothing => Skip,
        // The stream's damage could explain a result that is missing, which is a failure already.
        Host::Damaged => {
            if reported {
                Inconclusive
            } else {
                Skip
            }
        }
        // Its status is the process's own once there is no verdict, and adds nothing to a failure.
        Host::KilledAfterVerdict => {
            if reported && guest != Some(Fail) {
                Fail
            } else {
                Skip
            }
        }
        _ => Fail,
    };
    // Not asked after a hard failure of the guest; the unconditional one is.
    let asked = guest != Some(Fail);
    let (callbacks, skip) = match callback {
        Callback::None | Callback::Holds => (Skip, false),
        Callback::Errs | Callback::Panics | Callback::Refutes => {
            (if asked { Fail } else { Skip }, false)
        }
        Callback::CannotTell => (if asked { Inconclusive } else { Skip }, false),
        Callback::Skips => (Skip, asked),
        Callback::SkipsAndErrs => (Fail, asked),
    };
    let mut outcome = guest.unwrap_or(Fail).max(hosts).max(callbacks);
    // A run that was skipped had no error to have.
    if skip && outcome != Fail {
        return Skip;
    }
    let mismatch = expect == Expect::ErrorWithOtherText && outcome != Skip;
    if mismatch {
        outcome = Fail;
    }
    let never = host == Host::EngineDied || callbacks == Fail || mismatch;
    match (expect, outcome) {
        (Expect::Error | Expect::ErrorWithText | Expect::ErrorWithOtherText, Fail) => {
            if never {
                Fail
            } else {
                Pass
            }
        }
        (Expect::ReproThatCame, Fail) if !never => Pass,
        (Expect::Nothing | Expect::MayBeInconclusive, Pass) => Pass,
        (_, Pass) => Fail,
        (Expect::MayBeInconclusive, Inconclusive) => Pass,
        (_, outcome) => outcome,
    }
}

#[test]
fn every_combination_is_as_the_contract_says() {
    let began = std::time::Instant::now();
    let mut rows = 0;
    for guest in GUESTS {
        for host in HOSTS {
            let left = run(guest, host);
            for callback in CALLBACKS {
                for expect in EXPECTS {
                    let entry = entry(callback, expect);
                    let judged = judge(&left, &entry, expect == Expect::ReproThatCame);
                    let row = (guest, host, callback, expect);
                    assert_eq!(
                        judged.result.outcome(),
                        contract(guest, host, callback, expect),
                        "{row:?}: {:#?}",
                        judged.result
                    );
                    rows += 1;
                }
            }
        }
    }
    println!("{rows} rows in {:?}", began.elapsed());
    assert_eq!(rows, 5 * 13 * 8 * 7);
}

/// One row: a run, what is expected of it, the verdict, and what the first finding of that outcome says and is.
#[track_caller]
fn row(
    (guest, host, callback, expect): Row,
    verdict: Outcome,
    kind: Option<DetailKind>,
    needle: &str,
) {
    let reproduced = expect == Expect::ReproThatCame;
    let judged = judge(&run(guest, host), &entry(callback, expect), reproduced);
    let result = &judged.result;
    assert_eq!(result.outcome(), verdict, "{result:#?}");
    let found = result
        .details
        .iter()
        .filter(|detail| detail.outcome == verdict);
    if let Some(kind) = kind {
        assert!(
            found
                .clone()
                .any(|detail| detail.kind == kind && detail.message.contains(needle)),
            "{result:#?}"
        );
    } else {
        assert!(result.info_notes.join("\n").contains(needle), "{result:#?}");
    }
}

#[test]
fn no_end_but_power_off_after_an_exit_frame_is_a_pass() {
    use DetailKind::{EngineDied, GuestCrashed, TimedOut};
    let after = |host, kind, needle| {
        row(
            (Some(Pass), host, Callback::None, Expect::Nothing),
            Fail,
            Some(kind),
            needle,
        );
    };
    after(
        Host::Crashed,
        GuestCrashed,
        "guest crashed after its verdict: boom",
    );
    after(Host::Panicked, GuestCrashed, "its kernel panicked");
    after(
        Host::Rebooted,
        GuestCrashed,
        "ended by reboot after its verdict",
    );
    after(Host::NoExitFrame, GuestCrashed, "without reporting its end");
    after(Host::TimedOut, TimedOut, "did not end within");
    after(Host::EngineDied, EngineDied, "died after the verdict");
    after(
        Host::KilledAfterVerdict,
        DetailKind::Other,
        "killed by signal 11 after its verdict",
    );
    after(
        Host::KernelWarning,
        DetailKind::KernelWarning,
        "WARNING: CPU: 1",
    );
    after(
        Host::ThrownOut,
        DetailKind::SchedulerCrashed,
        "error_stall (runnable task stall)",
    );
    after(
        Host::BadStop,
        DetailKind::SchedulerCrashed,
        "while it was being stopped: killed by signal 6",
    );
    after(
        Host::SlowCleanup,
        DetailKind::Other,
        "cleanup took 900 ms, budget 500 ms",
    );
}

#[test]
fn a_run_without_a_result_has_the_kind_of_its_end() {
    use DetailKind::{EngineDied, GuestCrashed, SchedulerCrashed, TimedOut};
    let none = |host, kind, needle| {
        row(
            (None, host, Callback::None, Expect::Nothing),
            Fail,
            Some(kind),
            needle,
        );
    };
    none(Host::Crashed, GuestCrashed, "guest crashed: boom");
    none(Host::TimedOut, TimedOut, "timed out with no result");
    none(
        Host::EngineDied,
        EngineDied,
        "the VM's engine died: engine died with signal 9",
    );
    none(Host::Rebooted, GuestCrashed, "the VM ended by reboot");
    none(
        Host::ThrownOut,
        SchedulerCrashed,
        "scheduler exited before the test reported: the kernel ejected it: error_stall",
    );
}

#[test]
fn callbacks_are_told_by_name_and_their_panics_are_findings() {
    let says = |callback, kind, needle| {
        row(
            (Some(Pass), Host::Nothing, callback, Expect::Nothing),
            Fail,
            Some(kind),
            needle,
        );
    };
    says(
        Callback::Errs,
        DetailKind::PostVm,
        "post_vm: not what I wanted",
    );
    says(
        Callback::Panics,
        DetailKind::PostVm,
        "post_vm: panicked: left == right",
    );
    says(
        Callback::Refutes,
        DetailKind::PostVm,
        "post_vm: captures is 2, expected 3",
    );
    says(
        Callback::SkipsAndErrs,
        DetailKind::PostVm,
        "post_vm_unconditional: not what I wanted",
    );
    row(
        (Some(Pass), Host::Nothing, Callback::Skips, Expect::Nothing),
        Skip,
        Some(DetailKind::Skip),
        "post_vm: this host is too busy",
    );
    row(
        (
            Some(Inconclusive),
            Host::Nothing,
            Callback::Skips,
            Expect::Nothing,
        ),
        Skip,
        None,
        "not judged: no samples",
    );
    row(
        (Some(Fail), Host::Nothing, Callback::Skips, Expect::Nothing),
        Fail,
        Some(DetailKind::Stuck),
        "",
    );
}

#[test]
fn an_expected_failure_is_never_one_of_the_harness() {
    let never = |guest, host, callback, expect, kind, needle| {
        row((guest, host, callback, expect), Fail, Some(kind), needle);
    };
    let (none, error) = (Callback::None, Expect::Error);
    never(
        None,
        Host::EngineDied,
        none,
        error,
        DetailKind::EngineDied,
        "",
    );
    never(
        Some(Fail),
        Host::EngineDied,
        none,
        error,
        DetailKind::EngineDied,
        "",
    );
    never(
        Some(Pass),
        Host::Nothing,
        Callback::Errs,
        error,
        DetailKind::PostVm,
        "",
    );
    never(
        Some(Fail),
        Host::Nothing,
        none,
        Expect::ErrorWithOtherText,
        DetailKind::Matcher,
        "queue eight",
    );
    never(
        Some(Fail),
        Host::Nothing,
        none,
        Expect::Repro,
        DetailKind::Other,
        "no valid repro artifact",
    );
    row(
        (Some(Fail), Host::Nothing, none, error),
        Pass,
        None,
        "expected failure: stuck 3 s",
    );
    row(
        (None, Host::TimedOut, none, error),
        Pass,
        None,
        "expected failure: timed out",
    );
    row(
        (Some(Fail), Host::Nothing, none, Expect::ReproThatCame),
        Pass,
        None,
        "seen again",
    );
    row(
        (Some(Skip), Host::Nothing, none, Expect::ErrorWithOtherText),
        Skip,
        Some(DetailKind::Skip),
        "too small",
    );
}

#[test]
fn a_claim_whose_label_begins_like_a_callbacks_name_is_the_guests_own() {
    let named = AssertResult::fail(DetailKind::Other, "post_vm_rate is 2");
    let messages = [life(Stage::KernelUp), verdict(&named), Message::Exit(1)];
    let expecting = entry(Callback::None, Expect::Error);
    let judged = judge(&left(with_messages(&messages)), &expecting, false);
    assert!(judged.result.is_pass() && judged.was_failure, "{judged:#?}");
}

#[test]
fn a_guest_that_never_started_is_never_the_expected_failure() {
    for host in [Host::Panicked, Host::TimedOut, Host::Rebooted] {
        let mut left = run(None, host);
        left.vm.guest_messages = None;
        let judged = judge(&left, &entry(Callback::None, Expect::Error), false);
        assert!(judged.result.is_fail(), "{judged:#?}");
    }
    // It started, but its scheduler never came into charge: no sched_ext in this kernel, perhaps.
    let messages = [
        life(Stage::KernelUp),
        life(Stage::SchedulerNotAttached),
        Message::Exit(1),
    ];
    let judged = judge(
        &left(with_messages(&messages)),
        &entry(Callback::None, Expect::Error),
        false,
    );
    assert_eq!(
        judged.result.details[0].kind,
        DetailKind::Setup,
        "{judged:#?}"
    );
    assert!(judged.result.is_fail());
}

#[test]
fn success_is_the_guests_pass_and_a_good_end() {
    for guest in GUESTS {
        for host in HOSTS {
            let spoilt = [
                Host::Crashed,
                Host::Panicked,
                Host::TimedOut,
                Host::EngineDied,
                Host::Rebooted,
                Host::NoExitFrame,
            ];
            let expected = guest == Some(Pass) && !spoilt.contains(&host);
            assert_eq!(run(guest, host).succeeded(), expected, "{guest:?} {host:?}");
        }
    }
}

#[test]
fn post_vm_is_not_asked_after_a_failure_of_the_guest_and_the_other_always_is() {
    let entry = KtstrTestEntry {
        post_vm: Some(errs),
        post_vm_unconditional: Some(panics),
        ..KtstrTestEntry::DEFAULT
    };
    let texts = |guest: Outcome| {
        let called: Called = callbacks::call(&entry, &VmResult::test_fixture(), Some(&of(guest)));
        let details = called.found.details.iter();
        details
            .map(|detail| detail.message.clone())
            .collect::<Vec<_>>()
    };
    let last = "post_vm_unconditional: panicked: left == right";
    for guest in [Skip, Pass, Inconclusive] {
        assert_eq!(texts(guest), ["post_vm: not what I wanted", last]);
    }
    assert_eq!(texts(Fail), [last]);
}

/// A scheduler's death: the kernel's reason beats the process's status, which beats its silence.
#[test]
fn a_death_has_the_kernels_reason() {
    let death = AssertResult::fail(
        DetailKind::SchedulerDiedUnknownReason,
        "the scheduler is gone",
    );
    let died = |code: Option<i32>, kind: Option<u64>, log: &str| {
        let mut messages = vec![life(Stage::PayloadStarting)];
        let chunk = ktstr_wire::SchedLog::Chunk(log.into());
        messages.push(Message::SchedLog(chunk));
        messages.extend(code.map(|code| {
            Message::SchedExit(SchedExit {
                code: Some(code),
                signal: None,
                reason: String::new(),
                stop: None,
            })
        }));
        messages.extend([verdict(&death), Message::Exit(1)]);
        let mut left = left(with_messages(&messages));
        left.exit = kind.map(|kind| CapturedExit {
            kind,
            name: String::from("name"),
            texts: Vec::new(),
        });
        let result = findings::of(&KtstrTestEntry::DEFAULT, &left);
        assert_eq!(result.details.len(), 1, "{result:#?}");
        (result.details[0].kind, result.details[0].message.clone())
    };
    use DetailKind::{SchedulerCrashed, SchedulerDiedUnknownReason, SchedulerExitedCleanly};
    assert_eq!(died(None, None, "").0, SchedulerDiedUnknownReason);
    assert_eq!(died(Some(0), None, "").0, SchedulerExitedCleanly);
    assert_eq!(died(Some(1), None, "").0, SchedulerCrashed);
    assert_eq!(died(Some(0), Some(64), "").0, SchedulerExitedCleanly);
    let (kind, text) = died(Some(0), Some(1026), "");
    assert_eq!(kind, SchedulerCrashed, "ejected, whatever its process says");
    assert!(
        text.contains("ejected it: name; its process: exit status 0"),
        "{text}"
    );
    // Its process lives on.
    assert_eq!(died(None, Some(1024), "").0, SchedulerCrashed);
    let (kind, text) = died(None, None, "EXIT: runnable task stall (a[7])");
    assert_eq!(kind, SchedulerCrashed);
    assert!(text.contains("runnable task stall"), "{text}");
}

#[test]
fn a_stop_that_was_asked_for_is_judged_by_how_it_went() {
    let stopped = |code: Option<i32>, signal: Option<i32>, stop: SchedStop| {
        let exit = Message::SchedExit(SchedExit {
            code,
            signal,
            reason: String::new(),
            stop: Some(stop),
        });
        let messages = [verdict(&AssertResult::pass()), exit, Message::Exit(0)];
        findings::of(&KtstrTestEntry::DEFAULT, &left(with_messages(&messages)))
    };
    for (code, signal) in [(Some(0), None), (Some(130), None), (None, Some(2))] {
        let result = stopped(code, signal, SchedStop::default());
        assert!(result.is_pass(), "{result:#?}");
    }
    let says = |result: AssertResult, needle: &str| {
        assert!(
            result.is_fail() && result.details[0].message.contains(needle),
            "{result:#?}"
        );
    };
    says(
        stopped(Some(3), None, SchedStop::default()),
        "exit status 3",
    );
    says(
        stopped(None, Some(11), SchedStop::default()),
        "killed by signal 11",
    );
    let killed = SchedStop {
        killed: true,
        ..SchedStop::default()
    };
    let mut result = stopped(None, Some(9), killed);
    assert_eq!(result.excuse_by_stall(3_000_000_000, "vCPU 0 waited"), 1);
    says(
        stopped(
            None,
            Some(9),
            SchedStop {
                killed: true,
                ..SchedStop::default()
            },
        ),
        "had to be killed",
    );
    let left_behind = vec![String::from("77 helper")];
    says(
        stopped(
            Some(0),
            None,
            SchedStop {
                killed: false,
                left_behind,
                ..SchedStop::default()
            },
        ),
        "left processes behind",
    );
    let failed_commands = vec![String::from("disable command 'false' failed")];
    let not_off = SchedStop {
        failed_commands,
        ..SchedStop::default()
    };
    says(
        stopped(None, None, not_off),
        "disable command 'false' failed",
    );
}

#[test]
fn having_found_nothing_does_not_lift_a_skip() {
    let mut skip = AssertResult::skip("too small");
    add(&mut skip, AssertResult::pass().with_note("busy"));
    assert!(skip.is_skip());
    add(&mut skip, AssertDetail::fail(DetailKind::Other, "x").into());
    assert!(skip.is_fail());
}
