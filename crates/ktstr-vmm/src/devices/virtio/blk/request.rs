//! A disk request out of a descriptor chain (virtio 1.2 §5.2.6).

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};

use vm_memory::{Bytes as _, GuestAddress};

use super::{SECTOR, SEG_MAX, SIZE_MAX};
use crate::devices::virtio::{Chain, Rings, Segment};

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
/// Type, reserved, sector.
const HEADER: u64 = 16;
/// What a disk calls itself (GET_ID, padded with zeros to 20 bytes): a guest finds it in `/sys/block/*/serial`.
pub const SERIAL: &str = "ktstr";

/// The status that the guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Data of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    sector: u64,
    data: Vec<Segment>,
    status: Option<GuestAddress>,
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read(Transfer),
    Write(Transfer),
    Flush {
        status: Option<GuestAddress>,
    },
    Id(Transfer),
    Unknown {
        status: Option<GuestAddress>,
    },
    /// Without a header.
    Malformed {
        status: Option<GuestAddress>,
    },
}

impl Request {
    /// Reads the header once; the data stays where it is.
    pub(super) fn decode(rings: &Rings, chain: &Chain) -> Self {
        let (writable, status) = split_status(&chain.writable);
        let header = rings.read(chain, 16);
        let Ok(header) = <[u8; 16]>::try_from(header) else {
            return Self::Malformed { status };
        };
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let transfer = |data| Transfer {
            sector: u64::from_le_bytes(sector),
            data,
            status,
        };
        match u32::from_le_bytes([a, b, c, d]) {
            T_IN => Self::Read(transfer(writable)),
            T_OUT => Self::Write(transfer(skip(&chain.readable, HEADER))),
            T_FLUSH => Self::Flush { status },
            T_GET_ID => Self::Id(transfer(writable)),
            _ => Self::Unknown { status },
        }
    }

    /// Data bytes, which the throttle counts.
    pub(super) fn cost(&self) -> u64 {
        match self {
            Self::Read(transfer) | Self::Write(transfer) => transfer.len(),
            _ => 0,
        }
    }

    /// Writes the status byte, if there is room for one; gives all bytes written to the guest.
    pub(super) fn write_status(&self, rings: &Rings, status: Status, data: u32) -> u32 {
        let at = match self {
            Self::Read(transfer) | Self::Write(transfer) | Self::Id(transfer) => transfer.status,
            Self::Flush { status } | Self::Unknown { status } | Self::Malformed { status } => {
                *status
            }
        };
        let Some(at) = at else { return data };
        // Checked when the chain was popped, and memory never shrinks.
        let _ = rings.memory().write_slice(&[status as u8], at);
        data.saturating_add(1)
    }
}

/// A transfer at the disk's begin.
#[cfg(test)]
pub(super) fn of_segments(data: Vec<Segment>) -> Transfer {
    Transfer {
        sector: 0,
        data,
        status: Some(GuestAddress(0)),
    }
}

/// The last writable byte is the status.
fn split_status(writable: &[Segment]) -> (Vec<Segment>, Option<GuestAddress>) {
    let mut data: Vec<Segment> = writable.iter().filter(|s| s.len > 0).copied().collect();
    let Some(last) = data.last_mut() else {
        return (data, None);
    };
    last.len -= 1;
    let status = last
        .gpa
        .0
        .checked_add(u64::from(last.len))
        .map(GuestAddress);
    if last.len == 0 {
        data.pop();
    }
    (data, status)
}

/// All but the first `count` bytes.
fn skip(segments: &[Segment], count: u64) -> Vec<Segment> {
    let mut left = u32::try_from(count).unwrap_or(u32::MAX);
    let mut rest = Vec::new();
    for segment in segments {
        let gone = left.min(segment.len);
        left -= gone;
        let gpa = GuestAddress(segment.gpa.0.saturating_add(u64::from(gone)));
        let len = segment.len - gone;
        if len > 0 {
            rest.push(Segment { gpa, len });
        }
    }
    rest
}

impl Transfer {
    fn len(&self) -> u64 {
        self.data.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// Whole sectors inside the disk, there is a place for the status, and there are no more and no larger segments than told.
    pub(super) fn fits(&self, sectors: u64) -> bool {
        let len = self.len();
        let end = self.sector.checked_add(len / SECTOR);
        len > 0
            && len.is_multiple_of(SECTOR)
            && end.is_some_and(|end| end <= sectors)
            && self.status.is_some()
            && u32::try_from(self.data.len()).is_ok_and(|count| count <= SEG_MAX)
            && self.data.iter().all(|segment| segment.len <= SIZE_MAX)
    }

    fn start(&self) -> SeekFrom {
        // `fits` has bounded the sector by the file's length.
        SeekFrom::Start(self.sector.saturating_mul(SECTOR))
    }

    /// From the disk to the guest.
    pub(super) fn read(&self, file: &mut File, rings: &Rings) -> io::Result<u32> {
        file.seek(self.start())?;
        self.each(|segment, len| {
            rings
                .memory()
                .read_exact_volatile_from(segment.gpa, file, len)
                .map_err(io::Error::other)
        })
    }

    /// From the guest to the disk.
    pub(super) fn write(&self, file: &mut File, rings: &Rings) -> io::Result<u32> {
        file.seek(self.start())?;
        self.each(|segment, len| {
            rings
                .memory()
                .write_all_volatile_to(segment.gpa, file, len)
                .map_err(io::Error::other)
        })
    }

    fn each(&self, mut step: impl FnMut(&Segment, usize) -> io::Result<()>) -> io::Result<u32> {
        let mut done = 0u32;
        for segment in &self.data {
            let len = usize::try_from(segment.len).map_err(io::Error::other)?;
            step(segment, len)?;
            done = done.saturating_add(segment.len);
        }
        Ok(done)
    }

    /// The disk's name; gives the bytes written.
    pub(super) fn write_id(&self, rings: &Rings) -> u32 {
        let chain = Chain {
            writable: self.data.clone(),
            ..Chain::default()
        };
        let mut id = [0; 20];
        for (slot, byte) in id.iter_mut().zip(SERIAL.bytes()) {
            *slot = byte;
        }
        rings.write(&chain, &id)
    }
}
