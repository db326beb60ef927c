//! Programs of the guest that a scenario runs beside its workers.
//!
//! Each leads a process group and dies with this process. Its outputs go to two temporary files; at its end its metrics are
//! read out of them, or they are sent to the host for its extractor, and the run is judged by what the payload declares. The end
//! of its output goes into the result's notes.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::PidfdFlags;

use super::ScenarioError;
use super::engine::Engine;
use super::program::{PayloadError, Running, Scope};
use crate::guest::liveness::Wake;
use crate::guest::sys::monotonic_ns;
use crate::model::checks::apply_checks;
use crate::model::payload::{OutputFormat, Payload, PayloadEnd, PayloadReport, raw_metrics};
use crate::model::transport::RawOutput;
use crate::model::verdict::{AssertDetail, DetailKind};

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
