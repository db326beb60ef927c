//! Gaps: was it the scheduler, or the machine below?
//!
//! A worker's gap has a part spent on a CPU and a part spent off it. Only the second is the scheduler's doing. And
//! while the host stops a vCPU, the guest charges the time to the task that runs there: one iteration then takes far
//! more CPU time than its work. The longest such stall of any worker bounds what a queueing neighbour may have lost.

use super::super::report::{Gap, WorkerReport, ns_to_ms};
use super::super::verdict::Outcome;

/// Stalls from here on are told to the user.
pub(super) const NOTEWORTHY_STALL_NS: u64 = 200_000_000;

/// What the guest knows of the machine below, beside the workers' own reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Steal time of the CPU that lost most, by the guest's `/proc/stat`; 0 where the hypervisor does not tell.
    pub guest_steal_ns: u64,
}

/// The longest time for which the host demonstrably stopped a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) ns: u64,
    /// Whether the guest's steal time says so, not a worker's iteration.
    from_steal: bool,
}

impl Stall {
    /// The longer of what workers noticed and what the guest's steal time says.
    pub(super) fn of(reports: &[WorkerReport], circumstances: Circumstances) -> Self {
        let noticed = reports.iter().map(|r| r.longest_stall_ns).max();
        let noticed_ns = noticed.unwrap_or(0);
        Self {
            ns: noticed_ns.max(circumstances.guest_steal_ns),
            from_steal: circumstances.guest_steal_ns > noticed_ns,
        }
    }

    /// Whether it is long enough to speak of.
    pub(super) fn is_noteworthy(&self) -> bool {
        self.ns >= NOTEWORTHY_STALL_NS
    }

    /// Where it was seen, with its figure.
    pub(super) fn reason(&self) -> String {
        let ms = ns_to_ms(self.ns);
        if self.from_steal {
            format!("the host stole up to {ms:.0} ms from a vCPU (/proc/stat)")
        } else {
            format!("the host stopped a vCPU for up to {ms:.0} ms")
        }
    }
}

/// What a gap means against a limit, the words for it, and the stall that would explain it.
pub(super) fn judge(gap: &Gap, limit_ms: u64, stall: &Stall) -> Option<(Outcome, String, u64)> {
    let limit_ns = limit_ms.saturating_mul(1_000_000);
    if gap.wall_ns <= limit_ns {
        return None;
    }
    let excess_ns = gap.off_cpu_ns().saturating_sub(limit_ns);
    // A few milliseconds of work within a long wait are no sign of a stopped vCPU, and the wait itself kept the limit.
    if excess_ns == 0 && gap.on_cpu_ns < NOTEWORTHY_STALL_NS {
        return None;
    }
    if excess_ns == 0 {
        let why = format!(
            "but it was on its CPU for {:.0} ms of that: the host stopped the vCPU",
            ns_to_ms(gap.on_cpu_ns)
        );
        return Some((Outcome::Inconclusive, why, 0));
    }
    if excess_ns <= stall.ns {
        let why = format!("but {}, which may explain it", stall.reason());
        return Some((Outcome::Inconclusive, why, excess_ns));
    }
    Some((Outcome::Fail, String::new(), excess_ns))
}

/// Where and when a gap was.
pub(super) fn place(gap: &Gap) -> String {
    let at = ns_to_ms(gap.at_ns);
    match gap.cpu {
        Some(cpu) => format!("on cpu {cpu} at +{at:.0} ms"),
        None => format!("from +{at:.0} ms to the end"),
    }
}
