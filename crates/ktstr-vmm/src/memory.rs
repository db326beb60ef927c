//! The guest's physical memory, mapped into this process.

use std::fs::File;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap,
    GuestMemoryRegion as _,
};

use crate::error::{Error, Result};

/// Shared guest memory. Clones share the mapping, which lives as long as any of them.
#[derive(Debug, Clone)]
pub struct GuestMemory(GuestMemoryMmap<()>);

/// A contiguous range of guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// First guest physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
}

impl GuestMemory {
    /// Memory of `len` bytes as a guest's is laid out, without a guest: for readers' tests, and for benchmarks. Pages come
    /// into being when they are touched.
    ///
    /// # Errors
    /// When the system refuses the file or the mapping.
    pub fn without_guest(len: u64) -> Result<Self> {
        map(&[Backing::new(len)?], &q35_ranges(len))
    }

    /// Reads guest memory; the guest may write at the same time, so a value may be torn.
    ///
    /// # Errors
    /// When any byte lies outside the guest's memory.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<()> {
        let len = buffer.len();
        self.0
            .read_slice(buffer, GuestAddress(gpa))
            .map_err(|_| Error::NoMemory { gpa, len })
    }

    /// Writes guest memory.
    ///
    /// # Errors
    /// When any byte lies outside the guest's memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        self.0
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(|_| Error::NoMemory {
                gpa,
                len: bytes.len(),
            })
    }

    /// The ranges that are memory, ascending.
    #[must_use]
    pub fn ranges(&self) -> Vec<MemoryRange> {
        self.0
            .iter()
            .map(|region| MemoryRange {
                gpa: region.start_addr().0,
                len: region.len(),
            })
            .collect()
    }

    /// The mapping itself, for vm-memory's own readers.
    #[must_use]
    pub fn inner(&self) -> &GuestMemoryMmap<()> {
        &self.0
    }
}

/// One node's memory as a file that engine and host map.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) file: File,
    pub(crate) len: u64,
}

impl Backing {
    /// An empty file of that size; pages come into being when touched.
    pub(crate) fn new(len: u64) -> Result<Self> {
        Self::with_flags(len, MemfdFlags::empty())
    }

    /// A file of 2 MiB pages, all of them there already; the system refuses when it has too few free.
    pub(crate) fn huge(len: u64) -> Result<Self> {
        let backing = Self::with_flags(len, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
        fallocate(&backing.file, FallocateFlags::empty(), 0, len).map_err(|errno| {
            Error::System {
                what: "fill guest memory with huge pages",
                source: errno.into(),
            }
        })?;
        Ok(backing)
    }

    fn with_flags(len: u64, flags: MemfdFlags) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | flags;
        let fd = memfd_create("ktstr-guest-memory", flags).map_err(|errno| Error::System {
            what: "create guest memory",
            source: errno.into(),
        })?;
        ftruncate(&fd, len).map_err(|errno| Error::System {
            what: "size guest memory",
            source: errno.into(),
        })?;
        Ok(Self {
            file: File::from(fd),
            len,
        })
    }
}

/// Where q35 puts memory: below 4 GiB up to a hole whose place depends on the size (QEMU `hw/i386/pc_q35.c`), the rest above.
pub(crate) fn q35_ranges(total: u64) -> Vec<MemoryRange> {
    const LARGE: u64 = 0xb000_0000;
    const LOW_OF_LARGE: u64 = 0x8000_0000;
    const ABOVE_4G: u64 = 1 << 32;
    if total < LARGE {
        return vec![MemoryRange { gpa: 0, len: total }];
    }
    vec![
        MemoryRange {
            gpa: 0,
            len: LOW_OF_LARGE,
        },
        MemoryRange {
            gpa: ABOVE_4G,
            len: total - LOW_OF_LARGE,
        },
    ]
}

/// Maps `backings`, laid end to end, over `ranges`.
pub(crate) fn map(backings: &[Backing], ranges: &[MemoryRange]) -> Result<GuestMemory> {
    let mut pieces = Vec::new();
    let mut ranges = ranges.iter().copied();
    let mut range = ranges.next();
    for backing in backings {
        let mut offset = 0;
        while let Some(current) = range.filter(|_| offset < backing.len) {
            let len = current.len.min(backing.len - offset);
            let file = backing
                .file
                .try_clone()
                .map_err(Error::system("share guest memory"))?;
            let size = usize::try_from(len).map_err(|_| Error::NoMemory {
                gpa: current.gpa,
                len: usize::MAX,
            })?;
            pieces.push((
                GuestAddress(current.gpa),
                size,
                Some(FileOffset::new(file, offset)),
            ));
            offset += len;
            let rest = MemoryRange {
                gpa: current.gpa + len,
                len: current.len - len,
            };
            range = if rest.len > 0 {
                Some(rest)
            } else {
                ranges.next()
            };
        }
    }
    let mapping =
        GuestMemoryMmap::from_ranges_with_files(pieces).map_err(|error| Error::System {
            what: "map guest memory",
            source: std::io::Error::other(error),
        })?;
    Ok(GuestMemory(mapping))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_lie_end_to_end_around_the_hole() {
        let ranges = [
            MemoryRange {
                gpa: 0,
                len: 0x3000,
            },
            MemoryRange {
                gpa: 0x10000,
                len: 0x5000,
            },
        ];
        let backings = [Backing::new(0x2000).unwrap(), Backing::new(0x6000).unwrap()];
        let memory = map(&backings, &ranges).unwrap();
        memory.write(0x10000, b"high").unwrap();
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&backings[1].file, &mut bytes, 0x1000).unwrap();
        assert_eq!(&bytes, b"high");
        let error = memory.read(0x2fff, &mut [0; 2]).unwrap_err().to_string();
        assert_eq!(error, "guest memory has no 2 bytes at GPA 0x2fff");
    }

    #[test]
    fn large_guests_have_a_hole_below_4_gib() {
        assert_eq!(q35_ranges(1 << 30).len(), 1);
        let large = q35_ranges(4 << 30);
        assert_eq!(
            large[1],
            MemoryRange {
                gpa: 1 << 32,
                len: 2 << 30
            }
        );
    }
}
