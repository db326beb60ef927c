//! `struct bpf_stream` (6.17 and later): what programs printed, and what the kernel says of them there: faults in an
//! arena, deadlocks of locks, loops that were cut short.

use super::BpfProgram;
use crate::{Kernel, Kva, Object, Problems, Result};

/// Bytes of one stream that are read; the kernel keeps at most 100 000.
const MAX_TEXT: usize = 32 << 10;
/// Pieces of one stream.
const MAX_PIECES: usize = 1024;

impl BpfProgram {
    /// Reads both streams of a program, standard output and standard error; empty on a kernel without.
    pub(super) fn read_streams(
        kernel: &Kernel,
        aux: &Object<'_>,
        problems: &mut Problems,
    ) -> [String; 2] {
        ["stream[0]", "stream[1]"].map(|path| {
            let stream = aux.member(path);
            let Some(stream) = problems.keep("bpf_prog_aux.stream", stream) else {
                return String::new();
            };
            let text = text(kernel, &stream, problems);
            problems
                .keep("a program's stream", text)
                .unwrap_or_default()
        })
    }
}

/// What a reader has begun with comes first, then what was printed since, of which the newest is at the head.
fn text(kernel: &Kernel, stream: &Object<'_>, problems: &mut Problems) -> Result<String> {
    let what = "a program's stream";
    let backlog = stream.address_of("backlog_head")?;
    let mut pieces = kernel.walk_hlist(what, backlog, MAX_PIECES, problems);
    let log = stream.address_of("log")?;
    let mut newest_first = kernel.walk_hlist(what, log, MAX_PIECES, problems);
    newest_first.reverse();
    pieces.append(&mut newest_first);
    let mut raw = Vec::new();
    for piece in pieces {
        let element = kernel.container_of(piece, "bpf_stream_elem", "node")?;
        let (total, consumed) = (element.uint("total_len")?, element.uint("consumed_len")?);
        let start: Kva = element.address_of("str")?.wrapping_add(consumed);
        let room = MAX_TEXT.saturating_sub(raw.len());
        let len = total.saturating_sub(consumed).min(room as u64);
        raw.extend(kernel.read_bytes(start, len, MAX_TEXT)?);
    }
    Ok(String::from_utf8_lossy(&raw).into_owned())
}
