//! The archive as it is written: newc entries in a file that lies in memory.
//!
//! Contents go from the page cache through one small buffer to their place, so no page is touched twice by this process,
//! and the engines take the file as it is.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

pub(super) const S_IFDIR: u32 = 0o040_000;
pub(super) const S_IFCHR: u32 = 0o020_000;
pub(super) const S_IFREG: u32 = 0o100_000;
pub(super) const S_IFLNK: u32 = 0o120_000;

/// Bytes that are copied at a time: they stay in a core's own cache.
const BUFFER: usize = 256 << 10;

/// What an entry is, beside its name and content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Type and permissions, as in `stat`.
    pub(super) mode: u32,
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
}

impl Kind {
    pub(super) fn of(mode: u32) -> Self {
        Self {
            mode,
            device: (0, 0),
        }
    }
}

/// Another view of an open file with a position of its own.
///
/// # Errors
/// When the process has no descriptor left.
pub(crate) fn reopen(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Writes entries one after the other.
pub(super) struct Archive {
    file: File,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are not in the file yet.
    pending: usize,
    /// Bytes of the whole archive so far.
    len: u64,
    inode: u32,
}

impl Archive {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            file: File::from(memfd_create("ktstr-initramfs", MemfdFlags::CLOEXEC)?),
            buffer: vec![0; BUFFER],
            pending: 0,
            len: 0,
            inode: 0,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// One header and name; `size` bytes of content are to follow, and [`pad`](Self::pad).
    pub(super) fn entry(&mut self, name: &str, kind: Kind, size: u32) -> io::Result<()> {
        self.inode += 1;
        let Kind { mode, device } = kind;
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let name_len = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_len, 0,
        ];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(b"\0")?;
        self.pad()
    }

    /// Content from memory.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let now = room.len().min(bytes.len());
            let (head, rest) = bytes.split_at(now);
            room[..now].copy_from_slice(head);
            self.filled(now);
            bytes = rest;
        }
        Ok(())
    }

    /// Content from `len` bytes of a file. One that became shorter meanwhile is an error.
    pub(super) fn copy(&mut self, from: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let room = self.room()?;
            let most = usize::try_from(len).map_or(room.len(), |len| len.min(room.len()));
            let now = match from.read_at(&mut room[..most], offset) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file became shorter while it was read",
                    ));
                }
                Ok(now) => now,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.filled(now);
            let done = u64::try_from(now).unwrap_or(len);
            offset += done;
            len = len.saturating_sub(done);
        }
        Ok(())
    }

    /// Zeros up to the next multiple of four.
    pub(super) fn pad(&mut self) -> io::Result<()> {
        let gap = usize::try_from(self.len.next_multiple_of(4) - self.len).unwrap_or(0);
        self.put(&[0; 4][..gap])
    }

    /// The end mark, and the finished file.
    pub(super) fn finish(mut self) -> io::Result<(File, u64)> {
        self.entry("TRAILER!!!", Kind::of(0), 0)?;
        self.flush()?;
        Ok((self.file, self.len))
    }

    /// Free room in the buffer, never empty.
    fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.pending == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.pending..])
    }

    fn filled(&mut self, count: usize) {
        self.pending += count;
        self.len += u64::try_from(count).unwrap_or(0);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer[..self.pending])?;
        self.pending = 0;
        Ok(())
    }
}
