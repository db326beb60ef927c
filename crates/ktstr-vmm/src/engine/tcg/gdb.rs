//! Watchpoints through QEMU's gdb stub (GDB manual, appendix E: remote serial protocol), and with them all stopping and
//! going on: a hit stops the guest as a freeze does, so one place must know both.
//!
//! ```text
//!             hit               freezes > 0, or the hit is held
//!   running ------> stopped ------------------------------------> stands still
//!      ^               | otherwise                                     | last freeze ended and hit released
//!      +--step over a breakpoint, cont---------------------------------+
//! ```
//!
//! The stub is attached at the first watch. From then on the guest is let go by `vCont;c`, not by QMP's `cont`: QEMU 8.1 and later
//! tell of a stop only the client that let the guest go by the stub. A stop by QMP is told as well, with another signal. No packet is sent
//! while the guest runs: it would stop it. Locks are taken in this order: `still`, then `link`. A pump thread sleeps in `poll`
//! without either and handles stops that come by themselves. Replies are not acknowledged: over a socket none is lost, and
//! QEMU takes the next packet for an acknowledgement (gdbstub.c, `gdb_read_byte`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;

use super::qmp::Qmp;
use super::start_gdb_stub;
use crate::error::{Error, Result};
use crate::time::from_now;
use crate::watch::{Watch, WatchHit, WatchId, WatchKind};

/// How long the stub may take to answer a packet.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);
/// Hits that are kept for a slow consumer; the oldest go first.
const MAX_HITS: usize = 1024;
/// Hex digits before `rip` in the `g` packet: 16 general registers of 8 bytes (QEMU gdb-xml/i386-64bit.xml). The shorter `p`
/// packet is served only to clients that fetched that XML.
const RIP_AT: usize = 16 * 8 * 2;

#[derive(Debug)]
pub(super) struct Gdb {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    qmp: Arc<Qmp>,
    still: Mutex<Still>,
    link: Mutex<Link>,
    hits: Mutex<Hits>,
    hit: Condvar,
}

#[derive(Debug, Default)]
struct Hits {
    queue: VecDeque<WatchHit>,
    /// No more will come.
    ended: bool,
}

/// Tells waiters that the VM has ended.
#[derive(Debug)]
pub(super) struct HitsEnd(Arc<Shared>);

impl HitsEnd {
    pub(super) fn end(&self) {
        self.0.hits().ended = true;
        self.0.hit.notify_all();
    }
}

/// Why the guest stands still.
#[derive(Debug, Default)]
struct Still {
    /// Freezes in force.
    freezes: u32,
    /// A held hit was not released yet.
    held: bool,
    /// The vCPU at a breakpoint, which would fire again at once.
    at_breakpoint: Option<Stop>,
}

#[derive(Debug)]
struct Link {
    stream: UnixStream,
    buffer: Vec<u8>,
    attached: bool,
    watches: HashMap<WatchId, Watch>,
    holding: HashSet<WatchId>,
    /// Hits that were seen while a reply was awaited.
    stops: VecDeque<Stop>,
    next_id: u32,
}

/// A stop that the stub reported.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stop {
    signal: u8,
    thread: Option<u32>,
    watch_gva: Option<u64>,
}

impl Gdb {
    pub(super) fn new(stream: UnixStream, qmp: Arc<Qmp>) -> Self {
        let link = Link {
            stream,
            buffer: Vec::new(),
            attached: false,
            watches: HashMap::new(),
            holding: HashSet::new(),
            stops: VecDeque::new(),
            next_id: 1,
        };
        Self {
            shared: Arc::new(Shared {
                qmp,
                still: Mutex::default(),
                link: Mutex::new(link),
                hits: Mutex::default(),
                hit: Condvar::new(),
            }),
        }
    }

    /// Called where the VM's end is seen.
    pub(super) fn hits_end(&self) -> HitsEnd {
        HitsEnd(Arc::clone(&self.shared))
    }

    /// Stops the guest; each call needs its [`cont`](Self::cont).
    pub(super) fn stop(&self, deadline: Duration) -> Result<()> {
        let mut still = self.shared.still();
        if still.freezes == 0 && !still.held {
            // A guest that a hit has stopped already takes no notice.
            self.shared.qmp.execute("stop", &Value::Null, deadline)?;
        }
        still.freezes += 1;
        Ok(())
    }

    /// Takes one [`stop`](Self::stop) back.
    pub(super) fn cont(&self, deadline: Duration) -> Result<()> {
        let mut still = self.shared.still();
        still.freezes = still.freezes.saturating_sub(1);
        self.shared.settle(&mut still, deadline)
    }

    /// Ends the standstill of a held hit.
    pub(super) fn release_hit(&self, deadline: Duration) -> Result<()> {
        let mut still = self.shared.still();
        if !std::mem::take(&mut still.held) {
            return Err(Error::Refused {
                what: String::from("release a hit"),
                reason: String::from("none is held"),
            });
        }
        self.shared.settle(&mut still, deadline)
    }

    pub(super) fn watch(&self, watch: Watch, hold: bool) -> Result<WatchId> {
        if watch.kind == WatchKind::Write {
            let len = u64::from(watch.len);
            if !matches!(watch.len, 1 | 2 | 4 | 8) || !watch.gva.is_multiple_of(len) {
                let what = format!("watch {len} bytes at {:#x}", watch.gva);
                return Err(Error::Refused {
                    what,
                    reason: String::from("1, 2, 4 or 8 aligned bytes are possible"),
                });
            }
        }
        self.attach()?;
        self.edit('Z', watch, |link| {
            let id = WatchId(link.next_id);
            link.next_id += 1;
            link.watches.insert(id, watch);
            if hold {
                link.holding.insert(id);
            }
            id
        })
    }

    pub(super) fn unwatch(&self, id: WatchId) -> Result<()> {
        let Some(watch) = self.shared.link().watches.get(&id).copied() else {
            let what = String::from("end a watch");
            return Err(Error::Refused {
                what,
                reason: String::from("there is none with this id"),
            });
        };
        self.edit('z', watch, |link| {
            link.watches.remove(&id);
            link.holding.remove(&id);
        })
    }

    pub(super) fn next_hit(&self, deadline: Duration) -> Option<WatchHit> {
        let until = from_now(deadline);
        let mut hits = self.shared.hits();
        loop {
            if let Some(hit) = hits.queue.pop_front() {
                return Some(hit);
            }
            if hits.ended {
                return None;
            }
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            hits = self
                .shared
                .hit
                .wait_timeout(hits, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn attach(&self) -> Result<()> {
        let still = self.shared.still();
        let mut link = self.shared.link();
        if link.attached {
            return Ok(());
        }
        start_gdb_stub(&self.shared.qmp, REPLY_DEADLINE)?;
        if still.freezes == 0 && !still.held {
            // Attaching stopped the guest.
            self.shared
                .qmp
                .execute("cont", &Value::Null, REPLY_DEADLINE)?;
        }
        let pump_stream = link
            .stream
            .try_clone()
            .map_err(Error::system("share the gdb stub's socket"))?;
        link.attached = true;
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name(String::from("ktstr-gdb"))
            .spawn(move || shared.pump(&pump_stream))
            .map(drop)
            .map_err(Error::system("start a thread"))
    }

    /// Inserts or removes a watch while the guest is stopped: a packet to a running guest would stop it anyway. `done` runs
    /// before the guest goes on, so that no hit meets a watch that is not known yet.
    fn edit<T>(&self, verb: char, watch: Watch, done: impl FnOnce(&mut Link) -> T) -> Result<T> {
        self.stop(REPLY_DEADLINE)?;
        let mut link = self.shared.link();
        let answer = exchange(&mut link, &point(verb, watch));
        let edited = answer.and_then(|answer| match answer.as_str() {
            "OK" => Ok(done(&mut link)),
            other => Err(Error::Refused {
                what: format!("watch {:#x}", watch.gva),
                reason: format!("the gdb stub said '{other}'"),
            }),
        });
        drop(link);
        self.cont(REPLY_DEADLINE)?;
        edited
    }
}

/// `Z2,addr,len` and its kin: type 1 is a hardware breakpoint, 2 a write watchpoint.
fn point(verb: char, watch: Watch) -> String {
    match watch.kind {
        WatchKind::Exec => format!("{verb}1,{:x},1", watch.gva),
        WatchKind::Write => format!("{verb}2,{:x},{:x}", watch.gva, watch.len),
    }
}

/// Sends a packet and returns its reply; hits that come first are kept for [`Shared::settle`].
fn exchange(link: &mut Link, packet: &str) -> Result<String> {
    link.send(packet)?;
    loop {
        let reply = link.receive(REPLY_DEADLINE)?;
        match parse_stop(&reply) {
            Some(stop) => link.note(stop),
            None => return Ok(reply),
        }
    }
}

fn rip(link: &mut Link, stop: &Stop) -> Option<u64> {
    if let Some(thread) = stop.thread {
        exchange(link, &format!("Hgp1.{thread:x}")).ok()?;
    }
    let registers = exchange(link, "g").ok()?;
    parse_le_hex(registers.get(RIP_AT..)?)
}

/// A breakpoint would fire again at once: it is lifted for one step of its vCPU.
fn step_over(link: &mut Link, stop: &Stop) -> Result<()> {
    let Some(rip) = rip(link, stop) else {
        return Ok(());
    };
    let here = link
        .watches
        .values()
        .copied()
        .find(|watch| watch.kind == WatchKind::Exec && watch.gva == rip);
    let (Some(watch), Some(thread)) = (here, stop.thread) else {
        return Ok(());
    };
    exchange(link, &point('z', watch))?;
    link.send(&format!("vCont;s:p1.{thread:x}"))?;
    // The step's own stop; a freeze's may be told before it.
    while parse_stop(&link.receive(REPLY_DEADLINE)?).is_none_or(|stop| stop.signal != SIGTRAP) {}
    exchange(link, &point('Z', watch)).map(drop)
}

impl Shared {
    fn still(&self) -> MutexGuard<'_, Still> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hits(&self) -> MutexGuard<'_, Hits> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pump(&self, stream: &UnixStream) {
        loop {
            let mut fds = [PollFd::new(stream, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            let mut still = self.still();
            let mut link = self.link();
            // The bytes may have been a reply that the mutex's holder took.
            let Some(packets) = link.receive_ready() else {
                return;
            };
            for stop in packets.iter().filter_map(|packet| parse_stop(packet)) {
                link.note(stop);
            }
            let any = !link.stops.is_empty();
            drop(link);
            if any && let Err(error) = self.settle(&mut still, REPLY_DEADLINE) {
                tracing::warn!(%error, "a watch hit could not be handled");
            }
        }
    }

    /// Records the hits that came, and lets the guest run on unless something holds it.
    fn settle(&self, still: &mut Still, deadline: Duration) -> Result<()> {
        let mut link = self.link();
        link.note_ready();
        while let Some(stop) = link.stops.pop_front() {
            let rip = rip(&mut link, &stop).unwrap_or(0);
            still.held |= self.record(&link, &stop, rip);
            if stop.watch_gva.is_none() {
                still.at_breakpoint = Some(stop);
            }
        }
        if still.freezes > 0 || still.held {
            return Ok(());
        }
        if let Some(stop) = still.at_breakpoint.take() {
            step_over(&mut link, &stop)?;
        }
        if !link.attached {
            drop(link);
            return self.qmp.execute("cont", &Value::Null, deadline).map(drop);
        }
        // The stub answers only at the next stop, so that it went on is seen by QMP's event. What QMP told before is read first.
        self.qmp.execute("query-status", &Value::Null, deadline)?;
        let before = self.qmp.resumes();
        link.send("vCont;c")?;
        drop(link);
        self.qmp.wait_resumed(before, deadline)
    }

    /// Tells whether the hit holds the guest.
    fn record(&self, link: &Link, stop: &Stop, rip: u64) -> bool {
        let found = link
            .watches
            .iter()
            .find(|(_, watch)| match (watch.kind, stop.watch_gva) {
                (WatchKind::Write, Some(gva)) => {
                    (watch.gva..watch.gva + u64::from(watch.len)).contains(&gva)
                }
                (WatchKind::Exec, None) => watch.gva == rip,
                _ => false,
            });
        let Some((id, _)) = found else { return false };
        let hit = WatchHit {
            id: *id,
            vcpu: stop.thread.map_or(0, |thread| thread.saturating_sub(1)),
            rip,
            held: link.holding.contains(id),
        };
        let held = hit.held;
        let mut hits = self.hits();
        if hits.queue.len() == MAX_HITS {
            hits.queue.pop_front();
        }
        hits.queue.push_back(hit);
        self.hit.notify_all();
        held
    }
}

const SIGTRAP: u8 = 5;

impl Link {
    /// Keeps a hit. Other stops were requested, and end by that request's own resume.
    fn note(&mut self, stop: Stop) {
        if stop.signal == SIGTRAP {
            self.stops.push_back(stop);
        }
    }

    fn send(&mut self, packet: &str) -> Result<()> {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        let text = format!("${packet}#{sum:02x}");
        self.stream
            .write_all(text.as_bytes())
            .map_err(|_| Error::Gone {
                what: String::from("take a gdb packet"),
            })
    }

    fn receive(&mut self, deadline: Duration) -> Result<String> {
        let until = from_now(deadline);
        loop {
            if let Some(packet) = take_packet(&mut self.buffer) {
                return Ok(packet);
            }
            let left = until
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            self.stream
                .set_read_timeout(Some(left))
                .map_err(Error::system("bound a read"))?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return Err(Error::Gone {
                        what: String::from("answer a gdb packet"),
                    });
                }
                Ok(len) => self
                    .buffer
                    .extend_from_slice(bytes.get(..len).unwrap_or_default()),
                Err(_) if Instant::now() >= until => {
                    return Err(Error::Timeout {
                        what: String::from("answer a gdb packet"),
                        waited: deadline,
                    });
                }
                Err(_) => {}
            }
        }
    }

    /// Keeps hits that have been told and not yet read: they came before what stopped the guest for good.
    fn note_ready(&mut self) {
        if !self.attached {
            return;
        }
        // A connection that has ended is for the pump to see.
        for packet in self.receive_ready().unwrap_or_default() {
            if let Some(stop) = parse_stop(&packet) {
                self.note(stop);
            }
        }
    }

    /// Packets that are here already; `None` at the end of the connection.
    fn receive_ready(&mut self) -> Option<Vec<String>> {
        self.stream.set_nonblocking(true).ok()?;
        let mut bytes = [0; 4096];
        let read = self.stream.read(&mut bytes);
        self.stream.set_nonblocking(false).ok()?;
        match read {
            Ok(0) => return None,
            Ok(len) => self
                .buffer
                .extend_from_slice(bytes.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        Some(std::iter::from_fn(|| take_packet(&mut self.buffer)).collect())
    }
}

/// Takes the first whole `$…#cc` out of `buffer`, and what came before it.
fn take_packet(buffer: &mut Vec<u8>) -> Option<String> {
    let start = buffer.iter().position(|byte| *byte == b'$')?;
    let len = buffer.iter().skip(start).position(|byte| *byte == b'#')?;
    let end = start + len;
    if buffer.len() < end + 3 {
        return None;
    }
    let text = String::from_utf8_lossy(buffer.get(start + 1..end)?).into_owned();
    buffer.drain(..end + 3);
    Some(text)
}

/// `T05thread:p01.02;watch:ffffffff82…;`
fn parse_stop(packet: &str) -> Option<Stop> {
    let rest = packet.strip_prefix('T')?;
    let signal = u8::from_str_radix(rest.get(..2)?, 16).ok()?;
    let mut stop = Stop {
        signal,
        thread: None,
        watch_gva: None,
    };
    for part in rest.get(2..)?.split(';') {
        match part.split_once(':') {
            Some(("thread", id)) => {
                let id = id.rsplit('.').next().unwrap_or(id);
                stop.thread = u32::from_str_radix(id, 16).ok();
            }
            Some(("watch" | "awatch" | "rwatch", gva)) => {
                stop.watch_gva = u64::from_str_radix(gva, 16).ok()
            }
            _ => {}
        }
    }
    Some(stop)
}

/// A register's value: little-endian bytes in hex.
fn parse_le_hex(text: &str) -> Option<u64> {
    let mut value = 0;
    for index in (0..8).rev() {
        let byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
        value = value << 8 | u64::from(byte);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_in_pieces() {
        let mut buffer = b"+$O".to_vec();
        assert_eq!(take_packet(&mut buffer), None);
        buffer.extend_from_slice(b"K#9a$T05thread:p01.02;watch:ffffffff82a0f0c0;#00");
        assert_eq!(take_packet(&mut buffer).as_deref(), Some("OK"));
        let stop = parse_stop(&take_packet(&mut buffer).unwrap()).unwrap();
        assert_eq!(
            stop,
            Stop {
                signal: 5,
                thread: Some(2),
                watch_gva: Some(0xffff_ffff_82a0_f0c0)
            }
        );
        assert!(buffer.is_empty());
    }

    #[test]
    fn registers_are_little_endian() {
        assert_eq!(
            parse_le_hex("cbb1e881ffffffff"),
            Some(0xffff_ffff_81e8_b1cb)
        );
        assert_eq!(parse_le_hex("cbb1"), None);
        assert_eq!(parse_stop("OK"), None);
    }
}
