//! What the threads of a VM share, and how it comes to its end.
//!
//! ```text
//!   vCPU, deadline or user: end(reason) -> first reason is kept, keeper wakes
//!   keeper: gate.stop, kick until every vCPU thread is gone -> ended, exit event
//! ```

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bus::Bus;
use super::debug::Watches;
use super::kick::Kicker;
use super::slots::Slots;
use super::tsc::Tsc;
use super::turns::Turns;
use crate::console::{ConsoleLog, kernel_panic};
use crate::devices::gate::Gate;
use crate::devices::virtio::Workers;
use crate::exit::{ExitReason, VcpuRegs};
use crate::memory::GuestMemory;
use crate::standstill::StandStill;

/// A kick is repeated after this time; one is enough unless the host loses signals.
const KICK_AGAIN: Duration = Duration::from_millis(20);
/// A vCPU that does not leave the guest in this time is stuck in the host's kernel.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a VM ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    PowerOff,
    Reset,
    TripleFault,
    Panic,
    Killed,
    Deadline,
    /// The engine or the host failed; the text says how.
    Broken(String),
}

#[derive(Debug, Default)]
struct State {
    end: Option<End>,
    /// The reason as reported, and when the last vCPU had left.
    ended: Option<(ExitReason, Instant)>,
    still: StandStill,
}

/// What a control is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) bus: Bus,
    pub(super) slots: Arc<Slots>,
    pub(super) memory: GuestMemory,
    pub(super) workers: Arc<Workers>,
    pub(super) com1: ConsoleLog,
    pub(super) exit_event: OwnedFd,
    pub(super) deadline: Instant,
    /// Where the guest's clock is its TSC.
    pub(super) tsc: Option<Tsc>,
}

/// Shared by vCPU threads, keeper and user.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) gate: Gate<VcpuRegs>,
    pub(super) kicker: Kicker,
    pub(super) watches: Watches,
    pub(super) turns: Turns,
    pub(super) slots: Arc<Slots>,
    pub(super) memory: GuestMemory,
    pub(super) bus: Bus,
    pub(super) workers: Arc<Workers>,
    pub(super) com1: ConsoleLog,
    pub(super) exit_event: OwnedFd,
    pub(super) tsc: Option<Tsc>,
    deadline: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    pub(super) fn new(vcpus: usize, parts: Parts) -> Self {
        Self {
            gate: Gate::new(vcpus),
            kicker: Kicker::new(vcpus),
            watches: Watches::default(),
            turns: Turns::default(),
            slots: parts.slots,
            memory: parts.memory,
            bus: parts.bus,
            workers: parts.workers,
            com1: parts.com1,
            exit_event: parts.exit_event,
            tsc: parts.tsc,
            deadline: parts.deadline,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the VM; the first reason given is the one reported.
    pub(super) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// For a vCPU thread: announces its hits, after asking every vCPU to park once per hit that holds the guest.
    pub(super) fn hold(&self, holds: u32) {
        for _ in 0..holds {
            self.gate.close();
        }
        if holds > 0 {
            self.kicker.kick_all();
        }
        self.watches.announce();
    }

    /// A freeze that was asked for at `began` holds: the deadline waits for its end.
    pub(super) fn begin_frozen(&self, began: Instant) {
        self.lock().still.begin(began);
        self.changed.notify_all();
    }

    /// A freeze has ended.
    pub(super) fn end_frozen(&self) {
        self.lock().still.end(Instant::now());
        self.changed.notify_all();
    }

    /// All frozen time so far.
    pub(super) fn frozen(&self) -> Duration {
        self.lock().still.total(Instant::now())
    }

    /// How it ended, once it has.
    pub(super) fn ended(&self) -> Option<(ExitReason, Instant)> {
        self.lock().ended.clone()
    }

    /// Waits until `until` at most; tells whether the VM has ended.
    pub(super) fn wait_ended(&self, until: Instant) -> bool {
        let mut state = self.lock();
        while state.ended.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// The keeper thread's life.
    pub(super) fn keep(&self) {
        let end = self.wait_for_end();
        self.gate.stop();
        let until = Instant::now() + LEAVE_DEADLINE;
        let stuck = self.until_kicked(until, |gate, until| gate.wait_gone(until));
        let at = Instant::now();
        let reason = if stuck.is_empty() {
            classify(end, &self.com1)
        } else {
            ExitReason::EngineDied {
                status: format!(
                    "vCPUs {stuck:?} did not leave the guest within {LEAVE_DEADLINE:?}"
                ),
                stderr: String::new(),
            }
        };
        self.watches.end();
        self.workers.gate.stop();
        self.workers.wake_all();
        self.lock().ended = Some((reason, at));
        self.changed.notify_all();
        // The counter cannot overflow: this is its only writer.
        let _ = rustix::io::write(&self.exit_event, &1u64.to_ne_bytes());
    }

    fn wait_for_end(&self) -> End {
        let mut state = self.lock();
        loop {
            if let Some(end) = &state.end {
                return end.clone();
            }
            let Some(left) = state.still.left(self.deadline, Instant::now()) else {
                state.end = Some(End::Deadline);
                continue;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Parks vCPUs, then device threads; gives those that did not park until `until`.
    pub(super) fn park(&self, until: Instant) -> Vec<String> {
        self.gate.close();
        self.workers.gate.close();
        let missing = self.until_kicked(until, |gate, until| gate.wait_parked(until));
        let mut names: Vec<String> = missing.iter().map(|vcpu| format!("vCPU {vcpu}")).collect();
        self.workers.wake_all();
        let missing = self.workers.gate.wait_parked(until);
        names.extend(
            missing
                .iter()
                .map(|index| format!("device {}", self.workers.name(*index))),
        );
        names
    }

    /// Takes a [`park`](Self::park) back.
    pub(super) fn unpark(&self) {
        self.workers.gate.open();
        self.gate.open();
    }

    /// Kicks until `missing` is empty or `until` has come; gives what is missing then.
    pub(super) fn until_kicked(
        &self,
        until: Instant,
        missing: impl Fn(&Gate<VcpuRegs>, Instant) -> Vec<u32>,
    ) -> Vec<u32> {
        loop {
            self.kicker.kick_all();
            let missing = missing(&self.gate, until.min(Instant::now() + KICK_AGAIN));
            if missing.is_empty() || Instant::now() >= until {
                return missing;
            }
        }
    }
}

/// The reason as the user sees it; the guest's console tells what a reset means.
fn classify(end: End, com1: &ConsoleLog) -> ExitReason {
    let by_console = |otherwise| {
        let console = com1.snapshot();
        let console = String::from_utf8_lossy(&console);
        if kernel_panic(&console).is_some() {
            ExitReason::Panic
        } else if console.contains("reboot: ") {
            ExitReason::Reboot
        } else {
            otherwise
        }
    };
    match end {
        End::PowerOff => ExitReason::PowerOff,
        End::Reset => by_console(ExitReason::Reboot),
        End::TripleFault => by_console(ExitReason::TripleFault),
        End::Panic => ExitReason::Panic,
        End::Killed => ExitReason::Killed,
        End::Deadline => ExitReason::Deadline,
        End::Broken(status) => ExitReason::EngineDied {
            status,
            stderr: String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(end: End, console: &[u8], expected: &ExitReason) {
        let log = ConsoleLog::default();
        log.push(console);
        assert_eq!(classify(end, &log), *expected);
    }

    #[test]
    fn ends_are_told_apart() {
        check(End::PowerOff, b"", &ExitReason::PowerOff);
        check(End::Reset, b"", &ExitReason::Reboot);
        check(
            End::Reset,
            b"Kernel panic - not syncing: x\nreboot: ",
            &ExitReason::Panic,
        );
        check(End::TripleFault, b"early", &ExitReason::TripleFault);
        check(
            End::TripleFault,
            b"[1.0] reboot: Restarting system",
            &ExitReason::Reboot,
        );
        check(End::Deadline, b"reboot: ", &ExitReason::Deadline);
    }
}
