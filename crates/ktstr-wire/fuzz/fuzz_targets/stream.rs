//! Any bytes: the same events for any split, no byte told twice, bodies that never panic. The
//! first byte says how the rest is cut. Where the fuzzer writes `^` in place of a checksum it gets the right one, so
//! that it reaches the bodies; `~` and two bytes are a header whose own check holds, of a payload that is not there, so that
//! damaged frames nest.
//!
//! `cargo +nightly fuzz run stream` in `crates/ktstr-wire`.

#![no_main]

use ktstr_wire::{Assembler, Event, HEADER_LEN, MAX_PAYLOAD, encode_raw};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, rest)) = input.split_first() else {
        return;
    };
    let stream = mend(rest);
    let whole = assemble(&stream, stream.len());
    assert_eq!(whole, assemble(&stream, usize::from(cut)));
});

/// Replaces `^`, type, length and so many bytes by the frame that they describe.
fn mend(input: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut seq) = (Vec::new(), input, 0);
    while let Some((&first, tail)) = rest.split_first() {
        match tail {
            [msg_type, len, tail @ ..] if first == b'^' => {
                let (payload, tail) = tail.split_at(usize::from(*len).min(tail.len()));
                out.extend(encode_raw((*msg_type).into(), 0, seq, 0, payload).expect("short"));
                seq += 1;
                rest = tail;
            }
            [low, high, tail @ ..] if first == b'~' => {
                let len = usize::from(u16::from_le_bytes([*low, *high]));
                let mut frame = encode_raw(13, 0, seq, 0, &vec![0; len]).expect("short");
                frame.truncate(HEADER_LEN);
                frame[HEADER_LEN - 1] ^= 0x5a;
                out.extend(frame);
                seq += 1;
                rest = tail;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn assemble(stream: &[u8], cut: usize) -> Vec<Event> {
    let mut assembler = Assembler::new();
    let mut events = Vec::new();
    for piece in stream.chunks(cut.max(1)) {
        assembler.push(piece);
        events.extend(std::iter::from_fn(|| assembler.next_event()));
    }
    events.extend(std::iter::from_fn(|| assembler.finish()));
    let (mut intact, mut handed_out) = (0, 0);
    for event in &events {
        let Event::Frame(frame) = event else { continue };
        assert!(frame.payload.len() <= MAX_PAYLOAD);
        handed_out += frame.payload.len();
        if frame.crc_ok {
            intact += HEADER_LEN + frame.payload.len();
        }
        // A body that is read is one that can be sent again.
        if let Ok(message) = frame.decode() {
            let again = ktstr_wire::encode(&message, 0, 0).expect("limits hold both ways");
            assert!(again.len() <= HEADER_LEN + frame.payload.len());
        }
    }
    let skipped = usize::try_from(assembler.stats().skipped_bytes).expect("short");
    assert!(handed_out <= stream.len(), "no byte is handed out twice");
    assert!(intact + skipped <= stream.len(), "no byte is told twice");
    events
}
