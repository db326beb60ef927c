//! The initial RAM file system as an engine takes it.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

/// A file of memory that outlives nothing.
///
/// # Errors
/// When the system gives none.
pub(crate) fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// The initial RAM file system.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Initrd {
    /// A file.
    File(PathBuf),
    /// An archive in memory.
    Bytes(Vec<u8>),
    /// An open file, such as a file of memory; no byte of it is copied, and its position stays.
    Opened(Arc<File>),
}

impl Initrd {
    /// Its content as an open file, at its beginning.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system has no memory for the bytes.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self {
            Self::File(path) => File::open(path),
            Self::Opened(file) => File::open(format!("/proc/self/fd/{}", file.as_raw_fd())),
            Self::Bytes(bytes) => {
                let mut file = memory_file("ktstr-initrd")?;
                file.write_all(bytes)?;
                file.rewind()?;
                Ok(file)
            }
        }
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(File::open(path)?.metadata()?.len()),
            Self::Opened(file) => Ok(file.metadata()?.len()),
            Self::Bytes(bytes) => Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        }
    }
}
