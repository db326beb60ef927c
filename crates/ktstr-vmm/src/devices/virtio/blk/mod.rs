//! Virtio-blk (virtio 1.2 §5.2): a raw file or memory as a disk, with a throttle.
//!
//! One request at a time on the device's own thread. A request that the throttle does not let through stays at the front of
//! the queue and is tried again when its tokens are there; the guest sees no error. The status byte is written before the
//! used ring. Flush is fdatasync; on a read-only disk it does nothing and succeeds.

mod config;
mod counters;
mod request;
#[cfg(test)]
mod tests;
mod throttle;

pub use config::{Disk, DiskSource, Throttle};
pub use counters::BlkCounters;
pub(crate) use counters::Counters;
pub use request::SERIAL as DISK_SERIAL;

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use self::request::{Request, Status};
use self::throttle::Throttler;
use super::{Device, Popped, Rings, read_space};

const DEVICE_TYPE: u32 = 2;
pub(crate) const QUEUE_SIZE: u16 = 256;
const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const SECTOR: u64 = 512;
const SIZE_MAX: u32 = 1 << 20;
const SEG_MAX: u32 = 128;
/// Requests served before the worker looks up.
const BUDGET: usize = 64;
/// Bytes moved before it does; a flush, which may take the host's disk any time, counts as all of them.
const BYTES: u64 = 8 << 20;

/// The device.
#[derive(Debug)]
pub(crate) struct Block {
    file: File,
    sectors: u64,
    read_only: bool,
    throttle: Throttler,
    counters: Arc<Counters>,
    /// When the request at the front may be tried again.
    stalled_until: Option<Instant>,
    /// What tokens are counted by.
    clock: fn() -> Instant,
}

impl Block {
    /// Opens the disk's file, or makes its memory.
    pub(crate) fn new(disk: &Disk, counters: Arc<Counters>) -> io::Result<Self> {
        let mut file = disk.open()?;
        // A block device's metadata has no length.
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR;
        if sectors == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is shorter than a sector of 512 bytes",
            ));
        }
        Ok(Self {
            file,
            sectors,
            read_only: disk.read_only,
            throttle: Throttler::new(disk.throttle, Instant::now()),
            counters,
            stalled_until: None,
            clock: Instant::now,
        })
    }

    fn serve(&mut self, queue: usize, rings: &mut Rings) {
        self.stalled_until = None;
        rings.quiet(queue);
        let (mut turns, mut bytes) = (0, 0u64);
        loop {
            turns += 1;
            if turns > BUDGET || bytes >= BYTES {
                rings.again(queue);
                break;
            }
            match rings.pop(queue) {
                Popped::Empty if rings.listen(queue) => {}
                Popped::Empty => break,
                Popped::Poisoned => {
                    Counters::add(&self.counters.invalid_avail_idx_count, 1);
                    break;
                }
                Popped::Bad(head) => {
                    Counters::add(&self.counters.io_errors, 1);
                    self.finish(queue, rings, head, 0);
                }
                Popped::Chain(chain) => {
                    let request = Request::decode(rings, &chain);
                    if let Some(until) = self.throttle.take(request.cost(), (self.clock)()) {
                        rings.unpop(queue);
                        self.stall(until);
                        break;
                    }
                    let (status, len) = self.execute(&request, rings);
                    let written = request.write_status(rings, status, len);
                    if status == Status::IoError {
                        Counters::add(&self.counters.io_errors, 1);
                    }
                    self.finish(queue, rings, chain.head, written);
                    bytes = bytes.saturating_add(match &request {
                        Request::Flush { .. } => BYTES,
                        moved => moved.cost(),
                    });
                }
            }
        }
        let stalled = self.stalled_until.is_some();
        self.counters
            .currently_throttled_gauge
            .store(u64::from(stalled), Ordering::Relaxed);
        rings.signal(queue);
    }

    fn stall(&mut self, until: Instant) {
        self.stalled_until = Some(until);
        Counters::add(&self.counters.throttled_count, 1);
    }

    fn finish(&self, queue: usize, rings: &mut Rings, head: u16, written: u32) {
        if rings.push(queue, head, written).is_err() {
            Counters::add(&self.counters.io_errors, 1);
        }
    }

    /// Does what the request asks; gives the status and the data bytes written to the guest.
    fn execute(&mut self, request: &Request, rings: &Rings) -> (Status, u32) {
        let counters = Arc::clone(&self.counters);
        let done = match request {
            Request::Read(transfer) if transfer.fits(self.sectors) => {
                transfer.read(&mut self.file, rings).inspect(|len| {
                    Counters::add(&counters.reads_completed, 1);
                    Counters::add(&counters.bytes_read, u64::from(*len));
                })
            }
            Request::Write(transfer) if transfer.fits(self.sectors) && !self.read_only => {
                transfer.write(&mut self.file, rings).map(|len| {
                    Counters::add(&counters.writes_completed, 1);
                    Counters::add(&counters.bytes_written, u64::from(len));
                    0
                })
            }
            Request::Flush { .. } => self.flush().map(|()| {
                Counters::add(&counters.flushes_completed, 1);
                0
            }),
            Request::Id(transfer) => return (Status::Ok, transfer.write_id(rings)),
            Request::Unknown { .. } => return (Status::Unsupported, 0),
            Request::Read(_) | Request::Write(_) | Request::Malformed { .. } => {
                return (Status::IoError, 0);
            }
        };
        match done {
            Ok(len) => (Status::Ok, len),
            Err(error) => {
                tracing::debug!(%error, "a disk request failed");
                (Status::IoError, 0)
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data()
    }
}

impl Device for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let read_only = if self.read_only { F_RO } else { 0 };
        F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | read_only
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    /// Capacity, size_max, seg_max, geometry, blk_size (§5.2.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = self.sectors.to_le_bytes().to_vec();
        space.extend(SIZE_MAX.to_le_bytes());
        space.extend(SEG_MAX.to_le_bytes());
        space.extend([0; 4]);
        space.extend(512u32.to_le_bytes());
        read_space(&space, offset, data);
    }

    fn process(&mut self, queue: usize, rings: &mut Rings) {
        // While a request waits for tokens, a kick brings nothing new to the front.
        let waits = self
            .stalled_until
            .is_some_and(|until| until > (self.clock)());
        if queue == 0 && !waits {
            self.serve(queue, rings);
        }
    }

    fn reset(&mut self) {
        self.stalled_until = None;
        self.counters
            .currently_throttled_gauge
            .store(0, Ordering::Relaxed);
    }

    fn next_timer(&self) -> Option<Instant> {
        self.stalled_until
    }

    fn timer(&mut self, rings: &mut Rings) {
        self.serve(0, rings);
    }
}
