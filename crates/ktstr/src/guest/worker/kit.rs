//! What a group's workers share beside memory: descriptors made by the parent before the fork, inherited by all.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};

use super::os;
use crate::model::work::{WakeMechanism, WorkType};

/// Both ends of a pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// An eventfd (a semaphore) and an epoll that watches it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) event: OwnedFd,
    pub(super) epoll: OwnedFd,
}

/// Descriptors by what they are; most kits are empty.
#[derive(Debug, Default)]
pub(super) struct Kit {
    /// One for each worker, read by it.
    pub(super) pipes: Vec<Pipe>,
    /// One for each group of the work type.
    pub(super) channels: Vec<Channel>,
    /// One for each worker, received on by it.
    pub(super) sockets: Vec<UdpSocket>,
    /// One for all.
    pub(super) file: Option<File>,
}

impl Kit {
    /// What `count` workers of this type need.
    ///
    /// # Errors
    /// When the system refuses a descriptor.
    pub(super) fn new(work: &WorkType, count: usize) -> io::Result<Self> {
        let mut kit = Self::default();
        match work {
            WorkType::PipeIo { .. }
            | WorkType::CachePipe { .. }
            | WorkType::WakeChain {
                wake: WakeMechanism::Pipe,
                ..
            } => {
                kit.pipes = (0..count).map(|_| pipe()).collect::<io::Result<_>>()?;
            }
            WorkType::EpollStorm { .. } => {
                let groups = count.div_ceil(work.info().group_size);
                kit.channels = (0..groups).map(|_| channel()).collect::<io::Result<_>>()?;
            }
            WorkType::IrqWake { .. } | WorkType::NetTraffic { .. } => {
                os::loopback_up()?;
                kit.sockets = (0..count).map(|_| socket()).collect::<io::Result<_>>()?;
            }
            WorkType::IoConvoy => kit.file = Some(tempfile::tempfile()?),
            _ => {}
        }
        Ok(kit)
    }
}

fn pipe() -> io::Result<Pipe> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(Pipe { read, write })
}

fn channel() -> io::Result<Channel> {
    let flags = EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let event = eventfd(0, flags)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&epoll, &event, data, epoll::EventFlags::IN)?;
    Ok(Channel { event, epoll })
}

/// Bounded waits, so that no worker hangs in it.
fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.set_write_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}
