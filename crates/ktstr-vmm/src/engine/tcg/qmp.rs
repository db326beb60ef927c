//! QEMU's monitor: one command at a time, events on the side (QEMU docs/interop/qmp-spec).

use std::io::{self, BufRead, BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The commanding side. One command is under way at a time.
#[derive(Debug)]
pub(super) struct Qmp {
    inner: Mutex<Inner>,
    resumes: Arc<Resumes>,
}

/// How often the guest was let go.
#[derive(Debug, Default)]
struct Resumes {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    resumes: u64,
    /// Whether the last save or load went well, once it is over.
    migrated: Option<bool>,
    /// No more will be seen.
    closed: bool,
}

impl Resumes {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

#[derive(Debug)]
struct Inner {
    stream: UnixStream,
    replies: Receiver<Value>,
    next_id: u64,
}

/// The reading side: feeds replies to [`Qmp`] and returns events.
#[derive(Debug)]
pub(super) struct QmpReader {
    lines: BufReader<UnixStream>,
    replies: Sender<Value>,
    resumes: Arc<Resumes>,
}

impl Drop for QmpReader {
    fn drop(&mut self) {
        self.resumes.change(|seen| seen.closed = true);
    }
}

/// Both sides of a monitor connection.
pub(super) fn connect(stream: UnixStream) -> std::io::Result<(Qmp, QmpReader)> {
    let reader = stream.try_clone()?;
    let (sender, replies) = mpsc::channel();
    let resumes = Arc::<Resumes>::default();
    let qmp = Qmp {
        resumes: Arc::clone(&resumes),
        inner: Mutex::new(Inner {
            stream,
            replies,
            next_id: 0,
        }),
    };
    Ok((
        qmp,
        QmpReader {
            lines: BufReader::new(reader),
            replies: sender,
            resumes,
        },
    ))
}

/// Sends all of `bytes`, the first of them with `fd` (unix(7), SCM_RIGHTS).
fn send(stream: &mut UnixStream, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(fd) = fd else {
        return stream.write_all(bytes);
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let slices = [IoSlice::new(bytes)];
    let sent = sendmsg(&*stream, &slices, &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

impl QmpReader {
    /// The next event; `None` when QEMU closed the connection.
    pub(super) fn next_event(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if let Some(event) = value.get("event") {
                if event == "RESUME" {
                    self.resumes.change(|seen| seen.resumes += 1);
                }
                let well = match (event.as_str(), value["data"]["status"].as_str()) {
                    (Some("MIGRATION"), Some("completed")) => Some(true),
                    (Some("MIGRATION"), Some("failed")) => Some(false),
                    _ => None,
                };
                if well.is_some() {
                    self.resumes.change(|seen| seen.migrated = well);
                }
                return Some(value);
            }
            if value.get("id").is_some() {
                // A reply whose request was given up is late, and dropped with the channel.
                let _ = self.replies.send(value);
            }
        }
    }
}

impl Qmp {
    /// Runs one command and returns its `return` value.
    pub(super) fn execute(
        &self,
        command: &str,
        arguments: &Value,
        deadline: Duration,
    ) -> Result<Value> {
        self.execute_with(command, arguments, None, deadline)
    }

    /// Gives QEMU a descriptor under a name.
    pub(super) fn pass_fd(&self, name: &str, fd: BorrowedFd<'_>, deadline: Duration) -> Result<()> {
        self.execute_with("getfd", &json!({"fdname": name}), Some(fd), deadline)
            .map(drop)
    }

    fn execute_with(
        &self,
        command: &str,
        arguments: &Value,
        fd: Option<BorrowedFd<'_>>,
        deadline: Duration,
    ) -> Result<Value> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let id = inner.next_id;
        inner.next_id += 1;
        let mut line = json!({"execute": command, "id": id});
        if let (Some(line), false) = (line.as_object_mut(), arguments.is_null()) {
            line.insert(String::from("arguments"), arguments.clone());
        }
        let text = format!("{line}\n");
        send(&mut inner.stream, text.as_bytes(), fd).map_err(|_| Error::Gone {
            what: command.to_owned(),
        })?;
        loop {
            let reply = match inner.replies.recv_timeout(deadline) {
                Ok(reply) => reply,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::Timeout {
                        what: command.to_owned(),
                        waited: deadline,
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Gone {
                        what: command.to_owned(),
                    });
                }
            };
            // The reply of an earlier command that timed out may come first.
            if reply["id"] != id {
                continue;
            }
            if let Some(error) = reply.get("error") {
                let reason = error["desc"]
                    .as_str()
                    .unwrap_or("no reason given")
                    .to_owned();
                return Err(Error::Refused {
                    what: command.to_owned(),
                    reason,
                });
            }
            return Ok(reply.get("return").cloned().unwrap_or(Value::Null));
        }
    }

    /// How often the guest was let go, as far as QEMU's events have been read.
    pub(super) fn resumes(&self) -> u64 {
        self.resumes.lock().resumes
    }

    /// Waits until the guest was let go once more than `before`.
    pub(super) fn wait_resumed(&self, before: u64, deadline: Duration) -> Result<()> {
        let waits = |seen: &mut Seen| seen.resumes <= before && !seen.closed;
        let waited = self
            .resumes
            .changed
            .wait_timeout_while(self.resumes.lock(), deadline, waits);
        let (seen, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        let what = String::from("let the guest go");
        if timed_out.timed_out() {
            return Err(Error::Timeout {
                what,
                waited: deadline,
            });
        }
        if seen.resumes <= before {
            return Err(Error::Gone { what });
        }
        Ok(())
    }

    /// Waits until the save or load that `begin` begins is over; false when QEMU says that it failed.
    pub(super) fn migrate(
        &self,
        deadline: Duration,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        self.resumes.change(|seen| seen.migrated = None);
        begin()?;
        let waits = |seen: &mut Seen| seen.migrated.is_none() && !seen.closed;
        let waited = self
            .resumes
            .changed
            .wait_timeout_while(self.resumes.lock(), deadline, waits);
        let (seen, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        let what = String::from("save or load the guest");
        if timed_out.timed_out() {
            return Err(Error::Timeout {
                what,
                waited: deadline,
            });
        }
        seen.migrated.ok_or(Error::Gone { what })
    }

    /// Runs one line of the human monitor and returns its text.
    pub(super) fn human(&self, line: &str, deadline: Duration) -> Result<String> {
        let reply = self.execute(
            "human-monitor-command",
            &json!({"command-line": line}),
            deadline,
        )?;
        Ok(reply.as_str().unwrap_or_default().to_owned())
    }
}
