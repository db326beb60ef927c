//! The scheduler's own figures, asked for over the guest's stats port: `scx_stats`'s protocol, one JSON object per line.
//!
//! ```text
//!   {"req":"stats","args":{"target":"top"}}          ==>
//!   {"errno":0,"args":{"resp":{"nr_enqueued":7}}}    <==
//! ```
//!
//! The guest's relay sees to it that each request gets one reply in order, also without a server. So a reply that came too
//! late is told from the next one by counting.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ktstr_init::RELAY_KEY;
use ktstr_vmm::PortStream;
use serde_json::{Value, json};

use super::snapshot::MissingStatsReason;

/// How long a request may take that says nothing else.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request, its line's end included.
pub const MAX_STATS_REQUEST: usize = 256 * 1024;
/// Longest reply.
pub const MAX_STATS_REPLY: usize = 2 * MAX_STATS_REQUEST;

/// A byte stream whose reads and writes can be bounded.
pub trait StatsStream: Read + Write + Send + fmt::Debug {
    /// Bounds each read and each write; not zero.
    ///
    /// # Errors
    /// When the system refuses.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;
}

/// A stream whose other end is closed.
impl StatsStream for io::Empty {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

impl StatsStream for UnixStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl StatsStream for PortStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

/// A client of the running scheduler's stats server. Clones share the connection: one request is made at a time. Once the
/// guest has ended, every request is answered with [`MissingStatsReason::GuestGone`].
#[derive(Debug, Clone)]
pub struct StatsClient {
    connection: Arc<Mutex<Connection>>,
    timeout: Duration,
}

#[derive(Debug)]
struct Connection {
    stream: Box<dyn StatsStream>,
    received: Vec<u8>,
    /// Replies to requests that were given up.
    late: usize,
    /// Nothing can be asked any more, and why.
    broken: Option<MissingStatsReason>,
}

impl StatsClient {
    /// A client over this stream, whose other end is the guest's relay.
    pub fn new(stream: impl StatsStream + 'static) -> Self {
        Self {
            connection: Arc::new(Mutex::new(Connection {
                stream: Box::new(stream),
                received: Vec::new(),
                late: 0,
                broken: None,
            })),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// One of a guest that has ended: what is left of virtual time, where only captures ask.
    pub(crate) fn of_ended() -> Self {
        Self {
            connection: Arc::new(Mutex::new(Connection {
                stream: Box::new(io::empty()),
                received: Vec::new(),
                late: 0,
                broken: Some(MissingStatsReason::GuestGone),
            })),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The same connection with another time-out of each request; without it, it is 5 s.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            connection: Arc::clone(&self.connection),
            timeout,
        }
    }

    /// The scheduler's figures.
    ///
    /// # Errors
    /// When there is no scheduler, no server, no answer in time, or the server refuses.
    pub fn stats(&self) -> Result<Value, MissingStatsReason> {
        self.request("stats", &[])
    }

    /// What the figures mean, as the server describes them.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub fn stats_meta(&self) -> Result<Value, MissingStatsReason> {
        self.request("stats_meta", &[])
    }

    /// Any request with its arguments; the content of the reply's `resp`.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub fn request(&self, req: &str, args: &[(&str, &str)]) -> Result<Value, MissingStatsReason> {
        let until = Instant::now() + self.timeout;
        let line = request_line(req, args);
        if line.len() > MAX_STATS_REQUEST {
            return Err(MissingStatsReason::TooLarge {
                what: "request",
                max: MAX_STATS_REQUEST,
            });
        }
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(line.as_bytes(), until)
    }
}

/// A request as `scx_stats` reads it.
pub(crate) fn request_line(req: &str, args: &[(&str, &str)]) -> String {
    let args: serde_json::Map<String, Value> = args
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect();
    format!("{}\n", json!({ "req": req, "args": args }))
}

impl Connection {
    fn ask(&mut self, line: &[u8], until: Instant) -> Result<Value, MissingStatsReason> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        self.send(line, until)?;
        self.answer(until)
    }

    /// The reply to the request that was sent last; one that does not come in time is not taken for a later request's.
    fn answer(&mut self, until: Instant) -> Result<Value, MissingStatsReason> {
        let answer = self.reply(until);
        match &answer {
            // Its reply may still come.
            Err(MissingStatsReason::Timeout) => self.late += 1,
            Err(reason @ (MissingStatsReason::GuestGone | MissingStatsReason::TooLarge { .. })) => {
                self.broken = Some(reason.clone());
            }
            _ => {}
        }
        answer
    }

    /// Sends all of it or nothing. After half a request nothing can be understood any more; one of which nothing was sent
    /// costs only itself.
    fn send(&mut self, line: &[u8], until: Instant) -> Result<(), MissingStatsReason> {
        let mut left = line;
        let sent = loop {
            if left.is_empty() {
                break Ok(());
            }
            if let Err(reason) = self.bound(until) {
                break Err(reason);
            }
            match self.stream.write(left) {
                Ok(len) => left = left.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => break Err(MissingStatsReason::Timeout),
                Err(_) => break Err(MissingStatsReason::GuestGone),
            }
        };
        if let Err(reason) = &sent
            && (left.len() < line.len() || *reason == MissingStatsReason::GuestGone)
        {
            self.broken = Some(reason.clone());
        }
        sent
    }

    fn reply(&mut self, until: Instant) -> Result<Value, MissingStatsReason> {
        loop {
            let line = self.line(until)?;
            if self.late > 0 {
                self.late -= 1;
                continue;
            }
            return content_of(&line);
        }
    }

    fn line(&mut self, until: Instant) -> Result<Vec<u8>, MissingStatsReason> {
        let mut searched = 0;
        loop {
            let end = self
                .received
                .iter()
                .skip(searched)
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                return Ok(self.received.drain(..=searched + end).collect());
            }
            searched = self.received.len();
            if searched > MAX_STATS_REPLY {
                return Err(MissingStatsReason::TooLarge {
                    what: "reply",
                    max: MAX_STATS_REPLY,
                });
            }
            self.bound(until)?;
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(MissingStatsReason::GuestGone),
                Ok(len) => self
                    .received
                    .extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(MissingStatsReason::Timeout),
                Err(_) => return Err(MissingStatsReason::GuestGone),
            }
        }
    }

    /// Bounds the next read or write by what is left.
    fn bound(&self, until: Instant) -> Result<(), MissingStatsReason> {
        let left = until.saturating_duration_since(Instant::now());
        // A socket's time-out counts microseconds, and zero would mean none.
        if left < Duration::from_micros(1) {
            return Err(MissingStatsReason::Timeout);
        }
        self.stream
            .set_timeout(left)
            .map_err(|_| MissingStatsReason::GuestGone)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// What a line of a server or of the relay says.
pub(crate) fn content_of(line: &[u8]) -> Result<Value, MissingStatsReason> {
    let mut reply: Value = serde_json::from_slice(line)
        .map_err(|error| MissingStatsReason::Refused(format!("its reply is not JSON: {error}")))?;
    match reply["args"][RELAY_KEY].as_str() {
        Some("no_scheduler") => return Err(MissingStatsReason::NoScheduler),
        Some("no_server") => return Err(MissingStatsReason::NoServer),
        Some(_) => return Err(MissingStatsReason::Closed),
        None => {}
    }
    let Some(errno) = reply["errno"].as_i64() else {
        return Err(MissingStatsReason::Refused(String::from(
            "its reply has no errno",
        )));
    };
    let content = reply["args"]
        .as_object_mut()
        .and_then(|args| args.remove("resp"));
    match (errno, content) {
        (0, Some(content)) => Ok(content),
        (0, None) => Err(MissingStatsReason::Refused(String::from(
            "its reply has no resp",
        ))),
        (errno, content) => Err(MissingStatsReason::Refused(format!(
            "errno {errno}: {}",
            content.unwrap_or_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::thread;

    /// A client, and the guest's end of its stream.
    fn client(timeout: Duration) -> (StatsClient, UnixStream) {
        let (ours, guest) = UnixStream::pair().unwrap();
        (StatsClient::new(ours).with_timeout(timeout), guest)
    }

    const LONG: Duration = Duration::from_secs(30);

    /// The answer that a client makes of this reply.
    fn answer_to(reply: &str) -> Result<Value, MissingStatsReason> {
        let (client, mut guest) = client(LONG);
        guest.write_all(reply.as_bytes()).unwrap();
        client.stats()
    }

    #[test]
    fn a_request_is_the_line_that_scx_stats_reads() {
        let (client, guest) = client(LONG);
        let server = thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(guest.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            (&guest)
                .write_all(b"{\"errno\":0,\"args\":{\"resp\":{\"n\":7}}}\n")
                .unwrap();
            line
        });
        let answer = client.request("stats", &[("target", "top")]).unwrap();
        assert_eq!(answer, json!({ "n": 7 }));
        let sent: Value = serde_json::from_str(&server.join().unwrap()).unwrap();
        assert_eq!(sent, json!({ "req": "stats", "args": { "target": "top" } }));
    }

    #[test]
    fn each_way_to_have_no_figures_has_its_reason() {
        use MissingStatsReason::{Closed, NoScheduler, NoServer, Refused};
        let relay = |word| {
            format!("{{\"errno\":107,\"args\":{{\"resp\":\"x\",\"ktstr_relay\":\"{word}\"}}}}\n")
        };
        assert_eq!(answer_to(&relay("no_server")), Err(NoServer));
        assert_eq!(answer_to(&relay("no_scheduler")), Err(NoScheduler));
        assert_eq!(answer_to(&relay("closed")), Err(Closed));
        for (reply, needle) in [
            (
                "{\"errno\":22,\"args\":{\"resp\":\"unknown stat target\"}}\n",
                "errno 22: \"unknown",
            ),
            ("{\"errno\":0,\"args\":{}}\n", "no resp"),
            ("{\"args\":{}}\n", "no errno"),
            ("[]\n", "no errno"),
            ("{\"err\n", "not JSON"),
        ] {
            match answer_to(reply) {
                Err(Refused(text)) => assert!(text.contains(needle), "{text}"),
                other => panic!("{reply}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_reply_that_comes_too_late_is_not_the_next_ones() {
        let (client, mut guest) = client(LONG);
        for _ in 0..2 {
            // A time-out of its own for each half: one for both may be over before the request is sent.
            let mut connection = client.connection.lock().unwrap();
            let line = request_line("stats", &[]);
            connection
                .send(line.as_bytes(), Instant::now() + LONG)
                .unwrap();
            let late = connection.answer(Instant::now());
            assert_eq!(late, Err(MissingStatsReason::Timeout));
        }
        for number in 1..=3 {
            let reply = format!("{{\"errno\":0,\"args\":{{\"resp\":{number}}}}}\n");
            guest.write_all(reply.as_bytes()).unwrap();
        }
        assert_eq!(client.stats(), Ok(json!(3)));
    }

    /// No reply can come to what was never sent.
    #[test]
    fn a_request_that_had_no_time_does_not_cost_the_next_ones_reply() {
        let (client, mut guest) = client(LONG);
        let hasty = client.with_timeout(Duration::ZERO).stats();
        assert_eq!(hasty, Err(MissingStatsReason::Timeout));
        guest
            .write_all(b"{\"errno\":0,\"args\":{\"resp\":4}}\n")
            .unwrap();
        assert_eq!(client.stats(), Ok(json!(4)));
    }

    #[test]
    fn a_guest_that_is_gone_is_told_at_once() {
        let (client, guest) = client(LONG);
        // A worker that another test forked meanwhile may hold its descriptor, too, and for longer.
        guest.shutdown(std::net::Shutdown::Both).unwrap();
        for _ in 0..2 {
            assert_eq!(client.stats(), Err(MissingStatsReason::GuestGone));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_both_ways() {
        let (client, mut guest) = client(LONG);
        let long = "x".repeat(MAX_STATS_REQUEST);
        let refused = client.request(&long, &[]).unwrap_err();
        assert!(refused.to_string().contains("request"), "{refused}");
        let writer = thread::spawn(move || {
            // It is cut off in the middle.
            let _ = guest.write_all(&vec![b'x'; MAX_STATS_REPLY * 2]);
        });
        let refused = client.stats().unwrap_err();
        assert!(refused.to_string().contains("reply"), "{refused}");
        drop(client);
        writer.join().unwrap();
    }
}
