//! The watches of a VM and their hits.
//!
//! Most are in the four debug registers, which every vCPU arms for itself (Intel SDM 3, "Debug Registers"). Where those do not work, watches lie
//! in guest memory: a read-only page for a write, an instruction that leaves the guest for an execution.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};

use super::translate::page_of;

use crate::error::{Error, Result};
use crate::time::from_now;
use crate::watch::{Watch, WatchHit, WatchId, WatchKind};

/// Debug registers of an x86 CPU, and as many watches in memory.
const SLOTS: usize = 4;
/// DR7: always-one bit, exact breakpoints.
const DR7_BASE: u64 = 0x700;
/// Hits that were not fetched; later ones are dropped.
const MAX_HITS: usize = 4096;

#[derive(Debug, Default)]
struct State {
    slots: [Option<(WatchId, Watch)>; SLOTS],
    in_memory: Vec<InMemory>,
    /// Watches whose hits stop the guest.
    holding: HashSet<WatchId>,
    /// Held hits that were not released yet.
    held: u32,
    next_id: u32,
    hits: VecDeque<WatchHit>,
    ended: bool,
}

/// A watch that lies in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InMemory {
    pub(crate) id: WatchId,
    pub(crate) watch: Watch,
    /// Where its address is, which must not change while it is watched.
    pub(crate) gpa: u64,
    /// The first bytes there when it was set.
    pub(crate) original: [u8; 2],
}

/// What a debug exit means for its vCPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    /// An execution breakpoint was hit, whose instruction has not run yet.
    pub(crate) executed: bool,
    /// So many hits want the guest to stand still.
    pub(crate) holds: u32,
}

impl State {
    /// Keeps a hit, unless there are too many; gives how many want the guest to stand still, 0 or 1.
    fn push(&mut self, id: WatchId, vcpu: u32, rip: u64) -> u32 {
        if self.hits.len() >= MAX_HITS {
            return 0;
        }
        let held = self.holding.contains(&id);
        self.held += u32::from(held);
        self.hits.push_back(WatchHit {
            id,
            vcpu,
            rip,
            held,
        });
        u32::from(held)
    }
}

impl InMemory {
    pub(crate) fn is_write(&self) -> bool {
        self.watch.kind == WatchKind::Write
    }
}

fn refused(watch: Watch, reason: String) -> Error {
    Error::Refused {
        what: format!("watch {:#x}", watch.gva),
        reason,
    }
}

/// Refuses what no debug register could hold.
fn check(watch: Watch) -> Result<()> {
    if watch.kind != WatchKind::Write {
        return Ok(());
    }
    if !matches!(watch.len, 1 | 2 | 4 | 8) {
        let reason = format!("a length of 1, 2, 4 or 8 was expected, not {}", watch.len);
        return Err(refused(watch, reason));
    }
    if !watch.gva.is_multiple_of(u64::from(watch.len)) {
        let reason = format!("the address is not aligned to {}", watch.len);
        return Err(refused(watch, reason));
    }
    Ok(())
}

/// The watches of a VM and their hits.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// Counts changes of the slots; a vCPU that has armed another number arms again. Release on store, acquire on load.
    epoch: AtomicU32,
    state: Mutex<State>,
    came: Condvar,
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot; vCPUs arm it when they next enter the guest.
    pub(crate) fn add(&self, watch: Watch, hold: bool) -> Result<WatchId> {
        check(watch)?;
        let mut state = self.lock();
        let id = WatchId(state.next_id);
        let Some(slot) = state.slots.iter_mut().find(|slot| slot.is_none()) else {
            return Err(refused(
                watch,
                format!("all {SLOTS} debug registers are taken; end another watch first"),
            ));
        };
        *slot = Some((id, watch));
        self.added(&mut state, id, hold);
        Ok(id)
    }

    /// Notes a watch that was put into guest memory at `gpa`, where `original` are the first bytes.
    pub(crate) fn add_in_memory(
        &self,
        watch: Watch,
        gpa: u64,
        original: [u8; 2],
        hold: bool,
    ) -> Result<WatchId> {
        check(watch)?;
        let mut state = self.lock();
        if state.in_memory.len() >= SLOTS {
            let reason = format!("{SLOTS} are watched already; end another watch first");
            return Err(refused(watch, reason));
        }
        let id = WatchId(state.next_id);
        state.in_memory.push(InMemory {
            id,
            watch,
            gpa,
            original,
        });
        self.added(&mut state, id, hold);
        Ok(id)
    }

    fn added(&self, state: &mut State, id: WatchId, hold: bool) {
        if hold {
            state.holding.insert(id);
        }
        state.next_id = state.next_id.wrapping_add(1);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// The watches in guest memory.
    pub(crate) fn in_memory(&self) -> Vec<InMemory> {
        self.lock().in_memory.clone()
    }

    /// The pages that guests must not write unnoticed.
    pub(crate) fn pages(&self) -> BTreeSet<u64> {
        let state = self.lock();
        let writes = state.in_memory.iter().filter(|watch| watch.is_write());
        writes.map(|watch| page_of(watch.gpa)).collect()
    }

    /// The breakpoint at a guest virtual address.
    pub(crate) fn breakpoint_at(&self, gva: u64) -> Option<InMemory> {
        let state = self.lock();
        let mut found = state.in_memory.iter().filter(|watch| !watch.is_write());
        found.find(|watch| watch.watch.gva == gva).copied()
    }

    /// `vcpu` has written `len` bytes at `gpa`, and `rip` is behind the instruction.
    pub(crate) fn written(&self, vcpu: u32, gpa: u64, len: u64, rip: u64) -> Hit {
        let overlaps = |watch: &InMemory| {
            watch.is_write()
                && watch.gpa < gpa.saturating_add(len)
                && gpa < watch.gpa.saturating_add(watch.watch.len.into())
        };
        self.hit_where(vcpu, rip, overlaps)
    }

    /// `vcpu` has come to the breakpoint `id`.
    pub(crate) fn hit_in_memory(&self, vcpu: u32, id: WatchId, rip: u64) -> Hit {
        self.hit_where(vcpu, rip, |watch| watch.id == id)
    }

    fn hit_where(&self, vcpu: u32, rip: u64, hit_by: impl Fn(&InMemory) -> bool) -> Hit {
        let mut state = self.lock();
        let mut hit = Hit::default();
        let ids: Vec<WatchId> = state
            .in_memory
            .iter()
            .filter(|watch| hit_by(watch))
            .map(|watch| watch.id)
            .collect();
        for id in ids {
            hit.holds += state.push(id, vcpu, rip);
        }
        hit
    }

    /// Ends a watch; gives it when it lies in guest memory.
    pub(crate) fn remove(&self, id: WatchId) -> Result<Option<InMemory>> {
        let mut state = self.lock();
        let in_memory = state.in_memory.iter().position(|watch| watch.id == id);
        let slot = state
            .slots
            .iter_mut()
            .find(|slot| matches!(slot, Some((found, _)) if *found == id));
        let removed = match (slot, in_memory) {
            (Some(slot), _) => {
                *slot = None;
                None
            }
            (None, Some(place)) => Some(state.in_memory.remove(place)),
            (None, None) => {
                return Err(Error::Refused {
                    what: format!("end watch {}", id.0),
                    reason: String::from("there is no such watch"),
                });
            }
        };
        state.holding.remove(&id);
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(removed)
    }

    /// What a vCPU shall arm, if that is not what it armed at `epoch`, which is updated.
    pub(crate) fn to_arm(&self, epoch: &mut u32) -> Option<kvm_guest_debug> {
        let now = self.epoch.load(Ordering::Acquire);
        if now == *epoch {
            return None;
        }
        *epoch = now;
        Some(registers(&self.lock().slots))
    }

    /// What a vCPU has to have armed, at the epoch that this updates.
    pub(crate) fn all(&self, epoch: &mut u32) -> kvm_guest_debug {
        *epoch = self.epoch.load(Ordering::Acquire);
        registers(&self.lock().slots)
    }

    /// A debug exit on `vcpu` with these `dr6` and instruction pointer.
    pub(crate) fn hit(&self, vcpu: u32, dr6: u64, rip: u64) -> Hit {
        let mut state = self.lock();
        let mut hit = Hit::default();
        for index in 0..SLOTS {
            let Some(Some((id, watch))) = state.slots.get(index).copied() else {
                continue;
            };
            if dr6 >> index & 1 == 0 {
                continue;
            }
            hit.executed |= watch.kind == WatchKind::Exec;
            hit.holds += state.push(id, vcpu, rip);
        }
        hit
    }

    /// Wakes the waiting threads; apart from [`hit`](Self::hit), so that the gate is closed first.
    pub(crate) fn announce(&self) {
        self.came.notify_all();
    }

    /// Takes one held hit back.
    pub(crate) fn release(&self) -> Result<()> {
        let mut state = self.lock();
        state.held = state.held.checked_sub(1).ok_or_else(|| Error::Refused {
            what: String::from("release a hit"),
            reason: String::from("none is held"),
        })?;
        Ok(())
    }

    /// No hit will come any more.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.came.notify_all();
    }

    /// The next hit, waiting for it `deadline` long.
    pub(crate) fn next(&self, deadline: Duration) -> Option<WatchHit> {
        let until = from_now(deadline);
        let mut state = self.lock();
        loop {
            if let Some(hit) = state.hits.pop_front() {
                return Some(hit);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self
                .came
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// DR0 to DR3 and DR7.
fn registers(slots: &[Option<(WatchId, Watch)>; SLOTS]) -> kvm_guest_debug {
    let mut debug = kvm_guest_debug::default();
    let mut dr7 = DR7_BASE;
    for (index, slot) in slots.iter().enumerate() {
        let Some((_, watch)) = slot else { continue };
        if let Some(register) = debug.arch.debugreg.get_mut(index) {
            *register = watch.gva;
        }
        let (on, len) = match (watch.kind, watch.len) {
            (WatchKind::Exec, _) => (0u64, 0u64),
            (WatchKind::Write, 1) => (1, 0),
            (WatchKind::Write, 2) => (1, 1),
            (WatchKind::Write, 8) => (1, 2),
            (WatchKind::Write, _) => (1, 3),
        };
        dr7 |= 3 << (2 * index) | (len << 2 | on) << (16 + 4 * index);
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    }
    if let Some(register) = debug.arch.debugreg.get_mut(7) {
        *register = dr7;
    }
    debug
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(gva: u64, len: u8) -> Watch {
        Watch {
            gva,
            len,
            kind: WatchKind::Write,
        }
    }

    #[test]
    fn a_four_byte_write_watch_is_dr7_0xd0703() {
        let watches = Watches::default();
        watches.add(write(0xffff_8000, 4), false).unwrap();
        let mut epoch = 0;
        let debug = watches.to_arm(&mut epoch).unwrap();
        assert_eq!(debug.arch.debugreg[0], 0xffff_8000);
        assert_eq!(debug.arch.debugreg[7], 0xd_0703);
        assert!(watches.to_arm(&mut epoch).is_none());
    }

    #[test]
    fn hits_name_their_watch_and_slots_return() {
        let watches = Watches::default();
        let ids: Vec<WatchId> = (0..4)
            .map(|n| watches.add(write(n * 8, 8), false).unwrap())
            .collect();
        let error = watches.add(write(64, 8), false).unwrap_err().to_string();
        assert!(error.contains("all 4 debug registers"), "{error}");
        assert_eq!(watches.hit(3, 0b100, 0x1234), Hit::default());
        let hit = watches.next(Duration::ZERO).unwrap();
        assert_eq!((hit.id, hit.vcpu, hit.rip), (ids[2], 3, 0x1234));
        watches.remove(ids[2]).unwrap();
        watches.remove(ids[2]).unwrap_err();
        let exec = Watch {
            gva: 1,
            len: 0,
            kind: WatchKind::Exec,
        };
        let exec = watches.add(exec, true).unwrap();
        let hit = watches.hit(0, 0b100, 1);
        assert!(hit.executed && hit.holds == 1, "{hit:?}");
        let hit = watches.next(Duration::ZERO).unwrap();
        assert!(hit.held && hit.id == exec, "{hit:?}");
        watches.release().unwrap();
        watches.release().unwrap_err();
        watches.end();
        assert_eq!(watches.next(Duration::from_secs(60)), None);
    }

    #[test]
    fn watches_in_memory_are_hit_by_overlapping_writes_alone() {
        let watches = Watches::default();
        let id = watches
            .add_in_memory(write(0xffff_8004, 4), 0x5004, [7, 8], false)
            .unwrap();
        assert_eq!(watches.pages().into_iter().collect::<Vec<_>>(), [0x5000]);
        for (gpa, len, hits) in [
            (0x5000, 4, false),
            (0x5000, 8, true),
            (0x5007, 1, true),
            (0x5008, 8, false),
        ] {
            watches.written(1, gpa, len, 0x99);
            let hit = watches.next(Duration::ZERO);
            assert_eq!(hit.is_some(), hits, "{gpa:#x}, {len}");
        }
        assert!(watches.to_arm(&mut 0).unwrap().control == 0);
        let exec = Watch {
            gva: 0x77,
            len: 1,
            kind: WatchKind::Exec,
        };
        let exec = watches
            .add_in_memory(exec, 0x6077, [0x55, 0x56], true)
            .unwrap();
        assert_eq!(watches.breakpoint_at(0x77).unwrap().original, [0x55, 0x56]);
        assert_eq!(watches.breakpoint_at(0xffff_8004), None);
        assert_eq!(watches.hit_in_memory(0, exec, 0x77).holds, 1);
        assert_eq!(watches.remove(id).unwrap().unwrap().gpa, 0x5004);
        assert!(watches.pages().is_empty());
    }

    #[test]
    fn odd_watches_are_refused() {
        let watches = Watches::default();
        watches.add(write(2, 4), false).unwrap_err();
        watches.add(write(0, 3), false).unwrap_err();
    }
}
