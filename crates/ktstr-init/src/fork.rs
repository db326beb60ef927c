//! The test's process without an exec.
//!
//! `/init` and the test are one program. Loading it a second time costs an emulated guest some 70 ms, most of it in
//! relocations and first page faults; a copy of init has paid for them already.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::thread;

use rustix::process::Pid;

use crate::panic;
use crate::process::Process;

/// What a program does in a test's process: takes the arguments after the program's name, gives the exit status.
pub type TestMain = fn(&[String]) -> u8;

/// Exit status of a copy that could not be made ready, as a shell's for a program that it cannot run.
const NOT_READY: i32 = 127;
/// Exit status of a process whose main thread panicked, as the Rust runtime has it.
const PANICKED: i32 = 101;
/// What a first thread has by default.
const MAIN_STACK: usize = 8 << 20;
/// The number under which the copy has the descriptor that it keeps.
const KEPT: RawFd = 3;

/// What the copy has of init's, and what it is told.
#[derive(Debug)]
pub(crate) struct Inheritance<'a> {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// The only other descriptor that stays open; the variable of this name tells its number.
    pub(crate) kept: (&'a str, OwnedFd),
    pub(crate) env: Vec<(String, String)>,
}

/// Runs `main` in a copy of this process, which must have one thread.
///
/// # Errors
/// When the process has more than one thread, or the system gives no other process.
pub(crate) fn fork(
    main: TestMain,
    args: &[String],
    inheritance: &Inheritance<'_>,
) -> io::Result<Process> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "init has {threads} threads, and only one would be copied"
        )));
    }
    // SAFETY: this process has one thread (just counted), so no lock of the copy is held by a thread that it lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = match become_child(inheritance) {
                Ok(()) => on_own_stack(main, args),
                Err(error) => {
                    eprintln!("ktstr-init: preparing the test's process: {error}");
                    NOT_READY
                }
            };
            std::process::exit(status)
        }
        pid => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            Process::forked(pid)
        }
    }
}

/// Runs `main` on a thread whose stack's end the Rust runtime knows, so that an overflow is told: it started in init before
/// `/proc` was there, and so did not find the end of the first thread's.
fn on_own_stack(main: TestMain, args: &[String]) -> i32 {
    let args = args.to_vec();
    let thread = thread::Builder::new()
        .name(String::from("main"))
        .stack_size(MAIN_STACK)
        .spawn(move || main(&args));
    match thread.map(thread::JoinHandle::join) {
        Ok(Ok(status)) => status.into(),
        // Its message is on standard error.
        Ok(Err(_panic)) => PANICKED,
        Err(error) => {
            eprintln!("ktstr-init: starting the test's thread: {error}");
            NOT_READY
        }
    }
}

/// Takes from the copy what is init's alone: its descriptors, its way to die, its name.
fn become_child(inheritance: &Inheritance<'_>) -> io::Result<()> {
    panic::forget_init();
    let null = File::open("/dev/null")?;
    let (name, kept) = &inheritance.kept;
    // Above every number that is about to be replaced.
    let kept = rustix::io::fcntl_dupfd_cloexec(kept, KEPT + 1)?;
    let stdout = rustix::io::fcntl_dupfd_cloexec(&inheritance.stdout, KEPT + 1)?;
    let stderr = rustix::io::fcntl_dupfd_cloexec(&inheritance.stderr, KEPT + 1)?;
    for (from, to) in [
        (null.as_raw_fd(), libc::STDIN_FILENO),
        (stdout.as_raw_fd(), libc::STDOUT_FILENO),
        (stderr.as_raw_fd(), libc::STDERR_FILENO),
        (kept.as_raw_fd(), KEPT),
    ] {
        // SAFETY: both are plain numbers; what `to` was in init belongs to nothing that this copy still uses.
        if unsafe { libc::dup2(from, to) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // These are closed with all others below, by number.
    std::mem::forget((null, kept, stdout, stderr));
    // SAFETY: closes numbers that only init's own values refer to; this copy never returns to them.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, KEPT + 1, libc::c_uint::MAX, 0) };
    if closed == -1 {
        return Err(io::Error::last_os_error());
    }
    rustix::thread::set_name(c"ktstr-test")?;
    let own = [((*name).to_owned(), KEPT.to_string())];
    for (name, value) in inheritance.env.iter().chain(&own) {
        // SAFETY: the copy has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_more_threads_is_not_copied() {
        let stream = || OwnedFd::from(File::open("/dev/null").unwrap());
        let inheritance = Inheritance {
            stdout: stream(),
            stderr: stream(),
            kept: ("X", stream()),
            env: Vec::new(),
        };
        // The test harness runs this on a thread of its own.
        let error = fork(|_| 0, &[], &inheritance).unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
    }
}
