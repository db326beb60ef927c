//! x86-64 tables (Intel SDM 3A §4.5): 512 entries of 8 bytes per level, 4 or 5 levels.

use super::{AddressSpace, Entry, Mapping, PagingMode, Translation, WalkEnd};
use crate::{Error, Gpa, Kva, PhysMem, Result, bytes};

/// Bits 12 to 51: the physical address in an entry.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;
/// Set in a PDPT or PD entry that maps a page itself.
const PAGE_SIZE: u64 = 1 << 7;
const PAGE_SHIFT: u32 = 12;
const INDEX_BITS: u32 = 9;
const TABLE: usize = 4096;

fn levels(mode: PagingMode) -> u32 {
    match mode {
        PagingMode::X86FourLevel => 4,
        PagingMode::X86FiveLevel => 5,
    }
}

/// Why a walk ended at a level (1 is the page table).
fn name(level: u32) -> &'static str {
    match level {
        1 => "its page table entry is not present",
        2 => "its page directory entry is not present",
        3 => "its PDPT entry is not present",
        4 => "its PML4 entry is not present",
        _ => "its PML5 entry is not present",
    }
}

/// The lowest address bit that a table of this level looks at.
fn shift(level: u32) -> u32 {
    PAGE_SHIFT + INDEX_BITS * (level - 1)
}

fn is_canonical(kva: Kva, mode: PagingMode) -> bool {
    let bits = PAGE_SHIFT + INDEX_BITS * levels(mode);
    bytes::sign_extend(kva.0, bits).cast_unsigned() == kva.0
}

/// Whether an entry of this level maps a page rather than a table.
fn is_leaf(value: u64, level: u32) -> bool {
    level == 1 || (level <= 3 && value & PAGE_SIZE != 0)
}

/// The page's base; low bits of a large page's entry (PAT among them) are not address.
fn page_base(value: u64, level: u32) -> u64 {
    value & ADDRESS & !((1 << shift(level)) - 1)
}

pub(super) fn walk(memory: &dyn PhysMem, space: AddressSpace, kva: Kva) -> Result<Translation> {
    if !is_canonical(kva, space.mode) {
        return Err(Error::NotMapped {
            kva,
            why: "it is not canonical",
        });
    }
    let mut table = space.root.0 & ADDRESS;
    let mut parent = None;
    for level in (1..=levels(space.mode)).rev() {
        let index = kva.0 >> shift(level) & 0x1ff;
        let gpa = Gpa(table | index << 3);
        let value = memory.read_u64(gpa)?;
        let entry = Entry { gpa, value };
        if value & PRESENT == 0 {
            return Err(Error::NotMapped {
                kva,
                why: name(level),
            });
        }
        if is_leaf(value, level) {
            let page_bytes = 1 << shift(level);
            return Ok(Translation {
                gpa: Gpa(page_base(value, level) | kva.0 & (page_bytes - 1)),
                page_bytes,
                leaf: entry,
                parent: parent.unwrap_or(entry),
            });
        }
        table = value & ADDRESS;
        parent = Some(entry);
    }
    Err(Error::NotMapped {
        kva,
        why: "the walk met no page",
    })
}

/// State of one range walk.
struct RangeWalk<'a> {
    memory: &'a dyn PhysMem,
    start: u64,
    /// Inclusive, so that the top of the address space has an end.
    last: u64,
    budget: usize,
    visit: &'a mut dyn FnMut(Mapping) -> bool,
}

pub(super) fn walk_range(
    memory: &dyn PhysMem,
    space: AddressSpace,
    (start, end): (Kva, Kva),
    budget: usize,
    visit: &mut dyn FnMut(Mapping) -> bool,
) -> WalkEnd {
    if end <= start {
        return WalkEnd::Complete;
    }
    let mut walk = RangeWalk {
        memory,
        start: start.0,
        last: end.0 - 1,
        budget,
        visit,
    };
    let top = levels(space.mode);
    // The part of the address above the top table's reach is a copy of the sign bit.
    let bits = shift(top) + INDEX_BITS;
    let base = start.0 & !((1 << bits) - 1);
    walk.table(space.root.0 & ADDRESS, top, base)
}

impl RangeWalk<'_> {
    fn table(&mut self, gpa: u64, level: u32, base: u64) -> WalkEnd {
        let Some(budget) = self.budget.checked_sub(1) else {
            return WalkEnd::OutOfBudget;
        };
        self.budget = budget;
        let mut table = [0; TABLE];
        if self.memory.read(Gpa(gpa), &mut table).is_err() {
            // A table outside memory maps nothing that could be read.
            return WalkEnd::Complete;
        }
        let page_bytes = 1_u64 << shift(level);
        for (index, entry) in (0_u64..).zip(table.as_chunks().0) {
            let first = base | index << shift(level);
            let last = first | (page_bytes - 1);
            let value = u64::from_le_bytes(*entry);
            if last < self.start || value & PRESENT == 0 {
                continue;
            }
            if first > self.last {
                break;
            }
            let end = if is_leaf(value, level) {
                self.page(first, value, level)
            } else {
                self.table(value & ADDRESS, level - 1, first)
            };
            if end != WalkEnd::Complete {
                return end;
            }
        }
        WalkEnd::Complete
    }

    fn page(&mut self, first: u64, value: u64, level: u32) -> WalkEnd {
        let mapping = Mapping {
            kva: Kva(first),
            gpa: Gpa(page_base(value, level)),
            page_bytes: 1 << shift(level),
            is_constant: value & WRITABLE == 0 && value & NO_EXECUTE != 0,
        };
        if (self.visit)(mapping) {
            WalkEnd::Complete
        } else {
            WalkEnd::Stopped
        }
    }
}
