//! Physical memory: the trait that readers need, and three sources of it.
//!
//! | source | type |
//! |---|---|
//! | memory of a running guest, mapped into this process | [`MappedMem`] |
//! | ELF vmcore as QEMU's `dump-guest-memory` and kdump write it | [`Vmcore`] |
//! | raw file whose byte n is physical byte n | [`open_raw`] |

mod mapped;
mod sparse;
mod vmcore;
mod volatile;

pub use mapped::{MappedMem, Piece, open_raw};
pub use sparse::SparseMem;
pub use vmcore::Vmcore;

use crate::{Error, Gpa, Result};

/// A contiguous range of guest physical addresses that is memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
}

impl Range {
    /// First address behind the range.
    #[must_use]
    pub fn end(&self) -> Gpa {
        Gpa(self.gpa.0.saturating_add(self.len))
    }
}

/// What a dump says about the machine beside its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Page table root of each vCPU, in order.
    pub cr3: Vec<u64>,
    /// The kernel's VMCOREINFO note, a text of `KEY=value` lines.
    pub vmcoreinfo: Option<String>,
    /// Registers of each vCPU, in order, where the dump has them.
    pub vcpus: Vec<VcpuHint>,
}

/// One vCPU's registers as a dump keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VcpuHint {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Flags.
    pub rflags: u64,
    /// Page table root; 0 when the dump does not tell.
    pub cr3: u64,
}

/// One read of a batch.
#[derive(Debug)]
pub struct BatchRead<'a> {
    /// Where to read.
    pub gpa: Gpa,
    /// What to fill; untouched when the read fails.
    pub buffer: &'a mut [u8],
    /// Whether all of `buffer` was filled.
    pub done: bool,
}

/// Guest physical memory.
///
/// The guest may run and write meanwhile. Implementations copy out; an aligned number of 1, 2, 4 or 8 bytes should be
/// read whole, longer reads may be torn.
pub trait PhysMem: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` from `gpa` on.
    ///
    /// # Errors
    /// [`Error::NoMemory`] with the first address that is missing; `buffer` is then unspecified.
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<()>;

    /// The ranges that are memory, ascending and disjoint.
    fn ranges(&self) -> Vec<Range>;

    /// Writes `bytes` at `gpa`.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] where memory cannot be written, [`Error::NoMemory`] where there is none.
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        Err(Error::ReadOnly { gpa })
    }

    /// Reads many places; those that fail stay marked `done: false`.
    fn read_batch(&self, reads: &mut [BatchRead<'_>]) {
        for read in reads {
            read.done = self.read(read.gpa, read.buffer).is_ok();
        }
    }

    /// Reads a little-endian number of 4 bytes.
    ///
    /// # Errors
    /// As [`PhysMem::read`].
    fn read_u32(&self, gpa: Gpa) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian number of 8 bytes.
    ///
    /// # Errors
    /// As [`PhysMem::read`].
    fn read_u64(&self, gpa: Gpa) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// What the source knows beside memory.
    fn hints(&self) -> Hints {
        Hints::default()
    }
}

#[cfg(test)]
mod tests;
