//! Memory mapped into this process.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};

use super::volatile::VolatileSlice;
use super::{PhysMem, Range};
use crate::{Error, Gpa, Result, bytes};

/// A part of a file and the physical addresses it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Physical address of the first byte.
    pub gpa: Gpa,
    /// Its offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Guest memory in this process's address space: reads are volatile copies, so the guest may run meanwhile.
#[derive(Debug)]
pub struct MappedMem {
    /// Ascending, disjoint.
    regions: Vec<Region>,
    /// Keeps file mappings alive; empty when the caller does.
    _mapping: Option<MmapRaw>,
}

#[derive(Debug)]
struct Region {
    gpa: Gpa,
    slice: VolatileSlice,
    writable: bool,
}

/// How a file is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    ReadWrite,
}

impl MappedMem {
    /// Memory that the caller has mapped: physical address, first byte and length of each region.
    ///
    /// # Errors
    /// [`Error::Implausible`] when regions overlap or wrap.
    ///
    /// # Safety
    /// Each region must stay mapped for reading and writing for as long as the result lives.
    pub unsafe fn from_regions(regions: &[(Gpa, NonNull<u8>, usize)]) -> Result<Self> {
        let regions = regions
            .iter()
            .map(|&(gpa, base, len)| Region {
                gpa,
                // SAFETY: handed on to our caller, word for word.
                slice: unsafe { VolatileSlice::new(base, len) },
                writable: true,
            })
            .collect();
        Self::sorted(regions, None)
    }

    /// Maps a shared file (a memfd, a file under /dev/shm, …) that a running machine uses as its memory.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be mapped; pieces behind the file's end are cut off.
    pub fn shared(file: &File, pieces: &[Piece]) -> Result<Self> {
        Self::from_file(file, Path::new("guest memory"), pieces, Access::ReadWrite)
    }

    /// Maps pieces of a file for reading only.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be mapped; pieces behind the file's end are cut off.
    pub fn read_only(file: &File, path: &Path, pieces: &[Piece]) -> Result<Self> {
        Self::from_file(file, path, pieces, Access::Read)
    }

    fn from_file(file: &File, path: &Path, pieces: &[Piece], access: Access) -> Result<Self> {
        let len = file
            .metadata()
            .map_err(Error::io("get the size of", path))?
            .len();
        let mut options = MmapOptions::new();
        options.len(bytes::size(len));
        let mapping = match access {
            Access::Read => options.map_raw_read_only(file),
            Access::ReadWrite => options.map_raw(file),
        }
        .map_err(Error::io("map", path))?;
        let mut regions = Vec::new();
        for piece in pieces {
            let size = piece.len.min(len.saturating_sub(piece.offset));
            if size == 0 {
                continue;
            }
            let start = mapping.as_mut_ptr().wrapping_add(bytes::size(piece.offset));
            let Some(base) = NonNull::new(start) else {
                continue;
            };
            regions.push(Region {
                gpa: piece.gpa,
                // SAFETY: `offset + size` is at most the mapping's length, and `Self` keeps the mapping as long as
                // the slice. A file that shrinks later raises SIGBUS; dumps and memory files do not shrink.
                slice: unsafe { VolatileSlice::new(base, bytes::size(size)) },
                writable: access == Access::ReadWrite,
            });
        }
        Self::sorted(regions, Some(mapping))
    }

    fn sorted(mut regions: Vec<Region>, mapping: Option<MmapRaw>) -> Result<Self> {
        regions.sort_by_key(|region| region.gpa);
        let mut end = 0;
        for region in &regions {
            let len = region.slice.len() as u64;
            let next = region.gpa.0.checked_add(len);
            match next {
                Some(next) if region.gpa.0 >= end => end = next,
                _ => {
                    return Err(Error::Implausible {
                        what: "start of a memory region (overlaps or wraps)",
                        value: region.gpa.0,
                    });
                }
            }
        }
        Ok(Self {
            regions,
            _mapping: mapping,
        })
    }

    /// The region that holds `gpa`, and the offset in it.
    fn region(&self, gpa: Gpa) -> Option<(&Region, usize)> {
        let index = self
            .regions
            .partition_point(|region| region.gpa <= gpa)
            .checked_sub(1)?;
        let region = self.regions.get(index)?;
        let offset = bytes::size(gpa.0 - region.gpa.0);
        (offset < region.slice.len()).then_some((region, offset))
    }

    /// Calls `copy` for each region that `len` bytes from `gpa` touch: region, offset, and the span of bytes.
    fn spans(
        &self,
        gpa: Gpa,
        len: usize,
        mut copy: impl FnMut(&Region, usize, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let here = gpa.checked_add(done as u64);
            let Some((region, offset)) = here.and_then(|here| self.region(here)) else {
                return Err(Error::NoMemory {
                    gpa: here.unwrap_or(gpa),
                    len: len - done,
                });
            };
            let size = (len - done).min(region.slice.len() - offset);
            copy(region, offset, done..done + size)?;
            done += size;
        }
        Ok(())
    }
}

impl PhysMem for MappedMem {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()> {
        self.spans(gpa, buffer.len(), |region, offset, span| {
            buffer
                .get_mut(span)
                .and_then(|part| region.slice.read(offset, part))
                .ok_or(Error::NoMemory { gpa, len: 0 })
        })
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<()> {
        self.spans(gpa, bytes.len(), |region, _, span| {
            let at = Gpa(gpa.0 + span.start as u64);
            region
                .writable
                .then_some(())
                .ok_or(Error::ReadOnly { gpa: at })
        })?;
        self.spans(gpa, bytes.len(), |region, offset, span| {
            bytes
                .get(span)
                .and_then(|part| region.slice.write(offset, part))
                .ok_or(Error::NoMemory { gpa, len: 0 })
        })
    }

    fn ranges(&self) -> Vec<Range> {
        self.regions
            .iter()
            .map(|region| Range {
                gpa: region.gpa,
                len: region.slice.len() as u64,
            })
            .collect()
    }
}

/// Opens a raw image of physical memory: byte n of the file is physical byte n.
///
/// # Errors
/// [`Error::Io`] when the file cannot be opened or mapped.
pub fn open_raw(path: &Path) -> Result<MappedMem> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let len = file
        .metadata()
        .map_err(Error::io("get the size of", path))?
        .len();
    let whole = Piece {
        gpa: Gpa(0),
        offset: 0,
        len,
    };
    MappedMem::read_only(&file, path, &[whole])
}
