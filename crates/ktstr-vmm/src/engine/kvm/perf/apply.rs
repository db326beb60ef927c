//! What a vCPU thread does to itself in performance mode.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Pins the calling thread to `cpu` and gives it the lowest real-time priority.
///
/// The kernel's throttling (`sched_rt_runtime_us`) keeps a spinning guest from starving the CPU's other work for ever.
pub(crate) fn make_real_time(cpu: u32) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(usize::try_from(cpu).map_err(io::Error::other)?);
    sched_setaffinity(None, &set)?;
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

    #[test]
    fn the_thread_is_pinned_before_it_asks_for_priority() {
        let tried = std::thread::spawn(|| {
            let before = sched_getaffinity(None).unwrap();
            let cpu = (0..CpuSet::MAX_CPU)
                .find(|cpu| before.is_set(*cpu))
                .unwrap();
            let done = make_real_time(u32::try_from(cpu).unwrap());
            (done, sched_getaffinity(None).unwrap().count())
        });
        let (done, count) = tried.join().unwrap();
        assert_eq!(count, 1);
        // Without CAP_SYS_NICE the priority is refused, and the error says so.
        if let Err(error) = done {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
