//! `ForkExit`: forks a child that exits at once, and reaps it. Exercises the placement of new tasks, `init_task` and `exit_task`.
//!
//! One iteration is one child made, run and reaped: one work unit. The wait for the child is no gap, and no wake latency: how
//! long a child takes is the child's affair.

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::super::meter::Meter;
use crate::guest::sys::{self, Forked};

pub(super) fn run(meter: &mut Meter<'_>) {
    while !meter.stopping() {
        // SAFETY: the child leaves by `exit_now` at once and touches nothing before.
        let forked = unsafe { sys::fork() };
        match forked {
            Ok(Forked::Child) => sys::exit_now(0),
            Ok(Forked::Parent(pid)) => reap(pid, meter),
            // Out of processes for now: the next iteration tries again.
            Err(_) => rustix::thread::sched_yield(),
        }
    }
}

/// Waits for the child, and kills it at the stop.
fn reap(pid: i32, meter: &mut Meter<'_>) {
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        return;
    };
    let ended = meter.await_fd(&pidfd);
    if !ended {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    if ended {
        meter.tick(1);
    }
}
