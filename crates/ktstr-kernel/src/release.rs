//! The release name of a kernel that has not been booted, out of its image.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What a boot image's set-up part begins its header with (Documentation/arch/x86/boot.rst).
const MAGIC: &[u8; 4] = b"HdrS";
const MAGIC_AT: usize = 0x202;
/// Where the header says at which place, counted from 0x200, the release name lies.
const VERSION_AT: usize = 0x20e;
/// Longest name that is read.
const MAX_NAME: usize = 256;

/// `uname -r` of a boot image; `None` when the file is none, or tells nothing.
pub(crate) fn release_of(image: &Path) -> Option<String> {
    let mut file = File::open(image).ok()?;
    let mut head = [0; 0x210];
    file.read_exact(&mut head).ok()?;
    if head.get(MAGIC_AT..MAGIC_AT + MAGIC.len())? != MAGIC {
        return None;
    }
    let at = u16::from_le_bytes(head.get(VERSION_AT..VERSION_AT + 2)?.try_into().ok()?);
    if at == 0 {
        return None;
    }
    file.seek(SeekFrom::Start(u64::from(at) + 0x200)).ok()?;
    let mut name = Vec::new();
    file.take(MAX_NAME as u64).read_to_end(&mut name).ok()?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(name.get(..end)?).ok()?;
    let release = text.split_ascii_whitespace().next()?;
    Some(release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_image_tells_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bzImage");
        let mut image = vec![0; 0x1000];
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        image[VERSION_AT..VERSION_AT + 2].copy_from_slice(&0x400u16.to_le_bytes());
        let name = b"6.12.117-mine (me@here) #1 SMP\0";
        image[0x600..0x600 + name.len()].copy_from_slice(name);
        std::fs::write(&path, &image).unwrap();
        assert_eq!(release_of(&path).as_deref(), Some("6.12.117-mine"));
        image[VERSION_AT..VERSION_AT + 2].fill(0);
        std::fs::write(&path, &image).unwrap();
        assert_eq!(release_of(&path), None);
        std::fs::write(&path, b"\x7fELF").unwrap();
        assert_eq!(release_of(&path), None);
    }
}
