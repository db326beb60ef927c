//! Any bytes as BTF: indexing, every question about every type, and values decoded by it.
#![no_main]

use ktstr_monitor::btf::Btf;
use ktstr_monitor::render::{Decoder, Limits};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(btf) = Btf::from_bytes(data.to_vec()) else {
        return;
    };
    let limits = Limits {
        values: 500,
        ..Limits::default()
    };
    let decoder = Decoder::new(&btf, limits);
    for ty in btf.types().take(64) {
        let _ = (btf.type_name(ty.id()), btf.size_of(ty.id()), ty.int(), ty.array());
        for member in ty.members().take(16) {
            let _ = btf.member(ty.id(), member.name);
        }
        let _ = btf.member(ty.id(), "a.b[3].c");
        let _ = btf.indexed(ty.id(), "[1][2].x");
        let _ = ty.enumerators().count() + ty.section_vars().count();
        let found = btf.find_struct(ty.name());
        assert!(found.is_none_or(|found| found.name() == ty.name()));
        let _ = decoder.decode(ty.id(), data).to_string();
    }
});
