//! What a guest wrote to a UART, growing while it runs.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a console that are kept; what comes after is counted and dropped.
pub const MAX_CONSOLE: usize = 16 << 20;

#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    dropped: u64,
    /// Its stream has come to its end.
    closed: bool,
}

/// A handle on a console's log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConsoleLog(Arc<(Mutex<Log>, Condvar)>);

/// The line of a kernel's panic on its console, from the words that every kernel uses (`kernel/panic.c`: `panic`).
#[must_use]
pub fn kernel_panic(console: &str) -> Option<&str> {
    const WORDS: &str = "Kernel panic - not syncing";
    let text = console.get(console.find(WORDS)?..)?;
    Some(text.lines().next().unwrap_or_default().trim_end())
}

impl ConsoleLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most this long, until everything that was written has arrived; tells whether it has.
    pub(crate) fn wait_closed(&self, longest: Duration) -> bool {
        let (_, closed) = &*self.0;
        let waited = closed.wait_timeout_while(self.lock(), longest, |log| !log.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Everything so far; a note at the end tells what the bound dropped.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let log = self.lock();
        let mut bytes = log.bytes.clone();
        if log.dropped > 0 {
            bytes.extend_from_slice(
                format!("\n[{} more bytes were dropped]\n", log.dropped).as_bytes(),
            );
        }
        bytes
    }

    /// Bytes kept so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut log = self.lock();
        let room = MAX_CONSOLE.saturating_sub(log.bytes.len()).min(bytes.len());
        let (kept, lost) = bytes.split_at(room);
        log.bytes.extend_from_slice(kept);
        log.dropped = log
            .dropped
            .saturating_add(u64::try_from(lost.len()).unwrap_or(u64::MAX));
    }

    /// Follows `stream` to its end.
    pub(crate) fn follow(&self, mut stream: UnixStream) {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(len @ 1..) => self.push(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.close();
    }

    /// Nothing more will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_line() {
        let console = "[ 1.0] up\r\n[ 2.0] Kernel panic - not syncing: VFS \r\n[ 2.1] CPU: 0\r\n";
        assert_eq!(
            kernel_panic(console),
            Some("Kernel panic - not syncing: VFS")
        );
        assert_eq!(kernel_panic("a panic in user space"), None);
    }

    #[test]
    fn the_end_of_the_stream_can_be_waited_for() {
        use std::io::Write as _;
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let log = ConsoleLog::default();
        assert!(!log.wait_closed(Duration::from_millis(1)));
        let follower = {
            let log = log.clone();
            std::thread::spawn(move || log.follow(ours))
        };
        guest.write_all(b"last words").unwrap();
        drop(guest);
        assert!(log.wait_closed(Duration::from_secs(30)));
        assert_eq!(log.snapshot(), b"last words");
        follower.join().unwrap();
    }

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let log = ConsoleLog::default();
        let chunk = vec![b'x'; MAX_CONSOLE];
        log.push(&chunk);
        log.push(b"lost");
        let text = log.snapshot();
        assert!(text.ends_with(b"[4 more bytes were dropped]\n"));
        assert_eq!(log.len(), MAX_CONSOLE);
    }
}
