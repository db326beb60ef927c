//! Counters on a unix socket, in the manner of scx_stats: one JSON request per line, one JSON reply per line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::skel::FixtureSkel;

/// A client that says nothing for this long is dropped.
const CLIENT_DEADLINE: Duration = Duration::from_millis(500);

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let fail = || format!("failed to listen on {}", path.display());
        let listener = UnixListener::bind(path).with_context(fail)?;
        listener.set_nonblocking(true).with_context(fail)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers whoever is waiting.
    pub(crate) fn serve(&self, skel: &FixtureSkel<'_>) {
        while let Ok((client, _)) = self.listener.accept() {
            if let Err(error) = answer(client, || counters(skel)) {
                eprintln!("stats: {error:#}");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever removed it before did the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(client: UnixStream, counters: impl Fn() -> Value) -> Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(CLIENT_DEADLINE))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
        let reply = reply_to(&line, &counters);
        client.write_all(format!("{reply}\n").as_bytes())?;
        line.clear();
    }
    Ok(())
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
