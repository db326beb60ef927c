//! Ctrl-C and its kin: children are told, given time, then ended; nothing of ours outlives the command.
//!
//! ```text
//!   signal --> self-pipe --> this thread --> by the current duty:
//!        Exit           nothing to clean up: leave at once
//!        Group(pgid)    forward to the runner's process group; SIGKILL after GRACE or at the second signal
//!        Descendants    end our child processes; the work in progress sees `requested()` and unwinds
//! ```
//! A runner gets a process group of its own, so that a terminal's Ctrl-C reaches it exactly once, from here.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long children may take to end after the first signal.
const GRACE: Duration = Duration::from_secs(15);
/// How often the thread looks whether the grace is over.
const TICK: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The last signal; 0 for none. Relaxed: it publishes nothing but itself.
static REQUESTED: AtomicI32 = AtomicI32::new(0);
static DUTY: Mutex<Duty> = Mutex::new(Duty::Exit);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Exit,
    Group(Pid),
    Descendants,
}

/// Watches for signals from now on.
///
/// # Errors
/// When handlers or the thread cannot be set up.
pub(crate) fn install() -> io::Result<()> {
    let mut pipes = Vec::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let (reader, writer) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal, writer)?;
        reader.set_nonblocking(true)?;
        pipes.push((signal, reader));
    }
    thread::Builder::new()
        .name(String::from("signals"))
        .spawn(move || watch(pipes))?;
    Ok(())
}

/// The signal that asks for an end, if one came.
pub(crate) fn requested() -> Option<i32> {
    Some(REQUESTED.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Runs a child to its end in a process group of its own; signals are forwarded to that group.
///
/// # Errors
/// When it cannot be started or waited for.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    let pid = Pid::from_child(&child);
    set(Duty::Group(pid));
    // A signal that came before the group was known must reach it, too.
    if requested().is_some() {
        let _ = kill_process_group(pid, Signal::INT);
    }
    // Seen, not yet reaped: the group's number cannot be taken by another before the duty is back.
    while let Err(rustix::io::Errno::INTR) = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    ) {}
    set(Duty::Exit);
    let status = child
        .wait()
        .with_context(|| format!("failed to wait for {name}"));
    if requested().is_some() {
        ktstr::host::plan::admission::sweep();
    }
    status
}

/// While it lives, a signal ends our child processes instead of us, and the work has to look at [`requested`].
#[derive(Debug)]
pub(crate) struct Unwinding(());

impl Unwinding {
    /// Begins.
    pub(crate) fn begin() -> Self {
        set(Duty::Descendants);
        Self(())
    }
}

impl Drop for Unwinding {
    fn drop(&mut self) {
        set(Duty::Exit);
    }
}

fn set(duty: Duty) {
    if let Ok(mut current) = DUTY.lock() {
        *current = duty;
    }
}

fn watch(mut pipes: Vec<(i32, UnixStream)>) {
    let mut first: Option<Instant> = None;
    loop {
        let timeout = first.map(|_| TICK);
        let mut fds: Vec<PollFd<'_>> = pipes
            .iter()
            .map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN))
            .collect();
        // An interrupted poll is only one more turn.
        let _ = poll(&mut fds, timeout.as_ref());
        drop(fds);
        let mut came = None;
        for (signal, pipe) in &mut pipes {
            let mut byte = [0; 16];
            if pipe.read(&mut byte).is_ok_and(|len| len > 0) {
                came = Some(*signal);
            }
        }
        if let Some(signal) = came {
            REQUESTED.store(signal, Ordering::Relaxed);
            act(signal, first.is_some());
            first = first.or_else(|| Some(Instant::now()));
        } else if first.is_some_and(|first| first.elapsed() > GRACE) {
            act(SIGINT, true);
        }
    }
}

fn act(signal: i32, force: bool) {
    // Held while acting: `run` waits for it before it reaps the group's leader.
    let Ok(duty) = DUTY.lock() else { return };
    match *duty {
        Duty::Exit => std::process::exit(128 + signal),
        Duty::Group(group) => {
            let signal = match (force, signal) {
                (true, _) => Signal::KILL,
                (_, SIGTERM) => Signal::TERM,
                (_, SIGHUP) => Signal::HUP,
                _ => Signal::INT,
            };
            // Gone already is what was wanted.
            let _ = kill_process_group(group, signal);
        }
        Duty::Descendants => {
            let signal = if force { Signal::KILL } else { Signal::TERM };
            for pid in descendants() {
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// All processes below this one, by the parents that /proc tells.
fn descendants() -> Vec<Pid> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![Pid::as_raw(Some(rustix::process::getpid()))];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
        .into_iter()
        .skip(1)
        .filter_map(Pid::from_raw)
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its last parenthesis is `state ppid …`.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(descendants().contains(&Pid::from_child(&child)));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_childs_status_is_its_own() {
        let status = run(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        assert_eq!(status.code(), Some(7));
        let error = run(&mut Command::new("/no/such/runner")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/runner"));
    }
}
