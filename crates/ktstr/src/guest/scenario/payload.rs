//! Programs of the guest that a scenario runs beside its workers.
//!
//! Each leads a process group and dies with this process. Its output goes to a temporary file, and the end of it into the
//! result's notes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::ScenarioError;
use super::engine::{Engine, Scope};
use crate::guest::liveness::Wake;
use crate::guest::sys::monotonic_ns;
use crate::model::verdict::DetailKind;

/// How long a killed payload has to leave the kernel.
const REAP_TIME: Duration = Duration::from_secs(2);
/// How much of a payload's output is noted.
const NOTED_BYTES: u64 = 2_048;

/// What can go wrong with a payload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It did not start.
    #[error("payload {name:?} did not start; is it in the guest (extra_include_files)?")]
    Start {
        /// The program.
        name: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// None of this name runs.
    #[error("no payload {name:?} was started; there are: {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those that were started and are not yet waited for.
        known: Vec<String>,
    },
    /// It ended, and not well.
    #[error("payload {name:?} {how}")]
    Ended {
        /// The program.
        name: String,
        /// Its status or signal, in words.
        how: String,
    },
    /// It did not end in time, and was killed.
    #[error("payload {name:?} did not end within {after_ms} ms, and was killed")]
    TimedOut {
        /// The program.
        name: String,
        /// How long it had.
        after_ms: u128,
    },
}

impl PayloadError {
    pub(super) fn kind(&self) -> DetailKind {
        match self {
            Self::Start { .. } | Self::Unknown { .. } => DetailKind::Setup,
            Self::Ended { .. } | Self::TimedOut { .. } => DetailKind::Other,
        }
    }
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Payload {
    name: String,
    scope: Scope,
    child: Child,
    output: File,
}

impl Payload {
    fn start(name: &str, args: &[String], scope: Scope) -> io::Result<Self> {
        let output = tempfile::tempfile()?;
        let child = Command::new(name)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()?;
        Ok(Self {
            name: name.to_owned(),
            scope,
            child,
            output,
        })
    }

    /// Kills it and all that it started, and reaps it; one that never leaves the kernel is left to the guest's end.
    fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return };
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            let limit = Timespec::try_from(REAP_TIME).ok();
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], limit.as_ref());
        }
        let _ = self.child.try_wait();
    }

    /// The end of its output.
    fn last_words(&mut self) -> String {
        let mut bytes = Vec::new();
        let length = self.output.seek(SeekFrom::End(0)).unwrap_or(0);
        let from = SeekFrom::Start(length.saturating_sub(NOTED_BYTES));
        let read = self
            .output
            .seek(from)
            .and_then(|_| self.output.read_to_end(&mut bytes));
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
            Err(fault) => format!("(output unreadable: {fault})"),
        }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Engine<'_> {
    pub(super) fn run_payload(
        &mut self,
        name: &str,
        args: &[String],
        scope: Scope,
    ) -> Result<(), ScenarioError> {
        let payload = Payload::start(name, args, scope).map_err(|source| PayloadError::Start {
            name: name.to_owned(),
            source,
        })?;
        self.payloads.push(payload);
        Ok(())
    }

    fn take_payload(&mut self, name: &str) -> Result<Payload, PayloadError> {
        let known = || self.payloads.iter().map(|p| p.name.clone()).collect();
        match self.payloads.iter().position(|p| p.name == name) {
            Some(index) => Ok(self.payloads.remove(index)),
            None => Err(PayloadError::Unknown {
                name: name.to_owned(),
                known: known(),
            }),
        }
    }

    pub(super) fn wait_payload(&mut self, name: &str) -> Result<(), ScenarioError> {
        let mut payload = self.take_payload(name)?;
        let limit = self.ctx.duration().max(Duration::from_secs(1));
        let status = self.await_payload(&mut payload, limit);
        payload.kill();
        let words = payload.last_words();
        if !words.is_empty() {
            self.result.note(format!("payload {name:?} said: {words}"));
        }
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(PayloadError::Ended {
                name: name.to_owned(),
                how: in_words(status),
            }
            .into()),
            None => Err(PayloadError::TimedOut {
                name: name.to_owned(),
                after_ms: limit.as_millis(),
            }
            .into()),
        }
    }

    /// Its status; `None` if the time was over or the scheduler died first.
    fn await_payload(&mut self, payload: &mut Payload, limit: Duration) -> Option<ExitStatus> {
        let pid = i32::try_from(payload.child.id())
            .ok()
            .and_then(Pid::from_raw)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let fds = [std::os::fd::AsFd::as_fd(&pidfd)];
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        match self
            .liveness
            .wait(&fds, monotonic_ns().saturating_add(limit_ns))
        {
            Wake::Process(_) => payload.child.wait().ok(),
            Wake::Scheduler(end) => {
                self.scheduler_ended(end);
                None
            }
            Wake::Deadline => None,
        }
    }

    pub(super) fn kill_payload(&mut self, name: &str) -> Result<(), ScenarioError> {
        self.take_payload(name)?.kill();
        Ok(())
    }

    /// Ends what still runs of this scope.
    pub(super) fn end_payloads(&mut self, scope: Scope) {
        self.payloads.retain(|payload| payload.scope != scope);
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
