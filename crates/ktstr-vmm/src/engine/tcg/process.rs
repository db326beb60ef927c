//! Starting QEMU so that it never outlives its parent.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, so every QEMU is forked by one thread that lives as long as
//! the process. A parent that died before the child could ask for the signal is noticed by its changed parent pid.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};

struct Job {
    command: Command,
    inherited: Inherited,
    reply: mpsc::Sender<io::Result<Child>>,
}

/// What a child has from us.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Exactly these, beside the standard three.
    pub(super) fds: Vec<RawFd>,
    /// The host CPUs that it may use; `None` for those of the thread that spawns.
    pub(super) cpus: Option<CpuSet>,
}

/// Spawns `command` tied to this process's life.
pub(super) fn spawn(command: Command, inherited: Inherited) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts QEMU has ended");
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let body = move || {
            for job in jobs {
                // Nobody waits any more: the child is dropped, and dies with this process at the latest.
                let _ = job.reply.send(spawn_here(job.command, job.inherited));
            }
        };
        // Without the thread the channel is closed, which every call reports.
        let _ = thread::Builder::new()
            .name(String::from("ktstr-spawner"))
            .spawn(body);
        sender
    });
    let (reply, answer) = mpsc::channel();
    spawner
        .send(Job {
            command,
            inherited,
            reply,
        })
        .map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn spawn_here(mut command: Command, inherited: Inherited) -> io::Result<Child> {
    let parent = std::process::id();
    let prepare = move || {
        tie_to_parent(parent, &inherited.fds)?;
        if let Some(cpus) = &inherited.cpus {
            sched_setaffinity(None, cpus)?;
        }
        Ok(())
    };
    // SAFETY: `prepare` runs between fork and exec. It only makes system calls on memory that it owns
    // (no allocation, no locks), which is what async-signal-safety there asks for.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

fn tie_to_parent(parent: u32, fds: &[RawFd]) -> io::Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getppid has no preconditions.
    let now = unsafe { libc::getppid() };
    if u32::try_from(now) != Ok(parent) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    for fd in fds {
        // SAFETY: F_SETFD on a descriptor number touches no memory; a wrong number is an error, not undefined.
        let done = unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
