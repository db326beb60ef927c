//! Starting QEMU so that neither it nor what it started outlives its parent.
//!
//! ```text
//!   this process --pipe--> guard (leads a process group) --when the pipe ends: SIGKILL--> the group: emulator, and what it forked
//! ```
//!
//! An emulator may be a wrapper that runs another process, which is why it is the group that is killed. The guard is a shell that
//! waits for the end of a pipe, and the end of the pipe is the end of this process, however that comes.
//!
//! `PR_SET_PDEATHSIG` is asked for as well: should the guard be killed, the emulator itself still dies with its parent. It
//! fires when the *thread* that forked ends, so every QEMU is forked by one thread that lives as long as the process. A parent
//! that died before the child could ask for the signal is noticed by its changed parent pid.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CpuSet, sched_setaffinity};

/// `kill 0` reaches the shell's own process group.
const GUARD: &str = "read line; kill -KILL 0";

struct Job {
    command: Command,
    inherited: Inherited,
    reply: mpsc::Sender<io::Result<Emulator>>,
}

/// What a child has from us.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Exactly these, beside the standard three.
    pub(super) fds: Vec<RawFd>,
    /// The host CPUs that it may use; `None` for those of the thread that spawns.
    pub(super) cpus: Option<CpuSet>,
}

/// QEMU and its guard; dropping it ends all of the group.
#[derive(Debug)]
pub(super) struct Emulator {
    child: Child,
    guard: Guard,
}

/// The leader of the process group. It is reaped last, so that its id names this group and no other.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn start() -> io::Result<Self> {
        let guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "ktstr-guard"])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        guard.map(Self)
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        kill_group(self.group());
        // It was killed; an error means that it was reaped elsewhere.
        let _ = self.0.wait();
    }
}

/// Kills what is left of a group whose guard was not reaped yet.
pub(super) fn kill_group(group: Pid) {
    // An error means that no process is left.
    let _ = kill_process_group(group, Signal::KILL);
}

impl Emulator {
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Names everything that came of the emulator, as long as this value lives.
    pub(super) fn group(&self) -> Pid {
        self.guard.group()
    }

    /// Waits for QEMU's own end.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        kill_group(self.group());
        // Reaped already where its end was waited for.
        let _ = self.child.wait();
    }
}

/// Spawns `command` tied to this process's life.
pub(super) fn spawn(command: Command, inherited: Inherited) -> io::Result<Emulator> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts QEMU has ended");
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let body = move || {
            for job in jobs {
                // The receiver is gone: the emulator is dropped, and dies.
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

fn spawn_here(mut command: Command, inherited: Inherited) -> io::Result<Emulator> {
    let guard = Guard::start()?;
    command.process_group(guard.group().as_raw_nonzero().get());
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
    let child = command.spawn()?;
    Ok(Emulator { child, guard })
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
