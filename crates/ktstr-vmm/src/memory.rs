//! The guest's physical memory: mapped into this process, or reached through the emulator's.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{Advice, madvise};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap,
    GuestMemoryRegion as _,
};

use crate::error::{Error, Result};

/// Guest memory. Clones share it. What is mapped here lives as long as any of them; the memory of a guest that was started from a
/// saved one is its emulator's own, and is gone with it.
#[derive(Debug, Clone)]
pub struct GuestMemory(Place);

#[derive(Debug, Clone)]
enum Place {
    Mapped(GuestMemoryMmap<()>),
    Emulator(Arc<EmulatorMemory>),
}

/// Guest memory that an emulator has mapped for itself alone: its copy of what was saved.
#[derive(Debug)]
pub(crate) struct EmulatorMemory {
    /// The emulator's address space (proc(5), `/proc/pid/mem`).
    pub(crate) space: File,
    pub(crate) pieces: Vec<EmulatorPiece>,
}

/// A range of guest memory, and where the emulator has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EmulatorPiece {
    pub(crate) range: MemoryRange,
    pub(crate) address: u64,
}

impl EmulatorMemory {
    /// Does `one` with each part of `len` bytes at `gpa`: where it lies in the buffer, and in the emulator.
    fn each(
        &self,
        gpa: u64,
        len: usize,
        mut one: impl FnMut(std::ops::Range<usize>, u64) -> std::io::Result<()>,
    ) -> Result<()> {
        let missing = || Error::NoMemory { gpa, len };
        let mut done = 0;
        while done < len {
            let at = gpa.checked_add(done as u64).ok_or_else(missing)?;
            let mut pieces = self.pieces.iter();
            let piece = pieces
                .find(|piece| at >= piece.range.gpa && at - piece.range.gpa < piece.range.len);
            let piece = piece.ok_or_else(missing)?;
            let offset = at - piece.range.gpa;
            let left = usize::try_from(piece.range.len - offset).unwrap_or(usize::MAX);
            let part = left.min(len - done);
            one(done..done + part, piece.address + offset).map_err(Error::system(
                "reach the emulator's memory, which ends with it",
            ))?;
            done += part;
        }
        Ok(())
    }
}

/// A contiguous range of guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
        match &self.0 {
            Place::Mapped(mapping) => mapping
                .read_slice(buffer, GuestAddress(gpa))
                .map_err(|_| Error::NoMemory { gpa, len }),
            Place::Emulator(memory) => memory.each(gpa, len, |part, address| {
                let part = buffer.get_mut(part).unwrap_or_default();
                memory.space.read_exact_at(part, address)
            }),
        }
    }

    /// Writes guest memory.
    ///
    /// # Errors
    /// When any byte lies outside the guest's memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len();
        match &self.0 {
            Place::Mapped(mapping) => mapping
                .write_slice(bytes, GuestAddress(gpa))
                .map_err(|_| Error::NoMemory { gpa, len }),
            Place::Emulator(memory) => memory.each(gpa, len, |part, address| {
                let part = bytes.get(part).unwrap_or_default();
                memory.space.write_all_at(part, address)
            }),
        }
    }

    /// The ranges that are memory, ascending.
    #[must_use]
    pub fn ranges(&self) -> Vec<MemoryRange> {
        match &self.0 {
            Place::Mapped(mapping) => mapping
                .iter()
                .map(|region| MemoryRange {
                    gpa: region.start_addr().0,
                    len: region.len(),
                })
                .collect(),
            Place::Emulator(memory) => memory.pieces.iter().map(|piece| piece.range).collect(),
        }
    }

    /// The mapping itself, for vm-memory's own readers; `None` for memory that is its emulator's own.
    #[must_use]
    pub fn inner(&self) -> Option<&GuestMemoryMmap<()>> {
        match &self.0 {
            Place::Mapped(mapping) => Some(mapping),
            Place::Emulator(_) => None,
        }
    }

    /// The mapping, for what works on nothing else.
    pub(crate) fn mapping(&self) -> Result<&GuestMemoryMmap<()>> {
        self.inner().ok_or_else(|| Error::Refused {
            what: String::from("map guest memory"),
            reason: String::from("it is the emulator's own"),
        })
    }

    /// Of an emulator that has none yet.
    pub(crate) fn nowhere() -> Result<Self> {
        let space = File::open("/dev/null").map_err(Error::system("open /dev/null"))?;
        Ok(Self::of_emulator(EmulatorMemory {
            space,
            pieces: Vec::new(),
        }))
    }

    pub(crate) fn of_emulator(memory: EmulatorMemory) -> Self {
        Self(Place::Emulator(Arc::new(memory)))
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

/// Memory of this process alone, in huge pages as far as the system has them: files in memory have none where `shmem_enabled` is
/// "never", which is the default.
pub(crate) fn anonymous(ranges: &[MemoryRange]) -> Result<GuestMemory> {
    let pieces = ranges.iter().map(|range| {
        let size = usize::try_from(range.len).map_err(|_| Error::NoMemory {
            gpa: range.gpa,
            len: usize::MAX,
        });
        size.map(|size| (GuestAddress(range.gpa), size))
    });
    let pieces: Vec<_> = pieces.collect::<Result<_>>()?;
    let mapping = GuestMemoryMmap::from_ranges(&pieces).map_err(|error| Error::System {
        what: "map guest memory",
        source: std::io::Error::other(error),
    })?;
    for region in mapping.iter() {
        let start: *mut std::ffi::c_void = region.as_ptr().cast();
        // A child of this process must not make the guest's pages ones to be copied.
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontFork] {
            // SAFETY: the range is one whole mapping of this process, just made; both kinds of advice leave its contents alone.
            let advised = unsafe { madvise(start, region.size(), advice) };
            if let Err(error) = advised {
                tracing::debug!(%error, ?advice, "advice on guest memory is refused");
            }
        }
    }
    Ok(GuestMemory(Place::Mapped(mapping)))
}

/// A part of guest memory that is contiguous in one of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilePiece {
    pub(crate) range: MemoryRange,
    /// The file's number, and where the part lies in it.
    pub(crate) file: usize,
    pub(crate) offset: u64,
}

/// Files of these lengths, laid end to end over `ranges`.
pub(crate) fn pieces(lens: &[u64], ranges: &[MemoryRange]) -> Vec<FilePiece> {
    let mut pieces = Vec::new();
    let mut ranges = ranges.iter().copied();
    let mut range = ranges.next();
    for (file, file_len) in lens.iter().copied().enumerate() {
        let mut offset = 0;
        while let Some(current) = range.filter(|_| offset < file_len) {
            let len = current.len.min(file_len - offset);
            let gpa = current.gpa;
            pieces.push(FilePiece {
                range: MemoryRange { gpa, len },
                file,
                offset,
            });
            offset += len;
            let rest = MemoryRange {
                gpa: gpa + len,
                len: current.len - len,
            };
            range = if rest.len > 0 {
                Some(rest)
            } else {
                ranges.next()
            };
        }
    }
    pieces
}

/// Maps `backings`, laid end to end, over `ranges`.
pub(crate) fn map(backings: &[Backing], ranges: &[MemoryRange]) -> Result<GuestMemory> {
    let lens: Vec<u64> = backings.iter().map(|backing| backing.len).collect();
    let mut mapped = Vec::new();
    for piece in pieces(&lens, ranges) {
        let MemoryRange { gpa, len } = piece.range;
        let Some(backing) = backings.get(piece.file) else {
            continue;
        };
        let file = backing.file.try_clone();
        let file = file.map_err(Error::system("share guest memory"))?;
        let size = usize::try_from(len).map_err(|_| Error::NoMemory {
            gpa,
            len: usize::MAX,
        })?;
        let place = FileOffset::new(file, piece.offset);
        mapped.push((GuestAddress(gpa), size, Some(place)));
    }
    let mapping =
        GuestMemoryMmap::from_ranges_with_files(mapped).map_err(|error| Error::System {
            what: "map guest memory",
            source: std::io::Error::other(error),
        })?;
    Ok(GuestMemory(Place::Mapped(mapping)))
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

    /// This process plays the emulator: two buffers of it are guest memory around a hole.
    #[test]
    fn an_emulators_own_memory_is_read_and_written_in_its_address_space() {
        let low = b"low memory".to_vec();
        let mut high = b"high".to_vec();
        let piece = |gpa, bytes: &[u8]| EmulatorPiece {
            range: MemoryRange {
                gpa,
                len: bytes.len() as u64,
            },
            address: bytes.as_ptr() as u64,
        };
        let pieces = vec![piece(0x1000, &low), piece(0x100a, &high)];
        let space = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem")
            .unwrap();
        high.fill(b'H');
        let memory = GuestMemory::of_emulator(EmulatorMemory { space, pieces });
        let mut found = [0; 8];
        memory.read(0x1004, &mut found).unwrap();
        assert_eq!(&found, b"memoryHH");
        memory.write(0x100c, b"xy").unwrap();
        memory.read(0x100a, &mut found[..4]).unwrap();
        assert_eq!(&found[..4], b"HHxy");
        assert_eq!(memory.ranges().len(), 2);
        for gpa in [0xfff, 0x100d, u64::MAX] {
            let error = memory.read(gpa, &mut [0; 2]).unwrap_err();
            assert!(matches!(error, Error::NoMemory { .. }), "{gpa:#x}: {error}");
        }
        assert!(memory.inner().is_none());
    }

    #[test]
    fn memory_of_kvm_guests_may_be_huge_pages_and_no_child_shares_it() {
        let ranges = [MemoryRange {
            gpa: 0,
            len: 8 << 20,
        }];
        let memory = anonymous(&ranges).unwrap();
        let start = memory.inner().unwrap().iter().next().unwrap().as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut flags = "";
        let mut inside = false;
        for line in smaps.lines() {
            let bounds = line.split(' ').next().and_then(|word| word.split_once('-'));
            let bound = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((Some(from), Some(to))) = bounds.map(|(from, to)| (bound(from), bound(to)))
            {
                inside = (from..to).contains(&start);
            } else if let (true, Some(rest)) = (inside, line.strip_prefix("VmFlags:")) {
                flags = rest;
            }
        }
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        assert!(has("dc"), "{flags}");
        let can = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        assert_eq!(has("hg"), can, "{flags}");
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
