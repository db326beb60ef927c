//! Pins a BPF map by its name, with nothing but `bpf(2)`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::model::snapshot::{MapNameError, find_map};

/// Commands of `bpf(2)`, `include/uapi/linux/bpf.h`.
const BPF_OBJ_PIN: i32 = 6;
const BPF_MAP_GET_NEXT_ID: i32 = 12;
const BPF_MAP_GET_FD_BY_ID: i32 = 14;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
/// Where the name is in `struct bpf_map_info`, and its length with the terminating zero.
const NAME_OFFSET: usize = 24;
const NAME_LEN: usize = 16;

/// Why a map was not pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// No map has this name, or several have.
    #[error(transparent)]
    Name(#[from] MapNameError),
    /// The kernel refused.
    #[error("failed to pin BPF map {map:?} at {path} (is a BPF file system mounted there?)")]
    Refused {
        /// The map.
        map: String,
        /// The path.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The beginning of `union bpf_attr`, large enough for the commands above.
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct Attr([u8; 32]);

impl Attr {
    fn with(parts: &[(usize, &[u8])]) -> Self {
        let mut attr = Self::default();
        for (offset, bytes) in parts {
            attr.0[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        attr
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[offset..offset + 4]);
        u32::from_ne_bytes(bytes)
    }
}

fn bpf(command: i32, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: `attr` is a valid attribute of the given size for the call; what it points to lives in the caller's frame.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr.0, attr.0.len()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(done).unwrap_or(i32::MAX))
}

/// Pins the map called `map` at `path`.
///
/// # Errors
/// When there is no such map, or the kernel refuses.
pub(super) fn pin_map(map: &str, path: &str) -> Result<(), PinError> {
    let refused = |source| PinError::Refused {
        map: map.to_owned(),
        path: path.to_owned(),
        source,
    };
    // Ids grow: these are in the order of their making.
    let mut maps = Vec::new();
    let mut id = 0;
    while let Some(next) = next_id(id).map_err(refused)? {
        id = next;
        // A map that has just gone is none.
        if let Ok((_, name)) = open(id) {
            maps.push((id, name));
        }
    }
    let (id, _) = find_map(&maps, |(_, name)| name.as_str(), map)?;
    let (fd, _) = open(*id).map_err(refused)?;
    pin(&fd, path).map_err(refused)
}

fn next_id(id: u32) -> io::Result<Option<u32>> {
    let mut attr = Attr::with(&[(0, &id.to_ne_bytes())]);
    match bpf(BPF_MAP_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr.u32_at(4))),
        Err(fault) if fault.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn open(id: u32) -> io::Result<(OwnedFd, String)> {
    let mut attr = Attr::with(&[(0, &id.to_ne_bytes())]);
    let fd = bpf(BPF_MAP_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = [0u8; 64];
    let mut attr = Attr::with(&[
        (0, &fd.as_raw_fd().to_ne_bytes()),
        (4, &64u32.to_ne_bytes()),
        (8, &(info.as_mut_ptr() as u64).to_ne_bytes()),
    ]);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let name = &info[NAME_OFFSET..NAME_OFFSET + NAME_LEN];
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((fd, String::from_utf8_lossy(name).into_owned()))
}

fn pin(fd: &OwnedFd, path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    let mut attr = Attr::with(&[
        (0, &(path.as_ptr() as u64).to_ne_bytes()),
        (8, &fd.as_raw_fd().to_ne_bytes()),
    ]);
    bpf(BPF_OBJ_PIN, &mut attr).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_map_is_refused_with_a_reason() {
        let error = pin_map("ktstr_no_such_map", "/nowhere").unwrap_err();
        let text = error.to_string();
        // Without the right to ask, the kernel refuses before.
        assert!(text.contains("ktstr_no_such_map"), "{text}");
    }
}
