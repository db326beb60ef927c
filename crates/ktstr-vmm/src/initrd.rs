//! The initial RAM file system as an engine takes it.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::PathBuf;

use crate::initramfs::{Initramfs, memory_file};

/// The initial RAM file system.
#[derive(Debug, Clone)]
pub enum Initrd {
    /// A file.
    File(PathBuf),
    /// An archive in memory.
    Bytes(Vec<u8>),
    /// An archive that was built here; no byte of it is copied.
    Archive(Initramfs),
}

impl Initrd {
    /// Its content as an open file, at its beginning.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system has no memory for the bytes.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self {
            Self::File(path) => File::open(path),
            Self::Archive(archive) => archive.open(),
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
            Self::Archive(archive) => Ok(archive.len()),
            Self::Bytes(bytes) => Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        }
    }
}
