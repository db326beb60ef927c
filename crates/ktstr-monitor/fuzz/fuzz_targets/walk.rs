//! Any bytes as page tables: walks stay in memory, end, and agree with the cache and with the walk over a range.
#![no_main]

use ktstr_monitor::paging::{AddressSpace, PagingMode, TranslationCache};
use ktstr_monitor::phys::SparseMem;
use ktstr_monitor::{Gpa, Kva};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((head, tables)) = data.split_first_chunk::<16>() else {
        return;
    };
    let [mode, shift, ..] = *head;
    let memory = SparseMem::new();
    memory.populate(Gpa(0), 0x8000);
    // Entries as (place, value): a few bytes reach any table.
    for entry in tables.as_chunks::<8>().0 {
        let value = u64::from_le_bytes(*entry);
        let place = value >> 52 & 0xfff;
        memory.put(Gpa(place * 8), &(value & 0xffff_ffff_f0ff).to_le_bytes());
    }
    let mode = if mode & 1 == 0 {
        PagingMode::X86FourLevel
    } else {
        PagingMode::X86FiveLevel
    };
    let space = AddressSpace::from_cr3(u64::from(shift & 7) << 12, mode);
    let cache = TranslationCache::new(space);
    for word in tables.as_chunks::<8>().0.iter().take(32) {
        let kva = Kva(u64::from_le_bytes(*word) | 0xffff_8000_0000_0000);
        let direct = space.walk(&memory, kva).ok().map(|found| found.gpa);
        let cached = || cache.translate(&memory, kva).ok().map(|found| found.0);
        assert_eq!(direct, cached());
        assert_eq!(direct, cached());
    }
    let mut last = 0;
    let all = (Kva(0xffff_8000_0000_0000), Kva(u64::MAX));
    space.walk_range(&memory, all, 200, &mut |page| {
        assert!(page.kva.0 >= last, "pages come in order");
        last = page.kva.0;
        let found = space.walk(&memory, page.kva).expect("a listed page is mapped");
        assert_eq!(found.gpa, page.gpa);
        true
    });
});
