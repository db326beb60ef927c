//! Waiting for a state of the kernel on behalf of a guest.
//!
//! ```text
//!   request ─▶ Watching ──holds──▶ Reached ──mark──▶ Acting ──mark──▶ (nothing)
//!                 └── at_most is over, or the guest waits no longer ──▶ (nothing)
//! ```
//!
//! In virtual time the state is looked at where the guest stands still after each switch and wake-up and at each tick, and from
//! `Reached` to the second mark only the vCPU of the scenario goes on. Elsewhere the host looks now and then, and answers once.

use std::time::{Duration, Instant};

use ktstr_wire::gate::UntilState;
use ktstr_wire::{
    Ahead, KernelOpReply, KernelOpRequest, Message, SnapshotKind, SnapshotRequest, Until,
    UntilReply, UntilRequest,
};

use super::{Coordinator, Machine, Use, WatchToken, gone, is_capture, short};
use crate::model::snapshot::{MissingStatsReason, SnapshotEntry};

/// How often the host looks where it cannot do so at each switch.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A state that the guest waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    request: UntilRequest,
    deadline: Instant,
    phase: Phase,
    /// Where it is looked at; none where the host looks now and then.
    watches: Vec<WatchToken>,
    next_look: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Watching,
    Reached,
    Acting,
}

impl Waiting {
    pub(super) fn due(&self) -> Option<Instant> {
        self.next_look
    }
}

/// What was done ahead, and what came of it.
#[derive(Debug)]
pub(super) enum DoneAhead {
    Snapshot(SnapshotRequest, Result<(), String>),
    KernelOp(KernelOpRequest, KernelOpReply),
}

impl<M: Machine> Coordinator<M> {
    pub(super) fn begin_waiting(&mut self, request: &UntilRequest, now: Instant) {
        self.stop_waiting();
        self.done_ahead.clear();
        let begun = match &self.blind {
            _ if self.ended => Err(gone()),
            Some(reason) => Err(reason.clone()),
            None => self.machine.begin_until(&request.any),
        };
        let watches = match begun {
            Ok(watches) => watches,
            Err(reason) => return self.answer_waiting(request.id, Err(reason)),
        };
        let uses = watches.iter().map(|token| (*token, Use::Until));
        self.watches.extend(uses);
        let is_exact = !watches.is_empty();
        self.waiting = Some(Waiting {
            request: request.clone(),
            deadline: now + Duration::from_nanos(request.at_most_ns),
            phase: Phase::Watching,
            watches,
            next_look: (!is_exact).then_some(now),
        });
        if is_exact {
            self.answer_waiting(request.id, Ok(Until::Watched));
        }
    }

    fn answer_waiting(&mut self, id: u32, result: Result<Until, String>) {
        let result = result.map_err(short);
        self.machine
            .reply(&Message::UntilReply(UntilReply { id, result }));
    }

    /// Watches nothing any more.
    pub(super) fn stop_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.unwatch_state(&waiting.watches);
            if waiting.phase != Phase::Watching {
                self.machine.run_only(None);
            }
        }
    }

    fn unwatch_state(&mut self, watches: &[WatchToken]) {
        for token in watches {
            if self.watches.remove(token).is_some() {
                self.machine.unwatch(*token);
            }
        }
        self.machine.end_until();
    }

    /// The guest stands still where its state may have changed.
    pub(super) fn look_at_state(&mut self, now: Instant) {
        let Some(waiting) = &self.waiting else { return };
        // It asked, and is not asleep yet.
        if waiting.phase != Phase::Watching || self.machine.waits_for() != waiting.request.id {
            return;
        }
        let state = match self.machine.holds(now) {
            Ok(true) => UntilState::Reached,
            Ok(false) if now < waiting.deadline => return,
            Ok(false) => UntilState::Over,
            Err(reason) => {
                tracing::warn!("a step's condition cannot be looked at any more: {reason}");
                UntilState::Failed
            }
        };
        tracing::debug!(?state, at = ?now.saturating_duration_since(self.started), cpu = waiting.request.cpu, "what the guest waits for");
        self.machine.tell_waiting(state);
        if state != UntilState::Reached {
            return self.stop_waiting();
        }
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        waiting.phase = Phase::Reached;
        let watches = std::mem::take(&mut waiting.watches);
        let (cpu, ahead) = (waiting.request.cpu, waiting.request.ahead.clone());
        for token in watches {
            if self.watches.remove(&token).is_some() {
                self.machine.unwatch(token);
            }
        }
        for act in ahead {
            self.act_ahead(act, now);
        }
        self.machine.run_only(Some(cpu));
    }

    /// The guest acts now, or has acted.
    pub(super) fn mark(&mut self, now: Instant) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        match waiting.phase {
            Phase::Watching => {}
            Phase::Reached => {
                waiting.phase = Phase::Acting;
                let state = match self.machine.holds(now) {
                    Ok(true) => UntilState::Held,
                    Ok(false) => UntilState::Lost,
                    Err(_) => UntilState::Failed,
                };
                tracing::debug!(?state, at = ?now.saturating_duration_since(self.started), "the guest acts on it");
                self.machine.tell_waiting(state);
            }
            Phase::Acting => self.stop_waiting(),
        }
    }

    /// Looks where nothing says when the state may have changed.
    pub(super) fn look_now_and_then(&mut self, now: Instant) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        if waiting.next_look.is_none_or(|at| now < at) {
            return;
        }
        waiting.next_look = Some(now + LOOK_EVERY);
        let (id, deadline) = (waiting.request.id, waiting.deadline + self.stood);
        let ahead = waiting.request.ahead.clone();
        let result = match self.machine.holds(now) {
            Ok(true) => {
                for act in ahead {
                    self.act_ahead(act, now);
                }
                Ok(Until::Reached)
            }
            Ok(false) if now < deadline => return,
            Ok(false) => Ok(Until::NotReached),
            Err(reason) => Err(reason),
        };
        self.stop_waiting();
        self.answer_waiting(id, result);
    }

    /// What the next step asks of the host is done in the very state; the guest hears of it when it asks.
    fn act_ahead(&mut self, act: Ahead, now: Instant) {
        let done = match act {
            Ahead::Snapshot(request) if is_capture(&request) => {
                let captured = self.capture();
                let result = captured.as_ref().map(drop).map_err(Clone::clone);
                let mut side = self.side(request.tag.clone(), now);
                side.step_index = side.step_index.map(|step| step.saturating_add(1));
                let stats = Err(MissingStatsReason::GuestHeld);
                self.bridge.keep(captured, SnapshotEntry { stats, ..side });
                DoneAhead::Snapshot(request, result)
            }
            Ahead::Snapshot(request) => {
                let result = match request.kind {
                    SnapshotKind::Watch => self.snapshot(&request),
                    _ => Err(String::from("only captures and watches are made ahead")),
                };
                DoneAhead::Snapshot(request, result)
            }
            Ahead::KernelOp(request) => {
                let bridge = self.bridge.clone();
                let reply =
                    bridge.dispatch_kernel_op_with(&request, |request| self.kernel_op(request));
                DoneAhead::KernelOp(request, reply)
            }
        };
        self.done_ahead.push_back(done);
    }

    /// Answers a request that was carried out ahead.
    pub(super) fn was_snapshot_done(&mut self, request: &SnapshotRequest) -> bool {
        let Some(DoneAhead::Snapshot(done, _)) = self.done_ahead.front() else {
            return false;
        };
        if (done.kind, &done.tag) != (request.kind, &request.tag) {
            return false;
        }
        if let Some(DoneAhead::Snapshot(_, result)) = self.done_ahead.pop_front() {
            self.answer(request.id, result);
        }
        true
    }

    /// The same.
    pub(super) fn was_kernel_op_done(&mut self, request: &KernelOpRequest) -> bool {
        let Some(DoneAhead::KernelOp(done, _)) = self.done_ahead.front() else {
            return false;
        };
        let asked = KernelOpRequest {
            id: done.id,
            ..request.clone()
        };
        if asked != *done {
            return false;
        }
        if let Some(DoneAhead::KernelOp(_, reply)) = self.done_ahead.pop_front() {
            let id = request.id;
            self.machine
                .reply(&Message::KernelOpReply(KernelOpReply { id, ..reply }));
        }
        true
    }
}
