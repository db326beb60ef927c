//! Performance mode: host CPUs of a VM's own.
//!
//! ```text
//!   hostcpu: which CPUs, cores and LLCs this process may use   (sysfs, affinity)
//!   assign:  a host CPU for each vCPU, LLC by LLC, core by core (pure)
//!   reserve: lock files, so that several processes share a host; one CPU stays free
//!   apply:   pin the vCPU's own thread, and SCHED_FIFO where that is not throttled
//! ```
//!
//! What the host cannot give is [`Error::PerfModeUnavailable`](crate::Error::PerfModeUnavailable), a reason to skip; what another
//! process holds is [`Error::ResourceContention`](crate::Error::ResourceContention), a reason to try again later.

mod apply;
mod assign;
mod hostcpu;
mod outlook;
mod reserve;

use apply::Policy;
pub(super) use apply::take_cpu;
pub(crate) use outlook::findings;
pub(super) use reserve::Reservation;

use std::path::Path;

use rustix::thread::CpuSet;

const FREE_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

use self::hostcpu::HostCpus;
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::topology::Topology;

/// What performance mode has of the host's CPUs for one VM.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) reservation: Reservation,
    pub(super) policy: Policy,
    /// For the VM's other threads.
    pub(super) rest: CpuSet,
}

/// Finds and reserves a host CPU for each vCPU.
pub(super) fn reserve(topology: &Topology, lock_dir: &Path) -> Result<Grant> {
    let host = HostCpus::read().map_err(Error::system("read the host's CPUs"))?;
    let reservation = Reservation::take(lock_dir, &host, topology)?;
    let policy = Policy::of_host();
    check_priority(&reservation, policy)?;
    let mut rest = CpuSet::new();
    for cpu in host.all().filter(|cpu| !reservation.cpus().contains(cpu)) {
        if let Ok(cpu) = usize::try_from(cpu) {
            rest.set(cpu);
        }
    }
    Ok(Grant {
        reservation,
        policy,
        rest,
    })
}

/// Tries what every vCPU thread will do, where it can still be reported.
fn check_priority(reservation: &Reservation, policy: Policy) -> Result<()> {
    let Some(cpu) = reservation.cpu_of(0) else {
        return Ok(());
    };
    let tried = std::thread::spawn(move || take_cpu(cpu, policy)).join();
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::debug!(%error, cpu, "no real-time priority");
            Err(Error::PerfModeUnavailable {
                what: "real-time priority (CAP_SYS_NICE)",
                needed: 1,
                found: 0,
            })
        }
        Err(_) => Err(Error::Gone {
            what: String::from("try a real-time priority"),
        }),
    }
}

/// Guest memory of huge pages, all present.
pub(super) fn huge_memory(len: u64) -> Result<Backing> {
    const HUGE: u64 = 2 << 20;
    let free = std::fs::read_to_string(FREE_HUGE_PAGES)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let needed = len.div_ceil(HUGE);
    if free < needed {
        let count = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
        return Err(Error::PerfModeUnavailable {
            what: "free huge pages of 2 MiB (/proc/sys/vm/nr_hugepages)",
            needed: count(needed),
            found: count(free),
        });
    }
    Backing::huge(needed * HUGE)
}
