//! Rings of 256 bytes whose records go once around, laid out as both rules have it.

use std::sync::Arc;

use super::*;
use crate::Gpa;
use crate::btf::Btf;
use crate::btf::build::Builder;
use crate::phys::SparseMem;
use crate::testing::{DIRECT, TEXT, kernel};

const RING: u64 = 0x1000;
const DESCS: u64 = 0x5000;
const INFOS: u64 = 0x6000;
const DATA: u64 = 0x7000;
const SIZE: u64 = 256;

fn types() -> Btf {
    let mut btf = Builder::new();
    let u8_ = btf.int("unsigned char", 1, false);
    let u16_ = btf.int("unsigned short", 2, false);
    let u32_ = btf.int("unsigned int", 4, false);
    let u64_ = btf.int("unsigned long", 8, false);
    let descs = btf.structure(
        "prb_desc_ring",
        40,
        &[
            ("count_bits", u32_, 0, 0),
            ("descs", u64_, 64, 0),
            ("infos", u64_, 128, 0),
            ("head_id", u64_, 192, 0),
            ("tail_id", u64_, 256, 0),
        ],
    );
    let data = btf.structure(
        "prb_data_ring",
        16,
        &[("size_bits", u32_, 0, 0), ("data", u64_, 64, 0)],
    );
    btf.structure(
        "printk_ringbuffer",
        56,
        &[("desc_ring", descs, 0, 0), ("text_data_ring", data, 320, 0)],
    );
    let place = btf.structure(
        "prb_data_blk_lpos",
        16,
        &[("begin", u64_, 0, 0), ("next", u64_, 64, 0)],
    );
    btf.structure(
        "prb_desc",
        24,
        &[("state_var", u64_, 0, 0), ("text_blk_lpos", place, 64, 0)],
    );
    btf.structure(
        "printk_info",
        24,
        &[
            ("seq", u64_, 0, 0),
            ("ts_nsec", u64_, 64, 0),
            ("text_len", u16_, 128, 0),
            ("facility", u8_, 144, 0),
            ("level", u8_, 152, 0),
            ("caller_id", u32_, 160, 0),
        ],
    );
    Btf::from_bytes(btf.finish()).unwrap()
}

/// A ring and the position that its next block begins at.
struct Ring {
    memory: Arc<SparseMem>,
    id: u64,
    at: u64,
    /// Whether a block that ends with the ring stays there (6.18 and later) or wraps.
    fits: bool,
}

impl Ring {
    fn new(at: u64, fits: bool) -> Self {
        let memory = Arc::new(SparseMem::new());
        memory.populate(Gpa(0), 0x8000);
        Self {
            memory,
            id: 100,
            at,
            fits,
        }
    }

    fn put(&self, at: u64, value: u64) {
        self.memory.put(Gpa(at), &value.to_le_bytes());
    }

    /// Appends a record as `data_alloc` does.
    fn log(&mut self, text: &str) {
        let size = (text.len() as u64 + 8).next_multiple_of(8);
        let (begin, mut next) = (self.at, self.at + size);
        let mut start = begin % SIZE;
        let last = if self.fits { next - 1 } else { next };
        if begin / SIZE != last / SIZE {
            // The id stands in the block that was given up as well.
            self.put(DATA + start, self.id);
            next = next / SIZE * SIZE + size;
            start = 0;
        }
        self.put(DATA + start, self.id);
        self.memory.put(Gpa(DATA + start + 8), text.as_bytes());
        let index = self.id & 7;
        for (at, value) in [
            (0, self.id | FINALIZED << STATE_SHIFT),
            (8, begin),
            (16, next),
        ] {
            self.put(DESCS + index * 24 + at, value);
        }
        self.put(INFOS + index * 24, self.id - 100);
        self.put(INFOS + index * 24 + 16, text.len() as u64 | 6 << 24);
        self.at = next;
        self.id += 1;
    }

    fn texts(&self) -> (Vec<String>, u64) {
        for (at, value) in [
            (0, 3),
            (8, DIRECT + DESCS),
            (16, DIRECT + INFOS),
            (24, self.id - 1),
            (32, 100),
            (40, 8),
            (48, DIRECT + DATA),
        ] {
            self.put(RING + at, value);
        }
        self.put(0x100, DIRECT + RING);
        let symbols = [("_text", TEXT), ("prb", TEXT + 0x100)];
        let kernel = kernel(Arc::clone(&self.memory), types(), &symbols);
        let walk = kernel.dmesg();
        assert!(walk.problems.is_empty(), "{:?}", walk.problems);
        let texts = walk.found.records.into_iter().map(|record| record.text);
        (texts.collect(), walk.found.incomplete)
    }
}

#[test]
fn a_record_that_wraps_is_read_at_the_rings_start() {
    for fits in [false, true] {
        let mut ring = Ring::new(3 * SIZE + 200, fits);
        // What an older record has left at the ring's end.
        ring.memory.put(Gpa(DATA + 200), &[b'o'; 56]);
        let long = "wrapped ".repeat(8);
        for text in ["first", &long, "last"] {
            ring.log(text);
        }
        let (texts, incomplete) = ring.texts();
        assert_eq!(texts, ["first", &long[..], "last"], "fits {fits}");
        assert_eq!(incomplete, 0);
    }
}

#[test]
fn a_record_that_ends_with_the_ring_is_read_where_it_lies() {
    for fits in [false, true] {
        let mut ring = Ring::new(4 * SIZE + 200, fits);
        ring.memory.put(Gpa(DATA + 208), &[b'o'; 48]);
        for text in ["exactly forty-eight bytes of text, up to the end", "next"] {
            ring.log(text);
        }
        let (texts, _) = ring.texts();
        assert_eq!(texts.len(), 2, "fits {fits}");
        assert!(texts[0].ends_with("up to the end"), "{texts:?}");
        assert_eq!(texts[1], "next");
    }
}

#[test]
fn a_block_of_another_record_is_none_of_ours() {
    let mut ring = Ring::new(0, true);
    ring.log("one");
    ring.log("two");
    ring.put(DATA, 4711);
    let (texts, incomplete) = ring.texts();
    assert_eq!((texts, incomplete), (vec!["two".to_owned()], 1));
}

/// A descriptor whose block has no end: nothing overflows, and the others are read.
#[test]
fn positions_that_make_no_sense_cost_one_record() {
    for (begin, next) in [(8, u64::MAX - 7), (u64::MAX - 15, 16), (16, 8), (8, 8)] {
        let mut ring = Ring::new(0, true);
        ring.log("one");
        ring.log("two");
        let index = 101 & 7;
        ring.put(DESCS + index * 24 + 8, begin);
        ring.put(DESCS + index * 24 + 16, next);
        let (texts, incomplete) = ring.texts();
        assert_eq!((texts, incomplete), (vec!["one".to_owned()], 1));
    }
}
