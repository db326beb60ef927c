//! A payload as its process: started, ended, read.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::model::payload::Payload;
use crate::model::verdict::DetailKind;

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

/// What a cgroup, worker or payload ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The whole scenario's.
    Backdrop,
    /// The present step's.
    Step,
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) payload: &'static Payload,
    /// Its cgroup, if it was started in one of the scenario.
    pub(super) cgroup: Option<String>,
    pub(super) scope: Scope,
    child: Child,
    stdout: File,
    stderr: File,
    /// Set once it was reaped: from then on its number may be another process's.
    status: Option<ExitStatus>,
}

impl Running {
    pub(super) fn start(
        payload: &'static Payload,
        program: &str,
        args: &[String],
        members: Option<File>,
        scope: Scope,
    ) -> io::Result<Self> {
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = Command::new(program);
        // A declared one lies in the guest under the payload's name; what it goes by is its own: programs of several names look.
        let own_name = Path::new(payload.program()).file_name();
        command
            .arg0(own_name.unwrap_or_else(|| payload.program().as_ref()))
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

    pub(super) fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Kills it and all that it started, and reaps it; one that never leaves the kernel is left to the guest's end. One that
    /// has ended by itself keeps its status: only what it left behind is killed.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
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
    pub(super) fn outputs(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((
            read_from(&mut self.stdout, 0)?,
            read_from(&mut self.stderr, 0)?,
        ))
    }

    /// The end of its output, of standard error where it said nothing else.
    pub(super) fn last_words(&mut self) -> String {
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
