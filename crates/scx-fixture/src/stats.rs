//! Counters on a unix socket, in the manner of scx_stats: one JSON request per line, one JSON reply per line, over a
//! connection that the client keeps.

use std::cell::RefCell;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::skel::FixtureSkel;

/// A client that does not read its reply for this long is dropped.
const CLIENT_DEADLINE: Duration = Duration::from_millis(500);
/// Longest request.
const MAX_REQUEST: usize = 64 * 1024;

/// The listening socket and its connections; dropping it removes the socket's file.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    clients: RefCell<Vec<Client>>,
}

impl Server {
    /// Listens at `path`, in whose place an older scheduler may have left its socket.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let fail = || format!("failed to listen on {}", path.display());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(fail)?;
        }
        // There is none, or one without a listener.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(fail)?;
        listener.set_nonblocking(true).with_context(fail)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            clients: RefCell::default(),
        })
    }

    /// Answers what has been asked by now.
    pub(crate) fn serve(&self, skel: &FixtureSkel<'_>) {
        let mut clients = self.clients.borrow_mut();
        while let Ok((socket, _)) = self.listener.accept() {
            clients.push(Client {
                socket,
                request: Vec::new(),
            });
        }
        clients.retain_mut(|client| match client.serve(|| counters(skel)) {
            Ok(open) => open,
            Err(error) => {
                eprintln!("stats: {error:#}");
                false
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already removed: the same result.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    /// What has come of the next request.
    request: Vec<u8>,
}

impl Client {
    /// False once the client has closed.
    fn serve(&mut self, counters: impl Fn() -> Value) -> Result<bool> {
        let mut buffer = [0; 4096];
        self.socket.set_nonblocking(true)?;
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(len) => self
                    .request
                    .extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            ensure!(self.request.len() <= MAX_REQUEST, "a request is too long");
        }
        self.socket.set_nonblocking(false)?;
        self.socket.set_write_timeout(Some(CLIENT_DEADLINE))?;
        while let Some(end) = self.request.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.request.drain(..=end).collect();
            let reply = reply_to(&String::from_utf8_lossy(&line), &counters);
            self.socket.write_all(format!("{reply}\n").as_bytes())?;
        }
        Ok(true)
    }
}

fn reply_to(line: &str, counters: impl Fn() -> Value) -> Value {
    let request: Value = serde_json::from_str(line).unwrap_or_default();
    match request["req"].as_str() {
        Some("stats") => json!({"errno": 0, "args": {"resp": counters()}}),
        Some("stats_meta") => {
            json!({"errno": 0, "args": {"resp": {"fixture": {"name": "fixture", "top": true}}}})
        }
        _ => {
            json!({"errno": libc::EINVAL, "args": {"resp": "expected {\"req\": \"stats\"} or {\"req\": \"stats_meta\"}"}})
        }
    }
}

fn counters(skel: &FixtureSkel<'_>) -> Value {
    let Some(stats) = skel.maps.bss_data.as_deref().map(|bss| &bss.stats) else {
        return Value::Null;
    };
    json!({
        "enqueued": stats.enqueued,
        "direct": stats.direct,
        "dispatched": stats.dispatched,
        "starved": stats.starved,
        "stalled": stats.stalled,
        "errors": stats.errors,
        "cpusets_ignored": stats.cpusets_ignored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_answered_over_and_over_until_it_leaves() {
        use std::io::{BufRead as _, BufReader};
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut replies = BufReader::new(ours.try_clone().unwrap());
        let mut client = Client {
            socket: theirs,
            request: Vec::new(),
        };
        for count in 1..=2 {
            let counters = || json!({ "enqueued": count });
            ours.write_all(b"{\"req\":").unwrap();
            assert!(client.serve(counters).unwrap());
            ours.write_all(b"\"stats\"}\n").unwrap();
            assert!(client.serve(counters).unwrap());
            let mut line = String::new();
            replies.read_line(&mut line).unwrap();
            let reply: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(reply["args"]["resp"]["enqueued"], count);
        }
        drop((ours, replies));
        assert!(!client.serve(|| Value::Null).unwrap());
    }

    #[test]
    fn requests_and_wrong_requests() {
        let counters = || json!({"enqueued": 7});
        assert_eq!(
            reply_to("{\"req\":\"stats\"}", counters)["args"]["resp"]["enqueued"],
            7
        );
        assert_eq!(reply_to("{\"req\":\"stats_meta\"}", counters)["errno"], 0);
        assert_ne!(reply_to("nonsense", counters)["errno"], 0);
    }
}
