//! Bytes that are owned or mapped from a file.

use std::fmt;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// An immutable run of bytes.
pub enum Blob {
    /// On the heap.
    Owned(Vec<u8>),
    /// A range of a mapped file.
    Mapped {
        /// The mapping.
        file: Mmap,
        /// The bytes in question.
        range: std::ops::Range<usize>,
    },
}

impl Blob {
    /// Maps a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened or mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the caches and kernel images mapped here are replaced by rename, never changed in place; a file
        // that shrinks under us raises SIGBUS, as for every program that maps its input.
        let file = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let range = 0..file.len();
        Ok(Self::Mapped { file, range })
    }

    /// The part `range` of these bytes, or nothing when it is not inside.
    #[must_use]
    pub fn slice(self, range: std::ops::Range<usize>) -> Option<Self> {
        self.bytes().get(range.clone())?;
        Some(match self {
            Self::Owned(bytes) => Self::Owned(bytes.get(range)?.to_vec()),
            Self::Mapped { file, range: outer } => Self::Mapped {
                file,
                range: outer.start + range.start..outer.start + range.end,
            },
        })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped { file, range } => file.get(range.clone()).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Owned(_) => "owned",
            Self::Mapped { .. } => "mapped",
        };
        write!(f, "Blob({kind}, {} bytes)", self.bytes().len())
    }
}
