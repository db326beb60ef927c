//! Remembered translations that notice when they are stale.
//!
//! A hit re-reads the entry that maps the page and the one above it. A changed mapping changes one of the two, so a
//! running guest may remap at will. The cache is not notified of that.

use std::sync::{Mutex, PoisonError};

use super::{AddressSpace, Translation};
use crate::{Gpa, Kva, PhysMem, Result};

/// Slots; a power of two. Kernel stacks, modules and vmalloc areas of a dump fit.
const SLOTS: usize = 1024;
const PAGE: u64 = 4096;

/// A direct-mapped cache of translations in one address space.
#[derive(Debug)]
pub struct TranslationCache {
    space: AddressSpace,
    slots: Mutex<Vec<Option<Slot>>>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    page: u64,
    translation: Translation,
}

impl TranslationCache {
    /// An empty cache.
    #[must_use]
    pub fn new(space: AddressSpace) -> Self {
        Self {
            space,
            slots: Mutex::new(vec![None; SLOTS]),
        }
    }

    /// The address space it translates in.
    #[must_use]
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// Translates one address: physical address, and how many bytes from there on are contiguous.
    ///
    /// # Errors
    /// As [`AddressSpace::walk`].
    pub fn translate(&self, memory: &dyn PhysMem, kva: Kva) -> Result<(Gpa, u64)> {
        let page = kva.0 / PAGE;
        let index = usize::try_from(page % SLOTS as u64).unwrap_or(0);
        let known = self.slot(index).filter(|slot| slot.page == page);
        let translation = match known {
            Some(slot) if is_fresh(memory, &slot.translation) => slot.translation,
            _ => self.fill(memory, kva, index)?,
        };
        // Slots hold the translation of some byte of the same 4 KiB page.
        let gpa = (translation.gpa.0 & !(PAGE - 1)) | (kva.0 % PAGE);
        let run = translation.page_bytes - (kva.0 & (translation.page_bytes - 1));
        Ok((Gpa(gpa), run))
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().fill(None);
    }

    fn fill(&self, memory: &dyn PhysMem, kva: Kva, index: usize) -> Result<Translation> {
        let translation = self.space.walk(memory, kva)?;
        let slot = Slot {
            page: kva.0 / PAGE,
            translation,
        };
        if let Some(place) = self.lock().get_mut(index) {
            *place = Some(slot);
        }
        Ok(translation)
    }

    fn slot(&self, index: usize) -> Option<Slot> {
        self.lock().get(index).copied().flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accessed and dirty bits change without the mapping changing.
const SOFT_BITS: u64 = (1 << 5) | (1 << 6);

fn is_fresh(memory: &dyn PhysMem, translation: &Translation) -> bool {
    [translation.leaf, translation.parent].iter().all(|entry| {
        memory
            .read_u64(entry.gpa)
            .is_ok_and(|now| (now ^ entry.value) & !SOFT_BITS == 0)
    })
}
