//! Disks and network cards: our own models, served to the emulator by vhost-user.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use super::Pairs;
use crate::config::Config;
use crate::devices::virtio::cards::{CardCounters, cards};
use crate::devices::virtio::vhost_user::{self, Socket};
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

/// Our own device models and QEMU's way to each.
#[derive(Debug)]
pub(super) struct Cards {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) counters: CardCounters,
    /// Names of those that QEMU connects to.
    pub(super) names: Vec<String>,
    /// Our ends of their sockets; of a named one, of its guard.
    pub(super) lines: Vec<UnixStream>,
}

impl Cards {
    /// Starts their threads, which end with QEMU's end of their sockets.
    pub(super) fn serve(config: &Config, memory: &GuestMemory, pairs: &mut Pairs) -> Result<Self> {
        let (cards, counters) = cards(&config.disks, &config.nets)?;
        let (mut threads, mut names, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (index, card) in cards.into_iter().enumerate() {
            let ours = pairs.add()?;
            lines.push(
                ours.try_clone()
                    .map_err(Error::system("share a descriptor"))?,
            );
            let socket = if index < config.disks.len() {
                Socket::Connected(ours)
            } else {
                let (socket, name) = Socket::listen(ours)?;
                names.push(name);
                socket
            };
            threads.push(vhost_user::serve(card, memory.mapping()?.clone(), socket)?);
        }
        Ok(Self {
            threads,
            counters,
            names,
            lines,
        })
    }
}
