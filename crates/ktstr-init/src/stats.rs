//! The relay between the stats port and the scheduler's stats socket.
//!
//! The bytes are scx_stats's: one JSON object per line, each request answered by one line, in order. The relay looks at
//! nothing but line ends, which it counts so that a request that no server will answer gets a reply of the relay's own.
//!
//! ```text
//!   host ==requests==> port ==> relay ==> unix socket of the scheduler (connected at a request, kept until it closes)
//!   host <==replies=== port <== relay <==
//!                                 +--> {"errno":…,"args":{"resp":"…","ktstr_relay":"no_server"}} when there is none
//! ```
//!
//! A thread of its own does it: a server that accepts no connection holds up the relay, never init. The guest's end ends it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::process::ready;
use crate::{STATS_PORT, ports};

/// Where schedulers built on scx_utils listen (`scx_stats`: `StatsServer::launch`).
pub const DEFAULT_STATS_SOCKET: &str = "/var/run/scx/root/stats";
/// Key in the `args` of a reply that is the relay's own: why there is none of a server.
pub const RELAY_KEY: &str = "ktstr_relay";

/// How long the port may take to appear.
const PORT_DEADLINE: Duration = Duration::from_secs(20);
/// How long a server may take to accept a request's bytes.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long after its start a scheduler may take to listen: many begin after they have attached, when captures may come at
/// once. Less than the host waits for an answer.
const LISTEN_GRACE: Duration = Duration::from_millis(500);
/// Between two looks for its socket then.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two looks at a port whose host end is not open yet, and how many in a row mean that it never will be.
const REOPEN_EVERY: Duration = Duration::from_millis(50);
const MAX_EOFS: u32 = 100;

/// Where the running scheduler's socket is, and until when it may still appear; `None` while no scheduler runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target(Arc<Mutex<Option<(PathBuf, Instant)>>>);

impl Target {
    pub(crate) fn set(&self, socket: Option<PathBuf>) {
        self.set_for(socket, LISTEN_GRACE);
    }

    /// The server of `socket` may begin to listen within `grace`.
    fn set_for(&self, socket: Option<PathBuf>, grace: Duration) {
        let patience = Instant::now() + grace;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            socket.map(|socket| (socket, patience));
    }

    fn get(&self) -> Option<(PathBuf, Instant)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Starts the relay; without its thread or port, the host's requests time out and nothing else is lost.
pub(crate) fn start(target: Target) {
    // It is not joined: it lives as long as the guest, and ends with it.
    let _ = thread::Builder::new()
        .name(String::from("ktstr-stats"))
        .spawn(move || {
            if let Ok(port) = ports::open(STATS_PORT, PORT_DEADLINE) {
                let _ = Relay::new(port, target).run();
            }
        });
}

/// The same in virtual time, at the host's first request: the bytes pass through init, which has the other end of this stream and
/// never waits for it.
pub(crate) fn start_beside(target: Target) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    thread::Builder::new()
        .name(String::from("ktstr-stats"))
        .spawn(move || Relay::new(theirs, target).run())?;
    Ok(ours)
}

/// What the relay says of a request that no server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unanswered {
    NoScheduler,
    NoServer,
    Closed,
}

impl Unanswered {
    fn word(self) -> &'static str {
        match self {
            Self::NoScheduler => "no_scheduler",
            Self::NoServer => "no_server",
            Self::Closed => "closed",
        }
    }
}

#[derive(Debug)]
struct Server {
    path: PathBuf,
    socket: UnixStream,
    /// Requests that wait for their replies.
    owed: usize,
    /// The last byte that it sent was no line's end.
    within_line: bool,
}

impl Server {
    /// Connects, to a socket that may appear until `patience` ends.
    fn connect(path: &Path, patience: Instant) -> io::Result<Self> {
        let socket = loop {
            match UnixStream::connect(path) {
                Err(_) if Instant::now() < patience => thread::park_timeout(LOOK_EVERY),
                done => break done?,
            }
        };
        socket.set_write_timeout(Some(WRITE_DEADLINE))?;
        Ok(Self {
            path: path.to_owned(),
            socket,
            owed: 0,
            within_line: false,
        })
    }
}

#[derive(Debug)]
struct Relay<P> {
    port: P,
    target: Target,
    server: Option<Server>,
}

/// The port as the relay uses it.
trait Port: Read + Write + AsFd {}
impl Port for File {}
impl Port for UnixStream {}

impl<P: Port> Relay<P> {
    fn new(port: P, target: Target) -> Self {
        Self {
            port,
            target,
            server: None,
        }
    }

    /// Relays until the host's end is closed for good.
    fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut eofs = 0;
        while eofs < MAX_EOFS {
            let (from_host, from_server) = self.sleep()?;
            if from_server {
                self.pass_replies(&mut buffer)?;
            }
            if !from_host {
                continue;
            }
            let len = match self.port.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if len == 0 {
                // The host has not opened its end yet, or has closed it; nothing announces the difference.
                eofs += 1;
                thread::park_timeout(REOPEN_EVERY);
            } else {
                eofs = 0;
                self.pass_requests(buffer.get(..len).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Whether the host, and whether the server, sent something or closed.
    fn sleep(&self) -> io::Result<(bool, bool)> {
        let mut fds = vec![PollFd::new(&self.port, PollFlags::IN)];
        if let Some(server) = &self.server {
            fds.push(PollFd::new(&server.socket, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => Ok((
                fds.first().is_some_and(ready),
                fds.get(1).is_some_and(ready),
            )),
            Err(rustix::io::Errno::INTR) => Ok((false, false)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn pass_requests(&mut self, bytes: &[u8]) -> io::Result<()> {
        let requests = bytes.iter().filter(|byte| **byte == b'\n').count();
        let target = self.target.get();
        let path = target.as_ref().map(|(path, _)| path);
        if self.server.as_ref().map(|server| &server.path) != path {
            self.close_server()?;
        }
        let Some((path, patience)) = target else {
            return self.refuse(requests, Unanswered::NoScheduler, "no scheduler runs");
        };
        if self.server.is_none() {
            match Server::connect(&path, patience) {
                Ok(server) => self.server = Some(server),
                Err(error) => {
                    let text = format!("no stats server at {}: {error}", path.display());
                    return self.refuse(requests, Unanswered::NoServer, &text);
                }
            }
        }
        if let Some(server) = &mut self.server {
            server.owed += requests;
            if server.socket.write_all(bytes).is_err() {
                self.close_server()?;
            }
        }
        Ok(())
    }

    fn pass_replies(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        match server.socket.read(buffer) {
            Ok(len @ 1..) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                let replies = bytes.iter().filter(|byte| **byte == b'\n').count();
                server.owed = server.owed.saturating_sub(replies);
                server.within_line = bytes.last() != Some(&b'\n');
                self.port.write_all(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Ok(_) | Err(_) => self.close_server(),
        }
    }

    /// Lets go of the server; what it still owes is answered in its place.
    fn close_server(&mut self) -> io::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        if server.within_line {
            // Its last reply is damaged, and stays one line.
            self.port.write_all(b"\n")?;
            server.owed = server.owed.saturating_sub(1);
        }
        let text = "the stats server closed the connection before it answered";
        self.refuse(server.owed, Unanswered::Closed, text)
    }

    fn refuse(&mut self, requests: usize, why: Unanswered, text: &str) -> io::Result<()> {
        let reply = json!({
            "errno": libc::ENOTCONN,
            "args": { "resp": text, RELAY_KEY: why.word() },
        });
        for _ in 0..requests {
            self.port.write_all(format!("{reply}\n").as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::BufReader;
    use std::os::unix::net::UnixListener;

    /// The host's end of a relay to `socket`; a read that takes half a minute fails.
    fn relay(socket: Option<&Path>) -> (UnixStream, BufReader<UnixStream>, Target) {
        let (host, guest) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let target = Target::default();
        target.set(socket.map(Path::to_owned));
        let relay = Relay::new(guest, target.clone());
        thread::spawn(move || relay.run());
        (host.try_clone().unwrap(), BufReader::new(host), target)
    }

    fn line(from: &mut impl io::BufRead) -> String {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        line
    }

    #[track_caller]
    fn check_refusal(from: &mut impl io::BufRead, word: &str, text: &str) {
        let line = line(from);
        let reply: Value = serde_json::from_str(&line).expect(&line);
        assert_eq!(reply["args"][RELAY_KEY], word, "{line}");
        assert!(
            reply["args"]["resp"].as_str().unwrap().contains(text),
            "{line}"
        );
    }

    #[test]
    fn bytes_pass_both_ways_over_one_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let listener = UnixListener::bind(&path).unwrap();
        let (mut to, mut from, _) = relay(Some(&path));
        to.write_all(b"one\n").unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut requests = BufReader::new(server.try_clone().unwrap());
        let mut server = server;
        assert_eq!(line(&mut requests), "one\n");
        server.write_all(b"reply ").unwrap();
        server.write_all(b"to one\n").unwrap();
        assert_eq!(line(&mut from), "reply to one\n");
        to.write_all(b"two\n").unwrap();
        assert_eq!(line(&mut requests), "two\n");
        server.write_all(b"reply to two\n").unwrap();
        assert_eq!(line(&mut from), "reply to two\n");
    }

    #[test]
    fn who_has_no_server_or_no_scheduler_is_told_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let (mut to, mut from, target) = relay(Some(&path));
        to.write_all(b"one\ntwo\n").unwrap();
        for _ in 0..2 {
            check_refusal(&mut from, "no_server", "no stats server at ");
        }
        target.set(None);
        to.write_all(b"three\n").unwrap();
        check_refusal(&mut from, "no_scheduler", "no scheduler runs");
    }

    #[test]
    fn a_server_that_listens_a_little_late_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let (mut to, mut from, target) = relay(None);
        // More than a busy machine keeps this thread from its next line.
        target.set_for(Some(path.clone()), Duration::from_secs(60));
        to.write_all(b"one\n").unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"reply to one\n").unwrap();
        assert_eq!(line(&mut from), "reply to one\n");
    }

    #[test]
    fn a_server_that_goes_within_a_reply_leaves_one_line_per_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let listener = UnixListener::bind(&path).unwrap();
        let (mut to, mut from, _) = relay(Some(&path));
        to.write_all(b"one\ntwo\n").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut both = [0; 8];
        server.read_exact(&mut both).unwrap();
        server.write_all(b"{\"err").unwrap();
        drop(server);
        assert_eq!(line(&mut from), "{\"err\n");
        check_refusal(&mut from, "closed", "closed the connection");
        // The one that takes its place is found.
        to.write_all(b"three\n").unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(line(&mut BufReader::new(server)), "three\n");
    }

    #[test]
    fn another_schedulers_socket_is_another_connection() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        let (first, second) = (
            UnixListener::bind(&old).unwrap(),
            UnixListener::bind(&new).unwrap(),
        );
        let (mut to, mut from, target) = relay(Some(&old));
        to.write_all(b"one\n").unwrap();
        let (server, _) = first.accept().unwrap();
        assert_eq!(
            line(&mut BufReader::new(server.try_clone().unwrap())),
            "one\n"
        );
        target.set(Some(new));
        to.write_all(b"two\n").unwrap();
        check_refusal(&mut from, "closed", "closed the connection");
        let (other, _) = second.accept().unwrap();
        assert_eq!(line(&mut BufReader::new(other)), "two\n");
        drop(server);
    }
}
