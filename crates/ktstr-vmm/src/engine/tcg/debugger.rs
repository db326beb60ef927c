//! A guest that stands still at its gate, shown to a debugger through QEMU's gdb stub.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{START_DEADLINE, TcgVm, start_gdb_stub};
use crate::error::{Error, Result};
use crate::gate::no_gate;

impl TcgVm {
    /// Stops the emulator where the guest stands still, for a debugger.
    pub(crate) fn debug(&self, answer: &[u8]) -> Result<(UnixStream, Duration)> {
        let gate = self.gate.as_ref().ok_or_else(no_gate)?;
        // The deadline of the host's is for a run, which this is no more.
        self.shared.still().begin(Instant::now());
        let at = gate.release_to_stop(answer)?;
        self.qmp.execute("stop", &Value::Null, START_DEADLINE)?;
        // An emulator in virtual time has no line for it before.
        let (ours, theirs) = UnixStream::pair().map_err(Error::system("create a socket pair"))?;
        self.qmp.pass_fd("gdb", theirs.as_fd(), START_DEADLINE)?;
        let socket = json!({
            "addr": {"type": "fd", "data": {"str": "gdb"}},
            "server": false,
        });
        let line = json!({"id": "gdb", "backend": {"type": "socket", "data": socket}});
        self.qmp.execute("chardev-add", &line, START_DEADLINE)?;
        start_gdb_stub(&self.qmp, START_DEADLINE)?;
        Ok((ours, at))
    }
}
