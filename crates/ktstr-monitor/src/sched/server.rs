//! `struct sched_dl_entity` of a deadline server: what keeps the fair and ext classes alive beside real-time tasks.

use serde::Serialize;

use crate::{Object, Problems};

/// A server's budget, and whether it may spend it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DlServer {
    /// Budget of each period, nanoseconds.
    pub dl_runtime: Option<u64>,
    /// The period, nanoseconds.
    pub dl_period: Option<u64>,
    /// What is left of the budget, nanoseconds.
    pub runtime: Option<i64>,
    /// When the budget is to be spent by, on the CPU's clock, nanoseconds.
    pub deadline: Option<u64>,
    /// Whether it has started (6.13 and later).
    pub active: Option<bool>,
    /// Whether its budget is used up until the next period.
    pub throttled: Option<bool>,
    /// Whether it waits with spending until its tasks would starve.
    pub deferred: Option<bool>,
    /// Whether it runs its tasks now, after it has waited.
    pub running: Option<bool>,
}

impl DlServer {
    /// The server at `path` in a runqueue; none where the kernel has none.
    pub(super) fn read(
        rq: &Object<'_>,
        path: &'static str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let server = problems.keep(path, rq.member(path))?;
        let mut number = |path| problems.keep(path, server.uint(path));
        let flag = |value: Option<u64>| value.map(|value| value != 0);
        Some(Self {
            dl_runtime: number("dl_runtime"),
            dl_period: number("dl_period"),
            deadline: number("deadline"),
            active: flag(number("dl_server_active")),
            throttled: flag(number("dl_throttled")),
            deferred: flag(number("dl_defer")),
            running: flag(number("dl_defer_running")),
            runtime: problems.keep("runtime", server.int("runtime")),
        })
    }
}
