//! Gaps: was it the scheduler, or the machine below?
//!
//! A worker's gap has a part spent on a CPU and a part spent off it. Only the second is the scheduler's doing. And
//! while the host stops a vCPU, the guest charges the time to whoever runs there: one iteration then takes far
//! more CPU time than its work. The longest such stall of any worker bounds what a queueing neighbour may have lost.

use super::super::report::{Gap, WorkerReport, ns_to_ms};
use super::super::verdict::Outcome;

/// Stalls from here on are told to the user.
pub(super) const NOTEWORTHY_STALL_NS: u64 = 200_000_000;

/// The longest time for which the host demonstrably stopped a vCPU.
pub(super) fn host_stall_ns(reports: &[WorkerReport]) -> u64 {
    reports
        .iter()
        .map(|r| r.longest_stall_ns)
        .max()
        .unwrap_or(0)
}

/// What a gap means against a limit, and the words for it.
pub(super) fn judge(gap: &Gap, limit_ms: u64, host_stall_ns: u64) -> Option<(Outcome, String)> {
    let limit_ns = limit_ms.saturating_mul(1_000_000);
    if gap.wall_ns <= limit_ns {
        return None;
    }
    if gap.off_cpu_ns() <= limit_ns {
        let why = format!(
            "but it was on its CPU for {:.0} ms of that: the host stopped the vCPU",
            ns_to_ms(gap.on_cpu_ns)
        );
        return Some((Outcome::Inconclusive, why));
    }
    if gap.off_cpu_ns().saturating_sub(host_stall_ns) <= limit_ns {
        let why = format!(
            "but the host stopped a vCPU for up to {:.0} ms, which may explain it",
            ns_to_ms(host_stall_ns)
        );
        return Some((Outcome::Inconclusive, why));
    }
    Some((Outcome::Fail, String::new()))
}

/// Where and when a gap was.
pub(super) fn place(gap: &Gap) -> String {
    let at = ns_to_ms(gap.at_ns);
    match gap.cpu {
        Some(cpu) => format!("on cpu {cpu} at +{at:.0} ms"),
        None => format!("from +{at:.0} ms to the end"),
    }
}
