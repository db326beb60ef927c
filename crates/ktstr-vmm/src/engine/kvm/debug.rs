//! Watches as the four debug registers, which every vCPU arms for itself (Intel SDM 3B §17.2).

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};

use crate::error::{Error, Result};
use crate::watch::{Watch, WatchHit, WatchId, WatchKind};

/// Debug registers of an x86 CPU.
const SLOTS: usize = 4;
/// DR7: always-one bit, exact breakpoints.
const DR7_BASE: u64 = 0x700;
/// Hits that nobody fetched; later ones are dropped.
const MAX_HITS: usize = 4096;

#[derive(Debug, Default)]
struct State {
    slots: [Option<(WatchId, Watch)>; SLOTS],
    /// Watches whose hits stop the guest.
    holding: HashSet<WatchId>,
    /// Held hits that were not released yet.
    held: u32,
    next_id: u32,
    hits: VecDeque<WatchHit>,
    ended: bool,
}

/// What a debug exit means for its vCPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    /// An execution breakpoint was hit, whose instruction has not run yet.
    pub(crate) executed: bool,
    /// So many hits want the guest to stand still.
    pub(crate) holds: u32,
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
        let refused = |reason: String| Error::Refused {
            what: format!("watch {:#x}", watch.gva),
            reason,
        };
        if watch.kind == WatchKind::Write {
            if !matches!(watch.len, 1 | 2 | 4 | 8) {
                return Err(refused(format!(
                    "a length of 1, 2, 4 or 8 was expected, not {}",
                    watch.len
                )));
            }
            if !watch.gva.is_multiple_of(u64::from(watch.len)) {
                return Err(refused(format!(
                    "the address is not aligned to {}",
                    watch.len
                )));
            }
        }
        let mut state = self.lock();
        let id = WatchId(state.next_id);
        let Some(slot) = state.slots.iter_mut().find(|slot| slot.is_none()) else {
            return Err(refused(format!(
                "all {SLOTS} debug registers are taken; end another watch first"
            )));
        };
        *slot = Some((id, watch));
        if hold {
            state.holding.insert(id);
        }
        state.next_id = state.next_id.wrapping_add(1);
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(id)
    }

    /// Frees a slot.
    pub(crate) fn remove(&self, id: WatchId) -> Result<()> {
        let mut state = self.lock();
        let slot = state
            .slots
            .iter_mut()
            .find(|slot| matches!(slot, Some((found, _)) if *found == id));
        let Some(slot) = slot else {
            return Err(Error::Refused {
                what: format!("end watch {}", id.0),
                reason: String::from("there is no such watch"),
            });
        };
        *slot = None;
        state.holding.remove(&id);
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(())
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
            if state.hits.len() < MAX_HITS {
                let held = state.holding.contains(&id);
                state.held += u32::from(held);
                hit.holds += u32::from(held);
                state.hits.push_back(WatchHit {
                    id,
                    vcpu,
                    rip,
                    held,
                });
            }
        }
        hit
    }

    /// Tells whoever waits; apart from [`hit`](Self::hit), so that the gate is closed first.
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
        let until = Instant::now() + deadline;
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
    fn odd_watches_are_refused() {
        let watches = Watches::default();
        watches.add(write(2, 4), false).unwrap_err();
        watches.add(write(0, 3), false).unwrap_err();
    }
}
