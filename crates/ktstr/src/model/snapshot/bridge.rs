//! The shared end of captures: the coordinator stores here, tests and callbacks read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ktstr_monitor::FailureDumpReport;
use ktstr_wire::{KernelOpReply, KernelOpRequest};

use super::store::Store;
use super::{BridgeEvent, MAX_USER_WATCHES, MissingStatsReason, SnapshotEntry};

type Capture = dyn Fn(&str) -> Result<FailureDumpReport, String> + Send + Sync;
type Register = dyn Fn(&str) -> Result<(), String> + Send + Sync;
type KernelOp = dyn Fn(&KernelOpRequest) -> KernelOpReply + Send + Sync;

/// Whether the kernel's memory can be read by name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessorState {
    /// Still being tried.
    Trying,
    /// It can.
    Ready,
    /// It never will in this run, for this reason.
    Failed(String),
}

/// Captures of one run. Clones share everything.
#[derive(Clone)]
pub struct SnapshotBridge {
    store: Arc<Mutex<Store>>,
    capture: Arc<Capture>,
    register: Option<Arc<Register>>,
    kernel_op: Option<Arc<KernelOp>>,
    accessor: Arc<(Mutex<AccessorState>, Condvar)>,
}

impl fmt::Debug for SnapshotBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotBridge")
            .field("len", &self.len())
            .field("watches", &self.watch_count())
            .finish_non_exhaustive()
    }
}

impl Default for SnapshotBridge {
    /// A bridge that only stores.
    fn default() -> Self {
        Self::new(|_| Err(String::from("this bridge has nothing to capture from")))
    }
}

impl SnapshotBridge {
    /// A bridge whose [`capture`](Self::capture) takes the state with this function.
    pub fn new(
        capture: impl Fn(&str) -> Result<FailureDumpReport, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            store: Arc::default(),
            capture: Arc::new(capture),
            register: None,
            kernel_op: None,
            accessor: Arc::new((Mutex::new(AccessorState::Trying), Condvar::new())),
        }
    }

    /// Adds a way to watch a symbol.
    #[must_use]
    pub fn with_watch_register(
        mut self,
        register: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.register = Some(Arc::new(register));
        self
    }

    /// Adds a way to read and write kernel memory.
    #[must_use]
    pub fn with_kernel_op(
        mut self,
        kernel_op: impl Fn(&KernelOpRequest) -> KernelOpReply + Send + Sync + 'static,
    ) -> Self {
        self.kernel_op = Some(Arc::new(kernel_op));
        self
    }

    /// Sets the state of the accessor.
    #[must_use]
    pub fn with_accessor_state(self, state: AccessorState) -> Self {
        self.set_accessor_state(state);
        self
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Captures now and keeps it as `tag`; tells whether that is a real capture. A failed one leaves a placeholder and an event.
    pub fn capture(&self, tag: &str) -> bool {
        self.capture_entry(tag, None)
    }

    /// As [`capture`](Self::capture), stamped with this step of the scenario.
    pub fn capture_with_step(&self, tag: &str, step_index: u16) -> bool {
        self.capture_entry(tag, Some(step_index))
    }

    fn capture_entry(&self, tag: &str, step_index: Option<u16>) -> bool {
        self.capture_or_reason(tag, step_index).is_ok()
    }

    /// Captures under `tag`; where that is not possible, stores the reason.
    pub(crate) fn capture_or_reason(
        &self,
        tag: &str,
        step_index: Option<u16>,
    ) -> Result<(), String> {
        // Not under the lock: a capture takes long, and may itself ask the bridge.
        let captured = (self.capture)(tag);
        let answer = match &captured {
            Ok(report) if report.is_placeholder => Err(report.reason.clone().unwrap_or_default()),
            Ok(_) => Ok(()),
            Err(reason) => Err(reason.clone()),
        };
        self.keep(
            captured,
            SnapshotEntry {
                step_index,
                ..SnapshotEntry::new(tag, FailureDumpReport::default())
            },
        );
        answer
    }

    /// Keeps what was captured with this side data; what was not leaves a placeholder and an event.
    pub(crate) fn keep(&self, captured: Result<FailureDumpReport, String>, side: SnapshotEntry) {
        let report = captured.unwrap_or_else(|reason| {
            self.lock().event(BridgeEvent::CaptureUnavailable {
                tag: side.tag.clone(),
                reason: reason.clone(),
            });
            FailureDumpReport::placeholder(reason)
        });
        self.store_entry(SnapshotEntry {
            report: Arc::new(report),
            ..side
        });
    }

    /// Keeps a report as `tag`.
    pub fn store(&self, tag: &str, report: FailureDumpReport) {
        self.store_with_stats(tag, report, Err(MissingStatsReason::NotRequested));
    }

    /// Keeps a report with the scheduler's own figures.
    pub fn store_with_stats(
        &self,
        tag: &str,
        report: FailureDumpReport,
        stats: Result<serde_json::Value, MissingStatsReason>,
    ) {
        self.store_with_stats_and_step(tag, report, stats, None);
    }

    /// Keeps a report with figures and the scenario's step.
    pub fn store_with_stats_and_step(
        &self,
        tag: &str,
        report: FailureDumpReport,
        stats: Result<serde_json::Value, MissingStatsReason>,
        step_index: Option<u16>,
    ) {
        self.store_entry(SnapshotEntry {
            stats,
            step_index,
            ..SnapshotEntry::new(tag, report)
        });
    }

    /// Keeps a capture with everything known about it.
    pub fn store_entry(&self, entry: SnapshotEntry) {
        self.lock().put(entry);
    }

    /// A capture of that name is kept.
    #[must_use]
    pub fn has(&self, tag: &str) -> bool {
        self.lock().has(tag)
    }

    /// Captures kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// None is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all captures out, by name.
    #[must_use]
    pub fn drain(&self) -> HashMap<String, Arc<FailureDumpReport>> {
        self.drain_ordered().into_iter().collect()
    }

    /// Takes all captures out, oldest first.
    #[must_use]
    pub fn drain_ordered(&self) -> Vec<(String, Arc<FailureDumpReport>)> {
        let entries = self.drain_ordered_with_stats().into_iter();
        entries.map(|entry| (entry.tag, entry.report)).collect()
    }

    /// Takes all captures out, oldest first, with their side data.
    #[must_use]
    pub fn drain_ordered_with_stats(&self) -> Vec<SnapshotEntry> {
        self.lock().drain()
    }

    /// All captures of the run, those that were taken out before too, oldest first.
    pub(crate) fn drain_all(&self) -> Vec<SnapshotEntry> {
        self.lock().drain_all()
    }

    /// Captures that made room for later ones.
    pub(crate) fn evicted(&self) -> u64 {
        self.lock().evicted
    }

    /// Periodic captures kept that are no placeholders.
    #[must_use]
    pub fn periodic_real_count(&self) -> usize {
        self.lock().periodic_real()
    }

    /// Captures at each write to `symbol` from now on.
    ///
    /// # Errors
    /// When all slots are taken, or the registration refuses or panics; its slot is then free again.
    pub fn register_watch(&self, symbol: &str) -> Result<(), String> {
        let Some(register) = &self.register else {
            return Err(String::from("this run cannot watch symbols"));
        };
        self.register_watch_with(symbol, || register(symbol))
    }

    /// As [`register_watch`](Self::register_watch), with this function in the place of the one that the bridge was given.
    pub(crate) fn register_watch_with<T>(
        &self,
        symbol: &str,
        register: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        {
            let mut store = self.lock();
            if store.watches.iter().any(|watched| watched == symbol) {
                return Err(format!("'{symbol}' is watched already"));
            }
            if store.watches.len() >= MAX_USER_WATCHES {
                return Err(format!(
                    "all {MAX_USER_WATCHES} watches of this scenario are taken; '{symbol}' would be one more"
                ));
            }
            store.watches.push(symbol.to_owned());
        }
        let done = catch_unwind(AssertUnwindSafe(register))
            .unwrap_or_else(|_| Err(String::from("the registration panicked")));
        if done.is_err() {
            self.lock().watches.retain(|watched| watched != symbol);
        }
        done
    }

    /// Another scenario begins, whose watches are its own.
    pub(crate) fn release_watches(&self) {
        self.lock().watches.clear();
    }

    /// Watches in force.
    #[must_use]
    pub fn watch_count(&self) -> usize {
        self.lock().watches.len()
    }

    /// Reads or writes kernel memory and records the reply under the request's tag.
    #[must_use]
    pub fn dispatch_kernel_op(&self, request: &KernelOpRequest) -> KernelOpReply {
        self.dispatch_kernel_op_with(request, |request| match &self.kernel_op {
            Some(kernel_op) => kernel_op(request),
            None => KernelOpReply {
                id: request.id,
                result: Err(String::from("this run cannot reach kernel memory")),
                values: Vec::new(),
            },
        })
    }

    /// As [`dispatch_kernel_op`](Self::dispatch_kernel_op), carried out by this function.
    pub(crate) fn dispatch_kernel_op_with(
        &self,
        request: &KernelOpRequest,
        kernel_op: impl FnOnce(&KernelOpRequest) -> KernelOpReply,
    ) -> KernelOpReply {
        let reply = kernel_op(request);
        self.record_kernel_op_reply(&request.tag, reply.clone());
        reply
    }

    /// Records a reply under `tag`.
    pub fn record_kernel_op_reply(&self, tag: &str, reply: KernelOpReply) {
        self.lock().put_kernel_op(tag.to_owned(), reply);
    }

    /// Takes all recorded replies out, oldest first.
    #[must_use]
    pub fn drain_kernel_ops(&self) -> Vec<(String, KernelOpReply)> {
        self.lock().drain_kernel_ops()
    }

    /// The newest reply under `tag`.
    #[must_use]
    pub fn kernel_op_value(&self, tag: &str) -> Option<KernelOpReply> {
        self.lock().kernel_op(tag)
    }

    /// Records a cgroup's processes under `tag`.
    pub fn record_cgroup_procs(&self, tag: &str, pids: Vec<i32>) {
        self.lock().put_cgroup_procs(tag.to_owned(), pids);
    }

    /// The processes recorded under `tag`, which stay recorded.
    #[must_use]
    pub fn cgroup_procs_by_tag(&self, tag: &str) -> Option<Vec<i32>> {
        self.lock().cgroup_procs(tag)
    }

    /// Takes all recorded processes out.
    #[must_use]
    pub fn drain_cgroup_procs(&self) -> HashMap<String, Vec<i32>> {
        self.lock().drain_cgroup_procs()
    }

    /// Takes all events out, oldest first.
    #[must_use]
    pub fn drain_events(&self) -> Vec<BridgeEvent> {
        self.lock().drain_events()
    }

    /// Keeps an event.
    pub fn record_event(&self, event: BridgeEvent) {
        self.lock().event(event);
    }

    /// Events kept.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.lock().event_count()
    }

    /// Tells the waiting threads how the accessor stands.
    pub fn set_accessor_state(&self, state: AccessorState) {
        let (current, changed) = &*self.accessor;
        *current.lock().unwrap_or_else(PoisonError::into_inner) = state;
        changed.notify_all();
    }

    /// Waits until kernel memory can be read by name.
    ///
    /// # Errors
    /// When it never will, with the reason; or not within `deadline`, while it is still being tried.
    pub fn wait_for_accessor(&self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        let (state, changed) = &*self.accessor;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                AccessorState::Ready => return Ok(()),
                AccessorState::Failed(reason) => {
                    return Err(format!("kernel memory cannot be read: {reason}"));
                }
                AccessorState::Trying => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "kernel memory cannot be read yet; still trying after {} ms",
                    deadline.as_millis()
                ));
            }
            state = changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Makes this the bridge of the calling thread until the guard goes.
    #[must_use]
    pub fn set_thread_local(&self) -> BridgeGuard {
        let previous = CURRENT.with(|current| current.replace(Some(self.clone())));
        BridgeGuard {
            previous,
            _not_send: std::marker::PhantomData,
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<SnapshotBridge>> = const { RefCell::new(None) };
}

/// The calling thread's bridge.
#[must_use]
pub fn current_bridge() -> Option<SnapshotBridge> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Restores the thread's previous bridge.
#[derive(Debug)]
pub struct BridgeGuard {
    previous: Option<SnapshotBridge>,
    /// It belongs to the thread that made it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for BridgeGuard {
    fn drop(&mut self) {
        let previous = self.previous.take();
        CURRENT.with(|current| current.replace(previous));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_failed_capture_leaves_a_placeholder_and_an_event() {
        let bridge = SnapshotBridge::new(|tag| Err(format!("{tag}: the guest is gone")));
        assert!(!bridge.capture_with_step("x", 2));
        let entries = bridge.drain_ordered_with_stats();
        assert!(entries[0].report.is_placeholder);
        assert_eq!(entries[0].step_index, Some(2));
        assert!(matches!(
            bridge.drain_events().as_slice(),
            [BridgeEvent::CaptureUnavailable { reason, .. }] if reason.contains("gone")
        ));
    }

    #[test]
    fn a_fourth_watch_is_refused_and_failed_ones_give_their_slot_back() {
        let bridge = SnapshotBridge::default().with_watch_register(|symbol| match symbol {
            "missing" => Err(String::from("no such symbol")),
            "panics" => panic!("registering"),
            _ => Ok(()),
        });
        bridge.register_watch("missing").unwrap_err();
        let panicked = bridge.register_watch("panics").unwrap_err();
        assert!(panicked.contains("panicked"), "{panicked}");
        assert_eq!(bridge.watch_count(), 0);
        for symbol in ["a", "b", "c"] {
            bridge.register_watch(symbol).unwrap();
        }
        let refused = bridge.register_watch("d").unwrap_err();
        assert!(
            refused.contains("all 3 watches") && refused.contains("'d'"),
            "{refused}"
        );
        assert_eq!(bridge.watch_count(), 3);
    }

    #[test]
    fn the_previous_bridge_of_a_thread_comes_back() {
        assert!(current_bridge().is_none());
        let (outer, inner) = (SnapshotBridge::default(), SnapshotBridge::default());
        outer.store("outer", FailureDumpReport::default());
        let guard = outer.set_thread_local();
        {
            let _guard = inner.set_thread_local();
            assert!(current_bridge().unwrap().is_empty());
        }
        assert!(current_bridge().unwrap().has("outer"));
        drop(guard);
        assert!(current_bridge().is_none());
    }

    #[test]
    fn a_wait_for_the_accessor_ends_with_an_answer() {
        let bridge = SnapshotBridge::default();
        let trying = bridge
            .wait_for_accessor(Duration::from_millis(5))
            .unwrap_err();
        assert!(trying.contains("still trying after 5 ms"), "{trying}");
        let waiter = {
            let bridge = bridge.clone();
            thread::spawn(move || bridge.wait_for_accessor(Duration::from_secs(30)))
        };
        bridge.set_accessor_state(AccessorState::Ready);
        waiter.join().unwrap().unwrap();
        bridge.set_accessor_state(AccessorState::Failed("no BTF".into()));
        let failed = bridge
            .wait_for_accessor(Duration::from_secs(30))
            .unwrap_err();
        assert!(failed.contains("no BTF"), "{failed}");
    }

    #[test]
    fn a_reply_is_found_by_its_tag() {
        let bridge = SnapshotBridge::default();
        let request = KernelOpRequest {
            id: 4,
            mode: ktstr_wire::KernelOpMode::Hot,
            direction: ktstr_wire::KernelOpDirection::Read,
            tag: "jiffies".into(),
            entries: Vec::new(),
        };
        let reply = bridge.dispatch_kernel_op(&request);
        assert!(reply.result.is_err());
        assert_eq!(bridge.kernel_op_value("jiffies"), Some(reply));
        assert_eq!(bridge.drain_kernel_ops().len(), 1);
        bridge.record_cgroup_procs("g", vec![3, 4]);
        for _ in 0..2 {
            assert_eq!(bridge.cgroup_procs_by_tag("g"), Some(vec![3, 4]));
        }
        assert_eq!(bridge.drain_cgroup_procs().len(), 1);
        assert_eq!(bridge.cgroup_procs_by_tag("g"), None);
    }
}
