//! Page walks: from kernel virtual to guest physical addresses.
//!
//! [`PagingMode`] names an architecture's scheme; each has a module with its entry format. Only x86-64 exists; aarch64
//! adds a variant per granule and a module, and nothing above this module sees a table entry.

mod cache;
mod x86_64;

pub use cache::TranslationCache;

use crate::{Gpa, Kva, PhysMem, Result};

/// How page tables are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum PagingMode {
    /// x86-64, 48-bit addresses.
    X86FourLevel,
    /// x86-64 with LA57, 57-bit addresses.
    X86FiveLevel,
}

/// A table entry, by its place and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub gpa: Gpa,
    /// What it held.
    pub value: u64,
}

/// What a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte asked for.
    pub gpa: Gpa,
    /// Size of the page that holds it: 4 KiB, 2 MiB or 1 GiB.
    pub page_bytes: u64,
    /// The entry that maps the page.
    pub leaf: Entry,
    /// The entry above; the leaf itself where the leaf is at the top.
    pub parent: Entry,
}

/// A root and its layout: everything a walk needs beside memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct AddressSpace {
    /// The top-level table.
    pub root: Gpa,
    /// Its layout.
    pub mode: PagingMode,
}

/// A mapped page met by [`AddressSpace::walk_range`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First virtual address.
    pub kva: Kva,
    /// First physical address.
    pub gpa: Gpa,
    /// Size.
    pub page_bytes: u64,
    /// Whether the entry that maps it forbids both writing and execution: constants.
    pub is_constant: bool,
}

/// How a range walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    /// The whole range was seen.
    Complete,
    /// The visitor had enough.
    Stopped,
    /// The budget of table reads ran out: tables are absurd, or the range is too large.
    OutOfBudget,
}

impl AddressSpace {
    /// The address space that CR3 selects; its low bits (PCID, flags) are ignored.
    #[must_use]
    pub fn from_cr3(cr3: u64, mode: PagingMode) -> Self {
        Self {
            root: Gpa(cr3 & x86_64::ADDRESS),
            mode,
        }
    }

    /// Translates one address.
    ///
    /// # Errors
    /// [`crate::Error::NotMapped`] with the level that ended the walk, [`crate::Error::NoMemory`] when a table lies
    /// outside memory.
    pub fn walk(&self, memory: &dyn PhysMem, kva: Kva) -> Result<Translation> {
        x86_64::walk(memory, *self, kva)
    }

    /// Calls `visit` for each present page of `[start, end)`, ascending, until it returns false.
    ///
    /// At most `budget` tables are read, so that tables that point at themselves end as well.
    pub fn walk_range(
        &self,
        memory: &dyn PhysMem,
        (start, end): (Kva, Kva),
        budget: usize,
        visit: &mut dyn FnMut(Mapping) -> bool,
    ) -> WalkEnd {
        x86_64::walk_range(memory, *self, (start, end), budget, visit)
    }
}

#[cfg(test)]
mod tests;
