//! Waits that end at once when the scheduler or a worker dies.
//!
//! Two signs of the scheduler's end are watched: its process (pidfd), and, while a scheduler is expected, the kernel's
//! own word in `/sys/kernel/sched_ext/state`, because the kernel may throw a scheduler out whose process lives on.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use super::sys::monotonic_ns;
use crate::model::verdict::{AssertDetail, DetailKind};

/// sysfs sends no event when the state changes: it is read this often.
const STATE_PERIOD: Duration = Duration::from_millis(250);
/// After the kernel threw the scheduler out, how long its process has to end with a status.
const LAST_WORDS: Duration = Duration::from_secs(1);
const STATE_FILE: &str = "/sys/kernel/sched_ext/state";

/// Why a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wake {
    /// Its time was over.
    Deadline,
    /// The scheduler is gone.
    Scheduler(SchedulerEnd),
    /// The process behind this descriptor of the caller's list ended.
    Process(usize),
}

/// How the scheduler ended, as far as the guest can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SchedulerEnd {
    /// Its process ended; nobody here is its parent, so there is no status.
    ProcessEnded,
    /// The kernel says that no scheduler is enabled, though the process lives.
    ThrownOut,
}

impl SchedulerEnd {
    /// The finding for the result.
    pub(super) fn detail(self, pid: Option<i32>, elapsed_ms: u64) -> AssertDetail {
        let who = pid.map_or_else(
            || "scheduler".to_owned(),
            |pid| format!("scheduler (pid {pid})"),
        );
        let how = match self {
            Self::ProcessEnded => "its process ended",
            Self::ThrownOut => "the kernel disabled it (/sys/kernel/sched_ext/state)",
        };
        AssertDetail::fail(
            DetailKind::SchedulerDiedUnknownReason,
            format!(
                "{who} died {elapsed_ms} ms into the scenario: {how}; see the scheduler log and the kernel console"
            ),
        )
    }
}

/// Watches over the scheduler.
#[derive(Debug)]
pub(super) struct Liveness {
    scheduler: Option<OwnedFd>,
    watch_state: bool,
    gone: bool,
}

impl Liveness {
    /// Watches the process `pid`, and the kernel's state if `expected` and a scheduler is enabled now.
    pub(super) fn new(pid: Option<i32>, expected: bool) -> Self {
        let open = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        let scheduler = pid.and_then(Pid::from_raw).and_then(open);
        Self {
            gone: pid.is_some() && scheduler.is_none(),
            scheduler,
            watch_state: expected && scheduler_enabled(Path::new(STATE_FILE)) == Some(true),
        }
    }

    /// Whether the scheduler is gone, looked up now.
    pub(super) fn scheduler_end(&mut self) -> Option<SchedulerEnd> {
        match self.wait(&[], monotonic_ns()) {
            Wake::Scheduler(end) => Some(end),
            Wake::Deadline | Wake::Process(_) => None,
        }
    }

    /// Waits until `until_ns` of the monotonic clock, or the end of the scheduler or of one of `processes`.
    pub(super) fn wait(&mut self, processes: &[BorrowedFd<'_>], until_ns: u64) -> Wake {
        loop {
            if self.gone {
                return Wake::Scheduler(SchedulerEnd::ProcessEnded);
            }
            let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns()));
            let slice = if self.watch_state {
                left.min(STATE_PERIOD)
            } else {
                left
            };
            if let Some(wake) = self.poll(processes, slice) {
                return wake;
            }
            if self.watch_state && scheduler_enabled(Path::new(STATE_FILE)) == Some(false) {
                return Wake::Scheduler(self.last_words());
            }
            if monotonic_ns() >= until_ns {
                return Wake::Deadline;
            }
        }
    }

    fn poll(&mut self, processes: &[BorrowedFd<'_>], limit: Duration) -> Option<Wake> {
        let watched = self.scheduler.as_ref().map(AsFd::as_fd);
        let offset = usize::from(watched.is_some());
        let mut fds: Vec<PollFd<'_>> = watched
            .into_iter()
            .chain(processes.iter().copied())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(limit).ok();
        // An interrupted poll counts as nothing seen: the caller looks at the clock and comes back.
        poll(&mut fds, timeout.as_ref()).ok()?;
        let index = fds.iter().position(|fd| !fd.revents().is_empty())?;
        if index < offset {
            self.gone = true;
            return Some(Wake::Scheduler(SchedulerEnd::ProcessEnded));
        }
        Some(Wake::Process(index - offset))
    }

    /// The kernel has thrown the scheduler out: its process mostly ends next.
    fn last_words(&mut self) -> SchedulerEnd {
        match self.poll(&[], LAST_WORDS) {
            Some(_) => SchedulerEnd::ProcessEnded,
            None => SchedulerEnd::ThrownOut,
        }
    }
}

/// Whether the kernel has a sched_ext scheduler enabled; `None` without sched_ext.
fn scheduler_enabled(file: &Path) -> Option<bool> {
    let state = fs::read_to_string(file).ok()?;
    Some(matches!(state.trim(), "enabled" | "enabling"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn soon(millis: u64) -> u64 {
        monotonic_ns() + millis * 1_000_000
    }

    #[test]
    fn without_a_scheduler_a_wait_lasts_until_its_deadline() {
        let until_ns = soon(50);
        assert_eq!(
            Liveness::new(None, false).wait(&[], until_ns),
            Wake::Deadline
        );
        assert!(monotonic_ns() >= until_ns);
    }

    #[test]
    fn the_schedulers_death_ends_a_wait_at_once() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut liveness = Liveness::new(Some(pid), false);
        assert_eq!(liveness.scheduler_end(), None);
        child.kill().unwrap();
        let wake = liveness.wait(&[], soon(30_000));
        assert_eq!(wake, Wake::Scheduler(SchedulerEnd::ProcessEnded));
        child.wait().unwrap();
        assert_eq!(
            Liveness::new(Some(pid), false).scheduler_end(),
            Some(SchedulerEnd::ProcessEnded)
        );
    }

    #[test]
    fn states() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state");
        assert_eq!(scheduler_enabled(&file), None);
        for (text, expected) in [
            ("enabled\n", true),
            ("disabled\n", false),
            ("disabling\n", false),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(scheduler_enabled(&file), Some(expected), "{text}");
        }
    }
}
