//! A group of equal workers, seen from its parent: fork, ready barrier, start, stop.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use super::child::{self, Birth, Common, SETUP_STEPS};
use super::cpus::CpuWatch;
use super::kit::Kit;
use super::meter::nanos;
use super::os;
use super::page::{ASLEEP, Control, Slot, phase, state};
use super::proc::{self, RunTime};
use super::process::{AtStop, Process};
use super::types;
use crate::guest::sys::{self, Forked, Shared};
use crate::model::cpuset::CpuSet;
use crate::model::work::{CloneMode, MemPolicy, MpolFlags, SchedPolicy, WorkType};

/// How often the parent looks for workers that died before they were ready.
const SLICE: Duration = Duration::from_millis(50);
/// Longest name that the kernel keeps for a task, without the terminating zero.
const COMM_LEN: usize = 15;

/// Exit status of a worker that panicked, as Rust's own run time has it.
const EXIT_PANICKED: i32 = 101;

/// What a group's workers are.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// What they do.
    pub work_type: WorkType,
    /// How many; whole groups of the work type.
    pub count: usize,
    /// Their policy.
    pub policy: SchedPolicy,
    /// Their nice value.
    pub nice: i32,
    /// Their name.
    pub comm: String,
    /// CPUs that each binds itself to, round and round; empty: none does.
    pub affinity: Vec<CpuSet>,
    /// Cgroup that they will be placed in, for the reports; empty for none.
    pub cgroup: String,
    /// The step in which they are started; 0 with the backdrop.
    pub step: u16,
    /// CPUs that this cgroup allows, as the kernel says.
    pub cpuset: Option<CpuSet>,
    /// NUMA nodes of their memory.
    pub mem_policy: MemPolicy,
    /// How those nodes are meant.
    pub mpol_flags: MpolFlags,
    /// Their user; 0: as their parent's.
    pub uid: u32,
    /// Their group; 0: as their parent's.
    pub gid: u32,
    /// Directory of their cgroup; `None` for none.
    pub cgroup_dir: Option<PathBuf>,
    /// Processes, or threads of one process.
    pub clone_mode: CloneMode,
    /// Directories of two cgroups or more that the work type may move workers between.
    pub side_cgroups: Vec<PathBuf>,
    /// Disk for work types that read; `None`: a temporary file.
    pub disk: Option<PathBuf>,
    /// Whether the pages of each worker are counted when its window closes.
    pub count_pages: bool,
}

impl GroupSpec {
    /// `count` workers without any wishes.
    pub fn new(work_type: WorkType, count: usize) -> Self {
        let comm = format!("kt-{}", work_type.name());
        Self {
            work_type,
            count,
            policy: SchedPolicy::Normal,
            nice: 0,
            comm,
            affinity: Vec::new(),
            cgroup: String::new(),
            step: 0,
            cpuset: None,
            mem_policy: MemPolicy::Default,
            mpol_flags: MpolFlags::NONE,
            uid: 0,
            gid: 0,
            cgroup_dir: None,
            clone_mode: CloneMode::Fork,
            side_cgroups: Vec::new(),
            disk: None,
            count_pages: false,
        }
    }
}

/// What one worker did up to some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Iterations.
    pub iterations: u64,
    /// Work units.
    pub work_units: u64,
    /// CPU time.
    pub cpu_ns: u64,
    /// Changes of CPU that it noticed.
    pub migrations: u64,
    /// Wake-ups that were measured.
    pub wakes: u64,
    /// Time runnable but not running; `None`: the kernel did not say.
    pub delay_ns: Option<u64>,
}

impl Tally {
    /// What came on top of `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            iterations: self.iterations.saturating_sub(before.iterations),
            work_units: self.work_units.saturating_sub(before.work_units),
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            migrations: self.migrations.saturating_sub(before.migrations),
            wakes: self.wakes.saturating_sub(before.wakes),
            delay_ns: self
                .delay_ns
                .map(|now| now.saturating_sub(before.delay_ns.unwrap_or(0))),
        }
    }
}

/// Why a group of workers could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// No memory for the reports.
    #[error("failed to map report memory for {count} workers")]
    Map {
        /// How many there should be.
        count: usize,
        /// The mapping's failure.
        #[source]
        source: io::Error,
    },
    /// No pipe, socket or file for the workers to share.
    #[error("failed to make what {work_type} workers share")]
    Kit {
        /// The work type.
        work_type: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The fork failed.
    #[error("failed to fork worker {index} of {count}")]
    Fork {
        /// Which one.
        index: usize,
        /// How many there should be.
        count: usize,
        /// The fork's failure.
        #[source]
        source: io::Error,
    },
    /// A worker could not set itself up.
    #[error("worker {pid} failed to {step}")]
    SetUp {
        /// Its process.
        pid: i32,
        /// What it was doing.
        step: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A worker ended before the barrier opened.
    #[error("worker {pid} ended before it was ready")]
    EndedEarly {
        /// Its process.
        pid: i32,
    },
    /// Not all workers came to the barrier in time.
    #[error(
        "only {ready} of {count} workers were ready after {after_ms} ms: the others did not get a CPU, or are blocked"
    )]
    NotReady {
        /// Those that came.
        ready: usize,
        /// How many there should be.
        count: usize,
        /// How long they had.
        after_ms: u128,
    },
}

/// A group of equal workers.
#[derive(Debug)]
pub struct WorkerGroup {
    pub(super) spec: GroupSpec,
    pub(super) control: Shared<Control>,
    pub(super) slots: Shared<Slot>,
    /// One for each worker; one for all when the workers are threads.
    pub(super) processes: Vec<Process>,
    kit: Kit,
    /// CPU time and run delay of each worker when the window opened.
    pub(super) run_start: Vec<Option<RunTime>>,
    pub(super) migrated_start: Option<u64>,
    /// Read of each worker when the window closed; empty while it is open.
    pub(super) at_stop: Vec<AtStop>,
    pub(super) excused_at_stop_ns: u64,
    /// Which CPUs the workers are seen on.
    pub(super) cpus: CpuWatch,
}

impl WorkerGroup {
    /// Forks all workers; they wait until [`make_ready`](Self::make_ready).
    ///
    /// # Errors
    /// When memory or processes run out; those forked so far are gone then.
    pub fn spawn(spec: GroupSpec) -> Result<Self, WorkerError> {
        let count = spec.count;
        let map_error = |source| WorkerError::Map { count, source };
        let mut group = Self {
            control: Shared::zeroed(1).map_err(map_error)?,
            slots: Shared::zeroed(count).map_err(map_error)?,
            processes: Vec::with_capacity(count),
            kit: Kit::new(&spec.work_type, count).map_err(|source| WorkerError::Kit {
                work_type: spec.work_type.name().to_owned(),
                source,
            })?,
            run_start: Vec::new(),
            migrated_start: None,
            at_stop: Vec::new(),
            excused_at_stop_ns: 0,
            cpus: CpuWatch::new(spec.cpuset.clone(), count),
            spec,
        };
        let forks = match group.spec.clone_mode {
            CloneMode::Fork => count,
            CloneMode::Thread => count.min(1),
        };
        for index in 0..forks {
            let process = group.fork_one(index).map_err(|source| WorkerError::Fork {
                index,
                count,
                source,
            })?;
            group.processes.push(process);
        }
        Ok(group)
    }

    fn fork_one(&self, index: usize) -> io::Result<Process> {
        let births: Vec<Birth> = match self.spec.clone_mode {
            CloneMode::Fork => vec![self.birth(index)],
            CloneMode::Thread => (0..self.spec.count).map(|i| self.birth(i)).collect(),
        };
        let common = Common {
            control: &self.control[0],
            slots: &self.slots,
            kit: &self.kit,
        };
        let threads = self.spec.clone_mode == CloneMode::Thread;
        // SAFETY: the child runs `live` or `lead`, which take no lock of ours, and leaves by `exit_now`, also when it panics.
        let forked = unsafe { sys::fork() }?;
        let raw = match forked {
            Forked::Child => {
                let life = || {
                    if threads {
                        child::lead(&births, common)
                    } else {
                        child::live(&births[0], common, index)
                    }
                };
                let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
                sys::exit_now(code.unwrap_or(EXIT_PANICKED))
            }
            Forked::Parent(raw) => raw,
        };
        let pid = Pid::from_raw(raw).ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Process {
            pid,
            pidfd,
            ended: None,
        })
    }

    fn birth(&self, index: usize) -> Birth {
        let spec = &self.spec;
        let bytes = spec.comm.bytes().filter(|byte| *byte != 0);
        let affinity = (!spec.affinity.is_empty())
            .then(|| os::kernel_cpuset(&spec.affinity[index % spec.affinity.len()]));
        Birth {
            work_type: spec.work_type.clone(),
            policy: spec.policy,
            nice: spec.nice,
            comm: CString::new(bytes.take(COMM_LEN).collect::<Vec<u8>>()).unwrap_or_default(),
            affinity,
            mem_policy: spec.mem_policy.clone(),
            mpol_flags: spec.mpol_flags,
            uid: spec.uid,
            gid: spec.gid,
            cgroup_dir: spec.cgroup_dir.clone(),
            side_cgroups: spec.side_cgroups.clone(),
            disk: spec.disk.clone(),
            parent: rustix::process::getpid().as_raw_pid(),
        }
    }

    /// Process ids of all workers, also of those that have ended.
    pub fn pids(&self) -> impl Iterator<Item = i32> + '_ {
        self.processes
            .iter()
            .map(|process| process.pid.as_raw_pid())
    }

    /// One descriptor per worker that becomes readable when it ends.
    pub fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.processes.iter().map(|process| process.pidfd.as_fd())
    }

    /// What the workers are.
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// Renames the cgroup in the reports, after the workers were moved.
    pub fn moved_to(&mut self, cgroup: &str) {
        cgroup.clone_into(&mut self.spec.cgroup);
    }

    /// The kernel is about to be told of other CPUs for these workers.
    pub fn begin_cpu_change(&mut self) {
        self.judge_cpus();
        self.cpus.begin_change();
    }

    /// From now on the workers are allowed on these CPUs, and on those of before for a grace.
    pub fn allow_cpus(&mut self, cpus: Option<CpuSet>) {
        self.judge_cpus();
        self.cpus.allow(cpus, sys::monotonic_ns());
    }

    /// The kernel allows these CPUs now, though no operation of the test has changed anything.
    pub fn widen_cpus(&mut self, cpus: &CpuSet) {
        self.cpus.widen(cpus);
    }

    /// Whether not every CPU is theirs.
    pub fn is_confined(&self) -> bool {
        self.cpus.is_confined()
    }

    /// When the grace after the last change of the allowed CPUs is over; `None`: it is.
    pub fn settles_at(&self) -> Option<u64> {
        self.cpus.settles_at()
    }

    /// Ends the grace if it is over.
    pub fn settle_cpus(&mut self) {
        if self
            .settles_at()
            .is_some_and(|at| at <= sys::monotonic_ns())
        {
            self.judge_cpus();
            self.cpus.settle();
        }
    }

    /// Holds what the workers were seen on since the last time against what is allowed.
    pub(super) fn judge_cpus(&mut self) {
        self.cpus.judge(self.slots.iter().map(Slot::take_cpus));
    }

    /// Iterations of all workers so far.
    pub fn iterations(&self) -> u64 {
        self.slots
            .iter()
            .map(|slot| slot.iterations.load(Relaxed))
            .fold(0, u64::saturating_add)
    }

    /// What each worker did so far, in their order.
    pub fn tallies(&self) -> Vec<Tally> {
        let of = |(index, slot): (usize, &Slot)| {
            let start = self.run_start.get(index).copied().flatten();
            let since = proc::run_time_ns(self.task_of(index)).zip(start);
            let cpu_ns = since.map_or(0, |(now, start)| now.cpu_ns.saturating_sub(start.cpu_ns));
            Tally {
                iterations: slot.iterations.load(Relaxed),
                work_units: slot.work_units.load(Relaxed),
                // Its own note has the threads that it made; the kernel's figure is newer.
                cpu_ns: cpu_ns.max(slot.noted_cpu_ns()),
                migrations: slot.migrations.load(Relaxed),
                wakes: slot.wake_count.load(Relaxed),
                delay_ns: since.map(|(now, start)| now.delay_ns.saturating_sub(start.delay_ns)),
            }
        };
        self.slots.iter().enumerate().map(of).collect()
    }

    /// Iterations of the worker that did fewest.
    #[cfg(test)]
    pub(super) fn slowest(&self) -> u64 {
        let all = self.slots.iter().map(|slot| slot.iterations.load(Relaxed));
        all.min().unwrap_or(0)
    }

    /// Wake-ups of all workers that were measured.
    #[cfg(test)]
    pub(super) fn wakes(&self) -> u64 {
        let all = self.slots.iter().map(|slot| slot.wake_count.load(Relaxed));
        all.sum()
    }

    /// Lets the workers set themselves up, and waits until all stand at the barrier.
    ///
    /// # Errors
    /// When one fails, ends, or does not come within `deadline`.
    pub fn make_ready(&mut self, deadline: Duration) -> Result<(), WorkerError> {
        let until_ns = sys::monotonic_ns().saturating_add(nanos(deadline));
        self.enter(phase::PLACED);
        loop {
            let ready = self.control[0].ready.load(Acquire);
            let count = self.spec.count;
            self.check_births()?;
            if ready as usize >= count {
                return Ok(());
            }
            let now = sys::monotonic_ns();
            if now >= until_ns {
                return Err(WorkerError::NotReady {
                    ready: ready as usize,
                    count,
                    after_ms: deadline.as_millis(),
                });
            }
            let left = Duration::from_nanos(until_ns - now).min(SLICE);
            sys::futex_wait(&self.control[0].ready, ready, left);
        }
    }

    fn check_births(&mut self) -> Result<(), WorkerError> {
        for index in 0..self.slots.len() {
            let pid = self.task_of(index).0;
            let process = self.process_of(index);
            let ended = self.processes[process].try_reap();
            let slot = &self.slots[index];
            match slot.state.load(Acquire) {
                state::FAILED => return Err(set_up_error(pid, slot)),
                state::READY => {}
                _ if ended => return Err(WorkerError::EndedEarly { pid }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Which of the processes worker `index` is, or is a thread of.
    pub(super) fn process_of(&self, index: usize) -> usize {
        match self.spec.clone_mode {
            CloneMode::Fork => index,
            CloneMode::Thread => 0,
        }
    }

    /// Process and thread of a worker; a thread that has not begun counts as its process.
    pub(super) fn task_of(&self, index: usize) -> (i32, i32) {
        let pid = self.processes[self.process_of(index)].pid.as_raw_pid();
        let tid = self.slots[index].tid.load(Relaxed);
        let tid = i32::try_from(tid).ok().filter(|tid| *tid > 0);
        (pid, tid.unwrap_or(pid))
    }

    /// Thread ids of all workers that have begun; for processes, their process ids.
    pub fn tids(&self) -> impl Iterator<Item = i32> + '_ {
        (0..self.slots.len()).map(|index| self.task_of(index).1)
    }

    /// Opens the barrier: the window begins now.
    pub fn start(&mut self) {
        self.run_start = (0..self.slots.len())
            .map(|index| proc::run_time_ns(self.task_of(index)))
            .collect();
        if self.spec.count_pages {
            self.migrated_start = proc::pages_migrated();
        }
        let start_ns = sys::monotonic_ns();
        self.control[0].start_ns.store(start_ns, Relaxed);
        for (index, slot) in self.slots.iter().enumerate() {
            let asleep = types::starts_asleep(&self.spec.work_type, index);
            slot.base_ns
                .store(if asleep { ASLEEP } else { start_ns }, Relaxed);
            slot.handoff.store(u32::from(!asleep), Relaxed);
        }
        self.enter(phase::STARTED);
    }

    fn enter(&self, next: u32) {
        self.control[0].phase.store(next, Release);
        sys::futex_wake_all(&self.control[0].phase);
    }
}

fn set_up_error(pid: i32, slot: &Slot) -> WorkerError {
    let errno = i32::try_from(slot.fail_errno.load(Relaxed)).unwrap_or(0);
    let step = slot.fail_step.load(Relaxed) as usize;
    WorkerError::SetUp {
        pid,
        step: SETUP_STEPS.get(step).copied().unwrap_or("set itself up"),
        source: io::Error::from_raw_os_error(errno),
    }
}
