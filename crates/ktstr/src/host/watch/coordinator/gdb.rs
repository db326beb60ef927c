//! A guest that was stopped for a look is offered to a gdb of the user's.
//!
//! Through a socket in a directory of its own, which other users cannot enter: who reaches QEMU's gdb stub reaches its monitor,
//! and may do there what the user may. The run ends when gdb leaves it.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, Scope};

use anyhow::Context as _;
use ktstr_vmm::RunningVm;
use rustix::event::{PollFd, PollFlags, poll};

use crate::model::gdb::{GDB_MARK, GdbOffer};

/// Offers the guest, which stands still at its gate, to one gdb, and ends the VM when that has left. `answers` is for a guest that
/// knocked.
pub(super) fn offer<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    vm: &'env RunningVm,
    answers: &[u8],
    (vmlinux, slide): (Option<PathBuf>, u64),
) -> anyhow::Result<()> {
    let (stub, at) = vm.debug(answers)?;
    let dir = tempfile::Builder::new()
        .prefix("ktstr-gdb-")
        .tempdir()
        .context("failed to create a directory for gdb's socket")?;
    let socket = dir.path().join("gdb");
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("failed to create {}", socket.display()))?;
    tell(&GdbOffer {
        socket,
        at_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        vmlinux,
        slide,
    })?;
    thread::Builder::new()
        .name(String::from("ktstr-gdb"))
        .spawn_scoped(scope, move || {
            if let Some(client) = accept(&listener, vm) {
                join(&client, &stub);
            }
            vm.kill();
            // It is there until gdb has gone.
            drop(dir);
        })
        .context("failed to start gdb's thread")?;
    Ok(())
}

/// Not by a macro of the standard library's, whose output test harnesses keep to themselves.
fn tell(offer: &GdbOffer) -> anyhow::Result<()> {
    let json = serde_json::to_string(offer)?;
    let mut out = io::stdout().lock();
    writeln!(out, "\n{GDB_MARK}{json}")?;
    out.flush().context("failed to tell where gdb is awaited")
}

/// The first that comes; `None` when the VM ends before.
fn accept(listener: &UnixListener, vm: &RunningVm) -> Option<UnixStream> {
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(vm, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        let [client, end] = fds.map(|fd| !fd.revents().is_empty());
        if client {
            return listener.accept().ok().map(|(stream, _)| stream);
        }
        if end {
            return None;
        }
    }
}

/// Carries bytes between two streams until either has ended, then ends both.
fn join(client: &UnixStream, stub: &UnixStream) {
    let carry = |mut from: &UnixStream, mut to: &UnixStream| {
        // Either way this direction is over.
        let _ = io::copy(&mut from, &mut to);
        for stream in [client, stub] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| carry(stub, client));
        carry(client, stub);
    });
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn either_end_ends_both() {
        let (client, mut far_client) = UnixStream::pair().unwrap();
        let (stub, mut far_stub) = UnixStream::pair().unwrap();
        let joined = thread::spawn(move || join(&client, &stub));
        far_client.write_all(b"+").unwrap();
        let mut byte = [0];
        far_stub.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"+");
        drop(far_client);
        joined.join().unwrap();
        assert_eq!(far_stub.read(&mut byte).unwrap(), 0);
    }
}
