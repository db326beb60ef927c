//! Walks over tables built by hand, and over random ones.

use proptest::prelude::*;

use super::*;
use crate::Error;
use crate::phys::SparseMem;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;

fn put(memory: &SparseMem, table: u64, index: u64, value: u64) {
    memory.put(Gpa(table + index * 8), &value.to_le_bytes());
}

/// PML4 at 0x1000, tables behind: a 4 KiB page, a 2 MiB page and a 1 GiB page under the top of the address space.
fn four_levels() -> (SparseMem, AddressSpace) {
    let memory = SparseMem::new();
    put(&memory, 0x1000, 511, 0x2000 | PRESENT);
    put(&memory, 0x2000, 510, 0x3000 | PRESENT);
    put(
        &memory,
        0x2000,
        511,
        0x4000_0000 | LARGE | 1 << 12 | PRESENT,
    );
    put(&memory, 0x3000, 8, 0x4000 | PRESENT);
    put(&memory, 0x3000, 9, 0x60_0000 | LARGE | PRESENT);
    put(&memory, 0x4000, 1, 0x7000 | 1 << 63 | PRESENT);
    (
        memory,
        AddressSpace::from_cr3(0x1fff, PagingMode::X86FourLevel),
    )
}

#[test]
fn pages_of_every_size_translate() {
    let (memory, space) = four_levels();
    let check = |kva: u64, gpa: u64, page_bytes: u64| {
        let found = space.walk(&memory, Kva(kva)).unwrap();
        assert_eq!((found.gpa, found.page_bytes), (Gpa(gpa), page_bytes));
    };
    check(0xffff_ffff_8100_1234, 0x7234, 4096);
    check(0xffff_ffff_8120_0042, 0x60_0042, 2 << 20);
    check(0xffff_ffff_c123_4567, 0x4123_4567, 1 << 30);
}

#[test]
fn a_fifth_level_is_walked() {
    let (memory, _) = four_levels();
    put(&memory, 0x8000, 511, 0x1000 | PRESENT);
    let space = AddressSpace::from_cr3(0x8000, PagingMode::X86FiveLevel);
    let found = space.walk(&memory, Kva(0xffff_ffff_8100_1008)).unwrap();
    assert_eq!(found.gpa, Gpa(0x7008));
}

#[test]
fn a_hole_names_its_level() {
    let (memory, space) = four_levels();
    let refusal = |kva| space.walk(&memory, Kva(kva)).unwrap_err().to_string();
    assert!(refusal(0xffff_ffff_8100_0000).contains("page table entry"));
    assert!(refusal(0xffff_ffff_8000_0000).contains("page directory entry"));
    assert!(refusal(0xffff_8880_0000_0000).contains("PML4 entry"));
    assert!(refusal(0x1234_5678_9abc_def0).contains("not canonical"));
}

#[test]
fn a_range_lists_its_pages_in_order() {
    let (memory, space) = four_levels();
    let mut pages = Vec::new();
    let all = (Kva(0xffff_ffff_8000_0000), Kva(u64::MAX));
    let end = space.walk_range(&memory, all, 100, &mut |page| {
        pages.push((page.kva.0, page.gpa.0, page.page_bytes));
        true
    });
    assert_eq!(end, WalkEnd::Complete);
    assert_eq!(
        pages,
        [
            (0xffff_ffff_8100_1000, 0x7000, 4096),
            (0xffff_ffff_8120_0000, 0x60_0000, 2 << 20),
            (0xffff_ffff_c000_0000, 0x4000_0000, 1 << 30),
        ]
    );
}

#[test]
fn tables_that_point_at_themselves_end() {
    let memory = SparseMem::new();
    for index in 0..512 {
        put(&memory, 0x1000, index, 0x1000 | PRESENT);
    }
    let space = AddressSpace::from_cr3(0x1000, PagingMode::X86FiveLevel);
    let mut pages = 0_usize;
    let all = (Kva(0), Kva(u64::MAX));
    let end = space.walk_range(&memory, all, 5000, &mut |_| {
        pages += 1;
        true
    });
    assert_eq!(end, WalkEnd::OutOfBudget);
    assert!(pages <= 5000 * 512);
}

#[test]
fn a_remapped_page_is_noticed() {
    let (memory, space) = four_levels();
    let cache = TranslationCache::new(space);
    let kva = Kva(0xffff_ffff_8100_1010);
    assert_eq!(cache.translate(&memory, kva).unwrap(), (Gpa(0x7010), 0xff0));
    put(&memory, 0x4000, 1, 0x9000 | PRESENT);
    assert_eq!(cache.translate(&memory, kva).unwrap().0, Gpa(0x9010));
    // Another table altogether: the entry above changes.
    put(&memory, 0x5000, 1, 0xa000 | PRESENT);
    put(&memory, 0x3000, 8, 0x5000 | PRESENT);
    assert_eq!(cache.translate(&memory, kva).unwrap().0, Gpa(0xa010));
    put(&memory, 0x5000, 1, 0);
    assert!(matches!(
        cache.translate(&memory, kva),
        Err(Error::NotMapped { .. })
    ));
}

#[test]
fn a_large_page_is_cached_per_small_page() {
    let (memory, space) = four_levels();
    let cache = TranslationCache::new(space);
    for offset in [0x5000_u64, 0x5fff, 0x1f_f123] {
        let (gpa, run) = cache
            .translate(&memory, Kva(0xffff_ffff_8120_0000 + offset))
            .unwrap();
        assert_eq!((gpa.0, run), (0x60_0000 + offset, (2 << 20) - offset));
    }
}

proptest! {
    /// Whatever the tables hold, a walk reads only memory and ends, and the cache agrees with it.
    #[test]
    fn random_tables_never_escape(entries in proptest::collection::vec((0_u64..4, 0_u64..512, any::<u64>(), 0_u64..6), 0..200), kvas in proptest::collection::vec(any::<u64>(), 1..20), five in any::<bool>()) {
        let memory = SparseMem::new();
        memory.populate(Gpa(0), 0x6000);
        for (table, index, noise, next) in entries {
            put(&memory, table * 0x1000, index, noise & 0xfff0_0000_0000_0fff | next << 12);
        }
        let mode = if five { PagingMode::X86FiveLevel } else { PagingMode::X86FourLevel };
        let space = AddressSpace::from_cr3(0, mode);
        let cache = TranslationCache::new(space);
        for kva in kvas {
            let kva = Kva(kva | 0xffff_0000_0000_0000);
            let direct = space.walk(&memory, kva).ok().map(|found| found.gpa);
            let cached = cache.translate(&memory, kva).ok().map(|found| found.0);
            prop_assert_eq!(direct, cached);
        }
        space.walk_range(&memory, (Kva(0xffff_8000_0000_0000), Kva(u64::MAX)), 300, &mut |_| true);
    }
}
