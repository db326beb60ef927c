//! `/etc/ld.so.cache` (glibc `sysdeps/generic/dl-cache.h`: `struct cache_file_new`).

use std::collections::HashMap;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// magic and version (20), nlibs (4), len_strings (4), flags and padding (4), extension offset (4), unused (12).
const HEADER_LEN: usize = 48;
/// flags (4), key (4), value (4), osversion (4), hwcap (8).
const ENTRY_LEN: usize = 24;
/// FLAG_X8664_LIB64 | FLAG_ELF_LIBC6.
const X86_64_LIBC6: u32 = 0x0303;

/// Library names to paths.
#[derive(Debug, Default)]
pub(super) struct LdCache(HashMap<String, String>);

impl LdCache {
    /// This system's cache; empty where there is none.
    pub(super) fn system() -> Self {
        std::fs::read("/etc/ld.so.cache")
            .ok()
            .and_then(|bytes| Self::parse(&bytes))
            .unwrap_or_default()
    }

    pub(super) fn lookup(&self, library: &str) -> Option<&str> {
        self.0.get(library).map(String::as_str)
    }

    /// `None` for another format; entries that point outside of the file are left out.
    fn parse(bytes: &[u8]) -> Option<Self> {
        // An old-format table may come first; its new-format part then begins at an aligned offset behind it.
        let start = bytes
            .windows(MAGIC.len())
            .position(|window| window == MAGIC)?;
        let file = bytes.get(start..)?;
        let count = usize::try_from(word(file, 20)?).ok()?;
        let mut found = HashMap::new();
        for index in 0..count {
            let Some(entry) = file
                .get(HEADER_LEN + index * ENTRY_LEN..)
                .and_then(|rest| rest.get(..ENTRY_LEN))
            else {
                break;
            };
            let (flags, hwcap) = (word(entry, 0)?, (word(entry, 16)?, word(entry, 20)?));
            // Entries for special hardware come first; a guest's CPU may lack it.
            if flags != X86_64_LIBC6 || hwcap != (0, 0) {
                continue;
            }
            if let (Some(name), Some(path)) =
                (string(file, word(entry, 4)?), string(file, word(entry, 8)?))
            {
                found.entry(name).or_insert(path);
            }
        }
        Some(Self(found))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn string(file: &[u8], at: u32) -> Option<String> {
    let tail = file.get(usize::try_from(at).ok()?..)?;
    let end = tail.iter().position(|byte| *byte == 0)?;
    String::from_utf8(tail.get(..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_systems_cache_knows_libc() {
        let path = LdCache::system()
            .lookup("libc.so.6")
            .expect("a Debian system has libc in its cache")
            .to_owned();
        assert!(std::path::Path::new(&path).is_file(), "{path}");
    }

    proptest! {
        #[test]
        fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = LdCache::parse(&bytes);
            let mut file = MAGIC.to_vec();
            file.append(&mut bytes);
            let _ = LdCache::parse(&file);
        }
    }
}
