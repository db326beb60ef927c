//! What stands behind the header of an object of the allocator that scx schedulers share, in memory built by hand.

use std::sync::Arc;

use super::*;
use crate::btf::build::Builder;
use crate::btf::{Btf, TypeId};
use crate::phys::SparseMem;
use crate::render::Limits;
use crate::testing::{DIRECT, TEXT, kernel};
use crate::{Gpa, Kernel, Kva};

const NODE: u64 = 0x5000;
const STORE: u64 = 0x6000;
const SECTION: u64 = 0x7000;
const ARENA: u64 = 0x8000;
const AREA: u64 = 0x8800;
const TYPES: u64 = 0x9000;
const BLOB: u64 = 0xa000;
/// Where the kernel has the arena; a quarter page of guard lies before it.
const PAGES: u64 = 0x2_0000;
const OBJECT: u64 = 0x40;
/// Where programs have it.
const USER: u64 = 0x7000_0000_0000;
/// Where values lie in a `struct bpf_array`.
const VALUE: u64 = 96;

/// The kernel's types, as far as maps, their registry and arenas want them.
fn kernels() -> Btf {
    let mut btf = Builder::new();
    let u8_ = btf.int("unsigned char", 1, false);
    let u32_ = btf.int("unsigned int", 4, false);
    let u64_ = btf.int("unsigned long", 8, false);
    let character = btf.int("char", 1, true);
    let name = btf.array(character, 16);
    let none = btf.array(u64_, 0);
    btf.enumeration(
        "bpf_map_type",
        &[("BPF_MAP_TYPE_ARRAY", 2), ("BPF_MAP_TYPE_ARENA", 33)],
    );
    let root = btf.structure("xarray", 8, &[("xa_head", u64_, 0, 0)]);
    btf.structure(
        "idr",
        16,
        &[("idr_rt", root, 0, 0), ("idr_base", u32_, 64, 0)],
    );
    let slots = btf.array(u64_, 64);
    btf.structure(
        "xa_node",
        520,
        &[("shift", u8_, 0, 0), ("slots", slots, 64, 0)],
    );
    let map = btf.structure(
        "bpf_map",
        80,
        &[
            ("id", u32_, 0, 0),
            ("map_type", u32_, 32, 0),
            ("key_size", u32_, 64, 0),
            ("value_size", u32_, 96, 0),
            ("max_entries", u32_, 128, 0),
            ("map_flags", u64_, 192, 0),
            ("frozen", u8_, 256, 0),
            ("name", name, 320, 0),
            ("btf", u64_, 448, 0),
            ("btf_key_type_id", u32_, 512, 0),
            ("btf_value_type_id", u32_, 544, 0),
        ],
    );
    btf.structure(
        "bpf_array",
        96,
        &[
            ("map", map, 0, 0),
            ("elem_size", u32_, 640, 0),
            ("value", none, 768, 0),
        ],
    );
    let area = btf.structure("vm_struct", 8, &[("addr", u64_, 0, 0)]);
    let area = btf.ptr(area);
    btf.structure(
        "bpf_arena",
        104,
        &[
            ("map", map, 0, 0),
            ("user_vm_start", u64_, 640, 0),
            ("user_vm_end", u64_, 704, 0),
            ("kern_vm", area, 768, 0),
        ],
    );
    btf.structure(
        "btf",
        40,
        &[
            ("kernel_btf", u8_, 0, 0),
            ("base_btf", u64_, 64, 0),
            ("id", u32_, 128, 0),
            ("data_size", u32_, 160, 0),
            ("data", u64_, 192, 0),
        ],
    );
    Btf::from_bytes(btf.finish()).unwrap()
}

/// A scheduler's types; numbers of the store's value and of its section. `twins`: two structs have the context's size.
fn schedulers(twins: bool) -> (Vec<u8>, TypeId, TypeId) {
    let mut btf = Builder::new();
    let u64_ = btf.int("unsigned long", 8, false);
    let rest = btf.array(u64_, 0);
    let data = btf.structure(
        "sdt_data",
        8,
        &[("tid", u64_, 0, 0), ("payload", rest, 64, 0)],
    );
    let data = btf.ptr(data);
    let value = btf.structure(
        "scx_task_map_val",
        16,
        &[("tid", u64_, 0, 0), ("data", data, 64, 0)],
    );
    btf.structure(
        "task_ctx",
        16,
        &[("runs", u64_, 0, 0), ("vtime", u64_, 64, 0)],
    );
    if twins {
        btf.structure("cell_ctx", 16, &[("cell", u64_, 0, 0)]);
    }
    let pool = btf.structure("sdt_pool", 16, &[("elem_size", u64_, 64, 0)]);
    let allocator = btf.structure("scx_allocator", 16, &[("pool", pool, 0, 0)]);
    let variable = btf.add("scx_task_allocator", (14, false, 0), allocator, &[1]);
    let section = btf.add(".bss", (15, false, 1), 16, &[variable, 0, 16]);
    (btf.finish(), TypeId(value), TypeId(section))
}

fn world(twins: bool, element: u64) -> Arc<Kernel> {
    let memory = Arc::new(SparseMem::new());
    memory.populate(Gpa(0), 0x4_0000);
    let put = |at: u64, value: u64| memory.put(Gpa(at), &value.to_le_bytes());
    let (blob, value, section) = schedulers(twins);
    memory.put(Gpa(BLOB), &blob);
    put(TYPES + 16, 5 | (blob.len() as u64) << 32);
    put(TYPES + 24, DIRECT + BLOB);
    // The registry: one node with three maps.
    put(0x300, (DIRECT + NODE) | 2);
    let map = |number: u64, at: u64, kind: u64, size: u64, ty: TypeId, name: &str| {
        put(NODE + 8 + number * 8, DIRECT + at);
        put(at, number | kind << 32);
        put(at + 8, 4 | size << 32);
        put(at + 16, 1);
        memory.put(Gpa(at + 40), name.as_bytes());
        put(at + 56, DIRECT + TYPES);
        put(at + 64, u64::from(ty.0) << 32);
        put(at + 80, size);
    };
    map(1, STORE, 2, 16, value, "scx_task_map");
    map(2, SECTION, 2, 16, section, "sched.bss");
    map(3, ARENA, 33, 0, TypeId(0), "arena");
    put(SECTION + VALUE + 8, element);
    put(ARENA + 80, USER);
    put(ARENA + 88, USER + (1 << 20));
    put(ARENA + 96, DIRECT + AREA);
    put(AREA, DIRECT + PAGES - (32 << 10));
    put(STORE + VALUE, 3);
    put(STORE + VALUE + 8, USER + OBJECT);
    for (at, word) in [(0, 9), (8, 41), (16, 42)] {
        put(PAGES + OBJECT + at, word);
    }
    kernel(
        memory,
        kernels(),
        &[("_text", TEXT), ("map_idr", TEXT + 0x300)],
    )
}

fn shown(twins: bool, element: u64) -> String {
    let kernel = world(twins, element);
    let maps = kernel.maps();
    assert!(maps.problems.is_empty(), "{:?}", maps.problems);
    let map = maps
        .found
        .iter()
        .find(|map| map.name == "scx_task_map")
        .unwrap();
    assert_eq!(map.kva, Kva(DIRECT + STORE));
    let walk = map.contents(&kernel, 1, Limits::default());
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    match walk.found {
        MapContents::Entries(entries) => match &entries[0].value {
            MapValue::Value(value) => value.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_context_behind_a_header_has_the_only_type_of_its_size() {
    assert_eq!(
        shown(false, 24),
        "{tid=3, data=&{tid=9, payload={runs=41, vtime=42}}}"
    );
}

#[test]
fn a_context_of_which_no_type_is_sure_is_shown_as_numbers() {
    assert_eq!(shown(true, 24), "{tid=3, data=&{tid=9, payload=[41, 42]}}");
}

/// An allocator that was never used knows no size: nothing is made up, and nothing looks empty.
#[test]
fn a_context_of_unknown_length_is_called_so() {
    assert_eq!(
        shown(false, 0),
        "{tid=3, data=&{tid=9, payload=<a flexible array of unknown length>}}"
    );
}
