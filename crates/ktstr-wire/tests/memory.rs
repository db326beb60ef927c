//! What a hostile stream costs its reader, by an allocator that counts. Alone in its binary: it counts everything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ktstr_wire::{Assembler, Event, HEADER_LEN, MAX_PAYLOAD};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came; only counters are added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the block came from `alloc` above with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// The header of a stdout frame of the largest size, as a guest can make it, with a checksum that its payload cannot have.
fn header(seq: u32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(b"KTSW");
    header[4] = 1;
    header[6] = 13;
    header[12..16].copy_from_slice(&seq.to_le_bytes());
    header[16..20].copy_from_slice(&u32::try_from(MAX_PAYLOAD).unwrap().to_le_bytes());
    let [a, b, c, d] = crc32fast::hash(&header).to_le_bytes();
    (header[10], header[11]) = (a ^ c, b ^ d);
    header[28..].copy_from_slice(b"none");
    header
}

/// 64 MiB of headers, each with a good check of its own, a bad checksum, and a claim of 16 MiB: each claims what follows it.
#[test]
fn nested_headers_cost_no_more_than_one_frame() {
    let headers = u32::try_from(64 * MIB / HEADER_LEN).unwrap();
    let stream: Vec<u8> = (0..headers).flat_map(header).collect();
    PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
    let before = NOW.load(Ordering::Relaxed);
    let mut assembler = Assembler::new();
    let (mut pushed, mut handed_out, mut damaged) = (0, 0, 0);
    let mut take = |event: Event| {
        if let Event::Frame(frame) = event {
            handed_out += frame.payload.len();
            damaged += u32::from(!frame.crc_ok);
        }
    };
    for piece in stream.chunks(64 << 10) {
        assembler.push(piece);
        pushed += piece.len();
        std::iter::from_fn(|| assembler.next_event()).for_each(&mut take);
    }
    std::iter::from_fn(|| assembler.finish()).for_each(&mut take);
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert!(
        damaged >= 3,
        "the stream is seen as damaged frames: {damaged}"
    );
    assert!(
        handed_out <= pushed,
        "{handed_out} bytes came out of {pushed}"
    );
    assert!(peak < 64 * MIB, "{} MiB at the peak", peak / MIB);
}
