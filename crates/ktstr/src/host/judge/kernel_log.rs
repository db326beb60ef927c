//! What the guest's kernel complained of: warnings and worse are findings, other errors are notes.

use ktstr_wire::{Message, Stage};

use crate::host::judge::text::strip_ansi;
use crate::model::result::VmResult;
use crate::model::verdict::{AssertDetail, AssertResult, DetailKind};

/// Findings of one run at most; a broken kernel repeats itself.
const MAX_FINDINGS: usize = 8;
/// Notes of one run at most.
const MAX_NOTES: usize = 8;
/// Lines of one log that are looked at.
const MAX_LINES: usize = 200_000;
/// A stall of the host's that explains what only a CPU that stood still for seconds brings about.
const STALL_NS: u64 = 5_000_000_000;
/// `KERN_ERR`: this level and those below it are errors.
const LEVEL_ERR: u32 = 3;

/// How the line begins with which a kernel gives up (`kernel/panic.c: vpanic`).
const PANIC: &str = "Kernel panic - not syncing";

/// Parts of lines that mean a fault of the kernel itself: WARN, BUG, oops, lockdep, hung tasks, stalls, and what a scheduler
/// says of itself without warning (`kernel/sched/{psi,rt,deadline,idle,topology}.c`, `kernel/cpu.c`).
const FAULTS: [&str; 31] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "general protection fault",
    "divide error: ",
    "invalid opcode: ",
    PANIC,
    "INFO: task ",
    "detected stall",
    "self-detected stall",
    "detected expedited stalls",
    "LOCKUP on cpu",
    "INFO: lockdep",
    "list_add corruption",
    "psi: inconsistent task state",
    "psi: task underflow",
    "sched: RT throttling activated",
    "sched: DL replenish lagged too much",
    "sched: DL de-boosted task",
    "bad: scheduling from the idle thread",
    "ERROR: domain->",
    "ERROR: group is NULL",
    "ERROR: empty group",
    "ERROR: repeated CPUs",
    "ERROR: groups don't span domain->span",
    "ERROR: parent span is not a superset of domain->span",
    "failed to report alive state",
    "failed to report dead state",
    "Failed to offline CPU",
    "to wakeup CPU#",
];
/// Of those, the ones that a CPU which the host held back brings about as well.
const BY_TIME: [&str; 9] = [
    "sched: DL replenish lagged too much",
    "failed to report",
    "to wakeup CPU#",
    "soft lockup",
    "workqueue lockup",
    "INFO: task ",
    "stall",
    "LOCKUP",
    "clocksource",
];
/// Errors that sched_ext writes for every scheduler that leaves, which other findings tell better.
const OF_SCHED_EXT: &str = "sched_ext:";

/// Taint flags that mean a fault of the kernel, with their words (`Documentation/admin-guide/tainted-kernels.rst`).
const TAINTS: [(u32, &str); 5] = [
    (4, "a machine check"),
    (5, "a bad page"),
    (7, "an oops or BUG"),
    (9, "a warning"),
    (14, "a soft lockup"),
];

/// One line of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    /// Microseconds since boot.
    at_us: u64,
    level: u32,
    text: String,
}

/// Judges the kernel's own complaints since the guest's user space began. `allowed` matches those that the test permits.
pub(in crate::host) fn judge(vm: &VmResult, allowed: Option<&regex::Regex>) -> AssertResult {
    let begun_us = user_space_began_us(vm);
    let log = vm.guest_kmsg();
    let mut records: Vec<Record> = log.lines().take(MAX_LINES).filter_map(of_kmsg).collect();
    if records.is_empty() {
        // A guest that did not come to its end has only its console to say.
        let console = strip_ansi(&vm.stderr);
        records = console
            .lines()
            .take(MAX_LINES)
            .filter_map(of_console)
            .collect();
    }
    let mut found = AssertResult::pass();
    let (mut seen, mut early) = (Vec::new(), 0);
    for record in &records {
        let is_fault = FAULTS.iter().any(|mark| record.text.contains(mark));
        let is_error = record.level <= LEVEL_ERR && !record.text.starts_with(OF_SCHED_EXT);
        if !(is_fault || is_error) || seen.contains(&record.text.as_str()) {
            continue;
        }
        seen.push(&record.text);
        let text = format!("{} (at {:.3} s)", record.text, seconds(record.at_us));
        if record.at_us < begun_us {
            early += usize::from(is_fault);
        } else if allowed.is_some_and(|pattern| pattern.is_match(&record.text)) {
            note(
                &mut found,
                format!("kernel warning, which this test allows: {text}"),
            );
        } else if !is_fault {
            note(&mut found, format!("the kernel reported an error: {text}"));
        } else if found.details.len() < MAX_FINDINGS {
            found.push(finding(&record.text, text));
        }
    }
    if early > 0 {
        found.note(format!(
            "the kernel had {early} warnings of its own while booting; they are in its log"
        ));
    }
    judge_taint(vm, early > 0, allowed.is_some(), &mut found);
    found
}

fn finding(line: &str, text: String) -> AssertDetail {
    if line.starts_with(PANIC) {
        // The kernel's end, no warning.
        return AssertDetail::fail(
            DetailKind::GuestCrashed,
            format!("the kernel panicked: {text}"),
        );
    }
    let detail = AssertDetail::fail(
        DetailKind::KernelWarning,
        format!("the kernel warned: {text}"),
    );
    if BY_TIME.iter().any(|mark| line.contains(mark)) {
        detail.explained_by_stall_ns(STALL_NS)
    } else {
        detail
    }
}

fn note(found: &mut AssertResult, text: String) {
    if found.info_notes.len() < MAX_NOTES {
        found.note(text);
    }
}

/// The flags outlive a log that has wrapped. Where the log itself has the fault, they add nothing.
fn judge_taint(vm: &VmResult, early: bool, allowed: bool, found: &mut AssertResult) {
    let frames = vm.guest_messages.iter();
    let taint = frames
        .flat_map(|frames| frames.messages())
        .filter_map(|(_, message)| match message {
            Message::Taint(flags) => Some(flags),
            _ => None,
        })
        .last();
    let flags = taint.unwrap_or(0);
    let words: Vec<&str> = TAINTS
        .iter()
        .filter(|(bit, _)| flags & (1 << bit) != 0)
        .map(|(_, words)| *words)
        .collect();
    if words.is_empty() || early || !found.details.is_empty() {
        return;
    }
    let text = format!(
        "the kernel is tainted by {} (flags {flags}), and its log has no more of it",
        words.join(" and ")
    );
    if allowed {
        // What was allowed sets the same flags.
        found.note(text);
    } else {
        found.push(AssertDetail::fail(DetailKind::KernelWarning, text));
    }
}

/// When the guest's init began, by the guest's own clock, which is that of its kernel's log.
fn user_space_began_us(vm: &VmResult) -> u64 {
    let frames = vm.guest_messages.iter();
    let mut entries = frames.flat_map(|frames| &frames.entries);
    let begun = entries.find(|entry| {
        matches!(entry.message(), Some(Message::Lifecycle(life)) if life.stage == Stage::KernelUp)
    });
    begun.map_or(0, |entry| entry.frame.guest_ns / 1000)
}

/// `6,1234,5678900,-;text`: priority, number, microseconds. Only the kernel can write records of facility 0.
fn of_kmsg(line: &str) -> Option<Record> {
    let (head, text) = line.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let _number: u64 = fields.next()?.parse().ok()?;
    let at_us = fields.next()?.parse().ok()?;
    (priority >> 3 == 0).then(|| Record {
        at_us,
        level: priority & 7,
        text: text.trim().to_owned(),
    })
}

/// `[    5.678900] text`; the console does not say the level, so only faults are known.
fn of_console(line: &str) -> Option<Record> {
    let (stamp, text) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = stamp.trim().split_once('.')?;
    let micros: u64 = micros.get(..6)?.parse().ok()?;
    let seconds: u64 = seconds.parse().ok()?;
    Some(Record {
        at_us: seconds.checked_mul(1_000_000)?.checked_add(micros)?,
        level: LEVEL_ERR + 1,
        text: text.trim().to_owned(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::judge::made_up::with_messages_at;
    use crate::model::verdict::Outcome;
    use ktstr_wire::Lifecycle;

    /// A run whose user space began at 2 s, with this log and these flags.
    fn run(log: &str, taint: u64) -> VmResult {
        let up = Message::Lifecycle(Lifecycle {
            stage: Stage::KernelUp,
            detail: String::new(),
        });
        with_messages_at(
            2_000_000_000,
            &[up, Message::Dmesg(log.into()), Message::Taint(taint)],
        )
    }

    #[track_caller]
    fn check(log: &str, taint: u64, outcome: Outcome, needle: &str) {
        let found = judge(&run(log, taint), None);
        assert_eq!(found.outcome(), outcome, "{found:#?}");
        let text = format!("{:?} {:?}", found.details, found.info_notes);
        assert!(text.contains(needle), "{text}");
        if outcome == Outcome::Fail {
            assert_eq!(found.details[0].kind, DetailKind::KernelWarning);
        }
    }

    #[test]
    fn a_fault_of_the_kernel_is_a_finding() {
        for line in [
            "WARNING: CPU: 1 PID: 77 at kernel/sched/ext.c:2000 foo+0x1/0x2",
            "WARNING: kernel/sched/core.c:12 at foo, CPU#1: w/77",
            "WARNING: possible circular locking dependency detected",
            "BUG: kernel NULL pointer dereference, address: 0000000000000010",
            "BUG: scheduling while atomic: w/77/0x00000002",
            "Oops: general protection fault, 0000 [#1] PREEMPT SMP",
            "kernel BUG at kernel/sched/core.c:1!",
            "INFO: task w:77 blocked for more than 10 seconds.",
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [w:77]",
            "psi: inconsistent task state! task=1:a cpu=0 psi_flags=4 clear=0 set=4",
            "psi: task underflow! cpu=0 t=2 tasks=[0 0 0 0] clear=4 set=0",
            "sched: RT throttling activated",
            "sched: DL replenish lagged too much",
            "bad: scheduling from the idle thread!",
            "ERROR: domain->span does not contain CPU1",
            "ERROR: groups don't span domain->span",
            "CPU1 failed to report alive state",
            "Failed to offline CPU1 - error=-16",
            "smpboot: do_boot_cpu failed(-1) to wakeup CPU#1",
        ] {
            check(&format!("4,1,5000000,-;{line}"), 0, Outcome::Fail, line);
        }
    }

    #[test]
    fn what_is_no_fault_of_the_kernel_is_at_most_a_note() {
        check("6,1,5000000,-;input: AT keyboard", 0, Outcome::Pass, "");
        check(
            "3,1,5000000,-;sched_ext: BPF scheduler \"x\" disabled",
            0,
            Outcome::Pass,
            "[] []",
        );
        check(
            "3,1,5000000,-;Buffer I/O error on dev vda",
            0,
            Outcome::Pass,
            "reported an error: Buffer I/O",
        );
        // A process may write to the log, but not as the kernel.
        check(
            "12,1,5000000,-;WARNING: not the kernel's",
            0,
            Outcome::Pass,
            "[] []",
        );
        check(
            "4,1,1000000,-;WARNING: CPU: 0 PID: 1 at boot",
            512,
            Outcome::Pass,
            "1 warnings of its own while booting",
        );
        check(
            "garbage;;,,\n;\n4,x,1,-;WARNING: ",
            0,
            Outcome::Pass,
            "[] []",
        );
    }

    #[test]
    fn taint_tells_what_a_wrapped_log_has_lost() {
        check(
            "6,9999,9000000,-;noise",
            128,
            Outcome::Fail,
            "tainted by an oops or BUG (flags 128)",
        );
        check("6,9999,9000000,-;noise", 1 << 11, Outcome::Pass, "[] []");
        let found = judge(&run("4,1,5000000,-;WARNING: CPU: 1", 512), None);
        assert_eq!(found.details.len(), 1, "told once");
    }

    #[test]
    fn an_allowed_warning_is_told_and_nothing_else_is_allowed() {
        let log =
            "4,1,5000000,-;WARNING: CPU: 1 at ext.c:7\n4,2,5000001,-;WARNING: CPU: 1 at fair.c:8";
        let allowed = regex::Regex::new(r"ext\.c").unwrap();
        let found = judge(&run(log, 512), Some(&allowed));
        assert_eq!(found.details.len(), 1, "{found:#?}");
        assert!(found.details[0].message.contains("fair.c"));
        assert!(found.info_notes[0].contains("which this test allows: WARNING: CPU: 1 at ext.c:7"));
        let only = judge(
            &run("4,1,5000000,-;WARNING: CPU: 1 at ext.c:7", 512),
            Some(&allowed),
        );
        assert!(only.is_pass(), "{only:#?}");
    }

    #[test]
    fn a_guest_that_never_ended_has_its_console() {
        let vm = VmResult {
            stderr: "[    3.100000] BUG: kernel NULL pointer dereference, address: 0\n".into(),
            ..with_messages_at(2_000_000_000, &[])
        };
        assert!(judge(&vm, None).is_fail());
    }

    #[test]
    fn a_log_full_of_warnings_stays_short() {
        let log: String = (0..1000)
            .map(|n| format!("4,{n},5000000,-;WARNING: number {n}\n"))
            .collect();
        assert_eq!(judge(&run(&log, 0), None).details.len(), MAX_FINDINGS);
    }

    #[test]
    fn a_lockup_is_excused_by_a_stall_of_the_host() {
        let log = "0,1,5000000,-;watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [w:77]";
        let mut found = judge(&run(log, 0), None);
        assert_eq!(
            found.excuse_by_stall(20_000_000_000, "vCPU 1 waited 20 s"),
            1
        );
        assert!(found.is_inconclusive());
    }
}
