//! A worker's life on its own side of the fork.
//!
//! The parent may have other threads, and their locks are lost here: no allocation that could be avoided, no output,
//! no unwinding past [`live`]. Everything that the body needs was made before the fork.

use std::ffi::CString;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::meter::Meter;
use super::page::{Control, Slot, phase, state};
use super::types;
use crate::guest::sys;
use crate::model::cpuset::CpuSet;
use crate::model::work::{SchedPolicy, WorkType};

/// How often a waiting worker looks whether it was asked to stop, should it miss a wake-up.
const SLICE: Duration = Duration::from_millis(50);

/// Steps of a worker's set-up that may fail; the numbers go through shared memory.
pub(super) const SETUP_STEPS: [&str; 5] = [
    "follow the parent's death",
    "set comm",
    "set affinity",
    "set scheduling policy",
    "set nice",
];

/// All that a worker needs, made before the fork.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) work_type: WorkType,
    pub(super) policy: SchedPolicy,
    pub(super) nice: i32,
    pub(super) comm: CString,
    pub(super) affinity: Option<rustix::thread::CpuSet>,
    pub(super) parent: i32,
}

/// The kernel's form of a CPU set.
pub(crate) fn kernel_cpuset(cpus: &CpuSet) -> rustix::thread::CpuSet {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter() {
        let cpu = cpu as usize;
        if cpu < rustix::thread::CpuSet::MAX_CPU {
            set.set(cpu);
        }
    }
    set
}

/// The worker's whole life; the result is its exit status.
pub(super) fn live(birth: &Birth, control: &Control, slots: &[Slot], index: usize) -> i32 {
    let slot = &slots[index];
    if let Err(fault) = become_a_worker(birth.parent) {
        return fail(control, slot, 0, fault);
    }
    if !wait_for(control, phase::PLACED) {
        return 0;
    }
    if let Err((step, fault)) = set_up(birth) {
        return fail(control, slot, step, fault);
    }
    slot.state.store(state::READY, Release);
    announce(control);
    if !wait_for(control, phase::STARTED) {
        return 0;
    }
    let mut meter = Meter::start(control, slots, index);
    types::run(&birth.work_type, &mut meter);
    0
}

/// Dies with its parent, and leads a process group so that whatever it starts can be killed with it.
fn become_a_worker(parent: i32) -> Result<(), rustix::io::Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before the line above has been replaced by now.
    let now = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
    if now != parent {
        return Err(rustix::io::Errno::SRCH);
    }
    rustix::process::setpgid(None, None)
}

fn set_up(birth: &Birth) -> Result<(), (u32, rustix::io::Errno)> {
    rustix::thread::set_name(&birth.comm).map_err(|fault| (1, fault))?;
    if let Some(cpus) = &birth.affinity {
        rustix::thread::sched_setaffinity(None, cpus).map_err(|fault| (2, fault))?;
    }
    if birth.policy != SchedPolicy::Other {
        let (policy, priority) = policy_numbers(birth.policy);
        sys::set_policy(policy, priority).map_err(|fault| (3, errno_of(&fault)))?;
    }
    if birth.nice != 0 {
        rustix::process::setpriority_process(None, birth.nice).map_err(|fault| (4, fault))?;
    }
    Ok(())
}

/// `SCHED_EXT` as in `include/uapi/linux/sched.h`; libc does not have it.
const SCHED_EXT: i32 = 7;

fn policy_numbers(policy: SchedPolicy) -> (i32, i32) {
    let priority = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    match policy {
        SchedPolicy::Other => (libc::SCHED_OTHER, 0),
        SchedPolicy::Batch => (libc::SCHED_BATCH, 0),
        SchedPolicy::Idle => (libc::SCHED_IDLE, 0),
        SchedPolicy::Fifo(value) => (libc::SCHED_FIFO, priority(value)),
        SchedPolicy::RoundRobin(value) => (libc::SCHED_RR, priority(value)),
        SchedPolicy::Ext => (SCHED_EXT, 0),
    }
}

fn errno_of(fault: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(fault).unwrap_or(rustix::io::Errno::IO)
}

fn fail(control: &Control, slot: &Slot, step: u32, fault: rustix::io::Errno) -> i32 {
    slot.fail_step.store(step, Relaxed);
    slot.fail_errno
        .store(fault.raw_os_error().unsigned_abs(), Relaxed);
    slot.state.store(state::FAILED, Release);
    announce(control);
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
