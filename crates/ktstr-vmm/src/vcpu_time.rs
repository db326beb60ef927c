//! How much CPU time the host gave each vCPU, and how long it kept it waiting: its thread's first two figures in
//! `/proc/<pid>/task/<tid>/schedstat` (Documentation/scheduler/sched-stats.rst).

use std::fs;
use std::path::PathBuf;

/// Where each vCPU's figures are read, by its number.
#[derive(Debug, Clone, Default)]
pub struct VcpuClocks(Vec<PathBuf>);

impl VcpuClocks {
    /// Finds the vCPU threads of a process by their names; empty when they cannot be told apart.
    #[must_use]
    pub fn of(pid: u32) -> Self {
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
        let whole = found.iter().map(|(vcpu, _)| *vcpu).eq(0..found.len());
        Self(if whole {
            found.into_iter().map(|(_, path)| path).collect()
        } else {
            Vec::new()
        })
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

    #[test]
    fn a_process_without_vcpus_has_no_clocks() {
        let clocks = VcpuClocks::of(1);
        assert!(clocks.is_empty() && clocks.read().is_empty() && clocks.run_delays().is_empty());
    }
}
