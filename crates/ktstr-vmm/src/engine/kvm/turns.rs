//! One vCPU in the guest at a time, while watches need that.
//!
//! A write to a read-only page is emulated by KVM: it reads, computes, and leaves with the value to write. Two vCPUs that do so at
//! once would break a locked instruction. A vCPU that waits kicks the one in the guest when its slice is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a vCPU runs while others wait.
const SLICE: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    /// Waiting vCPUs, the longest first.
    waiting: Vec<usize>,
}

#[derive(Debug)]
struct Running {
    vcpu: usize,
    since: Instant,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Release on store, acquire on load; changed only while all vCPUs are parked.
    needed: AtomicBool,
    state: Mutex<State>,
    moved: Condvar,
}

/// What asking for a turn gave.
#[derive(Debug)]
pub(super) enum Turn<'t> {
    /// No turns are needed.
    Free,
    /// It is this vCPU's until this is dropped.
    Mine { _guard: InTurn<'t> },
    /// Look at the gate again, and kick this vCPU if there is one.
    Later(Option<usize>),
}

/// Ends the turn when dropped.
#[derive(Debug)]
pub(super) struct InTurn<'t>(&'t Turns);

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns are needed, or no more. All vCPUs must be parked.
    pub(super) fn need(&self, needed: bool) {
        self.needed.store(needed, Ordering::Release);
    }

    /// Asks for `vcpu`'s turn, waiting a slice at most. A vCPU that parks or ends keeps its place in the queue until it asks again or
    /// [`withdraw`](Self::withdraw)s.
    pub(super) fn ask(&self, vcpu: usize) -> Turn<'_> {
        if !self.needed.load(Ordering::Acquire) {
            return Turn::Free;
        }
        let mut state = self.lock();
        if !state.waiting.contains(&vcpu) {
            state.waiting.push(vcpu);
        }
        let until = Instant::now() + SLICE;
        loop {
            let first = state.waiting.first() == Some(&vcpu);
            if first && state.running.is_none() {
                state.waiting.remove(0);
                let since = Instant::now();
                state.running = Some(Running { vcpu, since });
                return Turn::Mine {
                    _guard: InTurn(self),
                };
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let over = |running: &Running| running.since.elapsed() >= SLICE;
                let running = state.running.as_ref().filter(|running| over(running));
                return Turn::Later(running.map(|running| running.vcpu));
            }
            state = self
                .moved
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// `vcpu` does not wait any more.
    pub(super) fn withdraw(&self, vcpu: usize) {
        self.lock().waiting.retain(|waiting| *waiting != vcpu);
        self.moved.notify_all();
    }
}

impl Drop for InTurn<'_> {
    fn drop(&mut self) {
        self.0.lock().running = None;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    #[test]
    fn without_need_everybody_is_free() {
        let turns = Turns::default();
        assert!(matches!(turns.ask(0), Turn::Free));
        assert!(matches!(turns.ask(1), Turn::Free));
    }

    #[test]
    fn one_at_a_time_and_everybody_in_turn() {
        let turns = Turns::default();
        turns.need(true);
        let inside = AtomicU32::new(0);
        let live = &|vcpu| {
            let mut done = 0;
            while done < 100 {
                let turn = turns.ask(vcpu);
                if matches!(turn, Turn::Mine { .. }) {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    done += 1;
                }
            }
            turns.withdraw(vcpu);
        };
        thread::scope(|scope| {
            for vcpu in 0..3 {
                scope.spawn(move || live(vcpu));
            }
        });
    }

    #[test]
    fn who_has_run_for_a_slice_is_to_be_kicked() {
        let turns = Turns::default();
        turns.need(true);
        let mine = turns.ask(0);
        assert!(matches!(mine, Turn::Mine { .. }));
        assert!(matches!(turns.ask(1), Turn::Later(_)));
        assert!(matches!(turns.ask(1), Turn::Later(Some(0))));
        drop(mine);
        // 1 has waited longer.
        assert!(matches!(turns.ask(0), Turn::Later(None)));
        assert!(matches!(turns.ask(1), Turn::Mine { .. }));
        turns.withdraw(0);
        assert!(matches!(turns.ask(2), Turn::Mine { .. }));
    }
}
