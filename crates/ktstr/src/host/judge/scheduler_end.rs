//! Why a scheduler went, and its end in words.

use ktstr_wire::SchedExit;

use crate::host::judge::bug_summary::{bug_summary, event_line};
use crate::host::judge::left::Left;
use crate::model::result::VmResult;
use crate::model::verdict::DetailKind;

/// Why the scheduler went: the kernel's word first, then its process's status, then its log.
pub(in crate::host) fn cause(
    left: &Left,
    exit: Option<&SchedExit>,
) -> Option<(DetailKind, String)> {
    let vm = &left.vm;
    let status = exit.map(|exit| exit_words(vm, exit));
    if let Some(thrown) = left.thrown_out() {
        let mut words = format!("the kernel ejected it: {}", thrown.words());
        if let Some(status) = status {
            words = format!("{words}; its process: {status}");
        }
        return Some((DetailKind::SchedulerCrashed, words));
    }
    let log = vm.scheduler_log();
    let event = event_line([log.as_str(), vm.stderr.as_str()]);
    match (exit, event) {
        (_, Some(event)) => Some((DetailKind::SchedulerCrashed, status.unwrap_or(event))),
        (Some(exit), None) if exit.code == Some(0) => {
            Some((DetailKind::SchedulerExitedCleanly, status?))
        }
        (Some(_), None) => Some((DetailKind::SchedulerCrashed, status?)),
        (None, None) => None,
    }
}

/// The scheduler's end in words: its status, and the reason that it or the kernel gave.
#[must_use]
pub(in crate::host) fn exit_words(vm: &VmResult, exit: &SchedExit) -> String {
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
