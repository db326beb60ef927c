//! The guest's file systems.

use std::fs;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

struct Mount {
    target: &'static str,
    kind: &'static str,
    /// The guest is of no use without it.
    required: bool,
}

/// In order: a mount point may lie in an earlier one.
const MOUNTS: [Mount; 10] = [
    Mount {
        target: "/proc",
        kind: "proc",
        required: true,
    },
    Mount {
        target: "/sys",
        kind: "sysfs",
        required: true,
    },
    Mount {
        target: "/dev",
        kind: "devtmpfs",
        required: true,
    },
    Mount {
        target: "/tmp",
        kind: "tmpfs",
        required: true,
    },
    Mount {
        target: "/run",
        kind: "tmpfs",
        required: true,
    },
    Mount {
        target: "/dev/shm",
        kind: "tmpfs",
        required: false,
    },
    Mount {
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        required: true,
    },
    Mount {
        target: "/sys/fs/bpf",
        kind: "bpf",
        required: false,
    },
    Mount {
        target: "/sys/kernel/debug",
        kind: "debugfs",
        required: false,
    },
    Mount {
        target: "/sys/kernel/tracing",
        kind: "tracefs",
        required: false,
    },
];

/// What could not be mounted.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) fatal: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Mounts everything that is not mounted yet.
pub(crate) fn mount_all() -> Report {
    let mut report = Report::default();
    for entry in &MOUNTS {
        // Below sysfs the kernel makes the directory, if it has the file system at all.
        let _ = fs::create_dir_all(entry.target);
        match mount(
            entry.kind,
            entry.target,
            entry.kind,
            MountFlags::empty(),
            None,
        ) {
            // EBUSY: the kernel mounted devtmpfs itself (CONFIG_DEVTMPFS_MOUNT).
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => {
                let text = format!("mounting {} on {}: {errno}", entry.kind, entry.target);
                if entry.required {
                    report.fatal.push(text)
                } else {
                    report.notes.push(text)
                }
            }
        }
    }
    // Shells and some schedulers expect it.
    let _ = std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd");
    report
}

/// Writes kernel settings; returns what could not be written.
pub(crate) fn apply_sysctls(root: &Path, sysctls: &[(String, String)]) -> Vec<String> {
    let write = |(name, value): &(String, String)| {
        let path = root.join(name.replace('.', "/"));
        fs::write(&path, value)
            .err()
            .map(|error| format!("sysctl {name}={value}: {error}"))
    };
    sysctls.iter().filter_map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_go_below_their_root_and_failures_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kernel")).unwrap();
        let failed = apply_sysctls(
            dir.path(),
            &[
                ("kernel.x".into(), "1".into()),
                ("no.such".into(), "2".into()),
            ],
        );
        assert_eq!(fs::read(dir.path().join("kernel/x")).unwrap(), b"1");
        assert_eq!(failed.len(), 1);
        assert!(failed[0].contains("no.such=2"), "{}", failed[0]);
    }
}
