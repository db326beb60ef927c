//! QEMU's monitor: one command at a time, events on the side (QEMU docs/interop/qmp-spec).

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

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
                return Some(value);
            }
            if value.get("id").is_some() {
                // A reply that nobody waits for any more is late, and dropped with the channel.
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
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let id = inner.next_id;
        inner.next_id += 1;
        let mut line = json!({"execute": command, "id": id});
        if let (Some(line), false) = (line.as_object_mut(), arguments.is_null()) {
            line.insert(String::from("arguments"), arguments.clone());
        }
        let text = format!("{line}\n");
        inner
            .stream
            .write_all(text.as_bytes())
            .map_err(|_| Error::Gone {
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
