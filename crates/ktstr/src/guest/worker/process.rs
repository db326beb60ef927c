//! A worker's process as its parent has it.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// One worker's process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// How it ended, once reaped.
    pub(super) ended: Option<WaitIdStatus>,
}

impl Process {
    /// Reaps it if it has ended; whether it has.
    pub(super) fn try_reap(&mut self) -> bool {
        if self.ended.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            self.ended = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
                .ok()
                .flatten();
        }
        self.ended.is_some()
    }

    /// Kills it and all that it started.
    pub(super) fn kill(&self) {
        if self.ended.is_none() {
            // The group is the worker's own (`setpgid` in the child); until it has run that, only the pidfd reaches it.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }
}

/// What the parent reads of a worker when its window closes.
#[derive(Debug)]
pub(super) struct AtStop {
    pub(super) cpu_ns: Option<u64>,
    pub(super) run_delay_ns: Option<u64>,
    pub(super) pages: Option<Vec<(u32, u64)>>,
    pub(super) ended_before: bool,
}
