//! Processes that init starts, and every orphan that becomes its child.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait,
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Ended {
    fn of(status: WaitStatus) -> Self {
        Self {
            code: status.exit_status(),
            signal: status.terminating_signal(),
        }
    }

    /// As a shell tells it.
    pub(crate) fn shell_code(self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 1,
        }
    }

    pub(crate) fn words(self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => String::from("unknown status"),
        }
    }
}

/// A running child. Init reaps through [`Reaper`] alone, so that orphans and children never get mixed up.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

impl Process {
    /// Starts `command`. `std`'s handle is dropped, which neither waits nor kills.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        // No thread reaps meanwhile: of a program that cannot be executed `std` itself reaps the process, and panics where it is
        // gone; and a child that ended at once has told nothing yet.
        let mut reaped = REAPED.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        Self::new(Pid::from_child(&child), &mut reaped)
    }

    /// A child that was just made, and that nothing can have reaped.
    pub(crate) fn forked(pid: Pid) -> io::Result<Self> {
        let mut reaped = REAPED.lock().unwrap_or_else(PoisonError::into_inner);
        Self::new(pid, &mut reaped)
    }

    fn new(pid: Pid, reaped: &mut BTreeMap<i32, Ended>) -> io::Result<Self> {
        // An earlier process of this number has ended, not this one.
        reaped.remove(&pid.as_raw_nonzero().get());
        Ok(Self {
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // The only error left is that it has ended, which is what a signal is for.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

/// Collects the ends of all children.
#[derive(Debug, Default)]
pub(crate) struct Reaper(());

/// The children that were reaped. All threads of a process have the same children, so whichever reaps one tells all.
static REAPED: Mutex<BTreeMap<i32, Ended>> = Mutex::new(BTreeMap::new());

impl Reaper {
    /// Reaps whatever has ended by now.
    pub(crate) fn reap(&mut self) {
        // Held while it waits: a child that another thread has reaped is there as soon as that is seen.
        let mut reaped = REAPED.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            reaped.insert(pid.as_raw_nonzero().get(), Ended::of(status));
        }
    }

    /// How this process ended; `None` while it runs.
    pub(crate) fn end_of(&self, process: &Process) -> Option<Ended> {
        let reaped = REAPED.lock().unwrap_or_else(PoisonError::into_inner);
        reaped.get(&process.pid.as_raw_nonzero().get()).copied()
    }
}

/// The reading end of a pipe that never blocks.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) pipe: File,
    pub(crate) open: bool,
}

impl Output {
    /// A pipe: init's end, and the other as a child's standard stream.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Only init's end must not block; the writer should.
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok((
            Self {
                pipe: File::from(read),
                open: true,
            },
            write,
        ))
    }

    /// What is there now; empty when nothing is, or at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self.pipe.read(buffer) {
            Ok(0) => {
                self.open = false;
                0
            }
            Ok(len) => len,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                0
            }
            Err(_) => {
                self.open = false;
                0
            }
        }
    }
}

/// `command` with no input and this output for both streams.
pub(crate) fn with_output(command: &mut Command, output: OwnedFd) -> io::Result<()> {
    let second = output.try_clone()?;
    command.stdin(Stdio::null()).stdout(output).stderr(second);
    Ok(())
}

/// Sleeps until one of `fds` is ready or the time is over.
pub(crate) fn sleep_on(fds: &mut [PollFd<'_>], timeout_ms: u32) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: i64::from(timeout_ms / 1000),
        tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
    };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Readable, or at its end.
pub(crate) fn ready(fd: &PollFd<'_>) -> bool {
    fd.revents()
        .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
}

/// Lets a child inherit `fd` under its own number.
pub(crate) fn inheritable(fd: &OwnedFd) -> io::Result<i32> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    Ok(fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both of them wait for any child, as two threads of one process do.
    #[test]
    fn a_child_that_another_reaped_has_ended() {
        let process = Process::spawn(Command::new("sh").args(["-c", "exit 5"])).unwrap();
        let mut ended = [PollFd::new(&process.pidfd, PollFlags::IN)];
        sleep_on(&mut ended, 30_000).unwrap();
        let (mut one, other) = (Reaper::default(), Reaper::default());
        one.reap();
        let code = other.end_of(&process).and_then(|ended| ended.code);
        assert_eq!(code, Some(5));
    }

    /// Numbers come round: what is known of the one before is nothing that this one did.
    #[test]
    fn a_process_with_the_number_of_one_that_ended_runs() {
        let process = Process::spawn(Command::new("sleep").arg("60")).unwrap();
        let number = process.pid.as_raw_nonzero().get();
        let ended = Ended {
            code: Some(1),
            signal: None,
        };
        let reaper = Reaper::default();
        REAPED.lock().unwrap().insert(number, ended);
        assert_eq!(reaper.end_of(&process), Some(ended));
        let again = Process::forked(process.pid).unwrap();
        assert_eq!(reaper.end_of(&again), None);
        again.signal(Signal::KILL);
    }

    /// Where another thread reaped it first, `std` panicked.
    #[test]
    fn a_program_that_is_not_there_is_an_error_while_others_reap() {
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    Reaper::default().reap();
                    // Others want the lock, too.
                    std::thread::park_timeout(std::time::Duration::from_micros(20));
                }
            });
            let tried = (0..200).map(|_| {
                let mut command = Command::new("/no/such/program");
                // As a scheduler's, which makes `std` fork by itself.
                let nothing = || Ok(());
                // SAFETY: the closure does nothing.
                unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, nothing) };
                Process::spawn(&mut command).map(drop)
            });
            let tried: Vec<io::Result<()>> = tried.collect();
            // Before anything is judged: the scope waits for the other thread.
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            for one in tried {
                assert_eq!(one.unwrap_err().kind(), io::ErrorKind::NotFound);
            }
        });
    }
}
