//! What can go wrong with a VM.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Every fault that [`VmBuilder::build`](crate::VmBuilder::build) found.
#[derive(Debug)]
#[non_exhaustive]
pub struct BuildError {
    /// The faults, in the order of the builder's fields.
    pub faults: Vec<BuildFault>,
}

impl std::error::Error for BuildError {}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.faults.as_slice() {
            [only] => write!(f, "{only}"),
            many => {
                write!(f, "{} faults:", many.len())?;
                many.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
            }
        }
    }
}

/// One reason why a VM cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildFault {
    /// No kernel was named.
    #[error("no kernel image was given")]
    NoKernel,
    /// A named file cannot be read.
    #[error("{what} '{path}' cannot be read: {source}", path = path.display())]
    Unreadable {
        /// Its role.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel is no bzImage.
    #[error("'{path}' is not a bzImage: {why}", path = path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// The guest's memory is too small.
    #[error(
        "{memory_mib} MiB of memory; at least {needed_mib} MiB are needed for kernel and initrd"
    )]
    Memory {
        /// As given.
        memory_mib: u32,
        /// What would do.
        needed_mib: u64,
    },
    /// The nodes' memory and the VM's do not add up.
    #[error(
        "the nodes declare {nodes_mib} MiB of memory, the VM {memory_mib} MiB; nodes without a size need some of the rest"
    )]
    NodeMemory {
        /// Sum of the declared nodes.
        nodes_mib: u64,
        /// As given.
        memory_mib: u32,
    },
    /// Two ports have one name.
    #[error("port '{name}' is declared twice")]
    DuplicatePort {
        /// The name.
        name: String,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {len} bytes, at most {max} are taken")]
    Cmdline {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The kernel's command line ends at its first NUL.
    #[error("the kernel command line holds a NUL character, which would end it there; take it out")]
    CmdlineNul,
    /// Performance mode's pages have 2 MiB.
    #[error(
        "performance mode takes memory in pages of 2 MiB, not {memory_mib} MiB; make it an even number"
    )]
    OddMemory {
        /// As given.
        memory_mib: u32,
    },
    /// The chosen engine cannot do it.
    #[error("engine {engine}: {what}")]
    Engine {
        /// Which.
        engine: crate::Engine,
        /// What it lacks, and what to do instead.
        what: String,
    },
    /// The emulator is not there.
    #[error(
        "QEMU '{program}' was not found, which engine tcg needs (the engine's reason: {why}); install it (Debian's \
         package: qemu-system-x86), or name it in KTSTR_QEMU"
    )]
    NoQemu {
        /// Why this engine was chosen.
        why: String,
        /// What was looked for.
        program: String,
    },
}

/// A VM that was built and then failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("failed to {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The emulator ended before it took its first command.
    #[error("QEMU ended at start with {status}; it said: {stderr}")]
    EarlyDeath {
        /// Its status.
        status: String,
        /// The end of its error output.
        stderr: String,
    },
    /// The emulator did not start, and its version is known not to work.
    #[error(
        "QEMU {version} ('{program}') does not work: {lacks}; take {needed} or later, and name it in KTSTR_QEMU if it is not the \
         first one on PATH (it said: {stderr})",
        program = program.display()
    )]
    OldQemu {
        /// The emulator.
        program: PathBuf,
        /// What it says that it is.
        version: String,
        /// The first version that has what it lacks.
        needed: String,
        /// What it lacks.
        lacks: &'static str,
        /// The end of its error output.
        stderr: String,
    },
    /// The engine did not answer in time.
    #[error("the engine did not {what} within {waited:?}")]
    Timeout {
        /// What was asked of it.
        what: String,
        /// The deadline.
        waited: Duration,
    },
    /// The VM is gone.
    #[error("the VM has ended, so it cannot {what}")]
    Gone {
        /// What was asked.
        what: String,
    },
    /// The engine refused.
    #[error("the engine refused to {what}: {reason}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its words.
        reason: String,
    },
    /// The guest cannot be booted; kvm only.
    #[error(transparent)]
    Boot(#[from] crate::boot_error::BootError),
    /// Another process holds what performance mode needs; trying again later may succeed.
    #[error(
        "{resource} is held by another VM in performance mode; run fewer at once, or try again"
    )]
    ResourceContention {
        /// The lock file.
        resource: String,
    },
    /// This host cannot give what performance mode needs: a reason to skip.
    #[error("performance mode needs {needed} {what}, this host gives {found}")]
    PerfModeUnavailable {
        /// What is missing.
        what: &'static str,
        /// How much is needed.
        needed: u32,
        /// How much there is.
        found: u32,
    },
    /// A saved guest cannot be used.
    #[error("the saved guest's file '{path}' is damaged: {why}; delete its directory to have it made again", path = path.display())]
    SavedDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An address outside the guest's memory.
    #[error("guest memory has no {len} bytes at GPA {gpa:#x}")]
    NoMemory {
        /// The guest physical address.
        gpa: u64,
        /// How many bytes.
        len: usize,
    },
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;
