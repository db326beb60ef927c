//! The test's process: its link to init.

use std::io::{self, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ktstr_wire::{Assembler, Event, FrameWriter, Message, SendError};

use crate::outbox::now_ns;

/// Environment variable with the number of the inherited link descriptor.
pub const LINK_FD_ENV: &str = "KTSTR_LINK_FD";
/// Environment variable with the scheduler's process id.
pub const SCHED_PID_ENV: &str = "KTSTR_SCHED_PID";
/// Environment variable that is there when sched_ext was enabled for the test: the kernel's `enable_seq` at that moment.
pub const SCHED_SEQ_ENV: &str = "KTSTR_SCHED_ENABLE_SEQ";

/// The test's end of the link.
#[derive(Debug)]
pub struct Link {
    writer: Mutex<FrameWriter<UnixStream>>,
    reader: Mutex<(UnixStream, Assembler)>,
}

impl Link {
    /// Takes over the inherited descriptor; `None` when this process was not started by init. Call once.
    ///
    /// # Errors
    /// When the variable holds no open descriptor.
    pub fn from_env() -> io::Result<Option<Self>> {
        let Ok(text) = std::env::var(LINK_FD_ENV) else {
            return Ok(None);
        };
        let wrong = || {
            io::Error::other(format!(
                "{LINK_FD_ENV} is '{text}', expected an open descriptor's number"
            ))
        };
        let fd: RawFd = text.parse().map_err(|_| wrong())?;
        // SAFETY: F_GETFD on any number touches no memory; a closed one is an error return.
        if fd < 3 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(wrong());
        }
        // SAFETY: the descriptor is open (just checked) and is init's gift to this process; the variable is read once, so
        // nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Self::new(UnixStream::from(fd)).map(Some)
    }

    /// A link over any stream.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let writer = FrameWriter::new(stream.try_clone()?);
        Ok(Self {
            writer: Mutex::new(writer),
            reader: Mutex::new((stream, Assembler::new())),
        })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the link is broken or the message too large.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let sent = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(message, now_ns());
        sent.map_err(|error| match error {
            SendError::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    /// Sends a request and waits for the reply with its id; `None` when none came in time. Replies to requests that
    /// timed out earlier are dropped.
    ///
    /// # Errors
    /// When the link is broken.
    pub fn request(&self, message: &Message, deadline: Duration) -> io::Result<Option<Message>> {
        let until = Instant::now() + deadline;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        self.send(message)?;
        let (stream, assembler) = &mut *reader;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(event) = assembler.next_event() {
                if let Event::Frame(frame) = event
                    && let Ok(reply) = frame.decode()
                    && answers(message, &reply)
                {
                    return Ok(Some(reply));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => assembler.push(buffer.get(..len).unwrap_or_default()),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

fn answers(request: &Message, reply: &Message) -> bool {
    match (request, reply) {
        (Message::SnapshotRequest(request), Message::SnapshotReply(reply)) => {
            request.id == reply.id
        }
        (Message::KernelOpRequest(request), Message::KernelOpReply(reply)) => {
            request.id == reply.id
        }
        (Message::SchedulerRequest(request), Message::SchedulerReply(reply)) => {
            request.id == reply.id
        }
        (Message::UntilRequest(request), Message::UntilReply(reply)) => request.id == reply.id,
        _ => false,
    }
}

/// The scheduler's process in this guest, as init told it.
#[must_use]
pub fn scheduler_pid() -> Option<i32> {
    std::env::var(SCHED_PID_ENV).ok()?.parse().ok()
}

/// The kernel's count of enabled schedulers when this guest's was attached; `None` where none is under sched_ext.
#[must_use]
pub fn scheduler_enable_seq() -> Option<String> {
    std::env::var(SCHED_SEQ_ENV).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktstr_wire::{SnapshotKind, SnapshotReply, SnapshotRequest};
    use std::io::Write as _;

    fn request(id: u32) -> Message {
        Message::SnapshotRequest(SnapshotRequest {
            id,
            kind: SnapshotKind::Capture,
            tag: "t".into(),
        })
    }

    #[test]
    fn only_the_reply_with_the_same_id_answers() {
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        let link = Link::new(mine).unwrap();
        for id in [1, 2] {
            let reply = Message::SnapshotReply(SnapshotReply { id, result: Ok(()) });
            theirs
                .write_all(&ktstr_wire::encode(&reply, id, 0).unwrap())
                .unwrap();
        }
        let reply = link.request(&request(2), Duration::from_secs(30)).unwrap();
        assert_eq!(
            reply,
            Some(Message::SnapshotReply(SnapshotReply {
                id: 2,
                result: Ok(())
            }))
        );
        assert_eq!(
            link.request(&request(3), Duration::from_millis(10))
                .unwrap(),
            None
        );
        drop(theirs);
        assert!(link.request(&request(4), Duration::from_secs(30)).is_err());
    }
}
