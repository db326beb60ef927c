//! Performance mode: host CPUs of a VM's own.
//!
//! ```text
//!   hostcpu: which CPUs and LLCs this process may use   (sysfs, affinity)
//!   assign:  a host CPU for each vCPU, LLC by LLC       (pure)
//!   reserve: lock files, so that several processes share a host
//!   apply:   pin and SCHED_FIFO on the vCPU's own thread
//! ```
//!
//! What the host cannot give is [`Error::PerfModeUnavailable`](crate::Error::PerfModeUnavailable), a reason to skip; what another
//! process holds is [`Error::ResourceContention`](crate::Error::ResourceContention), a reason to try again later.

mod apply;
mod assign;
mod hostcpu;
mod reserve;

pub(super) use apply::make_real_time;
pub(super) use reserve::Reservation;

use std::path::Path;

const FREE_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

use self::hostcpu::HostCpus;
use crate::error::{Error, Result};
use crate::memory::Backing;
use crate::topology::Topology;

/// Finds and reserves a host CPU for each vCPU.
pub(super) fn reserve(topology: &Topology, lock_dir: &Path) -> Result<Reservation> {
    let host = HostCpus::read().map_err(Error::system("read the host's CPUs"))?;
    let reservation = Reservation::take(lock_dir, &host, topology)?;
    check_priority(&reservation)?;
    Ok(reservation)
}

/// Tries what every vCPU thread will do, where it can still be reported.
fn check_priority(reservation: &Reservation) -> Result<()> {
    let Some(cpu) = reservation.cpu_of(0) else {
        return Ok(());
    };
    let tried = std::thread::spawn(move || make_real_time(cpu)).join();
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
