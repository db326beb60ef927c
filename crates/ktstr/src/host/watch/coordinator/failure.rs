//! Which capture a failed test shows.

use std::sync::Arc;

use ktstr_monitor::FailureDumpReport;
use ktstr_monitor::sched::ScxExit;

/// The capture that a failed test shows.
#[derive(Debug, Clone)]
pub(in crate::host) struct Failure {
    /// What made it.
    pub(in crate::host) trigger: String,
    pub(super) worth: Worth,
    pub(in crate::host) report: Arc<FailureDumpReport>,
}

#[cfg(test)]
impl Failure {
    /// One whose scheduler left in this way.
    pub(in crate::host) fn of_exit_for_tests(kind: u64) -> Self {
        let scx = ktstr_monitor::sched::ScxState {
            exit_kind: Some(kind),
            ..Default::default()
        };
        Self {
            trigger: String::from("a test"),
            worth: Worth::Exit,
            report: Arc::new(FailureDumpReport {
                scx: Some(scx),
                ..FailureDumpReport::default()
            }),
        }
    }
}

/// How much a capture says about a failure; of several, the first of the most telling kind is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    Placeholder,
    /// Of a guest whose scheduler is in charge, or was never there.
    State,
    /// A scheduler left by itself or on request.
    Exit,
    /// The kernel ejected a scheduler.
    Error,
}

/// Whether a scheduler is in charge there that does not leave.
pub(super) fn is_in_charge(report: &FailureDumpReport) -> bool {
    report
        .scx
        .as_ref()
        .is_some_and(|scx| scx.state.as_deref() == Some("enabled") && scx.leaving().is_none())
}

/// `SCX_EXIT_DONE`: the exit is behind, and nothing is left to see (`enum scx_exit_kind`).
const EXIT_DONE: u64 = 1;
impl Worth {
    /// `None` for the kernel's second visit to an exit that is over.
    pub(super) fn of(report: &FailureDumpReport, is_exit: bool) -> Option<Self> {
        if report.is_placeholder {
            return Some(Self::Placeholder);
        }
        let leaving = report.scx.as_ref().and_then(|scx| scx.leaving());
        let kind = leaving.map(|leaving| leaving.kind);
        match kind {
            Some(EXIT_DONE) if is_exit => None,
            Some(ScxExit::ERROR..) if is_exit => Some(Self::Error),
            _ if is_exit => Some(Self::Exit),
            _ => Some(Self::State),
        }
    }
}
