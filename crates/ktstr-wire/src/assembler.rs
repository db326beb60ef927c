//! Bytes in, frames out.
//!
//! ```text
//!   hunting --magic and header check hold--> header known --all bytes here, crc holds--> Frame
//!      ^                                         |
//!      +--anything else: one byte is skipped     +--crc fails--> Frame, crc_ok = false, and hunting goes on in its payload
//! ```
//!
//! Memory is bounded by one frame of the largest size plus one push. Nothing is allocated for a length that the header
//! check does not vouch for, and only an intact frame carries its payload, so that no byte is handed out twice. Headers inside
//! of a damaged frame may be anything that its sender liked: reading their payloads for a checksum is paid from an allowance
//! that grows with the stream ([`ALLOWANCE`]), so that work is bounded by what was sent, too.

use std::collections::VecDeque;

use crate::frame::{Frame, HEADER_LEN, Header, MAGIC};
use crate::message::MAX_PAYLOAD;
use crate::message::is_known;

/// Bytes of payloads inside of damaged frames that may be summed in vain before any came, and per byte that came. Damage by
/// accident needs one such sum per damaged frame.
const ALLOWANCE: u64 = 4 * MAX_PAYLOAD as u64;
const ALLOWANCE_PER_BYTE: u64 = 8;

/// Why bytes belonged to no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// No frame begins there, or its header is damaged.
    NoHeader,
    /// The stream ended inside of a frame.
    Truncated,
}

/// What the stream held next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A frame; it has its payload only if `crc_ok`.
    Frame(Frame),
    /// Sequence numbers are missing before the next frame.
    Gap {
        /// The number that should have come.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// A frame that was seen before came again; it is dropped.
    Repeated {
        /// Its number.
        seq: u32,
    },
    /// Bytes that belong to no frame.
    Skipped {
        /// How many.
        bytes: u64,
        /// Why.
        why: SkipReason,
    },
}

/// Counts since the assembler was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AssemblerStats {
    /// Frames handed out.
    pub frames: u64,
    /// Of these, frames with a bad checksum.
    pub bad_crc: u64,
    /// Of these, intact frames whose message number is unknown.
    pub unknown: u64,
    /// Bytes that belonged to no frame.
    pub skipped_bytes: u64,
    /// Gaps in the sequence.
    pub gaps: u64,
    /// Frames that came again.
    pub repeated: u64,
}

/// Finds frames in a stream.
#[derive(Debug, Default)]
pub struct Assembler {
    buffer: Vec<u8>,
    /// Bytes before this one are done with.
    start: usize,
    events: VecDeque<Event>,
    next_seq: Option<u32>,
    /// Skipped bytes that are not yet an event, so that one stretch of noise is one event.
    noise: u64,
    /// Bytes ahead that belong to a damaged frame that was told already.
    excused: usize,
    /// Bytes of the stream that are done with.
    done: u64,
    /// Bytes that were summed in vain inside of damaged frames.
    summed: u64,
    stats: AssemblerStats,
}

/// What one look at the front of the buffer found.
enum Step {
    /// Something was consumed; look again.
    Again,
    /// More bytes are needed.
    NeedMore,
}

impl Assembler {
    /// An assembler that expects any sequence number first.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
        while matches!(self.step(), Step::Again) {}
    }

    /// The next event, in stream order.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Declares the stream over: what is left is searched for whole frames and the rest is skipped. Call until `None`.
    pub fn finish(&mut self) -> Option<Event> {
        if self.events.is_empty() && (self.noise > 0 || !self.rest().is_empty()) {
            // The frame at the front never completes; whole frames may still lie behind its header.
            while !self.rest().is_empty() {
                match self.step() {
                    Step::Again => {}
                    // The look itself may have skipped the last byte.
                    Step::NeedMore => self.skip(self.rest().len().min(1)),
                }
            }
            self.flush_noise(SkipReason::Truncated);
        }
        self.events.pop_front()
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> AssemblerStats {
        self.stats
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Moves what is left to the front, so that the buffer never grows beyond one frame and one push.
    fn compact(&mut self) {
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
    }

    fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        self.done = self
            .done
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Whether a payload of that length inside of a damaged frame may be looked at. It depends on the place in the stream alone,
    /// not on how the stream was cut.
    fn may_sum(&self, len: usize) -> bool {
        let allowed = ALLOWANCE.saturating_add(self.done.saturating_mul(ALLOWANCE_PER_BYTE));
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.summed.saturating_add(len) <= allowed
    }

    fn skip(&mut self, bytes: usize) {
        self.advance(bytes);
        let excused = bytes.min(self.excused);
        self.excused -= excused;
        let bytes = bytes - excused;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.noise = self.noise.saturating_add(bytes);
        self.stats.skipped_bytes = self.stats.skipped_bytes.saturating_add(bytes);
    }

    fn flush_noise(&mut self, why: SkipReason) {
        let bytes = std::mem::take(&mut self.noise);
        if bytes > 0 {
            self.events.push_back(Event::Skipped { bytes, why });
        }
    }

    fn step(&mut self) -> Step {
        let rest = self.rest();
        let Some(at) = find_magic(rest) else {
            // Keep a tail that may be the beginning of a magic.
            let keep = magic_prefix_len(rest);
            let gone = rest.len() - keep;
            self.skip(gone);
            return Step::NeedMore;
        };
        if at > 0 {
            self.skip(at);
            return Step::Again;
        }
        let Some(head) = rest.first_chunk::<HEADER_LEN>() else {
            return Step::NeedMore;
        };
        let Some(header) = Header::parse(head) else {
            self.skip(1);
            return Step::Again;
        };
        let nested = self.excused > 0;
        if nested && !self.may_sum(header.payload_len()) {
            self.skip(1);
            return Step::Again;
        }
        let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN + header.payload_len()) else {
            return Step::NeedMore;
        };
        if header.crc_of(payload) == header.crc {
            let payload = payload.to_vec();
            self.take(header, Some(payload));
        } else if nested {
            // Part of a frame that was told as damaged.
            let summed = u64::try_from(payload.len()).unwrap_or(u64::MAX);
            self.summed = self.summed.saturating_add(summed);
            self.skip(1);
        } else {
            self.take(header, None);
        }
        Step::Again
    }

    /// `payload` is there if it is intact.
    fn take(&mut self, header: Header, payload: Option<Vec<u8>>) {
        // A damaged frame may have lost bytes, so that the next one begins inside of what its length claims: only its
        // header is behind us, and its payload is looked through once more without being counted as noise.
        let crc_ok = payload.is_some();
        self.advance(HEADER_LEN + payload.as_ref().map_or(0, Vec::len));
        self.flush_noise(SkipReason::NoHeader);
        self.excused = if crc_ok { 0 } else { header.payload_len() };
        let payload = payload.unwrap_or_default();
        if let Some(expected) = self.next_seq.filter(|expected| *expected != header.seq) {
            // Half of the number space lies ahead, half behind.
            if header.seq.wrapping_sub(expected) > u32::MAX / 2 {
                self.stats.repeated += 1;
                self.events.push_back(Event::Repeated { seq: header.seq });
                return;
            }
            self.stats.gaps += 1;
            self.events.push_back(Event::Gap {
                expected,
                found: header.seq,
            });
        }
        self.next_seq = Some(header.seq.wrapping_add(1));
        self.stats.frames += 1;
        self.stats.bad_crc += u64::from(!crc_ok);
        self.stats.unknown += u64::from(crc_ok && !is_known(header.msg_type));
        self.events.push_back(Event::Frame(Frame {
            msg_type: header.msg_type,
            flags: header.flags,
            seq: header.seq,
            guest_ns: header.guest_ns,
            payload,
            crc_ok,
        }));
    }
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    let [first, ..] = MAGIC;
    let mut from = 0;
    loop {
        let tail = bytes.get(from..)?;
        let at = from + tail.iter().position(|byte| *byte == first)?;
        if bytes.get(at..)?.starts_with(&MAGIC) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Length of the longest tail that a magic may begin with.
fn magic_prefix_len(bytes: &[u8]) -> usize {
    let longest = (MAGIC.len() - 1).min(bytes.len());
    (0..=longest)
        .rev()
        .find(|len| bytes.ends_with(MAGIC.get(..*len).unwrap_or_default()))
        .unwrap_or(0)
}

const _: () = assert!(MAX_PAYLOAD <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, encode};
    use proptest::prelude::*;

    fn events(chunks: &[&[u8]]) -> Vec<Event> {
        let mut assembler = Assembler::new();
        chunks.iter().for_each(|chunk| assembler.push(chunk));
        let mut events: Vec<Event> = std::iter::from_fn(|| assembler.next_event()).collect();
        events.extend(std::iter::from_fn(|| assembler.finish()));
        events
    }

    fn stream(count: u32) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for seq in 0..count {
            starts.push(bytes.len());
            let len = usize::try_from(seq * 7 % 50).unwrap();
            let message = Message::Stdout(vec![b'K'; len]);
            bytes.extend(encode(&message, seq, u64::from(seq)).unwrap());
        }
        (bytes, starts)
    }

    fn good_seqs(events: &[Event]) -> Vec<u32> {
        let good = |event: &Event| match event {
            Event::Frame(frame) if frame.crc_ok => Some(frame.seq),
            _ => None,
        };
        events.iter().filter_map(good).collect()
    }

    #[test]
    fn noise_at_the_end_is_counted() {
        let (mut bytes, _) = stream(1);
        bytes.extend_from_slice(b"tail");
        let last = events(&[&bytes]).pop().unwrap();
        assert_eq!(
            last,
            Event::Skipped {
                bytes: 4,
                why: SkipReason::Truncated
            }
        );
    }

    /// Found by the fuzz target: the last byte of what looked like a magic was counted twice.
    #[test]
    fn the_beginning_of_a_magic_at_the_end_is_counted_once() {
        let skipped = Event::Skipped {
            bytes: 2,
            why: SkipReason::Truncated,
        };
        assert_eq!(events(&[b"KT"]), [skipped]);
    }

    #[test]
    fn a_frame_that_lost_bytes_does_not_swallow_the_next() {
        let (mut bytes, starts) = stream(4);
        bytes.drain(starts[2] - 3..starts[2]);
        assert_eq!(good_seqs(&events(&[&bytes])), [0, 2, 3]);
    }

    #[test]
    fn a_repeated_frame_is_told_and_dropped() {
        let (bytes, starts) = stream(3);
        let again = events(&[&bytes, &bytes[starts[1]..starts[2]]]);
        assert_eq!(good_seqs(&again), [0, 1, 2]);
        assert_eq!(again.last(), Some(&Event::Repeated { seq: 1 }));
    }

    /// A header whose own check holds, of a payload that is not what it says.
    fn bad_header(seq: u32, len: usize) -> Vec<u8> {
        let mut frame = crate::encode_raw(13, 0, seq, 0, &vec![0; len]).unwrap();
        frame.truncate(HEADER_LEN);
        // The checksum is not part of the header's own check.
        frame
            .iter_mut()
            .rev()
            .take(4)
            .for_each(|byte| *byte ^= 0x5a);
        frame
    }

    fn payload_bytes(events: &[Event]) -> usize {
        let len = |event: &Event| match event {
            Event::Frame(frame) => frame.payload.len(),
            _ => 0,
        };
        events.iter().map(len).sum()
    }

    #[test]
    fn headers_in_a_damaged_frame_are_part_of_it() {
        let mut bytes: Vec<u8> = (0..100).flat_map(|seq| bad_header(seq, 1000)).collect();
        bytes.extend(crate::encode_raw(13, 0, 100, 0, &[7; 9]).unwrap());
        let events = events(&[&bytes]);
        let damaged = events
            .iter()
            .filter(|e| matches!(e, Event::Frame(f) if !f.crc_ok))
            .count();
        // 3200 bytes of headers: the first claims 1000 bytes and so do two more behind its end, and one the rest.
        assert!(damaged <= 4, "{damaged}");
        assert_eq!(payload_bytes(&events), 9);
    }

    /// A small damaged frame does not buy many looks at large payloads.
    #[test]
    fn sums_in_vain_are_bounded_by_what_was_sent() {
        const TAIL: usize = 4 << 20;
        let mut assembler = Assembler::new();
        let mut bytes = Vec::new();
        for seq in 0..2000 {
            bytes.extend(bad_header(seq, HEADER_LEN));
            bytes.extend(bad_header(seq, TAIL));
        }
        bytes.resize(bytes.len() + TAIL, 0);
        assembler.push(&bytes);
        let sent = u64::try_from(bytes.len()).unwrap();
        assert!(assembler.summed > 0, "the case is reached");
        assert!(
            assembler.summed <= ALLOWANCE + ALLOWANCE_PER_BYTE * sent,
            "{}",
            assembler.summed
        );
    }

    proptest! {
        #[test]
        fn no_byte_is_handed_out_twice(
            pieces in proptest::collection::vec((any::<bool>(), 0usize..600), 0..60),
            cut in 1usize..500,
        ) {
            let mut bytes = Vec::new();
            for (seq, (damaged, len)) in (0..).zip(&pieces) {
                if *damaged {
                    bytes.extend(bad_header(seq, *len));
                } else {
                    bytes.extend(crate::encode_raw(13, 0, seq, 0, &vec![7; *len]).unwrap());
                }
            }
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let found = events(&chunks);
            prop_assert!(payload_bytes(&found) <= bytes.len());
            prop_assert_eq!(found, events(&[&bytes]));
        }

        #[test]
        fn any_split_gives_the_same_events(cuts in proptest::collection::vec(0usize..400, 0..12)) {
            let (bytes, _) = stream(6);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(events(&chunks), events(&[&bytes]));
        }

        #[test]
        fn one_flipped_bit_costs_at_most_its_own_frame(at in 0usize..4000, bit in 0u8..8) {
            let (mut bytes, starts) = stream(8);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let hurt = starts.iter().rposition(|start| *start <= at).unwrap();
            let expected: Vec<u32> = (0..8u32).filter(|seq| usize::try_from(*seq).unwrap() != hurt).collect();
            prop_assert_eq!(good_seqs(&events(&[&bytes])), expected);
        }

        #[test]
        fn noise_never_panics_and_is_accounted_for(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut assembler = Assembler::new();
            assembler.push(&noise);
            while assembler.finish().is_some() {}
            prop_assert!(assembler.stats().skipped_bytes <= u64::try_from(noise.len()).unwrap());
        }
    }
}
