//! `IoSyncWrite`, `IoRandRead` and `IoConvoy`: files. They exercise `io_schedule` and wake-ups from block completion.
//!
//! One iteration is 4 KiB written and synced, or read: one work unit. There is no wake latency, for the disk's time is not known;
//! the time inside an I/O call is no gap. `IoSyncWrite` and `IoRandRead` use the test's own disk if it has one (reads pass the page
//! cache by), else, like `IoConvoy` always, a temporary file; where that lies in memory, syncing does not sleep.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;

use super::super::meter::Meter;
use super::super::os::errno_of;
use super::{Body, Place, body};

/// Bytes of one transfer.
const BLOCK: usize = 4_096;
/// Blocks of a temporary file.
const BLOCKS: u64 = 1_024;

/// A block whose address suits `O_DIRECT`.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

/// A file that is written block by block, round and round.
pub(super) struct BlockFile {
    file: File,
    block: Box<Aligned>,
    next: u64,
    /// The part of the file that is written.
    blocks: std::ops::Range<u64>,
}

impl BlockFile {
    /// A temporary file without a name.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn temporary() -> Result<Self, Errno> {
        let file = tempfile::tempfile().map_err(|fault| errno_of(&fault))?;
        Ok(Self::of(file))
    }

    fn of(file: File) -> Self {
        Self {
            file,
            block: Box::new(Aligned([0x5a; BLOCK])),
            next: 0,
            blocks: 0..BLOCKS,
        }
    }

    /// A part of the disk for worker `index`; several share one where the disk has too few.
    fn on_disk(disk: &Path, index: usize) -> Result<Self, Errno> {
        let (file, total) = open_disk(OpenOptions::new().write(true), disk)?;
        let each = total.min(BLOCKS);
        let start = index as u64 % (total / each) * each;
        Ok(Self {
            blocks: start..start + each,
            ..Self::of(file)
        })
    }

    /// Writes some blocks and waits until they are on disk; the time in it is no gap.
    pub(super) fn write_and_sync(&mut self, blocks: u32, meter: &mut Meter<'_>) {
        meter.rest();
        for _ in 0..blocks {
            let len = self.blocks.end - self.blocks.start;
            let offset = (self.blocks.start + self.next % len) * BLOCK as u64;
            self.next += 1;
            // A full disk shows as missing iterations elsewhere; a rewrite needs no room.
            let _ = self.file.write_all_at(&self.block.0, offset);
        }
        let _ = self.file.sync_data();
        meter.awake(false);
    }
}

pub(super) fn sync_write<'a>(place: &Place<'a>) -> Result<Body<'a>, Errno> {
    let mut file = match place.disk {
        Some(disk) => match BlockFile::on_disk(disk, place.index) {
            // A disk that the test declared read-only.
            Err(Errno::PERM | Errno::ACCESS | Errno::ROFS) => BlockFile::temporary()?,
            file => file?,
        },
        None => BlockFile::temporary()?,
    };
    body(move |meter: &mut Meter<'_>| {
        while !meter.stopping() {
            file.write_and_sync(1, meter);
            meter.tick(1);
        }
    })
}

pub(super) fn convoy<'a>(place: &Place<'a>) -> Result<Body<'a>, Errno> {
    let shared = place.kit.file.as_ref().ok_or(Errno::BADF)?;
    let mut file = BlockFile::of(shared.try_clone().map_err(|fault| errno_of(&fault))?);
    file.next = place.index as u64;
    body(move |meter: &mut Meter<'_>| {
        while !meter.stopping() {
            file.write_and_sync(1, meter);
            meter.tick(1);
        }
    })
}

pub(super) fn rand_read<'a>(disk: Option<&Path>) -> Result<Body<'a>, Errno> {
    let (file, blocks) = match disk {
        Some(disk) => open_disk(
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECT),
            disk,
        )?,
        None => filled_file()?,
    };
    let mut block = Box::new(Aligned([0; BLOCK]));
    body(move |meter: &mut Meter<'_>| {
        while !meter.stopping() {
            let offset = meter.next_choice() % blocks * BLOCK as u64;
            meter.rest();
            let read = file.read_exact_at(&mut block.0, offset);
            meter.awake(false);
            // A read that fails is no work done.
            meter.tick(u64::from(read.is_ok()));
        }
    })
}

/// The disk and its number of blocks.
fn open_disk(options: &OpenOptions, disk: &Path) -> Result<(File, u64), Errno> {
    let mut file = options.open(disk).map_err(|fault| errno_of(&fault))?;
    let end = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0));
    let bytes = end.map_err(|fault| errno_of(&fault))?;
    let blocks = bytes / BLOCK as u64;
    if blocks == 0 {
        Err(Errno::NODATA)
    } else {
        Ok((file, blocks))
    }
}

fn filled_file() -> Result<(File, u64), Errno> {
    let file = tempfile::tempfile().map_err(|fault| errno_of(&fault))?;
    let block = Aligned([0x5a; BLOCK]);
    for number in 0..BLOCKS {
        file.write_all_at(&block.0, number * BLOCK as u64)
            .map_err(|fault| errno_of(&fault))?;
    }
    Ok((file, BLOCKS))
}
