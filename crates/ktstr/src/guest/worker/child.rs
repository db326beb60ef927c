//! A worker's life on its own side of the fork.
//!
//! The parent may have other threads, and their locks are lost here: no output, and no unwinding past [`live`]. Memory
//! may be allocated, because glibc takes its own locks around `fork`; what can be made before the fork is.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::kit::Kit;
use super::meter::Meter;
use super::os;
use super::page::{Control, Slot, phase, state};
use super::types::{self, Place};
use crate::guest::sys;
use crate::model::work::{MemPolicy, MpolFlags, SchedPolicy, WorkType};

/// How often a waiting worker looks whether it was asked to stop, should it miss a wake-up.
const SLICE: Duration = Duration::from_millis(50);

/// Steps of a worker's set-up that may fail; the numbers go through shared memory.
pub(super) const SETUP_STEPS: [&str; 8] = [
    "follow the parent's death",
    "set comm",
    "set affinity",
    "set scheduling policy",
    "set nice",
    "set memory policy",
    "prepare its work",
    "become its user and group",
];

/// All that a worker needs, made before the fork.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) work_type: WorkType,
    pub(super) policy: SchedPolicy,
    pub(super) nice: i32,
    pub(super) comm: CString,
    pub(super) affinity: Option<rustix::thread::CpuSet>,
    pub(super) mem_policy: MemPolicy,
    pub(super) mpol_flags: MpolFlags,
    /// User and group; 0 leaves them.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Directory of its cgroup.
    pub(super) cgroup_dir: Option<PathBuf>,
    /// Cgroups that a work type may move workers between.
    pub(super) side_cgroups: Vec<PathBuf>,
    /// Disk for I/O; `None`: a temporary file.
    pub(super) disk: Option<PathBuf>,
    pub(super) parent: i32,
}

/// What all workers of a group find in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) control: &'a Control,
    pub(super) slots: &'a [Slot],
    pub(super) kit: &'a Kit,
}

/// The whole life of a worker that is a process; the result is its exit status.
pub(super) fn live(birth: &Birth, common: Common<'_>, index: usize) -> i32 {
    if let Err(fault) = become_a_worker(birth.parent) {
        return fail(common, index, 0, fault);
    }
    work(birth, common, index)
}

/// The whole life of a process whose threads are the workers; the result is its exit status.
pub(super) fn lead(births: &[Birth], common: Common<'_>) -> i32 {
    let Some(first) = births.first() else {
        return 0;
    };
    if let Err(fault) = become_a_worker(first.parent) {
        return fail(common, 0, 0, fault);
    }
    let codes = std::thread::scope(|scope| {
        let threads: Vec<_> = births
            .iter()
            .enumerate()
            .map(|(index, birth)| scope.spawn(move || work(birth, common, index)))
            .collect();
        let ends = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(101));
        ends.collect::<Vec<i32>>()
    });
    codes.into_iter().max().unwrap_or(0)
}

/// From the fork to the end, for a process and for a thread.
fn work(birth: &Birth, common: Common<'_>, index: usize) -> i32 {
    let Common { control, slots, .. } = common;
    let slot = &slots[index];
    let pid = rustix::process::getpid().as_raw_pid().unsigned_abs();
    let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
    slot.pid.store(pid, Relaxed);
    slot.tid.store(tid, Relaxed);
    if !wait_for(control, phase::PLACED) {
        return 0;
    }
    if let Err((step, fault)) = set_up(birth, index) {
        return fail(common, index, step, fault);
    }
    let place = Place {
        index,
        kit: common.kit,
        side_cgroups: &birth.side_cgroups,
        cgroup_dir: birth.cgroup_dir.as_deref(),
        disk: birth.disk.as_deref(),
    };
    let body = match types::prepare(&birth.work_type, &place) {
        Ok(body) => body,
        Err(fault) => return fail(common, index, 6, fault),
    };
    slot.state.store(state::READY, Release);
    announce(control);
    if !wait_for(control, phase::STARTED) {
        return 0;
    }
    body(&mut Meter::start(control, slots, index));
    0
}

/// Dies with its parent, and leads a process group so that whatever it starts can be killed with it.
fn become_a_worker(parent: i32) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before the line above has been replaced by now.
    let now = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
    if now != parent {
        return Err(Errno::SRCH);
    }
    rustix::process::setpgid(None, None)
}

fn set_up(birth: &Birth, index: usize) -> Result<(), (u32, Errno)> {
    rustix::thread::set_name(&birth.comm).map_err(|fault| (1, fault))?;
    let bound = match &birth.affinity {
        Some(cpus) => rustix::thread::sched_setaffinity(None, cpus),
        None => types::bind(&birth.work_type, index),
    };
    bound.map_err(|fault| (2, fault))?;
    os::set_mem_policy(&birth.mem_policy, birth.mpol_flags).map_err(|fault| (5, fault))?;
    if birth.nice != 0 {
        rustix::process::setpriority_process(None, birth.nice).map_err(|fault| (4, fault))?;
    }
    let policy = types::policy_of(&birth.work_type, index).unwrap_or(birth.policy);
    if policy != SchedPolicy::Normal {
        os::set_policy_of_caller(policy).map_err(|fault| (3, fault))?;
    }
    become_user(birth).map_err(|fault| (7, fault))
}

/// Gives up root's rights, if it shall run as another user: last, for the rest of the set-up needs them.
fn become_user(birth: &Birth) -> Result<(), Errno> {
    if birth.gid == 0 && birth.uid == 0 {
        return Ok(());
    }
    os::set_user_of_caller(birth.uid, birth.gid)?;
    // The kernel has dropped the wish with the rights (kernel/cred.c: commit_creds).
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

fn fail(common: Common<'_>, index: usize, step: u32, fault: Errno) -> i32 {
    let slot = &common.slots[index];
    slot.fail_step.store(step, Relaxed);
    slot.fail_errno
        .store(fault.raw_os_error().unsigned_abs(), Relaxed);
    slot.state.store(state::FAILED, Release);
    announce(common.control);
    1
}

fn announce(control: &Control) {
    control.ready.fetch_add(1, Release);
    sys::futex_wake_all(&control.ready);
}

/// Waits until the parent has reached `wanted`; `false` if the stop came first.
fn wait_for(control: &Control, wanted: u32) -> bool {
    loop {
        let now = control.phase.load(Acquire);
        if control.stop.load(Acquire) != 0 {
            return false;
        }
        if now >= wanted {
            return true;
        }
        sys::futex_wait(&control.phase, now, SLICE);
    }
}
