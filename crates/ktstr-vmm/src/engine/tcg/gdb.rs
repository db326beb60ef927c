//! Watchpoints through QEMU's gdb stub (GDB manual, appendix E: remote serial protocol).
//!
//! The stub is attached at the first watch. One mutex guards the connection: whoever sends a packet reads its reply under
//! it and handles the stops that come in between. A pump thread sleeps in `poll` without the mutex and handles stops that come
//! by themselves: it records the hit and lets the guest run on.
//!
//! Replies are not acknowledged: over a socket none is lost, and QEMU takes the next packet for an acknowledgement
//! (gdbstub.c, `gdb_read_byte`).

use std::collections::{HashMap, VecDeque};
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
    link: Mutex<Link>,
    hits: Mutex<VecDeque<WatchHit>>,
    hit: Condvar,
}

#[derive(Debug)]
struct Link {
    stream: UnixStream,
    buffer: Vec<u8>,
    attached: bool,
    watches: HashMap<WatchId, Watch>,
    next_id: u32,
}

/// A stop that the stub reported.
#[derive(Debug, PartialEq, Eq)]
struct Stop {
    signal: u8,
    thread: Option<u32>,
    watch_gva: Option<u64>,
}

impl Gdb {
    pub(super) fn new(stream: UnixStream) -> Self {
        let link = Link {
            stream,
            buffer: Vec::new(),
            attached: false,
            watches: HashMap::new(),
            next_id: 1,
        };
        Self {
            shared: Arc::new(Shared {
                link: Mutex::new(link),
                hits: Mutex::default(),
                hit: Condvar::new(),
            }),
        }
    }

    pub(super) fn watch(&self, qmp: &Qmp, watch: Watch) -> Result<WatchId> {
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
        let mut link = self.shared.link();
        self.attach(qmp, &mut link)?;
        let id = WatchId(link.next_id);
        link.next_id += 1;
        self.edit(qmp, &mut link, 'Z', watch)?;
        link.watches.insert(id, watch);
        Ok(id)
    }

    pub(super) fn unwatch(&self, qmp: &Qmp, id: WatchId) -> Result<()> {
        let mut link = self.shared.link();
        let Some(watch) = link.watches.remove(&id) else {
            let what = String::from("end a watch");
            return Err(Error::Refused {
                what,
                reason: String::from("there is none with this id"),
            });
        };
        self.edit(qmp, &mut link, 'z', watch)
    }

    pub(super) fn next_hit(&self, deadline: Duration) -> Option<WatchHit> {
        let until = Instant::now() + deadline;
        let mut hits = self
            .shared
            .hits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(hit) = hits.pop_front() {
                return Some(hit);
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

    fn attach(&self, qmp: &Qmp, link: &mut MutexGuard<'_, Link>) -> Result<()> {
        if link.attached {
            return Ok(());
        }
        start_gdb_stub(qmp, REPLY_DEADLINE)?;
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

    /// Inserts or removes a watch while the guest is stopped: a packet to a running guest would stop it anyway.
    fn edit(
        &self,
        qmp: &Qmp,
        link: &mut MutexGuard<'_, Link>,
        verb: char,
        watch: Watch,
    ) -> Result<()> {
        qmp.execute("stop", &Value::Null, REPLY_DEADLINE)?;
        let answer = self.shared.exchange(link, &point(verb, watch));
        qmp.execute("cont", &Value::Null, REPLY_DEADLINE)?;
        match answer?.as_str() {
            "OK" => Ok(()),
            other => {
                let what = format!("watch {:#x}", watch.gva);
                Err(Error::Refused {
                    what,
                    reason: format!("the gdb stub said '{other}'"),
                })
            }
        }
    }
}

/// `Z2,addr,len` and its kin: type 1 is a hardware breakpoint, 2 a write watchpoint.
fn point(verb: char, watch: Watch) -> String {
    match watch.kind {
        WatchKind::Exec => format!("{verb}1,{:x},1", watch.gva),
        WatchKind::Write => format!("{verb}2,{:x},{:x}", watch.gva, watch.len),
    }
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a packet and returns its reply; stops that come first are handled.
    fn exchange(&self, link: &mut Link, packet: &str) -> Result<String> {
        link.send(packet)?;
        loop {
            let reply = link.receive(REPLY_DEADLINE)?;
            match parse_stop(&reply) {
                // A stop by request of the monitor; whoever asked for it will resume.
                Some(stop) if stop.signal != SIGTRAP => {}
                Some(stop) => self.record(link, &stop),
                None => return Ok(reply),
            }
        }
    }

    fn pump(&self, stream: &UnixStream) {
        loop {
            let mut fds = [PollFd::new(stream, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            let mut link = self.link();
            // The bytes may have been a reply that the mutex's holder took.
            let Some(packets) = link.receive_ready() else {
                return;
            };
            for packet in packets {
                let Some(stop) = parse_stop(&packet).filter(|stop| stop.signal == SIGTRAP) else {
                    continue;
                };
                if let Err(error) = self.handle_hit(&mut link, &stop) {
                    tracing::warn!(%error, "a watch hit could not be handled");
                }
            }
        }
    }

    /// Records a hit and lets the guest run on.
    fn handle_hit(&self, link: &mut Link, stop: &Stop) -> Result<()> {
        self.record(link, stop);
        if stop.watch_gva.is_none() {
            self.step_over(link, stop)?;
        }
        link.send("vCont;c")
    }

    /// A breakpoint would fire again at once: it is lifted for one step of its vCPU.
    fn step_over(&self, link: &mut Link, stop: &Stop) -> Result<()> {
        let Some(rip) = self.rip(link, stop) else {
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
        self.exchange(link, &point('z', watch))?;
        link.send(&format!("vCont;s:p1.{thread:x}"))?;
        // The step's own stop.
        link.receive(REPLY_DEADLINE)?;
        self.exchange(link, &point('Z', watch)).map(drop)
    }

    fn rip(&self, link: &mut Link, stop: &Stop) -> Option<u64> {
        if let Some(thread) = stop.thread {
            self.exchange(link, &format!("Hgp1.{thread:x}")).ok()?;
        }
        let registers = self.exchange(link, "g").ok()?;
        parse_le_hex(registers.get(RIP_AT..)?)
    }

    fn record(&self, link: &mut Link, stop: &Stop) {
        let rip = self.rip(link, stop).unwrap_or(0);
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
        let Some((id, _)) = found else { return };
        let vcpu = stop.thread.map_or(0, |thread| thread.saturating_sub(1));
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        if hits.len() == MAX_HITS {
            hits.pop_front();
        }
        hits.push_back(WatchHit { id: *id, vcpu, rip });
        self.hit.notify_all();
    }
}

const SIGTRAP: u8 = 5;

impl Link {
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
        let until = Instant::now() + deadline;
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
