//! The host's end of the frame stream, from the first byte to the guest's end.
//!
//! One loop owns the port: it sleeps in `poll` on the port and on the VM's exit, stamps each frame with the host time
//! of its arrival, and keeps what result consumers may see. The VM's own deadline bounds it, so it needs none.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ktstr_vmm::PortStream;
use ktstr_wire::{Assembler, Event, Message, SchedLog, SysReady};

use crate::model::result::{BulkDrainResult, BulkEntry};

/// How much is read from the port at once.
const READ_BYTES: usize = 64 * 1024;

/// What is kept of a guest's output; beyond that the oldest goes.
const MAX_OUTPUT: usize = 64 << 20;
/// What is kept of all else; beyond that what comes is not kept.
const MAX_OTHER: usize = 64 << 20;

/// What the stream gave, split into what consumers see and what the coordinator keeps.
#[derive(Debug, Default)]
pub(in crate::host) struct Drained {
    /// Frames for result consumers.
    pub(in crate::host) frames: BulkDrainResult,
    /// The guest's SysReady and the host time of its arrival.
    pub(in crate::host) sys_ready: Option<(Duration, SysReady)>,
    /// Any byte arrived at all.
    pub(in crate::host) any_bytes: bool,
}

/// Collects frames of one guest.
#[derive(Debug)]
pub(in crate::host) struct Drain {
    started: Instant,
    assembler: Assembler,
    drained: Drained,
    kept: Kept,
}

/// Memory of the kept frames.
#[derive(Debug)]
struct Kept {
    output: usize,
    other: usize,
    max_output: usize,
    max_other: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            output: 0,
            other: 0,
            max_output: MAX_OUTPUT,
            max_other: MAX_OTHER,
        }
    }
}

/// What a program or the kernel wrote, of which the end tells most. A log's marks are kept.
fn is_output(message: &Message) -> bool {
    matches!(
        message,
        Message::Stdout(_)
            | Message::Stderr(_)
            | Message::SchedLog(SchedLog::Chunk(_))
            | Message::Dmesg(_)
            | Message::ProbeOutput(_)
    )
}

fn cost(entry: &BulkEntry) -> usize {
    size_of::<BulkEntry>() + entry.frame.payload.len()
}

impl Kept {
    /// Keeps `entry` in `frames`, at the price of older output or not at all.
    fn keep(&mut self, frames: &mut BulkDrainResult, entry: BulkEntry, is_output: bool) {
        let cost = cost(&entry);
        if is_output {
            self.output += cost;
            frames.entries.push(entry);
            if self.output > self.max_output {
                self.drop_output(frames);
            }
        } else if self.other + cost <= self.max_other {
            self.other += cost;
            frames.entries.push(entry);
        } else {
            frames.dropped += 1;
            frames.dropped_bytes += entry.frame.payload.len() as u64;
        }
    }

    /// Down to three quarters, so that the list is walked once for many frames.
    fn drop_output(&mut self, frames: &mut BulkDrainResult) {
        let goal = self.max_output / 4 * 3;
        let (dropped, dropped_bytes) = (&mut frames.dropped, &mut frames.dropped_bytes);
        frames.entries.retain(|entry| {
            let goes = self.output > goal && entry.message().as_ref().is_some_and(is_output);
            if goes {
                self.output -= cost(entry);
                *dropped += 1;
                *dropped_bytes += entry.frame.payload.len() as u64;
            }
            !goes
        });
    }
}

impl Drain {
    pub(in crate::host) fn new(started: Instant) -> Self {
        Self {
            started,
            assembler: Assembler::new(),
            drained: Drained::default(),
            kept: Kept::default(),
        }
    }

    /// Reads the port until its end, which comes at the latest when the VM is gone.
    ///
    /// # Errors
    /// When the port breaks; what came before is kept and [`finish`](Self::finish) returns it.
    pub(in crate::host) fn read_to_end(
        &mut self,
        port: &mut PortStream,
        mut on_message: impl FnMut(&Message),
    ) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match port.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    let now = Instant::now();
                    self.push(buffer.get(..len).unwrap_or_default(), now, &mut on_message);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes bytes that arrived at `now`.
    pub(in crate::host) fn push(
        &mut self,
        bytes: &[u8],
        now: Instant,
        on_message: &mut impl FnMut(&Message),
    ) {
        self.drained.any_bytes |= !bytes.is_empty();
        self.assembler.push(bytes);
        while let Some(event) = self.assembler.next_event() {
            self.take(event, now, on_message);
        }
    }

    /// The stream is over: what is left in the assembler is counted, and everything is handed out.
    pub(in crate::host) fn finish(mut self) -> Drained {
        while let Some(event) = self.assembler.finish() {
            self.take(event, Instant::now(), &mut |_| ());
        }
        self.drained
    }

    fn take(&mut self, event: Event, now: Instant, on_message: &mut impl FnMut(&Message)) {
        let frames = &mut self.drained.frames;
        match event {
            Event::Gap { .. } => frames.gaps += 1,
            Event::Skipped { bytes, .. } => frames.skipped_bytes += bytes,
            Event::Frame(frame) => {
                let host_elapsed = now.saturating_duration_since(self.started);
                if !frame.crc_ok {
                    frames.bad_crc += 1;
                }
                let entry = BulkEntry {
                    frame,
                    host_elapsed,
                };
                let message = entry.message();
                if let Some(message) = &message {
                    on_message(message);
                }
                match message {
                    Some(Message::SysReady(ready)) => {
                        self.drained.sys_ready = Some((host_elapsed, ready))
                    }
                    Some(
                        Message::SnapshotRequest(_)
                        | Message::UntilRequest(_)
                        | Message::KernelOpRequest(_)
                        | Message::TaskRequest,
                    ) => {}
                    message => {
                        let is_output = message.as_ref().is_some_and(is_output);
                        self.kept.keep(frames, entry, is_output);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(messages: &[Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (seq, message) in messages.iter().enumerate() {
            bytes.extend(ktstr_wire::encode(message, u32::try_from(seq).unwrap(), 7).unwrap());
        }
        bytes
    }

    #[test]
    fn requests_and_sys_ready_stay_with_the_coordinator() {
        let ready = SysReady {
            kernel_release: "6.12".into(),
            page_size: 4096,
            text_addr: None,
        };
        let mut drain = Drain::new(Instant::now());
        let bytes = frames(&[
            Message::SysReady(ready.clone()),
            Message::TaskRequest,
            Message::ScenarioStart,
            Message::Exit(0),
        ]);
        drain.push(&bytes, Instant::now(), &mut |_| ());
        let drained = drain.finish();
        assert_eq!(drained.sys_ready.unwrap().1, ready);
        let seen: Vec<Message> = drained.frames.messages().map(|(_, m)| m).collect();
        assert_eq!(seen, [Message::ScenarioStart, Message::Exit(0)]);
    }

    /// With small limits; the real ones are the same code.
    fn limited(messages: &[Message]) -> BulkDrainResult {
        let mut drain = Drain::new(Instant::now());
        (drain.kept.max_output, drain.kept.max_other) = (20_000, 5_000);
        drain.push(&frames(messages), Instant::now(), &mut |_| ());
        drain.finish().frames
    }

    #[test]
    fn of_too_much_output_the_end_is_kept_and_every_mark() {
        let mut messages = vec![Message::ScenarioStart, Message::SchedLog(SchedLog::Start)];
        messages.extend((0..100).map(|n| Message::Stdout(vec![n; 1000])));
        messages.push(Message::Exit(0));
        let frames = limited(&messages);
        let kept: usize = frames.entries.iter().map(cost).sum();
        assert!(kept <= 25_000, "{kept}");
        let seen: Vec<Message> = frames.messages().map(|(_, m)| m).collect();
        assert_eq!(seen[..2], messages[..2]);
        assert_eq!(seen[seen.len() - 10..], messages[messages.len() - 10..]);
        assert_eq!(
            usize::try_from(frames.dropped),
            Ok(messages.len() - seen.len())
        );
        assert!(frames.dropped_bytes >= 80_000, "{}", frames.dropped_bytes);
        assert_eq!((frames.gaps, frames.bad_crc), (0, 0));
    }

    #[test]
    fn what_is_no_output_is_bounded_too() {
        let messages: Vec<Message> = (0..100).map(|n| Message::Crash("x".repeat(n))).collect();
        let frames = limited(&messages);
        assert!(frames.dropped > 0 && frames.entries.len() < 100);
        assert_eq!(
            usize::try_from(frames.dropped),
            Ok(100 - frames.entries.len())
        );
    }

    #[test]
    fn a_lost_frame_is_counted() {
        let mut bytes = frames(&[Message::ScenarioStart]);
        bytes.extend(ktstr_wire::encode(&Message::Exit(1), 5, 0).unwrap());
        bytes.extend_from_slice(b"tail");
        let mut drain = Drain::new(Instant::now());
        drain.push(&bytes, Instant::now(), &mut |_| ());
        let frames = drain.finish().frames;
        assert_eq!(
            (frames.entries.len(), frames.gaps, frames.skipped_bytes),
            (2, 1, 4)
        );
    }
}
