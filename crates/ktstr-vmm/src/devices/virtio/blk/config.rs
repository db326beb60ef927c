//! What a disk is made of.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskSource {
    /// A raw file, as long as the disk.
    File(PathBuf),
    /// Memory that ends with the VM, of this many bytes, all zero.
    Memory(u64),
}

/// Upper bounds of a disk's rates. One second's worth may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Throttle {
    /// Requests per second.
    pub iops: Option<u32>,
    /// Data bytes per second.
    pub bytes_per_second: Option<u64>,
}

impl Throttle {
    /// No bounds.
    pub const NONE: Self = Self {
        iops: None,
        bytes_per_second: None,
    };

    /// Bounds the requests per second.
    #[must_use]
    pub const fn iops(mut self, iops: u32) -> Self {
        self.iops = Some(iops);
        self
    }

    /// Bounds the data bytes per second.
    #[must_use]
    pub const fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }
}

/// A disk; the guest finds them in order as vda, vdb, …
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub(crate) source: DiskSource,
    pub(crate) read_only: bool,
    pub(crate) throttle: Throttle,
}

impl Disk {
    /// A writable disk without a throttle.
    #[must_use]
    pub fn new(source: DiskSource) -> Self {
        Self {
            source,
            read_only: false,
            throttle: Throttle::default(),
        }
    }

    /// Refuses writes.
    #[must_use]
    pub fn read_only(mut self, on: bool) -> Self {
        self.read_only = on;
        self
    }

    /// Bounds its rates.
    #[must_use]
    pub fn throttle(mut self, throttle: Throttle) -> Self {
        self.throttle = throttle;
        self
    }

    pub(super) fn open(&self) -> io::Result<File> {
        match &self.source {
            DiskSource::File(path) => File::options().read(true).write(!self.read_only).open(path),
            DiskSource::Memory(bytes) => {
                let memory = memfd_create("ktstr-disk", MemfdFlags::CLOEXEC)?;
                ftruncate(&memory, *bytes)?;
                Ok(File::from(memory))
            }
        }
    }
}
