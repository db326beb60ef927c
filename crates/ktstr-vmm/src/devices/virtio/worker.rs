//! The thread of one device.
//!
//! ```text
//!   loop: gate.pass -> poll(wake, kicks, host fds, timer) -> gate.pass -> lock -> process
//! ```
//!
//! Woken through `wake` it looks at the gate: a freeze parks it, the end of the VM lets it finish and leave. While it sleeps it
//! touches no memory, but it still has to say so at the gate; that is one eventfd write away.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, sched_setaffinity};
use vmm_sys_util::eventfd::EventFd;

use super::transport::Transport;
use crate::devices::gate::{Gate, Pass};
use crate::error::{Error, Result};

/// The gate at which device threads stand during a freeze, and what wakes them.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) gate: Gate<()>,
    wakes: Vec<EventFd>,
    names: Vec<String>,
}

impl Workers {
    /// For the threads of `names`.
    pub(crate) fn new(names: Vec<String>) -> Result<Self> {
        let wake = |_: &String| eventfd();
        Ok(Self {
            gate: Gate::new(names.len()),
            wakes: names.iter().map(wake).collect::<Result<_>>()?,
            names,
        })
    }

    /// Makes every thread look at the gate.
    pub(crate) fn wake_all(&self) {
        for wake in &self.wakes {
            // A full eventfd only means that it is already woken.
            let _ = wake.write(1);
        }
    }

    /// The name of a thread.
    pub(crate) fn name(&self, index: u32) -> &str {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.names.get(index))
            .map_or("?", String::as_str)
    }
}

/// A non-blocking eventfd.
pub(crate) fn eventfd() -> Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::system("create an eventfd"))
}

/// The eventfd's descriptor, for as long as the eventfd is borrowed.
pub(super) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: an `EventFd` owns an open descriptor until it is dropped, which the borrow forbids.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// What a device thread owns.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) transport: Arc<Mutex<Transport>>,
    pub(crate) kicks: Vec<EventFd>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) index: usize,
    /// The host CPUs that it stays on, if not any.
    pub(crate) cpus: Option<CpuSet>,
}

/// Keeps the calling thread on these CPUs; one that cannot be kept there runs on any.
pub(crate) fn stay_on(cpus: Option<&CpuSet>) {
    if let Some(Err(error)) = cpus.map(|cpus| sched_setaffinity(None, cpus)) {
        tracing::warn!(%error, "a thread cannot be kept off the vCPUs' host CPUs");
    }
}

/// What a sleep ended with.
#[derive(Debug, Default)]
struct Ready {
    queues: Vec<usize>,
    tokens: Vec<usize>,
    timer: bool,
}

/// Tells the gate that the thread is gone, however it ends.
struct Goodbye<'w>(&'w Worker);

impl Drop for Goodbye<'_> {
    fn drop(&mut self) {
        let Worker { workers, index, .. } = self.0;
        if std::thread::panicking() {
            let name = workers.name(u32::try_from(*index).unwrap_or(u32::MAX));
            tracing::error!(name, "a device's thread panicked; the device is dead");
        }
        workers.gate.leave(*index);
    }
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn spawn(self) -> Result<JoinHandle<()>> {
        let name = format!(
            "ktstr-{}",
            self.workers
                .name(u32::try_from(self.index).unwrap_or(u32::MAX))
        );
        thread::Builder::new()
            .name(name)
            .spawn(move || {
                let _goodbye = Goodbye(&self);
                stay_on(self.cpus.as_ref());
                self.run();
            })
            .map_err(Error::system("start a thread"))
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            if self.workers.gate.pass(self.index, || ()) == Pass::Leave {
                break;
            }
            let ready = self.sleep();
            if self.workers.gate.pass(self.index, || ()) == Pass::Leave {
                break;
            }
            self.work(&ready);
        }
        self.lock().end();
    }

    /// Sleeps until something is to be done.
    fn sleep(&self) -> Ready {
        let (interests, timer) = self.interests();
        let Some(wake) = self.workers.wakes.get(self.index) else {
            return Ready::default();
        };
        let mut fds = vec![PollFd::from_borrowed_fd(borrow(wake), PollFlags::IN)];
        fds.extend(
            self.kicks
                .iter()
                .map(|kick| PollFd::from_borrowed_fd(borrow(kick), PollFlags::IN)),
        );
        for (fd, flags, _) in &interests {
            fds.push(PollFd::new(fd, *flags));
        }
        let left = timer.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // Interrupted: look again.
            return Ready::default();
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut is_ready = is_ready.into_iter();
        if is_ready.next() == Some(true) {
            let _ = wake.read();
        }
        let mut ready = Ready {
            timer: timer.is_some_and(|at| at <= Instant::now()),
            ..Ready::default()
        };
        for (queue, kick) in self.kicks.iter().enumerate() {
            if is_ready.next() == Some(true) {
                let _ = kick.read();
                ready.queues.push(queue);
            }
        }
        for (_, _, token) in &interests {
            if is_ready.next() == Some(true) {
                ready.tokens.push(*token);
            }
        }
        ready
    }

    /// Duplicates of the device's descriptors, so that no lock is held while sleeping.
    fn interests(&self) -> (Vec<(OwnedFd, PollFlags, usize)>, Option<Instant>) {
        let transport = self.lock();
        let mut interests = Vec::new();
        // Nothing is done before the driver is ready, nor after it has gone back on that; then a kick comes.
        if !transport.is_active() {
            return (interests, None);
        }
        let device = transport.device();
        for host in device.host_fds() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, host.readable);
            flags.set(PollFlags::OUT, host.writable);
            match host.fd.try_clone_to_owned() {
                Ok(fd) => interests.push((fd, flags, host.token)),
                Err(error) => tracing::warn!(%error, "a device's descriptor cannot be watched"),
            }
        }
        (interests, device.next_timer())
    }

    fn work(&self, ready: &Ready) {
        let mut transport = self.lock();
        let Some((device, rings)) = transport.active() else {
            return;
        };
        if ready.timer {
            device.timer(rings);
        }
        for queue in &ready.queues {
            device.process(*queue, rings);
        }
        for token in &ready.tokens {
            device.ready(*token, rings);
        }
        for queue in rings.take_again() {
            if let Some(kick) = self.kicks.get(queue) {
                // A full eventfd only means that the kick is already pending.
                let _ = kick.write(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::devices::virtio::testutil::Driver;
    use crate::devices::virtio::{Device, Rings};

    /// A device that always wants to be called, and may panic at its end.
    #[derive(Debug)]
    struct Eager {
        panics: bool,
    }

    impl Device for Eager {
        fn device_type(&self) -> u32 {
            4
        }
        fn queue_sizes(&self) -> Vec<u16> {
            vec![8]
        }
        fn process(&mut self, _queue: usize, _rings: &mut Rings) {}
        fn reset(&mut self) {}
        fn next_timer(&self) -> Option<Instant> {
            Some(Instant::now())
        }
        fn end(&mut self, _rings: &mut Rings) {
            assert!(!self.panics, "as the test wants it");
        }
    }

    fn worker(panics: bool) -> Worker {
        let driver = Driver::new(1, 8);
        let line = driver.line.try_clone().unwrap();
        let device = Box::new(Eager { panics });
        let transport = Transport::new(device, driver.memory.clone(), line, Vec::new()).unwrap();
        Worker {
            transport: Arc::new(Mutex::new(transport)),
            kicks: Vec::new(),
            workers: Arc::new(Workers::new(vec![String::from("eager")]).unwrap()),
            index: 0,
            cpus: None,
        }
    }

    #[test]
    fn a_driver_that_goes_back_on_driver_ok_leaves_nothing_to_do() {
        let worker = worker(false);
        let set = |offset, value: u32| worker.lock().write(offset, &value.to_le_bytes());
        assert!(worker.interests().1.is_none(), "no driver yet");
        set(0x24, 1);
        set(0x20, 1);
        set(0x70, 0xb);
        set(0x70, 0xf);
        assert!(worker.interests().1.is_some());
        set(0x70, 0xb);
        assert!(worker.interests().1.is_none(), "it would spin");
    }

    #[test]
    fn a_worker_that_panics_is_gone_for_whoever_waits() {
        let worker = worker(true);
        let workers = Arc::clone(&worker.workers);
        let thread = worker.spawn().unwrap();
        workers.gate.stop();
        workers.wake_all();
        let soon = Instant::now() + Duration::from_secs(20);
        assert_eq!(workers.gate.wait_gone(soon), [0u32; 0]);
        thread.join().unwrap_err();
    }
}
