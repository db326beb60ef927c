//! Speed of framing: a stream of large frames as a failure dump makes it, and of small ones as a scheduler log does.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ktstr_wire::{Assembler, Event, Message, encode};

/// Bytes per push, as a port's reader hands them over.
const PUSH: usize = 64 << 10;

fn stream(payload: usize, frames: u32) -> Vec<u8> {
    let message = Message::Stdout(vec![b'x'; payload]);
    (0..frames)
        .flat_map(|seq| encode(&message, seq, 1).expect("small enough"))
        .collect()
}

fn assemble(bytes: &[u8]) -> usize {
    let mut assembler = Assembler::new();
    let mut frames = 0;
    for piece in bytes.chunks(PUSH) {
        assembler.push(piece);
        while let Some(event) = assembler.next_event() {
            frames += usize::from(matches!(event, Event::Frame(frame) if frame.crc_ok));
        }
    }
    frames
}

fn benchmark(criterion: &mut Criterion) {
    for (name, payload, frames) in [("64k", 64 << 10, 256), ("200", 200, 10_000)] {
        let bytes = stream(payload, frames);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(
            u64::try_from(bytes.len()).unwrap_or_default(),
        ));
        group.bench_function("assemble", |bencher| bencher.iter(|| assemble(&bytes)));
        let message = Message::Stdout(vec![b'x'; payload]);
        group.throughput(Throughput::Bytes(
            u64::try_from(payload).unwrap_or_default(),
        ));
        group.bench_function("encode", |bencher| {
            // Each frame is dropped before the next, as a sender does it: kept ones would measure fresh pages.
            bencher.iter(|| encode(&message, 7, 1).expect("small enough").len());
        });
        // What no framing could beat: one copy and one checksum of the same bytes.
        group.throughput(Throughput::Bytes(
            u64::try_from(bytes.len()).unwrap_or_default(),
        ));
        group.bench_function("copy and crc32", |bencher| {
            bencher.iter(|| crc32fast::hash(&bytes.clone()));
        });
        group.finish();
    }
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
