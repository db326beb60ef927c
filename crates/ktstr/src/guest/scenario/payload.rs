//! Programs of the guest that a scenario runs beside its workers.
//!
//! Each leads a process group and dies with this process. Its outputs go to two temporary files; at its end its metrics are
//! read out of them, or they are sent to the host for its extractor, and the run is judged by what the payload declares. The end
//! of its output goes into the result's notes.

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
use crate::model::payload::{
    OutputFormat, Payload, PayloadEnd, PayloadReport, apply_checks, raw_metrics,
};
use crate::model::transport::RawOutput;
use crate::model::verdict::{AssertDetail, DetailKind};

/// How long a killed payload has to leave the kernel.
const REAP_TIME: Duration = Duration::from_secs(2);
/// How much of a payload's output is noted.
const NOTED_BYTES: u64 = 2_048;
/// How much of each output is read for metrics; both together stay below a frame's limit.
const READ_BYTES: u64 = 4 << 20;

/// What can go wrong with a payload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It did not start.
    #[error(
        "payload {name:?} did not start; is it in the guest (payload, workloads or extra_include_files)?"
    )]
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
}

impl PayloadError {
    pub(super) fn kind(&self) -> DetailKind {
        DetailKind::Setup
    }
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    payload: &'static Payload,
    /// Its cgroup, if it was started in one of the scenario.
    cgroup: Option<String>,
    scope: Scope,
    child: Child,
    stdout: File,
    stderr: File,
    /// Set once it was reaped: from then on its number may be somebody else's.
    status: Option<ExitStatus>,
}

impl Running {
    fn start(
        payload: &'static Payload,
        program: &str,
        args: &[String],
        members: Option<File>,
        scope: Scope,
    ) -> io::Result<Self> {
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = Command::new(program);
        command
            .args(payload.default_args)
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .process_group(0);
        if let Some(members) = members {
            let join = move || {
                rustix::io::write(&members, b"0")
                    .map(drop)
                    .map_err(io::Error::from)
            };
            // SAFETY: between fork and exec the closure makes one write(2) to a file that is already open, which is
            // async-signal-safe; it takes no lock and allocates nothing.
            unsafe { command.pre_exec(join) };
        }
        Ok(Self {
            payload,
            cgroup: None,
            scope,
            child: command.spawn()?,
            stdout,
            stderr,
            status: None,
        })
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Kills it and all that it started, and reaps it; one that never leaves the kernel is left to the guest's end. One that
    /// has ended by itself keeps its status: only what it left behind is killed.
    fn end(&mut self) -> Option<ExitStatus> {
        if self.status.is_none()
            && let Some(pid) = self.pid()
        {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                let limit = Timespec::try_from(REAP_TIME).ok();
                let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], limit.as_ref());
            }
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// The beginnings of its outputs.
    fn outputs(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((
            read_from(&mut self.stdout, 0)?,
            read_from(&mut self.stderr, 0)?,
        ))
    }

    /// The end of its output, of standard error where it said nothing else.
    fn last_words(&mut self) -> String {
        for file in [&mut self.stdout, &mut self.stderr] {
            let length = file.seek(SeekFrom::End(0)).unwrap_or(0);
            match read_from(file, length.saturating_sub(NOTED_BYTES)) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return String::from_utf8_lossy(&bytes).trim_end().to_owned(),
                Err(fault) => return format!("(output unreadable: {fault})"),
            }
        }
        String::new()
    }
}

fn read_from(file: &mut File, start: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(READ_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Engine<'_> {
    pub(super) fn run_payload(
        &mut self,
        payload: &'static Payload,
        args: &[String],
        cgroup: Option<&str>,
        scope: Scope,
    ) -> Result<(), ScenarioError> {
        let members = match cgroup {
            Some(cgroup) => Some(self.cgroups.open_members(cgroup)?),
            None => None,
        };
        // What is declared was put into the guest under its name; anything else is where it says.
        let is_declared = self.ctx.payload(payload.name()).is_some();
        let program = match is_declared {
            true => payload.name(),
            false => payload.program(),
        };
        let started = Running::start(payload, program, args, members, scope);
        let mut running = started.map_err(|source| PayloadError::Start {
            name: program.to_owned(),
            source,
        })?;
        running.cgroup = cgroup.map(str::to_owned);
        self.payloads.push(running);
        Ok(())
    }

    fn take_payload(&mut self, name: &str, cgroup: Option<&str>) -> Result<Running, PayloadError> {
        let known = || {
            let names = self.payloads.iter().map(|p| p.payload.name().to_owned());
            names.collect()
        };
        let is_it = |running: &Running| {
            let there = cgroup.is_none_or(|cgroup| running.cgroup.as_deref() == Some(cgroup));
            running.payload.name() == name && there
        };
        match self.payloads.iter().position(is_it) {
            Some(index) => Ok(self.payloads.remove(index)),
            None => Err(PayloadError::Unknown {
                name: name.to_owned(),
                known: known(),
            }),
        }
    }

    pub(super) fn wait_payload(
        &mut self,
        name: &str,
        cgroup: Option<&str>,
    ) -> Result<(), ScenarioError> {
        let running = self.take_payload(name, cgroup)?;
        let limit = self.ctx.duration().max(Duration::from_secs(1));
        self.conclude(running, limit)
    }

    pub(super) fn kill_payload(
        &mut self,
        name: &str,
        cgroup: Option<&str>,
    ) -> Result<(), ScenarioError> {
        let running = self.take_payload(name, cgroup)?;
        self.conclude(running, Duration::ZERO)
    }

    /// Ends what still runs of this scope.
    pub(super) fn end_payloads(&mut self, scope: Scope) {
        let (over, rest) = std::mem::take(&mut self.payloads)
            .into_iter()
            .partition(|payload| payload.scope == scope);
        self.payloads = rest;
        for running in Vec::from_iter::<Vec<Running>>(over) {
            if let Err(error) = self.conclude(running, Duration::ZERO) {
                self.result.push(error.detail("payload"));
            }
        }
    }

    /// Gives it `limit` to end by itself, then ends, reports and judges it.
    fn conclude(&mut self, mut running: Running, limit: Duration) -> Result<(), ScenarioError> {
        let over = self.await_end(&running, limit);
        let end = match (over, running.end()) {
            (Over::Itself, Some(status)) => end_of(status),
            (Over::Late, _) if !limit.is_zero() => PayloadEnd::TimedOut {
                after_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            },
            _ => PayloadEnd::Killed,
        };
        let payload = running.payload;
        let name = payload.name().to_owned();
        let words = running.last_words();
        if !words.is_empty() {
            self.result.note(format!("payload {name:?} said: {words}"));
        }
        let (stdout, stderr) = running.outputs().unwrap_or_default();
        let mut report = PayloadReport {
            index: self.ctx.next_payload_index(),
            payload: name,
            end,
            metrics: Vec::new(),
            awaits_extractor: false,
        };
        let raw = match payload.output {
            OutputFormat::Json => {
                report.metrics = raw_metrics(payload, "json", &stdout, &stderr);
                None
            }
            OutputFormat::Extract(_) => {
                report.awaits_extractor = true;
                let (stdout, stderr) = (stdout.as_slice(), stderr.as_slice());
                Some(RawOutput { stdout, stderr })
            }
            OutputFormat::ExitCode => None,
        };
        match self.ctx.transport() {
            Some(host) => host.payload(&report, raw)?,
            None if report.awaits_extractor => {
                report.awaits_extractor = false;
                let text = format!(
                    "payload {:?}: no host runs its extractor here",
                    report.payload
                );
                self.result
                    .push(AssertDetail::inconclusive(DetailKind::NotSupported, text));
            }
            None => {}
        }
        if !report.awaits_extractor {
            for finding in apply_checks(payload, &report) {
                self.result.push(finding);
            }
        }
        self.result.stats.payloads.push(report);
        Ok(())
    }

    /// Waits for its end without reaping it.
    fn await_end(&mut self, running: &Running, limit: Duration) -> Over {
        let pidfd = running
            .pid()
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let Some(pidfd) = pidfd else {
            return Over::Late;
        };
        let fds = [std::os::fd::AsFd::as_fd(&pidfd)];
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        match self
            .liveness
            .wait(&fds, monotonic_ns().saturating_add(limit_ns))
        {
            Wake::Process(_) => Over::Itself,
            Wake::Scheduler(end) => {
                self.scheduler_ended(end);
                Over::Scheduler
            }
            Wake::Deadline => Over::Late,
        }
    }
}

/// Why the wait for a payload is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It ended.
    Itself,
    /// The scheduler died first.
    Scheduler,
    /// The time was over first.
    Late,
}

fn end_of(status: ExitStatus) -> PayloadEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => PayloadEnd::Exited(code),
        (None, signal) => PayloadEnd::Signalled(signal.unwrap_or(0)),
    }
}
