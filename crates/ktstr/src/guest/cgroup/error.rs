//! What can go wrong with a cgroup.

use std::io;
use std::path::{Path, PathBuf};

/// A failed operation on a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A name that would leave the root, or is no name.
    #[error("bad cgroup name {name:?}: wants a relative path without empty parts, \".\" or \"..\"")]
    BadName {
        /// The name.
        name: String,
    },
    /// There is no such cgroup.
    #[error("no cgroup {name:?}; there are: {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// The directory could not be made.
    #[error("failed to make cgroup {}", path.display())]
    Create {
        /// Its directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A control file could not be written.
    #[error("failed to write {value:?} to {}{}", file.display(), hint(file, source))]
    Write {
        /// The control file.
        file: PathBuf,
        /// The value.
        value: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A control file could not be read.
    #[error("failed to read {}", file.display())]
    Read {
        /// The control file.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A threaded cgroup at the top: the workload root would become a threaded domain, and all else in it invalid.
    #[error(
        "cgroup {name:?} cannot be threaded: it has no parent in the scenario; name it \"parent/{name}\""
    )]
    NoDomain {
        /// The name.
        name: String,
    },
    /// The kernel did not report all tasks frozen.
    #[error("cgroup {} is not frozen after {after_ms} ms (cgroup.events)", path.display())]
    NotFrozen {
        /// Its directory.
        path: PathBuf,
        /// How long it had.
        after_ms: u128,
    },
    /// The directory could not be removed.
    #[error("failed to remove cgroup {} (tasks in it: {tasks:?})", path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// Processes still in it.
        tasks: Vec<i32>,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What a control file's errno usually means.
fn hint(file: &Path, source: &io::Error) -> &'static str {
    let name = file.file_name().and_then(|name| name.to_str());
    // Beside another file of its controller, a missing one is the kernel's.
    let is_beside = |other: &str| file.with_file_name(other).exists();
    match source.raw_os_error() {
        Some(libc::ENOENT) if name == Some("memory.swap.max") && is_beside("memory.max") => {
            " (the guest's kernel is built without CONFIG_SWAP, as ktstr builds them; a distribution's has it: --kernel debian)"
        }
        Some(libc::ENOENT) if name == Some("io.weight") && is_beside("io.stat") => {
            " (the guest's kernel is built without CONFIG_BLK_CGROUP_IOCOST, as ktstr builds them; a distribution's may have it: --kernel debian)"
        }
        Some(libc::ENOENT) => {
            " (is the controller enabled in the parent's cgroup.subtree_control?)"
        }
        Some(libc::EBUSY) => " (a cgroup with tasks cannot hand controllers to its children)",
        Some(libc::ENOSPC) => " (the cpuset would be empty)",
        Some(libc::EINVAL | libc::ERANGE) => " (the kernel does not take this value)",
        _ => "",
    }
}
