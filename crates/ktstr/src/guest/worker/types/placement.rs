//! Where and under which policy a work type puts its own workers, whatever the cgroup says.

use rustix::io::Errno;

use super::super::proc;
use super::group_of;
use super::priority_inversion::{Role, role_of};
use crate::model::cpuset::CpuSet;
use crate::model::work::{SchedPolicy, WorkType};

use super::super::os::kernel_cpuset;

/// Priority of the roles that have to be above fair tasks; below that of the engine.
const ROLE_PRIORITY: u32 = 50;

/// The policy that a worker's role asks for; `None`: that of its description.
pub(in super::super) fn policy_of(work: &WorkType, index: usize) -> Option<SchedPolicy> {
    let (_, member) = group_of(work, index);
    match work {
        WorkType::AsymmetricWaker {
            waker_class,
            wakee_class,
            ..
        } => Some(
            if member == 0 {
                waker_class
            } else {
                wakee_class
            }
            .to_policy(),
        ),
        WorkType::PriorityInversion {
            medium_count,
            low_count,
            ..
        } if role_of(*low_count, *medium_count, member) == Role::High => {
            Some(SchedPolicy::Fifo(ROLE_PRIORITY))
        }
        WorkType::PreemptStorm { cfs_workers, .. } if member == *cfs_workers => {
            Some(SchedPolicy::Fifo(ROLE_PRIORITY))
        }
        WorkType::RtStarvation {
            rt_workers,
            rt_priority,
            ..
        } if member < *rt_workers => {
            Some(SchedPolicy::Fifo(u32::try_from(*rt_priority).unwrap_or(0)))
        }
        _ => None,
    }
}

/// Binds the calling worker if its work type needs a certain place.
///
/// # Errors
/// When the kernel refuses.
pub(in super::super) fn bind(work: &WorkType, index: usize) -> Result<(), Errno> {
    let (leader, member) = group_of(work, index);
    let group = leader / work.info().group_size;
    match work {
        WorkType::PriorityInversion { .. }
        | WorkType::PreemptStorm { .. }
        | WorkType::RtStarvation { .. } => {
            let allowed = allowed()?;
            bind_to(&CpuSet::from([nth(&allowed, group)?]))
        }
        WorkType::SmtSiblingSpin => {
            let cores = cores_of(&allowed()?);
            let core = cores.get(group % cores.len().max(1)).ok_or(Errno::INVAL)?;
            bind_to(&CpuSet::from([nth(&core.to_vec(), member)?]))
        }
        _ => Ok(()),
    }
}

/// The calling thread's CPUs, ascending.
pub(super) fn allowed() -> Result<Vec<u32>, Errno> {
    let set = rustix::thread::sched_getaffinity(None)?;
    let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    Ok(cpus.filter_map(|cpu| u32::try_from(cpu).ok()).collect())
}

/// Binds the calling thread.
pub(super) fn bind_to(cpus: &CpuSet) -> Result<(), Errno> {
    rustix::thread::sched_setaffinity(None, &kernel_cpuset(cpus))
}

fn nth(cpus: &[u32], number: usize) -> Result<u32, Errno> {
    let place = number.checked_rem(cpus.len()).ok_or(Errno::INVAL)?;
    Ok(cpus[place])
}

/// The allowed CPUs by core.
fn cores_of(allowed: &[u32]) -> Vec<CpuSet> {
    let mut cores: Vec<CpuSet> = Vec::new();
    for cpu in allowed {
        if cores.iter().all(|core| !core.contains(*cpu)) {
            let siblings = proc::siblings(*cpu);
            cores.push(siblings.iter().filter(|s| allowed.contains(s)).collect());
        }
    }
    cores
}
