//! How much CPU time the host gave each vCPU, and how long it kept it waiting: its thread's first two figures in
//! `/proc/<pid>/task/<tid>/schedstat` (Documentation/scheduler/sched-stats.rst).

use std::fs;
use std::path::PathBuf;

/// Where each vCPU's figures are read, by its number.
#[derive(Debug, Clone, Default)]
pub struct VcpuClocks(Vec<PathBuf>);

impl VcpuClocks {
    /// Finds the `vcpus` vCPU threads of a process by their names; empty as long as not all are there, and when they cannot be told
    /// apart.
    #[must_use]
    pub fn of(pid: u32, vcpus: usize) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let mut found: Vec<(usize, PathBuf)> = tasks
            .into_iter()
            .flatten()
            .filter_map(|task| {
                let dir = task.ok()?.path();
                let name = fs::read_to_string(dir.join("comm")).ok()?;
                Some((vcpu_of(name.trim())?, dir.join("schedstat")))
            })
            .collect();
        found.sort_unstable();
        // Two VMs in one process have threads of the same names.
        let whole = found.iter().map(|(vcpu, _)| *vcpu).eq(0..vcpus);
        Self(if whole {
            found.into_iter().map(|(_, path)| path).collect()
        } else {
            Vec::new()
        })
    }

    /// Of these threads of a process, in the order of their vCPUs.
    pub(crate) fn of_threads(pid: u32, threads: &[i32]) -> Self {
        let path = |thread| PathBuf::from(format!("/proc/{pid}/task/{thread}/schedstat"));
        Self(threads.iter().map(path).collect())
    }

    /// Whether no vCPU was found: threads come into being some time after the start.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nanoseconds of CPU time so far, by vCPU; empty once a thread has ended.
    #[must_use]
    pub fn read(&self) -> Vec<u64> {
        self.figures(0)
    }

    /// Nanoseconds for which each vCPU was ready to run and did not, by vCPU; empty once a thread has ended.
    #[must_use]
    pub fn run_delays(&self) -> Vec<u64> {
        self.figures(1)
    }

    fn figures(&self, which: usize) -> Vec<u64> {
        let read = |path: &PathBuf| -> Option<u64> {
            let text = fs::read_to_string(path).ok()?;
            text.split_whitespace().nth(which)?.parse().ok()
        };
        self.0
            .iter()
            .map(read)
            .collect::<Option<_>>()
            .unwrap_or_default()
    }
}

/// QEMU calls them `CPU 0/TCG`, our own engine `ktstr-vcpu0`.
fn vcpu_of(thread: &str) -> Option<usize> {
    let number = thread
        .strip_prefix("CPU ")
        .and_then(|rest| rest.strip_suffix("/TCG"))
        .or_else(|| thread.strip_prefix("ktstr-vcpu"))?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vcpu_threads() {
        assert_eq!(vcpu_of("CPU 12/TCG"), Some(12));
        assert_eq!(vcpu_of("ktstr-vcpu3"), Some(3));
        for other in ["qemu-system-x86", "CPU 0/KVM", "ktstr-com1", "ktstr-vcpu"] {
            assert_eq!(vcpu_of(other), None, "{other}");
        }
    }

    /// Threads of a VM come into being one by one.
    #[test]
    fn the_first_vcpus_of_a_vm_are_not_taken_for_all() {
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("ktstr-vcpu0".into());
        let (ready, started) = std::sync::mpsc::channel();
        let thread = thread.spawn(move || {
            ready.send(rustix::thread::gettid().as_raw_pid()).unwrap();
            let _ended = told.recv();
        });
        let id = started.recv().unwrap();
        let pid = std::process::id();
        assert!(VcpuClocks::of(pid, 2).is_empty());
        assert_eq!(VcpuClocks::of(pid, 1).0.len(), 1);
        assert_eq!(VcpuClocks::of_threads(pid, &[id]).read().len(), 1);
        drop(tell);
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn a_process_without_vcpus_has_no_clocks() {
        let clocks = VcpuClocks::of(1, 1);
        assert!(clocks.is_empty() && clocks.read().is_empty() && clocks.run_delays().is_empty());
    }
}
