//! Sections of maps in memory built by hand.

use std::sync::Arc;

use super::*;
use crate::btf::build::Builder;
use crate::btf::{Btf, TypeId};
use crate::phys::SparseMem;
use crate::render::{Limits, RenderedValue};
use crate::testing::{DIRECT, TEXT, kernel};
use crate::{Gpa, Kernel, Kva};

const LAYER: u32 = 2 << 20;
const LAYERS: u32 = 3;
const MAP: u64 = 0x5000;
const TYPES: u64 = 0x6000;
const VALUE: u64 = 64;

/// `struct layer { u32 id; u64 counters[262142]; u32 weight; } layers[3]; u64 last;` in `.bss`.
fn types() -> (Btf, TypeId) {
    let mut btf = Builder::new();
    let u8_ = btf.int("unsigned char", 1, false);
    let u32_ = btf.int("unsigned int", 4, false);
    let u64_ = btf.int("unsigned long", 8, false);
    let none = btf.array(u64_, 0);
    btf.structure(
        "bpf_array",
        64,
        &[("elem_size", u32_, 0, 0), ("value", none, 512, 0)],
    );
    btf.structure(
        "btf",
        32,
        &[
            ("kernel_btf", u8_, 0, 0),
            ("base_btf", u64_, 64, 0),
            ("id", u32_, 128, 0),
        ],
    );
    let counters = btf.array(u64_, LAYER / 8 - 2);
    let layer = btf.structure(
        "layer",
        LAYER,
        &[
            ("id", u32_, 0, 0),
            ("counters", counters, 64, 0),
            ("weight", u32_, (LAYER - 8) * 8, 0),
        ],
    );
    let layers = btf.array(layer, LAYERS);
    let layers = btf.add("layers", (14, false, 0), layers, &[1]);
    let last = btf.add("last", (14, false, 0), u64_, &[1]);
    let outside = btf.add("outside", (14, false, 0), u64_, &[1]);
    let end = LAYER * LAYERS;
    let section = btf.add(
        ".bss",
        (15, false, 3),
        end + 8,
        &[layers, 0, end, last, end, 8, outside, end + 8, 8],
    );
    (Btf::from_bytes(btf.finish()).unwrap(), TypeId(section))
}

fn world() -> (Arc<SparseMem>, Arc<Kernel>, BpfMap) {
    let (btf, section) = types();
    let memory = Arc::new(SparseMem::new());
    let end = u64::from(LAYER * LAYERS) + 8;
    memory.populate(Gpa(0), MAP + VALUE + end + 4096);
    memory.put(Gpa(TYPES), &[1]);
    let map = BpfMap {
        id: 1,
        name: "big.bss".to_owned(),
        map_type: "array".to_owned(),
        key_size: 4,
        value_size: u32::try_from(end).unwrap(),
        max_entries: 1,
        flags: 0,
        frozen: false,
        kva: Kva(DIRECT + MAP),
        btf: Some(Kva(DIRECT + TYPES)),
        key_type: TypeId(0),
        value_type: section,
        vmlinux_value_type: TypeId(0),
    };
    let kernel = kernel(Arc::clone(&memory), btf, &[("_text", TEXT)]);
    (memory, kernel, map)
}

#[test]
fn variables_of_a_large_section_are_shown_one_by_one() {
    let (memory, kernel, map) = world();
    let put = |at: u32, value: u32| {
        memory.put(Gpa(MAP + VALUE + u64::from(at)), &value.to_le_bytes());
    };
    // The type blob lies in the middle of the first layer's counters.
    for number in 0..LAYERS {
        put(number * LAYER, number + 1);
        put(number * LAYER + 16, 100 + number);
        put(number * LAYER + LAYER - 8, 10 * (number + 1));
    }
    put(LAYERS * LAYER, 4711);
    let walk = map.contents(&kernel, 1, Limits::default());
    assert!(walk.problems.is_empty(), "{:?}", walk.problems);
    let MapContents::Section(value) = walk.found else {
        panic!("{:?}", walk.found);
    };
    let number = |path: &str| value.member(path).and_then(RenderedValue::as_u64);
    assert_eq!(number("last"), Some(4711));
    assert_eq!(number("layers.0.id"), Some(1));
    assert_eq!(number("layers.2.id"), Some(3));
    assert_eq!(number("layers.2.weight"), Some(30));
    assert_eq!(number("layers.1.counters.1"), Some(101));
    let Some(RenderedValue::Array { elements, omitted }) = value.member("layers.1.counters") else {
        panic!("{value:?}");
    };
    assert_eq!(
        (elements.len(), *omitted),
        (64, u64::from(LAYER / 8 - 2 - 64))
    );
    let outside = value.member("outside").unwrap().to_string();
    assert_eq!(outside, "<it lies outside of its section>");
}

/// Many variables share what may be shown; the last has its part.
#[test]
fn a_variable_of_many_values_takes_nothing_from_the_next() {
    let (memory, kernel, map) = world();
    let last = MAP + VALUE + u64::from(LAYERS * LAYER);
    memory.put(Gpa(last), &99_u64.to_le_bytes());
    let limits = Limits {
        values: 40,
        ..Limits::default()
    };
    let MapContents::Section(value) = map.contents(&kernel, 1, limits).found else {
        panic!("no section");
    };
    assert_eq!(
        value.member("last").and_then(RenderedValue::as_u64),
        Some(99)
    );
}

/// `{ node, total_len, consumed_len, str[] }` in two lists: what is being read, in order, and what came since, newest first.
#[test]
fn a_programs_streams_are_read_in_order() {
    let mut btf = Builder::new();
    let u32_ = btf.int("unsigned int", 4, false);
    let u64_ = btf.int("unsigned long", 8, false);
    let character = btf.int("char", 1, true);
    let none = btf.array(character, 0);
    let node = btf.structure("llist_node", 8, &[("next", u64_, 0, 0)]);
    btf.structure(
        "bpf_stream_elem",
        16,
        &[
            ("node", node, 0, 0),
            ("total_len", u32_, 64, 0),
            ("consumed_len", u32_, 96, 0),
            ("str", none, 128, 0),
        ],
    );
    let stream = btf.structure(
        "bpf_stream",
        24,
        &[("log", u64_, 64, 0), ("backlog_head", u64_, 128, 0)],
    );
    let streams = btf.array(stream, 2);
    btf.structure("bpf_prog_aux", 48, &[("stream", streams, 0, 0)]);
    let btf = Btf::from_bytes(btf.finish()).unwrap();
    let memory = Arc::new(SparseMem::new());
    memory.populate(Gpa(0), 0x1_0000);
    let put = |at: u64, value: u64| memory.put(Gpa(at), &value.to_le_bytes());
    let piece = |at: u64, next: u64, consumed: u64, text: &str| {
        put(at, next);
        put(at + 8, text.len() as u64 | consumed << 32);
        memory.put(Gpa(at + 16), text.as_bytes());
    };
    piece(0x8000, 0, 4, "old: arena ");
    piece(0x8100, DIRECT + 0x8200, 0, "at 0x10\n");
    piece(0x8200, 0, 0, "fault ");
    let stderr = 0x9000 + 24;
    put(stderr + 8, DIRECT + 0x8100);
    put(stderr + 16, DIRECT + 0x8000);
    let kernel = kernel(memory, btf, &[("_text", TEXT)]);
    let aux = kernel.object("bpf_prog_aux", Kva(DIRECT + 0x9000)).unwrap();
    let mut problems = crate::Problems::new();
    let [stdout, stderr] = BpfProgram::read_streams(&kernel, &aux, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        (stdout.as_str(), stderr.as_str()),
        ("", " arena fault at 0x10\n")
    );
}
