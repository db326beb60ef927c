//! Guest memory as KVM knows it: slots, some of which the guest may not write.
//!
//! ```text
//!   region:  |----------------- read, write -----------------|
//!   slots:   |--- read, write ---| page, read |--------------|     a write to the page leaves the guest
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{Address as _, GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::ioctl::failed;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

/// What KVM's slots are cut to.
pub(super) const PAGE: u64 = 4096;

/// A range of guest memory under one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    gpa: u64,
    len: u64,
    /// Where it is mapped here.
    host: u64,
    read_only: bool,
}

/// The slots of a VM.
#[derive(Debug)]
pub(super) struct Slots {
    vm: Arc<VmFd>,
    regions: Vec<Piece>,
    /// By slot number.
    installed: Mutex<Vec<Option<Piece>>>,
}

impl Slots {
    /// Gives `vm` all of `memory`, which the vCPUs' owner keeps mapped as long as they run.
    pub(super) fn new(vm: Arc<VmFd>, memory: &GuestMemory) -> Result<Self> {
        let mapping = memory.mapping()?;
        let regions = mapping.iter().map(|region| {
            let gpa = region.start_addr();
            let host = mapping.get_host_address(gpa);
            let host = host.map_err(|_| Error::NoMemory {
                gpa: gpa.raw_value(),
                len: 1,
            })?;
            Ok(Piece {
                gpa: gpa.raw_value(),
                len: region.len(),
                host: host as u64,
                read_only: false,
            })
        });
        let slots = Self {
            vm,
            regions: regions.collect::<Result<_>>()?,
            installed: Mutex::default(),
        };
        slots.protect(&BTreeSet::new())?;
        Ok(slots)
    }

    /// Makes exactly `pages`, by their first address, read-only for the guest. No vCPU may be in the guest meanwhile: memory is
    /// missing for a moment.
    pub(super) fn protect(&self, pages: &BTreeSet<u64>) -> Result<()> {
        let mut installed = self
            .installed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut wanted = cut(&self.regions, pages);
        for (number, slot) in (0u32..).zip(installed.iter_mut()) {
            match slot {
                Some(piece) if wanted.contains(piece) => wanted.retain(|other| other != piece),
                Some(piece) => {
                    self.set(number, Piece { len: 0, ..*piece })?;
                    *slot = None;
                }
                None => {}
            }
        }
        for piece in wanted {
            let free = installed.iter().position(Option::is_none);
            let place = free.unwrap_or(installed.len());
            let number = u32::try_from(place).map_err(|_| Error::Refused {
                what: String::from("cut guest memory"),
                reason: String::from("there are too many pieces"),
            })?;
            self.set(number, piece)?;
            match installed.get_mut(place) {
                Some(slot) => *slot = Some(piece),
                None => installed.push(Some(piece)),
            }
        }
        Ok(())
    }

    fn set(&self, slot: u32, piece: Piece) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: piece.gpa,
            memory_size: piece.len,
            userspace_addr: piece.host,
            flags: if piece.read_only { KVM_MEM_READONLY } else { 0 },
        };
        // SAFETY: the range is part of a mapping of guest memory, which `KvmVm` keeps until the last vCPU thread has ended.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(failed("give the VM its memory"))
    }
}

/// The regions in order, with the pages cut out as pieces of their own.
fn cut(regions: &[Piece], pages: &BTreeSet<u64>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for region in regions {
        let mut rest = *region;
        for page in pages.range(region.gpa..region.gpa.saturating_add(region.len)) {
            let before = page - rest.gpa;
            pieces.push(Piece {
                len: before,
                ..rest
            });
            rest.gpa += before;
            rest.host += before;
            rest.len -= before;
            let len = rest.len.min(PAGE);
            pieces.push(Piece {
                len,
                read_only: true,
                ..rest
            });
            rest.gpa += len;
            rest.host += len;
            rest.len -= len;
        }
        pieces.push(rest);
    }
    pieces.retain(|piece| piece.len > 0);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(gpa: u64, len: u64) -> Piece {
        Piece {
            gpa,
            len,
            host: gpa + 0x7000_0000,
            read_only: false,
        }
    }

    #[track_caller]
    fn check(pages: &[u64], expected: &[(u64, u64, bool)]) {
        let regions = [region(0, 0x10_000), region(0x100_000, 0x2000)];
        let found = cut(&regions, &pages.iter().copied().collect());
        let found: Vec<_> = found
            .iter()
            .map(|piece| (piece.gpa, piece.len, piece.read_only))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pages_are_cut_out_at_any_place() {
        check(&[], &[(0, 0x10_000, false), (0x100_000, 0x2000, false)]);
        check(
            &[0, 0x101_000],
            &[
                (0, 0x1000, true),
                (0x1000, 0xf000, false),
                (0x100_000, 0x1000, false),
                (0x101_000, 0x1000, true),
            ],
        );
        check(
            &[0x4000, 0x5000],
            &[
                (0, 0x4000, false),
                (0x4000, 0x1000, true),
                (0x5000, 0x1000, true),
                (0x6000, 0xa000, false),
                (0x100_000, 0x2000, false),
            ],
        );
    }

    proptest! {
        #[test]
        fn all_memory_stays_at_its_place(pages in proptest::collection::btree_set(0u64..32, 0..8)) {
            let pages = pages.into_iter().map(|page| page * PAGE).collect();
            let mut next = 0;
            for piece in cut(&[region(0, 32 * PAGE)], &pages) {
                prop_assert_eq!(piece.gpa, next);
                prop_assert_eq!(piece.host, piece.gpa + 0x7000_0000);
                prop_assert_eq!(piece.read_only, pages.contains(&piece.gpa));
                next += piece.len;
            }
            prop_assert_eq!(next, 32 * PAGE);
        }
    }
}
