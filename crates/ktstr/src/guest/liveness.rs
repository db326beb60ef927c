//! Waits that end at once when the scheduler or a worker dies.
//!
//! Two signs of the scheduler's end are watched: its process (pidfd), and, while a scheduler is expected, the kernel's
//! own word in `/sys/kernel/sched_ext/state`, because the kernel may eject a scheduler whose process lives on. Such a
//! one has some seconds to attach again: that is a restart, and `enable_seq` counts also those between two looks.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use super::sys::monotonic_ns;
use crate::model::ctx::SchedulerNow;
use crate::model::verdict::{AssertDetail, DetailKind};

/// sysfs sends no event when the state changes: it is read this often.
const STATE_PERIOD: Duration = Duration::from_millis(250);
/// How often it is read while no scheduler is in charge.
const RESTART_PERIOD: Duration = Duration::from_millis(20);
/// How long a scheduler whose process lives has to attach again: its programs are verified anew, on an emulated CPU.
const RESTART_TIME: Duration = Duration::from_secs(10);
const SCHED_EXT: &str = "/sys/kernel/sched_ext";

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
    /// Its process ended; it is no child of ours, so there is no status.
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
        let text = match self {
            Self::ProcessEnded => format!(
                "{who} died {elapsed_ms} ms into the scenario: its process ended; see the scheduler log and the kernel console"
            ),
            Self::ThrownOut => format!(
                "{who} was out of charge {elapsed_ms} ms into the scenario: the kernel disabled it (/sys/kernel/sched_ext/state), and \
                 its process lives but did not attach again; see the kernel console"
            ),
        };
        AssertDetail::fail(DetailKind::SchedulerDiedUnknownReason, text)
    }
}

/// Watches over the scheduler.
#[derive(Debug)]
pub(super) struct Liveness {
    scheduler: Option<OwnedFd>,
    /// Where the kernel tells of sched_ext; watched while a scheduler is to be in charge.
    root: Option<PathBuf>,
    /// The kernel's count of enabled schedulers when last seen.
    enable_seq: Option<u64>,
    restarts: u64,
    patience: Duration,
    gone: bool,
}

/// What the kernel says of the scheduler.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It is in charge, or that is unknown.
    Fine,
    /// None is.
    Disabled,
}

impl Liveness {
    /// Watches over what the guest is under now.
    pub(super) fn new(now: &SchedulerNow) -> Self {
        Self::on(Path::new(SCHED_EXT), now)
    }

    fn on(root: &Path, now: &SchedulerNow) -> Self {
        let open = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        let scheduler = now.pid.and_then(Pid::from_raw).and_then(open);
        Self {
            gone: now.pid.is_some() && scheduler.is_none(),
            scheduler,
            root: now.in_charge.then(|| root.to_owned()),
            enable_seq: now.enable_seq,
            restarts: 0,
            patience: RESTART_TIME,
        }
    }

    /// How often the scheduler has left and attached again by itself.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The kernel's count of enabled schedulers when last seen.
    pub(super) fn enable_seq(&self) -> Option<u64> {
        self.enable_seq
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
            let slice = if self.root.is_some() {
                left.min(STATE_PERIOD)
            } else {
                left
            };
            if let Some(wake) = self.poll(processes, slice) {
                return wake;
            }
            if self.look() == Look::Disabled
                && let Some(end) = self.await_restart()
            {
                return Wake::Scheduler(end);
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

    /// Reads the kernel's word, and counts how often another scheduler was enabled since the last look.
    fn look(&mut self) -> Look {
        let Some(root) = &self.root else {
            return Look::Fine;
        };
        match scheduler_enabled(&root.join("state")) {
            Some(true) => {}
            Some(false) => return Look::Disabled,
            None => return Look::Fine,
        }
        let seq = enable_seq(root);
        if let (Some(before), Some(now)) = (self.enable_seq, seq) {
            self.restarts += now.saturating_sub(before);
        }
        self.enable_seq = seq.or(self.enable_seq);
        Look::Fine
    }

    /// None is in charge. A scheduler may restart itself, as those of scx do after a CPU went off or on: its process lives on
    /// and attaches again. One that does not in time, or whose process ends, is gone.
    fn await_restart(&mut self) -> Option<SchedulerEnd> {
        let until_ns = monotonic_ns().saturating_add(nanos(self.patience));
        loop {
            if self.poll(&[], RESTART_PERIOD).is_some() {
                return Some(SchedulerEnd::ProcessEnded);
            }
            if self.look() == Look::Fine {
                return None;
            }
            if monotonic_ns() >= until_ns {
                return Some(SchedulerEnd::ThrownOut);
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The state of sched_ext that a scheduler which is attached now is watched by.
pub(super) fn attached(pid: Option<i32>) -> SchedulerNow {
    let root = Path::new(SCHED_EXT);
    SchedulerNow {
        pid,
        // Init waits until the kernel has said so of every program; commands may have turned on something else.
        in_charge: pid.is_some() || scheduler_enabled(&root.join("state")) == Some(true),
        enable_seq: enable_seq(root),
        ..SchedulerNow::default()
    }
}

/// How many schedulers were enabled since boot; `None` where the kernel does not tell.
fn enable_seq(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("enable_seq")).ok()?;
    text.trim().parse().ok()
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
            Liveness::new(&SchedulerNow::default()).wait(&[], until_ns),
            Wake::Deadline
        );
        assert!(monotonic_ns() >= until_ns);
    }

    #[test]
    fn the_schedulers_death_ends_a_wait_at_once() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let now = SchedulerNow {
            pid: Some(pid),
            ..SchedulerNow::default()
        };
        let mut liveness = Liveness::new(&now);
        assert_eq!(liveness.scheduler_end(), None);
        child.kill().unwrap();
        let wake = liveness.wait(&[], soon(30_000));
        assert_eq!(wake, Wake::Scheduler(SchedulerEnd::ProcessEnded));
        child.wait().unwrap();
        assert_eq!(
            Liveness::new(&now).scheduler_end(),
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

    /// A made-up sched_ext that says this.
    fn says(root: &Path, state: &str, seq: u64) {
        fs::write(root.join("enable_seq"), format!("{seq}\n")).unwrap();
        fs::write(root.join("state"), format!("{state}\n")).unwrap();
    }

    fn watching(root: &Path, seq: u64) -> Liveness {
        let now = SchedulerNow {
            in_charge: true,
            enable_seq: Some(seq),
            ..SchedulerNow::default()
        };
        Liveness {
            patience: Duration::from_millis(300),
            ..Liveness::on(root, &now)
        }
    }

    #[test]
    fn one_that_is_thrown_out_before_the_first_look_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        says(dir.path(), "disabled", 1);
        let end = watching(dir.path(), 1).scheduler_end();
        assert_eq!(end, Some(SchedulerEnd::ThrownOut));
    }

    #[test]
    fn a_restart_is_counted_whether_it_was_seen_or_not() {
        let dir = tempfile::tempdir().unwrap();
        says(dir.path(), "enabled", 1);
        let mut liveness = watching(dir.path(), 1);
        assert_eq!((liveness.scheduler_end(), liveness.restarts()), (None, 0));
        says(dir.path(), "enabled", 3);
        assert_eq!((liveness.scheduler_end(), liveness.restarts()), (None, 2));
        liveness.patience = Duration::from_secs(30);
        says(dir.path(), "disabled", 3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let until_ns = soon(100);
                while monotonic_ns() < until_ns {
                    std::hint::spin_loop();
                }
                says(dir.path(), "enabled", 4);
            });
            assert_eq!(liveness.scheduler_end(), None);
        });
        assert_eq!(liveness.restarts(), 3);
    }

    #[test]
    fn a_scheduler_of_the_kernel_is_watched_without_a_process() {
        let dir = tempfile::tempdir().unwrap();
        says(dir.path(), "enabled", 1);
        let mut liveness = watching(dir.path(), 1);
        assert_eq!(liveness.wait(&[], soon(20)), Wake::Deadline);
        says(dir.path(), "disabled", 1);
        let wake = liveness.wait(&[], soon(30_000));
        assert_eq!(wake, Wake::Scheduler(SchedulerEnd::ThrownOut));
    }
}
