//! How QEMU reaches a device's thread.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};

/// A device's end of a connection with QEMU.
#[derive(Debug)]
pub(crate) enum Socket {
    /// QEMU inherits the other end.
    Connected(UnixStream),
    /// QEMU connects to an abstract name: the only kind of chardev to which its vhost-user netdev entrusts descriptors, and
    /// one that leaves no file.
    Listening {
        listener: UnixListener,
        /// QEMU inherits the other end of this, which thus closes when QEMU ends without having connected.
        guard: UnixStream,
    },
}

impl Socket {
    /// Listens on a random name; gives the name, too.
    ///
    /// # Errors
    /// When the system refuses the socket.
    pub(crate) fn listen(guard: UnixStream) -> Result<(Self, String)> {
        let mut random = [0; 16];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(|errno| Error::System {
            what: "get random bytes",
            source: errno.into(),
        })?;
        let random = u128::from_ne_bytes(random);
        let name = format!("ktstr-card-{random:032x}");
        let listener = SocketAddr::from_abstract_name(&name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(Error::system("listen for QEMU"))?;
        Ok((Self::Listening { listener, guard }, name))
    }

    /// The connection; `None` when QEMU ended before it came.
    pub(super) fn connect(self) -> Option<UnixStream> {
        let (listener, guard) = match self {
            Self::Connected(stream) => return Some(stream),
            Self::Listening { listener, guard } => (listener, OwnedFd::from(guard)),
        };
        loop {
            let mut fds = [
                PollFd::new(&listener, PollFlags::IN),
                PollFd::new(&guard, PollFlags::IN),
            ];
            // Interrupted: look again.
            if poll(&mut fds, None).is_err() {
                continue;
            }
            let [came, ended] = fds.map(|fd| !fd.revents().is_empty());
            if !came && ended {
                return None;
            }
            match listener.accept() {
                Ok((stream, _)) if is_ours(&stream) => return Some(stream),
                Ok(_) => tracing::warn!("a stranger connected to a device and was turned away"),
                Err(error) => {
                    tracing::warn!(%error, "a device could not be connected");
                    return None;
                }
            }
        }
    }
}

/// Abstract names have no permissions.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    socket_peercred(stream.as_fd()).is_ok_and(|peer| peer.uid == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn who_knows_the_name_is_connected() {
        let (guard, _qemu) = UnixStream::pair().unwrap();
        let (socket, name) = Socket::listen(guard).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let mut theirs = UnixStream::connect_addr(&address).unwrap();
        let mut ours = socket.connect().unwrap();
        theirs.write_all(b"hi").unwrap();
        let mut word = [0; 2];
        ours.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hi");
    }

    #[test]
    fn an_emulator_that_ends_early_is_not_waited_for() {
        let (guard, qemu) = UnixStream::pair().unwrap();
        let (socket, _) = Socket::listen(guard).unwrap();
        drop(qemu);
        assert!(socket.connect().is_none());
    }
}
