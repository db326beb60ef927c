//! KVM's own statistics of a vCPU, by the binary statistics file (Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).
//!
//! ```text
//!   header: flags, name_size, num_desc, id_offset, desc_offset, data_offset   (u32 each)
//!   descriptor: flags u32, exponent s16, size u16, offset u32, bucket_size u32, name[name_size]
//!   data: size u64 words at data_offset + offset
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More than any KVM has.
const MAX_DESCRIPTORS: u32 = 4096;
const MAX_NAME: u32 = 256;

/// The statistics file of one vCPU.
#[derive(Debug)]
pub(super) struct Stats(File);

impl Stats {
    /// Opens the file of `vcpu`; an error on kernels before 5.14.
    pub(super) fn open(vcpu: &impl AsRawFd) -> io::Result<Self> {
        // SAFETY: the ioctl takes no argument and gives a new descriptor or an error.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the ioctl has just given this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(File::from(fd)))
    }

    /// Every statistic that is a single number, by name.
    pub(super) fn read(&self) -> io::Result<HashMap<String, u64>> {
        parse(&|offset, len| {
            let mut bytes = vec![0; len];
            self.0.read_exact_at(&mut bytes, u64::from(offset))?;
            Ok(bytes)
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// `read` gives so many bytes at an offset of the file.
fn parse(read: &dyn Fn(u32, usize) -> io::Result<Vec<u8>>) -> io::Result<HashMap<String, u64>> {
    let odd = |what: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("KVM's statistics have {what}"),
        )
    };
    let header = read(0, HEADER)?;
    let field = |at| word(&header, at).ok_or_else(|| odd("a short header"));
    let (name_size, count) = (field(4)?, field(8)?);
    let (descriptors_at, data_at) = (field(16)?, field(20)?);
    if count > MAX_DESCRIPTORS || name_size > MAX_NAME {
        return Err(odd("an absurd header"));
    }
    let name_len = usize::try_from(name_size).map_err(io::Error::other)?;
    let stride = DESCRIPTOR + name_len;
    let table = read(
        descriptors_at,
        stride * usize::try_from(count).map_err(io::Error::other)?,
    )?;
    let mut stats = HashMap::new();
    for descriptor in table.chunks_exact(stride) {
        let (Some(second), Some(offset)) = (word(descriptor, 4), word(descriptor, 8)) else {
            continue;
        };
        // Histograms have more words than one.
        if second >> 16 != 1 {
            continue;
        }
        let name = descriptor.get(DESCRIPTOR..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let at = data_at
            .checked_add(offset)
            .ok_or_else(|| odd("an absurd offset"))?;
        let value = <[u8; 8]>::try_from(read(at, 8)?).map_err(|_| odd("a short value"))?;
        stats.insert(
            String::from_utf8_lossy(name).into_owned(),
            u64::from_le_bytes(value),
        );
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        for field in [0u32, 16, 2, 24, 24, 24 + 2 * 32] {
            file.extend(field.to_le_bytes());
        }
        for (name, size, offset) in [("exits", 1u16, 0u32), ("histogram", 4, 8)] {
            file.extend(0u32.to_le_bytes());
            file.extend(0u16.to_le_bytes());
            file.extend(size.to_le_bytes());
            file.extend(offset.to_le_bytes());
            file.extend(0u32.to_le_bytes());
            let mut padded = name.as_bytes().to_vec();
            padded.resize(16, 0);
            file.extend(padded);
        }
        for value in [77u64, 1, 2, 3, 4] {
            file.extend(value.to_le_bytes());
        }
        file
    }

    fn parse_bytes(file: &[u8]) -> io::Result<HashMap<String, u64>> {
        parse(&|offset, len| {
            let at = usize::try_from(offset).unwrap();
            file.get(at..at.saturating_add(len))
                .map(<[u8]>::to_vec)
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
    }

    #[test]
    fn single_numbers_are_read_by_name() {
        let stats = parse_bytes(&file()).unwrap();
        assert_eq!(stats, HashMap::from([(String::from("exits"), 77)]));
    }

    proptest! {
        #[test]
        fn damaged_files_are_survived(at in 0usize..120, value in any::<u8>(), len in 0usize..130) {
            let mut file = file();
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
            file.truncate(len);
            let _ = parse_bytes(&file);
        }
    }
}
