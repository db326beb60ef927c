//! `struct bpf_arena` (`kernel/bpf/arena.c`): pages that programs and user space share.

use serde::Serialize;

use super::BpfMap;
use crate::paging::WalkEnd;
use crate::{Gpa, Kernel, Kva, Result, bytes};

/// Half of `GUARD_SZ`: a signed 16-bit offset reaches this far beyond either end.
const GUARD: u64 = 32 << 10;
/// `SZ_4G`: an arena is addressed by 32 bits.
const SPAN: u64 = 1 << 32;
const PAGE: u64 = 4096;
/// Where `struct page`s begin without `CONFIG_DYNAMIC_MEMORY_LAYOUT` (`__VMEMMAP_BASE_L4`).
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Pages listed at most.
const MAX_PAGES: usize = 4096;
/// Tables read at most: all of 4 GiB by small pages.
const TABLE_BUDGET: usize = 2100;

/// An arena's pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Arena {
    /// Where user space has it.
    pub user_vm_start: u64,
    /// Where it ends there.
    pub user_vm_end: u64,
    /// Where the kernel has it.
    pub kern_vm_start: Kva,
    /// Pages that exist, ascending; the first of them.
    pub pages: Vec<ArenaPage>,
    /// How many exist.
    pub count: u64,
    /// Whether there are more than are listed, or more than could be counted.
    pub truncated: bool,
}

/// A page that was allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ArenaPage {
    /// Its address in user space and in pointers that programs keep.
    pub user: u64,
    /// Its address in the kernel.
    pub kva: Kva,
}

impl BpfMap {
    /// The pages of an arena map.
    ///
    /// # Errors
    /// When the map is no arena or cannot be read.
    pub fn arena(&self, kernel: &Kernel) -> Result<Arena> {
        let mut found = self.arena_without_pages(kernel)?;
        let start = found.kern_vm_start;
        let user_base = found.user_vm_start & !(SPAN - 1);
        let user_low = found.user_vm_start & (SPAN - 1);
        let end = start.wrapping_add(SPAN);
        let scratch = self.scratch_page(kernel);
        let mut pages = Vec::new();
        let mut count = 0_u64;
        let walked = kernel.address_space().walk_range(
            &**kernel.memory(),
            (start, end),
            TABLE_BUDGET,
            &mut |page| {
                if Some(page.gpa) == scratch {
                    return true;
                }
                count += page.page_bytes / PAGE;
                if pages.len() < MAX_PAGES {
                    // The kernel's mapping is indexed by the low half of the user's address.
                    let low = page.kva.0.wrapping_sub(start.0);
                    let carry = if low < user_low { SPAN } else { 0 };
                    pages.push(ArenaPage {
                        user: user_base.wrapping_add(carry).wrapping_add(low),
                        kva: page.kva,
                    });
                }
                true
            },
        );
        found.truncated = count > pages.len() as u64 || walked != WalkEnd::Complete;
        found.count = count;
        found.pages = pages;
        Ok(found)
    }

    /// The page that stands wherever a program touched memory that it never allocated (7.2 and later): none of its own.
    fn scratch_page(&self, kernel: &Kernel) -> Option<Gpa> {
        let arena = kernel.object("bpf_arena", self.kva).ok()?;
        let page = arena
            .pointer("scratch_page")
            .ok()
            .filter(|page| !page.is_null())?;
        let first = kernel.global("vmemmap_base", 8).unwrap_or(VMEMMAP);
        let size = kernel.btf().size_of(kernel.type_id("page").ok()?)?;
        let number = page.0.checked_sub(first)?.checked_div(size)?;
        number.checked_mul(PAGE).map(Gpa)
    }

    /// Where an arena map lies.
    pub(super) fn arena_without_pages(&self, kernel: &Kernel) -> Result<Arena> {
        let arena = kernel.object("bpf_arena", self.kva)?;
        let area = arena.follow_some("kern_vm")?;
        Ok(Arena {
            user_vm_start: arena.uint("user_vm_start")?,
            user_vm_end: arena.uint("user_vm_end")?,
            kern_vm_start: area.pointer("addr")?.wrapping_add(GUARD),
            ..Arena::default()
        })
    }
}

impl Arena {
    /// Whether an address lies in it, as programs and user space know it or as the kernel does.
    pub(super) fn contains(&self, address: u64) -> bool {
        let kernels = address.wrapping_sub(self.kern_vm_start.0) < SPAN;
        kernels || (self.user_vm_start..self.user_vm_end).contains(&address)
    }

    /// Where such an address lies in the kernel.
    pub(super) fn kva_of(&self, address: u64) -> Kva {
        let low = match address.wrapping_sub(self.kern_vm_start.0) {
            offset if offset < SPAN => offset,
            _ => u64::from(bytes::low32(address)),
        };
        self.kern_vm_start.wrapping_add(low)
    }

    /// Copies arena memory at an address as programs and user space know it.
    ///
    /// # Errors
    /// When a page was never allocated.
    pub fn read(&self, kernel: &Kernel, user: u64, buffer: &mut [u8]) -> Result<()> {
        kernel.read(self.kva_of(user), buffer)
    }

    /// Bytes that exist.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.count.saturating_mul(PAGE)
    }
}
