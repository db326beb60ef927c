//! Schedulers that are part of the kernel: shell commands turn them on and off.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use ktstr_wire::SchedStop;
use rustix::event::{PollFd, PollFlags};

use crate::process::{Ended, Output, Process, Reaper, sleep_on, with_output};
use crate::scheduler::members_of;

/// How long one command may take.
const COMMAND_TIME: Duration = Duration::from_secs(30);
/// How often its output is looked at besides.
const POLL_MS: u32 = 20;
/// Output of a failed command that is told, from its end.
const MAX_OUTPUT: usize = 4096;

/// A command that did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandFault {
    /// There is no shell.
    #[error("'{line}' could not be run: {why}")]
    NotRun {
        /// The command.
        line: String,
        /// What the system said.
        why: String,
    },
    /// It ended with another status than 0.
    #[error("'{line}' failed: {how}{}", said(output))]
    Failed {
        /// The command.
        line: String,
        /// Its status.
        how: String,
        /// What it wrote, both streams.
        output: String,
    },
    /// It took too long and was killed.
    #[error(
        "'{line}' was not done after {seconds} s and was killed{}",
        said(output)
    )]
    TimedOut {
        /// The command.
        line: String,
        /// How long it had.
        seconds: u64,
        /// What it wrote, both streams.
        output: String,
    },
}

fn said(output: &str) -> String {
    let output = output.trim();
    if output.is_empty() {
        String::from(" (no output)")
    } else {
        format!(": {output}")
    }
}

/// A command that is done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its process group: what it started in the background is in there.
    pub(crate) group: i32,
    pub(crate) output: String,
}

/// Runs one command line to its end.
pub(crate) fn run(
    line: &str,
    path: Option<&str>,
    reaper: &mut Reaper,
) -> Result<Done, CommandFault> {
    run_within(line, path, reaper, COMMAND_TIME)
}

fn run_within(
    line: &str,
    path: Option<&str>,
    reaper: &mut Reaper,
    time: Duration,
) -> Result<Done, CommandFault> {
    let not_run = |error: std::io::Error| CommandFault::NotRun {
        line: line.to_owned(),
        why: format!("/bin/sh: {error}"),
    };
    let (mut output, write) = Output::new().map_err(not_run)?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).process_group(0);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    with_output(&mut command, write).map_err(not_run)?;
    let process = Process::spawn(&mut command).map_err(not_run)?;
    // It still holds the pipe's writing ends.
    drop(command);
    let group = process.pid.as_raw_nonzero().get();
    let until = Instant::now() + time;
    let mut text = Vec::new();
    let ended = loop {
        drain(&mut output, &mut text);
        reaper.reap();
        if let Some(ended) = reaper.end_of(&process) {
            break Some(ended);
        }
        if Instant::now() >= until {
            break None;
        }
        let mut fds = [PollFd::new(&process.pidfd, PollFlags::IN)];
        let _ = sleep_on(&mut fds, POLL_MS);
    };
    drain(&mut output, &mut text);
    let output = tail(&text);
    let line = line.to_owned();
    match ended {
        Some(Ended { code: Some(0), .. }) => Ok(Done { group, output }),
        Some(ended) => Err(CommandFault::Failed {
            line,
            how: ended.words(),
            output,
        }),
        None => {
            let _ = rustix::process::kill_process_group(process.pid, rustix::process::Signal::KILL);
            Err(CommandFault::TimedOut {
                line,
                seconds: time.as_secs(),
                output,
            })
        }
    }
}

fn drain(output: &mut Output, text: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    loop {
        let len = output.read(&mut buffer);
        if len == 0 {
            return;
        }
        text.extend_from_slice(buffer.get(..len).unwrap_or_default());
        // Twice the limit at most is kept, so that endless output costs nothing.
        if text.len() > 2 * MAX_OUTPUT {
            text.drain(..text.len() - MAX_OUTPUT);
        }
    }
}

fn tail(text: &[u8]) -> String {
    let from = text.len().saturating_sub(MAX_OUTPUT);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}

/// Whether any command left a process behind: a scheduler's program, or another service.
pub(crate) fn left_running(done: &[Done]) -> Option<String> {
    let mut left = done.iter().flat_map(|done| members_of(done.group));
    left.next().map(|(pid, name)| format!("{name} ({pid})"))
}

/// Runs the commands that turn it off, all of them, and says which failed.
pub(crate) fn disable(commands: &[String], path: Option<&str>, reaper: &mut Reaper) -> SchedStop {
    let failed = commands
        .iter()
        .filter_map(|line| run(line, path, reaper).err())
        .map(|fault| format!("disable command {fault}"));
    SchedStop {
        failed_commands: failed.collect(),
        ..SchedStop::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str, millis: u64) -> Result<Done, CommandFault> {
        let mut reaper = Reaper::default();
        run_within(line, None, &mut reaper, Duration::from_millis(millis))
    }

    #[test]
    fn a_failure_has_its_status_and_its_output() {
        let text = run("echo out; echo err >&2; exit 3", 30_000)
            .unwrap_err()
            .to_string();
        for needle in ["exit 3'", "exit status 3", "out", "err"] {
            assert!(text.contains(needle), "{text}");
        }
        assert_eq!(run("echo fine", 30_000).unwrap().output, "fine\n");
    }

    #[test]
    fn one_that_hangs_is_killed_and_told() {
        let text = run("while :; do :; done", 50).unwrap_err().to_string();
        assert!(text.contains("was not done after"), "{text}");
    }

    #[test]
    fn what_runs_on_in_the_background_is_known() {
        let done = run("cat /dev/zero > /dev/null 2>&1 &", 30_000).unwrap();
        let left = left_running(std::slice::from_ref(&done)).unwrap();
        // A shell until it has become the program.
        assert!(
            left.starts_with("cat (") || left.starts_with("sh ("),
            "{left}"
        );
        let group = rustix::process::Pid::from_raw(done.group).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn endless_output_is_cut() {
        let done = run("head -c 1000000 /dev/zero | tr '\\0' x", 30_000).unwrap();
        assert_eq!(done.output.len(), MAX_OUTPUT);
    }
}
