//! The freeze rendezvous: vCPU threads pass a gate before each entry into the guest.
//!
//! ```text
//!   freezer                              vCPU thread
//!   close(): freezes + 1, attention      …in the guest
//!   kick every thread  ----------------> leaves the guest, sees attention
//!   wait_parked()      <---------------- pass(): leaves its registers, waits
//!   …reads registers and memory…
//!   open(): freezes - 1  --------------> goes on
//! ```
//!
//! A thread that has ended counts as parked: it will not run again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a vCPU thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Enter the guest.
    Run,
    /// Enter the guest again, after standing still.
    Resumed,
    /// End the thread.
    Leave,
}

#[derive(Debug, Clone)]
enum Place<T> {
    /// In the guest, or on its way.
    Running,
    Parked(Box<T>),
    Gone,
}

#[derive(Debug)]
struct State<T> {
    freezes: u32,
    stop: bool,
    places: Vec<Place<T>>,
}

/// Shared by all threads of a kind and the one that freezes the VM. `T` is what a thread leaves when it parks: registers for a
/// vCPU, nothing for a device.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    /// `freezes > 0 || stop`. Release on store, acquire on load: a thread that is kicked after the store sees it.
    attention: AtomicBool,
    state: Mutex<State<T>>,
    /// A place changed.
    arrived: Condvar,
    /// `freezes` or `stop` changed.
    moved: Condvar,
}

impl<T: Clone> Gate<T> {
    /// An open gate for `threads` threads.
    pub(crate) fn new(threads: usize) -> Self {
        let state = State {
            freezes: 0,
            stop: false,
            places: vec![Place::Running; threads],
        };
        Self {
            attention: AtomicBool::new(false),
            state: Mutex::new(state),
            arrived: Condvar::new(),
            moved: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.lock();
        change(&mut state);
        let attention = state.freezes > 0 || state.stop;
        self.attention.store(attention, Ordering::Release);
        drop(state);
        self.moved.notify_all();
    }

    /// For a vCPU thread: waits here while the gate is closed, with its registers left for the freezer.
    pub(crate) fn pass(&self, vcpu: usize, registers: impl FnOnce() -> T) -> Pass {
        if !self.is_closed() {
            return Pass::Run;
        }
        let registers = Box::new(registers());
        let mut state = self.lock();
        if let Some(place) = state.places.get_mut(vcpu) {
            *place = Place::Parked(registers);
        }
        self.arrived.notify_all();
        while state.freezes > 0 && !state.stop {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(place) = state.places.get_mut(vcpu) {
            *place = Place::Running;
        }
        if state.stop {
            Pass::Leave
        } else {
            Pass::Resumed
        }
    }

    /// For a vCPU thread: its last word.
    pub(crate) fn leave(&self, vcpu: usize) {
        if let Some(place) = self.lock().places.get_mut(vcpu) {
            *place = Place::Gone;
        }
        self.arrived.notify_all();
    }

    /// A vCPU that passes now would park or leave.
    pub(crate) fn is_closed(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Number of vCPUs.
    pub(crate) fn len(&self) -> usize {
        self.lock().places.len()
    }

    /// Asks every vCPU to park. Each call needs its [`open`](Self::open).
    pub(crate) fn close(&self) {
        self.update(|state| state.freezes += 1);
    }

    /// Takes one [`close`](Self::close) back.
    pub(crate) fn open(&self) {
        self.update(|state| state.freezes = state.freezes.saturating_sub(1));
    }

    /// Asks every vCPU thread to end, for good.
    pub(crate) fn stop(&self) {
        self.update(|state| state.stop = true);
    }

    /// The threads were asked to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Waits until `until` at most; gives the vCPUs that still run.
    pub(crate) fn wait_parked(&self, until: Instant) -> Vec<u32> {
        self.wait(until, |place| matches!(place, Place::Running))
    }

    /// Waits until `until` at most; gives the vCPUs whose threads have not ended.
    pub(crate) fn wait_gone(&self, until: Instant) -> Vec<u32> {
        self.wait(until, |place| !matches!(place, Place::Gone))
    }

    fn wait(&self, until: Instant, is_missing: fn(&Place<T>) -> bool) -> Vec<u32> {
        let mut state = self.lock();
        loop {
            let missing: Vec<u32> = (0..)
                .zip(&state.places)
                .filter(|(_, place)| is_missing(place))
                .map(|(vcpu, _)| vcpu)
                .collect();
            let left = until.saturating_duration_since(Instant::now());
            if missing.is_empty() || left.is_zero() {
                return missing;
            }
            state = self
                .arrived
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The registers of all parked vCPUs, in order.
    pub(crate) fn registers(&self) -> Vec<T> {
        let parked = |place: &Place<T>| match place {
            Place::Parked(registers) => Some((**registers).clone()),
            Place::Running | Place::Gone => None,
        };
        self.lock().places.iter().filter_map(parked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::Duration;

    use crate::exit::VcpuRegs;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn vcpu(
        gate: &Arc<Gate<VcpuRegs>>,
        count: &Arc<AtomicU64>,
        index: u32,
    ) -> thread::JoinHandle<()> {
        let (gate, count) = (Arc::clone(gate), Arc::clone(count));
        let place = usize::try_from(index).unwrap();
        thread::spawn(move || {
            let registers = || VcpuRegs {
                vcpu: index,
                ..VcpuRegs::default()
            };
            while gate.pass(place, registers) != Pass::Leave {
                count.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
            gate.leave(place);
        })
    }

    #[test]
    fn nobody_runs_while_it_is_closed() {
        let (gate, count) = (Arc::new(Gate::new(3)), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..3).map(|index| vcpu(&gate, &count, index)).collect();
        for _ in 0..200 {
            gate.close();
            assert_eq!(gate.wait_parked(soon()), [0u32; 0]);
            let before = count.load(Ordering::Relaxed);
            let vcpus: Vec<u32> = gate.registers().iter().map(|regs| regs.vcpu).collect();
            assert_eq!(vcpus, [0, 1, 2]);
            thread::yield_now();
            assert_eq!(count.load(Ordering::Relaxed), before);
            gate.open();
        }
        gate.stop();
        assert_eq!(gate.wait_gone(soon()), [0u32; 0]);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn the_vcpu_that_did_not_park_is_named() {
        let gate: Arc<Gate<VcpuRegs>> = Arc::new(Gate::new(2));
        gate.leave(0);
        gate.close();
        assert_eq!(gate.wait_parked(Instant::now()), [1]);
        gate.leave(1);
        assert_eq!(gate.wait_parked(Instant::now()), [0u32; 0]);
        assert!(gate.registers().is_empty());
    }

    #[test]
    fn freezes_nest_and_a_stop_ends_them() {
        let (gate, count) = (Arc::new(Gate::new(1)), Arc::new(AtomicU64::new(0)));
        gate.close();
        gate.close();
        let thread = vcpu(&gate, &count, 0);
        assert!(gate.wait_parked(soon()).is_empty());
        gate.open();
        assert_eq!(gate.registers().len(), 1);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        gate.stop();
        thread.join().unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
