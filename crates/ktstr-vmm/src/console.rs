//! What a guest wrote to a UART, growing while it runs.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a console that are kept; what comes after is counted and dropped.
pub const MAX_CONSOLE: usize = 16 << 20;

#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    dropped: u64,
}

/// A handle on a console's log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConsoleLog(Arc<Mutex<Log>>);

impl ConsoleLog {
    /// Everything so far; a note at the end tells what the bound dropped.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bytes
            .len()
    }

    /// Nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
                Ok(0) => return,
                Ok(len) => self.push(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
