//! The host's watch over a scheduler, set before the scheduler can do anything.
//!
//! The host looks for the kernel in memory when it hears of `SysReady`; a scheduler that fails within that time would be gone
//! unseen. So init asks, and starts no scheduler before it is answered. And it asks for the capture of a failure where the
//! test's process cannot.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use ktstr_wire::{Assembler, Event, Message, SendError, SnapshotKind, SnapshotRequest};
use rustix::event::{PollFd, PollFlags};

use crate::outbox::Outbox;
use crate::process::{ready, sleep_on};
use crate::{ENDED_TAG, WATCHED_TAG};

/// The test's own requests count from 1.
const REQUEST_ID: u32 = 0;

/// Asks whether the host watches, and waits for its word. A host that cannot watch knows it, and goes on without; one that
/// says nothing by the deadline is told of on the test's error output.
pub(crate) fn wait_for_host(
    outbox: &mut Outbox,
    replies: &mut File,
    deadline: Duration,
) -> Result<(), SendError> {
    if ask(WATCHED_TAG, outbox, replies, deadline)? {
        return Ok(());
    }
    let text = format!(
        "ktstr-init: the host did not say within {} s that it watches; the scheduler's exit may go unseen\n",
        deadline.as_secs()
    );
    outbox.send(&Message::Stderr(text.into_bytes()))
}

/// Asks for the capture of a failure that the test's process cannot ask for any more: a signal has ended it.
pub(crate) fn capture_failure(
    outbox: &mut Outbox,
    replies: &mut File,
    deadline: Duration,
) -> Result<(), SendError> {
    ask(ENDED_TAG, outbox, replies, deadline).map(drop)
}

/// Asks the host for a capture of that name and waits for its answer; false when none came by the deadline.
fn ask(
    tag: &str,
    outbox: &mut Outbox,
    replies: &mut File,
    deadline: Duration,
) -> Result<bool, SendError> {
    outbox.send(&Message::SnapshotRequest(SnapshotRequest {
        id: REQUEST_ID,
        kind: SnapshotKind::Capture,
        tag: tag.to_owned(),
    }))?;
    let is_answer = |message| match message {
        Message::SnapshotReply(reply) if reply.id == REQUEST_ID => Some(()),
        _ => None,
    };
    Ok(!matches!(
        wait_for_answer(replies, deadline, is_answer),
        Heard::Silence
    ))
}

/// What came of waiting for an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<T> {
    Answer(T),
    /// The host has closed its end: no answer will come.
    HungUp,
    /// Nothing by the deadline.
    Silence,
}

/// Waits for the first message that `pick` takes.
pub(crate) fn wait_for_answer<T>(
    replies: &mut File,
    deadline: Duration,
    mut pick: impl FnMut(Message) -> Option<T>,
) -> Heard<T> {
    let until = Instant::now() + deadline;
    let mut assembler = Assembler::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Heard::Silence;
        }
        let mut fds = [PollFd::new(&*replies, PollFlags::IN)];
        // A failed sleep is one that ended early.
        let _ = sleep_on(
            &mut fds,
            u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
        );
        if !fds.iter().any(ready) {
            continue;
        }
        let mut buffer = [0; 4096];
        match replies.read(&mut buffer) {
            Ok(0) => return Heard::HungUp,
            Ok(len) => assembler.push(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Heard::HungUp,
        }
        while let Some(event) = assembler.next_event() {
            let Event::Frame(frame) = event else { continue };
            if let Some(answer) = frame.decode().ok().and_then(&mut pick) {
                return Heard::Answer(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_wire::{FrameWriter, SnapshotReply};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// Beyond what a slow machine needs.
    const LONG: Duration = Duration::from_secs(20);

    /// The next message, or the end; read byte by byte, so that nothing of a later one is lost.
    fn next_message(port: &mut UnixStream) -> Option<Message> {
        let mut assembler = Assembler::new();
        let mut byte = [0];
        while port.read(&mut byte).unwrap() == 1 {
            assembler.push(&byte);
            if let Some(Event::Frame(frame)) = assembler.next_event() {
                return Some(frame.decode().unwrap());
            }
        }
        None
    }

    /// What init tells a host that does `host` with its end of the port.
    fn told(
        deadline: Duration,
        host: impl FnOnce(&mut UnixStream, SnapshotRequest) + Send + 'static,
    ) -> Vec<Message> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut port = File::from(OwnedFd::from(ours));
        let mut outbox = Outbox::new(port.try_clone().unwrap());
        let reader = thread::spawn(move || {
            let request = match next_message(&mut theirs) {
                Some(Message::SnapshotRequest(request)) => request,
                other => panic!("{other:?}"),
            };
            host(&mut theirs, request);
            std::iter::from_fn(|| next_message(&mut theirs)).collect()
        });
        wait_for_host(&mut outbox, &mut port, deadline).unwrap();
        drop((outbox, port));
        reader.join().unwrap()
    }

    fn reply(id: u32, result: Result<(), String>) -> Message {
        Message::SnapshotReply(SnapshotReply { id, result })
    }

    #[test]
    fn any_answer_to_this_request_ends_the_wait() {
        for result in [Ok(()), Err(String::from("no BTF"))] {
            let said = told(LONG, move |port, request| {
                assert_eq!(request.tag, WATCHED_TAG);
                let mut port = FrameWriter::new(port);
                port.send(&reply(request.id + 1, Ok(())), 0).unwrap();
                port.send(&reply(request.id, result), 0).unwrap();
            });
            assert_eq!(said, []);
        }
    }

    #[test]
    fn a_host_that_hangs_up_is_not_waited_for() {
        let said = told(LONG, |port, _| {
            port.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert_eq!(said, []);
    }

    #[test]
    fn silence_ends_with_the_deadline_and_is_told() {
        let said = told(Duration::from_millis(30), |_, _| {});
        let [Message::Stderr(text)] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(String::from_utf8_lossy(text).contains("may go unseen"));
    }
}
