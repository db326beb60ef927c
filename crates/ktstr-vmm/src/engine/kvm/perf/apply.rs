//! What a vCPU thread does to itself in performance mode.

use std::fs;
use std::io;
use std::path::Path;

use rustix::thread::{CpuSet, sched_setaffinity};

/// How a vCPU thread is scheduled on its CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// `SCHED_FIFO`: before all but the kernel's own real-time work.
    Fifo,
    /// As any other thread. The CPU is all but its own.
    Fair,
}

const RT_RUNTIME: &str = "/proc/sys/kernel/sched_rt_runtime_us";
const FAIR_SERVER: &str = "/sys/kernel/debug/sched/fair_server";

impl Policy {
    /// What this host's kernel lets a thread have that never sleeps.
    pub(crate) fn of_host() -> Self {
        let runtime = fs::read_to_string(RT_RUNTIME).ok();
        Self::of(runtime.as_deref(), Path::new(FAIR_SERVER).exists())
    }

    /// A kernel without the fair server (before 6.12) takes the CPU from real-time threads for 50 ms of each second, even when nobody
    /// else wants it, unless `sched_rt_runtime_us` is -1. With the server it does so for others that are ready alone.
    fn of(rt_runtime: Option<&str>, fair_server: bool) -> Self {
        let unlimited = rt_runtime.is_some_and(|text| text.trim() == "-1");
        if unlimited || fair_server {
            Self::Fifo
        } else {
            Self::Fair
        }
    }
}

/// Pins the calling thread to `cpu`, and gives it the lowest real-time priority where that is the policy.
pub(crate) fn take_cpu(cpu: u32, policy: Policy) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(usize::try_from(cpu).map_err(io::Error::other)?);
    sched_setaffinity(None, &set)?;
    if policy == Policy::Fair {
        return Ok(());
    }
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure lives through the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    /// Pins a thread of its own; gives what came of it, the number of CPUs left to it, and its policy.
    fn tried(policy: Policy) -> (io::Result<()>, u32, i32) {
        let thread = std::thread::spawn(move || {
            let before = sched_getaffinity(None).unwrap();
            let cpu = (0..CpuSet::MAX_CPU)
                .find(|cpu| before.is_set(*cpu))
                .unwrap();
            let done = take_cpu(u32::try_from(cpu).unwrap(), policy);
            // SAFETY: 0 is the calling thread.
            let found = unsafe { libc::sched_getscheduler(0) };
            (done, sched_getaffinity(None).unwrap().count(), found)
        });
        thread.join().unwrap()
    }

    #[test]
    fn the_thread_is_pinned_before_it_asks_for_priority() {
        let (done, count, policy) = tried(Policy::Fifo);
        assert_eq!(count, 1);
        match done {
            Ok(()) => assert_eq!(policy, libc::SCHED_FIFO),
            // Without CAP_SYS_NICE the priority is refused, and the error says so.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        let (done, count, policy) = tried(Policy::Fair);
        assert!(done.is_ok());
        assert_eq!((count, policy), (1, libc::SCHED_OTHER));
    }

    #[test]
    fn no_vcpu_is_throttled() {
        assert_eq!(Policy::of(Some("950000\n"), false), Policy::Fair);
        assert_eq!(Policy::of(None, false), Policy::Fair);
        assert_eq!(Policy::of(Some("-1\n"), false), Policy::Fifo);
        assert_eq!(Policy::of(Some("950000\n"), true), Policy::Fifo);
    }
}
