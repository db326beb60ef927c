//! What can go wrong while reading a foreign kernel.

use std::path::PathBuf;

use crate::{Gpa, Kva};

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A read, a walk or a search that could not be completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Part of a read or write lies outside memory.
    #[error("no memory at GPA {gpa} ({len} bytes wanted)")]
    NoMemory {
        /// First byte wanted.
        gpa: Gpa,
        /// Bytes wanted.
        len: usize,
    },
    /// A write to memory that can only be read.
    #[error("memory at GPA {gpa} is read-only here")]
    ReadOnly {
        /// Where the write was to go.
        gpa: Gpa,
    },
    /// The page tables map nothing at this address.
    #[error("KVA {kva} is not mapped: {why}")]
    NotMapped {
        /// The virtual address.
        kva: Kva,
        /// The level of the walk that ended it.
        why: &'static str,
    },
    /// A file could not be opened, read or mapped.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A dump in a form that this crate does not read.
    #[error("{} is not an ELF vmcore of x86-64: {why}", path.display())]
    BadVmcore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A vmlinux that cannot be used.
    #[error("{} is not a usable vmlinux: {why}", path.display())]
    BadVmlinux {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A vmlinux of another kernel than the one in memory.
    #[error("{} is not the kernel in memory: build id {found}, expected {expected}; give the vmlinux of that build, or none", path.display())]
    WrongVmlinux {
        /// The file.
        path: PathBuf,
        /// Build id of the kernel in memory.
        expected: String,
        /// Build id of the file.
        found: String,
    },
    /// No Linux kernel was recognised in memory.
    #[error("no Linux kernel found in memory: {why}")]
    NoKernel {
        /// How far the search came.
        why: String,
    },
    /// Type information that contradicts itself.
    #[error("bad BTF at byte {offset}: {what}")]
    BadBtf {
        /// Offset into the BTF blob.
        offset: usize,
        /// The rule it breaks.
        what: &'static str,
    },
    /// No type of that name.
    #[error("this kernel has no type {name}")]
    NoType {
        /// The C name.
        name: String,
    },
    /// A struct without that member.
    #[error("{ty} has no member {path} in this kernel")]
    NoField {
        /// The C type.
        ty: String,
        /// The dotted path.
        path: String,
    },
    /// No symbol of that name.
    #[error("this kernel has no symbol {name}")]
    NoSymbol {
        /// The symbol.
        name: String,
    },
    /// A value that cannot be true.
    #[error("{what} is implausible: {value:#x}")]
    Implausible {
        /// What was read.
        what: &'static str,
        /// What it said.
        value: u64,
    },
    /// A walk that was stopped because it went on for too long.
    #[error("{what} goes on past {limit} entries: stopped")]
    TooLong {
        /// The walk.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
    /// A list that returns to a place it has been at.
    #[error("{what} has a cycle at {at}: stopped")]
    Cycle {
        /// The walk.
        what: &'static str,
        /// The entry met twice.
        at: Kva,
    },
    /// Something this crate knows of but does not do.
    #[error("{what} cannot be read: {why}")]
    Unsupported {
        /// The thing asked for.
        what: String,
        /// Why not.
        why: String,
    },
}

impl Error {
    /// Whether the kernel simply lacks the thing asked for (a type, member or symbol), so that its value is absent.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.absent().is_some()
    }

    /// The name of what the kernel lacks: `struct scx_rq.pnt_seq`, `symbol scx_root`.
    pub(crate) fn absent(&self) -> Option<String> {
        match self {
            Self::NoType { name } => Some(name.clone()),
            Self::NoField { ty, path } => Some(format!("{ty}.{path}")),
            Self::NoSymbol { name } => Some(format!("symbol {name}")),
            _ => None,
        }
    }

    /// Wraps an I/O error.
    pub(crate) fn io(
        what: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
